# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers that an agent owes. `link.AgentLink` reads them from its pipe, in the order of the requests."""

from __future__ import annotations

import collections
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Callable, Generic, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import TransferError

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink

T = TypeVar("T")
_NOTHING = agent.NOTHING


class Pending(Generic[T]):
    """An answer that is owed. ``result()`` waits for it, and raises what came instead."""

    _kind = agent.DONE

    def __init__(self, link: AgentLink, what: str, done: str, parse: Callable[[bytes], T], limit: int) -> None:
        self._link = link
        self.what = what
        self.done_word = done
        self.limit = limit
        self.patience: float | None = None
        self.sent = 0
        self.number = 0
        self.failed: Callable[[], None] = lambda: None
        self._parse = parse
        self._value: T | None = None
        self._error: TransferError | None = None
        self.complete = False

    def result(self) -> T:
        self._link.settle(lambda: self.complete)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def take(self, flags: int, length: int) -> None:
        """Called by the link: the next frame is this one's, and its body of ``length`` bytes is still to be read."""
        body = self._link.body(length)
        try:
            self._value = self._parse(body)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, struct.error) as error:
            raise self._link.lie(f"the answer about {self.what} cannot be understood ({error})") from error
        self.complete = True

    def fail(self, error: TransferError) -> None:
        self._error = error
        self.complete = True
        self.failed()


class Fetched(Pending[None]):
    """Bytes that were asked for, piece by piece."""

    _kind = agent.DATA

    def __init__(self, link: AgentLink, what: str, lengths: Sequence[int]) -> None:
        super().__init__(link, what, "read", lambda body: None, agent.STEP)
        self._lengths = tuple(lengths)
        self._steps = collections.deque(
            min(agent.STEP, length - place) for length in lengths for place in range(0, length, agent.STEP)
        )
        self._kept: collections.deque[bytes | None] = collections.deque()
        self._target: memoryview | None = None
        self._dropped = False

    def chunks(self, buffer: bytearray | None = None) -> Iterator[memoryview]:
        """The pieces in order, once. Each view is good until the next one is asked for."""
        whole = memoryview(buffer if buffer is not None else bytearray(max(self._lengths)))
        for length in self._lengths:
            self.into(whole[:length])
            yield whole[:length]

    def into(self, view: memoryview) -> None:
        """The next piece, straight into ``view``, which is as long as it."""
        for place in range(0, len(view), agent.STEP):
            self._step(view[place : place + agent.STEP])

    def drop(self) -> None:
        """Nobody wants the rest any more: it is read out of the way, and not kept."""
        self._dropped = True
        self._link.kept_bytes -= sum(len(step) for step in self._kept if step)
        self._kept.clear()

    def _step(self, view: memoryview) -> None:
        with self._link.turn:
            if not self._kept:
                self._target = view
                try:
                    self._link.settle(lambda: self._target is None or self._error is not None)
                finally:
                    self._target = None
                if self._error is not None:
                    raise self._error
                return
            step = self._kept.popleft()
            if step is None:
                view[:] = _NOTHING[: len(view)]
            else:
                self._link.kept_bytes -= len(step)
                view[:] = step

    def take(self, flags: int, length: int) -> None:
        link = self._link
        size = self._steps[0]
        right = {0: length == size, agent.ZEROS: length == 0, agent.ZLIB: agent.PACKED_HEAD.size < length < size}
        if not right.get(flags, False):
            raise link.lie(f"{length} bytes packed as {flags} came for {size} bytes of {self.what}")
        target = None if self._kept or self._dropped else self._target
        data: bytes | None = None
        if flags == 0 and target is not None:
            link.exactly(target)
        elif flags == 0:
            data = link.body(length)
        elif flags == agent.ZLIB:
            body = link.body(length)
            link.packing_seconds += agent.PACKED_HEAD.unpack_from(body)[0] / 1e6
            link.packed_bytes += size
            data = self._unpacked(memoryview(body)[agent.PACKED_HEAD.size :], size)
        elif target is not None:
            target[:] = _NOTHING[:size]
        if target is not None:
            if data is not None:
                target[:] = data
            self._target = None
        elif not self._dropped:
            link.keep(len(data or b""), self.what)
            self._kept.append(data)
        self._steps.popleft()
        self.complete = not self._steps

    def _unpacked(self, body: memoryview, size: int) -> bytes:
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(body, size + 1)
        except zlib.error as error:
            raise self._link.lie(f"what came for {self.what} cannot be unpacked ({error})") from error
        if len(data) != size or not unpacker.eof or unpacker.unused_data:
            raise self._link.lie(f"what came for {self.what} unpacks to another length than {size}")
        return data


class Joined(Generic[T]):
    """Several answers as one: requests have a limit to their length, what is asked for has none."""

    def __init__(self, parts: Sequence[Pending[list[T]]]) -> None:
        self._parts = parts

    def result(self) -> list[T]:
        return [value for part in self._parts for value in part.result()]


class JoinedFetch:
    """Several fetches as one."""

    def __init__(self, parts: Sequence[Fetched], longest: int) -> None:
        self._parts = parts
        self._longest = longest

    def chunks(self, buffer: bytearray | None = None) -> Iterator[memoryview]:
        """The pieces in order, once. Each view is good until the next one is asked for."""
        buffer = buffer if buffer is not None else bytearray(self._longest)
        for part in self._parts:
            yield from part.chunks(buffer)

    def drop(self) -> None:
        """Nobody wants the rest any more."""
        for part in self._parts:
            part.drop()


class ReadPiece(Pending[bytes]):
    """One fetched piece as bytes of its own."""

    def __init__(self, fetched: Fetched, length: int) -> None:  # pylint: disable=super-init-not-called
        self._fetched = fetched
        self._length = length
        self._bytes: bytes | None = None

    def result(self) -> bytes:
        if self._bytes is None:
            whole = bytearray(self._length)
            self._fetched.into(memoryview(whole))
            self._bytes = bytes(whole)
        return self._bytes
