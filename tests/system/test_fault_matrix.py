# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault of the lab in the middle of a job: what the operator is told, and what is left. Held by docs/faults.md.

Each test ends with the look of `before`: power, snapshot tree and files of the VM as they were, no half copy, no
process. A restore point is there exactly when the job ended without an error.
"""

from __future__ import annotations

import posixpath
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import bracket, copying, recover
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.ending import Ended

from . import test_jobs
from .conftest import Lab, LabHost, wait_until
from .test_jobs import HOST, Story, listed, quick

# The fixtures of those tests.
before, host, impatient, story = test_jobs.before, test_jobs.host, test_jobs.impatient, test_jobs.story
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
        frozen(job)
        snapshot = job.vm.snapshots().named(job.job.snapshot_name) if job.job.snapshot else []
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
SAMPLE = list(ROWS)[:3]


@pytest.mark.parametrize("name", [name if name in SAMPLE else pytest.param(name, marks=soak) for name in ROWS])
def test_a_fault_is_told_and_leaves_nothing(story: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    how, faults, wanted = ROWS[name]
    # A guest that was asked to shut down is waited for as long as its policy says.
    job = story(how, shutdown_timeout=25)
    known = listed(job.host)
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
        theirs.append(job.vm.create_snapshot("by hand", waiter=quick()).id)

    try:
        told, ended = play(job, frozen=taken)
        judge(job, known, told, ended, "ok")
        assert [one.name for one in job.vm.snapshots()] == ["by hand"]
    finally:
        job.vm.remove_snapshot(theirs[0], waiter=quick())


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
        vm.power_off(quick())
        vmx.write_text(text, encoding="utf-8")
        job.host.vim("vmsvc/reload", str(vm.vmid))
        job.vm.power_on(quick())


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
            vm.power_on(quick())
