# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies on the lab's hypervisors, judged by qemu-img; and what is left when they are broken off."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import copying, runlife
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.journal import write_job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.undo import Undoer
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors, multiextent
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session
from conftest import Lab, LabHost, wait_until

HOSTILE = "$(touch pwned) 'it' \"is\" `x` *-Zürich"
ROOT = Path(__file__).resolve().parents[2]


class Desk:
    """One hypervisor, as the module sees it, and as the lab sees it from outside."""

    def __init__(self, lab: Lab, name: str, tmp_path: Path) -> None:
        self.lab = lab
        self.machine = LabHost(lab, name)
        self.tmp_path = tmp_path
        endpoint = Endpoint(
            host=self.machine.address,
            port=self.machine.port,
            private_key_file=str(lab.key),
            known_hosts_file=str(lab.known_hosts),
        )
        self.host = Host(open_session(endpoint))
        self.before = self.listing()

    def params(self, **given: Any) -> dict[str, Any]:
        return {
            "disk_format": "thin",
            "include_config": True,
            "reserve_percent": 0,
            "snapshot_reserve_percent": 0,
            "program": "vmkfstools",
            "verify": "sample",
            "limits_dir": str(self.tmp_path / "limits"),
            "limits_timeout": 5,
            **given,
        }

    def copy(self, **given: Any) -> dict[str, Any]:
        return copying.perform(self.host, self.params(**given))

    def predict(self, **given: Any) -> dict[str, Any]:
        return copying.predict(self.host, self.params(**given))

    def outside(self, path: str) -> Path:
        match = re.fullmatch(r"/vmfs/volumes/([^/]+)/(.*)", path)
        assert match, path
        return self.lab.folder / "volumes" / match.group(1) / match.group(2)

    def compare(self, source: str, dest: str) -> None:
        """qemu-img's own verdict."""
        done = subprocess.run(
            ["qemu-img", "compare", "-U", str(self.outside(source)), str(self.outside(dest))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def listing(self) -> list[str]:
        """All files of all datastores of the lab, but those that a running guest makes and unmakes by itself."""
        found = []
        for path in (self.lab.folder / "volumes").rglob("*"):
            if not path.name.endswith((".log", ".lck")):
                found.append(str(path.relative_to(self.lab.folder / "volumes")))
        return sorted(found)

    def new(self) -> list[str]:
        return [path for path in self.listing() if path not in self.before]

    def processes(self) -> list[str]:
        listing = self.machine.run("/bin/ps -c").stdout
        return [line for line in listing.splitlines() if "vmkfstools -i" in line or "stowage-copy" in line]

    def nothing_left(self, seconds: float = 20) -> None:
        try:
            wait_until(lambda: not self.new() and not self.processes(), "nothing to be left", seconds)
        except AssertionError:
            raise AssertionError(f"left: {self.new()} {self.processes()}") from None

    def remove(self, folder: str) -> None:
        self.machine.run(f"rm -rf {shlex.quote(folder)}")


@pytest.fixture
def desk(clean_lab: Lab, tmp_path: Path) -> Iterator[Any]:
    made: list[Desk] = []

    def sit(name: str) -> Desk:
        made.append(Desk(clean_lab, name, tmp_path))
        return made[-1]

    yield sit
    clean_lab.clear()
    for each in made:
        each.machine.run("rm -rf /vmfs/volumes/backup/p3-* /vmfs/volumes/datastore1/p3-*")


@pytest.mark.parametrize(
    ("host", "vm", "disk_format", "place"),
    [
        ("esx67", "off67", "thin", "backup"),
        ("esx67", "off67", "2gbsparse", "backup"),
        ("esx67", "off67", "eagerzeroedthick", "datastore1"),
        ("esx70", "two words", "zeroedthick", "datastore1"),
        ("esx70", "two words", "2gbsparse", "datastore1"),
        ("esx70", "two words", "thin", f"backup/p3-x/{HOSTILE}"),
    ],
)
def test_a_vm_that_is_off_is_copied_whole_and_as_predicted(desk, host, vm, disk_format, place):
    at = desk(host)
    modules = at.host.esxcli("system", "module", "list")
    request = {"vm": vm, "dest": f"/vmfs/volumes/{place}/p3-copy", "disk_format": disk_format}
    predicted = at.predict(**request)
    assert at.new() == []
    done = at.copy(**request)
    assert done["bytes_total"] == predicted["bytes_total"] > 0
    assert [{k: v for k, v in disk.items() if k in predicted["disks"][0]} for disk in done["disks"]] == predicted[
        "disks"
    ]
    assert done["files"] == predicted["files"]
    for disk in done["disks"]:
        at.compare(disk["source"], disk["dest"])
        assert disk["copied_bytes"] > 0
    names = {Path(path).name for path in done["files"]}
    assert f"{vm}.vmx" in names
    assert not [path for path in at.new() if "stowage" in path]
    assert at.processes() == []
    # What was loaded for the copy is unloaded after it.
    assert at.host.esxcli("system", "module", "list") == modules
    assert not [warning for warning in done["warnings"] if "is still" in warning]
    with pytest.raises(errors.TargetExists):
        at.copy(**request)
    assert "pwned" not in at.machine.run("ls /tmp / /vmfs/volumes/datastore1").stdout
    if place.startswith("backup/p3-x"):
        at.remove("/vmfs/volumes/backup/p3-x")


def test_a_running_vm_needs_a_snapshot_and_then_its_frozen_chain_is_copied(desk):
    at = desk("esx70")
    with pytest.raises(errors.SourceRuns) as refused:
        at.copy(vm="snapped", dest="[backup] p3-snapped")
    assert "snapshot_id" in refused.value.hint_text
    foreseen = at.predict(vm="snapped", dest="[backup] p3-snapped")
    assert "snapshot_id" in foreseen["warnings"][0]
    assert at.new() == []
    vm = at.host.find_vm(name="snapped")
    users = set(snapshots.tree(vm).ids)
    ours = snapshots.create(vm, "p3")
    try:
        predicted = at.predict(vm="snapped", snapshot_id=ours.id, dest="[backup] p3-snapped")
        done = at.copy(vm="snapped", snapshot_id=ours.id, dest="[backup] p3-snapped", include_config=False)
        assert done["bytes_total"] == predicted["bytes_total"]
        source = done["disks"][0]["source"]
        # The user's own snapshot lies below: the copy holds the whole chain, and is a disk of its own.
        assert source == vm.frozen_disks(ours.id)["scsi0:0"]
        assert re.search(r"-00000\d\.vmdk$", source)
        at.compare(source, done["disks"][0]["dest"])
        (before,) = users
        old = at.copy(vm="snapped", snapshot_id=before, dest="[backup] p3-old", include_config=False)
        at.compare(vm.frozen_disks(before)["scsi0:0"], old["disks"][0]["dest"])
    finally:
        snapshots.remove(vm, ours.id)
    assert set(snapshots.tree(vm).ids) == users


def test_disks_are_chosen_by_key_and_one_may_be_named_by_its_path(desk):
    at = desk("esx70")
    vm = at.host.find_vm(name="multi")
    ours = snapshots.create(vm, "p3")
    try:
        done = at.copy(vm="multi", snapshot_id=ours.id, disks=["scsi0:1"], dest="[backup] p3-multi/one.vmdk")
        assert [disk["key"] for disk in done["disks"]] == ["scsi0:1"]
        assert {entry["key"] for entry in done["left_out"]} == {"scsi0:0", "scsi1:0"}
        assert done["files"] == []
        frozen = vm.frozen_disks(ours.id)["scsi1:0"]
        second = at.copy(src=frozen, dest="[backup] p3-multi/two.vmdk")
        assert second["vm"] is None
        at.compare(frozen, second["disks"][0]["dest"])
        top = {disk.key: disk.path for disk in vm.disks()}["scsi0:0"]
        with pytest.raises(errors.SourceLocked, match="multi"):
            at.copy(src=top, dest="[backup] p3-multi/three.vmdk")
        with pytest.raises(errors.NoSuchDisk) as unknown:
            at.copy(vm="multi", disks=["scsi3:3"], dest="[backup] p3-multi/x")
        assert "scsi0:0, scsi0:1, scsi1:0" in unknown.value.hint_text
    finally:
        snapshots.remove(vm, ours.id)


def test_an_independent_disk_is_left_out_of_a_snapshot_with_the_reason(desk):
    at = desk("esx80")
    vm = at.host.find_vm(name="independent")
    ours = snapshots.create(vm, "p3")
    try:
        plan = at.predict(vm="independent", snapshot_id=ours.id, dest="[backup] p3-i")
        assert [entry["key"] for entry in plan["left_out"]] == ["scsi0:1"]
        assert "independent" in plan["left_out"][0]["reason"]
        with pytest.raises(errors.DiskNotCopyable, match="independent"):
            at.predict(vm="independent", snapshot_id=ours.id, disks=["scsi0:1"], dest="[backup] p3-i")
    finally:
        snapshots.remove(vm, ours.id)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"vm": "off67", "dest": "[backup]"}, errors.BadDestination),
        ({"vm": "off67", "dest": "[no-such] x"}, StowageError),
        ({"vm": "off67", "dest": "/tmp/x"}, StowageError),
        ({"vm": "off67", "dest": "[backup] ../x"}, StowageError),
        ({"vm": "off67", "dest": "[backup] p3-x", "disk_format": "eagerzeroedthick"}, errors.NotSupported),
        ({"vm": "off67", "dest": "[backup] p3-x", "bandwidth_limit": 1000}, errors.NotSupported),
        ({"vm": "off67", "dest": "[backup] p3-x", "reserve_percent": 100}, errors.NotEnoughRoom),
        ({"src": "[datastore1] off67/off67-flat.vmdk", "dest": "[backup] p3-x/x.vmdk"}, errors.BadSource),
        ({"src": "[datastore1] off67/none.vmdk", "dest": "[backup] p3-x/x.vmdk"}, errors.BadSource),
        ({"src": "[datastore1] off67/off67.vmx", "dest": "[backup] p3-x/x.vmdk"}, errors.BadSource),
    ],
)
def test_what_cannot_work_is_refused_by_plan_and_run_alike(desk, given, error):
    at = desk("esx67")
    for act in (at.predict, at.copy):
        with pytest.raises(error) as caught:
            act(**given)
        assert caught.value.hint_text
    assert at.new() == []


