# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmfsSparse extents (COWD): the `-delta.vmdk` of VMFS-5 and NFS datastores."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.extents import ABSENT, SECTOR, ZERO
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.tables import SparseExtent

MAGIC = b"COWD"
_HEADER = struct.Struct("<4s7I")  # magic, version, flags, capacity, grain, directory, its entries, next free sector


class CowdExtent(SparseExtent):
    entry = "I"
    per_table = 4096

    def check(self) -> None:
        magic, version, _flags, sectors, grain, directory, entries, _free = _HEADER.unpack(self.read(0, _HEADER.size))
        if magic != MAGIC or version != 1:
            self.bad("it has no header of a vmfsSparse extent")
        self.directory_at = directory * SECTOR
        self.grid(sectors, grain, 2048, entries)

    def table_at(self, entry: int) -> int:
        return entry * SECTOR

    def places(self, raw: array[int]) -> Iterable[int]:
        # Entry 1: a grain that was emptied.
        return [entry * SECTOR if entry > 1 else ZERO if entry else ABSENT for entry in raw]
