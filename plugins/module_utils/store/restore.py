# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks out of a store: pack by pack, in the order in which they lie there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ansible_collections.stowage.esxi.plugins.module_utils.store import maps, points
from ansible_collections.stowage.esxi.plugins.module_utils.store.compare import Target
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import ChunkMissing, StoreError, TargetFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Summed, Tally

# Records that a thread takes at a time.
SPAN_RECORDS = 32
# Spans that a thread has begun to write to the device and not yet given up.
SPANS_BEHIND = 4


@dataclass
class Told(Summed):
    """What a restore did. Bytes of the disk."""

    written: int = 0
    same: int = 0
    fetched: int = 0


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
    temporary = f"{path}.stowage-part"
    try:
        if in_place:
            return _Job(store, disk, path, paranoid, threads, tally).over()
        return _Job(store, disk, temporary, paranoid, threads, tally).anew(path)
    except OSError as error:
        raise TargetFailed(path=path, reason=error.strerror or str(error)) from error


class _Job:
    def __init__(
        self, store: Store, disk: DiskMap, path: str, paranoid: bool, threads: int, tally: Tally | None = None
    ) -> None:
        self.store, self.disk, self.path = store, disk, path
        self.paranoid = paranoid
        self.tally = tally or Tally()
        # One more than there are processors: while one waits for the device, all of them decode.
        self.threads = threads or len(os.sched_getaffinity(0)) + 1
        self._guard = threading.Lock()
        self._failed = threading.Event()
        self._handle = -1

    def anew(self, target: str) -> Told:
        """What is half done has a name that must be free, and goes with a failure; one that is taken is another's."""
        with self._target(os.O_WRONLY | os.O_CREAT | os.O_EXCL):
            try:
                os.ftruncate(self._handle, self.disk.size)
                told = Told()
                for pages in self._windows():
                    told.add(self._write(self._pieces(pages, None)))
                os.fsync(self._handle)
                os.rename(self.path, target)
            except BaseException:
                os.unlink(self.path)
                raise
        return told

    def over(self) -> Told:
        told = Told()
        with self._target(os.O_RDWR):
            size = os.lseek(self._handle, 0, os.SEEK_END)
            if size != self.disk.size:
                raise TargetFailed(path=self.path, reason=f"it has {size} bytes, the disk {self.disk.size}")
            for pages in self._windows():
                told.add(self._write(self._pieces(pages, told)))
            os.fsync(self._handle)
        return told

    @contextlib.contextmanager
    def _target(self, flags: int) -> Iterator[None]:
        try:
            self._handle = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TargetFailed(path=self.path, reason=error.strerror or str(error)) from error
        try:
            yield
        finally:
            os.close(self._handle)

    # -- what is to be written -----------------------------------------------------------------------------------

    def _windows(self) -> Iterator[range]:
        """Numbers of pages, as many at a time as their chunks may be sorted in memory."""
        count = len(self.disk.pages)
        return (range(begin, min(begin + maps.WINDOW, count)) for begin in range(0, count, maps.WINDOW))

    def _pieces(self, pages: range, told: Told | None) -> list[_Piece]:
        """Every chunk of these pages, once, in the order of the packs. With `told`, only where the target differs."""
        wanted: dict[bytes, tuple[bytes, list[int]]] = {}
        for number, page in self._pages(pages, told):
            for slot, identity, check in points.slots(page):
                wanted.setdefault(identity, (check, []))[1].append(number * PAGE_SLOTS + slot)
        index = self.store.index()
        pieces = []
        for identity, (check, slots) in wanted.items():
            place = index.find(identity)
            if place is None:
                place = self.store.place_of(identity)
            pieces.append(_Piece(place, identity, check, tuple(slots)))
        pieces.sort(key=lambda piece: (piece.place.pack, piece.place.offset))
        return pieces

    def _pages(self, pages: range, told: Told | None) -> Iterator[tuple[int, bytes]]:
        if told is None:
            for number in pages:
                yield number, self.store.page(self.disk, number)
            return
        for found in Target(self.store, self.disk, self.path, self._handle).compare(pages, self.threads):
            told.same += found.same
            told.written += found.written
            yield found.number, found.page

    # -- writing -------------------------------------------------------------------------------------------------

    def _write(self, pieces: list[_Piece]) -> Told:
        told = Told()
        due = self.tally.done + sum(piece.place.length * len(piece.slots) for piece in pieces)
        # A large disk is written in several parts.
        if self.tally.total is None or self.tally.total < due:
            self.tally.expect(due)
        work = iter([pieces[at : at + SPAN_RECORDS] for at in range(0, len(pieces), SPAN_RECORDS)])
        with ThreadPoolExecutor(self.threads, thread_name_prefix="restore") as executor:
            try:
                for one in [executor.submit(self._lane, work) for _lane in range(self.threads)]:
                    told.add(one.result())
            except BaseException:
                # Also an interrupt from the keyboard: the threads are not to finish the disk first.
                self._failed.set()
                raise
        return told

    def _lane(self, work: Iterator[list[_Piece]]) -> Told:
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
                for number, piece in enumerate(span):
                    self.tally.add(piece.place.length * len(piece.slots))
                    if pack is None or piece.place.pack != name:
                        if pack is not None:
                            pack.ranges.close()
                            pack = None
                        name, pack = piece.place.pack, self._pack(piece.place.pack)
                    if pack is not None and (number == 0 or span[number - 1].place.pack != name):
                        pack.expect((one.place.offset, one.place.stored) for one in span if one.place.pack == name)
                    self._piece(pack, piece, told)
                self._advise(span)
                behind.append(span)
                if len(behind) > SPANS_BEHIND:
                    self._advise(behind.popleft())
        except BaseException:
            self._failed.set()
            raise
        finally:
            if pack is not None:
                pack.ranges.close()
        return told

    def _advise(self, span: list[_Piece]) -> None:
        """The first time the device begins to write what this span has filled, while the next one is decoded: the sync
        at the end finds little left. The second time, when that is done, its pages can be used for what comes: a disk
        that nobody reads here drives nothing out of the cache, and takes no memory that has to be found first."""
        with contextlib.suppress(OSError):
            for piece in span:
                for slot in piece.slots:
                    offset = slot * self.disk.chunk_bytes
                    os.posix_fadvise(self._handle, offset, self.disk.chunk_bytes, os.POSIX_FADV_DONTNEED)

    def _pack(self, name: str) -> PackReader | None:
        try:
            return self.store.pack(name)
        except StoreError:
            # Each chunk is then looked for elsewhere.
            return None

    def _piece(self, pack: PackReader | None, piece: _Piece, told: Told) -> None:
        try:
            if pack is not None:
                self._write_piece(pack, piece, told)
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
                self._write_piece(reader, replace(piece, place=other), told)

    def _write_piece(self, pack: PackReader, piece: _Piece, told: Told) -> None:
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
            try:
                view = memoryview(data)
                offset = slot * self.disk.chunk_bytes
                while view:
                    done = os.pwrite(self._handle, view, offset)
                    view, offset = view[done:], offset + done
            except OSError as error:
                raise TargetFailed(path=self.path, reason=error.strerror or str(error)) from error
            told.written += len(data)
