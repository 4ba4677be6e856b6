# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs that the machine of the disks fills: their chunks never come here, only what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ansible_collections.stowage.esxi.plugins.module_utils.store.codec import RAW, ZLIB
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECK_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import MOST_RECORDS, RECORD, PackWriter
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import KeepingLane, Kept
from ansible_collections.stowage.esxi.plugins.module_utils.store.spans import SPAN_CHUNKS
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Lane, Writer


class Wanted(NamedTuple):
    """A chunk that is to be kept: where it lies on the disk, its id, its hash."""

    offset: int
    length: int
    id: bytes
    hash: bytes


@dataclass
class _Filling:
    """A pack that is being filled, and how much of it was asked for and not told yet."""

    pack: PackWriter
    lent: Any
    due_bytes: int = 0
    due: int = 0
    full: bool = False


@dataclass
class Owed:
    """Chunks that were asked for, and the pack that they go into."""

    wanted: Sequence[Wanted]
    kept: Kept
    filling: _Filling
    bytes: int


def possible(store: Store) -> bool:
    """Whether all that a record needs can be computed by the machine of the disks."""
    return store.backend.keeps_chunks and store.identity.plain_checks and store.vault is None


def level_of(store: Store) -> int:
    """Of zlib, the one codec that a hypervisor has; 0 for none."""
    if store.codec.number == RAW:
        return 0
    return store.codec.level if store.codec.number == ZLIB else 1


class KeepLane(Lane):
    """For one thread, and one lane of its disks at a time."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer)
        self._level = level_of(writer.store)
        self._line: KeepingLane | None = None
        self._filling: _Filling | None = None
        # The one that is asked for, and full ones of which not all has come.
        self._fillings: list[_Filling] = []

    def use(self, line: KeepingLane) -> None:
        self._line = line

    def pause(self) -> None:
        """The lane ends, and every answer of it was taken; the pack goes on with the next one."""
        if self._line is not None and self._filling is not None:
            self._line.done(self._filling.lent)
        self._line = None

    def ask(self, wanted: Sequence[Wanted]) -> Owed:
        """Returns at once. Answers are taken in the order in which was asked."""
        if self._line is None:
            raise ValueError("use comes first")
        filling = self._room()
        count = sum(one.length + RECORD.size + CHECK_BYTES for one in wanted)
        kept = self._line.keep([(one.offset, one.length) for one in wanted], filling.lent, self._level)
        filling.due_bytes += count
        filling.due += len(wanted)
        return Owed(wanted, kept, filling, count)

    def _room(self) -> _Filling:
        filling = self._filling
        if filling is not None and self._is_full(filling):
            filling.full, self._filling = True, None
            self._seal(filling)
        if self._filling is None:
            pack = self._writer.open_pack()
            try:
                self._filling = _Filling(pack, pack.lend())
            except BaseException:
                pack.abort()
                raise
            self._fillings.append(self._filling)
        return self._filling

    def _is_full(self, filling: _Filling) -> bool:
        count = len(filling.pack.entries) + filling.due
        return filling.pack.size + filling.due_bytes >= self._limit or count + SPAN_CHUNKS > MOST_RECORDS

    def take(self, owed: Owed, lie: Callable[[Wanted], Exception]) -> None:
        """What became of the chunks; one that turned out as other bytes than its hash said is a lie."""
        filling, writer = owed.filling, self._writer
        wanted = iter(owed.wanted)
        for part in owed.kept.parts():
            # From here on the file holds what its table of contents does not.
            self._broken = True
            for record, one in zip(part, wanted):
                if record.hash != one.hash:
                    raise lie(one)
                check = one.hash[:CHECK_BYTES]
                entry = filling.pack.kept(one.id, check, record.codec, record.stored, one.length)
                writer.index.added[one.id] = Place(filling.pack.name, entry.offset, entry.stored, entry.length)
                writer.take(entry.span)
            self._broken = False
        filling.due_bytes -= owed.bytes
        filling.due -= len(owed.wanted)
        self._seal(filling)

    def _seal(self, filling: _Filling) -> None:
        """A full one, when all of it has come."""
        if filling.full and not filling.due:
            if self._line is not None:
                self._line.done(filling.lent)
            self._fillings.remove(filling)
            self._writer.seal(filling.pack)

    def flush(self) -> None:
        """Where every answer was taken."""
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.full = True
            self._seal(filling)

    def leave(self) -> None:
        """What was told of them stays; what was not is cut off."""
        self._line = self._filling = None
        while self._fillings:
            filling = self._fillings.pop()
            if self._broken or not filling.pack.entries:
                filling.pack.abort()
            else:
                self._writer.seal(filling.pack)

    def abort(self) -> None:
        self._line = self._filling = None
        while self._fillings:
            self._fillings.pop().pack.abort()
