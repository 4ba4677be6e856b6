# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The room `jobs` against a simulated host: whole jobs, jobs that are cut at every step, and sources that move."""

from __future__ import annotations

import os
import posixpath
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    backup,
    ending,
    planning,
    record,
    recover,
    restore,
    restoring,
    runlife,
    undo,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    ConfigNotCopied,
    LockLost,
    NotReadable,
    NotStill,
    RestoreRefused,
    VmChanged,
    VmLocked,
)
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session

from .conftest import Lab

NAME, HOST = "plain80", "esx80"
POINT = "/vmfs/volumes/backup/jobs"


def quick(seconds: float = 90.0) -> Waiter:
    return Waiter(seconds, interval_seconds=0.2, max_interval_seconds=1.0)


class Story:
    """One VM's job on the lab's host, step by step, as the role tells it."""

    def __init__(self, lab: Lab, host: Host, state: Path, run_id: str, how: str = "hot", **policy: Any) -> None:
        self.lab = lab
        self.host = host
        self.state = str(state)
        wishes = {"point": POINT, "select": [NAME], "how": how, **policy}
        plan = planning.plan_backup(host, wishes, run_id, HOST, {}).as_dict()
        (self.entry,) = plan["vms"]
        assert self.entry["problems"] == []
        self.context = Context(host, self.entry, run_id, self.state, HOST, "tests")
        self.job: Any = None

    @property
    def vm(self) -> VirtualMachine:
        return self.host.find_vm(name=NAME)

    @property
    def log(self) -> IntentLog:
        return IntentLog(self.host.session, self.context.folder)

    def start(self) -> None:
        self.job, new = backup.start(self.context)
        assert new

    def stop(self) -> None:
        self.vm.shutdown_guest(quick(), self.log)

    def snap(self) -> None:
        self.vm.create_snapshot(self.job.snapshot_name, waiter=quick(), journal=self.log)

    def bracket(self) -> None:
        if self.job.stop:
            self.stop()
        if self.job.snapshot:
            self.snap()
        if self.job.restart:
            self.vm.power_on(quick(), self.log)
        if self.job.how == "cold" and self.job.stop:
            backup.freeze(self.context)

    def copy(self) -> None:
        """The host's own clone of what stands still."""
        for disk in self.job.disks:
            dest = posixpath.join(self.job.partial, disk["key"].replace(":", "-") + ".vmdk")
            self.host.run("vmkfstools", "-i", disk["source"], "-d", "thin", dest, timeout_seconds=300)

    def commit(self) -> Mapping[str, Any]:
        return backup.commit(self.context, [])[0]

    def end(self, outcome: str = "ok", error: Any = None) -> ending.Ended:
        return ending.end(self.context, outcome, error)

    def whole(self) -> ending.Ended:
        self.start()
        self.bracket()
        self.copy()
        self.commit()
        return self.end()

    def cut(self, seconds: int = 1000) -> None:
        """As if the controller had died that long ago: the lease is that old."""
        lease = self.outside(self.context.folder) / "lease"
        then = time.time() - seconds
        os.utime(lease, (then, then))

    def outside(self, path: str) -> Path:
        store = self.host.datastore(path)
        return (
            self.lab.folder
            / "volumes"
            / posixpath.basename(store.path)
            / self.host.resolve(path)[len(store.path) + 1 :]
        )


@pytest.fixture
def host(clean_lab: Lab) -> Iterator[Host]:
    machine = clean_lab.host(HOST)
    endpoint = Endpoint(
        host=machine.address,
        port=machine.port,
        private_key_file=str(clean_lab.key),
        known_hosts_file=str(clean_lab.known_hosts),
    )
    with open_session(endpoint) as session:
        yield Host(session, retry_seconds=0.2)


