# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""seSparse extents: the `-sesparse.vmdk` of VMFS-6 datastores and of disks of 2 TiB and more."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.extents import ABSENT, SECTOR, ZERO
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.tables import SparseExtent

MAGIC = struct.pack("<Q", 0xCAFEBABE)
_VERSION = 0x0000000200000001
_VOLATILE_MAGIC = 0xCAFECAFE
_HEADER = struct.Struct("<26Q")
_VOLATILE = struct.Struct("<4Q")  # magic, next free table, next transaction, journal to be played back
_TABLE_SECTORS = 64
_ENTRY_OF_DIRECTORY = 1


class SeSparseExtent(SparseExtent):
    entry = "Q"
    per_table = _TABLE_SECTORS * SECTOR // 8

    def check(self) -> None:
        words = _HEADER.unpack(self.read(0, _HEADER.size))
        if words[:2] != (0xCAFEBABE, _VERSION):
            self.bad("it has no header of a seSparse extent of the version that is known")
        if words[4] != _TABLE_SECTORS or words[5]:
            self.bad(f"tables of {words[4]} sectors and flags {words[5]:#x} are not known")
        magic, _free, _next, replay = _VOLATILE.unpack(self.read(words[10] * SECTOR, _VOLATILE.size))
        if magic != _VOLATILE_MAGIC:
            self.bad("it has no second header")
        if replay:
            self.bad("its journal was not played back: it was in use when it was copied")
        self.directory_at, self._tables_at, self._grains_at = (words[at] * SECTOR for at in (16, 18, 24))
        self.grid(words[2], words[3], 2048, words[17] * SECTOR // 8)

    def table_at(self, entry: int) -> int:
        if entry >> 32 != _ENTRY_OF_DIRECTORY << 28:
            self.bad(f"its directory has the entry {entry:#x}")
        return self._tables_at + (entry & 0xFFFFFFFF) * _TABLE_SECTORS * SECTOR

    def places(self, raw: array[int]) -> Iterable[int]:
        return self._places(raw) if any(raw) else [ABSENT]

    def _places(self, raw: array[int]) -> Iterator[int]:
        for entry in raw:
            kind = entry >> 60
            if kind == 3:
                number = (entry >> 48 & 0xFFF) | (entry & 0xFFFFFFFFFFFF) << 12
                place = self._grains_at + number * self.grain
                if place >= self.file_bytes:
                    self.bad(f"a grain at byte {place} is behind its end ({self.file_bytes})")
                yield place
            elif kind in (1, 2):
                # Given back by the guest, or zeros.
                yield ZERO
            elif entry:
                self.bad(f"a table of it has the entry {entry:#x}")
            else:
                yield ABSENT
