# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What some restore points need, by where it lies: each record once, in the order of the packs."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import points
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECK_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index
from ansible_collections.stowage.esxi.plugins.module_utils.store.needed import Marks, Met
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import HEADER, RECORD, Entry
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.scan import MARK, mark
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import pack_name


class Wanted:
    """Takes eight bytes for each record, and one for each entry of the index: a disk may have millions of chunks."""

    def __init__(self, index: Index) -> None:
        self._index, self._marks = index, Marks(index)
        self._marks_of: dict[str, array[int]] = {}
        self._sizes: dict[str, int] = {}
        self._short: dict[bytes, int] = {}
        self._guard = threading.Lock()
        self.complete = True
        """Whether all of it has a place, and every page was as long as it must be."""

    def add(self, ids: Iterable[bytes]) -> None:
        left = iter(ids)
        while some := list(islice(left, PAGE_SLOTS)):
            with self._guard:
                for met in self._marks.new(some):
                    self._add(met)

    def _add(self, met: Met) -> None:
        place = met.place(()) or self._index.find(met.id)
        if place is None:
            self.complete = False
            return
        self._marks_of.setdefault(place.pack, array(MARK)).append(mark(met.id, place.offset))
        span = RECORD.size + place.stored + CHECK_BYTES
        self._sizes[place.pack] = self._sizes.get(place.pack, HEADER.size) + span

    def add_pages(self, chosen: Sequence[Point]) -> None:
        disks = [disk for point in chosen for disk in point.disks]
        for disk in disks:
            for number, page in enumerate(disk.pages[-1:], start=len(disk.pages) - 1):
                if page is not None and disk.slots_of(number) != PAGE_SLOTS:
                    self._short[page] = disk.slots_of(number)
        for disk in disks:
            for number, page in enumerate(disk.pages):
                if page in self._short and self._short[page] != disk.slots_of(number):
                    # It cannot be as long as both of them need it.
                    self.complete = False
            self.add(page for page in disk.pages if page is not None)

    def add_page(self, entry: Entry, page: Any) -> None:
        """What a page names; serves several threads."""
        if len(page) != self._short.get(entry.id, PAGE_SLOTS) * SLOT_BYTES:
            self.complete = False
        self.add(identity for _slot, identity, _check in points.slots(bytes(page)))

    def add_files(self, point: Point) -> None:
        self.add(file.id for file in point.files if file.id is not None)

    def take(self) -> tuple[dict[str, array[int]], dict[str, int]]:
        """The marks by pack, ascending, and the bytes that will be read by the names of the packs' objects."""
        marks = {pack: array(MARK, sorted(found)) for pack, found in self._marks_of.items()}
        sizes = {pack_name(pack): size for pack, size in self._sizes.items()}
        self._marks_of, self._sizes = {}, {}
        return marks, sizes
