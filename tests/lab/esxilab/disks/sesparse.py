# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""seSparse extents: the `-sesparse.vmdk` of VMFS-6 datastores and of disks of 2 TiB and more."""

from __future__ import annotations

import os
import struct
from array import array

from .descriptor import SECTOR
from .errors import InputOutputError, NotADisk, from_os_error
from .extent import ABSENT, ZERO, create_file
from .sparse import SparseExtent

_MAGIC = 0xCAFEBABE
_VOLATILE_MAGIC = 0xCAFECAFE
_VERSION = 0x0000000200000001
_GRAIN_SECTORS = 8
_TABLE_SECTORS = 64
_TABLE_ENTRIES = _TABLE_SECTORS * SECTOR // 8
_CONST = struct.Struct("<26Q")
_VOLATILE = struct.Struct("<4Q")
_DIRECTORY_FLAG = 0x1000000000000000
_ALLOCATED = 0x3000000000000000
_REPLAY_AT = 24


class SeSparseExtent(SparseExtent):
    """One seSparse file. While it is open for writing its journal flag is set, as on a running VM."""

    entry_code = "Q"
    per_table = _TABLE_ENTRIES
    grain = _GRAIN_SECTORS * SECTOR

    def _load(self) -> None:
        values = _CONST.unpack_from(self.read_at(0, SECTOR))
        if values[0] != _MAGIC or values[1] != _VERSION:
            raise NotADisk(self.path, f"not a seSparse file (magic {values[0]:#x}, version {values[1]:#x})")
        if values[3] != _GRAIN_SECTORS or values[4] != _TABLE_SECTORS or values[5] != 0:
            raise NotADisk(self.path, f"seSparse with grain {values[3]}, table {values[4]}, flags {values[5]}")
        if values[2] * SECTOR != self.capacity:
            raise NotADisk(self.path, f"{values[2]} sectors in the file, {self.capacity // SECTOR} in the descriptor")
        self._volatile_at = values[10] * SECTOR
        self._directory_at = values[16] * SECTOR
        self._tables_at = values[18] * SECTOR
        self._tables_room = values[19] // _TABLE_SECTORS
        self._bitmap_at = values[20] * SECTOR
        self._backmap_at = values[22] * SECTOR
        self._grains_at = values[24] * SECTOR
        magic, self._free_table, _sequence, replay = _VOLATILE.unpack(self.read_at(self._volatile_at, 32))
        if magic != _VOLATILE_MAGIC:
            raise NotADisk(self.path, f"volatile header with magic {magic:#x}")
        self.unclean = replay != 0
        count = (self.capacity + self.grain * self.per_table - 1) // (self.grain * self.per_table)
        self._directory = array("Q")
        self._directory.frombytes(self.read_at(self._directory_at, count * 8))
        if any(e and e >> 32 != _DIRECTORY_FLAG >> 32 for e in self._directory):
            raise NotADisk(self.path, "a grain directory entry without its flag")
        self._used = max(0, os.fstat(self.fd).st_size - self._grains_at + self.grain - 1) // self.grain
        if self.unclean and self.writable:
            tables = [e & 0xFFFFFFFF for e in self._directory if e]
            self._free_table = max([self._free_table, *(t + 1 for t in tables)])

    def _table_place(self, index: int) -> int | None:
        entry = self._directory[index]
        return self._tables_at + (entry & 0xFFFFFFFF) * _TABLE_SECTORS * SECTOR if entry else None

    def _decode(self, raw: array[int]) -> array[int]:
        at, grain = self._grains_at, self.grain
        places = array("q", [ABSENT]) * len(raw)
        for slot, entry in enumerate(raw):
            if not entry:
                continue
            kind = entry >> 60
            if kind == 3:
                index = ((entry & 0x0FFF000000000000) >> 48) | ((entry & 0x0000FFFFFFFFFFFF) << 12)
                places[slot] = at + index * grain
            elif kind in (1, 2):
                places[slot] = ZERO
            else:
                raise NotADisk(self.path, f"grain table entry {entry:#x}")
        return places

    def _encode(self, place: int, count: int) -> array[int]:
        first = (place - self._grains_at) // self.grain
        return array("Q", [_ALLOCATED | (i & 0xFFF) << 48 | i >> 12 for i in range(first, first + count)])

    def _allocate(self, count: int, first_grain: int) -> int:
        first, used = self._used, self._used + count
        back = array("Q", [_ALLOCATED | grain for grain in range(first_grain, first_grain + count)])
        self.pwrite(back.tobytes(), self._backmap_at + first * 8)
        # Grains are used up in order and never given back: all bits before the last are set.
        bits = b"\xff" * (used // 8 - first // 8) + (bytes([(1 << used % 8) - 1]) if used % 8 else b"")
        self.pwrite(bits, self._bitmap_at + first // 8)
        self._used = used
        return self._grains_at + first * self.grain

    def _make_table(self, index: int) -> int:
        if self._free_table >= self._tables_room:
            raise InputOutputError(self.path, "no grain table left")
        number = self._free_table
        self._free_table += 1
        place = self._tables_at + number * _TABLE_SECTORS * SECTOR
        self.pwrite(bytes(_TABLE_SECTORS * SECTOR), place)
        entry = _DIRECTORY_FLAG | number
        self.pwrite(struct.pack("<Q", entry), self._directory_at + index * 8)
        self._directory[index] = entry
        return place

    def _mark_dirty(self) -> None:
        self.pwrite(struct.pack("<Q", 1), self._volatile_at + _REPLAY_AT)

    def flush(self) -> None:
        if self._dirty:
            self.pwrite(struct.pack("<Q", self._free_table), self._volatile_at + 8)

    def finish(self) -> None:
        self.flush()
        if self._dirty:
            self.pwrite(struct.pack("<Q", 0), self._volatile_at + _REPLAY_AT)
            self._dirty = False


def create_sesparse(path: str, sectors: int) -> None:
    """An empty delta: the tables, bitmap and back map for the whole capacity are there, as holes."""
    grains = (sectors + _GRAIN_SECTORS - 1) // _GRAIN_SECTORS
    tables = (grains + _TABLE_ENTRIES - 1) // _TABLE_ENTRIES

    def room(size: int) -> int:
        return (size + SECTOR - 1) // SECTOR

    sizes = [1, 2, 512, room(tables * 8), tables * _TABLE_SECTORS, room((grains + 7) // 8), room(grains * 8)]
    regions: list[tuple[int, int]] = []
    at = 1
    for size in sizes:
        # Regions after the headers start on whole grains.
        at = at if len(regions) < 2 else (at + _GRAIN_SECTORS - 1) // _GRAIN_SECTORS * _GRAIN_SECTORS
        regions.append((at, size))
        at += size
    at = (at + _GRAIN_SECTORS - 1) // _GRAIN_SECTORS * _GRAIN_SECTORS
    regions.append((at, grains * _GRAIN_SECTORS))
    head = [_MAGIC, _VERSION, sectors, _GRAIN_SECTORS, _TABLE_SECTORS, 0, 0, 0, 0, 0]
    head += [value for region in regions for value in region]
    volatile_at = regions[0][0] * SECTOR
    create_file(path)
    try:
        with open(path, "r+b") as file:
            file.write(_CONST.pack(*head).ljust(SECTOR, b"\0"))
            file.seek(volatile_at)
            file.write(_VOLATILE.pack(_VOLATILE_MAGIC, 0, 1, 0).ljust(SECTOR, b"\0"))
            file.truncate(at * SECTOR)
    except OSError as error:
        raise from_os_error(error, path) from error
