# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two-level sparse extents: a directory of tables of grains. The formats differ only in their numbers."""

from __future__ import annotations

import os
from abc import abstractmethod
from array import array
from collections.abc import Iterator

from .errors import NotADisk, from_os_error
from .extent import ABSENT, ZERO, Below, Extent, Segment

_TABLES_KEPT = 512


class SparseExtent(Extent):
    """Reads and writes through decoded tables: each entry a file offset, ABSENT or ZERO.

    Data is written before the table entry that names it, and entries are written through, so that the file holds a
    valid disk after every single write.
    """

    grain: int
    per_table: int
    entry_code: str  # array type code of a table entry

    def __init__(self, path: str, capacity: int, writable: bool) -> None:
        super().__init__(path, capacity, writable)
        self._tables: dict[int, array[int] | None] = {}
        self._dirty = False
        try:
            self._load()
        except BaseException:
            os.close(self.fd)
            self.fd = -1
            raise

    # What a format must say.
    @abstractmethod
    def _load(self) -> None:
        """Read and check the header."""

    @abstractmethod
    def _table_place(self, index: int) -> int | None:
        """File offset of a table, or None where the directory names none."""

    @abstractmethod
    def _make_table(self, index: int) -> int:
        """Give the directory entry a new, empty table; returns its file offset."""

    @abstractmethod
    def _decode(self, raw: array[int]) -> array[int]:
        """Table entries to file offsets, ABSENT or ZERO."""

    @abstractmethod
    def _encode(self, place: int, count: int) -> array[int]:
        """Entries for `count` grains that lie one after the other from `place`."""

    @abstractmethod
    def _allocate(self, count: int, first_grain: int) -> int:
        """File offset for `count` new grains at the end of the file, which will hold the disk's from `first_grain`.

        Book-keeping for them goes to the file here, before the data, so that a clean close needs no more room.
        """

    def _mark_dirty(self) -> None:
        """Called before the first write after opening."""

    def read_at(self, place: int, length: int) -> bytes:
        try:
            data = os.pread(self.fd, length, place)
        except OSError as error:
            raise from_os_error(error, self.path) from error
        if len(data) < length:
            raise NotADisk(self.path, f"ends at byte {place + len(data)}, {place + length} expected")
        return data

    def _table(self, index: int) -> array[int] | None:
        if index in self._tables:
            return self._tables[index]
        place = self._table_place(index)
        decoded = None
        if place is not None:
            raw = array(self.entry_code)
            raw.frombytes(self.read_at(place, self.per_table * raw.itemsize))
            decoded = self._decode(raw)
        if len(self._tables) >= _TABLES_KEPT:
            self._tables.clear()
        self._tables[index] = decoded
        return decoded

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        grain, span = self.grain, self.grain * self.per_table
        position, end = offset, offset + length
        while position < end:
            index = position // span
            base = index * span
            stop = min(end, base + span)
            if self._table_place(index) is None:
                while stop < end and self._table_place(stop // span) is None:
                    stop = min(end, stop + span)
                yield Segment(position, stop - position, ABSENT, self.fd)
                position = stop
                continue
            table = self._table(index)
            assert table is not None
            i, last = (position - base) // grain, (stop - 1 - base) // grain
            while i <= last:
                place, j = table[i], i + 1
                if place >= 0:
                    expected = place + grain
                    while j <= last and table[j] == expected:
                        j += 1
                        expected += grain
                else:
                    while j <= last and table[j] == place:
                        j += 1
                begin, until = max(position, base + i * grain), min(stop, base + j * grain)
                at = place + begin - (base + i * grain) if place >= 0 else place
                yield Segment(begin, until - begin, at, self.fd)
                i = j
            position = stop

    def write(self, offset: int, data: memoryview, below: Below) -> None:
        if not self._dirty:
            self._mark_dirty()
            self._dirty = True
        span = self.grain * self.per_table
        for piece in list(self.segments(offset, len(data))):
            part = data[piece.start - offset : piece.start - offset + piece.length]
            if piece.place >= 0:
                self.pwrite(part, piece.place)
                continue
            done = 0
            while done < piece.length:
                start = piece.start + done
                length = min(piece.length - done, span - start % span)
                self._write_new(start, part[done : done + length], below if piece.place == ABSENT else _nothing)
                done += length

    def _write_new(self, offset: int, data: memoryview, below: Below) -> None:
        """Grains that this file does not have yet, all within one table."""
        grain = self.grain
        first, last = offset // grain, (offset + len(data) - 1) // grain
        head, tail = offset - first * grain, (last + 1) * grain - offset - len(data)
        count = last - first + 1
        block: bytes | memoryview = data
        if head or tail:
            end = offset + len(data)
            after = below(end, min(tail, max(0, self.capacity - end))) if tail else b""
            before = below(first * grain, head) if head else b""
            block = before + bytes(data) + after + bytes(tail - len(after))
        index, slot = first // self.per_table, first % self.per_table
        table = self._table(index)
        place = self._table_place(index) if table is not None else self._make_table(index)
        assert place is not None
        if table is None:
            self._tables.pop(index, None)
            table = self._table(index)
            assert table is not None
        target = self._allocate(count, first)
        self.pwrite(block, target)
        entries = self._encode(target, count)
        self._write_entries(index, place + slot * entries.itemsize, entries)
        table[slot : slot + count] = array("q", range(target, target + count * grain, grain))

    def _write_entries(self, index: int, place: int, entries: array[int]) -> None:
        self.pwrite(entries.tobytes(), place)


def _nothing(offset: int, length: int) -> bytes:
    return bytes(length)


__all__ = ["ABSENT", "ZERO", "SparseExtent"]
