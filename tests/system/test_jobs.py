# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The room `jobs` against a simulated host: whole jobs, and sources that move."""

from __future__ import annotations

import os
import posixpath
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, recover
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    ConfigNotCopied,
    NotReadable,
    NotStill,
    VmChanged,
)

from . import stories
from .stories import HOST, NAME, POINT, listed, quick

# A fixture is known by its name in the module that uses it.
before, host, impatient, story = stories.before, stories.host, stories.impatient, stories.story


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


@pytest.mark.parametrize("how", ["cold", "hot"])
def test_a_full_datastore_keeps_no_snapshot_open_and_no_machine_off(story: Any, how: str) -> None:
    """The moment when our snapshot must go is the one when nothing can be written down any more."""
    job = story(how)
    # Where its guest has filled blocks that a thin disk did not have, the merge needs room, too. It is waited for.
    job.context.entry["policy"]["consolidation_timeout"] = 20
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
    assert ended.entry["status"] == "failed"
    if ended.error is not None:
        assert "consolidation" in ended.error.message
        job.cut()
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
        assert (found.outcome, found.error) == ("recovered", None)
    assert not snapshots.consolidation_needed(job.vm) and not snapshots.tree(job.vm).ids


def test_a_machine_that_ran_during_a_cold_copy_gives_no_restore_point(story: Any) -> None:
    job = story("cold")
    known = listed(job.host)
    job.start()
    job.bracket()
    job.copy()
    power.power_on(job.vm, quick())
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
    (ours,) = snapshots.tree(job.vm).named(job.job.snapshot_name)
    snapshots.remove(job.vm, ours.id, waiter=quick())
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
    theirs = snapshots.create(job.vm, "by hand", waiter=quick())
    try:
        assert job.end("failed").error is None
        assert [one.name for one in snapshots.tree(job.vm)] == ["by hand"]
    finally:
        snapshots.remove(job.vm, theirs.id, waiter=quick())


def test_a_suspended_machine_is_copied_as_it_lies_and_stays_suspended(story: Any, host: Host) -> None:
    power.suspend(host.find_vm(name=NAME), quick())
    try:
        job = story("hot")
        assert (job.entry["effective_how"], job.entry["ready"]) == ("cold", True)
        assert job.whole().entry["status"] == "ok"
        assert (job.job.stop, job.job.snapshot) == (False, False)
        assert job.vm.power_state() == "suspended"
    finally:
        power.power_on(host.find_vm(name=NAME), quick())


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
    power.power_off(twin, quick())
    job = story(select=["independent"])
    host.unregister(twin.vmid)
    number = host.register(twin.vmx_path, twin.name)
    try:
        job.start()
        assert number != twin.vmid
        assert backup.job_view(job.job, job.context.folder)["vmid"] == number
        assert job.end("failed", "given up").error is None
    finally:
        power.power_on(host.find_vm(name="independent"), quick())


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
    power.power_off(host.find_vm(name="independent"), quick())
    try:
        job = story(select=["independent"])
        assert job.entry["disk_keys"] == ["scsi0:0", "scsi0:1"]
        power.power_on(host.find_vm(name="independent"), quick())
        with pytest.raises(VmChanged) as caught:
            job.start()
        assert "scsi0:1" in caught.value.message and "independent-persistent" in caught.value.message
        assert lock.look(host.session, [job.entry["directory"]]) == []
        assert job.end("failed", caught.value.as_dict()).entry["error"]["id"] == "vm-changed"
    finally:
        if host.find_vm(name="independent").power_state() != "poweredOn":
            power.power_on(host.find_vm(name="independent"), quick())
