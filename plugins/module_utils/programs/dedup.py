# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``dedup``: joins the reading of a hypervisor's disks with the store that they go into.

When it proves that the source held still, returns, or raises, no process of ours on the hypervisor holds a disk open
any more, or it says which does. It raises only where there is no restore point.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Meter, Progress
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors, hints
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hints import Hint, Hints
from ansible_collections.stowage.esxi.plugins.module_utils.programs.ladder import Ladder, Reading
from ansible_collections.stowage.esxi.plugins.module_utils.programs.metered import Metered
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import Watch
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, keepchunks
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.keptlinks import KeptLinks
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import Way
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import RemoteDisk

_HASHED = "every chunk by its SHA-256, as hashed on the host; {again}"
_HINTED = (
    "every chunk written since the reference snapshot by its SHA-256, as hashed on the host; {again}; the others are "
    "those of the restore point before"
)
#: Where what is new is hashed a second time.
HERE = "each that came was hashed again here"
THERE = "each that is new was hashed again when it was packed there"
VERIFIED = _HASHED.format(again=HERE)
OF_CLONE = "of a clone that the host has made, {verified}. The clone and its source: {proof}"


@dataclass(frozen=True)
class Feeding:
    """What goes into a store as one restore point. ``before_commit`` is given the point's id and what came of each
    disk; it raises what speaks against the point, or returns what is added to its facts."""

    machine_id: str
    machine_name: str
    sources: Sequence[Source]
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]
    before_commit: Callable[[str, Sequence[DiskFed]], Mapping[str, Any]]
    parent: Point | None = None
    scope: str = "host"
    hints: Hints = field(default_factory=Hints)


@dataclass(frozen=True)
class DiskFed:
    """What came of one disk."""

    key: str
    read_bytes: int
    sent_bytes: int
    seconds: float
    method: str
    notes: tuple[str, ...] = ()
    verified: str = VERIFIED
    hint: str = hints.NONE

    @property
    def rate(self) -> int:
        return int(self.read_bytes / max(self.seconds, 0.001))


@dataclass(frozen=True)
class Fed:
    """`left`: what could not be put away on the hypervisor when all was read."""

    point: Point
    disks: tuple[DiskFed, ...]
    told: Mapping[str, int]
    left: str = ""


@dataclass(frozen=True)
class OpenDisk:
    """A disk that is being read, and how."""

    source: Source
    disk: RemoteDisk
    reading: Reading
    way: Way
    hint: Hint = field(default_factory=Hint)
    chunk_bytes: int = 0

    @property
    def method(self) -> str:
        return "clone" if self.reading.way == "clone" else self.way.method

    def verified(self, again: str) -> str:
        """Of a clone no more is proven than of the clone; of what a hint spares, the point before it."""
        proof = (_HINTED if self.hint.outcome == hints.HINTED else _HASHED).format(again=again)
        return OF_CLONE.format(verified=proof, proof=self.reading.proof) if self.reading.proof else proof

    @property
    def notes(self) -> tuple[str, ...]:
        found = []
        if self.reading.way == "clone":
            found.append(f"read from a clone on {self.reading.datastore}: {self.reading.reason}")
        if self.way.method == "shell":
            found.append(f"slower than it could be: {self.way.describe()}")
        if self.disk.renewals:
            found.append(f"{self.disk.renewals} connections were lost and made again")
        return (*found, *filter(None, [self.hint.note(self.chunk_bytes)]))

    @property
    def to_read(self) -> int:
        most = self.hint.bytes
        return self.source.bytes_to_read if most is None else min(most, self.source.bytes_to_read)


