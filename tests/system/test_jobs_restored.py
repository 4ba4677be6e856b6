# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The room `jobs` against a simulated host: restores, whole and taken back."""

from __future__ import annotations

import os
import posixpath
import time
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import ending, recover, restore, restoring
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RestoreRefused

from . import stories
from .stories import HOST, NAME, POINT, Story, quick

# A fixture is known by its name in the module that uses it.
before, host, impatient, story = stories.before, stories.host, stories.impatient, stories.story


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
        assert power.power_on(vm, quick()).after == "poweredOn"
        assert vm.question() is None
        again = restore_context(job, "restore2")
        assert again.entry["already"] is True and again.entry["vmid"] == vm.vmid
        with pytest.raises(RestoreRefused) as caught:
            restore_context(job, "restore3", name=NAME)
        assert "poweredOn" in caught.value.message
    finally:
        power.power_off(vm, quick())
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
