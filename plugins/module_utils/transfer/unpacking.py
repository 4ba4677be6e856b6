# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk of a host that is written out of packs on the same host: no byte of it crosses the wire."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import FileRefused
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotetarget import RemoteTarget, TargetLane
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import Handles, Owed, Starter

Record = tuple[int, int, int, Sequence[int]]
"""Offset of a record in its pack, bytes of what it holds, and before compression; where that goes in the disk."""

# What one request may write: an answer is awaited for a limited time.
UNPACK_BYTES = 16 << 20


class UnpackingTarget(RemoteTarget):
    """`packs`: the path on the host of a pack of the store that lies there, by its name."""

    def __init__(self, starter: Starter, path: str, packs: Callable[[str], str], **options: Any) -> None:
        """`options` are those of a `RemoteTarget`."""
        self.packs = packs
        super().__init__(starter, path, **options)

    def lane(self) -> UnpackingLane:
        lane = UnpackingLane(self, self._new_line(), self._codec, self.throttle, self._clock)
        self._joined(lane)
        return lane


class Unpacked:
    """Records that are on their way into the disk."""

    def __init__(
        self, lane: UnpackingLane, count: int, parts: Sequence[tuple[list[int], Sequence[Record], Any]]
    ) -> None:
        self._lane, self._count, self._parts = lane, count, parts

    def hashes(self) -> list[bytes | None]:
        """SHA-256 of what was written of each record; None where the host could not get it out of the pack: of that
        some places may have been written, with what was in it."""
        found: list[bytes | None] = [None] * self._count
        lost: set[int] = set()
        for numbers, records, owed in self._parts:
            for number, (_offset, _stored, length, places), digest in zip(numbers, records, owed.result()):
                if digest is None or found[number] not in (None, digest):
                    lost.add(number)
                    continue
                found[number] = digest
                self._lane.took(places, length, digest)
            self._lane.sync_if_due()
        for number in lost:
            found[number] = None
        return found


class UnpackingLane(TargetLane):
    """`unpack` beside what every lane of a target has."""

    _target: UnpackingTarget
    _pack: tuple[str, int] | None = None

    def unpack(self, pack: str, records: Sequence[Record]) -> Unpacked:
        """Each record is written to its places. Returns at once."""
        number = self._opened(pack)
        if number is None:
            return Unpacked(self, len(records), [])
        parts: list[tuple[list[int], Sequence[Record], Owed[Any]]] = []
        for numbers, some in _parts(records):
            parts.append((numbers, some, self.line.ask(partial(self._send, number, some))))
        return Unpacked(self, len(records), parts)

    def _send(self, number: int, records: Sequence[Record], link: Any, handles: Handles) -> Any:
        return link.unpack(handles[self._target.number], handles[number], records)

    def _opened(self, pack: str) -> int | None:
        """The number of a pack here; None for one that cannot be opened."""
        if self._pack is not None:
            name, number = self._pack
            if name == pack:
                return number
            self._pack = None
            self.line.shut(number)
        try:
            number, _file = self.line.open(self._target.packs(pack))
        except FileRefused:
            return None
        self._pack = pack, number
        return number

    def took(self, places: Sequence[int], length: int, digest: bytes) -> None:
        """As after a `write`: a host that goes down may lose what it has taken, until the next sync."""
        self._taken += [(place, length, partial(operator.eq, digest)) for place in places]
        self._unsynced += length * len(places)
        self.written_bytes += length * len(places)


def _parts(records: Sequence[Record]) -> Iterator[tuple[list[int], list[Record]]]:
    """Numbers of the records, and records with as many of their places as one request may write."""
    numbers: list[int] = []
    part: list[Record] = []
    size = 0
    for number, (offset, stored, length, places) in enumerate(records):
        most = max(1, UNPACK_BYTES // max(length, 1))
        for begin in range(0, len(places), most):
            some = places[begin : begin + most]
            if part and size + length * len(some) > UNPACK_BYTES:
                yield numbers, part
                numbers, part, size = [], [], 0
            numbers.append(number)
            part.append((offset, stored, length, some))
            size += length * len(some)
    if part:
        yield numbers, part
