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
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import SLOT_BYTES, DiskMap
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
    """Some neighbouring slots of a map, without those that the target holds. Bytes that were the same, and zeros
    written."""

    first: int
    slots: bytes
    same: int = 0
    written: int = 0


class Comparison:
    """Of a target with a disk. Where the disk has zeros and the target has not, they are written.

    What is here is read, and compared by its check; what is far away tells hashes."""

    def __init__(self, store: Store, disk: DiskMap, target: DiskTarget) -> None:
        self._store, self._disk, self._target = store, disk, target
        self._zeros = bytes(disk.chunk_bytes)

    def part(self, first: int, slots: bytes, lane: TargetLane) -> Compared:
        """Of the slots from this one on."""
        part = _Part(first, slots)
        found = Compared(first, slots)
        left = bytearray(slots)
        filled = self._filled(part)
        for slot in part:
            if slot not in filled and part.id(slot) == points.NOTHING:
                found.same += self._disk.length_of(slot)
        blank = []
        for slot, same in self._held(part, [slot for slot in part if slot in filled], lane):
            if same:
                left[part.at(slot) : part.at(slot) + SLOT_BYTES] = bytes(SLOT_BYTES)
                found.same += self._disk.length_of(slot)
            elif part.id(slot) == points.NOTHING:
                blank.append(slot)
        for slot in blank:
            length = self._disk.length_of(slot)
            lane.write(memoryview(self._zeros)[:length], slot * self._disk.chunk_bytes)
            found.written += length
        found.slots = bytes(left)
        return found

    def _filled(self, part: _Part) -> set[int]:
        """The slots in which the target has anything but a hole."""
        chunk = self._disk.chunk_bytes
        found: set[int] = set()
        begin, end = part.first * chunk, min(part.end * chunk, self._disk.size)
        for offset, length in self._target.data_ranges(begin, end):
            found.update(range(offset // chunk, (offset + length - 1) // chunk + 1))
        return found

    def _held(self, part: _Part, slots: Sequence[int], lane: TargetLane) -> Iterator[tuple[int, bool]]:
        """Whether the target has each of these chunks, or zeros where the disk has."""
        if isinstance(lane, LocalLane):
            return self._by_check(part, slots, lane)
        return self._by_hash(part, slots, lane)

    def _by_check(self, part: _Part, slots: Sequence[int], lane: LocalLane) -> Iterator[tuple[int, bool]]:
        room = memoryview(bytearray(self._disk.chunk_bytes))
        check = self._store.identity.check
        for slot in slots:
            view = room[: self._disk.length_of(slot)]
            lane.read_into(view, slot * self._disk.chunk_bytes)
            if part.id(slot) == points.NOTHING:
                yield slot, self._zeros.startswith(view)
            else:
                yield slot, check(view) == part.check(slot)

    def _by_hash(self, part: _Part, slots: Sequence[int], lane: HashedTargetLane) -> Iterator[tuple[int, bool]]:
        identity = self._store.identity
        if identity.name != "sha256":
            raise HashUnfit(path=self._target.path, store=self._store.name, hash=identity.name)
        for span, asked in self._asked(slots, lane):
            hashes = asked.hashes()
            if len(hashes) != len(span):
                reason = f"{len(hashes)} hashes came for {len(span)} chunks"
                raise TargetFailed(path=self._target.path, reason=reason)
            for slot, digest in zip(span, hashes):
                name = points.NOTHING if digest is None else identity.named(bytes(digest))
                yield slot, name == part.id(slot)

    def _asked(self, slots: Sequence[int], lane: HashedTargetLane) -> Iterator[tuple[Sequence[int], Asked]]:
        way: deque[tuple[Sequence[int], Asked]] = deque()
        for begin in range(0, len(slots), SPAN_CHUNKS):
            span = slots[begin : begin + SPAN_CHUNKS]
            pieces = [(slot * self._disk.chunk_bytes, self._disk.length_of(slot)) for slot in span]
            way.append((span, lane.ask(pieces)))
            if len(way) >= SPANS_AHEAD:
                yield way.popleft()
        yield from way


class _Part:
    """Slots of a map by their numbers in it."""

    def __init__(self, first: int, slots: bytes) -> None:
        self.first, self.end = first, first + len(slots) // SLOT_BYTES
        self._slots = slots

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.end))

    def at(self, slot: int) -> int:
        return (slot - self.first) * SLOT_BYTES

    def id(self, slot: int) -> bytes:
        return self._slots[self.at(slot) : self.at(slot) + ID_BYTES]

    def check(self, slot: int) -> bytes:
        return self._slots[self.at(slot) + ID_BYTES : self.at(slot) + SLOT_BYTES]
