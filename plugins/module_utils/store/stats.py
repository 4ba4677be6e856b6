# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a store holds and what that costs, counted from the restore points and the index; no pack is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import bounds, points, registry
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place, Segment
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import ENTRY, FOOTER_BYTES, HEADER, RECORD
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap, Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_RECORD_COST = RECORD.size + 16 + ENTRY.size
_PACK_COST = HEADER.size + FOOTER_BYTES


@dataclass
class Stats:
    """Bytes and counts."""

    machines: int = 0
    points: int = 0
    disks: int = 0
    logical_bytes: int = 0
    """Sizes of all disks of all restore points."""
    data_bytes: int = 0
    """The same without zeros: what all restore points would be, stored each for itself."""
    unique_bytes: int = 0
    """What is left when each chunk counts once."""
    chunks: int = 0
    packs: int = 0
    stored_bytes: int = 0
    """Sizes of all packs."""
    live_bytes: int = 0
    index_bytes: int = 0
    dead_bytes: int = 0
    """What no restore point needs; also what a backup that is under way has written."""
    writers: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def dedup_ratio(self) -> float | None:
        return round(self.data_bytes / self.unique_bytes, 3) if self.unique_bytes else None

    @property
    def compression_ratio(self) -> float | None:
        return round(self.unique_bytes / self.live_bytes, 3) if self.live_bytes else None

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "dedup_ratio": self.dedup_ratio, "compression_ratio": self.compression_ratio}


def gather(store: Store) -> Stats:
    """Memory: a bit for every entry of the index, and a few bytes for every page of a map."""
    stats = Stats()
    counted = _Counted(store, stats)
    machines = set()
    for _name, point in store.look_at_points():
        try:
            if isinstance(point, StoreError):
                raise point
            machines.add(point.machine_id)
            stats.points += 1
            counted.point(point)
        except StoreError as error:
            stats.problems.append(error.message)
    counted.tell_missing()
    stats.machines = len(machines)
    for _name, size in store.backend.list("packs/"):
        stats.packs += 1
        stats.stored_bytes += size
    stats.index_bytes = sum(size for _name, size in store.backend.list("index/"))
    stats.problems += [*store.index_problems.values(), *store.settings_problems.values()]
    stats.dead_bytes = max(0, stats.stored_bytes - stats.live_bytes - stats.packs * _PACK_COST)
    stats.writers = sum(one.point is not None for one in registry.registrations(store.backend))
    return stats


class _Counted:
    """Each record of the store, counted at its first need."""

    def __init__(self, store: Store, stats: Stats) -> None:
        self._store, self._stats = store, stats
        self._segments = store.index(fresh=True).segments
        self._seen = [bytearray(-(-segment.count // 8)) for segment in self._segments]
        self._missing: set[bytes] = set()
        self._pages: dict[tuple[bytes, int], int] = {}

    def point(self, point: Point) -> None:
        for disk in point.disks:
            self._stats.disks += 1
            self._stats.logical_bytes += disk.size
            for number, page in enumerate(disk.pages):
                if page is not None:
                    self._stats.data_bytes += self._page(disk, number, page)
        for file in point.files:
            self._stats.logical_bytes += file.size
            self._stats.data_bytes += file.size
            if file.id is not None:
                self._stats.unique_bytes += self._first(file.id)

    def _page(self, disk: DiskMap, number: int, page: bytes) -> int:
        """Bytes of the disk that are no zeros in this page. Pages are shared between restore points."""
        first = number * points.PAGE_SLOTS
        key = (page, disk.length_of(first + disk.slots_of(number) - 1))
        if key not in self._pages:
            self._first(page)
            data = 0
            for slot, identity, _check in points.slots(self._store.page(disk, number)):
                data += disk.length_of(first + slot)
                length = self._first(identity)
                self._stats.unique_bytes += length
                self._stats.chunks += 1 if length else 0
            self._pages[key] = data
        return self._pages[key]

    def _first(self, identity: bytes) -> int:
        """Length before compression at the first need of a record, then 0."""
        for segment, seen in zip(self._segments, self._seen):
            position = segment.position(identity)
            if position < 0:
                continue
            if seen[position >> 3] & 1 << (position & 7):
                return 0
            seen[position >> 3] |= 1 << (position & 7)
            place = self._place(segment, position)
            if place is None:
                continue
            self._stats.live_bytes += place.stored + _RECORD_COST
            return place.length
        self._missing.add(identity)
        return 0

    def tell_missing(self) -> None:
        for identity in islice(self._missing, bounds.MOST):
            self._stats.problems.append(f"chunk {identity.hex()} is in no index file")
        if len(self._missing) > bounds.MOST:
            self._stats.problems.append(f"{len(self._missing) - bounds.MOST} more chunks are in no index file")

    def _place(self, segment: Segment, position: int) -> Place | None:
        try:
            return segment.place(position)
        except StoreError as error:
            self._stats.problems.append(error.message)
            return None
