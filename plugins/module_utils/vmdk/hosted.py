# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosted sparse extents (KDMV): pieces of split disks, monolithic ones, and the compressed ones of exports."""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.extents import ABSENT, SECTOR, ZERO
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.tables import SparseExtent

MAGIC = b"KDMV"
HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
# magic, version, flags, capacity, grain, descriptor and its sectors, table entries, redundant directory, directory,
# overhead, unclean, newline test, compression
_MARKER = struct.Struct("<QI")
_NEWLINES = b"\n \r\n"
_ZERO_GRAINS, _COMPRESSED, _MARKERS = 1 << 2, 1 << 16, 1 << 17
_AT_END = (1 << 64) - 1
_DEFLATE = 1
MOST_DESCRIPTOR_BYTES = 1 << 20


class HostedExtent(SparseExtent):
    entry = "I"
    per_table = 512

    def check(self) -> None:
        fields = self._header(0)
        if fields[9] == _AT_END:
            # Written in one go, so that only its end knows where the directory is: footer, end marker.
            fields = self._header(self.file_bytes - 2 * SECTOR)
        _magic, _version, flags, sectors, grain, _at, _size, entries, _other, directory, *_more, packing = fields
        if entries != self.per_table:
            self.bad(f"tables of {entries} entries, not {self.per_table}")
        self.packed = bool(flags & _COMPRESSED)
        if packing > _DEFLATE or (self.packed and packing != _DEFLATE):
            self.bad(f"its compression {packing} is not known")
        self._markers = bool(flags & _MARKERS)
        self._one = ZERO if flags & _ZERO_GRAINS else SECTOR
        self.directory_at = directory * SECTOR
        self.grid(sectors, grain, 2048)

    def _header(self, place: int) -> tuple[Any, ...]:
        fields: tuple[Any, ...] = HEADER.unpack(self.read(place, HEADER.size))
        if fields[0] != MAGIC or not 1 <= fields[1] <= 3 or fields[12] != _NEWLINES:
            self.bad("it has no header of a sparse extent, or was damaged by a transfer as text")
        return fields

    def table_at(self, entry: int) -> int:
        return entry * SECTOR

    def places(self, raw: array[int]) -> Iterable[int]:
        return [entry * SECTOR if entry > 1 else self._one if entry else ABSENT for entry in raw]

    def fill(self, view: memoryview, offset: int, place: int) -> None:
        if not self.packed:
            self.load(view, place)
            return
        skip = offset % self.grain
        data = self._unpacked(place, min(self.grain, self.size - offset + skip))
        view[:] = data[skip : skip + len(view)]

    def _unpacked(self, place: int, wanted: int) -> bytes:
        """A compressed grain, as much of it as belongs to the disk."""
        head = _MARKER.size if self._markers else 4
        raw = self.read(place, min(head + self.grain + self.grain // 8 + SECTOR, max(head, self.file_bytes - place)))
        (length,) = struct.unpack_from("<I", raw, head - 4)
        if not 0 < length <= len(raw) - head:
            self.bad(f"the grain at byte {place} says that it has {length} bytes")
        engine = zlib.decompressobj()
        try:
            data = engine.decompress(memoryview(raw)[head : head + length], self.grain)
        except zlib.error as error:
            self.bad(f"the grain at byte {place} does not unpack: {error}")
        if len(data) < wanted:
            self.bad(f"the grain at byte {place} has {len(data)} bytes where {wanted} are due")
        return data


def embedded_descriptor(head: bytes, file_bytes: int) -> tuple[int, int] | None:
    """Place and length of the descriptor in a hosted extent that has one, by the first bytes of the file."""
    if len(head) < HEADER.size or head[:4] != MAGIC:
        return None
    fields = HEADER.unpack_from(head)
    place, length = fields[5] * SECTOR, fields[6] * SECTOR
    return (place, length) if place and 0 < length <= min(MOST_DESCRIPTOR_BYTES, file_bytes - place) else None
