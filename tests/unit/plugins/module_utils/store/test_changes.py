# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A map of changes saves reading, and nothing else: the restore point is the one of a full backup."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, changes
from ansible_collections.stowage.esxi.plugins.module_utils.store.claim import Proof
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadChanges
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from hypothesis import given, settings
from hypothesis import strategies as st

from .benches import CHUNK, back_up, edited, image, local, new_store, restored, sound
from .hashing import HashedFile, feed

SIZE = 1 << 20


def parse(value: Any, size: int = SIZE) -> Any:
    return changes.parse(json.dumps(value).encode(), size)


def test_areas_are_sorted_and_joined() -> None:
    areas = [
        {"start": 4096, "length": 10},
        {"start": 0, "length": 5},
        {"start": 5, "length": 7},
        {"start": 9, "length": 0},
    ]
    assert parse(areas) == ((0, 12), (4096, 10))
    assert parse([]) == ()


def test_the_answers_of_the_api_are_taken_and_what_they_leave_out_has_changed() -> None:
    whole = {"startOffset": 0, "length": SIZE, "changedArea": [{"start": 512, "length": 512, "_type": "x"}]}
    assert parse(whole) == parse([whole]) == ((512, 512),)
    assert parse({"startOffset": 0, "length": SIZE, "changedArea": None}) == ()
    first = {"startOffset": 0, "length": 4096, "changedArea": [{"start": 512, "length": 512}]}
    assert parse(first) == ((512, 512), (4096, SIZE - 4096))
    last = {"startOffset": 8192, "length": SIZE - 8192, "changedArea": []}
    assert parse([last, first]) == ((512, 512), (4096, 4096))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b"\xff\xfe", "codec can't decode|Expecting"),
        (b"7", "no list"),
        (b"[7]", "'7' is no area"),
        (b'[{"offset": 0, "length": 1}]', "has the start 'None'"),
        (b'[{"start": 0}]', "has the length 'None'"),
        (b'[{"start": -1, "length": 1}]', "has the start '-1'"),
        (b'[{"start": true, "length": 1}]', "has the start 'True'"),
        (b'[{"start": 1.5, "length": 1}]', "has the start '1.5'"),
        (b'[{"start": "0", "length": 1}]', "has the start '0'"),
        (b'[{"start": 1048576, "length": 1}]', "ends at byte 1048577, the disk has 1048576"),
        (b'[{"start": 0, "length": 1e400}]', "has the length 'inf'"),
        (b'[{"start": 0, "length": ' + b"9" * 5000 + b"}]", "digits|ends at byte 9999"),
        (b'{"changedArea": 5, "startOffset": 0, "length": 1}', "changedArea is no list"),
        (b'{"changedArea": []}', "has the startOffset 'None'"),
        (b"[" * 100_000, "recursion|Expecting"),
    ],
)
def test_what_is_no_map_is_told(data: bytes, words: str) -> None:
    with pytest.raises(BadChanges, match=words) as caught:
        changes.parse(data, SIZE, "changes.json")
    assert caught.value.message.startswith("changes.json is no map") and len(caught.value.message) < 400


def test_a_map_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('[{"start": 512, "length": 512}]')
    assert changes.load(str(tmp_path / "map.json"), SIZE) == ((512, 512),)
    with pytest.raises(BadChanges, match="No such file"):
        changes.load(str(tmp_path / "none"), SIZE)


# A disk of chunks, the last one cut; what is written to it, and by how much it grows.
disks_that_change = {
    "seeds": st.lists(st.integers(0, 4), min_size=1, max_size=12),
    "cut": st.integers(0, CHUNK - 1),
    "edits": st.lists(
        st.tuples(st.integers(0, 12 * CHUNK - 1), st.integers(1, 2 * CHUNK), st.integers(0, 255)), max_size=5
    ),
    "grow": st.integers(-CHUNK, 2 * CHUNK),
}


