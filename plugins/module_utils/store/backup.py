# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks into a store: whole chunks, each read, named, compressed and written by one thread.

No queues between threads: a chunk stays in one core's cache from its reading to its writing. Everything heavy in it
runs in C without the interpreter's lock. Disks that are hashed where they lie come through `feed`, a connection for
each thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Callable, Optional

from ansible_collections.stowage.esxi.plugins.module_utils.store.changes import Slots
from ansible_collections.stowage.esxi.plugins.module_utils.store.claim import Claim
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.feed import Feed, LaneLeft, Shared
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.known import Known, Scope, leant_on
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import FILE, PAGE
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import (
    PAGE_SLOTS,
    SLOT_BYTES,
    DiskMap,
    Point,
    StoredFile,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import DiskSource
from ansible_collections.stowage.esxi.plugins.module_utils.store.spans import (
    SPAN_CHUNKS,
    DiskInput,
    Page,
    Span,
    Told,
    by_page,
    slots_of,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally
from ansible_collections.stowage.esxi.plugins.module_utils.store.unfinished import Unfinished
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Lane, Writer

__all__ = ["BeforeCommit", "DiskInput", "Told", "run"]

BeforeCommit = Callable[[str], Optional[Mapping[str, Any]]]


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
    scope: str = "host",
    stepwise: bool = False,
    before_commit: BeforeCommit | None = None,
) -> tuple[Point, Told]:
    """One restore point, or with `like` the copy of another store's, with its time.

    With `parent`, a chunk whose check is that of the parent's chunk there is taken as unchanged,
    unless `trust_check` is false: then every chunk is named by its hash anew.

    Of a disk that is hashed where it lies, `threads` are connections, and what the store has is taken from it without
    its bytes as far as the `scope` goes: `host`, `group` (restore points with the same hypervisor or group in their
    facts as `facts` has) or `store`. Of a parent that lies outside of it such a disk is told nothing.

    With `stepwise` nothing more is asked for before what came is durable, in packs of at most `PIECE_BYTES`: whatever
    goes down, a backup that comes after finds all but one pack of each thread.

    `before_commit` is called with the point's id, when every byte is durable and nothing else is: by raising it
    prevents the restore point; what it returns is added to its facts."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(Writer(store, machine_id, machine_name, like, stepwise))
        if any(not isinstance(disk.source, DiskSource) for disk in disks):
            writer.tell_of(facts or {})
        within = Scope.of(scope, facts or {})
        near = leant_on(within, facts or {}, parent)
        shared = stack.enter_context(_shared(writer, within, near))
        job = _Job(writer, disks, parent, near, trust_check, threads or len(os.sched_getaffinity(0)), tally, shared)
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
        if before_commit is not None:
            writer.make_durable()
            point = replace(point, facts={**point.facts, **(before_commit(writer.point) or {})})
        writer.commit(point)
        shared.unfinished.forget(machine_id)
        job.told.stored = writer.stored_bytes
    return point, job.told


@contextlib.contextmanager
def _shared(writer: Writer, scope: Scope, parent: Point | None) -> Iterator[Shared]:
    known = Known(writer.store, scope, parent)
    unfinished = Unfinished(writer.store, scope, writer.index.without, writer.adopt)
    with contextlib.closing(unfinished):
        yield Shared(writer, known, unfinished)


class _Job:
    def __init__(
        self,
        writer: Writer,
        disks: Sequence[DiskInput],
        parent: Point | None,
        near: Point | None,
        trust_check: bool,
        threads: int,
        tally: Tally | None,
        shared: Shared,
    ) -> None:
        self.writer, self.store = writer, writer.store
        self.inputs, self.parent, self.near = disks, parent, near
        self.trust_check = trust_check
        self.threads = threads
        self.tally = tally or Tally()
        self.told = Told()
        self.pages: list[list[bytes | None]] = [[] for _disk in disks]
        self.claims: dict[int, Claim] = {}
        self._zeros = bytes(self.store.chunk_bytes)
        self._guard = threading.Lock()
        self._failed = threading.Event()
        self.shared = shared

    # -- disks ---------------------------------------------------------------------------------------------------

    def disks(self) -> tuple[DiskMap, ...]:
        chunk = self.store.chunk_bytes
        plans = [DiskMap(disk.key, disk.source.size, chunk, (), disk.facts) for disk in self.inputs]
        for plan, found in zip(plans, self.pages):
            found += [None] * -(-plan.slots // PAGE_SLOTS)
        work = self._work(plans)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="chunk") as executor:
            try:
                self._all_of([executor.submit(self._lane, work) for _lane in range(self.threads)])
            except BaseException:
                # Also an interrupt from the keyboard: the threads are not to finish the disks first.
                self._failed.set()
                raise
        for claim in self.claims.values():
            claim.rest(self._page_before)
        return tuple(
            DiskMap(plan.key, plan.size, chunk, tuple(found), plan.facts) for plan, found in zip(plans, self.pages)
        )

    def _all_of(self, lanes: Sequence[Future[Told]]) -> None:
        """What one has failed with is told, not that another waited for it."""
        waited: LaneLeft | None = None
        for one in lanes:
            try:
                self.told.add(one.result())
            except LaneLeft as error:
                waited = error
        if waited is not None:
            raise waited

    def _work(self, plans: Sequence[DiskMap]) -> Iterator[Span]:
        """Spans of slots, page by page; what needs no reading is settled here."""
        for number, (disk, plan) in enumerate(zip(self.inputs, plans)):
            old = self._old(disk, plan)
            wanted = slots_of(disk.source.allocated(), plan)
            touched = Slots(disk.changed, plan.chunk_bytes) if disk.changed is not None and old is not None else None
            if disk.proof is not None and touched is not None and old is not None:
                self.claims[number] = Claim(disk.proof, touched, old, plan)
                touched = None
            for page in by_page(wanted):
                slots = plan.slots_of(page[0] // PAGE_SLOTS)
                yield from self._spans(number, disk, plan, old, page, slots, touched)

    def _old(self, disk: DiskInput, plan: DiskMap) -> DiskMap | None:
        """The parent's map of this disk, where its grid is ours, and whoever hashes the disk may be told of it."""
        parent = self.parent if isinstance(disk.source, DiskSource) else self.near
        old = parent.disk(disk.key) if parent else None
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
    ) -> Iterator[Span]:
        at = wanted[0] // PAGE_SLOTS
        first = at * PAGE_SLOTS
        before = self._page_before(old, at)
        page = Page(number, at, slots, before)
        if touched is not None and old is not None and before is not None:
            # A disk that has grown had a shorter chunk at its end.
            keep = [slot for slot in wanted if slot not in touched and old.length_of(slot) == plan.length_of(slot)]
            for slot in keep:
                self._keep(page, slot - first, plan.length_of(slot))
            wanted = [slot for slot in wanted if slot in touched or not self._kept(page, slot - first)]
        spans = [wanted[begin : begin + SPAN_CHUNKS] for begin in range(0, len(wanted), SPAN_CHUNKS)]
        page.left = len(spans) or 1
        if not spans:
            yield Span(disk, plan, page, [])
        for span in spans:
            yield Span(disk, plan, page, span)

    def _page_before(self, old: DiskMap | None, number: int) -> bytes | None:
        if old is None or number >= len(old.pages):
            return None
        try:
            return self.store.page(old, number)
        except StoreError:
            # A damaged parent is no hint, and this very backup heals what it can.
            return None

    def _keep(self, page: Page, slot: int, length: int) -> None:
        """Take a slot over from the parent, as long as the store still has its chunk."""
        at = slot * SLOT_BYTES
        old = (page.before or b"")[at : at + SLOT_BYTES]
        if len(old) == SLOT_BYTES and (old == bytes(SLOT_BYTES) or old[:ID_BYTES] in self.writer.index):
            page.slots[at : at + SLOT_BYTES] = old
            self.told.unchanged += length

    def _kept(self, page: Page, slot: int) -> bool:
        at = slot * SLOT_BYTES
        return page.before is not None and page.slots[at : at + SLOT_BYTES] == page.before[at : at + SLOT_BYTES]

    # -- one thread ----------------------------------------------------------------------------------------------

    def _lane(self, work: Iterator[Span]) -> Told:
        told = Told()
        room = memoryview(b"")
        try:
            with self.writer.lane() as lane, Feed(self.shared, lane, told, self._done) as feed:
                while not self._failed.is_set():
                    span = self._next(work)
                    if span is None:
                        if feed.step():
                            continue
                        break
                    source = span.disk.source
                    if not isinstance(source, DiskSource):
                        feed.take(span, source)
                        continue
                    room = room or memoryview(bytearray(self.store.chunk_bytes))
                    for slot in span.slots:
                        self._chunk(lane, source, span.plan, span.page, slot, room, told)
                    self._done(lane, span.page, span.bytes)
        except BaseException:
            self._failed.set()
            raise
        return told

    def _next(self, work: Iterator[Span]) -> Span | None:
        with self._guard:
            return next(work, None)

    def _chunk(
        self, lane: Lane, source: DiskSource, plan: DiskMap, page: Page, slot: int, room: memoryview, told: Told
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
        at = page.at(slot)
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

    def _done(self, lane: Lane, page: Page, count: int) -> None:
        """So many bytes of a page are settled."""
        self.tally.add(count)
        with self._guard:
            page.left -= 1
            if page.left:
                return
            data = bytes(page.slots)
            if page.disk in self.claims:
                self.claims[page.disk].hold(page.number, data, page.before)
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