def test_a_clone_that_stops_half_way_is_a_failure_with_the_hosts_words(desk):
    at = desk("esx70")
    at.machine.fault("clone_fails_at", percent=40, code=327689, text="Input/output error")
    with pytest.raises(errors.CloneFailed) as caught:
        at.copy(vm="two words", dest="[backup] p3-a/b/c")
    assert "Failed to clone disk: Input/output error (327689)." in caught.value.message
    assert "at 40 %" in caught.value.message
    at.nothing_left()


def test_a_datastore_that_fills_up_meanwhile_gives_its_own_error_and_nothing_is_left(desk):
    at = desk("esx70")
    at.machine.fault("slow_clone", rate=4 << 20)
    vm = at.host.find_vm(name="big")
    ours = snapshots.create(vm, "p3")
    try:
        thread = threading.Timer(4, lambda: at.machine.fault("datastore_full", datastore="backup", leave=0))
        thread.start()
        with pytest.raises(errors.CloneFailed) as caught:
            at.copy(vm="big", snapshot_id=ours.id, dest="[backup] p3-full")
        thread.join()
        assert caught.value.data["code"] == 13
        assert "not enough space on the file system" in caught.value.message
        at.machine.clear()
    finally:
        snapshots.remove(vm, ours.id)
    at.nothing_left()


