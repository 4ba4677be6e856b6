# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What changes what others have written: packs anew, index files merged, one keeper at a time."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import chores, collect, merge, prune, registry
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalUpload
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    Damaged,
    KeeperBusy,
    KeeperRevoked,
    QuotaReached,
    SpoolFailed,
    WriterRevoked,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index, Place, Segment, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.keeper import Keeper
from ansible_collections.stowage.esxi.plugins.module_utils.store.merge import Merged
from ansible_collections.stowage.esxi.plugins.module_utils.store.prune import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Writer
from fakeclock import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from .benches import CHUNK, back_up, image, local, new_store, restored, sound
from .test_collect import Interleaved, LivingWriters, packs, prove_all

# -- merging ---------------------------------------------------------------------------------------------------------

ids = st.binary(min_size=32, max_size=32) | st.integers(0, 40).map(lambda number: number.to_bytes(32, "big"))
places = st.builds(Place, st.sampled_from(["a-1", "a-2", "b-1"]), *[st.integers(0, 1 << 32 - 1)] * 3)
files = st.lists(st.dictionaries(ids, places, max_size=60), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(files=files, without=st.sets(st.sampled_from(["a-1", "a-2", "b-1"])), part=st.sampled_from([1, 7, 4096]))
def test_a_merged_index_is_what_all_files_say(files: list[dict[bytes, Place]], without: set[str], part: int) -> None:
    segments = [Segment(build(file.items()), str(number), "x") for number, file in enumerate(files)]
    wanted: dict[bytes, Place] = {}
    for file in files:
        for identity, place in file.items():
            if place.pack not in without:
                wanted.setdefault(identity, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "PART_ENTRIES", part)
        merged = Merged(segments, without)
        found = Segment(b"".join(merged.pieces()), "merged", "x")
    found.verify()
    assert dict(found.items()) == wanted and found.count == merged.count == len(wanted)
    assert all(found.position(identity) >= 0 for identity in wanted)
    assert not without & set(found.packs)


def test_a_merge_needs_no_memory_for_its_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20000
    identity = [number.to_bytes(4, "big") * 8 for number in range(0, 1 << 32, (1 << 32) // count)]
    files = [
        Segment(build((one, Place("a-1", 1, 2, 3)) for one in identity[begin::2]), str(begin), "x") for begin in (0, 1)
    ]
    monkeypatch.setattr(merge, "PART_ENTRIES", 256)
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in Merged(files).pieces())
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 48 * count and peak < size / 2


def test_a_merge_without_room_for_its_spool_names_the_folder(
    volume: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = [number.to_bytes(4, "big") * 8 for number in range(1, 1 << 31, (1 << 31) // 20000)]
    segment = Segment(build((one, Place("a-1", 1, 2, 3)) for one in identity), "x.idx", "x")
    room = volume(256)
    monkeypatch.setattr("tempfile.tempdir", str(room))
    with pytest.raises(SpoolFailed, match=f"{room} could not be written: No space left"):
        Merged([segment])


def test_a_file_that_names_packs_that_it_does_not_list_is_told() -> None:
    data = bytearray(build([(bytes([1]) * 32, Place("a-1", 1, 2, 3))]))
    segment = Segment(bytes(data[:-48] + (9).to_bytes(4, "little") + data[-44:]), "evil.idx", "x")
    with pytest.raises(Damaged, match=r"evil\.idx.*names a pack that it does not list"):
        Merged([segment])
    # And is no place: a collection that took it for one would remove the only pack that has the chunk.
    good = Segment(build([(bytes([1]) * 32, Place("a-2", 1, 2, 3))]), "good.idx", "x")
    index = Index([segment, good])
    assert not index.missing([bytes([1]) * 32])
    index.without = frozenset({"a-2"})
    assert index.missing([bytes([1]) * 32]) == [bytes([1]) * 32]


@given(
    files=st.lists(
        st.dictionaries(st.integers(0, 40), st.sampled_from(["a-1", "a-2", "a-3"]), max_size=20), max_size=4
    ),
    without=st.frozensets(st.sampled_from(["a-1", "a-2", "a-3"])),
    added=st.frozensets(st.integers(0, 40)),
)
def test_many_ids_are_missing_as_each_of_them_is(
    files: list[dict[int, str]], without: frozenset[str], added: frozenset[int]
) -> None:
    def identity(number: int) -> bytes:
        # Neighbours that match across their border, and some that share a part of the fan-out.
        return (bytes([number % 3]) * 31 + bytes([number])) if number % 2 else bytes([number]) * 32

    segments = [
        Segment(build((identity(one), Place(pack, 1, 2, 3)) for one, pack in file.items()), f"{number}.idx", "x")
        for number, file in enumerate(files)
    ]
    index = Index(segments)
    index.without = without
    index.added.update((identity(one), Place("b-1", 1, 2, 3)) for one in added)
    wanted = [identity(one) for one in range(41)]
    assert list(index.missing(wanted)) == [one for one in wanted if index.find(one) is None]
    for segment in segments:
        assert list(segment.positions(wanted)) == [segment.position(one) for one in wanted]


@pytest.mark.parametrize(
    ("counts", "chosen"),
    [
        ([1, 1, 1], []),
        ([1] * 9, [1] * 9),
        ([1] * 8 + [1000], [1] * 8),
        ([1] * 8 + [1000, 3000], [1] * 8),
        ([500] * 8 + [1000], [500] * 8 + [1000]),
    ],
)
def test_large_index_files_are_left_until_the_small_ones_weigh_as_much(counts: list[int], chosen: list[int]) -> None:
    segments = [
        Segment(build((bytes([n % 256, n >> 8]) * 16, Place("a-1", 0, 0, 0)) for n in range(count)), "x", "x")
        for count in counts
    ]
    assert sorted(segment.count for segment in merge.which(segments, 8)) == chosen


def test_a_writer_that_had_nothing_new_is_stopped_by_its_marker_however_late_it_wakes(
    plain: Store, root: Path, tmp_path: Path
) -> None:
    """It has no index file to create: the marker is all that keeps its restore point from leaning on what is gone."""
    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2]))
    with pytest.raises(WriterRevoked), Writer(plain, "vm-9", "late") as writer:
        late = replace(point, point=writer.point, machine_id="vm-9")
        assert writer.id in collect.run(Store.open(local(root)), observe_seconds=0).given_up
        plain.backend.delete(point.object_name)
        for _turn in range(3):
            collect.run(Store.open(local(root)), observe_seconds=0)
        assert not list(root.rglob("*.pack")) and (root / late.object_name).stat().st_size == 59
        writer.commit(late)
    assert Store.open(local(root)).points() == []


def test_more_than_a_few_index_files_are_merged_where_there_is_nothing_to_collect(
    plain: Store, root: Path, tmp_path: Path
) -> None:
    for number, merged in ((1, 0), (2, 0), (3, 0), (4, 0), (5, 5)):
        back_up(plain, image(tmp_path / "disk", [number]), machine=str(number))
        report = collect.run(Store.open(local(root)))
        assert (report.removed, report.announced, report.repacked, len(report.merged)) == ([], [], [], merged)
    assert len(list((root / "index").iterdir())) == 1
    sound(Store.open(local(root)))


def test_many_backups_leave_few_index_files(plain: Store, root: Path, tmp_path: Path) -> None:
    kept = [back_up(plain, image(tmp_path / str(n), [n, n + 1]), machine=str(n))[0] for n in range(1, 12)]
    assert len(list((root / "index").iterdir())) == 11
    check = collect.run(Store.open(local(root)), check=True)
    assert len(check.merged) == 11 and len(list((root / "index").iterdir())) == 11
    assert len(collect.run(Store.open(local(root))).merged) == 11
    assert len(list((root / "index").iterdir())) == 1
    opened = Store.open(local(root))
    for point in kept:
        assert restored(opened, point, tmp_path) == (tmp_path / point.machine_id).read_bytes()
    sound(opened)


# -- one at a time ---------------------------------------------------------------------------------------------------


@pytest.mark.folder
def test_one_keeper_at_a_time_and_the_next_when_it_has_ended(plain: Store, root: Path) -> None:
    with Keeper(plain):
        with pytest.raises(KeeperBusy, match="Another collection"):
            Keeper(Store.open(local(root)))
        assert len(registry.registrations(plain.backend)) == 1
        report = collect.run(Store.open(LivingWriters(str(root)), clock=FakeClock()))
        assert report.stopped is None
    with Keeper(plain):
        pass
    assert len(list((root / "turns").iterdir())) == 1


def test_one_that_was_given_up_publishes_nothing(plain: Store, root: Path) -> None:
    segment = Segment(build([(bytes([1]) * 32, Place("a-1", 1, 2, 3))]), "x", "x")
    keeper = Keeper(plain)
    assert collect.run(Store.open(local(root), clock=FakeClock())).given_up == [keeper.id]
    with pytest.raises(KeeperRevoked, match="given up meanwhile"):
        keeper.replace([], Merged([segment]))
    keeper.abort()
    with Keeper(plain):
        pass


def test_a_turn_that_cannot_be_read_is_free_when_nobody_can_have_it(plain: Store, root: Path) -> None:
    with Keeper(plain):
        (path,) = (root / "turns").iterdir()
        path.write_bytes(b"x")
        with pytest.raises(KeeperBusy):
            Keeper(plain)
    with Keeper(plain):
        pass


# -- packs that are needed in part -----------------------------------------------------------------------------------


def test_a_pack_of_which_little_is_needed_is_written_anew(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path
) -> None:
    one, _told = back_up(store, image(tmp_path / "a", list(range(1, 21))), machine="one")
    wanted = image(tmp_path / "b", [1, 7, 90])
    two, _told = back_up(again(), wanted, machine="two")
    before, size = packs(root), sum(path.stat().st_size for path in (root / "packs").rglob("*.pack"))
    store.backend.delete(one.object_name)
    check = collect.run(again(), check=True)
    assert check.repacked and packs(root) == before
    report = collect.run(again())
    assert report.repacked == check.repacked and set(report.removed) >= set(report.repacked)
    after = sum(path.stat().st_size for path in (root / "packs").rglob("*.pack"))
    assert after < size / 4 and size - after == report.freed_bytes - report.written_bytes - grown(root, before)
    opened = again()
    assert restored(opened, two, tmp_path) == wanted.read_bytes()
    sound(opened)
    assert collect.run(again()).repacked == []


def grown(root: Path, before: set[str]) -> int:
    """The table of contents and the footer, which a writer does not count."""
    new = [path for path in (root / "packs").rglob("*.pack") if path.stem not in before]
    count = sum(int.from_bytes(path.read_bytes()[-40:-36], "little") for path in new)
    return 64 * count + 48 * len(new)


def test_a_pack_that_is_needed_enough_is_left(plain: Store, root: Path, tmp_path: Path) -> None:
    one, _told = back_up(plain, image(tmp_path / "a", [1, 2, 3, 4]), machine="one")
    back_up(plain, image(tmp_path / "b", [1, 2, 3]), machine="two")
    before = {path for path in packs(root) if path.startswith(one.writer)}
    plain.backend.delete(one.object_name)
    plain.settings["repack_percent"] = 10
    collect.run(plain)
    kept = packs(root)
    plain.settings["repack_percent"] = 101
    assert collect.run(plain).repacked and kept & before


def test_a_pack_that_cannot_be_read_stays_and_is_told(plain: Store, root: Path, tmp_path: Path) -> None:
    one, _told = back_up(plain, image(tmp_path / "a", list(range(1, 21))), machine="one")
    back_up(plain, image(tmp_path / "b", [1, 7]), machine="two")
    plain.backend.delete(one.object_name)
    for path in (root / "packs").rglob(f"{one.writer}-*.pack"):
        data = bytearray(path.read_bytes())
        for at in range(70, len(data) - 4096, 4096):
            data[at] ^= 1
        path.write_bytes(data)
    report = collect.run(plain)
    assert report.problems and not report.repacked
    asked = {"observe_seconds": 0, "keep": {"last": 9}, "machines": None, "min_verified": 1, "room_bytes": None}
    for chore in ("collected", "pruned"):
        assert report.problems[0] in chores.CHORES[chore](plain, asked, False)["damage"].message
    assert {path for path in packs(root) if path.startswith(one.writer)}


@pytest.mark.folder
def test_a_write_that_fails_half_way_while_packs_are_written_anew_loses_none_of_them(
    plain: Store, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that is gone for a moment: bytes of a record lie in the new pack, and the next pack's would come after."""

    def again() -> Store:
        return Store.open(local(root))

    wanted = []
    for number in range(3):
        first = 50 * number
        one, _told = back_up(again(), image(tmp_path / "a", list(range(first + 1, first + 21))), machine=f"a{number}")
        disk = image(tmp_path / f"b{number}", [first + 1, first + 7])
        wanted.append((back_up(again(), disk, machine=f"b{number}")[0], disk.read_bytes()))
        plain.backend.delete(one.object_name)
    append, count = LocalUpload.append, 0

    def failing(upload: LocalUpload, parts: Sequence[Any]) -> None:
        nonlocal count
        if "packs/" in upload._name:
            count += 1
            if count == 2:
                whole = b"".join(parts)
                append(upload, [whole[: len(whole) // 2]])
                raise BackendFailed(name=upload._name, store="s", done="written", reason="No space left on device")
        append(upload, parts)

    with monkeypatch.context() as patch:
        patch.setattr(LocalUpload, "append", failing)
        with pytest.raises(BackendFailed, match="No space left"):
            collect.run(again())
    assert count == 2
    for _turn in range(2):
        sound(again())
        for point, data in wanted:
            assert restored(again(), point, tmp_path) == data
        collect.run(again())
    assert collect.run(again()).repacked == []


def test_a_stranger_s_file_among_the_packs_is_neither_announced_nor_removed(plain: Store, root: Path) -> None:
    for name in ("aa/notes.txt", "aa/aa-1.pack.bak", "bb/aa-1.pack", "AA/AA-1.pack"):
        (root / "packs" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "packs" / name).write_bytes(b"mine")
    report = collect.run(plain)
    assert report.removed == report.announced == []
    assert len([path for path in (root / "packs").rglob("*") if path.is_file()]) == 4


MACHINES = 3


def crowded(folder: Path) -> Path:
    """A store in which there is something to remove, to write anew, and to merge."""
    folder.mkdir()
    (folder / "store").mkdir()
    store = new_store(local(folder / "store"))
    gone, _told = back_up(store, image(folder / "gone", list(range(1, 9))), machine="gone")
    for number in range(MACHINES):
        back_up(store, image(folder / f"m{number}", [number + 1, 50]), machine=f"m{number}")
    dead, _told = back_up(store, image(folder / "dead", [70, 71]), machine="dead")
    store.backend.delete(gone.object_name)
    store.backend.delete(dead.object_name)
    return folder / "store"


@pytest.mark.folder
@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
def test_a_collection_that_runs_whole_at_any_moment_of_another_takes_nothing(
    tmp_path: Path, alive: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "MOST_SEGMENTS", 2)
    scene = crowded(tmp_path / "scene").parent
    moment, done, stopped = 1, False, set()
    disk = image(tmp_path / "new", [1, 2, 70, 5])
    wanted = {"new": disk, **{f"m{number}": scene / f"m{number}" for number in range(MACHINES)}}
    while not done:
        root = tmp_path / str(moment)
        shutil.copytree(scene / "store", root)

        def act(root: Path = root) -> None:
            backend: Backend = LivingWriters(str(root)) if alive else local(root)
            for _turn in range(2):
                collect.run(Store.open(backend, clock=FakeClock()))
            back_up(Store.open(local(root)), disk, machine="new")

        backend = Interleaved(str(root), moment, act)
        report = collect.run(Store.open(backend, clock=FakeClock()))
        stopped.add(report.stopped is not None)
        done = backend.calls < moment
        if done:
            act()
        prove_all(root, tmp_path, wanted)
        collect.run(Store.open(local(root), clock=FakeClock()))
        prove_all(root, tmp_path, wanted)
        shutil.rmtree(root)
        moment += step
    assert moment > 60 and (alive or stopped == {True, False})


@pytest.mark.folder
@pytest.mark.parametrize("room", [None, 10 * CHUNK])
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_what_others_remove_and_collect_while_points_are_looked_at_is_no_damage(
    tmp_path: Path, room: int | None, step: int
) -> None:
    scene = crowded(tmp_path / "scene").parent
    moment, done = 1, False
    while not done:
        root = tmp_path / str(moment)
        shutil.copytree(scene / "store", root)

        def act(root: Path = root) -> None:
            store = Store.open(local(root), clock=FakeClock())
            for point in store.points("m1"):
                store.backend.delete(point.object_name)
            for _turn in range(2):
                collect.run(Store.open(local(root), clock=FakeClock()))

        backend = Interleaved(str(root), moment, act)
        store = Store.open(backend, clock=FakeClock())
        if room is None:
            collect.run(store)
        else:
            prune.run(store, Keep(last=1), room=room)
        done = backend.calls < moment
        shutil.rmtree(root)
        moment += step
    assert moment > 40


# -- the quota -------------------------------------------------------------------------------------------------------


def test_a_backup_that_meets_the_quota_is_given_up_and_nothing_else_is_touched(root: Path, tmp_path: Path) -> None:
    store = new_store(local(root), quota_bytes=20 * CHUNK, reserve_bytes=4 * CHUNK)
    good = image(tmp_path / "good", list(range(1, 11)))
    kept, _told = back_up(store, good)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    large = image(tmp_path / "large", list(range(100, 160)))
    with pytest.raises(QuotaReached, match=rf"may take {20 * CHUNK} bytes, {4 * CHUNK} of them stay") as caught:
        back_up(Store.open(local(root)), large, machine="large")
    assert "quota_bytes" in caught.value.hint_text
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    opened = Store.open(local(root))
    assert opened.points() == [kept] and restored(opened, kept, tmp_path) == good.read_bytes()
    # What adds nothing is no burden, and a collection may use the reserve.
    again, _told = back_up(opened, good, machine="twin")
    opened.backend.delete(kept.object_name)
    assert collect.run(opened).stopped is None
    assert restored(opened, again, tmp_path) == good.read_bytes()


def test_what_others_write_meanwhile_counts(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(local(root), quota_bytes=24 * CHUNK, reserve_bytes=4 * CHUNK)
    done = []
    original = back_up.__globals__["RawDisk"].read_into

    def meanwhile(self: object, view: memoryview, offset: int) -> None:
        if offset == 4 * CHUNK and not done:
            done.append(True)
            back_up(Store.open(local(root)), image(tmp_path / "other", list(range(50, 70))), machine="other")
        original(self, view, offset)

    monkeypatch.setattr(back_up.__globals__["RawDisk"], "read_into", meanwhile)
    with pytest.raises(QuotaReached):
        back_up(store, image(tmp_path / "large", list(range(1, 35))), machine="large")
    assert done and [point.machine_id for point in store.points()] == ["other"]


def test_a_pack_is_written_anew_only_where_its_copy_has_room(root: Path, tmp_path: Path) -> None:
    store = new_store(local(root))
    one, _told = back_up(store, image(tmp_path / "a", list(range(1, 21))), machine="one")
    back_up(store, image(tmp_path / "b", [1, 7]), machine="two")
    store.backend.delete(one.object_name)
    size = sum(path.stat().st_size for path in (root / "packs").rglob("*.pack"))
    store.settings.update(quota_bytes=1)
    assert collect.run(store).repacked == []
    store.settings.update(quota_bytes=size + 4 * CHUNK)
    assert collect.run(store).repacked


def test_a_full_store_gives_its_room_back_out_of_the_reserve(root: Path, tmp_path: Path) -> None:
    store = new_store(local(root), quota_bytes=16 * CHUNK, reserve_bytes=4 * CHUNK)
    gone, _told = back_up(store, image(tmp_path / "gone", list(range(1, 21))), machine="gone")
    stays = image(tmp_path / "stays", [2, 9, 14])
    kept, _told = back_up(store, stays, machine="stays")
    new = image(tmp_path / "new", list(range(50, 60)))
    with pytest.raises(QuotaReached):
        back_up(store, new, machine="new")
    store.backend.delete(gone.object_name)
    assert collect.run(store).repacked
    point, _told = back_up(store, new, machine="new")
    assert restored(store, point, tmp_path) == new.read_bytes()
    assert restored(store, kept, tmp_path) == stays.read_bytes()
