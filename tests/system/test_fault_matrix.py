# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault of the lab in the middle of a job: what the operator is told, and what is left. Held by docs/faults.md.

Each test ends with the look of `before`: power, snapshot tree and files of the VM as they were, no half copy, no
process. A restore point is there exactly when the job ended without an error.
"""

from __future__ import annotations

import json
import posixpath
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import bracket, copying, planning, recover
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.ending import Ended
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session

from . import stories
from .conftest import Lab, LabHost, start_lab, wait_until
from .stories import HOST, NAME, POINT, Story, listed, quick

# The fixtures of those tests.
before, host, impatient, story = stories.before, stories.host, stories.impatient, stories.story
soak = pytest.mark.soak
Act = Callable[[Any], None]


def nothing(job: Any) -> None:
    """Between two steps."""


def play(job: Any, frozen: Act = nothing, copied: Act = nothing, **wishes: Any) -> tuple[str, Ended]:
    """The job as the role tells it, with what happens at rest and after the copy. The error's id, and the end."""
    error: dict[str, Any] | None = None
    try:
        job.start()
        job.bracket()
        snapshot = snapshots.tree(job.vm).named(job.job.snapshot_name) if job.job.snapshot else []
        frozen(job)
        params = {
            "vmid": job.vm.vmid,
            "disks": job.job.disk_keys,
            "snapshot_id": snapshot[0].id if snapshot else None,
            "dest": job.job.partial,
            "journal": job.context.folder,
            "program": "vmkfstools",
            "disk_format": "thin",
            "include_config": False,
            "verify": "sample",
            "reserve_percent": 0,
            "snapshot_reserve_percent": 5,
            "limits_dir": "/nonexistent",
            "limits_timeout": 60,
            "state_dir": job.state,
            **wishes,
        }
        copying.perform(job.host, params)
        copied(job)
        job.commit()
    except StowageError as problem:
        error = problem.as_dict()
    ended = job.end("failed" if error else "ok", error)
    return (str(error["id"]) if error else "ok"), ended


def machine(job: Any) -> LabHost:
    found: LabHost = job.lab.host(HOST)
    return found


def judge(job: Any, known: list[str], told: str, ended: Ended, wanted: str) -> None:
    assert told == wanted, ended.entry["error"]
    assert ended.error is None, ended.error
    fresh = set(listed(job.host)) - set(known)
    assert fresh == ({job.job.final} if told == "ok" else set())


#: name -> (how, faults, the error's id, or ok where the job comes through)
ROWS: dict[str, tuple[str, list[tuple[str, dict[str, Any]]], str]] = {
    "a copy that ends as a success and is too short": ("hot", [("clone_short", {})], "copy-clone-incomplete"),
    "a copy that ends as a success with a hole at its end": (
        "hot",
        [("clone_short", {"hole": True, "bytes": 32 << 20})],
        "copy-differs",
    ),
    "hostd restarts while our snapshot is removed": (
        "hot",
        [("hostd_restart", {"op": "snapshot.remove", "seconds": 5})],
        "ok",
    ),
    "hostd restarts while our snapshot is taken": (
        "hot",
        [("hostd_restart", {"op": "snapshot.create", "seconds": 5})],
        "ok",
    ),
    "hostd restarts while our snapshot is taken, which goes on for longer": (
        "hot",
        [("hostd_restart", {"op": "snapshot.create", "seconds": 5}), ("snapshot_delay", {"seconds": 12})],
        "ok",
    ),
    "a killed command whose snapshot comes all the same": (
        "hot",
        [("vimcmd_killed", {"op": "snapshot.create", "goes_on": True, "times": 1})],
        "ok",
    ),
    "a killed command whose removal goes on": (
        "hot",
        [("vimcmd_killed", {"op": "snapshot.remove", "goes_on": True, "times": 1})],
        "ok",
    ),
    "a killed command that starts the machine all the same": (
        "warm",
        [("vimcmd_killed", {"op": "power.on", "goes_on": True, "times": 1})],
        "ok",
    ),
    "a removal that claims success": ("hot", [("lying", {"op": "snapshot.remove", "times": 1})], "ok"),
    "a snapshot that claims to be taken": ("hot", [("lying", {"op": "snapshot.create"})], "esxi-snapshot-late"),
    "a shutdown that claims to be done": ("cold", [("lying", {"op": "power.shutdown"})], "esxi-power-failed"),
    "a start that claims to be done": ("warm", [("lying", {"op": "power.on", "times": 1})], "esxi-power-failed"),
    "no list of machines, once": ("hot", [("half_output", {"op": "getallvms", "times": 1, "keep": 0})], "ok"),
    "no list of machines": (
        "hot",
        [("half_output", {"op": "getallvms", "times": 3, "keep": 0})],
        "esxi-unreadable-output",
    ),
    "half a list of machines, once": ("hot", [("half_output", {"op": "getallvms", "times": 1, "keep": 0.4})], "ok"),
    "half a list of machines": (
        "hot",
        [("half_output", {"op": "getallvms", "times": 3, "keep": 0.4})],
        "esxi-list-cut-short",
    ),
    "half a snapshot tree": (
        "hot",
        [("half_output", {"op": "snapshot.get", "times": 1, "keep": 0.2})],
        "esxi-unreadable-output",
    ),
    "a slow snapshot": ("hot", [("slow_task", {"op": "createSnapshot", "seconds": 8})], "ok"),
    "a slow power off": ("cold", [("slow_task", {"op": "powerOff", "seconds": 5})], "ok"),
    "a slow removal": ("hot", [("slow_task", {"op": "removeSnapshot", "seconds": 25})], "ok"),
}
SAMPLE = list(ROWS)[:4]


