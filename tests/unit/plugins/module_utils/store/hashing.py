# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that is hashed where it lies: a file, and for each connection a thread that answers in order, as a host does.

It notes what was asked and what was fetched. Those that lie are made from it by overriding what it answers.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import backup
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import Hash, Piece, data_extents
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.targets import IsTheirs

PATIENCE = 60.0


class Answer:
    """Of one request: comes when all those before it were taken."""

    def __init__(self, line: Line, kind: str, pieces: Sequence[Piece]) -> None:
        self._line, self.kind, self.pieces = line, kind, pieces
        # As many bytes as a real connection has in flight: whoever does not take them in order waits for ever.
        self.parts: queue.Queue[Any] = queue.Queue(2)

    def _taken(self) -> Iterator[Any]:
        self._line.take(self)
        while True:
            part = self.parts.get(timeout=PATIENCE)
            if isinstance(part, BaseException):
                raise part
            if part is None:
                return
            yield part

    def hashes(self) -> Sequence[Hash]:
        assert self.kind == "ask"
        (found,) = self._taken()
        answer: Sequence[Hash] = found
        return answer

    def chunks(self) -> Iterator[bytes | memoryview]:
        assert self.kind == "fetch"
        return self._taken()


class Line:
    """One connection."""

    def __init__(self, source: HashedFile) -> None:
        self._source = source
        self._requests: queue.Queue[Answer | None] = queue.Queue()
        self._due: list[Answer] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask(self, pieces: Sequence[Piece]) -> Answer:
        self._source.asked += pieces
        return self._request(Answer(self, "ask", list(pieces)))

    def fetch(self, pieces: Sequence[Piece]) -> Answer:
        assert pieces
        self._source.fetched += pieces
        return self._request(Answer(self, "fetch", list(pieces)))

    def _request(self, answer: Answer) -> Answer:
        self._due.append(answer)
        self._source.most_due = max(self._source.most_due, len(self._due))
        self._requests.put(answer)
        return answer

    def take(self, answer: Answer) -> None:
        assert self._due.pop(0) is answer, "an answer was taken before those that come before it"

    def _put(self, answer: Answer, part: Any) -> None:
        while not self._ended.is_set():
            try:
                answer.parts.put(part, timeout=0.1)
                return
            except queue.Full:
                continue

    def _run(self) -> None:
        for answer in iter(self._requests.get, None):
            try:
                if answer.kind == "ask":
                    self._put(answer, self._source.hashes(answer.pieces))
                else:
                    for part in self._source.chunks(answer.pieces):
                        self._put(answer, part)
                self._put(answer, None)
            except BaseException as error:
                self._put(answer, error)

    def close(self) -> None:
        self._ended.set()
        self._requests.put(None)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class HashedFile:
    """Nothing of the store is in it: a host has no more than the disk and a hash."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.size = path.stat().st_size
        self.asked: list[Piece] = []
        self.fetched: list[Piece] = []
        self.most_due = 0
        self.open = 0
        self.lines = 0
        self._guard = threading.Lock()

    def allocated(self) -> Iterator[Piece]:
        return self.data_ranges(0, self.size)

    def data_ranges(self, begin: int, end: int) -> Iterator[Piece]:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            yield from data_extents(handle, begin, end)
        finally:
            os.close(handle)

    def line(self) -> Line:
        return Line(self)

    @contextmanager
    def lane(self) -> Iterator[Any]:
        with self._guard:
            self.open += 1
            self.lines += 1
        line = self.line()
        try:
            yield line
        finally:
            line.close()
            with self._guard:
                self.open -= 1

    def read(self, piece: Piece) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(piece[0])
            return file.read(piece[1])

    def hash(self, piece: Piece) -> Hash:
        data = self.read(piece)
        return hashlib.sha256(data).digest() if data.count(0) != len(data) else None

    def hashes(self, pieces: Sequence[Piece]) -> Sequence[Hash]:
        return [self.hash(piece) for piece in pieces]

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        for piece in pieces:
            yield self.read(piece)

    @property
    def fetched_bytes(self) -> int:
        return sum(length for _offset, length in self.fetched)


def feed(
    store: Store,
    *sources: HashedFile,
    machine: str = "vm-1",
    host: str | None = "esx1",
    group: str | None = None,
    changed: Sequence[Piece] | None = None,
    facts: Mapping[str, Any] | None = None,
    **more: Any,
) -> tuple[Point, backup.Told]:
    """A backup of hashed disks."""
    facts = {**(facts or {}), **{key: value for key, value in (("hypervisor", host), ("group", group)) if value}}
    inputs = [backup.DiskInput(f"scsi0:{n}", source, changed) for n, source in enumerate(sources)]
    more.setdefault("threads", 2)
    made = backup.run(store, machine, f"name of {machine}", inputs, {"a.vmx": b"x"}, facts=facts, **more)
    assert not any(source.open for source in sources)
    return made


class WritingLine(Line):
    """Takes bytes, too: they are under way when `write` returns, and what fails is told by the target's `sync`."""

    def __init__(self, target: HashedTarget) -> None:
        super().__init__(target)
        self._target = target
        self._writes: queue.Queue[tuple[int, bytes] | None] = queue.Queue(8)
        self._writer = threading.Thread(target=self._write_all, daemon=True)
        self._writer.start()

    def write(self, view: memoryview, offset: int, is_theirs: IsTheirs = None) -> None:
        assert not self._due, "it was written before the answers were taken"
        if is_theirs is not None:
            assert is_theirs(hashlib.sha256(view).digest()) and not is_theirs(hashlib.sha256(b"other").digest())
        self._target.under_way(1)
        self._writes.put((offset, bytes(view)))

    def _write_all(self) -> None:
        for offset, data in iter(self._writes.get, None):
            try:
                self._target.write(offset, data)
            except OSError as error:
                self._target.failed = error
            self._target.under_way(-1)

    def close(self) -> None:
        super().close()
        self._writes.put(None)
        self._writer.join(PATIENCE)
        assert not self._writer.is_alive()


class HashedTarget(HashedFile):
    """The other direction: a disk that is written where it lies. It is there, and has its size."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.written: list[Piece] = []
        self.synced = 0
        self.failed: OSError | None = None
        self._way = 0
        self._idle = threading.Condition()

    def under_way(self, count: int) -> None:
        with self._idle:
            self._way += count
            self._idle.notify_all()

    def write(self, offset: int, data: bytes) -> None:
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)
        self.written.append((offset, len(data)))

    def line(self) -> Line:
        return WritingLine(self)

    def sync(self) -> None:
        with self._idle:
            assert self._idle.wait_for(lambda: self._way == 0, PATIENCE)
        self.synced += 1
        if self.failed is not None:
            raise self.failed
