# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points as folders of images: made, found, read, rotated; half copies known; other machines' left alone."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    imagefolder,
    keeping,
    names,
    places,
    rsynccopy,
    rsyncplace,
    rsyncrestore,
    storeroom,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    BadConfigFile,
    BadManifest,
    NotReadable,
    PointExists,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import render_manifest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import vm_policy_from_dict
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import INTENT
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import intoimages, spot
from ansible_collections.stowage.esxi.plugins.module_utils.programs.imagefile import ImageFile
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.localdisk import LocalDisk
from jobs_values import make_job

IDENTITY = "id-web01"
SIZE = 3 << 20
NOBODY: Any = None


@pytest.fixture
def stores() -> Stores:
    return Stores(Access())


@pytest.fixture
def place(stores: Stores) -> rsyncplace.RsyncPlace:
    found = places.of("rsync", stores)
    assert isinstance(found, rsyncplace.RsyncPlace)
    return found


def job_at(point: Path, time: str, **changes: Any) -> Job:
    policy = {"point": str(point), "program": "rsync", "keep": {"last": 2}}
    values = {"identity": IDENTITY, "partial": "", "final": str(point), "policy": policy, "time": time}
    return make_job(**{**values, **changes})


def folder_of(point: Path, job: Job) -> Path:
    return point / names.point_folder_name(job.vm, job.identity)


def fill(point: Path, job: Job) -> Path:
    """A restore point as the copy makes it, of one small disk."""
    folder = folder_of(point, job)
    partial, final = folder / names.partial_name(job.time, job.job), folder / job.time
    imagefolder.prepare(str(partial), job.job, ["scsi0:0"])
    with ImageFile(str(partial / "scsi0-0-flat.vmdk"), SIZE) as image:
        image.put(b"\1" * (1 << 20), 1 << 20)
        image.finish()
    intoimages.write_descriptor(str(partial), "scsi0:0", SIZE)
    imagefolder.put_files(str(partial), {"a.vmx": b"vmx"})
    disk = {
        "key": "scsi0:0",
        "label": "Hard disk 1",
        "file": "scsi0-0.vmdk",
        "capacity_bytes": SIZE,
        "allocated_bytes": 1 << 20,
        "cid": "0000000a",
        "format": "image",
        "source": "/vmfs/volumes/ds/web01/web01.vmdk",
    }
    files = [
        {"name": name, "size": (partial / name).stat().st_size, "role": "vmx" if name == "a.vmx" else "disk"}
        for name in sorted(os.listdir(partial))
    ]
    vm = {"name": job.vm, "identity": job.identity, "uuid": job.identity}
    facts = {"time": job.time, "job": job.job, "host": job.host, "vm": vm, "disks": [disk], "files": files}
    imagefolder.commit(str(partial), str(final), render_manifest(facts))
    return final


def test_points_are_found_read_told_and_rotated_and_what_a_killed_job_left_goes(
    place: rsyncplace.RsyncPlace, tmp_path: Path
) -> None:
    times = [f"2026112{day}T200000Z" for day in range(1, 5)]
    jobs = [job_at(tmp_path, time) for time in times]
    made = [str(fill(tmp_path, job)) for job in jobs]
    other = fill(tmp_path, job_at(tmp_path, times[0], identity="id-db01", vm="db01"))
    twin = fill(tmp_path, job_at(tmp_path, "20261119T200000Z", host="esx2"))
    folder = folder_of(tmp_path, jobs[0])
    half, foreign = folder / names.partial_name(times[3], jobs[3].job), folder / ".partial-somebody"
    half.mkdir()
    foreign.mkdir()
    found, bad = place.find(NOBODY, str(tmp_path))
    assert [one.path for one in found if one.host == jobs[0].host and one.identity == IDENTITY] == made[::-1]
    assert bad == []
    (one,), none = place.find(NOBODY, made[0])
    assert (one.time, none) == (times[0], [])
    assert place.read_text(NOBODY, one.file_of("vmx") or "") == "vmx"
    place.read_back(NOBODY, one)
    with pytest.raises(BadManifest):
        place.read(NOBODY, str(folder / "20200101T000000Z"))
    point = f"{folder.name}/{times[3]}"
    begun = Events(({"event": INTENT, "point": point}, {"event": "commit-done", "final": made[3]}))
    assert place.made(NOBODY, jobs[3], begun) == made[3]
    assert place.made(NOBODY, job_at(tmp_path, times[3], run="x", job="x-b000000000000"), begun) == ""
    reader: Any = SimpleNamespace(kind="restore", extra={"restore_point": {"path": made[0]}})
    turned = place.rotate(NOBODY, jobs[3], begun, vm_policy_from_dict(jobs[3].policy), [reader])
    assert (turned["problems"], [line["path"] for line in turned["removed"]]) == ([], [made[1]])
    left = {path.name for path in folder.iterdir()}
    assert left == {times[0], times[2], times[3], twin.name, foreign.name} and other.is_dir()


