# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is damaged is found, comes back from the next backup or from a second store, and then verify finds nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    collect,
    copy,
    holds,
    prune,
    registry,
    repair,
    textfile,
    verify,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Ranges
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    ChunkMissing,
    KeeperBusy,
    StoreInUse,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import EMPTY_BYTES, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.keeper import Keeper
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Writer
from fakeclock import FakeClock

from .benches import SECRET, back_up, chunk, image, local, new_store, restored, s3, sound
from .test_collect import LivingWriters


def spoil(root: Path, writer: str | None = None, at: int = 100) -> list[Path]:
    """One byte in the first record of every pack, or of one writer's."""
    found = [path for path in (root / "packs").rglob("*.pack") if writer is None or path.stem.startswith(writer)]
    for path in found:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    return found


def tree(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_without_any_index_everything_comes_back(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path
) -> None:
    disks = {str(number): image(tmp_path / str(number), [number, 50, 51]) for number in range(1, 5)}
    made = {name: back_up(store, disk, machine=name)[0] for name, disk in disks.items()}
    for number, path in enumerate(sorted((root / "index").iterdir())):
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-9])
    before = tree(root)
    check = repair.run(again(), check=True)
    assert check.lost == {} and len(check.problems) == 2 and tree(root) == before
    report = repair.run(again(), deep=True)
    assert len(report.replaced) == 2 and report.lost == {} and report.bad_records == 0
    opened = again()
    for name, point in made.items():
        assert restored(opened, point, tmp_path) == disks[name].read_bytes()
        assert all(page in opened.index() for page in point.disks[0].pages if page)
    sound(opened)
    assert repair.run(again()).bad_records == 0


def test_the_next_backup_of_the_disk_brings_back_what_was_damaged(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path
) -> None:
    disk = image(tmp_path / "disk", list(range(1, 40)))
    point, _told = back_up(store, disk)
    spoil(root)
    report = repair.run(again())
    assert report.bad_records and list(report.lost) == [point.object_name] and report.collected is None
    with pytest.raises(ChunkMissing):
        collect.run(again())
    newer, _told = back_up(again(), disk, parent=point, changed=[])
    opened = again()
    assert restored(opened, point, tmp_path) == restored(opened, newer, tmp_path) == disk.read_bytes()
    report = repair.run(again())
    assert report.lost == {} and report.collected and set(report.damaged_packs) <= set(report.collected.removed)
    opened = again()
    sound(opened)
    assert restored(opened, point, tmp_path) == restored(opened, newer, tmp_path) == disk.read_bytes()


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kinds", [("sha256", "sha256"), ("sha256", "encrypted"), ("encrypted", "sha256")])
@pytest.mark.parametrize("harm", ["byte", "gone", "cut"])
def test_a_second_store_heals(root: Path, tmp_path: Path, kinds: tuple[str, str], harm: str) -> None:
    (tmp_path / "second").mkdir()
    keys = [SECRET if kind == "encrypted" else None for kind in kinds]
    store, second = new_store(local(root), keys[0]), new_store(local(tmp_path / "second"), keys[1])
    disk = image(tmp_path / "disk", [*range(1, 30), 0, 31])
    point, _told = back_up(store, disk)
    safe = image(tmp_path / "safe", [70])
    other, _told = back_up(store, safe, machine="safe")
    copy.run(store, second)
    if harm == "byte":
        spoil(root, point.writer)
    for path in (root / "packs").rglob(f"{point.writer}-*.pack"):
        if harm == "gone":
            path.unlink()
        elif harm == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    opened = Store.open(local(root), keys[0])
    assert not verify.run(opened).ok
    before = everything(tmp_path)
    predicted = repair.run(opened, other=second, check=True)
    assert everything(tmp_path) == before
    alone = repair.run(opened, check=True)
    assert (alone.healed, list(alone.lost)) == (0, [point.object_name])
    report = repair.run(opened, other=second)
    assert (predicted.healed, predicted.lost) == (report.healed, report.lost)
    assert report.healed and report.lost == {} and report.collected
    opened = Store.open(local(root), keys[0])
    sound(opened)
    assert restored(opened, point, tmp_path) == disk.read_bytes()
    assert restored(opened, other, tmp_path) == safe.read_bytes()


