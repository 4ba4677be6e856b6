# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the target of a restore in place holds already."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.store import points
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import HashUnfit, TargetFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import Asked
from ansible_collections.stowage.esxi.plugins.module_utils.store.spans import SPAN_CHUNKS, SPANS_AHEAD
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.targets import (
    DiskTarget,
    HashedTargetLane,
    LocalLane,
    TargetLane,
)


@dataclass
class Compared:
    """One page of a map, without the slots that the target holds. Bytes that were the same, and zeros written."""

    number: int
    page: bytes
    same: int = 0
    written: int = 0


class Comparison:
    """Of a target with a disk. Where the disk has zeros and the target has not, they are written.

    What is here is read, and compared by its check; what is far away tells hashes."""

    def __init__(self, store: Store, disk: DiskMap, target: DiskTarget) -> None:
        self._store, self._disk, self._target = store, disk, target
        self._zeros = bytes(disk.chunk_bytes)

    def page(self, number: int, lane: TargetLane) -> Compared:
        page = self._store.page(self._disk, number)
        found = Compared(number, page)
        left = bytearray(page)
        filled = self._filled(number)
        first, slots = number * PAGE_SLOTS, len(page) // SLOT_BYTES
        for slot in range(slots):
            at = slot * SLOT_BYTES
            if slot not in filled and page[at : at + ID_BYTES] == points.NOTHING:
                found.same += self._disk.length_of(first + slot)
        asked = [slot for slot in range(slots) if slot in filled]
        blank = []
        for slot, same in self._held(number, page, asked, lane):
            at = slot * SLOT_BYTES
            length = self._disk.length_of(first + slot)
            if same:
                left[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)
                found.same += length
            elif page[at : at + ID_BYTES] == points.NOTHING:
                blank.append(slot)
        for slot in blank:
            length = self._disk.length_of(first + slot)
            lane.write(memoryview(self._zeros)[:length], (first + slot) * self._disk.chunk_bytes)
            found.written += length
        found.page = bytes(left)
        return found

    def _filled(self, number: int) -> set[int]:
        """The slots of a page in which the target has anything but a hole."""
        chunk = self._disk.chunk_bytes
        first = number * PAGE_SLOTS
        found: set[int] = set()
        begin = first * chunk
        end = min(begin + PAGE_SLOTS * chunk, self._disk.size)
        for offset, length in self._target.data_ranges(begin, end):
            found.update(range(offset // chunk - first, (offset + length - 1) // chunk - first + 1))
        return found

    def _held(self, number: int, page: bytes, slots: Sequence[int], lane: TargetLane) -> Iterator[tuple[int, bool]]:
        """Whether the target has each of these chunks, or zeros where the disk has."""
        if isinstance(lane, LocalLane):
            return self._by_check(number, page, slots, lane)
        return self._by_hash(number, page, slots, lane)

    def _by_check(self, number: int, page: bytes, slots: Sequence[int], lane: LocalLane) -> Iterator[tuple[int, bool]]:
        room = memoryview(bytearray(self._disk.chunk_bytes))
        check = self._store.identity.check
        for slot in slots:
            at = slot * SLOT_BYTES
            view = room[: self._disk.length_of(number * PAGE_SLOTS + slot)]
            lane.read_into(view, (number * PAGE_SLOTS + slot) * self._disk.chunk_bytes)
            if page[at : at + ID_BYTES] == points.NOTHING:
                yield slot, self._zeros.startswith(view)
            else:
                yield slot, check(view) == page[at + ID_BYTES : at + SLOT_BYTES]

    def _by_hash(
        self, number: int, page: bytes, slots: Sequence[int], lane: HashedTargetLane
    ) -> Iterator[tuple[int, bool]]:
        identity = self._store.identity
        if identity.name != "sha256":
            raise HashUnfit(path=self._target.path, store=self._store.name, hash=identity.name)
        for span, asked in self._asked(number, slots, lane):
            hashes = asked.hashes()
            if len(hashes) != len(span):
                reason = f"{len(hashes)} hashes came for {len(span)} chunks"
                raise TargetFailed(path=self._target.path, reason=reason)
            for slot, digest in zip(span, hashes):
                name = points.NOTHING if digest is None else identity.named(bytes(digest))
                yield slot, name == page[slot * SLOT_BYTES : slot * SLOT_BYTES + ID_BYTES]

    def _asked(
        self, number: int, slots: Sequence[int], lane: HashedTargetLane
    ) -> Iterator[tuple[Sequence[int], Asked]]:
        way: deque[tuple[Sequence[int], Asked]] = deque()
        for begin in range(0, len(slots), SPAN_CHUNKS):
            span = slots[begin : begin + SPAN_CHUNKS]
            first = number * PAGE_SLOTS
            pieces = [((first + slot) * self._disk.chunk_bytes, self._disk.length_of(first + slot)) for slot in span]
            way.append((span, lane.ask(pieces)))
            if len(way) >= SPANS_AHEAD:
                yield way.popleft()
        yield from way