def test_the_room_watch_ends_the_copy_while_our_snapshot_is_open(desk):
    at = desk("esx70")
    at.machine.fault("slow_clone", rate=4 << 20)
    vm = at.host.find_vm(name="big")
    ours = snapshots.create(vm, "p3")
    try:
        with pytest.raises(StowageError) as caught:
            at.copy(vm="big", snapshot_id=ours.id, dest="[backup] p3-room", snapshot_reserve_percent=99)
        assert caught.value.id == "room-below-reserve"
        assert "'datastore1'" in caught.value.message
    finally:
        snapshots.remove(vm, ours.id)
    at.nothing_left()


@pytest.mark.parametrize("mode", ["reset", pytest.param("blackhole", marks=pytest.mark.soak)])
def test_a_cut_connection_does_not_end_the_copy(desk, mode):
    at = desk("esx70")
    at.machine.fault("slow_clone", rate=3 << 20)
    vm = at.host.find_vm(name="big")
    ours = snapshots.create(vm, "p3")
    cut: list[list[str]] = []

    def cutter() -> None:
        running = wait_until(lambda: [line for line in at.processes() if " -i " in line], "the clone to run", 60)
        at.machine.fault("cut", mode=mode)
        cut.append(running)

    thread = threading.Thread(target=cutter)
    thread.start()
    try:
        done = at.copy(vm="big", snapshot_id=ours.id, dest="[backup] p3-cut")
        thread.join()
        assert len(cut) == 1
        at.compare(done["disks"][0]["source"], done["disks"][0]["dest"])
    finally:
        snapshots.remove(vm, ours.id)
    assert at.processes() == []


