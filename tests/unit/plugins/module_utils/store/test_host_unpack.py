# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that comes back to the machine on which its store lies: out of the packs there, and not over the wire."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs import renewing
from ansible_collections.stowage.esxi.plugins.module_utils.store import points, restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import remotetarget, unpacking
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import StoreLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.unpacking import UnpackingTarget
from benches import CHUNK, edited, image, new_store
from hosted import Here, host_backend

from .test_host_store import feed

pytestmark = pytest.mark.folder
SEEDS = [*range(1, 150), 0, 0, 7, 8, 7, *range(150, 200)]


@pytest.fixture
def host() -> Here:
    return Here()


@pytest.fixture
def store(root: Path, host: Here) -> Iterator[Store]:
    made = new_store(host_backend(root, host=host), codec="zlib")
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return image(tmp_path / "disk", SEEDS, len(SEEDS) * CHUNK - 1000)


@pytest.fixture
def point(store: Store, host: Here, disk: Path) -> Point:
    made, _told = feed(store, host, disk)
    return made


def empty(tmp_path: Path, size: int) -> Path:
    with open(tmp_path / "back", "wb") as file:
        file.truncate(size)
    return tmp_path / "back"


@contextlib.contextmanager
def opened(store: Store, host: Here, path: Path) -> Iterator[UnpackingTarget]:
    backend: Any = store.backend
    with UnpackingTarget(host, str(path), backend.path_of, roots=[os.path.realpath(path.parent)]) as target:
        yield target


def brought(store: Store, host: Here, point: Point, path: Path, **more: Any) -> restore.Told:
    with opened(store, host, path) as target:
        return restore.to_target(store, point.disks[0], target, threads=3, **more)


def test_no_byte_of_it_crosses_the_wire_and_holes_stay_holes(
    store: Store, host: Here, point: Point, disk: Path, tmp_path: Path
) -> None:
    path = empty(tmp_path, disk.stat().st_size)
    before = host.traffic()
    told = brought(store, host, point, path)
    crossed = host.traffic() - before
    assert path.read_bytes() == disk.read_bytes()
    held = disk.stat().st_size - 2 * CHUNK
    assert (told.written, told.unpacked, told.fetched) == (held, held, 0)
    # Maps, index, and for each chunk where it lies and its hash.
    assert crossed < 200 * len(SEEDS) + 50_000 < held // 20
    assert path.stat().st_blocks * 512 <= held + 65536


def test_in_place_only_what_differs_is_written_and_that_without_the_wire(
    store: Store, host: Here, point: Point, disk: Path, tmp_path: Path
) -> None:
    path = empty(tmp_path, disk.stat().st_size)
    path.write_bytes(disk.read_bytes())
    edited(path, path.stat().st_size, [(40 * CHUNK, CHUNK, 0x41), (90 * CHUNK + 5, 1, 0x42)])
    told = brought(store, host, point, path, in_place=True)
    assert (told.written, told.unpacked, told.fetched) == (2 * CHUNK, 2 * CHUNK, 0)
    assert path.read_bytes() == disk.read_bytes()


def test_in_place_the_disk_is_torn_before_the_first_of_it_is_taken_out_of_a_pack(
    store: Store, host: Here, point: Point, disk: Path, tmp_path: Path
) -> None:
    path, order = empty(tmp_path, disk.stat().st_size), list[str]()
    path.write_bytes(disk.read_bytes())
    with opened(store, host, path) as target:
        renewed = renewing._Renewed(target, lambda: None, lambda: order.append(path.read_bytes()[:5].decode("latin1")))
        restore.to_target(store, point.disks[0], renewed, in_place=True, threads=2)
        assert order == [] and renewed.written == 0
        edited(path, path.stat().st_size, [(0, 5, 0x41), (90 * CHUNK, 5, 0x41)])
        restore.to_target(store, point.disks[0], renewed, in_place=True, threads=2)
    assert order == ["AAAAA"] and renewed.written == 2 * CHUNK
    assert path.read_bytes() == disk.read_bytes()


def test_an_agent_that_dies_on_the_way_is_replaced_and_nothing_is_missing(
    store: Store, host: Here, point: Point, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small requests, so that there are some; and what was taken is made durable, and looked at again.
    monkeypatch.setattr(unpacking, "UNPACK_BYTES", 4 * CHUNK)
    monkeypatch.setattr(remotetarget, "SYNC_BYTES", 20 * CHUNK)
    unpack, killed = StoreLink.unpack, list[int]()

    def dies(link: StoreLink, *words: Any) -> Any:
        answer = unpack(link, *words)
        if len(killed) < 3 and link.pid not in killed:
            killed.append(link.pid)
            os.kill(link.pid, signal.SIGKILL)
        return answer

    monkeypatch.setattr(StoreLink, "unpack", dies)
    path = empty(tmp_path, disk.stat().st_size)
    brought(store, host, point, path)
    assert len(killed) == 3 and path.read_bytes() == disk.read_bytes()


def test_what_the_machine_cannot_take_out_comes_over_the_wire(
    store: Store, host: Here, point: Point, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is not believed, either: a hash that is not the chunk's id is none."""
    unpack = StoreLink.unpack

    def lies(link: StoreLink, file: Any, pack: Any, records: Any) -> Any:
        asked = unpack(link, file, pack, records[1:] or records)
        parse = asked._parse
        asked._parse = lambda answer: [None if records[1:] else b"x" * 32, *parse(answer)][: len(records)]
        return asked

    monkeypatch.setattr(StoreLink, "unpack", lies)
    path = empty(tmp_path, disk.stat().st_size)
    told = brought(store, host, point, path)
    assert path.read_bytes() == disk.read_bytes()
    assert told.fetched > 0 and 0 < told.unpacked < told.written


def test_a_damaged_record_is_told_as_in_any_store(
    store: Store, root: Path, host: Here, point: Point, tmp_path: Path
) -> None:
    place = store.place_of(next(_ids(store, point)))
    name = next(name for name, _size in store.packs() if place.pack in name)
    with open(root / name, "r+b") as file:
        file.seek(place.offset + 70)
        byte = file.read(1)
        file.seek(place.offset + 70)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(StoreError):
        brought(store, host, point, empty(tmp_path, point.disks[0].size))


def _ids(store: Store, point: Point) -> Iterator[bytes]:
    for number in range(len(point.disks[0].pages)):
        for _slot, identity, _check in points.slots(store.page(point.disks[0], number)):
            yield identity


def test_a_chunk_with_very_many_places_is_written_in_parts() -> None:
    records = [(0, 10, 1 << 20, list(range(40))), (100, 10, 1 << 20, [99])]
    parts = list(unpacking._parts(records))
    assert [numbers for numbers, _some in parts] == [[0], [0], [0, 1]]
    assert [place for _numbers, some in parts for record in some for place in record[3]] == [*range(40), 99]
