# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks out of a store: pack by pack, in the order in which they lie there."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast

from ansible_collections.stowage.esxi.plugins.module_utils.store import maps, points
from ansible_collections.stowage.esxi.plugins.module_utils.store.compare import Compared, Comparison
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import ChunkMissing, StoreError, TargetFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Summed, Tally
from ansible_collections.stowage.esxi.plugins.module_utils.store.targets import (
    DiskTarget,
    IsTheirs,
    LocalLane,
    LocalTarget,
    PackedRecord,
    TargetLane,
    UnpackingLane,
)

# Records that a thread takes at a time.
SPAN_RECORDS = 32
# Slots of a target that a thread compares at a time.
COMPARED_SLOTS = 128
# Spans that a thread has begun to write to the device and not yet given up.
SPANS_BEHIND = 4


@dataclass
class Told(Summed):
    """What a restore did. Bytes of the disk; `unpacked`: those of `written` that have not come here first."""

    written: int = 0
    same: int = 0
    fetched: int = 0
    unpacked: int = 0


@dataclass(frozen=True)
class _Piece:
    place: Place
    id: bytes
    check: bytes
    slots: tuple[int, ...]


def to_file(
    store: Store,
    disk: DiskMap,
    path: str,
    *,
    in_place: bool = False,
    paranoid: bool = False,
    threads: int = 0,
    tally: Tally | None = None,
) -> Told:
    """The disk as a raw image. A new file is sparse where the disk has zeros, and appears only when it is whole.

    `in_place` writes only what differs, into a file or block device that is there. Every chunk is checked by its
    XXH3-128; `paranoid` adds its id.
    """
    try:
        if in_place:
            with LocalTarget(path, os.O_RDWR) as target:
                return to_target(store, disk, target, in_place=True, paranoid=paranoid, threads=threads, tally=tally)
        return _anew(store, disk, path, paranoid, threads, tally)
    except OSError as error:
        raise TargetFailed(path=path, reason=error.strerror or str(error)) from error