def clock_at(moment: str) -> Any:
    """A hypervisor, of which nothing is asked but the time."""
    seconds = int(datetime.fromisoformat(moment).timestamp())
    session = SimpleNamespace(
        run=lambda argv: SimpleNamespace(stdout=f"{seconds}\n" if argv == ["date", "+%s"] else "")
    )
    return SimpleNamespace(name="esx1", session=session)


def test_a_backup_server_whose_clock_jumped_ahead_makes_no_image_old(
    place: rsyncplace.RsyncPlace, tmp_path: Path
) -> None:
    """All of 2026 is old by a clock that stands a year later; the hypervisor's is the second one."""
    days = [datetime.now(timezone.utc) - timedelta(days=number) for number in (400, 399, 398)]
    jobs = [job_at(tmp_path, day.strftime("%Y%m%dT%H%M%SZ")) for day in days]
    made = [str(fill(tmp_path, job)) for job in jobs]
    begun = Events(({"event": INTENT, "point": made[2]}, {"event": "commit-done", "final": made[2]}))
    policy = vm_policy_from_dict({**jobs[2].policy, "keep": {"last": 0, "within_days": 7}})
    turned = place.rotate(clock_at(days[2].isoformat()), jobs[2], begun, policy, [])
    assert turned["removed"] == [] and "the clock of esx1 says" in turned["problems"][0]
    # Prune has no hypervisor: what was made last was made by now.
    report = keeping.in_images(place.stores, str(tmp_path), keeping.Rules(Keep(last=0, within_days=7)))
    assert report.removed == []
    turned = place.rotate(clock_at(datetime.now(timezone.utc).isoformat()), jobs[2], begun, policy, [])
    assert [line["path"] for line in turned["removed"]] == made[1::-1] and turned["problems"] == []


def test_an_image_that_is_cut_is_no_readable_point(place: rsyncplace.RsyncPlace, tmp_path: Path) -> None:
    made = fill(tmp_path, job_at(tmp_path, "20261121T200000Z"))
    os.truncate(made / "scsi0-0-flat.vmdk", SIZE - 512)
    with pytest.raises(NotReadable, match="size"):
        place.read_back(NOBODY, place.read(NOBODY, str(made)))


def test_a_second_point_of_one_name_is_refused(tmp_path: Path) -> None:
    job = job_at(tmp_path, "20261121T200000Z")
    fill(tmp_path, job)
    with pytest.raises(PointExists):
        fill(tmp_path, job)


def test_of_half_copies_the_newest_is_gone_on_with_and_only_its_images_stay(tmp_path: Path) -> None:
    job = job_at(tmp_path, "20261124T200000Z")
    folder = folder_of(tmp_path, job)
    own = job.job[-len("-b000000000000") :]
    old, newest, foreign = (
        folder / name
        for name in (
            f".partial-20261121T200000Z-run1{own}",
            f".partial-20261122T200000Z-run2{own}",
            ".partial-20261123T200000Z-run3-b0123456789ac",
        )
    )
    for path in (old, newest, foreign):
        path.mkdir(parents=True)
        for name in ("scsi0-0-flat.vmdk", "scsi0-1-flat.vmdk", "stowage.json"):
            (path / name).write_text(path.name)
    begun = folder / names.partial_name(job.time, job.job)
    assert imagefolder.prepare(str(begun), job.job, ["scsi0:0"]) == newest.name
    assert [one.name for one in begun.iterdir()] == ["scsi0-0-flat.vmdk"]
    assert (begun / "scsi0-0-flat.vmdk").read_text() == newest.name
    assert (old.exists(), newest.exists(), foreign.exists()) == (False, False, True)
    place = places.of("rsync", Stores())
    assert place.half_copy(job) == str(begun)
    assert place.half_copy(job_at(tmp_path, "20261125T200000Z")) == ""
    # A step that is repeated finds its own.
    assert imagefolder.prepare(str(begun), job.job, ["scsi0:0"]) == begun.name


