# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify of a slice, of given restore points, or of the newest ones: nothing is missed, and nothing else is said."""

from __future__ import annotations

import tracemalloc
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    collect,
    find,
    part,
    prune,
    repair,
    verified,
    verify,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Ranges
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend, LocalRanges
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    AmbiguousPoint,
    BackendFailed,
    BadSlice,
    NewestUnreadable,
    NoSuchMachine,
    NoSuchPoint,
    ObjectMissing,
    StoreError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index, Place, Segment, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import (
    CHUNK as CHUNK_KIND,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import (
    FILE,
    PAGE,
    Entry,
    PackReader,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.part import Chosen, Slice, newest
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.scan import MARK, Scan, claim, mark
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally
from ansible_collections.stowage.esxi.plugins.module_utils.store.wanted import Wanted
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Writer

from .benches import CHUNK, back_up, chunk, image, local, new_store, restored, s3, sound, spoiled

DEEP = pytest.mark.parametrize("deep", [False, True], ids=["scrub", "deep"])


def contents(store: Store) -> dict[str, list[Entry]]:
    """Every record, by its pack's name."""
    found = {}
    for name, _size in store.backend.list("packs/"):
        with store.backend.open(name) as ranges:
            reader = PackReader(name, ranges, store.name, store.codec, store.vault)
            found[name.rpartition("/")[2].partition(".")[0]] = reader.entries()
    return found


def flip(root: Path, pack: str, entry: Entry) -> None:
    """A bit in the middle of a record."""
    path = root / pack_name(pack)
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.span // 2] ^= 4
    path.write_bytes(data)


def needs(store: Store, point: Point) -> set[bytes]:
    ids = {page for disk in point.disks for page in disk.pages if page}
    for disk in point.disks:
        for _first, page in store.pages(disk):
            ids |= {page[at : at + 32] for at in range(0, len(page), 48)} - {bytes(32)}
    return ids | {file.id for file in point.files if file.id}


def fleet(store: Store, tmp_path: Path, count: int = 6) -> list[Point]:
    """Machines with disks of their own, and a chunk that all have."""
    return [
        back_up(store, image(tmp_path / "disk", [*range(n * 100 + 1, n * 100 + 9), 7777]), machine=f"vm-{n}")[0]
        for n in range(count)
    ]


# -- slices ----------------------------------------------------------------------------------------------------------


@DEEP
@pytest.mark.parametrize("count", [1, 3, 7])
def test_all_slices_find_a_flipped_bit_in_each_pack_once(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path, deep: bool, count: int
) -> None:
    fleet(store, tmp_path)
    there = contents(store)
    assert len(there) > 7
    spoilt = {}
    for pack, entries in there.items():
        # Not a page: whoever comes across a bad one on his way tells it, too.
        chosen = next((entry for entry in entries if entry.kind != PAGE), None)
        if chosen is not None:
            flip(root, pack, chosen)
            spoilt[chosen.id] = pack
    packs, records, found, hit = 0, 0, Counter[bytes](), Counter[str]()
    for number in range(1, count + 1):
        one = Slice(number, count)
        report = verify.run(again(), part=one, deep=deep, threads=2)
        assert not report.problems and not report.good_points
        assert {spoilt[identity] for identity in report.bad} == {pack for pack in set(spoilt.values()) if one.has(pack)}
        assert report.ok is not any(one.has(pack) for pack in spoilt.values())
        packs, records = packs + report.packs, records + report.records
        found.update(list(report.bad))
        hit.update(report.hit)
    assert (packs, records) == (len(there), sum(map(len, there.values())))
    assert found == Counter(dict.fromkeys(spoilt, 1))
    whole = verify.run(again(), deep=deep, threads=2, record=False)
    assert whole.bad.keys() == found.keys()
    # Everyone who is hit is named by the slices, too: machine, restore point, and what of it.
    assert {line.rpartition(":")[0] for line in whole.hit} == {line.rpartition(":")[0] for line in hit}


def test_a_slice_records_what_it_finds_damaged_and_nothing_as_good(plain: Store, root: Path, tmp_path: Path) -> None:
    made = fleet(plain, tmp_path, 3)
    verify.run(plain, part=Slice(1, 2))
    assert verified.findings(plain) == {} and not (root / "verified").exists()
    verify.run(plain, deep=True)
    pack, entry = next(
        (pack, entry)
        for pack, entries in contents(plain).items()
        for entry in entries
        if pack.startswith(made[1].writer) and entry.kind == CHUNK_KIND
    )
    flip(root, pack, entry)
    mine = next(one for one in (Slice(1, 2), Slice(2, 2)) if one.has(pack))
    other = Slice(3 - mine.number, 2)
    assert verify.run(plain, part=other).ok
    assert all(one.good and one.deep for one in verified.findings(plain).values())
    report = verify.run(plain, part=mine)
    assert report.bad_points == [made[1].object_name] and "'name of vm-1'" in report.hit[0]
    found = verified.findings(plain)
    assert {name: one.good for name, one in found.items()} == {one.object_name: one is not made[1] for one in made}
    assert found[made[0].object_name].deep and not found[made[1].object_name].deep


def test_a_pack_that_is_gone_is_told_by_its_slice(plain: Store, root: Path, tmp_path: Path) -> None:
    made = fleet(plain, tmp_path, 2)
    pack = next(pack for pack, entries in contents(plain).items() if any(e.kind == CHUNK_KIND for e in entries))
    (root / pack_name(pack)).unlink()
    reports = [verify.run(Store.open(local(root)), part=Slice(number, 3)) for number in (1, 2, 3)]
    blamed = [report for report in reports if not report.ok and report.bad]
    assert len(blamed) == 1 and any(pack in reason for reason in blamed[0].bad.values())
    owner = next(one for one in made if pack.startswith(one.writer))
    assert owner.object_name in blamed[0].bad_points


def test_what_a_slice_comes_across_is_told_but_only_its_own_names_who_is_hit(
    plain: Store, root: Path, tmp_path: Path
) -> None:
    made = fleet(plain, tmp_path, 2)
    pack, entry = next((pack, e) for pack, entries in contents(plain).items() for e in entries if e.kind == PAGE)
    flip(root, pack, entry)
    owner = next(one for one in made if one.disks[0].pages == (entry.id,))
    for number in range(1, 5):
        one = Slice(number, 4)
        report = verify.run(Store.open(local(root)), part=one)
        assert not report.ok
        if one.has(pack):
            assert list(report.bad) == [entry.id] and report.problems == []
            assert report.bad_points == [owner.object_name] and "disk scsi0:0: 9 chunks" in report.hit[0]
        else:
            assert (report.bad, report.hit, report.bad_points) == ({}, [], []) and pack in report.problems[0]
            assert len(report.problems) == 1


@pytest.mark.parametrize("folder", ["index", "holds", "verified"])
def test_every_slice_looks_at_the_index_and_the_small_files(
    plain: Store, root: Path, tmp_path: Path, folder: str
) -> None:
    from ansible_collections.stowage.esxi.plugins.module_utils.store import holds

    (point,) = fleet(plain, tmp_path, 1)
    holds.hold(plain, point, "audit", "why")
    verify.run(plain)
    path = next(path for path in sorted((root / folder).rglob("*")) if path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for chosen in (Slice(1, 2), Slice(2, 2), Chosen((point,))):
        report = verify.run(Store.open(local(root)), part=chosen, record=False)
        assert any(path.stem in problem for problem in report.problems), chosen


def test_every_pack_is_in_one_slice_and_slices_are_of_a_size() -> None:
    packs = [f"{writer:010x}-{number}" for writer in range(0, 1 << 40, 1 << 34) for number in range(100)]
    for count in (2, 7, 8, 31):
        slices = [Slice(number, count) for number in range(1, count + 1)]
        sizes = [sum(map(one.has, packs)) for one in slices]
        assert sum(sizes) == len(packs)
        assert min(sizes) > 0.7 * len(packs) / count and max(sizes) < 1.3 * len(packs) / count


@pytest.mark.parametrize("word", ["", "3", "0/7", "8/7", "0/0", "1/0", "-1/7", "1/7/2", "a/b", "1 /7", "1/7\n", "１/7"])
def test_what_is_no_slice_is_refused(word: str) -> None:
    with pytest.raises(BadSlice) as caught:
        Slice.parse(word)
    assert repr(word) in caught.value.message and "3/7" in caught.value.hint_text


# -- given restore points ----------------------------------------------------------------------------------------------


@DEEP
def test_a_given_point_is_proven_though_another_is_damaged(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path, deep: bool
) -> None:
    made = fleet(store, tmp_path, 4)
    verify.run(store, deep=True)
    mine = needs(store, made[0]) | needs(store, made[3])
    for pack, entries in contents(store).items():
        for entry in entries:
            if entry.id not in mine:
                flip(root, pack, entry)
    report = verify.run(again(), part=Chosen((made[0], made[3])), deep=deep, threads=2)
    assert report.ok and report.hit == [] and report.records == len(mine)
    assert report.good_points == [made[0].object_name, made[3].object_name]
    found = verified.findings(store)
    assert [found[one.object_name].deep for one in made] == [deep, True, True, deep]
    assert all(one.good for one in found.values())
    assert not verify.run(again(), record=False).ok


@DEEP
@pytest.mark.parametrize("kind", [CHUNK_KIND, PAGE, FILE], ids=["chunk", "page", "file"])
def test_a_damaged_record_that_a_given_point_needs_makes_it_bad(
    plain: Store, root: Path, tmp_path: Path, deep: bool, kind: int
) -> None:
    made = fleet(plain, tmp_path, 3)
    own = needs(plain, made[1]) - needs(plain, made[0]) - needs(plain, made[2])
    there = contents(plain)
    pack, entry = next((p, e) for p, entries in there.items() for e in entries if e.kind == kind and e.id in own)
    flip(root, pack, entry)
    verified.record(plain, True, [one.object_name for one in made], [])
    report = verify.run(Store.open(local(root)), part=Chosen((made[0], made[1])), deep=deep)
    assert not report.ok and list(report.bad) == [entry.id]
    words = {CHUNK_KIND: "disk scsi0:0: 1 chunks", PAGE: "disk scsi0:0: 9 chunks", FILE: "file a.vmx"}[kind]
    assert report.hit == [f"'name of vm-1' {made[1].point}: {words}"]
    assert (report.good_points, report.bad_points) == ([made[0].object_name], [made[1].object_name])
    found = verified.findings(plain)
    assert [found[one.object_name].good for one in made] == [True, False, True]
    assert found[made[2].object_name].deep
    # What prune counts as verified is what is good now.
    kept = prune.decide(plain, Keep(last=1), min_verified=1)
    assert {one.point.machine_id: one.verified for one in kept} == {"vm-0": True, "vm-1": False, "vm-2": True}


@pytest.mark.parametrize("what", ["pack", "header", "end", "index"])
def test_what_a_given_point_needs_and_is_not_there_is_told(plain: Store, root: Path, tmp_path: Path, what: str) -> None:
    made = fleet(plain, tmp_path, 2)
    path = next(path for path in (root / "packs").rglob(f"{made[1].writer}-*.pack"))
    data = path.read_bytes()
    if what == "pack":
        path.unlink()
    elif what == "header":
        path.write_bytes(b"x" + data[1:])
    elif what == "end":
        path.write_bytes(data[:-1])
    else:
        (index,) = (root / "index").glob(f"{made[1].writer}*")
        index.unlink()
    for wanted in made:
        opened = Store.open(local(root))
        report = verify.run(opened, part=Chosen((wanted,)))
        if wanted is made[0]:
            assert report.ok and report.good_points
        elif what == "end":
            # Every record is there and describes itself; that the pack is damaged is told.
            assert report.good_points and not report.ok and not report.bad and path.stem in report.problems[0]
        else:
            assert report.bad_points == [made[1].object_name] and f"'name of vm-1' {made[1].point}" in report.hit[0]
            assert len(report.problems) == (what == "header")


class Reads(LocalBackend):
    """What is read of packs, by name: offset and length."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.seen: dict[str, list[tuple[int, int]]] = {}

    def open(self, name: str) -> Any:
        ranges = super().open(name)
        read = LocalRanges.read

        def noted(offset: int, length: int) -> bytes:
            self.seen.setdefault(name, []).append((offset, length))
            return read(ranges, offset, length)  # type: ignore[arg-type]

        ranges.read = noted  # type: ignore[method-assign]
        return ranges


@DEEP
def test_only_what_given_points_need_is_read_in_order_and_once(
    plain: Store, root: Path, tmp_path: Path, deep: bool
) -> None:
    disk = image(tmp_path / "disk", [*range(1, 1100)], 1099 * CHUNK)
    first, _told = back_up(plain, disk)
    second, _told = back_up(plain, image(tmp_path / "disk", [*range(1, 1090), *range(3000, 3010)]), parent=first)
    back_up(plain, image(tmp_path / "other", [*range(5000, 5040)]), machine="other")
    wanted = needs(plain, first) | needs(plain, second)
    there = {e.id: (pack_name(p), e) for p, entries in contents(plain).items() for e in entries}
    backend, tally = Reads(str(root)), Tally()
    report = verify.run(Store.open(backend), part=Chosen((first, second)), deep=deep, threads=1, tally=tally)
    assert report.ok and report.records == len(wanted)
    read: set[bytes] = set()
    for name, extents in backend.seen.items():
        known = spans(there, name)
        records = [one for one in extents if one in known]
        # The maps come before the rest; both in the order of the pack.
        pages = [one for one in records if known[one].kind == PAGE]
        rest = [one for one in records if known[one].kind != PAGE]
        assert pages == sorted(pages) and rest == sorted(rest) and len(set(records)) == len(records)
        read |= {known[one].id for one in records}
    assert read == wanted
    assert tally.total == tally.done == report.stored


def spans(there: dict[bytes, tuple[str, Entry]], name: str) -> dict[tuple[int, int], Entry]:
    return {(e.offset, e.span): e for pack, e in there.values() if pack == name}


@DEEP
def test_the_tally_knows_how_much_there_will_be(plain: Store, root: Path, tmp_path: Path, deep: bool) -> None:
    made = fleet(plain, tmp_path, 3)
    sizes = {name.rpartition("/")[2].partition(".")[0]: size for name, size in plain.backend.list("packs/")}
    for chosen, total in (
        (None, sum(sizes.values())),
        (Slice(2, 3), sum(size for pack, size in sizes.items() if Slice(2, 3).has(pack))),
        (Chosen((made[0],)), None),
    ):
        tally = Tally()
        report = verify.run(plain, part=chosen, deep=deep, tally=tally)
        assert tally.done == tally.total and (total is None or tally.total == total)
        assert total is not None or tally.total == report.stored > 9 * CHUNK // 2
    tally = Tally()
    repair.run(plain, check=True, tally=tally)
    assert tally.done == tally.total == sum(sizes.values())


def test_a_collection_counts_what_it_writes_anew(plain: Store, tmp_path: Path) -> None:
    one, _told = back_up(plain, image(tmp_path / "disk", [*range(1, 30)]))
    back_up(plain, image(tmp_path / "disk", [1, *range(40, 70)]), parent=one)
    plain.backend.delete(one.object_name)
    tally = Tally()
    report = collect.run(plain, tally=tally)
    assert report.repacked and tally.total is not None
    assert report.written_bytes and 0 < tally.done <= tally.total
    sound(plain)


def test_a_page_that_fits_one_disk_only_is_no_proof_of_another(plain: Store, tmp_path: Path) -> None:
    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2, 3]))
    longer = replace(point, disks=(replace(point.disks[0], size=4 * CHUNK),))
    report = verify.run(plain, part=Chosen((point, longer)), record=False)
    assert not report.ok and "144 bytes, not 192" in " ".join(report.bad.values())
    assert verify.run(plain, part=Chosen((point,)), record=False).ok


@pytest.mark.parametrize("twisted", ["check", "length", "repeated"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_map_that_says_something_else_of_a_chunk_than_the_chunk_itself_is_found_by_every_look(
    store: Store, again: Callable[[], Store], tmp_path: Path, twisted: str, deep: bool
) -> None:
    good, _told = back_up(store, image(tmp_path / "disk", [1, 2, 3, 3], 4 * CHUNK))
    short, _told = back_up(store, image(tmp_path / "short", [1, 4], 2 * CHUNK - 777), machine="vm-2")
    page = bytearray(store.page(good.disks[0], 0))
    if twisted == "length":
        page[48:96] = store.page(short.disks[0], 0)[48:96]
    else:
        page[(32 if twisted == "check" else 3 * 48 + 32)] ^= 1
    with Writer(store, "vm-3", "evil") as writer:
        with writer.lane() as lane:
            identity = store.identity.of(bytes(page))
            lane.add(identity, store.identity.check(page), bytes(page), PAGE)
        evil = replace(good, point=writer.point, machine_id="vm-3", disks=(replace(good.disks[0], pages=(identity,)),))
        writer.commit(evil)
    if twisted != "repeated":
        # A chunk that lies at several places is decoded once.
        with pytest.raises(StoreError):
            restored(again(), evil, tmp_path)
    # What is encrypted shows its check only when it is decoded.
    hidden = store.vault is not None and not deep
    for looked in (None, Chosen((evil,)), Chosen((short, evil, good)), newest(again(), ["vm-3"])):
        report = verify.run(again(), part=looked, deep=deep, record=False)
        if hidden:
            continue
        assert not report.ok and report.bad_points == [evil.object_name]
        assert "has another check or length than a map says" in " ".join(report.reasons)
        assert [hit for hit in report.hit if "evil" not in hit and "name of vm-1" not in hit] == []
        if looked is None or len(looked.points) == 3:
            assert set(report.good_points) == {good.object_name, short.object_name}
    assert verify.run(again(), part=Chosen((good, short)), deep=deep, record=False).ok
    if not hidden:
        assert list(repair.run(again(), deep=deep, check=True).lost) == [evil.object_name]
        mended = repair.run(again(), deep=deep, remove=True, observe_seconds=0)
        assert mended.removed == [evil.object_name]
        sound(again())


def test_what_a_collection_has_moved_meanwhile_is_found_where_it_is(
    plain: Store, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _told = back_up(plain, image(tmp_path / "disk", [*range(1, 30)]))
    two, _told = back_up(plain, image(tmp_path / "disk", [1, *range(40, 70)]), parent=one)
    plain.backend.delete(one.object_name)
    moved: list[collect.Report] = []

    class Late(Wanted):
        """Everything has been placed when the collection comes."""

        def take(self) -> Any:
            taken = super().take()
            if not moved:
                moved.append(collect.run(Store.open(local(root)), observe_seconds=0))
            return taken

    monkeypatch.setattr(verify, "Wanted", Late)
    report = verify.run(Store.open(local(root)), part=Chosen((two,)))
    assert moved[0].repacked and moved[0].removed
    assert report.ok and report.good_points == [two.object_name]


def test_a_record_that_was_not_wanted_is_looked_at_when_it_is_asked_for(plain: Store, tmp_path: Path) -> None:
    back_up(plain, image(tmp_path / "disk", [*range(1, 20)]))
    pack, entries = max(contents(plain).items(), key=lambda one: len(one[1]))
    first, *_others, last = entries
    job = Scan(plain, False, wanted={pack: array(MARK, [mark(first.id, first.offset)])})
    report = job.run([pack_name(pack)], 1)
    assert report.records == 1 and job.complete()
    for entry, there in ((first, True), (last, True), (replace(last, offset=last.offset + 1), False)):
        assert job.holds(entry.id, Place(pack, entry.offset, entry.stored, entry.length), report) is there
    assert report.records == 1 + len(entries) and not report.bad


def test_what_is_wanted_takes_little_memory_for_each_record() -> None:
    count = 30_000
    ids = [number.to_bytes(4, "big") * 8 for number in range(0, 1 << 32, (1 << 32) // count)][:count]
    data = build((one, Place(f"a-{number % 100}", number // 100 * 100, 50, 60)) for number, one in enumerate(ids))
    index = Index([Segment(data, "x", "x")])
    pairs = [(one, claim(one[:16], number)) for number, one in enumerate(ids)]
    tracemalloc.start()
    try:
        wanted = Wanted(index)
        for _again in range(3):
            wanted.add(pairs)
        offsets, _sizes = wanted.take()
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for found in (offsets, wanted.claims):
        assert sum(map(len, found.values())) == count and all(isinstance(one, array) for one in found.values())
    assert peak < 24 * count


# -- the newest, and names ---------------------------------------------------------------------------------------------


def test_newest_is_the_newest_of_each_machine(plain: Store, root: Path, tmp_path: Path) -> None:
    assert part.newest(plain).points == ()
    made = [
        back_up(plain, image(tmp_path / "disk", [turn * 10 + number + 1]), machine=f"vm-{number}")[0]
        for turn in range(3)
        for number in range(2)
    ]
    newest = part.newest(plain)
    assert {point.point for point in newest.points} == {made[4].point, made[5].point} and newest.unreadable == {}
    for name in ("vm-1", "name of vm-1"):
        assert part.newest(plain, [name]).points == (made[5],)
    assert part.newest(plain, ["vm-1", "name of vm-0", "vm-1"]).points == (made[5], made[4])
    with pytest.raises(NoSuchMachine, match="'vm-9'"):
        part.newest(plain, ["vm-9"])
    report = verify.run(plain, part=newest)
    assert set(report.good_points) == {made[4].object_name, made[5].object_name}
    # One that cannot be read is told, recorded, and the next one is looked at in its place.
    path = root / made[5].object_name
    path.write_bytes(b"x" + path.read_bytes())
    newest = part.newest(plain)
    assert {point.point for point in newest.points} == {made[4].point, made[3].point}
    report = verify.run(plain, part=newest)
    assert not report.ok and report.bad_points == [made[5].object_name] and made[5].point in report.problems[0]
    assert part.newest(plain, ["vm-0"]).unreadable == {}


def test_points_are_named_as_elsewhere(plain: Store, root: Path, tmp_path: Path) -> None:
    one, _told = back_up(plain, image(tmp_path / "a", [1]), machine="one")
    two, _told = back_up(plain, image(tmp_path / "b", [2]), machine="two")
    assert part.named(plain, [one.point, two.point[:-1], one.point]).points == (one, two)
    assert part.named(plain, ["latest"], "two").points == (two,)
    with pytest.raises(AmbiguousPoint):
        part.named(plain, ["latest"])
    with pytest.raises(AmbiguousPoint):
        part.named(plain, ["2"])
    with pytest.raises(NoSuchPoint):
        part.named(plain, [one.point, "1999"])
    path = root / two.object_name
    path.write_bytes(path.read_bytes()[:-5])
    found = part.named(plain, [two.point, one.point])
    assert found.points == (one,) and list(found.unreadable) == [two.object_name]
    report = verify.run(plain, part=found)
    assert (report.good_points, report.bad_points) == ([one.object_name], [two.object_name])


# -- buckets -----------------------------------------------------------------------------------------------------------


@DEEP
@pytest.mark.xdist_group("s3")
def test_a_bucket_gets_few_large_requests(s3_server: str, tmp_path: Path, deep: bool) -> None:
    bucket = s3(s3_server)
    store = new_store(bucket)
    points = [
        back_up(store, image(tmp_path / "disk", [*range(n * 200 + 1, n * 200 + 90)]), machine=f"vm-{n}")[0]
        for n in range(3)
    ]
    there = contents(store)
    asked: list[str] = []
    for call in ("get", "size_of"):
        original = getattr(bucket, call)

        def counted(name: str, *more: int, original: Any = original) -> Any:
            if name.startswith("packs/"):
                asked.append(name)
            return original(name, *more)

        setattr(bucket, call, counted)
    total = sum(map(len, there.values()))
    assert total > 270
    report = verify.run(store, deep=deep, threads=2)
    assert report.ok and report.records == total
    # Of each pack its size, its ends and its middle; and the pages of the maps once more, to see who needs what.
    assert len(asked) <= 5 * len(there) + 2 * len(points) and len(asked) < total / 3
    asked.clear()
    chosen = verify.run(store, part=Chosen((points[1],)), deep=deep, threads=2)
    assert chosen.ok and chosen.records == 91
    assert len(asked) <= 30 < 91
    own = {pack_name(pack) for pack in there if pack.startswith(points[1].writer)}
    assert set(asked) <= own


@pytest.mark.xdist_group("s3")
def test_a_damaged_pack_in_a_bucket_costs_no_request_for_each_record(s3_server: str, tmp_path: Path) -> None:
    bucket = s3(s3_server)
    store = new_store(bucket)
    back_up(store, image(tmp_path / "disk", [*range(1, 60)]))
    name = max(contents(store).items(), key=lambda one: len(one[1]))[0]
    data = bucket.read(pack_name(name))
    bucket.delete(pack_name(name))
    bucket.create(pack_name(name), data[:-1])
    records, asked = len(contents_of(store, name)), []
    get = bucket.get

    def counted(name: str, offset: int, length: int) -> bytes:
        asked.append((name, offset, length))
        return get(name, offset, length)

    bucket.get = counted  # type: ignore[method-assign]
    report = verify.run(store, threads=1)
    assert not report.ok and not report.bad and name in report.problems[0]
    assert records > 12 and len([one for one in asked if one[0] == pack_name(name)]) < records / 2


def contents_of(store: Store, pack: str) -> list[Entry]:
    with store.backend.open(pack_name(pack)) as ranges:
        return PackReader(pack_name(pack), ranges, store.name, store.codec, store.vault).entries_or_survivors()


def test_a_map_is_read_once_however_many_points_share_it(plain: Store, root: Path, tmp_path: Path) -> None:
    point, _told = back_up(plain, image(tmp_path / "disk", [*range(1, 1025)]))
    made = [point, *(back_up(plain, tmp_path / "disk", parent=point)[0] for _turn in range(3))]
    backend = Reads(str(root))
    opened = Store.open(backend)
    ((pack, entry),) = [(p, e) for p, entries in contents(plain).items() for e in entries if e.kind == PAGE]
    assert verify.run(opened, threads=1).ok
    assert Counter(backend.seen[pack_name(pack)])[entry.offset, entry.span] == 2
    # All of them are hit by what is damaged below it.
    spoilt = plain.index().find(plain.identity.of(chunk(7)))
    assert spoilt is not None
    flip(root, spoilt.pack, next(e for e in contents(plain)[spoilt.pack] if e.offset == spoilt.offset))
    for chosen in (None, Chosen(tuple(made)), *(one for one in (Slice(1, 2), Slice(2, 2)) if one.has(spoilt.pack))):
        report = verify.run(Store.open(local(root)), part=chosen, record=False)
        assert report.hit == [f"'name of vm-1' {one.point}: disk scsi0:0: 1 chunks" for one in made]
        assert report.bad_points == [one.object_name for one in made] and report.good_points == []


def test_a_point_that_goes_while_it_is_looked_at_is_no_damage(
    plain: Store, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fleet(plain, tmp_path, 2)
    look = Scan.run

    def beside(self: Scan, *words: Any) -> Any:
        if plain.backend.list("points/") and (root / made[0].object_name).exists():
            plain.backend.delete(made[0].object_name)
            monkeypatch.setattr(Scan, "run", look)
            collect.run(Store.open(local(root)))
        return look(self, *words)

    monkeypatch.setattr(Scan, "run", beside)
    report = verify.run(Store.open(local(root)), part=Chosen(tuple(made)))
    assert report.ok, (report.problems, report.bad)
    assert report.good_points == [made[1].object_name] and report.bad_points == []


class Vanishing(LocalBackend):
    """As in a bucket: an object that is open goes from under its reader. `dead`: packs, after so many reads."""

    dead: tuple[str, ...] = ()
    reads = 0

    def open(self, name: str) -> LocalRanges:
        ranges = super().open(name)
        assert isinstance(ranges, LocalRanges)
        if name in self.dead:
            read, left = ranges.read, [self.reads]

            def gone(offset: int, length: int) -> bytes:
                left[0] -= 1
                if left[0] < 0:
                    raise ObjectMissing(name=name, store=self.name)
                return read(offset, length)

            ranges.read = gone  # type: ignore[method-assign]
        return ranges


@pytest.mark.folder
@DEEP
@pytest.mark.parametrize("reads", [0, 1, 2, 3, 4, 5])
def test_a_pack_that_a_collection_removes_under_the_eyes_is_no_damage(
    plain: Store, root: Path, tmp_path: Path, deep: bool, reads: int
) -> None:
    made = fleet(plain, tmp_path, 2)
    dead = [name for name, _size in plain.backend.list("packs/") if made[0].writer in name]
    kept = {page for page in needs(plain, made[1])}
    index = plain.index(fresh=True)
    dead = [name for name in dead if not {index.find(one).pack for one in kept if index.find(one)} & {Path(name).stem}]
    plain.backend.delete(made[0].object_name)
    beside = Vanishing(str(root))
    beside.dead, beside.reads = tuple(dead), reads
    report = verify.run(Store.open(beside), deep=deep, threads=1, record=False)
    assert dead and report.ok, (report.problems, report.bad)
    assert report.good_points == [made[1].object_name]


@pytest.mark.folder
@pytest.mark.parametrize("how", ["all", "newest", "deep"])
def test_what_cannot_be_had_now_is_no_damage_and_nothing_is_recorded(
    plain: Store, root: Path, tmp_path: Path, how: str
) -> None:
    back_up(plain, image(tmp_path / "a", [1, 2, 3]))

    class Away(LocalBackend):
        def open(self, name: str) -> Ranges:
            if name.startswith("packs/"):
                raise BackendFailed(name=name, store=self.name, done="read", reason="Permission denied")
            return super().open(name)

    away = Store.open(Away(str(root)))
    with pytest.raises(BackendFailed, match="Permission denied"):
        verify.run(away, part=newest(away) if how == "newest" else None, deep=how == "deep")
    assert verified.findings(plain) == {} and verify.run(plain).ok


@pytest.mark.folder
def test_the_latest_is_never_an_older_one_without_a_word(plain: Store, root: Path, tmp_path: Path) -> None:
    first, _told = back_up(plain, image(tmp_path / "a", [1, 2]))
    second, _told = back_up(plain, image(tmp_path / "a", [1, 3]))
    assert find.point(plain, "latest").point == second.point
    path = root / second.object_name
    path.write_bytes(spoiled(path.read_bytes()))
    with pytest.raises(NewestUnreadable) as told:
        find.point(plain, "latest")
    assert second.point in told.value.message and first.point in told.value.hint_text
    assert find.point(plain, first.point).point == first.point
    assert verify.run(plain, part=part.named(plain, ["latest"])).bad_points == [second.object_name]
