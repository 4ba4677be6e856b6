# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that are begun from those of the restore point before: what they hold, what is written, what is left alone."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs import imagefile
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import ImageFailed
from ansible_collections.stowage.esxi.plugins.module_utils.programs.imagefile import BLOCK_BYTES, ImageFile

PIECE = 256 << 10
"""As a piece of 1 MiB: several blocks."""
SIZE = 12 * PIECE + 512
Ranges = Sequence[tuple[int, int]]


def disk(seed: int, ranges: Ranges) -> bytes:
    data = bytearray(SIZE)
    for number, (offset, length) in enumerate(ranges):
        data[offset : offset + length] = random.Random(seed * 100 + number).randbytes(length)
    return bytes(data)


def write(path: Path, data: bytes, ranges: Ranges, former: Path | None = None) -> ImageFile:
    """As a disk is given: its ranges in pieces, and the holes between them."""
    at = 0
    with ImageFile(str(path), SIZE, str(former) if former else None) as image:
        for offset, length in ranges:
            if offset > at:
                image.hole(at, offset - at)
            for begin in range(offset, offset + length, PIECE):
                end = min(offset + length, begin + PIECE)
                image.put(data[begin:end], begin)
            at = offset + length
        if at < SIZE:
            image.hole(at, SIZE - at)
        image.finish()
    return image


FIRST: Ranges = ((0, 2 * PIECE), (5 * PIECE, 3 * PIECE), (SIZE - 512, 512))


def test_a_first_image_holds_what_the_disk_holds_and_its_holes(folder: Path) -> None:
    data = disk(1, FIRST)
    image = write(folder / "a", data, FIRST)
    assert (folder / "a").read_bytes() == data
    status = (folder / "a").stat()
    assert (image.begun, status.st_mode & 0o777) == ("new", 0o400)
    assert image.written <= 5 * PIECE + BLOCK_BYTES and status.st_blocks * 512 < 6 * PIECE
    held = hashlib.sha256(b"".join(data[offset : offset + length] for offset, length in FIRST)).digest()
    assert image.differs(FIRST, held, lambda: None) == ""
    assert "not those that were read" in image.differs(FIRST, b"", lambda: None)
    assert "where the disk holds nothing" in image.differs(FIRST[:2], held, lambda: None)


def test_what_does_not_differ_is_the_same_file_or_shares_its_blocks(folder: Path) -> None:
    data = disk(1, FIRST)
    write(folder / "a", data, FIRST)
    image = write(folder / "b", data, FIRST, folder / "a")
    assert (folder / "b").read_bytes() == data and image.written == 0
    same = (folder / "a").stat().st_ino == (folder / "b").stat().st_ino
    assert (image.begun, same) in (("former", True), ("reflink", False))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_changes_the_former_image_stays_as_it_was(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    data, ranges = disk(1, FIRST), list(FIRST)
    write(folder / "0", data, ranges)
    for number in range(1, 4):
        former, was = folder / str(number - 1), data
        now = bytearray(data)
        for _change in range(chance.randrange(1, 4)):
            offset = chance.randrange(SIZE - PIECE)
            now[offset : offset + 700] = chance.randbytes(700) if chance.random() < 0.7 else bytes(700)
        data = bytes(now)
        # Slots that are empty may be told as holes, or be read as zeros.
        slots = [(at, min(PIECE, SIZE - at)) for at in range(0, SIZE, PIECE)]
        ranges = [(at, length) for at, length in slots if any(data[at : at + length]) or chance.random() < 0.3]
        image = write(folder / str(number), data, ranges, former)
        assert (folder / str(number)).read_bytes() == data
        assert former.read_bytes() == was
        if image.begun == "reflink":
            assert image.written <= 3 * 2 * BLOCK_BYTES


def test_a_hole_that_was_none_becomes_one(folder: Path) -> None:
    write(folder / "a", disk(1, FIRST), FIRST)
    fewer = FIRST[1:]
    data = disk(1, [(0, 0), *fewer])
    write(folder / "b", data, fewer, folder / "a")
    assert (folder / "b").read_bytes() == data
    with (folder / "b").open("rb") as file:
        assert next(imagefile.data_in(file.fileno(), 0, SIZE))[0] >= 5 * PIECE
    assert (folder / "a").read_bytes() == disk(1, FIRST)


def test_a_half_copy_is_gone_on_with_and_one_that_belongs_to_a_point_is_not(folder: Path) -> None:
    data = disk(1, FIRST)
    with ImageFile(str(folder / "half"), SIZE, None) as image:
        image.put(data[:PIECE], 0)
    again = write(folder / "half", data, FIRST)
    assert (again.begun, (folder / "half").read_bytes() == data) == ("half copy", True)
    assert again.written < image.written + 4 * PIECE + BLOCK_BYTES
    os.link(folder / "half", folder / "point")
    other = disk(2, FIRST)
    fresh = write(folder / "half", other, FIRST)
    assert (fresh.begun, (folder / "point").read_bytes() == data) == ("new", True)
    assert (folder / "half").read_bytes() == other


def test_a_former_image_of_another_size_is_none(folder: Path) -> None:
    (folder / "short").write_bytes(b"x" * PIECE)
    assert write(folder / "b", disk(1, FIRST), FIRST, folder / "short").begun == "new"


def test_what_the_file_system_refuses_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ImageFailed, match="nowhere") as caught:
        ImageFile(str(tmp_path / "nowhere" / "a"), SIZE)
    assert "were not touched" in caught.value.hint_text


