# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk of a restore point, to be read like any other: for a copy to another store, or to heal one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import NOTHING, PAGE_SLOTS, SLOT_BYTES, DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import DiskSource
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_OPEN_PACKS = 4


class StoredDisk(DiskSource):
    """Every chunk is proven by its check and its id."""

    def __init__(self, store: Store, disk: DiskMap) -> None:
        self.path = f"disk {disk.key} in {store.name}"
        self.size = disk.size
        self._store, self._disk = store, disk
        self._own = threading.local()
        self._guard = threading.Lock()
        self._readers: list[OrderedDict[str, PackReader]] = []

    def allocated(self) -> Iterator[tuple[int, int]]:
        chunk = self._disk.chunk_bytes
        for first, page in self._store.pages(self._disk):
            begin = None
            slots = len(page) // SLOT_BYTES
            for slot in range(slots + 1):
                at = slot * SLOT_BYTES
                if slot < slots and page[at : at + ID_BYTES] != NOTHING:
                    begin = slot if begin is None else begin
                elif begin is not None:
                    offset = (first + begin) * chunk
                    yield offset, min((first + slot) * chunk, self.size) - offset
                    begin = None

    def read_into(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            slot, inside = divmod(offset + done, self._disk.chunk_bytes)
            count = min(self._disk.length_of(slot) - inside, len(view) - done)
            data = self.chunk(slot)
            view[done : done + count] = bytes(count) if data is None else data[inside : inside + count]
            done += count

    def chunk(self, slot: int) -> bytes | None:
        """One chunk; None when it is all zeros."""
        at = slot % PAGE_SLOTS * SLOT_BYTES
        entry = self._page(slot // PAGE_SLOTS)[at : at + SLOT_BYTES]
        identity, check = entry[:ID_BYTES], entry[ID_BYTES:]
        if identity == NOTHING:
            return None
        length = self._disk.length_of(slot)
        place = self._store.place_of(identity)
        try:
            return self._read(place, identity, check, length)
        except StoreError:
            other = self._store.other_place(identity, place)
            if other is None:
                raise
            return self._read(other, identity, check, length)

    def _page(self, number: int) -> bytes:
        """The last one of each thread is kept."""
        if getattr(self._own, "number", None) != number:
            self._own.page = self._store.page(self._disk, number)
            self._own.number = number
        page: bytes = self._own.page
        return page

    def _read(self, place: Place, identity: bytes, check: bytes, length: int) -> bytes:
        pack = self._pack(place.pack)
        record = pack.raw(place.offset, place.stored)
        data, _check = pack.expand(record, place.offset, length, identity)
        if self._store.identity.check(data) != check or self._store.identity.of(data) != identity:
            raise pack.damaged(f"chunk {identity.hex()} has other bytes than the disk had")
        return bytes(data)

    def _pack(self, name: str) -> PackReader:
        """A few open ones for each thread: no other closes them while they are read."""
        readers: OrderedDict[str, PackReader] | None = getattr(self._own, "readers", None)
        if readers is None:
            readers = self._own.readers = OrderedDict()
            with self._guard:
                self._readers.append(readers)
        if name not in readers:
            readers[name] = self._store.pack(name)
            if len(readers) > _OPEN_PACKS:
                readers.popitem(last=False)[1].ranges.close()
        readers.move_to_end(name)
        return readers[name]

    def close(self) -> None:
        for readers in self._readers:
            while readers:
                readers.popitem()[1].ranges.close()
