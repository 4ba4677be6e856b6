# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that go by the reference snapshot of the one before: what they do not look at is as it was, or they look."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from pathlib import Path

from ansible_collections.stowage.esxi.plugins.module_utils.jobs import ending
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import FILE
from judge import one_moment, raw_copy, same_content

from . import stories, test_dedup
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
    return [one.id for one in job.vm.snapshots()]


def file_of(job: StoreStory) -> Path:
    return job.outside(posixpath.join(job.vm.directory, FILE))


def test_a_backup_looks_only_at_what_was_written_since_the_reference(story: Make, tmp_path: Path) -> None:
    first = told(story("hot", **ON), tmp_path)
    assert first.entry["hint"]["way"] == "first" and first.error is None
    for turn in (1, 2):
        job = story("hot", **ON)
        (old,) = ids(job)
        ended = told(job, tmp_path)
        entry, (disk,) = ended.entry, ended.entry["disks"]
        assert (ended.error, entry["status"], entry["warnings"]) == (None, "ok", [])
        assert (entry["hint"]["way"], entry["hint"]["snapshot"], entry["hint"]["unproven"]) == ("hinted", old, turn)
        assert 0 < disk["bytes_read"] < first.entry["disks"][0]["bytes_read"]
        assert "written since the reference snapshot" in disk["notes"][-1] and "the others are" in disk["verified"]
        # It has taken the place of the one before, and is told of.
        assert [entry["reference"]["snapshot"]] == ids(job) != [old]
        assert entry["reference"]["point"] == points_in(job)[-1].point
        assert points_in(job)[-1].facts["hint"]["parent"] == points_in(job)[-2].point == points_in(job)[-1].parent
        assert json.loads(file_of(job).read_text())["snapshot"] == entry["reference"]["snapshot"]
    # What a policy asks for no more goes.
    job = story("hot")
    ended = told(job, tmp_path)
    assert (ended.entry["hint"], ended.entry["reference"], ids(job)) == (None, None, [])
    assert f"removed reference snapshot {entry['reference']['snapshot']}" in ended.done
