# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One machine, several backup points: one snapshot, and of each copy an outcome that is its own."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, copying, ending, record, recover
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from house import POINT as HOUSE_POINT
from house import House
from judge import prove_disks

from . import stories
from .conftest import Lab
from .stories import HOST, NAME, POINT, Story

# A fixture is known by its name in the module that uses it.
before, host, impatient, story = stories.before, stories.host, stories.impatient, stories.story
OTHER = "/vmfs/volumes/backup/jobs-other"


def also(job: Story, number: int) -> backup.Context:
    (entry,) = (one for one in job.entry["also"] if one["copy_number"] == number)
    return backup.Context(job.host, entry, job.context.run_id, job.state, HOST, "tests", stores=job.context.stores)


def copy_to(job: Story, part: Any) -> None:
    for disk in part.disks:
        dest = posixpath.join(part.partial, disk["key"].replace(":", "-") + ".vmdk")
        job.host.run("vmkfstools", "-i", disk["source"], "-d", "thin", dest, timeout_seconds=300)


@pytest.mark.parametrize("how", ["hot", pytest.param("cold", marks=pytest.mark.soak)])
def test_a_job_that_is_killed_between_two_points_keeps_the_one_and_recover_removes_the_half_other(
    story: Callable[..., Story], how: str
) -> None:
    job = story(how, point=None, points=[POINT, OTHER])
    job.start()
    job.bracket()
    first, second = job.job.copies
    copy_to(job, first)
    made = job.commit()["path"]
    copy_to(job, second)
    assert job.outside(second.partial).is_dir()
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert found.outcome == "recovered" and any(second.partial in step for step in found.done)
    assert not job.outside(second.partial).exists() and not job.outside(OTHER).joinpath("x").exists()
    assert made in stories.listed(job.host)
    merged = record.merge(job.state, job.context.run_id)
    assert [(one["backup_point"], one["status"], one["restore_point"]) for one in merged["vms"]] == [
        (POINT, "interrupted", made),
        (OTHER, "interrupted", None),
    ]


def test_a_folder_and_a_store_are_filled_under_one_snapshot_and_each_is_rotated_by_its_own_rule(
    clean_lab: Lab, host: Any, tmp_path: Path, before: Any
) -> None:
    Store.create(LocalBackend(str(tmp_path / "store"))).close()
    points = [{"point": POINT, "keep": {"last": 50}}, {"point": str(tmp_path / "store"), "program": "dedup"}]
    with Stores(Access(scope="store"), host) as stores:
        job = Story(clean_lab, host, tmp_path, "several-1", "hot", stores, point=None, points=points)
        job.start()
        job.bracket()
        first, second = job.job.copies
        copy_to(job, first)
        job.commit()
        context = also(job, 1)
        snapshot = next(event["id"] for event in job.log.read() if event["event"] == "snapshot-done")
        told = copying.perform(host, _store_params(job, second, snapshot), stores)
        point = backup.commit(context, told["disks"])[0]
        ended = ending.end(job.context, "ok", others={1: {"copy_number": 1, "copies": told["disks"]}})
    assert ended.error is None and [one["status"] for one in (ended.entry, *ended.others)] == ["ok", "ok"]
    assert ended.others[0]["restore_point"] == point["path"] and ended.others[0]["bytes_new"] > 0
    assert [len(one["rotation"]["kept"]) > 0 for one in (ended.entry, *ended.others)] == [True, True]


def _store_params(job: Story, part: Any, snapshot: int) -> dict[str, Any]:
    return {
        "vmid": part.vmid,
        "disks": part.disk_keys,
        "snapshot_id": snapshot,
        "dest": part.final,
        "program": "dedup",
        "disk_format": "thin",
        "include_config": False,
        "verify": "sample",
        "reserve_percent": 0,
        "snapshot_reserve_percent": 1,
        "journal": job.context.folder,
        "job_id": part.job,
        "copy_number": part.copy,
        "limits_dir": str(Path(job.state) / "limits"),
        "limits_timeout": 60,
        "state_dir": job.state,
    }


@pytest.mark.soak
def test_a_playbook_fills_what_can_be_filled_and_names_the_point_that_could_not(house: House, tmp_path: Path) -> None:
    blocked, store = f"{HOUSE_POINT}/blocked", "/var/stowage-points"
    house.lab.run("esx80", "touch", blocked)
    points = [blocked, {"point": store, "program": "dedup", "keep": {"last": 2}}, HOUSE_POINT]
    try:
        run = house.controller.play(
            "backup_hot",
            *("--limit", "esx80"),
            backup_select=[f"name:{NAME}"],
            backup_points=points,
            backup_store_create=True,
            backup_reserve_percent=0,
        ).must_end_with(2)
    finally:
        house.lab.run("esx80", "rm", "-f", blocked)
    entries = house.record(run)["vms"]
    assert [(one["copy_number"], one["backup_point"], one["program"], one["status"]) for one in entries] == [
        (0, blocked, "vmkfstools", "failed"),
        (1, store, "dedup", "ok"),
        (2, HOUSE_POINT, "vmkfstools", "ok"),
    ]
    # What kept the copy from being begun, not how it failed later on.
    assert "mkdir" in entries[0]["error"]["message"] or "Making" in entries[0]["error"]["message"], entries[0]["error"]
    assert entries[1]["restore_point"].startswith(f"{store}::") and entries[2]["restore_point"].startswith(HOUSE_POINT)
    assert f"{NAME} ({blocked})" in run.text and "(2 of 3 copies)" in run.text
    assert f"also to {store} (dedup): ready" in run.text
    assert run.stats["stowage_run"]["green"] is False and run.stats["stowage_run"]["machines"] == 1
    assert house.differences("esx80") == []
    (point,) = [one for one in house.points(NAME) if one.manifest["run"] == run.stats["stowage_run"]["run_id"]]
    assert "one moment" in prove_disks(point.disks, tmp_path)