def _anew(store: Store, disk: DiskMap, path: str, paranoid: bool, threads: int, tally: Tally | None) -> Told:
    """What is half done has a name that must be free, and goes with a failure; one that is taken is another's."""
    temporary = f"{path}.stowage-part"
    with LocalTarget(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as target:
        try:
            target.resize(disk.size)
            told = to_target(store, disk, target, paranoid=paranoid, threads=threads, tally=tally)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    return told


def to_target(
    store: Store,
    disk: DiskMap,
    target: DiskTarget,
    *,
    in_place: bool = False,
    paranoid: bool = False,
    threads: int = 0,
    tally: Tally | None = None,
) -> Told:
    """The disk to wherever it is to lie; durable when this returns. Without `in_place` the target must be all zeros.

    `threads` are lanes of the target: where that is far away, connections."""
    if target.size != disk.size:
        raise TargetFailed(path=target.path, reason=f"it has {target.size} bytes, the disk {disk.size}")
    # One more than there are processors: while one waits for the device, all of them decode.
    threads = threads or len(os.sched_getaffinity(0)) + 1
    with contextlib.ExitStack() as stack:
        lanes = [stack.enter_context(target.lane()) for _lane in range(threads)]
        told = _Job(store, disk, target, lanes, paranoid, tally).run(in_place)
        target.sync()
    return told


class _Job:
    def __init__(
        self,
        store: Store,
        disk: DiskMap,
        target: DiskTarget,
        lanes: Sequence[TargetLane],
        paranoid: bool,
        tally: Tally | None,
    ) -> None:
        self.store, self.disk, self.target, self.lanes = store, disk, target, lanes
        self.paranoid = paranoid
        self.tally = tally or Tally()
        self._guard = threading.Lock()
        self._failed = threading.Event()

    def run(self, in_place: bool) -> Told:
        told = Told()
        for pages in self._windows():
            told.add(self._write(self._pieces(pages, told if in_place else None)))
        return told

    # -- what is to be written -----------------------------------------------------------------------------------

    def _windows(self) -> Iterator[range]:
        """Numbers of pages, as many at a time as their chunks may be sorted in memory."""
        count = len(self.disk.pages)
        return (range(begin, min(begin + maps.WINDOW, count)) for begin in range(0, count, maps.WINDOW))

    def _pieces(self, pages: range, told: Told | None) -> list[_Piece]:
        """Every chunk of these pages, once, in the order of the packs. With `told`, only where the target differs."""
        wanted: dict[bytes, tuple[bytes, list[int]]] = {}
        for first, some in self._slots(pages, told):
            for slot, identity, check in points.slots(some):
                wanted.setdefault(identity, (check, []))[1].append(first + slot)
        index = self.store.index()
        pieces = []
        for identity, (check, slots) in wanted.items():
            place = index.find(identity)
            if place is None:
                place = self.store.place_of(identity)
            pieces.append(_Piece(place, identity, check, tuple(slots)))
        pieces.sort(key=lambda piece: (piece.place.pack, piece.place.offset))
        return pieces

    def _slots(self, pages: range, told: Told | None) -> Iterator[tuple[int, bytes]]:
        """The number of a slot of the map, and what it and its neighbours say."""
        if told is None:
            for number in pages:
                yield number * PAGE_SLOTS, self.store.page(self.disk, number)
            return
        for found in self._compared(pages):
            told.same += found.same
            told.written += found.written
            yield found.first, found.slots

    def _parts(self, pages: range) -> Iterator[tuple[int, bytes]]:
        """Small enough that all threads end at about the same time."""
        for first, page in self._slots(pages, None):
            for at in range(0, len(page), COMPARED_SLOTS * SLOT_BYTES):
                yield first + at // SLOT_BYTES, page[at : at + COMPARED_SLOTS * SLOT_BYTES]

    def _compared(self, pages: range) -> list[Compared]:
        """Each part by one thread, which takes a lane that is free."""
        comparison = Comparison(self.store, self.disk, self.target)
        free: queue.SimpleQueue[TargetLane] = queue.SimpleQueue()
        for lane in self.lanes:
            free.put(lane)

        def compare(part: tuple[int, bytes]) -> Compared:
            lane = free.get()
            try:
                return comparison.part(*part, lane)
            finally:
                free.put(lane)

        with ThreadPoolExecutor(len(self.lanes), thread_name_prefix="compare") as executor:
            return list(executor.map(compare, self._parts(pages)))

    # -- writing -------------------------------------------------------------------------------------------------

    def _write(self, pieces: list[_Piece]) -> Told:
        told = Told()
        due = self.tally.done + sum(piece.place.length * len(piece.slots) for piece in pieces)
        # A large disk is written in several parts.
        if self.tally.total is None or self.tally.total < due:
            self.tally.expect(due)
        work = iter([pieces[at : at + SPAN_RECORDS] for at in range(0, len(pieces), SPAN_RECORDS)])
        with ThreadPoolExecutor(len(self.lanes), thread_name_prefix="restore") as executor:
            try:
                for one in [executor.submit(self._lane, work, lane) for lane in self.lanes]:
                    told.add(one.result())
            except BaseException:
                # Also an interrupt from the keyboard: the threads are not to finish the disk first.
                self._failed.set()
                raise
        return told

    def _lane(self, work: Iterator[list[_Piece]], lane: TargetLane) -> Told:
        told = Told()
        pack: PackReader | None = None
        name = ""
        behind: deque[list[_Piece]] = deque()
        try:
            while not self._failed.is_set():
                with self._guard:
                    span = next(work, None)
                if span is None:
                    break
                if hasattr(lane, "unpack"):
                    span = self._unpacked(cast(UnpackingLane, lane), span, told)
                for number, piece in enumerate(span):
                    self.tally.add(piece.place.length * len(piece.slots))
                    if pack is None or piece.place.pack != name:
                        if pack is not None:
                            pack.ranges.close()
                            pack = None
                        name, pack = piece.place.pack, self._pack(piece.place.pack)
                    if pack is not None and (number == 0 or span[number - 1].place.pack != name):
                        pack.expect((one.place.offset, one.place.stored) for one in span if one.place.pack == name)
                    self._piece(pack, piece, lane, told)
                if isinstance(lane, LocalLane):
                    lane.advise(self._places(span))
                    behind.append(span)
                    if len(behind) > SPANS_BEHIND:
                        lane.advise(self._places(behind.popleft()))
        except BaseException:
            self._failed.set()
            raise
        finally:
            if pack is not None:
                pack.ranges.close()
        return told

    def _unpacked(self, lane: UnpackingLane, span: list[_Piece], told: Told) -> list[_Piece]:
        """The target takes what it can out of the packs itself; the rest is left, and what has come out otherwise than
        its id says is written again."""
        left = []
        for name, some in itertools.groupby(span, key=lambda piece: piece.place.pack):
            asked, records = [], []
            for piece in some:
                _pack, offset, stored, length = piece.place
                if any(self.disk.length_of(slot) != length for slot in piece.slots):
                    left.append(piece)
                    continue
                asked.append(piece)
                places = [slot * self.disk.chunk_bytes for slot in piece.slots]
                records.append(PackedRecord(offset, stored, length, places))
            for piece, digest in zip(asked, lane.unpack(pack_name(name), records).hashes()):
                if digest is None or self.store.identity.named(bytes(digest)) != piece.id:
                    left.append(piece)
                    continue
                count = piece.place.length * len(piece.slots)
                self.tally.add(count)
                told.written += count
                told.unpacked += count
        return left

    def _places(self, span: list[_Piece]) -> Iterator[tuple[int, int]]:
        for piece in span:
            for slot in piece.slots:
                yield slot * self.disk.chunk_bytes, self.disk.chunk_bytes

    def _pack(self, name: str) -> PackReader | None:
        try:
            return self.store.pack(name)
        except StoreError:
            # Each chunk is then looked for elsewhere.
            return None

    def _piece(self, pack: PackReader | None, piece: _Piece, lane: TargetLane, told: Told) -> None:
        try:
            if pack is not None:
                self._write_piece(pack, piece, lane, told)
                return
            raise ChunkMissing(chunk=piece.id.hex(), store=self.store.name)
        except TargetFailed:
            raise
        except StoreError:
            other = self.store.other_place(piece.id, piece.place)
            if other is None:
                raise
            reader = self.store.pack(other.pack)
            with reader.ranges:
                self._write_piece(reader, replace(piece, place=other), lane, told)

    def _write_piece(self, pack: PackReader, piece: _Piece, lane: TargetLane, told: Told) -> None:
        place = piece.place
        # Before room is made for it.
        if place.length > self.disk.chunk_bytes:
            raise pack.damaged(f"chunk {piece.id.hex()} has {place.length} bytes and does not fit")
        record = pack.raw(place.offset, place.stored)
        data, _check = pack.expand(record, place.offset, place.length, piece.id)
        told.fetched += len(record)
        if self.store.identity.check(data) != piece.check:
            raise pack.damaged(f"chunk {piece.id.hex()} has other bytes than the disk had")
        if self.paranoid and self.store.identity.of(data) != piece.id:
            raise pack.damaged(f"chunk {piece.id.hex()} has other bytes than its id says")
        for slot in piece.slots:
            if len(data) != self.disk.length_of(slot):
                raise pack.damaged(f"chunk {piece.id.hex()} has {len(data)} bytes and does not fit")
            if isinstance(lane, LocalLane):
                lane.write(memoryview(data), slot * self.disk.chunk_bytes)
            else:
                lane.write(memoryview(data), slot * self.disk.chunk_bytes, self._hash_of(piece))
            told.written += len(data)

    def _hash_of(self, piece: _Piece) -> IsTheirs:
        """Of a chunk whose bytes were checked: where its id is made of their SHA-256, that need not be made again."""
        identity = self.store.identity
        return (lambda digest: identity.named(digest) == piece.id) if identity.name == "sha256" else None