def test_a_next_point_begins_from_the_newest_of_the_same_hypervisor(stores: Stores, tmp_path: Path) -> None:
    mine = fill(tmp_path, job_at(tmp_path, "20261121T200000Z"))
    fill(tmp_path, job_at(tmp_path, "20261122T200000Z", host="esx2"))
    job, where = job_at(tmp_path, "20261123T200000Z", vm="renamed"), spot.parse(str(tmp_path))
    with rsyncplace.machine_of(stores, where) as there:
        newest = rsyncplace.newest(there, where, job)
        # A machine keeps its folder when it gets another name.
        assert rsyncplace.folder_of(there, where, job) == str(mine.parent)
    assert newest is not None and newest.path == str(mine)
    assert imagefolder.former_images(newest, newest.path) == {"scsi0:0": str(mine / "scsi0-0-flat.vmdk")}


def test_a_file_of_the_machine_that_has_the_name_of_an_image_is_refused() -> None:
    for name in ("scsi0-0-flat.vmdk", "scsi0-0.vmdk", "stowage.json", "stowage.hold"):
        with pytest.raises(BadConfigFile, match=name):
            rsynccopy.must_not_collide("web01", {"web01.vmx": b"", name: b""}, ["scsi0:0"])
    rsynccopy.must_not_collide("web01", {"web01.vmx": b"", "scsi0-1.vmdk": b""}, ["scsi0:0"])


def test_a_disk_is_read_from_its_begin_to_its_end_with_its_holes(tmp_path: Path) -> None:
    made = fill(tmp_path, job_at(tmp_path, "20261121T200000Z"))
    disk = LocalDisk(str(made / "scsi0-0.vmdk"))
    try:
        for count in (70000, 1 << 20, SIZE + 1):
            pieces = list(iter(partial(rsyncrestore.reader(disk), count), b""))
            assert b"".join(pieces) == (made / "scsi0-0-flat.vmdk").read_bytes()
    finally:
        disk.close()


@pytest.mark.parametrize("count", [70000, 1 << 20, 5 << 20])
@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [(0, 2 << 20), (2 << 20, 1 << 20), (5 << 20, 1000)],
        [(1 << 20, 1 << 20), (4 << 20, (1 << 20) + 1000)],
    ],
)
def test_a_disk_on_another_server_is_read_from_its_begin_to_its_end_with_its_holes(
    ranges: list[tuple[int, int]], count: int
) -> None:
    size = (5 << 20) + 1000
    data = bytearray(size)
    pieces = []
    for number, (offset, length) in enumerate(ranges):
        data[offset : offset + length] = bytes([number + 1]) * length
        pieces += [(at, min(1 << 20, offset + length - at)) for at in range(offset, offset + length, 1 << 20)]
    read: Any = SimpleNamespace(size=size, slots=lambda: iter(pieces))
    take = rsyncrestore.in_order(read, iter([bytes(data[at : at + length]) for at, length in pieces]))
    assert b"".join(iter(partial(take, count), b"")) == bytes(data)


def test_a_plan_names_what_is_wrong_with_a_backup_point(tmp_path: Path) -> None:
    def ask(location: str) -> Any:
        return storeroom.look(Stores(Access()), location, "rsync")

    # It is made with the first copy.
    assert ask(str(tmp_path / "not" / "yet")).free_bytes > 0
    (tmp_path / "file").write_text("")
    assert "no folder that can be written to" in ask(str(tmp_path / "file" / "x")).problem["message"]