@pytest.fixture
def before(host: Host) -> Iterator[Callable[[], tuple[Any, ...]]]:
    """What must be the same after every test, whatever happened in it; and nothing of ours is left."""

    def look() -> tuple[Any, ...]:
        vm = host.find_vm(name=NAME)
        files = host.run("ls", "-A", vm.directory).split("\n")
        lasting = sorted(name for name in files if not name.endswith((".log", ".vswp", ".lck", ".hlog")))
        return vm.power_state(), tuple((one.id, one.name) for one in vm.snapshots()), tuple(lasting)

    was = look()
    yield look
    assert look() == was
    partials = host.session.script('ls -d "$1"/*/.partial-* "$1"/*/.removing-* 2>/dev/null', [POINT]).stdout
    assert partials == ""
    assert [line for line in host.run("ps", "-c").split("\n") if "vmkfstools" in line] == []


@pytest.fixture
def story(clean_lab: Lab, host: Host, tmp_path: Path, before: Any, request: Any) -> Callable[..., Story]:
    number = iter(range(100))

    def make(how: str = "hot", **policy: Any) -> Story:
        # Restore points have names of one second.
        time.sleep(1.1)
        run = f"{abs(hash(request.node.name)) % 10**8:08d}-{next(number)}"
        return Story(clean_lab, host, tmp_path, run, how, **policy)

    return make


def listed(host: Host) -> list[str]:
    return [point.path for point in points.list_points(host, POINT)[0]]


@pytest.mark.parametrize("how", ["hot", "warm", "cold"])
def test_a_whole_job_makes_one_restore_point_and_leaves_the_machine_as_it_was(story: Any, how: str) -> None:
    job = story(how)
    known = listed(job.host)
    ended = job.whole()
    assert (ended.error, ended.entry["status"]) == (None, "ok")
    assert ended.entry["restore_point"] == job.job.final
    assert set(listed(job.host)) - set(known) == {job.job.final}
    assert (ended.entry["downtime_seconds"] is not None) is (how != "hot")
    assert not os.listdir(os.path.join(job.state, "jobs"))
    again = job.end()
    assert (again.changed, again.entry["status"]) == (False, "ok")


def test_steps_that_are_repeated_change_nothing(story: Any) -> None:
    job = story()
    job.start()
    assert backup.start(job.context) == (job.job, False)
    job.bracket()
    job.copy()
    first = job.commit()
    assert backup.commit(job.context, []) == (first, False)
    assert job.end().entry["status"] == "ok"


def test_a_living_job_keeps_others_away_and_they_touch_nothing(story: Any) -> None:
    first, second = story(), story()
    first.start()
    with pytest.raises(VmLocked) as caught:
        second.start()
    assert first.job.job in caught.value.message
    refused = second.end("failed", caught.value.as_dict())
    assert (refused.entry["status"], refused.entry["error"]["id"]) == ("failed", "vm-locked")
    assert recover.recover_host(first.host, HOST, first.state, 0.1, 60)[0].outcome == "live"
    assert first.end("failed", "given up").error is None


def test_a_silent_job_whose_run_goes_on_is_taken_over_by_nobody_until_the_run_is_silent_too(story: Any) -> None:
    waiting, other = story(), story()
    waiting.start()
    waiting.cut()
    runlife.RunLife(waiting.state, waiting.context.run_id).beat()
    for check in (True, False):
        assert recover.recover_host(waiting.host, HOST, waiting.state, 0.1, 60, check)[0].outcome == "live"
    with pytest.raises(VmLocked):
        other.start()
    backup.must_hold(waiting.context)
    waiting.cut()
    then = time.time() - waiting.job.lease_seconds - 1
    os.utime(runlife.sign_path(waiting.state, waiting.context.run_id), (then, then))
    assert recover.recover_host(waiting.host, HOST, waiting.state, 0.1, 60)[0].outcome == "recovered"


