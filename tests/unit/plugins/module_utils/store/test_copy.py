# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points go to a second store and come back, whatever keys and hashes the two have."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import copy, prune, registry, repair
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    ChunkSizesDiffer,
    QuotaReached,
    SameStore,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.location import S3Access, backend_at
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.stored import StoredDisk

from .benches import CHUNK, SECRET, back_up, by_hand, image, local, new_store, restored, s3, sound, spoiled
from .test_prune import history


@pytest.fixture(params=["same", "encrypted", "blake3", pytest.param("s3", marks=pytest.mark.xdist_group("s3"))])
def second(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    (tmp_path / "second").mkdir()
    if request.param == "s3":
        return new_store(s3(request.getfixturevalue("s3_server")))
    secret = SECRET if request.param == "encrypted" else None
    return new_store(local(tmp_path / "second"), secret, "blake3" if request.param == "blake3" else "sha256")


def test_a_copy_restores_and_the_next_one_costs_what_has_changed(plain: Store, second: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [*range(1, 30), 0, 0, 31])
    first, _told = back_up(plain, disk)
    check = copy.run(plain, second, check=True)
    assert [one.point for one, made in check.copied] == [first.point] and second.points() == []
    report = copy.run(plain, second)
    ((_original, made),) = report.copied
    assert made is not None and made.point.partition("-")[0] == first.point.partition("-")[0]
    assert made.created_at == first.created_at and report.told.new == 30 * CHUNK
    assert restored(second, made, tmp_path) == disk.read_bytes()
    image(disk, [1, 99, *range(3, 30), 0, 0, 0, 40])
    day, _told = back_up(plain, disk, parent=first)
    report = copy.run(plain, second)
    assert [point.point for point in report.there] == [first.point]
    assert (report.told.read, report.told.new) == (2 * CHUNK, 2 * CHUNK)
    ((_original, made),) = report.copied
    assert made is not None and restored(second, made, tmp_path) == disk.read_bytes()
    assert second.read_record(made.files[0].id or b"") == b"displayName vm-1"
    sound(second)
    assert copy.run(plain, second).copied == [] and len(second.points()) == 2
    # And back into the store that it came from, which has lost it.
    plain.backend.delete(day.object_name)
    report = copy.run(second, plain)
    ((_original, back),) = report.copied
    assert back is not None and report.told.new == 0 and report.told.read == 2 * CHUNK
    assert restored(plain, back, tmp_path) == disk.read_bytes()
    assert copy.run(plain, second).copied == []


def test_a_restore_point_that_cannot_be_read_is_told_and_the_others_are_copied(
    plain: Store, second: Store, tmp_path: Path
) -> None:
    disks = [image(tmp_path / f"d{number}", [number, 9]) for number in (1, 2, 3)]
    made = [back_up(plain, disk, machine=f"m{number}")[0] for number, disk in enumerate(disks)]
    name = made[1].object_name
    data = plain.backend.read(name)
    plain.backend.delete(name)
    plain.backend.create(name, spoiled(data))
    report = copy.run(plain, second)
    assert [one.point for one, _copy in report.copied] == [made[0].point, made[2].point]
    assert len(report.unreadable) == 1 and name in report.unreadable[0] and report.failed == []
    # One in the target keeps none from being copied, either, and is brought back.
    (there, *_more) = second.points()
    second.backend.delete(there.object_name)
    second.backend.create(there.object_name, b"x")
    report = copy.run(plain, second)
    assert [one.point for one, _copy in report.copied] == [made[0].point]


def test_a_store_is_not_copied_onto_itself_by_any_name(plain: Store, second: Store, root: Path) -> None:
    (root.parent / "link").symlink_to("store")
    same = {plain: root.parent / "link"} if isinstance(plain.backend, LocalBackend) else {}
    for store, path in same.items():
        for run in (copy.run, lambda one, two: repair.run(one, other=two, check=True)):
            with pytest.raises(SameStore, match="link are the same place"):
                run(store, Store.open(local(path)))
    assert not plain.backend.same_place(second.backend) and not second.backend.same_place(plain.backend)


def test_a_bucket_is_one_place_by_its_prefix_and_its_server() -> None:
    def at(location: str, endpoint: str) -> Backend:
        return backend_at(location, S3Access(endpoint, access_key="a", secret_key="b"))

    one = at("s3://backups/esxi", "http://127.0.0.1:9")
    assert one.same_place(at("s3://backups/esxi/", "http://127.0.0.1:9/"))
    for other in (at("s3://backups/esxi2", "http://127.0.0.1:9"), at("s3://backups/esxi", "http://127.0.0.2:9")):
        assert not one.same_place(other)


def test_what_cannot_be_read_whole_is_named_and_the_others_are_copied(
    plain: Store, root: Path, second: Store, tmp_path: Path
) -> None:
    before = set(root.rglob("*.pack"))
    bad, _told = back_up(plain, image(tmp_path / "bad", [1, 2, 3]), machine="bad")
    spoiled = sorted(set(root.rglob("*.pack")) - before)
    good, _told = back_up(plain, image(tmp_path / "good", [11, 12, 13]), machine="good")
    for pack in spoiled:
        data = bytearray(pack.read_bytes())
        data[100] ^= 1
        pack.write_bytes(data)
    report = copy.run(Store.open(local(root)), second)
    ((failed, reason),) = report.failed
    assert failed.point == bad.point and "packs/" in reason
    ((original, made),) = report.copied
    assert original.point == good.point and made is not None
    assert restored(second, made, tmp_path) == (tmp_path / "good").read_bytes()
    assert [point.machine_id for point in second.points()] == ["good"]
    assert not registry.registrations(second.backend)


def test_a_copy_in_a_store_of_another_kind_is_read_by_hand(plain: Store, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = new_store(local(tmp_path / "second"), SECRET)
    disk = image(tmp_path / "disk", [1, 0, 2], 2 * CHUNK + 77)
    back_up(plain, disk)
    ((_original, made),) = copy.run(plain, second).copied
    assert made is not None
    assert by_hand(tmp_path / "second", made, tmp_path, secret=SECRET) == disk.read_bytes()


def test_only_what_was_asked_for_is_copied_and_rules_count_its_time(
    plain: Store, second: Store, tmp_path: Path
) -> None:
    one = history(plain, tmp_path, 3)
    history(plain, tmp_path, 2, "vm-2", 10)
    copy.run(plain, second, machines=["vm-1"])
    assert {point.machine_id for point in second.points()} == {"vm-1"} and len(second.points()) == 3
    copy.run(plain, second, one[:1])
    assert len(second.points()) == 3
    second.clock = plain.clock
    (newest,) = [point for point in second.points() if prune.moment_of(point) == prune.moment_of(one[2])]
    prune.run(second, prune.Keep(last=1))
    assert second.points() == [newest]


def test_other_chunks_are_refused(plain: Store, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Store.create(local(tmp_path / "second"), chunk_bytes=2 * CHUNK)
    back_up(plain, image(tmp_path / "disk", [1]))
    with pytest.raises(ChunkSizesDiffer, match="65536 bytes, .* of 131072"):
        copy.run(plain, second)


def test_a_copy_that_is_cut_short_is_taken_up(plain: Store, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = new_store(local(tmp_path / "second"), quota_bytes=16 * CHUNK, reserve_bytes=CHUNK)
    history(plain, tmp_path, 9)
    with pytest.raises(QuotaReached):
        copy.run(plain, second)
    done = len(second.points())
    assert 0 < done < 9
    second.settings["quota_bytes"] = 0
    report = copy.run(plain, second)
    assert len(report.there) == done and len(report.copied) == 9 - done
    for point in second.points():
        day = (prune.moment_of(point) - prune.moment_of(second.points()[0])).days
        assert restored(second, point, tmp_path) == (tmp_path / f"vm-1-{day}").read_bytes()


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (CHUNK - 3, 7), (3 * CHUNK - 1, 2 * CHUNK), (5 * CHUNK, 100)])
def test_a_stored_disk_is_read_anywhere(store: Store, tmp_path: Path, offset: int, length: int) -> None:
    disk = image(tmp_path / "disk", [1, 2, 0, 3, 4, 5], 5 * CHUNK + 100)
    point, _told = back_up(store, disk)
    source = StoredDisk(store, point.disks[0])
    room = bytearray(length)
    source.read_into(memoryview(room), offset)
    source.close()
    assert bytes(room) == disk.read_bytes()[offset : offset + length]
    assert list(source.allocated()) == [(0, 2 * CHUNK), (3 * CHUNK, 2 * CHUNK + 100)]
