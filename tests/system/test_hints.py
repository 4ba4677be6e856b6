# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that go by the reference snapshot of the one before: what they do not look at is as it was, or they look."""

from __future__ import annotations

import json
import multiprocessing
import os
import posixpath
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import ending, recover
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import (
    REFERENCE_KEPT,
    REFERENCE_REMOVE_DONE,
    REFERENCE_REMOVE_INTENT,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import FILE
from judge import one_moment, raw_copy, same_content

from . import stories, test_dedup
from .stories import HOST, NAME, quick
from .test_dedup import StoreStory, points_in, raw, readers

# A fixture is known by its name in the module that uses it.
before, host, impatient = stories.before, stories.host, stories.impatient
stores, story = test_dedup.stores, test_dedup.story

ON = {"reference": {"enabled": True}}
Make = Callable[..., StoreStory]


def told(job: StoreStory, tmp_path: Path) -> ending.Ended:
    """A whole backup, its restore point held against what lay on the host while it was made."""
    job.start()
    job.bracket()
    frozen = job.vm.frozen_disks(job.log.read()[-1]["id"]) if job.job.snapshot else {"scsi0:0": job.vm.disks()[0].path}
    truth = raw_copy(job.outside(frozen["scsi0:0"]), tmp_path / f"{job.job.job}.truth")
    job.copy()
    job.commit()
    ended = job.end()
    restored = raw(job, points_in(job)[-1], tmp_path)
    assert same_content(restored, truth) == "Images are identical."
    one_moment([restored])
    assert readers(job.host) == []
    return ended


def ids(job: StoreStory) -> list[int | None]:
    return [one.id for one in snapshots.tree(job.vm)]


def file_of(job: StoreStory) -> Path:
    return job.outside(posixpath.join(job.vm.directory, FILE))


def flat_of(job: StoreStory) -> Path:
    """The extent of the base, from outside."""
    return job.outside(posixpath.join(job.vm.directory, f"{NAME}-flat.vmdk"))


def meddled(job: StoreStory) -> int:
    """Somebody writes to a base below a snapshot, while nothing locks it, and leaves size, time and content id as they
    were. Returns where the chunk begins."""
    power.power_off(job.vm, quick())
    path = flat_of(job)
    was = path.stat()
    place = was.st_size - (64 << 10)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(os.urandom(4096))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    power.power_on(job.vm, quick())
    return place // (1 << 20) * (1 << 20)


def test_a_backup_looks_only_at_what_was_written_since_and_a_proof_finds_what_was_not_told(
    story: Make, tmp_path: Path
) -> None:
    first = told(story("hot", **ON), tmp_path)
    assert (first.error, first.entry["hint"]["way"]) == (None, "first")
    job = story("hot", **ON)
    (old,) = ids(job)
    ended = told(job, tmp_path)
    entry, (disk,) = ended.entry, ended.entry["disks"]
    assert (ended.error, entry["status"], entry["warnings"]) == (None, "ok", [])
    assert (entry["hint"]["way"], entry["hint"]["snapshot"], entry["hint"]["unproven"]) == ("hinted", old, 1)
    assert 0 < disk["bytes_read"] < first.entry["disks"][0]["bytes_read"] // 2
    assert "written since the reference snapshot" in disk["notes"][-1] and "the others are" in disk["verified"]
    # It has taken the place of the one before, and is told of.
    assert [entry["reference"]["snapshot"]] == ids(job) != [old]
    assert f"removed reference snapshot {old}" in ended.done
    points = points_in(job)
    assert entry["reference"]["point"] == points[1].point
    assert points[1].facts["hint"]["parent"] == points[0].point == points[1].parent
    assert json.loads(file_of(job).read_text())["snapshot"] == entry["reference"]["snapshot"]

    place = meddled(job)
    job = story("hot", reference={"enabled": True, "prove_backups": 1})
    ended = told(job, tmp_path)
    entry, (disk,) = ended.entry, ended.entry["disks"]
    assert (ended.error, entry["status"], entry["hint"]["way"]) == (None, "ok", "wrong")
    assert f"from byte {place} on" in entry["hint"]["reason"]
    assert entry["hint"]["doubtful"] == [points[1].point] and points[1].point in entry["warnings"][0]
    # All was hashed, and nothing is left that the next one could believe.
    assert disk["bytes_read"] >= first.entry["disks"][0]["bytes_read"]
    assert (entry["reference"], ids(job), file_of(job).exists()) == (None, [], False)


def test_between_two_backups_a_reference_goes_when_its_limits_are_met(story: Make, tmp_path: Path) -> None:
    job = story("hot", **ON)
    kept = job.whole().entry["reference"]
    try:
        (found,) = recover.keep_up(job.host, HOST, [], 60)
        assert (found.removed, found.reason, found.snapshot, found.error) == (False, "", kept["snapshot"], "")
        value = json.loads(file_of(job).read_text())
        file_of(job).write_text(json.dumps({**value, "created_at": "2020-01-01T00:00:00Z"}))
        for check in (True, False):
            (found,) = recover.keep_up(job.host, HOST, [], 60, check)
            assert (found.removed, found.point) == (True, kept["point"]) and "hours old" in found.reason
            assert (len(ids(job)), file_of(job).exists()) == (int(check), check)
        assert recover.recover_host(job.host, HOST, job.state, 0.1, 60) == []
        assert recover.keep_up(job.host, HOST, [], 60) == []
    finally:
        for number in ids(job):
            snapshots.remove(job.vm, number or 0, waiter=quick())


@pytest.mark.soak
def test_what_was_found_wrong_is_believed_again_when_the_policy_was_off_for_one_backup(
    story: Make, tmp_path: Path
) -> None:
    told(story("hot", **ON), tmp_path)
    meddled(story("hot", **ON))
    # Who has all of it compared with its source is not told what need not be read.
    assert told(story("hot", **ON, verify="full"), tmp_path).entry["hint"]["way"] == "wrong"
    for _turn in range(2):
        job = story("hot", **ON)
        entry = told(job, tmp_path).entry
        assert (entry["hint"]["way"], ids(job)) == ("dropped", []) and "found wrong" in entry["warnings"][0]
    assert told(story("hot"), tmp_path).entry["hint"] is None
    assert [told(story("hot", **ON), tmp_path).entry["hint"]["way"] for _turn in range(2)] == ["first", "hinted"]
    job = story("hot")
    ended = told(job, tmp_path)
    assert (ended.entry["hint"], ended.entry["reference"], ids(job)) == (None, None, [])


def gone(job: StoreStory) -> None:
    """The reference, by hand."""
    for number in ids(job):
        snapshots.remove(job.vm, number or 0, waiter=quick())
    file_of(job).unlink()


def rewritten(job: StoreStory, **changes: Any) -> None:
    file_of(job).write_text(json.dumps({**json.loads(file_of(job).read_text()), **changes}))


def between(job: StoreStory) -> None:
    snapshots.create(job.vm, "somebody's own", waiter=quick())


def removed(job: StoreStory) -> None:
    snapshots.remove(job.vm, ids(job)[0] or 0, waiter=quick())


def touched(job: StoreStory) -> None:
    os.utime(flat_of(job), (1, 1))


def other_cid(job: StoreStory) -> None:
    """A base that was exchanged, and the delta above fitted to it, as repair tools do."""
    base = job.outside(posixpath.join(job.vm.directory, f"{NAME}.vmdk"))
    text = base.read_text()
    old = next(line for line in text.split("\n") if line.startswith("CID="))[4:]
    base.write_text(text.replace(f"CID={old}", "CID=0badcafe", 1))
    for path in base.parent.glob(f"{NAME}-0*.vmdk"):
        if path.stat().st_size < 4096:
            path.write_text(path.read_text().replace(f"parentCID={old}", "parentCID=0badcafe"))


def point_gone(job: StoreStory) -> None:
    job.context.stores.open(job.entry["target"]).backend.delete(points_in(job)[-1].object_name)


def garbled(job: StoreStory) -> None:
    file_of(job).write_text("{")


DOUBTS: dict[str, tuple[Callable[[StoreStory], None], str]] = {
    "touched": (touched, "was written to"),
    "content id": (other_cid, "content id"),
    "removed": (removed, "is gone"),
    "point gone": (point_gone, "is not in the store any more"),
    "garbled": (garbled, "cannot be understood"),
    "another machine": (lambda job: rewritten(job, identity="another"), "another VM"),
    "another host": (lambda job: rewritten(job, host="esx70"), "taken on esx70"),
    "another store": (lambda job: rewritten(job, store="/srv/other"), "restore point is in /srv/other"),
    "another size": (lambda job: rewritten(job, sizes={"scsi0:0": 5}), "its size went from 5"),
    "no disk": (lambda job: rewritten(job, disks=[]), "was not in the reference"),
    "between": (between, "somebody's own"),
}


@pytest.mark.soak
def test_on_each_doubt_everything_is_hashed_and_told_and_a_new_reference_is_kept(story: Make, tmp_path: Path) -> None:
    first = story("hot", keep={"last": 100}, **ON).whole()
    for kind, (act, words) in DOUBTS.items():
        job = story("hot", keep={"last": 100}, **ON)
        act(job)
        foreign = [one.id for one in snapshots.tree(job.vm) if one.name == "somebody's own"]
        ended = told(job, tmp_path)
        entry, (disk,) = ended.entry, ended.entry["disks"]
        assert (ended.error, entry["status"], entry["hint"]["way"]) == (None, "ok", "hashed"), kind
        assert words in entry["hint"]["reason"] and words in entry["warnings"][0], kind
        assert disk["bytes_read"] >= first.entry["disks"][0]["bytes_read"], kind
        # One of ours is left, and nothing of anybody else's was touched.
        assert ids(job) == [*foreign, entry["reference"]["snapshot"]], kind
    job = story("hot", **ON)
    assert told(job, tmp_path).entry["hint"]["way"] == "hinted"
    assert (told(story("hot"), tmp_path).entry["reference"], ids(job)) == (None, foreign)
    for number in foreign:
        snapshots.remove(job.vm, number or 0, waiter=quick())


@pytest.mark.soak
def test_the_reference_of_a_machine_that_has_got_another_uuid_goes_with_its_next_backup(
    story: Make, tmp_path: Path
) -> None:
    told(story("hot", **ON), tmp_path)
    job = story("hot", **ON)
    power.shutdown_guest(job.vm, quick())
    file = job.outside(job.vm.vmx_path)
    text = file.read_text()
    try:
        for key in ("uuid.bios", "vc.uuid"):
            (old,) = (line for line in text.split("\n") if line.startswith(f"{key} = "))
            text = text.replace(old, old[:-3] + ("0" if old[-2] != "0" else "1") + '"')
        file.write_text(text)
        job.host.vim("vmsvc/reload", str(job.vm.vmid))
    finally:
        power.power_on(job.vm, quick())
    (was,) = ids(job)
    other = story("hot", **ON)
    assert other.entry["identity"] != job.entry["identity"]
    entry = told(other, tmp_path).entry
    assert entry["hint"]["way"] == "hashed" and ids(other) == [entry["reference"]["snapshot"]] != [was]
    gone(other)


@pytest.mark.soak
def test_a_machine_that_was_reverted_to_the_reference_itself_is_still_told_rightly(story: Make, tmp_path: Path) -> None:
    told(story("hot", **ON), tmp_path)
    job = story("hot", **ON)
    (number,) = ids(job)
    snapshots.revert(job.vm, number or 0, False, quick())
    power.power_on(job.vm, quick())
    job = story("hot", **ON)
    assert told(job, tmp_path).entry["hint"]["way"] == "hinted"
    gone(job)


@pytest.mark.soak
def test_a_machine_that_was_reverted_below_the_reference_is_hashed(story: Make, tmp_path: Path) -> None:
    job = story("hot", **ON)
    snapshots.create(job.vm, "mine", waiter=quick())
    (mine,) = ids(job)
    told(story("hot", **ON), tmp_path)
    snapshots.revert(job.vm, mine or 0, False, quick())
    power.power_on(job.vm, quick())
    job = story("hot", **ON)
    entry = told(job, tmp_path).entry
    assert entry["hint"]["way"] == "hashed" and "reverted" in entry["warnings"][0]
    assert ids(job) == [mine, entry["reference"]["snapshot"]]
    told(story("hot"), tmp_path)
    assert ids(job) == [mine]
    snapshots.remove(job.vm, mine or 0, waiter=quick())


@pytest.mark.soak
def test_a_machine_that_is_off_goes_by_the_reference_too_which_then_stays(story: Make, tmp_path: Path) -> None:
    told(story("hot", **ON), tmp_path)
    job = story("hot", **ON)
    was = ids(job)
    power.shutdown_guest(job.vm, quick())
    try:
        for _turn in range(2):
            job = story("hot", **ON)
            ended = told(job, tmp_path)
            assert (ended.entry["effective_how"], ended.entry["hint"]["way"]) == ("cold", "hinted")
            assert (ids(job), ended.entry["reference"]["snapshot"]) == (was, was[0])
    finally:
        power.power_on(job.vm, quick())
    assert told(story("hot", **ON), tmp_path).entry["hint"]["way"] == "hinted"
    gone(job)


@pytest.mark.soak
def test_a_failed_backup_leaves_the_reference_of_the_one_before(story: Make, tmp_path: Path) -> None:
    told(story("hot", **ON), tmp_path)
    job = story("hot", **ON)
    was, file = ids(job), file_of(job).read_text()
    job.start()
    job.bracket()
    ended = job.end("failed", "on purpose")
    assert (ended.error, ids(job), file_of(job).read_text()) == (None, was, file)
    assert told(story("hot", **ON), tmp_path).entry["hint"]["way"] == "hinted"
    gone(job)


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("event", [REFERENCE_REMOVE_INTENT, REFERENCE_REMOVE_DONE, REFERENCE_KEPT])
def test_whatever_the_end_was_doing_when_it_was_killed_recover_leaves_one_reference_or_none(
    story: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, after: bool
) -> None:
    story("hot", **ON).whole()
    job = story("hot", **ON)
    job.start()
    job.bracket()
    job.copy()
    job.commit()
    note = IntentLog.note

    def dies(log: IntentLog, what: str, **data: Any) -> None:
        if what == event and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        note(log, what, **data)
        if what == event:
            os.kill(os.getpid(), signal.SIGKILL)

    def rest() -> None:
        monkeypatch.setattr(IntentLog, "note", dies)
        job.end()

    process = multiprocessing.get_context("fork").Process(target=rest)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert (found.outcome, found.left) == ("recovered", ())
    # What there is is written down, and what is written down is there.
    text = file_of(job).read_text() if file_of(job).exists() else ""
    assert ids(job) == ([json.loads(text)["snapshot"]] if text else [])
    assert bool(text) is ((event == REFERENCE_KEPT and after) or (event == REFERENCE_REMOVE_INTENT and not after))
    assert told(story("hot", **ON), tmp_path).entry["hint"]["way"] == ("hinted" if text else "first")
    gone(job)