def test_a_copy_heals_its_original_and_nothing_foreign_is_taken(plain: Store, root: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = new_store(local(tmp_path / "second"))
    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2]))
    # A second store whose point of that origin is another disk.
    foreign = {"origin": {"store": plain.id, "point": point.point}}
    back_up(second, image(tmp_path / "evil", [8, 9]), facts=foreign)
    spoil(root)
    predicted = repair.run(plain, other=second, check=True)
    report = repair.run(plain, other=second)
    assert (predicted.healed, predicted.lost) == (report.healed, report.lost)
    assert list(report.lost) == [point.object_name]
    assert all(plain.identity.of(chunk(seed)) not in plain.index(fresh=True) for seed in (8, 9))


def test_points_that_are_lost_go_when_told_and_held_ones_never(plain: Store, root: Path, tmp_path: Path) -> None:
    gone, _told = back_up(plain, image(tmp_path / "a", [1, 2]), machine="gone")
    held, _told = back_up(plain, image(tmp_path / "b", [3, 4]), machine="held")
    unreadable, _told = back_up(plain, image(tmp_path / "c", [5, 6]), machine="unreadable")
    stays, _told = back_up(plain, image(tmp_path / "d", [7, 8]), machine="stays")
    holds.hold(plain, held, "audit", "why")
    spoil(root, gone.writer)
    spoil(root, held.writer)
    (root / unreadable.object_name).write_bytes(b"{}\n")
    report = repair.run(plain)
    wanted = {gone.object_name, held.object_name, unreadable.object_name}
    assert report.removed == [] and set(report.lost) == wanted
    assert "checksum is wrong" in report.lost[unreadable.object_name][0]
    report = repair.run(plain, remove=True)
    assert set(report.removed) == {gone.object_name, unreadable.object_name} and report.held == [held.object_name]
    assert {point.machine_id for point in plain.points()} == {"held", "stays"}
    holds.release(plain, held, "audit")
    report = repair.run(plain, remove=True)
    assert report.removed == [held.object_name] and report.lost == {}
    sound(Store.open(local(root)))
    assert restored(Store.open(local(root)), stays, tmp_path) == (tmp_path / "d").read_bytes()


class Failing(LocalBackend):
    """A place that does not give some objects now."""

    def __init__(self, root: Path, begins: str, number: int = errno.EACCES) -> None:
        super().__init__(str(root))
        self._begins, self._number = begins, number

    def _refuse(self, name: str) -> None:
        if name.startswith(self._begins):
            with self.told(name, "read"):
                raise OSError(self._number, os.strerror(self._number))

    def open(self, name: str) -> Ranges:
        self._refuse(name)
        return super().open(name)

    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        self._refuse(name)
        return super().read(name, limit)


@pytest.mark.folder
@pytest.mark.parametrize("what", ["packs/", "points/"])
@pytest.mark.parametrize("check", [False, True])
def test_what_cannot_be_read_now_is_not_taken_for_lost(
    plain: Store, root: Path, tmp_path: Path, what: str, check: bool
) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    point, _told = back_up(plain, disk)
    before = tree(root)
    with pytest.raises(BackendFailed, match=f"{what}.*Permission denied"):
        repair.run(Store.open(Failing(root, what)), remove=True, check=check)
    after = tree(root)
    assert all(after[path] == data for path, data in before.items() if path.parent.name != "index")
    assert repair.run(Store.open(local(root)), remove=True).lost == {}
    assert restored(Store.open(local(root)), point, tmp_path) == disk.read_bytes()


@pytest.mark.folder
def test_what_a_device_has_lost_is_lost(plain: Store, root: Path, tmp_path: Path) -> None:
    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2]))
    report = repair.run(Store.open(Failing(root, "packs/", errno.EIO)))
    assert list(report.lost) == [point.object_name] and "Input/output error" in report.problems[0]


@pytest.mark.folder
def test_a_second_store_that_cannot_be_read_now_makes_nothing_lost(plain: Store, root: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2]))
    copy.run(plain, new_store(local(tmp_path / "second")))
    spoil(root)
    for what in ("packs/", "points/"):
        with pytest.raises(BackendFailed):
            repair.run(plain, other=Store.open(Failing(tmp_path / "second", what)), remove=True)
    assert repair.run(plain, other=Store.open(local(tmp_path / "second")), remove=True).lost == {}
    assert plain.points() == [point]


@pytest.mark.folder
def test_a_living_writer_s_packs_and_index_are_left_to_him(plain: Store, root: Path, tmp_path: Path) -> None:
    back_up(plain, image(tmp_path / "a", [1, 2]))
    data = b"y" * 1000
    name = plain.identity.of(data)
    writer = Writer(plain, "vm-2", "two")
    with writer.lane() as lane:
        lane.add(name, plain.identity.check(data), data)
    for one in writer._sealed:
        one.result()
    repair.run(Store.open(LivingWriters(str(root)), clock=FakeClock()))
    assert plain.index(fresh=True).find(name) is None
    writer.commit(Point(writer.point, "vm-2", "two", writer.created_at, writer.id, ()))
    assert Store.open(local(root)).read_record(name) == data