def slept(job: Any, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> list[float]:
    """The pauses of the one that looks; in each of them something happens, and no time is lost."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        if seconds >= 20:
            pauses.append(seconds)
            meanwhile()
        else:
            time.sleep(seconds)

    monkeypatch.setattr(job.host.clock, "sleep", sleep)
    return pauses


def test_a_dead_job_whose_hosts_clock_was_put_back_is_recovered_after_its_lease(
    story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = story()
    job.start()
    job.snap()
    job.cut(-100000)
    pauses = slept(job, monkeypatch, lambda: None)
    assert recover.recover_host(job.host, HOST, job.state, 20, 120)[0].outcome == "recovered"
    assert pauses == [job.job.lease_seconds + 1]


@pytest.mark.parametrize("ahead", [-100000, 1000])
def test_a_living_job_is_known_by_its_beat_wherever_the_clocks_stand(
    story: Any, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    job = story()
    job.start()
    # Another backup server's: nothing but its lease tells of it here.
    lock.write_job(job.host.session, job.context.folder, replace(job.job, backup_server="elsewhere"))
    job.cut(ahead)
    pauses = slept(job, monkeypatch, job.log.beat)
    assert recover.recover_host(job.host, HOST, job.state, 20, 120)[0].outcome == "live"
    assert len(pauses) == 1
    assert job.end("failed", "given up").error is None


@pytest.mark.parametrize("foreign", [False, True])
def test_a_first_backup_that_fails_leaves_no_folder_but_one_that_somebody_uses(story: Any, foreign: bool) -> None:
    job = story(point=f"{POINT}/first{foreign}")
    job.start()
    folder = posixpath.dirname(job.job.partial)
    if foreign:
        job.host.run("touch", f"{folder}/by hand")
    assert job.end("failed", "given up").error is None
    assert job.host.session.run(["test", "-d", folder]).rc == (0 if foreign else 1)
    # A folder that was there before the job stays, empty or not.
    job.host.run("mkdir", "-p", folder)
    other = story(point=f"{POINT}/first{foreign}")
    other.start()
    assert other.end("failed", "given up").error is None
    assert job.host.session.run(["test", "-d", folder]).rc == 0


def test_a_dead_job_is_undone_by_the_next_one(story: Any) -> None:
    dead = story()
    dead.start()
    dead.snap()
    dead.cut()
    assert story().whole().entry["status"] == "ok"
    entry = record.read_entry(dead.state, dead.context.run_id, HOST, dead.entry["identity"])
    assert entry is not None and entry["status"] == "interrupted"
    with pytest.raises(LockLost):
        dead.commit()


CUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "after the lock": ("hot", ()),
    "after the snapshot": ("hot", ("snap",)),
    "after the copy": ("hot", ("snap", "copy")),
    "while it is off": ("cold", ("stop",)),
    "cold after the copy": ("cold", ("stop", "copy")),
    "warm while it is off": ("warm", ("stop", "snap")),
    "warm after the copy": ("warm", ("bracket", "copy")),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_job_that_is_cut_anywhere_is_recovered_to_what_was(story: Any, cut: str) -> None:
    how, steps = CUTS[cut]
    job = story(how)
    known = listed(job.host)
    job.start()
    for step in steps:
        getattr(job, step)()
    job.cut()
    preview = recover.recover_host(job.host, HOST, job.state, 0.1, 120, check=True)
    assert [one.outcome for one in preview] == ["recovered"]
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    assert (found.outcome, found.error) == ("recovered", None)
    assert len(found.done) == len(preview[0].done)
    assert listed(job.host) == known
    assert recover.recover_host(job.host, HOST, job.state, 0.1, 120) == []


def test_a_job_that_was_cut_after_the_commit_keeps_its_restore_point(story: Any) -> None:
    job = story()
    job.start()
    job.bracket()
    job.copy()
    job.commit()
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    assert found.outcome == "recovered" and job.job.final in listed(job.host)
    entry = record.read_entry(job.state, job.context.run_id, HOST, job.entry["identity"])
    assert entry is not None and (entry["status"], entry["restore_point"]) == ("interrupted", job.job.final)


@pytest.mark.parametrize("how", ["cold", "hot"])
def test_a_full_datastore_keeps_no_snapshot_open_and_no_machine_off(story: Any, how: str) -> None:
    """The moment when our snapshot must go is the one when nothing can be written down any more."""
    job = story(how)
    job.start()
    job.bracket()
    journal = job.outside(job.log.path)
    # A file system has room left in the last block of a file: here there is none.
    journal.write_bytes(journal.read_bytes().ljust(-(-journal.stat().st_size // 4096) * 4096, b"\n"))
    machine = job.lab.host(HOST)
    machine.fault("datastore_full", datastore=job.host.datastore(job.job.vmx_path).name, leave=0)
    try:
        ended = job.end("failed", "given up")
    finally:
        machine.clear()
        question = job.vm.question()
        if question is not None:
            retry = next(number for number, label in question.choices if "retry" in label.lower())
            job.host.vim("vmsvc/message", str(job.vm.vmid), question.id, str(retry))
    assert (ended.error, ended.entry["status"]) == (None, "failed")


@pytest.mark.parametrize("by", ["the run itself", "recover"])
def test_a_commit_whose_answer_was_lost_is_told_as_what_it_is(
    story: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    job = story()
    job.start()
    job.bracket()
    job.copy()
    note = IntentLog.note

    def lost(log: IntentLog, event: str, **data: Any) -> None:
        if event == "commit-done":
            raise ConnectionLost(host=HOST, port=22, command="sh", reason="reset")
        note(log, event, **data)

    monkeypatch.setattr(IntentLog, "note", lost)
    with pytest.raises(ConnectionLost):
        job.commit()
    monkeypatch.undo()
    if by == "recover":
        job.cut()
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
        assert found.outcome == "recovered"
    else:
        assert job.end("failed", "the line was cut").error is None
    entry = record.read_entry(job.state, job.context.run_id, HOST, job.entry["identity"])
    assert entry is not None and (entry["status"] == "ok", entry["restore_point"]) == (False, job.job.final)
    assert job.job.final in listed(job.host)


def test_a_clone_that_runs_on_is_ended_before_the_snapshot_goes(story: Any) -> None:
    job = story()
    job.start()
    job.snap()
    job.lab.host(HOST).fault("slow_clone", rate=256 << 10)
    dest = posixpath.join(job.job.partial, "scsi0-0.vmdk")
    clone = subprocess.Popen(
        [*job.lab.host(HOST).ssh_argv(), f"vmkfstools -i '{job.job.disks[0]['source']}' -d thin '{dest}'"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        quick(30).until(lambda: "vmkfstools -i" in job.host.run("ps", "-c") or None, "the clone")
        job.cut()
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    finally:
        clone.kill()
        clone.wait()
    assert found.outcome == "recovered", found
    assert any("ended 1 remote" in step for step in found.done)


def test_a_machine_that_was_started_and_stopped_since_stays_off(story: Any, host: Host) -> None:
    job = story("cold")
    job.start()
    job.stop()
    job.vm.power_on(quick())
    job.vm.power_off(quick())
    job.cut()
    try:
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
        assert found.outcome == "recovered"
        assert job.vm.power_state() == "poweredOff"
        assert any("somebody else" in line for line in found.left)
    finally:
        job.vm.power_on(quick())


def test_a_machine_that_ran_during_a_cold_copy_gives_no_restore_point(story: Any) -> None:
    job = story("cold")
    known = listed(job.host)
    job.start()
    job.bracket()
    job.copy()
    job.vm.power_on(quick())
    with pytest.raises(NotStill) as caught:
        job.commit()
    assert job.end("failed", caught.value.as_dict()).entry["status"] == "failed"
    assert listed(job.host) == known


def test_a_cold_copy_without_a_look_before_it_gives_no_restore_point(story: Any) -> None:
    job = story("cold")
    job.start()
    job.stop()
    job.copy()
    with pytest.raises(NotStill):
        job.commit()
    assert job.end("failed").error is None


def test_a_snapshot_of_ours_that_somebody_removed_gives_no_restore_point(story: Any) -> None:
    job = story()
    known = listed(job.host)
    job.start()
    job.bracket()
    job.copy()
    (ours,) = job.vm.snapshots().named(job.job.snapshot_name)
    job.vm.remove_snapshot(ours.id, waiter=quick())
    with pytest.raises(NotStill) as caught:
        job.commit()
    assert "gone" in caught.value.message
    assert job.end("failed").error is None and listed(job.host) == known


def test_a_copy_that_lost_a_byte_gives_no_restore_point(story: Any) -> None:
    job = story()
    known = listed(job.host)
    job.start()
    job.bracket()
    job.copy()
    flat = job.outside(posixpath.join(job.job.partial, "scsi0-0-flat.vmdk"))
    os.truncate(flat, flat.stat().st_size - 1)
    with pytest.raises(NotReadable):
        job.commit()
    assert job.end("failed").error is None and listed(job.host) == known


def test_rotation_comes_after_a_success_and_never_after_a_failure(story: Any) -> None:
    first = story()
    assert first.whole().entry["status"] == "ok"
    failed = story(keep={"last": 1})
    failed.start()
    failed.end("failed", "on purpose")
    assert first.job.final in listed(first.host)
    last = story(keep={"last": 1})
    ended = last.whole()
    assert listed(last.host) == [last.job.final]
    assert first.job.final in [one["path"] for one in ended.rotation["removed"]]


def test_a_users_snapshot_of_the_same_time_survives(story: Any) -> None:
    job = story()
    job.start()
    job.snap()
    theirs = job.vm.create_snapshot("by hand", waiter=quick())
    try:
        assert job.end("failed").error is None
        assert [one.name for one in job.vm.snapshots()] == ["by hand"]
    finally:
        job.vm.remove_snapshot(theirs.id, waiter=quick())


def test_a_suspended_machine_is_copied_as_it_lies_and_stays_suspended(story: Any, host: Host) -> None:
    host.find_vm(name=NAME).suspend(quick())
    try:
        job = story("hot")
        assert (job.entry["effective_how"], job.entry["ready"]) == ("cold", True)
        assert job.whole().entry["status"] == "ok"
        assert (job.job.stop, job.job.snapshot) == (False, False)
        assert job.vm.power_state() == "suspended"
    finally:
        host.find_vm(name=NAME).power_on(quick())


def test_no_job_is_begun_whose_point_would_lack_the_configuration(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = story()
    copy_files = points.copy_files
    # The .vmx is replaced by its owner (written anew beside it, then renamed) at the moment when it is looked for.
    monkeypatch.setattr(
        points, "copy_files", lambda s, vm, files, dest: copy_files(s, vm, [f"{files[0]}~", *files[1:]], dest)
    )
    with pytest.raises(ConfigNotCopied):
        job.start()
    assert job.end("failed", "given up").error is None


def test_a_machine_that_was_registered_anew_since_the_plan_is_known_by_its_new_number(story: Any, host: Host) -> None:
    """Every later step goes by the number: the old one may be another machine's by now."""
    twin = next(vm for vm in host.vms() if vm.name == "independent")
    twin.power_off(quick())
    job = story(select=["independent"])
    host.unregister(twin.vmid)
    number = host.register(twin.vmx_path, twin.name)
    try:
        job.start()
        assert number != twin.vmid
        assert backup.job_view(job.job, job.context.folder)["vmid"] == number
        assert job.end("failed", "given up").error is None
    finally:
        host.find_vm(name="independent").power_on(quick())


def test_a_disk_that_the_plan_does_not_know_of_stops_the_job(story: Any) -> None:
    job = story()
    job.entry["disks"] = []
    with pytest.raises(VmChanged) as caught:
        job.start()
    assert "scsi0:0" in caught.value.message
    assert job.end("failed", caught.value.as_dict()).entry["error"]["id"] == "vm-changed"


def test_a_machine_that_was_started_since_the_plan_and_cannot_be_snapshotted_whole_is_not_begun(
    story: Any, host: Host
) -> None:
    host.find_vm(name="independent").power_off(quick())
    try:
        job = story(select=["independent"])
        assert job.entry["disk_keys"] == ["scsi0:0", "scsi0:1"]
        host.find_vm(name="independent").power_on(quick())
        with pytest.raises(VmChanged) as caught:
            job.start()
        assert "scsi0:1" in caught.value.message and "independent-persistent" in caught.value.message
        assert lock.look(host.session, [job.entry["directory"]]) == []
        assert job.end("failed", caught.value.as_dict()).entry["error"]["id"] == "vm-changed"
    finally:
        if host.find_vm(name="independent").power_state() != "poweredOn":
            host.find_vm(name="independent").power_on(quick())


_DEEP = """
mkdir -p "$2" && cp -R "$1/." "$2" || exit 1
rm -f "$2"/*.log
for vmx in "$2"/*.vmx; do
    sed -i -e '/^uuid\\./d' -e '/^vc\\.uuid/d' -e 's/^displayName = .*/displayName = "deep"/' "$vmx" || exit 1
    echo 'uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"' >> "$vmx"
    vim-cmd solo/registervm "$vmx"
done
"""


def test_a_dead_job_in_a_folder_that_no_scan_reaches_is_found_through_the_inventory(
    story: Any, host: Host, tmp_path: Path
) -> None:
    twin = next(vm.directory for vm in host.vms() if vm.name == "twin")
    top = posixpath.join(posixpath.dirname(twin), "team")
    answer = host.session.script(_DEEP, [twin, f"{top}/customer/deep"])
    assert answer.rc == 0 and answer.stdout.strip().isdigit(), answer
    try:
        job = story(select=["deep"])
        assert job.entry["directory"].endswith("/team/customer/deep")
        job.start()
        job.cut()
        assert job.entry["directory"] not in lock.scan(host.session)
        # Another backup server: it has no mirror of the job, either.
        (found,) = recover.recover_host(host, HOST, str(tmp_path / "other"), 0.1, 60)
        assert (found.outcome, found.vm, found.error) == ("recovered", "deep", None)
        assert not job.outside(job.context.folder).exists()
    finally:
        host.unregister(int(answer.stdout))
        host.run("rm", "-rf", top)


def test_a_lock_without_a_name_is_taken_away_when_it_is_old(story: Any) -> None:
    job = story()
    lock.acquire(job.host.session, job.entry["directory"])
    (young,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert young.outcome == "live"
    folder = job.outside(job.context.folder)
    os.utime(folder / "lease", (time.time() - 1000,) * 2)
    (old,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert old.outcome == "recovered" and not folder.exists()


def test_a_job_of_a_machine_that_is_not_here_is_told_and_left(story: Any) -> None:
    job = story()
    job.start()
    job.cut()
    vm = job.vm
    path = job.outside(job.context.folder) / "job.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(vm.identity, "00000000-0000-4000-8000-000000000000"), encoding="utf-8")
    try:
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
        assert found.outcome == "vanished" and path.exists()
        path.write_text(path.read_text(encoding="utf-8").replace(f'"{job.host.name}"', '"10.9.9.9"'), encoding="utf-8")
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
        assert found.outcome == "elsewhere" and path.exists()
    finally:
        path.write_text(text, encoding="utf-8")
        job.cut()
        recover.recover_host(job.host, HOST, job.state, 0.1, 60)


def restore_context(job: Story, run: str, **params: Any) -> Context:
    wishes = {
        "point": POINT,
        "vm": NAME,
        "datastore": "datastore1",
        "name": "back again $(x)",
        "uuid": "new",
        "mac": "new",
        "disk_format": "thin",
        "connect_networks": True,
        "reserve_percent": 5,
        "inventory_host": HOST,
    }
    answer = restore.answer(job.host, {**wishes, **params})
    return Context(job.host, answer["plan"], run, job.state, HOST, "tests", kind="restore")


def clone_back(context: Context) -> None:
    for disk in context.entry["disks"]:
        context.host.run("vmkfstools", "-i", disk["src"], "-d", "thin", disk["dest"], timeout_seconds=300)


def test_a_restore_registers_a_machine_that_starts_and_a_second_run_finds_it(story: Any) -> None:
    job = story()
    job.whole()
    context = restore_context(job, "restore1")
    restoring.start(context)
    clone_back(context)
    told, changed = restoring.commit(context, True)
    assert changed and restoring.commit(context, True)[1] is False
    ended = ending.end(context, "ok")
    vm = job.host.find_vm(vmid=told["vmid"])
    try:
        assert (ended.error, ended.entry["status"], vm.name) == (None, "ok", "back again $(x)")
        assert vm.power_on(quick()).after == "poweredOn"
        assert vm.question() is None
        again = restore_context(job, "restore2")
        assert again.entry["already"] is True and again.entry["vmid"] == vm.vmid
        with pytest.raises(RestoreRefused) as caught:
            restore_context(job, "restore3", name=NAME)
        assert "poweredOn" in caught.value.message
    finally:
        vm.power_off(quick())
        job.host.unregister(vm.vmid)
        job.host.run("rm", "-rf", context.entry["directory"])


@pytest.mark.parametrize("reached", ["made", "cloned", "registered"])
def test_a_half_restore_is_taken_back_whole(story: Any, monkeypatch: pytest.MonkeyPatch, reached: str) -> None:
    job = story()
    job.whole()
    context = restore_context(job, f"half-{reached}")
    restoring.start(context)
    if reached != "made":
        clone_back(context)
    if reached == "registered":
        note = IntentLog.note

        def dies(log: IntentLog, event: str, **data: Any) -> None:
            if event == "commit-done":
                raise KeyboardInterrupt
            note(log, event, **data)

        monkeypatch.setattr(IntentLog, "note", dies)
        with pytest.raises(KeyboardInterrupt):
            restoring.commit(context, True)
        monkeypatch.undo()
    lease = job.outside(context.folder) / "lease"
    os.utime(lease, (time.time() - 1000,) * 2)
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert (found.outcome, found.left) == ("recovered", ())
    assert not job.outside(context.entry["directory"]).exists()
    assert [vm.name for vm in job.host.vms() if "back again" in vm.name] == []


def test_a_half_restore_in_a_folder_with_a_leading_dash_is_taken_back_whole(story: Any) -> None:
    job = story()
    job.whole()
    context = restore_context(job, "half-dash", directory="[datastore1] -rf $(x)")
    restoring.start(context)
    clone_back(context)
    ended = ending.end(context, "failed", "on purpose")
    assert (ended.error, ended.left) == (None, ())
    assert not job.outside(context.entry["directory"]).exists()


def test_a_copy_of_a_half_restored_folder_never_harms_the_restored_machine(story: Any) -> None:
    """A storage snapshot that was mounted, or somebody's cp: the journal in it tells of a restore that never ended."""
    job = story()
    job.whole()
    context = restore_context(job, "half-copied")
    restoring.start(context)
    clone_back(context)
    place = context.entry["directory"]
    copy = f"{place} (copy)"
    job.host.run("cp", "-R", place, copy)
    restoring.commit(context, False)
    assert ending.end(context, "ok").error is None
    try:
        files = sorted(os.listdir(job.outside(place)))
        lease = job.outside(copy) / ".stowage-job" / "lease"
        os.utime(lease, (time.time() - 1000,) * 2)
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
        assert sorted(os.listdir(job.outside(place))) == files
        assert found.outcome == "recovered" and not lease.parent.exists()
        assert (job.outside(copy) / posixpath.basename(context.entry["disks"][0]["dest"])).exists()
    finally:
        job.host.run("rm", "-rf", place, copy)


def test_a_copy_of_a_folder_does_not_end_the_living_job_in_it(story: Any) -> None:
    job = story()
    job.start()
    job.bracket()
    job.copy()
    copy = f"{job.entry['directory']} (copy)"
    job.host.run("mkdir", copy)
    try:
        job.host.run("cp", "-R", job.context.folder, copy)
        os.utime(job.outside(copy) / ".stowage-job" / "lease", (time.time() - 1000,) * 2)
        outcomes = [one.outcome for one in recover.recover_host(job.host, HOST, job.state, 0.1, 60)]
        assert sorted(outcomes) == ["live", "recovered"]
        job.commit()
        assert job.end().entry["status"] == "ok"
        assert not (job.outside(copy) / ".stowage-job").exists()
    finally:
        job.host.run("rm", "-rf", copy)


def test_a_file_that_is_not_ours_keeps_a_half_restored_folder(story: Any) -> None:
    job = story()
    job.whole()
    context = restore_context(job, "half-foreign")
    restoring.start(context)
    folder = job.outside(context.entry["directory"])
    (folder / "theirs.txt").write_text("keep", encoding="utf-8")
    ended = ending.end(context, "failed", "on purpose")
    assert [path.name for path in folder.iterdir()] == ["theirs.txt"]
    assert any("theirs.txt" in line for line in ended.left)
    job.host.run("rm", "-rf", context.entry["directory"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late snapshot is not waited for as long as on a real host."""
    monkeypatch.setattr(undo, "LOOK_AGAIN_SECONDS", 2)