def test_zeros_that_were_written_become_holes_and_the_rest_stays_what_it_was(folder: Path) -> None:
    data = disk(1, FIRST)
    path = folder / "a"
    path.write_bytes(data)
    looked: list[int] = []
    imagefile.dig(str(path), lambda: looked.append(1))
    assert path.read_bytes() == data and path.stat().st_blocks * 512 <= 5 * PIECE + 2 * BLOCK_BYTES
    assert len(looked) == -(-SIZE // imagefile.READ_BYTES)
    before = path.stat().st_blocks
    imagefile.dig(str(path), lambda: None)
    assert path.read_bytes() == data and path.stat().st_blocks == before


def data_at(path: Path, at: int) -> bool:
    """Whether anything of a block is no hole."""
    with path.open("rb") as file:
        return any(imagefile.data_in(file.fileno(), at, min(at + BLOCK_BYTES, path.stat().st_size)))


@pytest.mark.parametrize("seed", range(4))
def test_runs_of_zeros_are_whole_blocks_and_each_piece_is_read_once_whatever_the_holes(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "a"
    size = (3 << 20) + chance.randrange(4096)
    with path.open("wb") as file:
        file.truncate(size)
        for at in range(0, size - 8192, 8192):
            if chance.random() < 0.5:
                file.seek(at)
                file.write(bytes(4096) if chance.random() < 0.7 else chance.randbytes(4096))
    data, looked = path.read_bytes(), []
    with path.open("rb") as file:
        runs = list(imagefile.zeros_in(file.fileno(), lambda: looked.append(1)))
    assert len(looked) <= 4
    expected = {at for at in range(0, size, BLOCK_BYTES) if not any(data[at : at + BLOCK_BYTES])}
    found = {at for begin, end in runs for at in range(begin, end, BLOCK_BYTES)}
    # A hole needs not be made again.
    assert found <= expected and not any(data_at(path, at) for at in expected - found)
    imagefile.dig(str(path), lambda: None)
    assert path.read_bytes() == data


def test_where_no_hole_can_be_made_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(2 * BLOCK_BYTES) + b"x" * BLOCK_BYTES)
    os.truncate(path, 100 * BLOCK_BYTES)
    before, asked = path.stat().st_blocks, []

    def cannot(_handle: int, offset: int, _length: int) -> bool:
        asked.append(offset)
        return False

    monkeypatch.setattr(imagefile, "punched", cannot)
    monkeypatch.setattr(imagefile, "data_in", lambda _handle, begin, end: iter([(begin, end)]))
    imagefile.dig(str(path), lambda: None)
    assert path.stat().st_blocks == before and asked == [0]
