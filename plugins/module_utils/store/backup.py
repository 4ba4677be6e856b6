# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks into a store: whole chunks, each read, named, compressed and written by one thread.

No queues between threads: a chunk stays in one core's cache from its reading to its writing. Everything heavy in it
runs in C without the interpreter's lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.changes import Slots
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import FILE, PAGE
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import (
    PAGE_SLOTS,
    SLOT_BYTES,
    DiskMap,
    Point,
    StoredFile,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import DiskSource
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Summed, Tally
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Lane, Writer

# Chunks that a thread takes at a time: enough to read in order, few enough to end together.
SPAN_CHUNKS = 16


@dataclass(frozen=True)
class DiskInput:
    """A disk to back up. `changed`: (offset, length) of all that may differ from the parent, where that is known."""

    key: str
    source: DiskSource
    changed: Sequence[tuple[int, int]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Told(Summed):
    """What a backup did. Bytes."""

    read: int = 0
    zero: int = 0
    unchanged: int = 0
    known: int = 0
    new: int = 0
    stored: int = 0


def run(
    store: Store,
    machine_id: str,
    machine_name: str,
    disks: Sequence[DiskInput],
    files: Mapping[str, bytes] | None = None,
    *,
    parent: Point | None = None,
    trust_check: bool = True,
    threads: int = 0,
    facts: Mapping[str, Any] | None = None,
    like: Point | None = None,
    tally: Tally | None = None,
) -> tuple[Point, Told]:
    """One restore point, or with `like` the copy of another store's, with its time.

    With `parent`, a chunk whose check is that of the parent's chunk there is taken as unchanged,
    unless `trust_check` is false: then every chunk is named by its hash anew."""
    with Writer(store, machine_id, machine_name, like) as writer:
        job = _Job(writer, disks, parent, trust_check, threads or len(os.sched_getaffinity(0)), tally)
        maps = job.disks()
        stored = job.files(files or {})
        point = Point(
            point=writer.point,
            machine_id=machine_id,
            machine_name=machine_name,
            created_at=writer.created_at,
            writer=writer.id,
            disks=maps,
            files=stored,
            parent=parent.point if parent else None,
            facts=dict(facts or {}),
        )
        writer.commit(point)
        job.told.stored = writer.stored_bytes
    return point, job.told


class _Page:
    """One page of a map under work."""

    def __init__(self, disk: int, number: int, slots: int, before: bytes | None) -> None:
        self.disk, self.number = disk, number
        self.slots = bytearray(slots * SLOT_BYTES)
        self.before = before
        self.left = 0


class _Job:
    def __init__(
        self,
        writer: Writer,
        disks: Sequence[DiskInput],
        parent: Point | None,
        trust_check: bool,
        threads: int,
        tally: Tally | None,
    ) -> None:
        self.writer, self.store = writer, writer.store
        self.inputs, self.parent = disks, parent
        self.trust_check = trust_check
        self.threads = threads
        self.tally = tally or Tally()
        self.told = Told()
        self.pages: list[list[bytes | None]] = [[] for _disk in disks]
        self._zeros = bytes(self.store.chunk_bytes)
        self._guard = threading.Lock()
        self._failed = threading.Event()

    # -- disks ---------------------------------------------------------------------------------------------------

    def disks(self) -> tuple[DiskMap, ...]:
        chunk = self.store.chunk_bytes
        plans = [DiskMap(disk.key, disk.source.size, chunk, (), disk.facts) for disk in self.inputs]
        for plan, found in zip(plans, self.pages):
            found += [None] * -(-plan.slots // PAGE_SLOTS)
        work = self._work(plans)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="chunk") as executor:
            try:
                for one in [executor.submit(self._lane, work) for _lane in range(self.threads)]:
                    self.told.add(one.result())
            except BaseException:
                # Also an interrupt from the keyboard: the threads are not to finish the disks first.
                self._failed.set()
                raise
        return tuple(
            DiskMap(plan.key, plan.size, chunk, tuple(found), plan.facts) for plan, found in zip(plans, self.pages)
        )

    def _work(self, plans: Sequence[DiskMap]) -> Iterator[tuple[DiskInput, DiskMap, _Page, list[int]]]:
        """Spans of slots, page by page; what needs no reading is settled here."""
        for number, (disk, plan) in enumerate(zip(self.inputs, plans)):
            old = self._old(disk, plan)
            wanted = _slots(disk.source.allocated(), plan)
            touched = Slots(disk.changed, plan.chunk_bytes) if disk.changed is not None and old is not None else None
            for page in _by_page(wanted):
                slots = plan.slots_of(page[0] // PAGE_SLOTS)
                yield from self._spans(number, disk, plan, old, page, slots, touched)

    def _old(self, disk: DiskInput, plan: DiskMap) -> DiskMap | None:
        """The parent's map of this disk, where its grid is ours."""
        old = self.parent.disk(disk.key) if self.parent else None
        return old if old is not None and old.chunk_bytes == plan.chunk_bytes else None

    def _spans(
        self,
        number: int,
        disk: DiskInput,
        plan: DiskMap,
        old: DiskMap | None,
        wanted: list[int],
        slots: int,
        touched: Slots | None,
    ) -> Iterator[tuple[DiskInput, DiskMap, _Page, list[int]]]:
        at = wanted[0] // PAGE_SLOTS
        first = at * PAGE_SLOTS
        before = self._page_before(old, at)
        page = _Page(number, at, slots, before)
        if touched is not None and old is not None and before is not None:
            # A disk that has grown had a shorter chunk at its end.
            keep = [slot for slot in wanted if slot not in touched and old.length_of(slot) == plan.length_of(slot)]
            for slot in keep:
                self._keep(page, slot - first, plan.length_of(slot))
            wanted = [slot for slot in wanted if slot in touched or not self._kept(page, slot - first)]
        spans = [wanted[begin : begin + SPAN_CHUNKS] for begin in range(0, len(wanted), SPAN_CHUNKS)]
        page.left = len(spans) or 1
        if not spans:
            yield disk, plan, page, []
        for span in spans:
            yield disk, plan, page, span

    def _page_before(self, old: DiskMap | None, number: int) -> bytes | None:
        if old is None or number >= len(old.pages) or old.pages[number] is None:
            return None
        try:
            return self.store.page(old, number)
        except StoreError:
            # A damaged parent is no hint, and this very backup heals what it can.
            return None

    def _keep(self, page: _Page, slot: int, length: int) -> None:
        """Take a slot over from the parent, as long as the store still has its chunk."""
        at = slot * SLOT_BYTES
        old = (page.before or b"")[at : at + SLOT_BYTES]
        if len(old) == SLOT_BYTES and (old == bytes(SLOT_BYTES) or old[:ID_BYTES] in self.writer.index):
            page.slots[at : at + SLOT_BYTES] = old
            self.told.unchanged += length

    def _kept(self, page: _Page, slot: int) -> bool:
        at = slot * SLOT_BYTES
        return page.before is not None and page.slots[at : at + SLOT_BYTES] == page.before[at : at + SLOT_BYTES]

    # -- one thread ----------------------------------------------------------------------------------------------

    def _lane(self, work: Iterator[tuple[DiskInput, DiskMap, _Page, list[int]]]) -> Told:
        told = Told()
        room = memoryview(bytearray(self.store.chunk_bytes))
        try:
            with self.writer.lane() as lane:
                while not self._failed.is_set():
                    with self._guard:
                        item = next(work, None)
                    if item is None:
                        break
                    disk, plan, page, span = item
                    for slot in span:
                        self._chunk(lane, disk.source, plan, page, slot, room, told)
                    self.tally.add(sum(map(plan.length_of, span)))
                    self._done(lane, page)
        except BaseException:
            self._failed.set()
            raise
        return told

    def _chunk(
        self, lane: Lane, source: DiskSource, plan: DiskMap, page: _Page, slot: int, room: memoryview, told: Told
    ) -> None:
        length = plan.length_of(slot)
        view = room[:length]
        source.read_into(view, slot * plan.chunk_bytes)
        told.read += length
        if self._zeros.startswith(view):
            told.zero += length
            return
        identity = self.store.identity
        check = identity.check(view)
        at = (slot - page.number * PAGE_SLOTS) * SLOT_BYTES
        if page.before is not None and self.trust_check:
            old = page.before[at : at + SLOT_BYTES]
            if old[ID_BYTES:] == check and old[:ID_BYTES] in self.writer.index:
                page.slots[at : at + SLOT_BYTES] = old
                told.unchanged += length
                return
        name = identity.of(view)
        page.slots[at : at + SLOT_BYTES] = name + check
        if name in self.writer.index or not self.writer.claim(name):
            told.known += length
            return
        lane.add(name, check, view)
        told.new += length

    def _done(self, lane: Lane, page: _Page) -> None:
        with self._guard:
            page.left -= 1
            if page.left:
                return
        data = bytes(page.slots)
        if data.count(0) == len(data):
            return
        name = self._record(lane, data, PAGE)
        self.pages[page.disk][page.number] = name

    def _record(self, lane: Lane, data: bytes, kind: int) -> bytes:
        name = self.store.identity.of(data)
        if name not in self.writer.index and self.writer.claim(name):
            lane.add(name, self.store.identity.check(data), data, kind)
        return name

    # -- files ---------------------------------------------------------------------------------------------------

    def files(self, files: Mapping[str, bytes]) -> tuple[StoredFile, ...]:
        with self.writer.lane() as lane:
            return tuple(
                StoredFile(name, len(data), self._record(lane, data, FILE) if data else None)
                for name, data in files.items()
            )


def _slots(extents: Iterator[tuple[int, int]] | Sequence[tuple[int, int]], plan: DiskMap) -> Iterator[int]:
    """Numbers of the slots that these ranges touch, ascending, each once."""
    last = -1
    for offset, length in extents:
        if length <= 0:
            continue
        begin, end = offset // plan.chunk_bytes, (offset + length - 1) // plan.chunk_bytes
        yield from range(max(begin, last + 1), min(end + 1, plan.slots))
        last = max(last, end)


def _by_page(wanted: Iterator[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for slot in wanted:
        if group and slot // PAGE_SLOTS != group[0] // PAGE_SLOTS:
            yield group
            group = []
        group.append(slot)
    if group:
        yield group
