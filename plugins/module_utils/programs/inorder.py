# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk of a hypervisor, read from its begin to its end over several connections."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from concurrent import futures
from queue import SimpleQueue

from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.lanes import Lane
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import RemoteDisk

#: A slot with anything in it is read whole.
SLOT_BYTES = 1 << 20
SAMPLE = 64
_GROUP = 4
# Groups that are under way or wait to be taken, for each connection.
_AHEAD = 3

Range = tuple[int, int]


def ranges_of(disk: RemoteDisk) -> tuple[Range, ...]:
    """(offset, length) of the slots with anything in them, ascending, neighbours as one."""
    found: list[list[int]] = []
    for offset, length in disk.allocated():
        begin = offset // SLOT_BYTES * SLOT_BYTES
        end = min(disk.size, -(-(offset + length) // SLOT_BYTES) * SLOT_BYTES)
        if found and begin <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([begin, end])
    return tuple((begin, end - begin) for begin, end in found)


class InOrder:
    """`verify` tells of which slots the host is asked for the hash once they have come; `check` may raise."""

    def __init__(self, host: str, disk: RemoteDisk, connections: int, verify: str, check: Callable[[], None]) -> None:
        self._host, self._disk, self._connections, self._check = host, disk, connections, check
        self.size = disk.size
        self.ranges = ranges_of(disk)
        self.held_bytes = sum(length for _offset, length in self.ranges)
        self.done = 0
        self.compared = 0
        self.digest = hashlib.sha256()
        """Of all bytes of the ranges, in their order."""
        count = sum(-(-length // SLOT_BYTES) for _offset, length in self.ranges)
        self._all = verify == "full"
        self._chosen = _chosen(count) if verify == "sample" else frozenset()

    @property
    def verified(self) -> str:
        if not self._all and not self._chosen:
            return "not compared: verify is none" if self.ranges else "it holds nothing"
        return f"{'all' if self._all else 'sample of'} {self.compared} pieces of 1 MiB, by their SHA-256 on the host"

    def slots(self) -> Iterator[Range]:
        for offset, length in self.ranges:
            for begin in range(offset, offset + length, SLOT_BYTES):
                yield begin, min(SLOT_BYTES, offset + length - begin)

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the ranges, in their order."""
        with contextlib.ExitStack() as stack:
            lanes: SimpleQueue[Lane] = SimpleQueue()
            for _lane in range(self._connections):
                lanes.put(stack.enter_context(self._disk.lane()))
            pool = stack.enter_context(futures.ThreadPoolExecutor(self._connections, thread_name_prefix="read"))
            coming: collections.deque[futures.Future[tuple[list[bytes], int]]] = collections.deque()
            groups = self._groups()
            try:
                while True:
                    for number, group in groups:
                        coming.append(pool.submit(self._group, lanes, number, group))
                        if len(coming) >= self._connections * _AHEAD:
                            break
                    if not coming:
                        return
                    pieces, compared = coming.popleft().result()
                    self.compared += compared
                    for piece in pieces:
                        self._check()
                        self.digest.update(piece)
                        yield piece
                        self.done += len(piece)
            finally:
                for one in coming:
                    one.cancel()

    def _groups(self) -> Iterator[tuple[int, list[Range]]]:
        group: list[Range] = []
        number = 0
        for slot in self.slots():
            group.append(slot)
            if len(group) == _GROUP:
                yield number, group
                number, group = number + _GROUP, []
        if group:
            yield number, group

    def _group(self, lanes: SimpleQueue[Lane], number: int, group: list[Range]) -> tuple[list[bytes], int]:
        self._check()
        lane = lanes.get()
        try:
            pieces = [bytes(view) for view in lane.fetch(group).chunks()]
            wanted = [at for at in range(len(group)) if self._all or number + at in self._chosen]
            hashes = lane.ask([group[at] for at in wanted]).hashes() if wanted else []
        finally:
            lanes.put(lane)
        for at, digest in zip(wanted, hashes):
            there = digest if digest is not None else hashlib.sha256(bytes(group[at][1])).digest()
            if hashlib.sha256(pieces[at]).digest() != there:
                offset, length = group[at]
                raise errors.CopyDiffers(
                    host=self._host,
                    source=self._disk.path,
                    target="what has come here",
                    reason=f"the {length} bytes at {offset} are others on the host by now",
                )
        return pieces, len(wanted)


def _chosen(count: int) -> frozenset[int]:
    """Head and tail, and one of each of so many equal stretches."""
    if count <= SAMPLE:
        return frozenset(range(count))
    step = count / SAMPLE
    return frozenset({0, count - 1} | {int(number * step + random.random() * step) for number in range(SAMPLE)})
