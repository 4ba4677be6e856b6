# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk read in the middle gives what a restore gives, to many threads at once, within its room."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect
from ansible_collections.stowage.esxi.plugins.module_utils.store import image as images
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.image import DiskImage, Reader
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import CHUNK, back_up, image, local, new_store, restored


def test_any_place_of_a_disk_reads_as_the_restored_disk_does(store: Store, tmp_path: Path) -> None:
    size = 1100 * CHUNK + 777
    disk = image(tmp_path / "disk", [1, 0, 2, 2, 0] * 5 + [0] * 1000 + [7] * 80, size)
    point, _told = back_up(store, disk)
    wanted = restored(store, point, tmp_path)
    reader = Reader(store, cache_bytes=3 * CHUNK)
    shown = DiskImage(reader, point.disks[0])
    dice = random.Random(4)
    places = [(0, 1), (CHUNK - 1, 2), (size - 5, 100), (size, 1), (size + 9, 9), (3 * CHUNK, 0), (1024 * CHUNK - 3, 9)]
    places += [(dice.randrange(size), dice.randrange(3 * CHUNK)) for _ in range(200)]
    for offset, length in places:
        assert shown.pread(length, offset) == wanted[offset : offset + length], (offset, length)
    assert b"".join(shown.pread(CHUNK * 5 + 11, at) for at in range(0, size, CHUNK * 5 + 11)) == wanted
    with pytest.raises(ValueError):
        shown.pread(1, -1)
    reader.close()


def test_threads_share_what_is_decoded_and_the_room_is_kept(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = image(tmp_path / "disk", list(range(1, 41)))
    point, _told = back_up(plain, disk)
    wanted = disk.read_bytes()
    reader = Reader(plain, cache_bytes=6 * CHUNK)
    shown = DiskImage(reader, point.disks[0])
    most = [0]

    def read(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(60):
            offset = dice.randrange(len(wanted))
            assert shown.pread(2000, offset) == wanted[offset : offset + 2000]
            most[0] = max(most[0], reader.held_bytes)

    monkeypatch.setattr(images, "_OPEN_PACKS", 1)
    with ThreadPoolExecutor(8) as executor:
        for one in [executor.submit(read, seed) for seed in range(8)]:
            one.result()
    assert 0 < most[0] <= 6 * CHUNK
    reader.close()


def test_a_chunk_that_several_want_at_once_is_decoded_once(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, _told = back_up(plain, image(tmp_path / "disk", [5]))
    reader = Reader(plain)
    shown = DiskImage(reader, point.disks[0])
    shown.pread(0, 0)
    reader.page(point.disks[0], 0)
    begun, go = threading.Event(), threading.Event()
    original = reader._at

    def slow(*words: object) -> bytes:
        begun.set()
        assert go.wait(30)
        return original(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "_at", slow)
    with ThreadPoolExecutor(4) as executor:
        first = executor.submit(shown.pread, 10, 0)
        assert begun.wait(30)
        others = [executor.submit(shown.pread, 10, 0) for _ in range(3)]
        go.set()
        assert {one.result(30) for one in [first, *others]} == {(tmp_path / "disk").read_bytes()[:10]}
    assert reader.decoded == 2


def test_damage_is_told_to_everyone_who_reads_it_and_what_is_whole_is_read(root: Path, tmp_path: Path) -> None:
    store = new_store(local(root))
    disk = image(tmp_path / "disk", [1, 2])
    point, _told = back_up(store, disk)
    place = store.place_of(store.identity.of(disk.read_bytes()[CHUNK:]))
    path = root / "packs" / place.pack[:2] / f"{place.pack}.pack"
    data = bytearray(path.read_bytes())
    data[place.offset + 100] ^= 1
    path.write_bytes(data)
    shown = DiskImage(Reader(Store.open(local(root))), point.disks[0])
    assert shown.pread(CHUNK, 0) == disk.read_bytes()[:CHUNK]
    for _ in range(2):
        with pytest.raises(StoreError, match="is wrong"):
            shown.pread(10, CHUNK)


def test_what_collections_move_meanwhile_is_found_again_and_again(root: Path, tmp_path: Path) -> None:
    """A restore point that is mounted for days, and a collection every night."""
    store = new_store(local(root), pack_bytes=64 << 20, repack_percent=100)
    disks = [image(tmp_path / f"{count}", list(range(1, count + 1))) for count in (40, 12, 4)]
    points = [back_up(store, disk)[0] for disk in disks]
    opened = Store.open(local(root))
    wanted = disks[-1].read_bytes()
    last = store.identity.of(wanted[-CHUNK:])
    for night in range(3):
        # A reader of its own: a pack that is still open is still there.
        shown = DiskImage(Reader(opened), points[-1].disks[0])
        assert shown.pread(CHUNK, night * CHUNK) == wanted[night * CHUNK :][:CHUNK]
        assert restored(opened, points[-1], tmp_path) == wanted
        if night < 2:
            store.backend.delete(points[night].object_name)
            before = store.index(fresh=True).find(last)
            collect.run(Store.open(local(root)))
            assert store.index(fresh=True).find(last) != before
