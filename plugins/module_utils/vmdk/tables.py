# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sparse extents: a directory of tables of grains. The formats differ only in their numbers."""

from __future__ import annotations

import sys
import threading
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.extents import ABSENT, SECTOR, FileExtent, Piece
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.files import File

# Directory entries that are read at a time: a directory of a disk of 62 TB is too large to be held.
_BLOCK = 4096
# Tables behind the one that is wanted, where each would be a way to a host and back.
_AHEAD = 16


class Kept:
    """Parts of tables that were read lately, of all extents of a disk, within a fixed room."""

    def __init__(self, most_bytes: int = 16 << 20) -> None:
        self._most = most_bytes
        self._guard = threading.Lock()
        self._parts: OrderedDict[tuple[int, str, int], tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def __contains__(self, key: tuple[int, str, int]) -> bool:
        with self._guard:
            return key in self._parts

    def get(self, key: tuple[int, str, int], make: Callable[[], tuple[Any, int]]) -> Any:
        """What is kept under the key, else what `make` gives: the part, and its bytes."""
        with self._guard:
            if key in self._parts:
                self._parts.move_to_end(key)
                return self._parts[key][0]
        # Two threads may make the same part: that costs less than waiting for each other's reading.
        part, size = make()
        with self._guard:
            if key not in self._parts:
                self._parts[key] = part, size
                self._bytes += size
            while self._bytes > self._most and len(self._parts) > 1:
                self._bytes -= self._parts.popitem(last=False)[1][1]
        return part


class SparseExtent(FileExtent):
    """`check` sets the numbers. A table is kept as the runs of grains that lie one behind the other in the file; each
    grain of a `packed` one is compressed, and a run of its own."""

    entry: str
    """Type code of the entries of directory and tables."""
    per_table: int
    grain: int
    directory_at: int

    def __init__(self, file: File, size: int, kept: Kept) -> None:
        self._kept = kept
        super().__init__(file, size)

    @abstractmethod
    def table_at(self, entry: int) -> int:
        """Where in the file the table is that a directory entry (not 0) names."""

    @abstractmethod
    def places(self, raw: array[int]) -> Iterable[int]:
        """Table entries as offsets in the file, ABSENT or ZERO."""

    def grid(self, sectors: int, grain_sectors: int, most_grain_sectors: int, room: int | None = None) -> None:
        """Checks the header's sizes. `room`: entries that the directory has, where the header says so."""
        if sectors * SECTOR < self.size:
            self.bad(f"it holds {sectors} sectors, the descriptor says {self.size // SECTOR}")
        if not 0 < grain_sectors <= most_grain_sectors or grain_sectors & (grain_sectors - 1):
            self.bad(f"grains of {grain_sectors} sectors")
        self.grain = grain_sectors * SECTOR
        self._span = self.grain * self.per_table
        self._tables = -(-self.size // self._span)
        self._width = array(self.entry).itemsize
        end = self.directory_at + self._tables * self._width
        if not 0 < self.directory_at <= end <= self.file_bytes or (room is not None and room < self._tables):
            self.bad("its directory is too short for the disk, or lies behind its end")

    def _array(self, place: int, count: int) -> array[int]:
        found = array(self.entry)
        found.frombytes(self.read(place, count * self._width))
        if sys.byteorder != "little":
            found.byteswap()
        return found

    def _next_table(self, number: int, last: int) -> tuple[int, int]:
        """The first table from `number` to `last` that is there, and its entry; behind `last` when none is."""
        while number <= last:
            block, slot = divmod(number, _BLOCK)
            entries = self._kept.get((id(self), "directory", block), partial(self._directory, block))
            if entries[slot]:
                return number, entries[slot]
            rest = entries[slot:].tobytes()
            number += (len(rest) - len(rest.lstrip(b"\0"))) // self._width
        return last + 1, 0

    def _directory(self, block: int) -> tuple[array[int], int]:
        first = block * _BLOCK
        found = self._array(self.directory_at + first * self._width, min(_BLOCK, self._tables - first))
        return found, len(found) * self._width

    def _runs(self, number: int, entry: int) -> tuple[array[int], array[int]]:
        """First grain of each run of a table, and where it lies."""
        found: tuple[array[int], array[int]] = self._kept.get(
            (id(self), "table", number), partial(self._table, number, entry)
        )
        return found

    def _ahead(self, number: int) -> None:
        block, slot = divmod(number, _BLOCK)
        entries = self._kept.get((id(self), "directory", block), partial(self._directory, block))
        length = self.per_table * self._width
        wanted = [
            entry
            for at, entry in enumerate(entries[slot : slot + _AHEAD], number)
            if entry and (id(self), "table", at) not in self._kept
        ]
        self.file.expect([(self.table_at(entry), length) for entry in wanted])

    def _table(self, number: int, entry: int) -> tuple[tuple[array[int], array[int]], int]:
        if self.file.far:
            self._ahead(number)
        begins, places = array("H"), array("q")
        following = None
        step = 0 if self.packed else self.grain
        for slot, place in enumerate(self.places(self._array(self.table_at(entry), self.per_table))):
            if place != following or (self.packed and place >= 0):
                begins.append(slot)
                places.append(place)
            following = place + step if place >= 0 else place
        return (begins, places), len(begins) * 10

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        place, end = offset, offset + length
        while place < end:
            number, entry = self._next_table(place // self._span, (end - 1) // self._span)
            base = number * self._span
            if base > place:
                yield place, min(base, end) - place, ABSENT
                place = base
            if place < end:
                yield from self._in_table(number, entry, place, min(end, base + self._span))
                place = base + self._span

    def _in_table(self, number: int, entry: int, place: int, end: int) -> Iterator[Piece]:
        begins, places = self._runs(number, entry)
        base = number * self._span
        run = bisect_right(begins, (place - base) // self.grain) - 1
        while place < end:
            first = base + begins[run] * self.grain
            behind = base + begins[run + 1] * self.grain if run + 1 < len(begins) else base + self._span
            until, at = min(end, behind), places[run]
            yield place, until - place, at if at < 0 or self.packed else at + place - first
            place, run = until, run + 1