class _Disks:
    """The disks of one feeding, and how far they are."""

    def __init__(self, reach: Reach, opened: Sequence[OpenDisk]) -> None:
        self._reach = reach
        self._opened = opened
        self._clock = reach.clock
        self._meters = {one.source.key: Meter("copy", one.source.key, one.to_read, reach.clock) for one in opened}
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self.metered = [Metered(one.source.key, one.disk, self.check) for one in opened]
        self.watch = Watch(
            f"The copy of {', '.join(one.source.path for one in opened)} on {reach.host.name}",
            lambda: sum(disk.read + disk.sent + disk.kept for disk in self.metered),
            self._look,
            self.cut,
            reach.stall_seconds,
            reach.clock,
            minimum_rate=reach.minimum_rate,
        )

    def check(self) -> None:
        self.watch.check()

    def _look(self) -> None:
        self._reach.alive()
        self.show()

    def show(self) -> None:
        """The disk that was begun last; each that is left behind was read to its end."""
        now, begun = self._clock.monotonic(), [disk for disk in self.metered if disk.read]
        for number, disk in enumerate(begun):
            self._began.setdefault(disk.key, now)
            if number + 1 < len(begun):
                self._end(disk, now)
        if begun and begun[-1].key not in self._ended:
            self._reach.progress(self._at(begun[-1]))

    def _end(self, disk: Metered, now: float) -> None:
        if disk.key not in self._ended:
            self._ended[disk.key] = now
            self._reach.progress(self._at(disk, ended=True))

    def _at(self, disk: Metered, ended: bool = False) -> Progress:
        """Whole chunks are read: of a disk with little in it that is more than what its extents occupy."""
        meter = self._meters[disk.key]
        meter.total_bytes = disk.read if ended else max(disk.read, meter.total_bytes or 0)
        return meter.at(disk.read)

    def finish(self, began: float, again: str) -> tuple[DiskFed, ...]:
        now = self._clock.monotonic()
        for disk in self.metered:
            self._end(disk, now)
        return tuple(
            DiskFed(
                disk.key,
                disk.read,
                disk.sent,
                round(self._ended[disk.key] - self._began.get(disk.key, began), 3),
                one.method,
                one.notes,
                one.verified(again),
                one.hint.outcome,
            )
            for one, disk in zip(self._opened, self.metered)
        )

    def cut(self) -> None:
        """Ends every connection, so that threads that wait for an answer wait no longer."""
        for one in self._opened:
            with contextlib.suppress(Exception):
                one.disk.close()


def feed(store: Store, feeding: Feeding, reach: Reach) -> Fed:
    """One restore point from the disks of a hypervisor."""
    left = ""
    with contextlib.ExitStack() as reading:
        opened = reading.enter_context(opened_disks(feeding.sources, reach))
        must_fit(opened, feeding.machine_name, reach)

        def all_read() -> None:
            nonlocal left
            try:
                reading.close()
            except StowageError as error:
                # All bytes are in the store. What stays on the hypervisor is journalled, and the undoing of the job
                # ends it.
                left = error.message
            reach.all_read()

        try:
            point, told, disks = _fed(store, feeding, reach, opened, all_read)
        except StowageError as error:
            if left:
                error.data.setdefault("left", left)
            raise
    return Fed(point, disks, {name: int(value) for name, value in vars(told).items()}, left)


def _fed(
    store: Store, feeding: Feeding, reach: Reach, opened: Sequence[OpenDisk], all_read: Callable[[], None]
) -> tuple[Point, backup.Told, tuple[DiskFed, ...]]:
    began = reach.clock.monotonic()
    opened = _hinted(opened, feeding, store.chunk_bytes, reach)
    disks = _Disks(reach, opened)
    fed: tuple[DiskFed, ...] = ()

    def before_commit(point: str) -> Mapping[str, Any]:
        nonlocal fed
        with disks.watch.at_rest():
            fed = disks.finish(began, THERE if keepchunks.possible(store) else HERE)
            all_read()
            facts = feeding.before_commit(point, fed)
        # What becomes of the host from here on cannot unmake a restore point that is proven.
        disks.watch.decided()
        return facts

    with disks.watch:
        point, told = backup.run(
            store,
            feeding.machine_id,
            feeding.machine_name,
            [
                backup.DiskInput(disk.key, disk, one.hint.areas, proof=one.hint.proof)
                for one, disk in zip(opened, disks.metered)
            ],
            feeding.files,
            parent=feeding.parent,
            facts=feeding.facts,
            threads=reach.connections,
            stepwise=reach.stepwise,
            scope=feeding.scope,
            before_commit=before_commit,
        )
    return point, told, fed


