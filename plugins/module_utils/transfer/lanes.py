# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lane of a disk of a host: what is asked for goes out at once, what comes back comes in order."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.codec import CodecChoice
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.packing import Keeping, PackFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import (
    Handles,
    Line,
    Owed,
    OwedBytes,
    Place,
    ended,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.throttle import Throttle

Range = tuple[int, int]
HASH_BYTES = 32 << 20
KEEP_BYTES = 16 << 20
FETCH_BYTES = 4 << 20
# So many requests are out at once where a limit holds the rest back, or where it is not known yet how to send them.
_AHEAD = 2
_TRIAL_BYTES = 1 << 20
_NOTHING = bytes(1 << 20)


class Placed(Protocol):
    """A disk whose bytes lie in files that every link of it has open."""

    def segments(self, offset: int, length: int) -> list[Place]:
        """Where a range lies, in order."""

    def nothing(self, offset: int, length: int) -> bool:
        """Whether all of it is known to be zeros."""


class Asked:
    """Hashes that are on their way."""

    def __init__(self, count: int, parts: Sequence[tuple[list[int], Owed[list[bytes | None]]]]) -> None:
        self._count = count
        self._parts = parts

    def hashes(self) -> list[bytes | None]:
        """SHA-256 of each piece; None for zeros."""
        found: list[bytes | None] = [None] * self._count
        for places, owed in self._parts:
            for place, digest in zip(places, owed.result()):
                found[place] = digest
        return found


class Fetched:
    """Bytes that are on their way."""

    def __init__(self, lane: Lane, pieces: Sequence[Range]) -> None:
        self._lane = lane
        self._pieces = tuple(pieces)
        self._real = [not lane.disk.nothing(*piece) for piece in pieces]
        self._waiting = collections.deque(lane.parts(self._pieces, self._real))
        self._sent: collections.deque[_Part] = collections.deque()
        if not lane.limited and lane.codec.settled:
            self._send(len(self._waiting))

    def _send(self, count: int) -> None:
        while self._waiting and len(self._sent) < count:
            part = self._waiting.popleft()
            part.send()
            self._sent.append(part)

    def chunks(self) -> Iterator[memoryview]:
        """The pieces in order, once. Each view is good until the next one is asked for."""
        arriving: Iterator[memoryview] = iter(())
        for (_offset, length), real in zip(self._pieces, self._real):
            if not real:
                yield memoryview(_NOTHING if length <= len(_NOTHING) else bytes(length))[:length]
                continue
            view = next(arriving, None)
            if view is None:
                held = self._lane.limited or not self._lane.codec.settled
                self._send(_AHEAD if held else len(self._waiting) + len(self._sent))
                arriving = self._sent.popleft().chunks()
                view = next(arriving, None)
            if view is None:
                raise RuntimeError("fewer pieces came than were asked for")
            yield view
        # Its end is measured, too.
        next(arriving, None)

    def drop(self) -> None:
        """Nobody wants the rest any more."""
        self._waiting.clear()
        while self._sent:
            self._sent.popleft().drop()


class _Part:
    """One request for some of the pieces."""

    def __init__(self, lane: Lane, pieces: Sequence[Range]) -> None:
        self._lane = lane
        self._pieces = pieces
        self._bytes = sum(length for _offset, length in pieces)
        self._owed: OwedBytes | None = None
        self._level = 0
        self._charged = 0.0

    def send(self) -> None:
        lane = self._lane
        self._level = lane.codec.level(self._bytes)
        lane.throttle.wait()
        self._charged = self._bytes * lane.codec.ratio(self._level)
        lane.throttle.charge(self._charged)
        self._owed = OwedBytes(lane.line, len(self._pieces), self._request)

    def _request(self, link: Any, handles: Handles, done: int) -> Any:
        return link.fetch(self._lane.placed(self._pieces[done:], handles), level=self._level)

    def chunks(self) -> Iterator[memoryview]:
        lane, clock = self._lane, self._lane.clock
        if self._owed is None:
            raise ValueError("send comes first")
        link, before, waited, began = lane.line.link, lane.told(), 0.0, clock.monotonic()
        for view in self._owed.chunks():
            waited += clock.monotonic() - began
            yield view
            began = clock.monotonic()
        # Where another connection has taken its place, nothing was measured.
        after = lane.told() if lane.line.link is link else before
        carried = after[0] - before[0]
        packing, packed, arrived, arriving = (now - then for now, then in zip(after[1:], before[1:]))
        # Steps that did not pack took as long, and tell nothing of it.
        whole = packing * self._bytes / packed if packed else None
        lane.throttle.charge(carried - self._charged)
        lane.codec.told(self._level, self._bytes, carried, waited, whole, int(arrived), arriving)
        lane.fetched_bytes += self._bytes
        lane.carried_bytes += carried

    def drop(self) -> None:
        if self._owed is not None:
            self._owed.drop()


class Lane:
    """For one thread."""

    def __init__(
        self, disk: Placed, line: Line, codec: CodecChoice, throttle: Throttle, clock: Clock | None = None
    ) -> None:
        self.disk, self.line, self.throttle = disk, line, throttle
        self.clock: Clock = clock or SystemClock()
        self.codec = codec
        self.fetched_bytes = 0
        self.carried_bytes = 0

    def ask(self, pieces: Sequence[Range]) -> Asked:
        """(offset, length) of each piece, to be hashed on the host. Returns at once."""
        real = [not self.disk.nothing(*piece) for piece in pieces]
        places = iter([place for place, there in enumerate(real) if there])
        parts: list[tuple[list[int], Owed[list[bytes | None]]]] = []
        for some in _split(pieces, real, HASH_BYTES):
            parts.append(([next(places) for _piece in some], self.line.ask(self._hash(some))))
        return Asked(len(pieces), parts)

    def _hash(self, pieces: Sequence[Range]) -> Any:
        return lambda link, handles: link.hash(self.placed(pieces, handles))

    def fetch(self, pieces: Sequence[Range]) -> Fetched:
        """The bytes of each piece. Returns at once; where a limit holds, most is asked for when its turn comes."""
        return Fetched(self, pieces)

    def keep(self, pieces: Sequence[Range], pack: PackFile, level: int) -> Keeping:
        """Each piece becomes a record at the end of a pack on the same host. Returns at once."""
        if pack.host != self.line.host:
            raise ValueError(f"{pack.path} is a file of {pack.host}, and the disk one of {self.line.host}")
        parts = _split(pieces, [True] * len(pieces), KEEP_BYTES)
        return Keeping(self.line, pack, [(partial(self.placed, some), level) for some in parts])

    def done(self, pack: PackFile) -> None:
        """No more comes for it from here."""
        pack.shut(self.line)

    # -- used by what was asked ----------------------------------------------------------------------------------

    @property
    def limited(self) -> bool:
        return self.throttle.limit > 0

    def told(self) -> tuple[int, float, int, int, float]:
        """Of the link so far: bytes that came, seconds of packing there and of how many bytes before that, bytes that
        were waited for, and how long."""
        link = self.line.link
        more = (
            getattr(link, name, 0) for name in ("packing_seconds", "packed_bytes", "arrived_bytes", "arriving_seconds")
        )
        return (link.received_bytes, *more)

    def parts(self, pieces: Sequence[Range], real: Sequence[bool]) -> list[_Part]:
        most = FETCH_BYTES if self.codec.settled else _TRIAL_BYTES
        if self.limited:
            most = max(1, min(most, self.throttle.limit // 4))
        return [_Part(self, some) for some in _split(pieces, real, most)]

    def placed(self, pieces: Sequence[Range], handles: Handles) -> list[list[tuple[Any, int, int]]]:
        """The pieces as segments of the files of a link."""
        return [
            [
                (handles[number] if number >= 0 else None, place, size)
                for number, place, size in self.disk.segments(*piece)
            ]
            for piece in pieces
        ]

    def close(self) -> None:
        self.line.close()

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        ended(self.close, error)


def _split(pieces: Sequence[Range], real: Sequence[bool], most: int) -> Iterator[list[Range]]:
    """The pieces that are not nothing, in parts of about so many bytes."""
    part: list[Range] = []
    size = 0
    for piece, there in zip(pieces, real):
        if not there:
            continue
        if part and size + piece[1] > most:
            yield part
            part, size = [], 0
        part.append(piece)
        size += piece[1]
    if part:
        yield part
