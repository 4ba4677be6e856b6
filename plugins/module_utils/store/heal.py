# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a store lacks, from a second one with the same restore points. Nothing is taken that has not the right id."""

from __future__ import annotations

import contextlib

from ansible_collections.stowage.esxi.plugins.module_utils.store import copy
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError, passing
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import CHUNK, FILE, PAGE
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import (
    NOTHING,
    PAGE_SLOTS,
    SLOT_BYTES,
    DiskMap,
    Point,
    slots,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.stored import StoredDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Lane


def run(store: Store, lane: Lane | None, index: Index, other: Store, problems: list[str]) -> dict[bytes, bytes | None]:
    """Writes what restore points need and `index` does not have; without a lane it only proves that it could. Returns
    the ids of these records, and the bytes of those that are pages of a map."""
    job = _Job(store, lane, index, other)
    twins: dict[copy.Key, Point] = {}
    for _name, theirs in other.look_at_points():
        if isinstance(theirs, StoreError):
            _doubt(theirs)
        else:
            twins[copy.key_of(other, theirs)] = theirs
    for _name, point in store.look_at_points():
        # A manifest that cannot be read is told elsewhere; a copy brings it back.
        twin = None if isinstance(point, StoreError) else twins.get(copy.key_of(store, point))
        if not isinstance(point, StoreError) and twin is not None:
            try:
                job.point(point, twin)
            except StoreError as error:
                _doubt(error)
                problems.append(error.message)
    return job.healed


def _doubt(error: StoreError) -> None:
    """What a second store does not give now may be there the next time."""
    if passing(error):
        raise error


class _Job:
    def __init__(self, store: Store, lane: Lane | None, index: Index, other: Store) -> None:
        self._store, self._lane, self._index, self._other = store, lane, index, other
        self.healed: dict[bytes, bytes | None] = {}

    def point(self, point: Point, twin: Point) -> None:
        for disk in point.disks:
            same = twin.disk(disk.key)
            if same is not None and same.size == disk.size:
                with contextlib.closing(StoredDisk(self._other, same)) as source:
                    self._disk(disk, source)
        theirs = {file.name: file for file in twin.files}
        for file in point.files:
            there = theirs.get(file.name)
            if file.id is not None and self._lacks(file.id) and there is not None and there.id is not None:
                self._add(file.id, self._other.read_record(there.id, there.size), FILE)

    def _disk(self, disk: DiskMap, source: StoredDisk) -> None:
        for number, identity in enumerate(disk.pages):
            if identity is None:
                continue
            page = self._made(disk, number, identity, source) if self._lacks(identity) else None
            if page is None and not self._lacks(identity):
                page = self._store.page(disk, number)
            for slot, one, _check in slots(page or b""):
                if self._lacks(one):
                    data = source.chunk(number * PAGE_SLOTS + slot)
                    if data is not None:
                        self._add(one, data, CHUNK)

    def _made(self, disk: DiskMap, number: int, identity: bytes, source: StoredDisk) -> bytes | None:
        """A lost page, from the chunks that it named."""
        page = bytearray()
        for slot in range(disk.slots_of(number)):
            data = source.chunk(number * PAGE_SLOTS + slot)
            name = self._store.identity
            page += NOTHING + bytes(SLOT_BYTES - ID_BYTES) if data is None else name.of(data) + name.check(data)
        return bytes(page) if self._add(identity, bytes(page), PAGE) else None

    def _lacks(self, identity: bytes) -> bool:
        return identity not in self._index and identity not in self.healed

    def _add(self, identity: bytes, data: bytes, kind: int) -> bool:
        if self._store.identity.of(data) != identity:
            return False
        if self._lane is not None:
            self._lane.add(identity, self._store.identity.check(data), data, kind)
        self.healed[identity] = data if kind == PAGE else None
        return True
