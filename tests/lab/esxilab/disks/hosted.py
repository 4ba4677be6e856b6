# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosted sparse (KDMV) extents: the pieces of a 2gbsparse disk."""

from __future__ import annotations

import os
import struct
from array import array

from .descriptor import SECTOR
from .errors import NotADisk, from_os_error
from .extent import ABSENT, ZERO, create_file
from .sparse import SparseExtent

MAX_EXTENT_SECTORS = 4192256  # 2047 MiB: what VMware puts into one piece
_GRAIN_SECTORS = 128
_TABLE_ENTRIES = 512
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_NEWLINES = b"\n \r\n"
_ZERO_GRAINS = 1 << 2
_COMPRESSED = 1 << 16


class HostedExtent(SparseExtent):
    """One KDMV file with both its directories and all its tables in place, uncompressed."""

    entry_code = "I"

    def _load(self) -> None:
        fields = _HEADER.unpack(self.read_at(0, SECTOR))
        magic, version, flags, sectors, grain, _at, _size, per_table, rgd, gd, _over, unclean, newlines, packed = fields
        if magic != b"KDMV" or version not in (1, 2, 3) or newlines != _NEWLINES:
            raise NotADisk(self.path, f"not a sparse extent (magic {magic!r}, version {version})")
        if packed or flags & _COMPRESSED:
            raise NotADisk(self.path, "a compressed (streamOptimized) extent; only the upload of an export makes those")
        if sectors * SECTOR != self.capacity:
            raise NotADisk(self.path, f"{sectors} sectors in the file, {self.capacity // SECTOR} in the descriptor")
        self.grain, self.per_table = grain * SECTOR, per_table
        self._has_zero_grains = bool(flags & _ZERO_GRAINS)
        self.unclean = bool(unclean)
        span = grain * per_table
        count = (sectors + span - 1) // span
        self._directory = self._read_directory(gd, count)
        self._redundant = self._read_directory(rgd, count) if flags & 2 else None
        self._end = -(-os.fstat(self.fd).st_size // SECTOR) * SECTOR

    def _read_directory(self, sector: int, count: int) -> array[int]:
        directory = array("I")
        directory.frombytes(self.read_at(sector * SECTOR, count * 4))
        return directory

    def _table_place(self, index: int) -> int | None:
        return self._directory[index] * SECTOR or None

    def _make_table(self, index: int) -> int:
        raise NotADisk(self.path, f"directory entry {index} names no table; split extents come with all of them")

    def _decode(self, raw: array[int]) -> array[int]:
        zero = ZERO if self._has_zero_grains else SECTOR
        return array("q", [e * SECTOR if e > 1 else zero if e == 1 else ABSENT for e in raw])

    def _encode(self, place: int, count: int) -> array[int]:
        first, step = place // SECTOR, self.grain // SECTOR
        return array("I", range(first, first + count * step, step))

    def _allocate(self, count: int, first_grain: int) -> int:
        place = self._end
        self._end += count * self.grain
        return place

    def _write_entries(self, index: int, place: int, entries: array[int]) -> None:
        super()._write_entries(index, place, entries)
        if self._redundant is not None:
            shift = (self._redundant[index] - self._directory[index]) * SECTOR
            super()._write_entries(index, place + shift, entries)


def create_hosted(path: str, sectors: int) -> None:
    """An empty extent: header, redundant directory and tables, directory and tables."""
    span = _GRAIN_SECTORS * _TABLE_ENTRIES
    tables = (sectors + span - 1) // span
    gd_sectors = (tables * 4 + SECTOR - 1) // SECTOR
    table_sectors = _TABLE_ENTRIES * 4 // SECTOR
    rgd = 1
    gd = rgd + gd_sectors + tables * table_sectors
    end = gd + gd_sectors + tables * table_sectors
    over = (end + _GRAIN_SECTORS - 1) // _GRAIN_SECTORS * _GRAIN_SECTORS
    header = _HEADER.pack(b"KDMV", 1, 3, sectors, _GRAIN_SECTORS, 0, 0, _TABLE_ENTRIES, rgd, gd, over, 0, _NEWLINES, 0)
    create_file(path)
    try:
        with open(path, "r+b") as file:
            file.write(header)
            for directory in (rgd, gd):
                first = directory + gd_sectors
                file.seek(directory * SECTOR)
                file.write(array("I", range(first, first + tables * table_sectors, table_sectors)).tobytes())
            file.truncate(over * SECTOR)
    except OSError as error:
        raise from_os_error(error, path) from error
