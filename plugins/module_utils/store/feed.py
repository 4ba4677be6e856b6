# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are hashed where they lie: what the store lacks is fetched, and nothing that is told is believed.

A hash leads to a chunk that the parent has at this place, that the scope has (see `known`, and `unfinished` for what
backups have stored that came to no end), or that is fetched; what was fetched is hashed again. So no chunk gets into a
restore point whose bytes this store has not seen, and whoever tells hashes of what he never had gets what his own scope
has, and else is asked for the bytes. Only a store on that machine's own datastore takes its word for what it packs.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from ansible_collections.stowage.esxi.plugins.module_utils.store import keepchunks
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import HashUnfit, SourceLied
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECK_BYTES, ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.known import Known
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import SLOT_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import (
    Asked,
    Fetched,
    Hash,
    HashedLane,
    HashedSource,
    KeepingLane,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.spans import SPANS_AHEAD, Page, Span, Told
from ansible_collections.stowage.esxi.plugins.module_utils.store.unfinished import Unfinished
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Lane, Writer

# Chunks that this backup has fetched and knows by their hashes; of what comes again after more than these, the bytes
# come again, too.
MOST_FRESH = 1 << 18
# Spans of one connection whose last chunks another is about to bring: one that is slow holds up nobody soon.
_MOST_WAITING = 64


class _Chunk(NamedTuple):
    slot: int
    hash: bytes
    id: bytes


@dataclass
class _Entry:
    """A span under way: asked for its hashes, then for the bytes of some chunks. `waits`: for how many of its slots a
    chunk is awaited that was asked for before, by whichever thread."""

    span: Span
    asked: Asked | None = None
    fetched: Fetched | None = None
    kept: keepchunks.Owed | None = None
    wanted: list[_Chunk] = field(default_factory=list)
    waits: int = 0


class LaneLeft(Exception):
    """A thread of this backup has ended, and its chunks do not come any more: what it ended with is what is told."""


class Shared:
    """What all threads of one backup have in common."""

    def __init__(self, writer: Writer, known: Known, unfinished: Unfinished) -> None:
        self.writer, self.known, self.unfinished = writer, known, unfinished
        self.fresh: dict[bytes, bytes] = {}
        """Checks of the chunks of full length that have come."""
        self._guard = threading.Lock()
        self._zeros: dict[int, bytes] = {}
        # Chunks that were asked for and have not come: their length, and the other slots that they fill.
        self._coming: dict[bytes, tuple[int, list[tuple[_Entry, int]]]] = {}
        self._arrived = threading.Condition(self._guard)
        self._left = False

    def ask(self, identity: bytes, entry: _Entry, slot: int) -> int | None:
        """None: it is to be fetched. Else it is under way, with this length, and the entry waits for it."""
        length = entry.span.plan.length_of(slot)
        with self._guard:
            if identity not in self._coming:
                self._coming[identity] = (length, [])
                return None
            due, others = self._coming[identity]
            if due == length:
                others.append((entry, slot))
                entry.waits += 1
            return due

    def others(self, identity: bytes) -> list[tuple[_Entry, int]]:
        """It has come, and fills these slots as well; `filled` is called when it has."""
        with self._guard:
            return self._coming.pop(identity, (0, []))[1]

    def filled(self, others: Sequence[tuple[_Entry, int]]) -> None:
        with self._guard:
            for entry, _slot in others:
                entry.waits -= 1
            self._arrived.notify_all()

    def wait(self, entry: _Entry) -> None:
        """Until nothing is awaited for it any more. Who waits owes nobody anything: no two wait for each other."""
        with self._guard:
            self._arrived.wait_for(lambda: self._left or not entry.waits)
            if entry.waits:
                raise LaneLeft

    def leave(self) -> None:
        """A thread ends before its time: nobody may wait for what it was to bring."""
        with self._guard:
            self._left = True
            self._arrived.notify_all()

    def is_zeros(self, digest: bytes, length: int) -> bool:
        if length not in self._zeros:
            self._zeros[length] = self.writer.store.identity.plain(bytes(length))
        return digest == self._zeros[length]

    def came(self, identity: bytes, check: bytes, length: int) -> None:
        if length != self.writer.store.chunk_bytes:
            # The end of a disk: nothing else has its length.
            return
        with self._guard:
            self.fresh[identity] = check
            if len(self.fresh) > MOST_FRESH:
                del self.fresh[next(iter(self.fresh))]


class Feed:
    """One thread's connections, one after the other. Answers are taken in the order in which was asked."""

    def __init__(self, shared: Shared, lane: Lane, told: Told, done: Callable[[Lane, Page, int], None]) -> None:
        self._shared, self._lane, self._told, self._done = shared, lane, told, done
        self._writer, self._identity = shared.writer, shared.writer.store.identity
        self._source: HashedSource | None = None
        self._line: HashedLane | None = None
        self._open = contextlib.ExitStack()
        self._way: deque[_Entry] = deque()
        # Spans of which all has come that was asked for by this thread.
        self._waiting: deque[_Entry] = deque()
        # Where the disks' own machine packs what is new.
        self._keep: keepchunks.KeepLane | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: object, *words: object) -> None:
        if kind is not None or self._way or self._waiting:
            self._shared.leave()
        try:
            if kind is None and self._keep is not None:
                self._keep.flush()
        finally:
            self._open.close()

    def take(self, span: Span, source: HashedSource) -> None:
        """Asks for a span; then answers are taken until there is room for the next one."""
        if not span.slots:
            self._done(self._lane, span.page, 0)
            return
        line = self._connect(source)
        self._way.append(_Entry(span, asked=line.ask([span.piece(slot) for slot in span.slots])))
        while len(self._way) >= (1 if self._writer.stepwise else SPANS_AHEAD) or len(self._waiting) >= _MOST_WAITING:
            self.step()

    def _connect(self, source: HashedSource) -> HashedLane:
        if self._line is None or source is not self._source:
            if self._identity.name != "sha256":
                raise HashUnfit(path=source.path, store=self._writer.store.name, hash=self._identity.name)
            while self._way:
                self.step()
            if self._keep is not None:
                self._keep.pause()
            self._open.close()
            self._line = self._open.enter_context(source.lane())
            self._source = source
            if keepchunks.possible(self._writer.store):
                self._keep_with(self._line)
        return self._line

    def _keep_with(self, line: HashedLane) -> None:
        if not hasattr(line, "keep"):
            # Its machine is another one than the store's.
            return
        if self._keep is None:
            self._keep = keepchunks.KeepLane(self._writer)
            self._writer.join(self._keep)
        self._keep.use(cast(KeepingLane, line))

    def step(self) -> bool:
        """Takes the oldest answer; False when none is due. Others' chunks are waited for when nothing else is."""
        if self._way:
            entry = self._way.popleft()
            if entry.asked is not None:
                self._settle(entry, entry.asked)
            else:
                self._receive(entry)
        elif self._waiting:
            self._shared.wait(self._waiting[0])
        else:
            return False
        self._reap()
        return True

    def _reap(self) -> None:
        """What was awaited has come, whoever has brought it."""
        for _entry in range(len(self._waiting)):
            entry = self._waiting.popleft()
            if entry.waits:
                self._waiting.append(entry)
            else:
                self._end(entry.span)

    def _end(self, span: Span) -> None:
        self._done(self._lane, span.page, span.bytes)

    # -- hashes --------------------------------------------------------------------------------------------------

    def _settle(self, entry: _Entry, asked: Asked) -> None:
        span = entry.span
        hashes = list(asked.hashes())
        if len(hashes) != len(span.slots):
            raise self._lie(span, f"{len(hashes)} hashes came for {len(span.slots)} chunks")
        entry.asked = None
        for slot, digest in zip(span.slots, hashes):
            chunk = self._chunk(span, slot, digest)
            if chunk is None:
                continue
            # Whoever has claimed a chunk for a pack of its own machine has it packed.
            due = self._shared.ask(chunk.id, entry, slot) if self._keep is None else None
            if due is None:
                entry.wanted.append(chunk)
            else:
                self._must_fit(span, slot, due)
        if entry.wanted and self._keep is not None:
            entry.kept = self._keep.ask([self._wanted(span, chunk) for chunk in entry.wanted])
        elif entry.wanted and self._line is not None:
            entry.fetched = self._line.fetch([span.piece(chunk.slot) for chunk in entry.wanted])
        if entry.wanted:
            self._way.append(entry)
        else:
            self._waiting.append(entry)

    def _chunk(self, span: Span, slot: int, digest: Hash) -> _Chunk | None:
        """The chunk, where its bytes must come; else its slot is filled."""
        length, told, shared = span.plan.length_of(slot), self._told, self._shared
        told.read += length
        if digest is not None and len(digest) != ID_BYTES:
            raise self._lie(span, f"what came for a hash has {len(digest)} bytes")
        if digest is None or shared.is_zeros(digest, length):
            told.zero += length
            return None
        name = self._identity.named(bytes(digest))
        page, at = span.page, span.page.at(slot)
        old = page.before[at : at + SLOT_BYTES] if page.before is not None else b""
        place = self._writer.index.find(name)
        if place is not None and not place.pack:
            # Another thread is about to write it.
            place = None
        if place is not None and old[:ID_BYTES] == name:
            self._must_fit(span, slot, place.length)
            page.slots[at : at + SLOT_BYTES] = old
            told.unchanged += length
            return None
        check = self._known(span, slot, name, place)
        if check is None:
            return _Chunk(slot, bytes(digest), name)
        self._fill(span, slot, name, check)
        return None

    def _known(self, span: Span, slot: int, name: bytes, place: Place | None) -> bytes | None:
        """The check of a chunk that need not be sent."""
        shared, length = self._shared, span.plan.length_of(slot)
        if self._keep is not None:
            return self._kept_already(span, slot, name, place)
        check = shared.fresh.get(name) if length == span.plan.chunk_bytes else None
        if check is None and place is not None:
            check = shared.known.check(name)
            if check is not None:
                self._must_fit(span, slot, place.length)
        if check is None:
            check = shared.unfinished.check(name, length)
            if check is not None:
                shared.came(name, check, length)
        return check

    def _kept_already(self, span: Span, slot: int, name: bytes, place: Place | None) -> bytes | None:
        """A machine that packs its chunks itself has the store under its hands: nothing is kept from it."""
        if place is not None:
            self._must_fit(span, slot, place.length)
            return name[:CHECK_BYTES]
        check = self._shared.unfinished.check(name, span.plan.length_of(slot))
        if check is None and not self._writer.claim(name):
            # Whoever has claimed it is about to have it packed, or there will be no restore point.
            check = name[:CHECK_BYTES]
        return check

    def _wanted(self, span: Span, chunk: _Chunk) -> keepchunks.Wanted:
        return keepchunks.Wanted(*span.piece(chunk.slot), chunk.id, chunk.hash)

    def _must_fit(self, span: Span, slot: int, length: int) -> None:
        """What has another length has another hash."""
        offset, wanted = span.piece(slot)
        if length != wanted:
            raise self._lie(span, f"the hash told for the {wanted} bytes at {offset} is that of {length} bytes")

    def _fill(self, span: Span, slot: int, name: bytes, check: bytes) -> None:
        at = span.page.at(slot)
        span.page.slots[at : at + ID_BYTES + CHECK_BYTES] = name + check
        self._told.known += span.plan.length_of(slot)

    # -- bytes ---------------------------------------------------------------------------------------------------

    def _receive(self, entry: _Entry) -> None:
        span = entry.span
        if entry.kept is not None and self._keep is not None:
            self._keep.take(entry.kept, lambda one: self._lie(span, self._other_bytes(one.length, one.offset)))
            for chunk in entry.wanted:
                self._settled(span, chunk, chunk.id[:CHECK_BYTES], new=True)
        elif entry.fetched is not None:
            chunks = iter(entry.fetched.chunks())
            for chunk in entry.wanted:
                self._store(span, chunk, self._proven(span, chunk, chunks))
            if next(chunks, None) is not None:
                raise self._lie(span, f"more came than the {len(entry.wanted)} chunks that were asked for")
        else:
            raise ValueError(f"{len(entry.wanted)} chunks are due and were asked for nowhere")
        self._waiting.append(entry)

    def _proven(self, span: Span, chunk: _Chunk, chunks: Iterator[bytes | memoryview]) -> memoryview:
        offset, length = span.piece(chunk.slot)
        data = next(chunks, None)
        if data is None:
            raise self._lie(span, f"the bytes at {offset} were asked for and did not come")
        view = memoryview(data).cast("B")
        if len(view) != length:
            raise self._lie(span, f"{len(view)} bytes came for the {length} bytes at {offset}")
        self._told.sent += length
        if self._identity.plain(view) != chunk.hash:
            raise self._lie(span, self._other_bytes(length, offset))
        return view

    @staticmethod
    def _other_bytes(length: int, offset: int) -> str:
        return f"the {length} bytes at {offset} came with other content than their hash, told before, says"

    def _store(self, span: Span, chunk: _Chunk, view: memoryview) -> None:
        check = self._identity.check(view)
        new = chunk.id not in self._writer.index and self._writer.claim(chunk.id)
        if new:
            self._lane.add(chunk.id, check, view)
        self._settled(span, chunk, check, new)

    def _settled(self, span: Span, chunk: _Chunk, check: bytes, new: bool) -> None:
        length = span.plan.length_of(chunk.slot)
        at = span.page.at(chunk.slot)
        span.page.slots[at : at + SLOT_BYTES] = chunk.id + check
        if new:
            self._told.new += length
        else:
            self._told.known += length
        self._shared.came(chunk.id, check, length)
        others = self._shared.others(chunk.id)
        for other, slot in others:
            self._fill(other.span, slot, chunk.id, check)
        self._shared.filled(others)

    def _lie(self, span: Span, lie: str) -> SourceLied:
        return SourceLied(path=span.disk.source.path, lie=lie)