def _hinted(opened: Sequence[OpenDisk], feeding: Feeding, chunk_bytes: int, reach: Reach) -> list[OpenDisk]:
    """With what is told of each disk. The tables of a large delta take their time, and the lease has to be kept."""

    def cut() -> None:
        for one in opened:
            with contextlib.suppress(Exception):
                one.disk.close()

    def told(one: OpenDisk) -> OpenDisk:
        cloned = one.reading.way == "clone"
        found = hints.of(one.disk, one.source.key, cloned, feeding.hints, chunk_bytes)
        return replace(one, hint=found, chunk_bytes=chunk_bytes)

    if not feeding.hints.links:
        return list(opened)
    watch = Watch(
        f"Reading what has changed of {feeding.machine_name} on {reach.host.name}",
        lambda: sum(int(one.disk.metadata["bytes"]) for one in opened),
        reach.alive,
        cut,
        reach.stall_seconds,
        reach.clock,
    )
    with watch:
        return [told(one) for one in opened]


def must_fit(opened: Sequence[OpenDisk], machine_name: str, reach: Reach) -> None:
    """What was planned, and is told of the point, must be what is read."""
    for one in opened:
        if one.disk.size != one.source.capacity_bytes:
            raise errors.DiskNotCopyable(
                host=reach.host.name,
                vm=machine_name,
                key=one.source.key,
                reason=f"it had {one.source.capacity_bytes} bytes, and {one.disk.path} has {one.disk.size}",
                way_out="Somebody changes its size. Start again when that is done",
            )


def opening_of(path: str, reach: Reach) -> Callable[[], None]:
    """Asked before each extent of a disk: a host that lets every one of thousands wait would hold us for ever.

    Beside the stall time each has a second, which is more than the longest way takes. What comes before the first, a
    login for example, has time limits of its own."""
    times: list[float] = []

    def going_on() -> None:
        reach.alive()
        times.append(reach.clock.monotonic())
        count, seconds = len(times) - 1, times[-1] - times[0]
        if seconds >= reach.stall_seconds + count:
            raise errors.OpensTooSlowly(host=reach.host.name, count=count, path=path, seconds=int(seconds))

    return going_on


@contextlib.contextmanager
def opened_disks(sources: Sequence[Source], reach: Reach) -> Iterator[list[OpenDisk]]:
    """Every disk is opened and looked at before the first byte is read; all are closed, and proven so, at the end.

    One that the host does not let be read is read from a clone, which is gone at the end, too."""
    ladder = Ladder(
        reach.host,
        reach.label,
        lease=reach.lease,
        note=reach.note,
        alive=reach.alive,
        clock=reach.clock,
        stall_seconds=reach.stall_seconds,
        reserve_percent=reach.reserve_percent,
    )

    def open_disk(path: str) -> RemoteDisk:
        return RemoteDisk(starter, path, bandwidth_limit=reach.bandwidth_limit, opening=opening_of(path, reach))

    opened: list[OpenDisk] = []
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(reach.starter())
        starter = stack.enter_context(KeptLinks(host, reach.connections + len(sources)))
        for source in sources:
            reach.alive()
            disk, reading = stack.enter_context(ladder.opened(source, open_disk, reach.progress))
            if opened:
                # The limit holds for all of them together, and the wire is the same.
                disk.throttle, disk.codec = opened[0].disk.throttle, opened[0].disk.codec
            opened.append(OpenDisk(source, disk, reading, host.way))
        yield opened
