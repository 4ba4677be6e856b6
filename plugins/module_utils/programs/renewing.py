# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``dedup``, the way back onto a disk that is there: only the chunks that differ are written.

The host hashes what it has. Before the first byte is written, and only then, ``tear`` is called: from there on the disk
is neither what it was nor what it is to be, until this returns.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Meter
from ansible_collections.stowage.esxi.plugins.module_utils.programs import undedup
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import DiskTask
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.unpacking import opened_target
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import Watch
from ansible_collections.stowage.esxi.plugins.module_utils.store import restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import Asked, Hash, Piece
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.targets import (
    DiskTarget,
    HashedTargetLane,
    IsTheirs,
    LocalLane,
    PackedRecord,
    UnpackingLane,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.keptlinks import KeptLinks


@dataclass(frozen=True)
class DiskRenewed:
    """``compared_bytes`` were hashed on the host; ``same_bytes`` of the disk were right already, holes included."""

    compared_bytes: int
    same_bytes: int
    written_bytes: int
    fetched_bytes: int
    seconds: float
    verified: str
    method: str
    sent_bytes: int


class _Renewed:
    """A target that counts what is compared and written, and says when the first byte is to be written."""

    def __init__(self, target: DiskTarget, check: Callable[[], None], tear: Callable[[], None]) -> None:
        self.path, self.size = target.path, target.size
        self.compared = self.written = 0
        self.check = check
        self._target, self._tear = target, tear
        self._guard, self._begun, self._torn = threading.Lock(), threading.Lock(), False

    def begin(self) -> None:
        if not self._torn:
            with self._begun:
                if not self._torn:
                    self._tear()
                    self._torn = True

    def count(self, compared: int = 0, written: int = 0) -> None:
        with self._guard:
            self.compared += compared
            self.written += written

    @contextlib.contextmanager
    def lane(self) -> Iterator[_Lane]:
        with self._target.lane() as lane:
            if isinstance(lane, LocalLane):
                raise TypeError("a disk of this machine is no disk of a hypervisor")
            yield _UnpackingLane(self, lane) if hasattr(lane, "unpack") else _Lane(self, lane)

    def data_ranges(self, begin: int, end: int) -> Iterator[Piece]:
        return self._target.data_ranges(begin, end)

    def sync(self) -> None:
        self._target.sync()


class _Lane:
    def __init__(self, disk: _Renewed, lane: HashedTargetLane) -> None:
        self._disk, self._lane = disk, lane

    def write(self, view: memoryview, offset: int, is_theirs: IsTheirs = None) -> None:
        self._disk.check()
        self._disk.begin()
        self._lane.write(view, offset, is_theirs)
        self._disk.count(written=len(view))

    def ask(self, pieces: Sequence[Piece]) -> Asked:
        self._disk.check()
        return _Asked(self._disk, self._lane.ask(pieces), sum(length for _offset, length in pieces))


class _UnpackingLane(_Lane):
    """Of a hypervisor on which the store lies, too."""

    _lane: UnpackingLane

    def unpack(self, pack: str, records: Sequence[PackedRecord]) -> Asked:
        self._disk.check()
        self._disk.begin()
        return _Unpacked(self._disk, self._lane.unpack(pack, records), records)


class _Unpacked:
    def __init__(self, disk: _Renewed, asked: Asked, records: Sequence[PackedRecord]) -> None:
        self._disk, self._asked, self._records = disk, asked, records

    def hashes(self) -> Sequence[Hash]:
        found = self._asked.hashes()
        taken = (one.length * len(one.places) for one, digest in zip(self._records, found) if digest is not None)
        self._disk.count(written=sum(taken))
        return found


class _Asked:
    def __init__(self, disk: _Renewed, asked: Asked, count: int) -> None:
        self._disk, self._asked, self._count = disk, asked, count

    def hashes(self) -> Sequence[Hash]:
        found = self._asked.hashes()
        self._disk.count(compared=self._count)
        return found


def renew(
    store: Store, disk: DiskMap, task: DiskTask, verify: str, reach: Reach, tear: Callable[[], None]
) -> DiskRenewed:
    """Makes the disk that is at the task's target equal to a disk of a restore point; ``task.flat`` is its extent,
    ``task.bytes_to_read`` what that occupies now."""
    began = reach.clock.monotonic()
    meter = Meter("restore in place", task.key, None, reach.clock)
    verified = ""
    with (
        reach.starter(writes=True) as host,
        KeptLinks(host, reach.connections + 1) as starter,
        opened_target(starter, task.flat, store, reach) as target,
    ):
        count = [0]

        def look() -> None:
            reach.alive()
            # What is to be written is known when all has been compared.
            done = renewed.compared + renewed.written
            meter.total_bytes = max(done, task.bytes_to_read)
            reach.progress(meter.at(done))

        def torn() -> None:
            with watch.at_rest():
                tear()

        watch = Watch(
            f"The restore in place of {task.target} on {reach.host.name}",
            lambda: renewed.compared + renewed.written + count[0],
            look,
            lambda: undedup.cut(target),
            reach.stall_seconds,
            reach.clock,
            minimum_rate=reach.minimum_rate,
        )
        renewed = _Renewed(target, watch.check, torn)
        with watch:
            told = restore.to_target(store, disk, renewed, in_place=True, threads=reach.connections)
            if verify != "none":
                verified = undedup.compared(reach.host.name, store, disk, target, verify == "full", watch, count)
    return DiskRenewed(
        compared_bytes=renewed.compared,
        same_bytes=told.same,
        written_bytes=told.written,
        fetched_bytes=told.fetched,
        seconds=round(max(reach.clock.monotonic() - began, 0.001), 3),
        verified=verified or "not compared: verify is none",
        method=host.way.method,
        sent_bytes=told.written - told.unpacked,
    )
