# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk of a host that is written: the flat extent of one that the host itself has made."""

from __future__ import annotations

import collections
import hashlib
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.codec import CodecChoice
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.diskerrors import WritesLost
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.hostfiles import HostFile, HostFiles
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.lanes import Lane, Placed
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import VOLUMES
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import (
    Files,
    Handles,
    Line,
    Owed,
    Place,
    Starter,
    ended,
    together,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.throttle import Throttle
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import unusable

# On the way in one lane.
WINDOW_BYTES = 8 << 20
# What a host that lost its power may have lost although it had it: so much of each lane is looked at again.
SYNC_BYTES = 256 << 20
_MOST_AGAIN = 5
_NOTHING = bytes(1 << 20)


class RemoteTarget(Placed):
    """An open flat extent. What is written to one that was made new is thin where nothing is written.

    Serves several threads; each lane serves one.
    """

    def __init__(
        self,
        starter: Starter,
        path: str,
        *,
        roots: Sequence[str] = VOLUMES,
        bandwidth_limit: int = 0,
        level: int | None = None,
        durable: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """`durable`: a write returns when its bytes have arrived and will outlive a power cut of the host."""
        self.path, self.durable = path, durable
        self._starter, self._clock = starter, clock
        self._opened = Files()
        self._lanes: list[TargetLane] = []
        self._guard = threading.Lock()
        self.throttle = Throttle(bandwidth_limit, clock)
        self._codec = CodecChoice(starter.packs, level, bandwidth_limit)
        self._line = Line(starter, self._opened, clock)
        try:
            files = HostFiles(self._line, path, roots)
            try:
                self._file: HostFile = files.take(path, writable=True)
            except OSError as error:
                raise unusable(path, error) from error
        except BaseException as error:
            ended(self._line.close, error)
            raise
        self.size, self.number = self._file.size, self._file.number

    def segments(self, offset: int, length: int) -> list[Place]:
        return [(self.number, offset, length)]

    def nothing(self, offset: int, length: int) -> bool:
        return False

    def data_ranges(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of what was not known to be zeros when it was opened, ascending, without overlap."""
        for first, last in self._file.data_ranges(begin, end):
            yield first, last - first

    def lane(self) -> TargetLane:
        """A connection of its own, to be closed (`with`)."""
        lane = TargetLane(self, self._new_line(), self._codec, self.throttle, self._clock)
        self._joined(lane)
        return lane

    def _new_line(self) -> Line:
        return Line(self._starter, self._opened, self._clock, patient=True)

    def _joined(self, lane: TargetLane) -> None:
        with self._guard:
            self._lanes.append(lane)

    def sync(self) -> None:
        """All that the lanes were given is durable when this returns; what of it has failed is raised."""
        with self._guard:
            lanes = tuple(self._lanes)
        for lane in lanes:
            lane.sync()

    def close(self) -> None:
        """Returns when nothing of ours holds the file open any more, or raises why that is not so."""
        with self._guard:
            lines = [*(lane.line for lane in self._lanes), self._line]
        together([line.close for line in lines])

    def __enter__(self) -> RemoteTarget:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        ended(self.close, error)


class TargetLane(Lane):
    """`ask` as of a disk that is read; `write` returns when the bytes are on their way."""

    def __init__(
        self, target: RemoteTarget, line: Line, codec: CodecChoice, throttle: Throttle, clock: Clock | None = None
    ) -> None:
        super().__init__(target, line, codec, throttle, clock)
        self._target = target
        self._way: collections.deque[tuple[Owed[None], int, int, int, float]] = collections.deque()
        self._way_bytes = 0
        self._turn = line.turn
        # Since the last sync: place, length and how to tell the SHA-256 of what the host has taken.
        self._taken: list[tuple[int, int, Callable[[bytes], bool]]] = []
        self._unsynced = 0
        self.written_bytes = 0

    def __enter__(self) -> TargetLane:
        return self

    def write(self, view: memoryview, offset: int, is_theirs: Callable[[bytes], bool] | None = None) -> None:
        """`is_theirs` tells whether a SHA-256 is that of the view, which need not be hashed then."""
        # What nobody can change may be sent again later as it is.
        whole = view.obj
        data = whole if isinstance(whole, bytes) and len(whole) == len(view) else bytes(view)
        length = len(data)
        blank = length <= len(_NOTHING) and data == _NOTHING[:length]
        level = 0 if blank else self.codec.level(length)
        if not blank:
            self.throttle.wait()
            self.throttle.charge(length)
        began = self.clock.monotonic()

        def send(link: Any, handles: Handles) -> Any:
            file = handles[self._target.number]
            return link.write_zeros(file, offset, length) if blank else link.write(file, offset, data, level=level)

        owed: Owed[None] = self.line.ask(send)
        self._taken.append((offset, length, is_theirs or partial(operator.eq, hashlib.sha256(data).digest())))
        self._way.append((owed, level, 0 if blank else length, length, self.clock.monotonic() - began))
        self._way_bytes += length
        self._unsynced += length
        self.written_bytes += length
        while self._way_bytes > WINDOW_BYTES:
            self._settle()
        self.sync_if_due()

    def sync_if_due(self) -> None:
        if self._target.durable or self._unsynced >= SYNC_BYTES:
            self.sync()

    def _settle(self) -> None:
        """Waits for the oldest."""
        owed, level, sent, length, seconds = self._way.popleft()
        began = self.clock.monotonic()
        owed.result()
        self._way_bytes -= length
        self.codec.told(level, sent, sent, seconds + self.clock.monotonic() - began)

    def sync(self) -> None:
        while self._way:
            self._settle()
        if not self._taken:
            return
        for _again in range(_MOST_AGAIN):
            turn = self.line.turn
            if turn != self._turn:
                # A link that was lost may have been a host that went down, with what it had taken and not yet written.
                self._look_again()
            self.line.ask(lambda link, handles: link.sync(handles[self._target.number])).result()
            self._turn = turn
            if self.line.turn == turn:
                break
        else:
            raise WritesLost(host=self.line.host, path=self._target.path, offset=self._taken[0][0])
        self._taken.clear()
        self._unsynced = 0

    def _look_again(self) -> None:
        found = self.ask([(offset, length) for offset, length, _is_theirs in self._taken]).hashes()
        for (offset, length, is_theirs), there in zip(self._taken, found):
            if not is_theirs(there or hashlib.sha256(bytes(length)).digest()):
                raise WritesLost(host=self.line.host, path=self._target.path, offset=offset)
