# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A collection gives back what nothing needs, and nothing else, whoever writes beside it and wherever they meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, registry
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import ChunkMissing, Damaged, WriterRevoked
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.keeper import Keeper
from ansible_collections.stowage.esxi.plugins.module_utils.store.merge import Merged
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Writer
from fakeclock import FakeClock

from .benches import back_up, image, local, new_store, restored, sound, spoiled


def packs(root: Path) -> set[str]:
    return {path.stem for path in (root / "packs").rglob("*.pack")}


def test_a_pruned_point_gives_its_room_back_and_the_others_stay(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path
) -> None:
    first = image(tmp_path / "a", list(range(1, 60)))
    one, _told = back_up(store, first, machine="one")
    before = packs(root)
    second = image(tmp_path / "b", list(range(100, 130)))
    two, _told = back_up(again(), second, machine="two")
    store.backend.delete(one.object_name)
    check = collect.run(again(), check=True)
    assert set(check.announced) == before and packs(root) > before
    report = collect.run(again())
    assert set(report.removed) == before and report.freed_bytes > 59 * 32 * 1024
    assert not packs(root) & before
    opened = again()
    assert restored(opened, two, tmp_path) == second.read_bytes()
    sound(opened)
    assert collect.run(again()).removed == []


def test_a_pack_that_is_needed_in_part_stays(plain: Store, root: Path, tmp_path: Path) -> None:
    one, _told = back_up(plain, image(tmp_path / "a", [1, 2, 3]), machine="one")
    two, _told = back_up(plain, image(tmp_path / "b", [3, 4]), machine="two")
    plain.backend.delete(one.object_name)
    collect.run(plain)
    assert restored(plain, two, tmp_path) == image(tmp_path / "b", [3, 4]).read_bytes()


def test_nothing_is_collected_while_a_restore_point_cannot_be_read(plain: Store, root: Path, tmp_path: Path) -> None:
    one, _told = back_up(plain, image(tmp_path / "a", [1, 2, 3]), machine="one")
    two, _told = back_up(plain, image(tmp_path / "b", [7]), machine="two")
    plain.backend.delete(one.object_name)
    path = root / two.object_name
    path.write_bytes(spoiled(path.read_bytes()))
    before = packs(root)
    with pytest.raises(Damaged, match="nothing is collected while a restore point cannot be read"):
        collect.run(plain)
    assert packs(root) == before


@pytest.mark.parametrize("at", [0, -1, -40])
def test_nothing_is_collected_by_a_damaged_index(plain: Store, root: Path, tmp_path: Path, at: int) -> None:
    gone, _told = back_up(plain, image(tmp_path / "a", [1, 2, 3]), machine="gone")
    disk = image(tmp_path / "b", [7, 8])
    stays, _told = back_up(plain, disk, machine="stays")
    plain.backend.delete(gone.object_name)
    before = packs(root)
    for path in (root / "index").iterdir():
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    with pytest.raises(Damaged, match="nothing is collected with a damaged index"):
        collect.run(Store.open(local(root)))
    assert packs(root) == before and restored(Store.open(local(root)), stays, tmp_path) == disk.read_bytes()


def test_nothing_is_collected_while_a_needed_chunk_is_in_no_index(plain: Store, root: Path, tmp_path: Path) -> None:
    back_up(plain, image(tmp_path / "a", [1, 2, 3]))
    before = packs(root)
    for path in (root / "index").iterdir():
        path.unlink()
    with pytest.raises(ChunkMissing):
        collect.run(Store.open(local(root)))
    assert packs(root) == before


def test_an_index_file_whose_removal_was_forgotten_is_rewritten_again(plain: Store, root: Path) -> None:
    places = {bytes([n]) * 32: Place(f"pack-{n % 2}", 64, 10, 10) for n in range(1, 9)}
    for _turn in range(2):
        plain.backend.create("index/aa.idx", build(places.items()))
        with Keeper(plain) as keeper:
            old = plain.index(fresh=True).segments
            keeper.replace(old, Merged(old, {"pack-0"}))
    left = {place.pack for segment in plain.index(fresh=True).segments for _id, place in segment.items()}
    assert left == {"pack-1"}


def test_a_dead_writer_is_given_up_and_can_never_commit(plain: Store, root: Path, tmp_path: Path) -> None:
    writer = Writer(plain, "vm-1", "one")
    with writer.lane() as lane:
        lane.add(bytes([7]) * 32, bytes(16), b"x" * 100)
    writer._heart.stop()
    other = Store.open(local(root), clock=FakeClock())
    report = collect.run(other)
    assert report.given_up == [writer.id] and not list((root / "writers").iterdir())
    assert packs(root) == set()
    point = Point(writer.point, "vm-1", "one", writer.created_at, writer.id, ())
    with pytest.raises(WriterRevoked, match="given up meanwhile"):
        writer.commit(point)
    assert other.points() == []


