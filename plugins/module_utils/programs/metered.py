# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that is hashed where it lies, with what came of it counted: read there, and sent here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import (
    Asked,
    Fetched,
    Hash,
    HashedLane,
    HashedSource,
    KeepingLane,
    Kept,
    KeptRecord,
    Piece,
)


class Metered:
    """A `HashedSource` over another one. `check` may raise; it is asked before each piece of work."""

    def __init__(self, key: str, source: HashedSource, check: Callable[[], None]) -> None:
        self.key, self.path, self.size = key, source.path, source.size
        self.read = 0
        self.sent = 0
        self.kept = 0
        """Bytes that were packed where they lie."""
        self.check = check
        self._source = source
        self._guard = threading.Lock()

    def allocated(self) -> Iterator[Piece]:
        return self._source.allocated()

    @contextlib.contextmanager
    def lane(self) -> Iterator[HashedLane]:
        with self._source.lane() as lane:
            yield _KeepingLane(self, lane) if hasattr(lane, "keep") else _Lane(self, lane)

    def count(self, read: int = 0, sent: int = 0, kept: int = 0) -> None:
        with self._guard:
            self.read += read
            self.sent += sent
            self.kept += kept


class _Lane:
    def __init__(self, disk: Metered, lane: HashedLane) -> None:
        self._disk, self._lane = disk, lane

    def ask(self, pieces: Sequence[Piece]) -> Asked:
        self._disk.check()
        return _Asked(self._disk, self._lane.ask(pieces), sum(length for _offset, length in pieces))

    def fetch(self, pieces: Sequence[Piece]) -> Fetched:
        self._disk.check()
        return _Fetched(self._disk, self._lane.fetch(pieces))


class _KeepingLane(_Lane):
    """Of a machine that can pack chunks itself."""

    _lane: KeepingLane

    def keep(self, pieces: Sequence[Piece], pack: Any, level: int) -> Kept:
        self._disk.check()
        return _Kept(self._disk, self._lane.keep(pieces, pack, level), [length for _offset, length in pieces])

    def done(self, pack: Any) -> None:
        self._lane.done(pack)


class _Kept:
    def __init__(self, disk: Metered, kept: Kept, lengths: Sequence[int]) -> None:
        self._disk, self._kept, self._lengths = disk, kept, iter(lengths)

    def parts(self) -> Iterator[Sequence[KeptRecord]]:
        for part in self._kept.parts():
            self._disk.count(kept=sum(length for _record, length in zip(part, self._lengths)))
            yield part


class _Asked:
    def __init__(self, disk: Metered, asked: Asked, count: int) -> None:
        self._disk, self._asked, self._count = disk, asked, count

    def hashes(self) -> Sequence[Hash]:
        found = self._asked.hashes()
        self._disk.count(read=self._count)
        return found


class _Fetched:
    def __init__(self, disk: Metered, fetched: Fetched) -> None:
        self._disk, self._fetched = disk, fetched

    def chunks(self) -> Iterator[bytes | memoryview]:
        for chunk in self._fetched.chunks():
            self._disk.count(sent=len(chunk))
            yield chunk