@pytest.mark.parametrize("name", [name if name in SAMPLE else pytest.param(name, marks=soak) for name in ROWS])
def test_a_fault_is_told_and_leaves_nothing(story: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    how, faults, wanted = ROWS[name]
    # A guest that was asked to shut down is waited for as long as its policy says.
    job = story(how, shutdown_timeout=25)
    known = listed(job.host)
    if "hostd restarts" in name:
        # The fixture's patience of a second is shorter than hostd is away; the product's own is 25 s.
        job.host._retry_seconds = 2.0
    if "claims" in name:
        # What never happens need not be waited for as long as what is slow.
        monkeypatch.setitem(Story.bracket.__globals__, "quick", lambda seconds=0.0: quick(20.0))
    for kind, arguments in faults:
        machine(job).fault(kind, **arguments)
    told, ended = play(job)
    machine(job).clear()
    judge(job, known, told, ended, wanted)
    if name == "a shutdown that claims to be done":
        # The guest may have been asked all the same: only the lock says so, and nobody waits for ever.
        (waiting,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
        assert waiting.outcome == "waiting"
        monkeypatch.setattr(bracket, "LATE_SHUTDOWN_SECONDS", 0)
        assert recover.recover_host(job.host, HOST, job.state, 0.1, 60)[0].outcome == "recovered"


def test_a_clone_that_hangs_is_ended_by_its_limit(story: Any) -> None:
    job = story()
    known = listed(job.host)
    machine(job).fault("clone_hangs", percent=30)
    told, ended = play(job, stall_timeout=4)
    machine(job).clear()
    judge(job, known, told, ended, "copy-clone-stalled")
    assert "neither the percent nor" in str(ended.entry["error"])


# -- what others do meanwhile ------------------------------------------------------------------------------------------


def test_a_machine_whose_vmid_changes_meanwhile_is_found_by_its_identity(story: Any) -> None:
    job = story()
    known = listed(job.host)
    old = job.vm.vmid

    def changes(_: Any) -> None:
        machine(job).fault("vmid_changes", vm="plain80")
        assert job.vm.vmid != old

    told, ended = play(job, copied=changes)
    judge(job, known, told, ended, "ok")


@soak
def test_a_users_snapshot_on_top_of_ours_stays_and_the_copy_is_good(story: Any) -> None:
    job = story()
    known = listed(job.host)
    theirs: list[int] = []

    def taken(_: Any) -> None:
        theirs.append(snapshots.create(job.vm, "by hand", waiter=quick()).id)

    try:
        told, ended = play(job, frozen=taken)
        judge(job, known, told, ended, "ok")
        assert [one.name for one in snapshots.tree(job.vm)] == ["by hand"]
    finally:
        snapshots.remove(job.vm, theirs[0], waiter=quick())


@soak
def test_a_machine_that_was_renamed_meanwhile_keeps_its_history(story: Any) -> None:
    job = story("cold")
    known = listed(job.host)
    vmx = job.outside(job.vm.vmx_path)
    text = vmx.read_text(encoding="utf-8")

    def named(name: str) -> None:
        job.host.run("sed", "-i", f's/^displayName = .*/displayName = "{name}"/', job.entry["vmx_path"])
        vm = next(vm for vm in job.host.vms() if vm.vmx_path == job.entry["vmx_path"])
        job.host.vim("vmsvc/reload", str(vm.vmid))

    try:
        job.start()
        job.bracket()
        named("other name")
        job.copy()
        job.commit()
        assert job.end().entry["status"] == "ok"
        assert set(listed(job.host)) - set(known) == {job.job.final}
    finally:
        vm = next(vm for vm in job.host.vms() if vm.vmx_path == job.entry["vmx_path"])
        power.power_off(vm, quick())
        vmx.write_text(text, encoding="utf-8")
        job.host.vim("vmsvc/reload", str(vm.vmid))
        power.power_on(job.vm, quick())


@soak
def test_a_machine_that_was_registered_anew_meanwhile_is_copied_and_started_under_its_new_id(story: Any) -> None:
    job = story("cold")
    known = listed(job.host)

    def again(_: Any) -> None:
        path, old = job.vm.vmx_path, job.vm.vmid
        job.host.unregister(old)
        assert job.host.register(path) != old

    told, ended = play(job, copied=again)
    judge(job, known, told, ended, "ok")


# -- what holds, fills, cuts -------------------------------------------------------------------------------------------


@soak
def test_a_foreign_reader_of_the_base_is_named_and_the_next_recover_consolidates(story: Any) -> None:
    job = story()
    known = listed(job.host)
    job.context.entry["policy"]["consolidation_timeout"] = 10
    flat = posixpath.join(job.entry["directory"], "plain80-flat.vmdk")

    def reads(_: Any) -> None:
        machine(job).fault("reader", path=flat)
        wait_until(lambda: flat.rpartition("/")[2] in machine(job).run("lsof").stdout, "the reader has it open")

    told, ended = play(job, frozen=reads)
    assert told == "ok" and ended.error is not None
    assert "esxi-consolidation-needed" in str(ended.error.as_dict()) or "consolidation" in ended.error.message
    machine(job).clear()
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    assert (found.outcome, found.error) == ("recovered", None)
    assert set(listed(job.host)) - set(known) == {job.job.final}


@soak
def test_a_datastore_that_fills_under_our_snapshot_ends_the_copy_before_it_is_full(story: Any) -> None:
    job = story()
    known = listed(job.host)
    machine(job).fault("slow_clone", rate=128 << 10)

    def fills(_: Any) -> None:
        machine(job).fault("datastore_fills", datastore="datastore1", bytes_per_second="150M", leave="4M")

    told, ended = play(job, frozen=fills)
    machine(job).clear()

    judge(job, known, told, ended, "room-below-reserve")


@soak
@pytest.mark.parametrize("mode", ["reset", "blackhole"])
def test_a_line_that_is_cut_in_the_middle_of_a_copy_is_taken_up_again(story: Any, mode: str) -> None:
    job = story()
    known = listed(job.host)
    machine(job).fault("slow_clone", rate=512 << 10)

    def cut() -> None:
        wait_until(lambda: "vmkfstools -i" in machine(job).run("ps -c").stdout, "the clone")
        machine(job).fault("cut", mode=mode)
        time.sleep(5)
        machine(job).clear()

    thread = threading.Thread(target=cut)
    job_told = play(job, frozen=lambda _: thread.start())
    thread.join()
    judge(job, known, *job_told, "ok")


@soak
def test_a_host_that_reboots_while_warm_has_the_machine_off_is_recovered_to_on(
    story: Any, clean_lab: Lab, host: Host
) -> None:
    job = story("warm")
    known = listed(job.host)
    job.start()
    job.stop()
    machine(job).reboot()
    assert machine(job).vm("plain80")["power"] == "poweredOff"
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    assert (found.outcome, found.error) == ("recovered", None)
    assert job.vm.power_state() == "poweredOn"
    assert listed(job.host) == known
    for vm in job.host.vms():
        if vm.name == "independent":
            power.power_on(vm, quick())


# -- what others do with the machine, from this host or from another one -----------------------------------------------


@soak
def test_a_second_controller_is_told_who_holds_the_machine_and_touches_nothing(story: Any) -> None:
    job, other = story(), story()
    known = listed(job.host)
    seen: list[tuple[str, Ended]] = []

    def second(_: Any) -> None:
        seen.append(play(other))

    told, ended = play(job, frozen=second)
    judge(job, known, told, ended, "ok")
    assert seen[0][0] == "vm-locked"
    assert job.job.job in str(seen[0][1].entry["error"])


@soak
@pytest.mark.parametrize("moment", ["frozen", "copied"])
def test_our_snapshot_that_an_admin_removes_before_or_after_the_copy_gives_no_restore_point(
    story: Any, moment: str
) -> None:
    job = story()
    known = listed(job.host)

    def removed(_: Any) -> None:
        (ours,) = snapshots.tree(job.vm).named(job.job.snapshot_name)
        snapshots.remove(job.vm, ours.id, waiter=quick())

    told, ended = play(job, **{moment: removed})
    judge(job, known, told, ended, "esxi-snapshot-unknown" if moment == "frozen" else "source-not-still")


#: What an admin calls with the id of our snapshot. Taking one and removing all is how a VM is consolidated by hand.
ADMINS = {
    "removes it": ("snapshot.remove {vmid} {id}",),
    "removes all": ("snapshot.removeall {vmid}",),
    "consolidates": ("snapshot.create {vmid} cure", "snapshot.removeall {vmid}", "snapshot.removeall {vmid}"),
}


def in_the_middle_of_its_clone(job: Any, calls: tuple[str, ...]) -> tuple[str, Ended, list[str]]:
    """A hot job whose clone is held while an admin calls that; and what is in the VM's folder afterwards."""
    esx, seen = machine(job), []

    def admin(snapshot: int) -> None:
        wait_until(lambda: any(fault["holding"] for fault in esx.status["faults"]["hostd"]), "the clone")
        for call in calls:
            esx.run("vim-cmd vmsvc/" + call.format(vmid=job.entry["vmid"], id=snapshot))
        seen.extend(esx.run(f"ls {job.entry['directory']}").stdout.split())
        esx.clear()

    def frozen(_: Any) -> None:
        (ours,) = snapshots.tree(job.vm).named(job.job.snapshot_name)
        esx.fault("hold", tool="vmkfstools", op="-i", when="during", percent=50)
        threads.append(threading.Thread(target=admin, args=(ours.id,)))
        threads[0].start()

    threads: list[threading.Thread] = []
    told, ended = play(job, frozen=frozen)
    threads[0].join()
    return told, ended, seen


@pytest.mark.parametrize("what", [next(iter(ADMINS)), *(pytest.param(name, marks=soak) for name in [*ADMINS][1:])])
def test_our_snapshot_that_an_admin_takes_away_in_the_middle_of_a_clone_leaves_no_delta(story: Any, what: str) -> None:
    job = story()
    known = listed(job.host)
    told, ended, seen = in_the_middle_of_its_clone(job, ADMINS[what])
    # Our own reader kept the host from merging: the entry was gone, the delta was not.
    assert not [name for name in seen if name.endswith(".vmsn")] and [name for name in seen if "-00000" in name]
    judge(job, known, told, ended, "source-not-still")
    assert "is gone" in str(ended.entry["error"]) and "consolidated its disks" in ended.done
    assert not snapshots.consolidation_needed(job.vm)


@soak
def test_a_machine_that_is_powered_on_in_a_cold_copy_gives_no_restore_point_and_stays_on(story: Any) -> None:
    job = story("cold")
    known = listed(job.host)
    told, ended = play(job, frozen=lambda _: power.power_on(job.vm, quick()))
    judge(job, known, told, ended, "copy-source-runs")


@soak
def test_a_chain_that_breaks_under_our_snapshot_gives_no_restore_point(story: Any) -> None:
    theirs = snapshots.create(story().vm, "by hand", waiter=quick()).id
    job = story()
    known = listed(job.host)
    base = job.outside(posixpath.join(job.entry["directory"], "plain80.vmdk"))
    text = base.read_text(encoding="utf-8")
    try:
        broken = re.sub("(?m)^CID=.*", "CID=deadbeef", text)
        told, ended = play(job, frozen=lambda _: base.write_text(broken, encoding="utf-8") and None)
        assert "broken" in str(ended.entry["error"])
        planned = planning.plan_backup(job.host, {"point": POINT, "select": [NAME]}, "look", HOST, {}).as_dict()
        assert "broken" in str(planned["vms"][0]["problems"])
    finally:
        base.write_text(text, encoding="utf-8")
    assert told == "copy-disk-not-copyable" and ended.error is not None
    assert listed(job.host) == known
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    assert (found.outcome, found.error) == ("recovered", None)
    snapshots.remove(job.vm, theirs, waiter=quick())


@soak
def test_a_line_that_is_cut_with_our_snapshot_open_and_refused_from_then_on_leaves_nothing_after_recover(
    story: Any,
) -> None:
    job = story()
    known = listed(job.host)

    def refused(_: Any) -> None:
        machine(job).fault("login_refused")
        machine(job).fault("cut", mode="reset")

    with pytest.raises(StowageError) as caught:
        play(job, frozen=refused)
    assert caught.value.as_dict()["id"] == "ssh-host-unreachable"
    machine(job).clear()
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    assert (found.outcome, found.error) == ("recovered", None)
    assert listed(job.host) == known


@soak
@pytest.mark.parametrize("fault", ["locked_out", "login_refused"])
def test_a_host_that_refuses_the_login_is_asked_once(clean_lab: Lab, fault: str) -> None:
    esx = clean_lab.host(HOST)
    esx.fault(fault)
    endpoint = Endpoint(
        host=esx.address, port=esx.port, password=esx.password, known_hosts_file=str(clean_lab.known_hosts)
    )
    tries = esx.run("cat /var/log/auth.log").stdout.count("PAM: ")
    with pytest.raises(StowageError) as caught, open_session(endpoint) as session:
        session.run(["true"])
    assert caught.value.as_dict()["id"] == "ssh-authentication-failed"
    assert esx.run("cat /var/log/auth.log").stdout.count("PAM: ") - tries == 1


ROAM = (
    'displayName = "roam"',
    'uuid.bios = "56 4d 10 11 12 13 14 15-16 17 18 19 1a 1b 1c 1d"',
    'vc.uuid = "52 4d 10 11 12 13 14 15-16 17 18 19 1a 1b 1c 1d"',
)


class Roaming(Story):
    """A job of a machine on the datastore that two hosts share."""

    @property
    def vm(self) -> VirtualMachine:
        return self.host.find_vm(name="roam")

    def stop(self) -> None:
        """It has no Tools that could be asked."""
        power.power_off(self.vm, quick(), self.log)


@pytest.fixture
def roaming(clean_lab: Lab, host: Host, tmp_path: Path, before: Any) -> Iterator[Callable[..., Roaming]]:
    """Makes jobs of a small machine that is off, on `shared`, and registered on esx80."""
    folder = "/vmfs/volumes/shared/roam"
    host.run("mkdir", folder)
    source = next(vm for vm in host.vms() if vm.name == "twin")
    names = host.run("ls", source.directory).split("\n")
    disk = next(name for name in names if name.endswith(".vmdk") and not name.endswith("-flat.vmdk"))
    host.run("vmkfstools", "-i", f"{source.directory}/{disk}", "-d", "thin", f"{folder}/{disk}")
    text = host.read_text(source.vmx_path)
    kept = [line for line in text.split("\n") if not line.startswith(("uuid.", "vc.uuid", "displayName", "sched."))]
    host.session.write_text(f"{folder}/roam.vmx", "\n".join([*kept, *ROAM, ""]))
    host.run("chmod", "0755", f"{folder}/roam.vmx")
    host.register(f"{folder}/roam.vmx")
    number = iter(range(100))

    def make(on: Host = host, name: str = "esx80", how: str = "cold", run: str = "") -> Roaming:
        time.sleep(1.1)
        state = tmp_path / f"state-{name}"
        run = run or f"{abs(hash(folder)) % 10**8:08d}-{next(number)}"
        job = Roaming(clean_lab, on, state, run, how, select=["roam"])
        job.context = replace(job.context, label=name)
        return job

    yield make
    with other_host(clean_lab) as other:
        for one in (host, other):
            for vm in one.vms():
                if vm.vmx_path.endswith("/roam/roam.vmx"):
                    if vm.power_state() != "poweredOff":
                        power.power_off(vm, quick())
                    one.unregister(vm.vmid)
    host.run("rm", "-r", folder)


@contextmanager
def other_host(lab: Lab) -> Iterator[Host]:
    esx = lab.host("esx70")
    endpoint = Endpoint(
        host=esx.address, port=esx.port, private_key_file=str(lab.key), known_hosts_file=str(lab.known_hosts)
    )
    with open_session(endpoint) as session:
        yield Host(session, retry_seconds=0.2)


@soak
def test_a_machine_that_two_hosts_show_is_backed_up_by_one_of_them(roaming: Any, clean_lab: Lab) -> None:
    with other_host(clean_lab) as other:
        job = roaming()
        other.register("/vmfs/volumes/shared/roam/roam.vmx")
        known = listed(job.host)
        second = roaming(other, "esx70")
        seen: list[tuple[str, Ended]] = []
        told, ended = play(job, frozen=lambda _: seen.append(play(second)))
        judge(job, known, told, ended, "ok")
        assert seen[0][0] == "vm-locked"


@soak
def test_a_machine_that_another_host_starts_during_a_cold_copy_gives_no_restore_point(
    roaming: Any, clean_lab: Lab
) -> None:
    with other_host(clean_lab) as other:
        job = roaming()
        other.register("/vmfs/volumes/shared/roam/roam.vmx")
        known = listed(job.host)
        told, ended = play(job, copied=lambda _: power.power_on(other.find_vm(name="roam"), quick()))
        judge(job, known, told, ended, "source-not-still")
        assert other.find_vm(name="roam").power_state() == "poweredOn"


@soak
@pytest.mark.parametrize("power", ["off", "on"])
def test_a_machine_that_moves_to_another_host_is_undone_there_and_nowhere_else(
    roaming: Any, clean_lab: Lab, power: str
) -> None:
    with other_host(clean_lab) as other:
        if power == "on":
            power.power_on(roaming().vm, quick())
        job = roaming()
        known = listed(job.host)

        def moves(_: Any) -> None:
            path = job.vm.vmx_path
            job.host.unregister(job.vm.vmid)
            other.register(path)

        told, ended = play(job, copied=moves)
        assert told == "vm-gone" and listed(job.host) == known, ended.entry["error"]
        # The lock goes with the machine, and says so; the half copy, which not every host may see, is gone at once.
        assert ended.error is not None and "is not registered on esx80 any more" in ended.error.message
        assert job.host.session.run(["test", "-e", job.job.partial]).rc == 1
        assert outcomes(other, "esx70", job) == [("live", None)]
        job.cut()
        # The host that has lost it neither undoes nor unlocks: it could not give the machine its power back.
        assert outcomes(job.host, "esx80", job) == [("vanished", None)]
        assert outcomes(other, "esx70", job) == [("recovered", None)]
        assert other.find_vm(name="roam").power_state() == ("poweredOn" if power == "on" else "poweredOff")
        assert ".stowage-job" not in job.host.run("ls", "-A", "/vmfs/volumes/shared/roam")
        assert outcomes(other, "esx70", job) == outcomes(job.host, "esx80", job) == []


def outcomes(host: Host, label: str, job: Any) -> list[tuple[str, Any]]:
    return [(one.outcome, one.error) for one in recover.recover_host(host, label, job.state, 0.1, 120)]


# -- hosts that are not like others ------------------------------------------------------------------------------------


def lab_of_one(folder: Path, store: dict[str, Any], **switches: Any) -> Lab:
    """esx80 with plain80, in a lab of its own."""
    backup = {"name": "backup", "type": "nfs", "size": "512M", "server": "bk1"}
    vm = {
        "name": NAME,
        "datastore": "datastore1",
        "power": "on",
        "tools": "running",
        "disks": [{"key": "scsi0:0", "size": "64M", "format": "thin"}],
    }
    machine = {"name": HOST, "profile": "8.0", "switches": switches, "datastores": [store, backup], "vms": [vm]}
    folder.mkdir(exist_ok=True)
    topology = folder / "topology.json"
    topology.write_text(json.dumps({"hosts": [machine], "backup_servers": [{"name": "bk1"}]}), encoding="utf-8")
    return start_lab(folder / "lab", str(topology))


@contextmanager
def one_host(lab: Lab) -> Iterator[Host]:
    esx = lab.host(HOST)
    endpoint = Endpoint(
        host=esx.address, port=esx.port, private_key_file=str(lab.key), known_hosts_file=str(lab.known_hosts)
    )
    try:
        with open_session(endpoint) as session:
            host = Host(session, retry_seconds=0.2)
            # A guest that has only begun to boot does not hear that it is to shut down.
            wait_until(lambda: "guestToolsRunning" in host.vim("vmsvc/get.guest", "1"), "the guest's tools")
            time.sleep(3)
            yield host
    finally:
        lab.call("down")


@soak
def test_a_base_that_stays_locked_below_the_snapshot_is_copied_by_the_hosts_own_clone(tmp_path: Path) -> None:
    store = {"name": "datastore1", "type": "vmfs6", "size": "256M"}
    lab = lab_of_one(tmp_path, store, base_readable_after_snapshot=False)
    with one_host(lab) as host:
        job = Story(lab, host, tmp_path, "locked-1", "hot")
        codes: list[int] = []

        def read(_: Any) -> None:
            codes.append(machine(job).run("head -c1 /vmfs/volumes/datastore1/plain80/plain80-flat.vmdk").returncode)

        told, ended = play(job, frozen=read)
        judge(job, [], told, ended, "ok")
        assert codes != [0]
        assert (job.vm.power_state(), list(snapshots.tree(job.vm))) == ("poweredOn", [])


@soak
@pytest.mark.parametrize("how", ["hot", "cold"])
def test_a_machine_on_a_datastore_without_locks_is_copied_whole(tmp_path: Path, how: str) -> None:
    lab = lab_of_one(tmp_path, {"name": "datastore1", "type": "nfs", "size": "256M"})
    with one_host(lab) as host:
        job = Story(lab, host, tmp_path, "nfs-1", how)
        told, ended = play(job)
        judge(job, [], told, ended, "ok")
        assert (job.vm.power_state(), list(snapshots.tree(job.vm))) == ("poweredOn", [])


@soak
def test_a_host_that_merges_our_snapshot_below_the_running_clone_gives_no_restore_point(tmp_path: Path) -> None:
    store = {"name": "datastore1", "type": "vmfs6", "size": "256M"}
    lab = lab_of_one(tmp_path, store, reader_blocks_consolidation=False)
    with one_host(lab) as host:
        job = Story(lab, host, tmp_path, "merged-1", "hot")
        told, ended, seen = in_the_middle_of_its_clone(job, ADMINS["removes all"])
        assert not [name for name in seen if "-00000" in name]
        judge(job, [], told, ended, "source-not-still")
        assert "is gone" in str(ended.entry["error"])
        assert (job.vm.power_state(), list(snapshots.tree(job.vm))) == ("poweredOn", [])
