# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What some restore points need, by where it lies: each record once, in the order of the packs."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import points
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECK_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import HEADER, RECORD, Entry
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, DiskMap, Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.scan import BARE, CLAIM, MARK, aligned, claim, mark
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import pack_name


class Wanted:
    """Takes twelve bytes for each record, and four for each entry of the index: a disk may have millions of chunks."""

    def __init__(self, index: Index) -> None:
        self._index = index
        # What is claimed of each entry of the index; 0: it is not wanted yet.
        self._met = [(segment, array(CLAIM, bytes(4 * segment.count))) for segment in index.segments]
        self._found: dict[str, tuple[array[int], array[int]]] = {}
        self._sizes: dict[str, int] = {}
        self._ends: dict[bytes, tuple[int, int]] = {}
        self._chunk_bytes = 0
        self._guard = threading.Lock()
        self.claims: dict[str, array[int]] = {}
        """Of the marks that were taken last, in their order."""
        self.complete = True
        """Whether all of it has a place, no two say different things of it, and every page is as long as it must be."""

    def _first(self, identity: bytes, claimed: int) -> bool:
        for segment, met in self._met:
            position = segment.position(identity)
            if position >= 0:
                before, met[position] = met[position], claimed
                if before and before != claimed:
                    self.complete = False
                return not before
        self.complete = False
        return False

    def add(self, ids: Iterable[tuple[bytes, int]]) -> None:
        """Ids, and what is claimed of each."""
        with self._guard:
            for identity, claimed in ids:
                place = self._index.find(identity) if self._first(identity, claimed) else None
                if place is None:
                    continue
                marks, claims = self._found.setdefault(place.pack, (array(MARK), array(CLAIM)))
                marks.append(mark(identity, place.offset))
                claims.append(claimed)
                span = RECORD.size + place.stored + CHECK_BYTES
                self._sizes[place.pack] = self._sizes.get(place.pack, HEADER.size) + span

    def add_pages(self, chosen: Sequence[Point]) -> None:
        disks = [disk for point in chosen for disk in point.disks]
        self._chunk_bytes = disks[0].chunk_bytes if disks else 0
        for disk in disks:
            if disk.pages and disk.pages[-1] is not None:
                self._ends[disk.pages[-1]] = self._end(disk, len(disk.pages) - 1)
        for disk in disks:
            for number, page in enumerate(disk.pages):
                if page in self._ends and self._ends[page] != self._end(disk, number):
                    # It cannot be what both of them need.
                    self.complete = False
            self.complete = self.complete and disk.chunk_bytes == self._chunk_bytes
            self.add((page, BARE) for page in disk.pages if page is not None)

    @staticmethod
    def _end(disk: DiskMap, number: int) -> tuple[int, int]:
        """How many slots a page has, and the length of the chunk in its last one."""
        count = disk.slots_of(number)
        return count, disk.length_of(number * PAGE_SLOTS + count - 1)

    def add_page(self, entry: Entry, page: Any) -> None:
        """What a page names; serves several threads."""
        count, last = self._ends.get(entry.id, (PAGE_SLOTS, self._chunk_bytes))
        if len(page) != count * SLOT_BYTES:
            self.complete = False
        lengths = [*[self._chunk_bytes] * (count - 1), last]
        named = points.slots(bytes(page)[: count * SLOT_BYTES])
        self.add((identity, claim(check, lengths[slot])) for slot, identity, check in named)

    def add_files(self, point: Point) -> None:
        self.add((file.id, BARE) for file in point.files if file.id is not None)

    def take(self) -> tuple[dict[str, array[int]], dict[str, int]]:
        """The marks by pack, ascending, and the bytes that will be read by the names of the packs' objects."""
        marks, self.claims = {}, {}
        # One by one: not all of it twice.
        for pack in list(self._found):
            marks[pack], self.claims[pack] = aligned(zip(*self._found.pop(pack)))
        sizes = {pack_name(pack): size for pack, size in self._sizes.items()}
        self._sizes = {}
        return marks, sizes