@pytest.mark.folder
def test_a_living_writer_is_waited_for(
    plain: Store, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ansible_collections.stowage.esxi.plugins.module_utils.store.writer.BEAT_SECONDS", 0.05)
    one, _told = back_up(plain, image(tmp_path / "a", [1, 2, 3]), machine="one")
    plain.backend.delete(one.object_name)
    with Writer(Store.open(local(root)), "vm-2", "two") as writer:
        report = collect.run(plain, observe_seconds=0.5)
        assert report.waiting_for == [writer.id] and report.removed == [] and report.announced
        writer.commit(Point(writer.point, "vm-2", "two", writer.created_at, writer.id, ()))
    assert set(collect.run(plain).removed) == set(report.announced)


class Interleaved(LocalBackend):
    """Calls `act` once, right before the backend call number `at`."""

    def __init__(self, root: str, at: int, act: Callable[[], None]) -> None:
        super().__init__(root)
        self.calls, self._at, self._act = 0, at, act

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self._at:
            self._act()

    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        self._count()
        return super().read(name, limit)

    def create(self, name: str, data: bytes) -> None:
        self._count()
        super().create(name, data)

    def delete(self, name: str) -> None:
        self._count()
        super().delete(name)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._count()
        return iter(list(super().list(prefix)))

    def map(self, name: str) -> Any:
        self._count()
        return super().map(name)


def scene(folder: Path) -> tuple[Path, Point]:
    """A store with a point that was just pruned, whose chunks a new backup would like; and one that stays."""
    folder.mkdir()
    (folder / "store").mkdir()
    store = new_store(local(folder / "store"))
    gone, _told = back_up(store, image(folder / "gone", [1, 2, 3]), machine="gone")
    stays, _told = back_up(store, image(folder / "stays", [8, 9]), machine="stays")
    store.backend.delete(gone.object_name)
    return folder / "store", stays


def prove_all(root: Path, folder: Path, wanted: dict[str, Path]) -> None:
    store = Store.open(local(root))
    sound(store)
    assert {point.machine_id for point in store.points()} == set(wanted)
    for point in store.points():
        assert restored(store, point, folder) == wanted[point.machine_id].read_bytes()


@pytest.mark.folder
def test_a_backup_that_runs_whole_at_any_moment_of_a_collection_restores(tmp_path: Path) -> None:
    moment, done = 0, False
    while not done:
        moment += 1
        folder = tmp_path / str(moment)
        root, _stays = scene(folder)
        disk = image(folder / "new", [1, 2, 5])

        def act(root: Path = root, disk: Path = disk) -> None:
            back_up(Store.open(local(root)), disk, machine="new")

        backend = Interleaved(str(root), moment, act)
        store = Store.open(backend, clock=FakeClock())
        collect.run(store)
        done = backend.calls < moment
        if done:
            act()
        collect.run(Store.open(local(root), clock=FakeClock()))
        prove_all(root, folder, {"stays": folder / "stays", "new": disk})
    assert moment > 20


@pytest.mark.folder
def test_a_collection_that_runs_whole_at_any_moment_of_a_backup_takes_nothing_from_it(tmp_path: Path) -> None:
    moment, done = 0, False
    while not done:
        moment += 1
        folder = tmp_path / str(moment)
        root, _stays = scene(folder)
        disk = image(folder / "new", [1, 2, 5])

        def act(root: Path = root) -> None:
            # Two in a row: what the first announces the second would remove.
            for _turn in range(2):
                collect.run(Store.open(LivingWriters(str(root)), clock=FakeClock()))

        backend = Interleaved(str(root), moment, act)
        store = Store.open(backend)
        back_up(store, disk, machine="new")
        done = backend.calls < moment
        prove_all(root, folder, {"stays": folder / "stays", "new": disk})
    assert moment > 8


class LivingWriters(LocalBackend):
    """Every look at the signs of life finds a new one."""

    looks = 0

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        if prefix == registry.BEATS:
            LivingWriters.looks += 1
            for writer in registry.registrations(LocalBackend(self.root)):
                yield f"{registry.BEATS}{writer.id}-{LivingWriters.looks}", 0
            return
        yield from super().list(prefix)


@pytest.mark.folder
def test_a_writer_that_is_given_up_at_any_moment_ends_with_its_reason_and_hurts_nobody(tmp_path: Path) -> None:
    moment, done, revoked = 0, False, 0
    while not done:
        moment += 1
        folder = tmp_path / str(moment)
        root, _stays = scene(folder)
        disk = image(folder / "new", [1, 2, 5, *range(20, 40)])

        def act(root: Path = root) -> None:
            for _turn in range(2):
                collect.run(Store.open(local(root), clock=FakeClock()))

        backend = Interleaved(str(root), moment, act)
        store = Store.open(backend)
        wanted = {"stays": folder / "stays", "new": disk}
        try:
            back_up(store, disk, machine="new")
        except WriterRevoked:
            revoked += 1
            del wanted["new"]
        done = backend.calls < moment
        prove_all(root, folder, wanted)
        back_up(Store.open(local(root)), disk, machine="new")
        collect.run(Store.open(local(root), clock=FakeClock()))
    assert revoked > 2


@pytest.mark.folder
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_a_collection_that_wakes_up_late_takes_nothing_that_is_needed_again(tmp_path: Path, step: int) -> None:
    """Given up at any moment; then another one finds that what was announced is needed after all, that need goes, and a
    backup leans on it. The first one sees only that nobody needs it."""
    moment, done, stopped = 36 % step, False, 0
    while not done:
        moment += step
        folder = tmp_path / str(moment)
        folder.mkdir()
        (folder / "store").mkdir()
        root = folder / "store"
        store = new_store(local(root))
        disk = image(folder / "new", [1, 2, 3])
        first, _told = back_up(store, disk, machine="first")
        names = frozenset(packs(root))
        registry.announce(store.backend, names)

        def act(root: Path = root, disk: Path = disk, first: Point = first) -> None:
            collect.run(Store.open(local(root), clock=FakeClock()))
            opened = Store.open(local(root))
            opened.backend.delete(first.object_name)
            back_up(opened, disk, machine="new")

        backend = Interleaved(str(root), moment, act)
        report = collect.run(Store.open(backend, clock=FakeClock()))
        stopped += report.stopped is not None
        done = backend.calls < moment
        if done:
            act()
        prove_all(root, folder, {"new": disk})
    assert moment > 20 and stopped
