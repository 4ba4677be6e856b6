# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmfsSparse (COWD) extents: the `-delta.vmdk` of VMFS-5 and NFS datastores."""

from __future__ import annotations

import os
import struct
from array import array

from .descriptor import SECTOR
from .errors import InvalidArgument, NotADisk, from_os_error
from .extent import ABSENT, ZERO, create_file
from .sparse import SparseExtent

MAGIC = b"COWD"
_HEAD = struct.Struct("<4s7I")  # magic, version, flags, capacity, granularity, directory, its size, next free sector
_HEADER_SECTORS = 4
_UNCLEAN_AT = 1648
_TABLE_ENTRIES = 4096
_GROW = 16 << 20
_ZEROED_ENTRY = 1


class VmfsSparseExtent(SparseExtent):
    """One COWD file. The file grows in steps of 16 MiB (as a hole), an empty one is just header and directory."""

    entry_code = "I"
    per_table = _TABLE_ENTRIES

    def _load(self) -> None:
        head = self.read_at(0, 2048)
        magic, version, flags, sectors, granularity, gd_sector, gd_size, free = _HEAD.unpack_from(head)
        if magic != MAGIC or version != 1 or flags != 3 or not granularity:
            raise NotADisk(self.path, f"not a COWD file (magic {magic!r}, version {version}, flags {flags})")
        if sectors * SECTOR != self.capacity:
            raise NotADisk(self.path, f"{sectors} sectors in the file, {self.capacity // SECTOR} in the descriptor")
        self.grain = granularity * SECTOR
        self._directory_at = gd_sector * SECTOR
        self._directory = array("I")
        self._directory.frombytes(self.read_at(self._directory_at, gd_size * 4))
        self._free = free
        self._size = os.fstat(self.fd).st_size
        self.unclean = struct.unpack_from("<I", head, _UNCLEAN_AT)[0] != 0
        if self.unclean and self.writable:
            self._free = self._find_free()

    def _find_free(self) -> int:
        """The first sector behind everything that is named, for a file whose header was left behind."""
        used = self._directory_at // SECTOR + (len(self._directory) * 4 + SECTOR - 1) // SECTOR
        for index, table in enumerate(self._directory):
            if table:
                used = max(used, table + _TABLE_ENTRIES * 4 // SECTOR)
                decoded = self._table(index)
                assert decoded is not None
                used = max(used, (max(decoded) + self.grain) // SECTOR)
        return max(used, self._free)

    def _table_place(self, index: int) -> int | None:
        sector = self._directory[index]
        return sector * SECTOR if sector else None

    def _decode(self, raw: array[int]) -> array[int]:
        return array("q", [e * SECTOR if e > 1 else ZERO if e == _ZEROED_ENTRY else ABSENT for e in raw])

    def _encode(self, place: int, count: int) -> array[int]:
        first, step = place // SECTOR, self.grain // SECTOR
        return array("I", range(first, first + count * step, step))

    def _take(self, sectors: int) -> int:
        place = self._free * SECTOR
        if self._free + sectors > 0xFFFFFFFF:
            raise InvalidArgument(self.path, "a vmfsSparse file cannot address more than 2 TiB")
        end = place + sectors * SECTOR
        if end > self._size:
            size = (end + _GROW - 1) // _GROW * _GROW
            try:
                os.ftruncate(self.fd, size)
            except OSError as error:
                raise from_os_error(error, self.path) from error
            self._size = size
        self._free += sectors
        return place

    def _allocate(self, count: int, first_grain: int) -> int:
        return self._take(count * self.grain // SECTOR)

    def _make_table(self, index: int) -> int:
        place = self._take(_TABLE_ENTRIES * 4 // SECTOR)
        self.pwrite(bytes(_TABLE_ENTRIES * 4), place)
        self.pwrite(struct.pack("<I", place // SECTOR), self._directory_at + index * 4)
        self._directory[index] = place // SECTOR
        return place

    def _mark_dirty(self) -> None:
        self.pwrite(struct.pack("<I", 1), _UNCLEAN_AT)

    def flush(self) -> None:
        if self._dirty:
            self.pwrite(struct.pack("<I", self._free), 28)

    def finish(self) -> None:
        self.flush()
        if self._dirty:
            self.pwrite(struct.pack("<I", 0), _UNCLEAN_AT)
            self._dirty = False


def create_vmfssparse(path: str, sectors: int, parent_name: str, granularity: int = 1) -> None:
    """An empty delta."""
    if sectors > 0xFFFFFFFF:
        raise InvalidArgument(path, "vmfsSparse holds less than 2 TiB; use seSparse")
    span = _TABLE_ENTRIES * granularity
    entries = (sectors + span - 1) // span
    gd_sectors = (entries * 4 + SECTOR - 1) // SECTOR
    # Recorded sizes of empty deltas (24576 for 10 GiB, 126976 for 60 GiB) leave four sectors behind the directory.
    free = _HEADER_SECTORS + gd_sectors + 4
    head = bytearray(2048)
    _HEAD.pack_into(head, 0, MAGIC, 1, 3, sectors, granularity, _HEADER_SECTORS, entries, free)
    name = parent_name.encode()[:1023]
    head[32 : 32 + len(name)] = name
    create_file(path)
    try:
        with open(path, "r+b") as file:
            file.write(head)
            file.truncate(free * SECTOR)
    except OSError as error:
        raise from_os_error(error, path) from error