def test_a_journal_tells_process_and_files_before_they_are_there(desk):
    at = desk("esx67")
    folder = "/vmfs/volumes/datastore1/p3-journal"
    at.machine.run(f"mkdir {folder} && touch {folder}/lease")
    done = at.copy(vm="off67", dest="[backup] p3-j", journal=folder)
    entries = IntentLog(at.host.session, folder).read()
    paths = [entry["path"] for entry in entries if entry["event"] == "temp"]
    assert paths[1:] == [*done["files"], *(disk["dest"] for disk in done["disks"])]
    (process,) = [entry for entry in entries if entry["event"] == "process"]
    assert process["token"].startswith("stowage-copy-") and process["pid"] > 1
    assert entries.index(process) == len(entries) - 1


def test_a_copy_that_is_waited_for_gives_the_sign_that_its_run_goes_on(desk, tmp_path):
    at = desk("esx67")
    folder = "/vmfs/volumes/datastore1/p3-run"
    facts = {name: "" for name in ("identity", "vmx_path", "boot_id", "snapshot_name", "partial", "final", "time")}
    facts |= {"kind": "backup", "host": "esx67", "vm": "off67", "directory": folder, "how": "cold", "created_at": ""}
    facts["snapshot_name"] = "stowage-run7-b0123456789ab"
    flags = {"stop": False, "snapshot": False, "restart": False, "power_before": "poweredOff"}
    at.machine.run(f"mkdir {folder} && touch {folder}/lease")
    write_job(at.host.session, folder, Job(job="run7-b0123456789ab", run="run7", vmid=1, **facts, **flags))
    beat, state = tmp_path / "beat", str(tmp_path / "state")
    at.copy(vm="off67", dest="[backup] p3-alone", journal=folder, state_dir=state)
    # Nobody waited for that copy: whether a controller lives could not be known.
    assert not runlife.lives(state, "run7", 180)
    beat.touch()
    at.copy(vm="off67", dest="[backup] p3-run", journal=folder, beat_file=str(beat), state_dir=state)
    assert runlife.lives(state, "run7", 180)


