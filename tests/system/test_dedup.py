# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that go from a hypervisor straight into a store, and what comes back out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, copying
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.store import restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from judge import one_moment

from . import stories
from .conftest import Lab
from .stories import Story

# A fixture is known by its name in the module that uses it.
before, host, impatient = stories.before, stories.host, stories.impatient
SECRET = "correct horse"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    Store.create(LocalBackend(str(tmp_path / "store")), passphrase=SECRET).close()
    with Stores(Access(passphrase=SECRET)) as opened:
        yield opened


class StoreStory(Story):
    """The same job, told with the copy step of the program dedup."""

    told: dict[str, Any]

    def params(self) -> dict[str, Any]:
        snapshot = next((one.id for one in self.vm.snapshots() if one.name == self.job.snapshot_name), None)
        return {
            "vmid": self.job.vmid,
            "disks": self.job.disk_keys,
            "snapshot_id": snapshot,
            "dest": self.job.final,
            "program": "dedup",
            "disk_format": "thin",
            "include_config": False,
            "verify": "sample",
            "reserve_percent": 0,
            "snapshot_reserve_percent": 1,
            "journal": self.context.folder,
            "job_id": self.job.job,
            "limits_dir": str(Path(self.state) / "limits"),
            "limits_timeout": 60,
            "state_dir": self.state,
        }

    def copy(self) -> None:
        self.told = copying.perform(self.host, self.params(), self.context.stores)


@pytest.fixture
def story(
    clean_lab: Lab, host: Host, stores: Stores, tmp_path: Path, before: Any, request: Any
) -> Callable[..., StoreStory]:
    number = iter(range(100))

    def make(how: str = "hot", **policy: Any) -> StoreStory:
        run = f"{abs(hash(request.node.name)) % 10**8:08d}-{next(number)}"
        where = {"program": "dedup", "point": str(tmp_path / "store")}
        return StoreStory(clean_lab, host, tmp_path, run, how, stores, **where, **policy)

    return make


def points_in(story: StoreStory) -> list[Point]:
    return story.context.stores.open(story.entry["target"]).points()


def raw(story: StoreStory, point: Point, tmp_path: Path) -> Path:
    """The only disk of a point as a plain file, restored by the store alone."""
    target = tmp_path / f"{point.point}.raw"
    restore.to_file(story.context.stores.open(story.entry["target"]), point.disks[0], str(target))
    return target


@pytest.mark.parametrize("how", ["hot", "warm", "cold"])
def test_a_machine_goes_into_a_store_twice_and_the_second_time_only_what_changed(
    story: Callable[..., StoreStory], tmp_path: Path, how: str
) -> None:
    first = story(how)
    assert first.whole().entry["status"] == "ok"
    time.sleep(1)
    second = story(how)
    ended = second.whole()
    assert (ended.error, ended.entry["status"]) == (None, "ok")
    old, new = points_in(second)
    assert (new.parent, ended.entry["restore_point"]) == (old.point, f"{second.entry['target']}::{new.point}")
    for point in (old, new):
        verdict = one_moment([raw(second, point, tmp_path)])
        assert bool(verdict.get("clean")) is (how != "hot")
    (was,), (now,) = first.told["disks"], second.told["disks"]
    assert 0 < now["sent_bytes"] < was["sent_bytes"] <= was["read_bytes"]
    assert (ended.entry["bytes_sent"], ended.entry["bytes"]) == (
        second.told["told"]["sent"],
        second.told["copied_bytes"],
    )
    assert now["method"] == "agent"
    assert backup.entry_of(second.context)["disks"][0]["status"] == "ok"