@pytest.mark.folder
def test_one_at_a_time(plain: Store) -> None:
    with Keeper(plain), pytest.raises(KeeperBusy):
        repair.run(Store.open(LivingWriters(plain.backend.name), clock=FakeClock()))


HOSTILE = {"writer": "aa", "point": "../x", "packs": ["../../x"], "writers": ["../x"], "points": ["x"]}


@pytest.mark.folder
@pytest.mark.parametrize("value", [None, {}, {"writer": "bb", "packs": 7}, HOSTILE])
@pytest.mark.parametrize("name", ["gc/aa.json", "gc/aa-waits.json", "writers/aa.json", "removals/aa.json"])
def test_a_damaged_note_between_writers_goes_when_nobody_is_left(
    plain: Store, root: Path, tmp_path: Path, name: str, value: dict[str, object] | None
) -> None:
    disk = image(tmp_path / "a", [1, 2])
    point, _told = back_up(plain, disk)
    plain.backend.create(name, b"{}\n" if value is None else textfile.render(value))
    if name != "gc/aa-waits.json":
        plain.backend.create("gc/bb.json", textfile.render({"packs": ["cc-000001"]}))
    if not name.startswith(("removals/", "writers/")):
        # Registered before it was damaged.
        plain.backend.create("writers/dd.json", textfile.render({"writer": "dd", "point": None}))
        with pytest.raises(StoreInUse, match="dd.json"):
            repair.run(Store.open(LivingWriters(str(root)), clock=FakeClock()))
    report = repair.run(Store.open(local(root), clock=FakeClock()))
    assert report.mended == [name] and not (root / name).exists()
    assert collect.run(Store.open(local(root))).stopped is None
    assert restored(Store.open(local(root)), point, tmp_path) == disk.read_bytes()


def test_a_dead_writer_s_name_stays_taken(plain: Store, root: Path, tmp_path: Path) -> None:
    writer = Writer(plain, "vm-2", "two")
    writer._heart.stop()
    collect.run(Store.open(local(root), clock=FakeClock()))
    path = root / registry.index_name(writer.id)
    assert path.read_bytes() == build(())
    assert len(build(())) == EMPTY_BYTES
    for spoiled in (build(())[:-1], build(())[:-1] + b"x"):
        path.write_bytes(spoiled)
        assert not verify.run(plain).ok
        report = repair.run(plain)
        assert report.replaced == [registry.index_name(writer.id)] and path.read_bytes() == build(())


def test_a_pack_that_only_lost_its_end_has_all_its_records(plain: Store, root: Path, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", list(range(1, 30)))
    point, _told = back_up(plain, disk)
    for path in (root / "packs").rglob("*.pack"):
        path.write_bytes(path.read_bytes()[:-20])
    for path in (root / "index").iterdir():
        path.unlink()
    report = repair.run(Store.open(local(root)))
    assert report.bad_records == 0 and report.lost == {} and report.collected
    assert set(report.damaged_packs) <= set(report.collected.removed)
    opened = Store.open(local(root))
    sound(opened)
    assert restored(opened, point, tmp_path) == disk.read_bytes()


@pytest.mark.xdist_group("s3")
def test_in_a_bucket_all_of_it_is_the_same(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MOST_SEGMENTS", 2)
    (tmp_path / "second").mkdir()
    store, second = new_store(s3(s3_server)), new_store(local(tmp_path / "second"))
    back_up(store, image(tmp_path / "first", list(range(1, 20))))
    disks = {name: image(tmp_path / name, [seed, 30]) for name, seed in (("vm-1", 2), ("vm-2", 5), ("vm-3", 40))}
    made = {name: back_up(store, disk, machine=name)[0] for name, disk in disks.items()}
    holds.hold(store, made["vm-2"], "audit", "why")
    report = prune.run(store, Keep(last=1))
    assert len(report.removed) == 1 and report.collected
    assert report.collected.removed and report.collected.repacked and report.collected.merged
    copy.run(store, second)
    (pack, _size), *_rest = store.backend.list("packs/")
    store.backend.delete(pack)
    for name, _size in list(store.backend.list("index/")):
        store.backend.delete(name)
    healed = repair.run(store, other=second)
    assert healed.healed and healed.lost == {}
    sound(store)
    for name, point in made.items():
        assert restored(store, point, tmp_path) == disks[name].read_bytes()