def test_a_kernel_module_that_a_dead_copy_loaded_is_unloaded_by_undo_once_no_clone_runs(desk):
    at = desk("esx70")
    folder = "/vmfs/volumes/datastore1/p3-dead"
    at.machine.run(f"mkdir {folder} && touch {folder}/lease")
    modules = at.host.esxcli("system", "module", "list")
    dead = multiextent.loaded(at.host, True, IntentLog(at.host.session, folder).note)
    dead.__enter__()  # and never left: its process was killed
    assert at.host.esxcli("system", "module", "list") != modules
    words = {name: "" for name in ("identity", "vmx_path", "boot_id", "snapshot_name", "partial", "final", "time")}
    facts = {"kind": "backup", "host": "esx70", "vm": "off", "directory": folder, "how": "cold"}
    flags = {"stop": False, "snapshot": False, "restart": False, "power_before": "poweredOff", "created_at": ""}
    job = Job(job="run1-b0123456789ab", run="run1", vmid=1, **words, **facts, **flags)
    source = at.host.find_vm(name="two words").disks()[0].path
    at.machine.fault("slow_clone", rate=256 << 10)
    clone = subprocess.Popen(
        [*at.machine.ssh_argv(), f"vmkfstools -i '{source}' -d thin /vmfs/volumes/backup/p3-other.vmdk"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        running = wait_until(at.processes, "the clone of somebody else", 60)
        busy = Undoer(at.host, job, folder).run(None)
        assert busy.clean and busy.done == () and "another vmkfstools runs" in busy.left[0]
        at.machine.run(f"kill {running[0].split()[0]}")
        wait_until(lambda: not at.processes(), "its end", 60)
        assert Undoer(at.host, job, folder).run(None).done == ("unloaded the kernel module multiextent",)
        assert at.host.esxcli("system", "module", "list") == modules
    finally:
        clone.kill()
        clone.wait()
        at.machine.clear()
        at.machine.run("vmkload_mod -u multiextent; rm -f /vmfs/volumes/backup/p3-other*")
        del dead


PLAY = """
- hosts: {host}
  gather_facts: false
  tasks:
    - name: Copy
      stowage.esxi.vmdk_copy:
        vm: "{vm}"
        dest: "[backup] p3-play"
        snapshot_id: "{{{{ snapshot | default(omit) }}}}"
        reserve_percent: 0
        snapshot_reserve_percent: 0
      delegate_to: "{{{{ place | default('bk1') }}}}"
      {more}
      register: result
    - name: Result
      ansible.builtin.debug:
        msg: "RESULT {{{{ result | to_json }}}}"
"""


class Play:
    """A real ansible-playbook; its lines with the time at which they came."""

    def __init__(self, at: Desk, tmp_path: Path, vm: str, *options: str, more: str = "vars: {}") -> None:
        book = tmp_path / "play.yml"
        book.write_text(PLAY.format(host=at.machine.name, vm=vm, more=more))
        link = tmp_path / "ansible_collections" / "stowage"
        link.mkdir(parents=True, exist_ok=True)
        if not (link / "esxi").is_symlink():
            (link / "esxi").symlink_to(ROOT)
        self.process = subprocess.Popen(
            ["ansible-playbook", "-i", str(at.lab.inventory_path), str(book), *options],
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[tuple[float, str]] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def text(self) -> str:
        return "\n".join(line for _at, line in self.lines)

    def progress(self) -> list[tuple[float, str]]:
        return [(at, line) for at, line in self.lines if re.search(r"scsi0:0  \d+ %", line)]

    def end(self, rc: int = 0) -> str:
        self.process.wait(timeout=400)
        self.reader.join()
        assert self.process.returncode == rc, self.text[-3000:]
        return self.text

    @property
    def result(self) -> dict[str, Any]:
        line = next(line for _at, line in self.lines if "RESULT {" in line)
        return json.loads(json.loads("{" + line.strip().rstrip(",") + "}")["msg"].removeprefix("RESULT "))


def test_the_playbook_shows_percent_rate_and_time_left_while_it_copies(desk, tmp_path):
    at = desk("esx70")
    at.machine.fault("slow_clone", rate=8 << 20)
    vm = at.host.find_vm(name="big")
    ours = snapshots.create(vm, "p3")
    try:
        check = Play(at, tmp_path, "big", "--check", "-e", f"snapshot={ours.id}")
        check.end()
        assert at.new() == [] or all("big" in path for path in at.new())
        play = Play(at, tmp_path, "big", "-e", f"snapshot={ours.id}")
        play.end()
        shown = play.progress()
        assert len(shown) >= 4
        assert re.search(
            r"esx70 big scsi0:0  \d+ %  [\d.]+ [KM]iB of [\d.]+ MiB read  [\d.]+ MiB/s  \d+:\d\d left", play.text
        )
        percents = [int(re.search(r"(\d+) %", line).group(1)) for _at, line in shown]
        assert percents == sorted(percents) and percents[0] < 50 and percents[-1] == 100
        # They came one after the other, not in one piece at the end.
        assert shown[-1][0] - shown[0][0] > 1
        assert play.result["bytes_total"] == check.result["bytes_total"]
        assert [disk["key"] for disk in play.result["disks"]] == [disk["key"] for disk in check.result["disks"]]
        assert "ansible_job_id" not in play.result and "results_file" not in play.result
        left = at.lab.exec("bk1", "ls -d /tmp/stowage-copy.* ~/.ansible_async/* 2>/dev/null").stdout
        assert left == ""
    finally:
        snapshots.remove(vm, ours.id)


@pytest.mark.parametrize(
    ("place", "more"),
    [("bk1", "async: 300\n      poll: 1"), ("localhost", "vars: {ansible_connection: local}")],
    ids=["async", "local"],
)
def test_it_works_under_async_and_on_the_controller_itself(desk, tmp_path, place, more):
    at = desk("esx67")
    play = Play(at, tmp_path, "off67", "-e", f"place={place}", more=more)
    play.end()
    disk = play.result["disks"][0]
    at.compare(disk["source"], disk["dest"])


@pytest.mark.parametrize("who", ["main process", "all of the controller", "module"])
def test_whoever_is_killed_nothing_of_the_copy_is_left(desk, tmp_path, who):
    at = desk("esx70")
    at.machine.fault("slow_clone", rate=256 << 10)
    vm = at.host.find_vm(name="big")
    ours = snapshots.create(vm, "p3")
    try:
        at.before = at.listing()
        play = Play(at, tmp_path, "big", "-e", f"snapshot={ours.id}")
        wait_until(at.processes, "the clone to run", 60)
        wait_until(play.progress, "the first line", 60)
        if who == "main process":
            play.process.kill()
        elif who == "all of the controller":
            os.killpg(play.process.pid, signal.SIGKILL)
        else:
            pids = at.lab.exec("bk1", "cat /tmp/stowage-copy.*/progress.pid").stdout.split()
            assert len(pids) == 1
            at.lab.exec("bk1", f"kill -9 {pids[0]}")
            text = play.end(2)
            assert (
                "ended without a result" in text or "MODULE FAILURE" in text or "Traceback" in text or "killed" in text
            )
        at.nothing_left(150)
    finally:
        play.process.wait(30)
        at.machine.clear()
        snapshots.remove(vm, ours.id)