@settings(max_examples=30, deadline=None)
@given(
    **disks_that_change,
    more=st.lists(st.tuples(st.integers(0, 12 * CHUNK), st.integers(0, CHUNK)), max_size=3),
)
def test_a_backup_with_a_map_is_the_full_backup(
    seeds: list[int],
    cut: int,
    edits: list[tuple[int, int, int]],
    grow: int,
    more: list[tuple[int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever was written between, and however the disk has grown. A map may say too much."""
    folder = tmp_path_factory.mktemp("map")
    (folder / "store").mkdir()
    store = new_store(local(folder / "store"))
    size = len(seeds) * CHUNK - cut
    disk = image(folder / "disk", seeds, size)
    first, _told = back_up(store, disk)
    size = max(1, size + grow)
    found = [(begin, min(length, size - begin)) for begin, length in more if begin < size]
    areas = [{"start": begin, "length": length} for begin, length in [*found, *edited(disk, size, edits)]]
    second, told = back_up(store, disk, parent=first, changed=parse(areas, size))
    full, all_read = back_up(store, disk, machine="full")
    assert second.disks == full.disks and told.read <= all_read.read
    assert restored(store, second, folder) == disk.read_bytes()
    sound(store)
    shutil.rmtree(folder)


@given(
    areas=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), max_size=8),
    chunk=st.sampled_from([1, 7, 16, 64]),
)
def test_areas_touch_the_chunks_that_they_touch(areas: list[tuple[int, int]], chunk: int) -> None:
    touched = {byte // chunk for begin, length in areas for byte in range(begin, begin + length)}
    slots = changes.Slots(areas, chunk)
    assert {slot for slot in range(400) if slot in slots} == touched


def test_a_map_in_no_order_is_one(plain: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1, 2, 3, 4])
    first, _told = back_up(plain, disk)
    image(disk, [5, 2, 3, 6])
    second, told = back_up(plain, disk, parent=first, changed=[(3 * CHUNK, 1), (0, 1)])
    assert told.read == 2 * CHUNK and restored(plain, second, tmp_path) == disk.read_bytes()


def test_a_disk_that_has_grown_in_its_last_chunk_is_whole(plain: Store, tmp_path: Path) -> None:
    """What the map does not speak of was a shorter chunk before."""
    disk = image(tmp_path / "disk", [1, 2], CHUNK + 1000)
    first, _told = back_up(plain, disk)
    with open(disk, "r+b") as file:
        file.truncate(3 * CHUNK)
    second, _told = back_up(plain, disk, parent=first, changed=())
    assert restored(plain, second, tmp_path) == disk.read_bytes()


# -- a map that is proven --------------------------------------------------------------------------------------------


def proven(
    store: Store, disk: Path, parent: Point, areas: Sequence[tuple[int, int]], hashed: bool
) -> tuple[Point, backup.Told, Proof]:
    proof = Proof()
    source: Any = HashedFile(disk) if hashed else RawDisk(str(disk))
    inputs = [backup.DiskInput("scsi0:0", source, areas, proof=proof)]
    facts = {"hypervisor": "esx1"}
    point, told = backup.run(
        store, "vm-1", "name of vm-1", inputs, parent=parent, facts=facts, threads=2, scope="store"
    )
    return point, told, proof


@pytest.mark.parametrize("hashed", [False, True])
def test_a_proof_reads_all_and_names_what_the_map_has_not_told(plain: Store, tmp_path: Path, hashed: bool) -> None:
    seeds = [*range(1, 60), *[0] * PAGE_SLOTS, 7]
    disk = image(tmp_path / "disk", seeds)
    first, _told = back_up(plain, disk)
    # One anew, one gone, and all of what the last page had.
    image(disk, [*range(1, 41), 99, *range(42, 58), 0, 59, *[0] * PAGE_SLOTS, 0])
    told_of = [(40 * CHUNK, 1), (57 * CHUNK, CHUNK), ((PAGE_SLOTS + 59) * CHUNK, 5)]
    second, told, proof = proven(plain, disk, first, told_of, hashed)
    assert proof == Proof() and told.read == 58 * CHUNK
    assert restored(plain, second, tmp_path) == disk.read_bytes()
    for number, left_out in enumerate(told_of):
        areas = [area for area in told_of if area != left_out]
        third, _told, proof = proven(plain, disk, first, areas, hashed)
        assert proof == Proof(1, left_out[0] // CHUNK * CHUNK), number
        # What was read is what counts, whatever the map says.
        assert third.disks == second.disks
    sound(plain)


@settings(max_examples=20, deadline=None)
@given(**disks_that_change, lost=st.integers(0, 4))
def test_a_proof_finds_exactly_the_chunks_that_differ_and_were_not_told(
    seeds: list[int],
    cut: int,
    edits: list[tuple[int, int, int]],
    grow: int,
    lost: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("proof")
    (folder / "store").mkdir()
    store = new_store(local(folder / "store"))
    size = len(seeds) * CHUNK - cut
    disk = image(folder / "disk", seeds, size)
    first, _told = back_up(store, disk)
    old, before = disk.read_bytes(), size
    size = max(1, size + grow)
    areas = [area for number, area in enumerate(edited(disk, size, edits)) if number != lost]
    new = disk.read_bytes()
    second, _told, proof = proven(store, disk, first, areas, True)
    touched = changes.Slots(areas, CHUNK)
    wrong = [
        at
        for at in range(0, min(before, size), CHUNK)
        if min(at + CHUNK, before) == min(at + CHUNK, size)
        and old[at : at + CHUNK] != new[at : at + CHUNK]
        and at // CHUNK not in touched
    ]
    assert proof == Proof(len(wrong), wrong[0] if wrong else None)
    assert restored(store, second, folder) == new
    shutil.rmtree(folder)


def test_what_was_a_hole_and_is_one_costs_nothing(plain: Store, tmp_path: Path) -> None:
    """Neither is it asked for, nor read, nor part of the map, with a map of changes or without."""
    disk = image(tmp_path / "disk", [1, *[0] * (3 * PAGE_SLOTS), 2])
    first, _told = feed(plain, HashedFile(disk))
    for areas in (None, [(0, (3 * PAGE_SLOTS + 2) * CHUNK)]):
        source = HashedFile(disk)
        second, told = feed(plain, source, parent=first, changed=areas)
        assert sorted(source.asked) == [(0, CHUNK), ((3 * PAGE_SLOTS + 1) * CHUNK, CHUNK)] and source.fetched == []
        assert told.read == 2 * CHUNK and second.disks == first.disks and second.disks[0].pages[1] is None
