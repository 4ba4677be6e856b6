# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest of a powered-on VM: it keeps writing, in an order that `guestcheck.py` can judge afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import guestcheck

from .disks import DiskError

BURST_SECONDS = 0.06


class GuestDisk(Protocol):
    """What a guest needs of a disk; `esxilab.disks.VirtualDisk` is one."""

    @property
    def capacity(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...


class GuestWriter:
    """Writes records to the rings of all the disks, one after the other, from a thread of its own.

    The caller opens and closes the disks. Disks without a ring partition are left alone. Life:
    `start` → (`pause` → `swap` → `resume`)* → `stop` (power off, crash: no mark) or `shutdown` (writes clean marks).
    `quiesce` writes its marks and pauses, so that the disks stay quiesced until `resume`.
    """

    def __init__(
        self,
        disks: Sequence[GuestDisk],
        rate: float = 10.0,
        *,
        vm_uuid: bytes | None = None,
        on_error: Callable[[DiskError], None] | None = None,
        name: str = "guest",
    ) -> None:
        self.rate = rate
        self.error: DiskError | None = None
        self.sequence = -1  # the last record that is on disk
        self.was_consistent: bool | None = None  # what `start` found; None on new disks
        self._vm = vm_uuid or os.urandom(16)
        self._on_error = on_error
        self._filler = os.urandom(guestcheck.RECORD)
        self._gate = threading.Condition(threading.Lock())
        self._paused = False
        self._stopping = False
        self._rings: list[tuple[int, int, int]] = []  # number of the disk, offset of slot 0, slots
        self._disks = list(disks)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def running(self) -> bool:
        return self._thread.is_alive() and not self._paused

    def start(self) -> None:
        """Boot: find the rings, go on where they end (new or inconsistent ones are begun anew), write."""
        self.load()
        self._thread.start()

    def load(self) -> None:
        """Find the rings without starting to write."""
        found: list[tuple[int, guestcheck.Ring | None, int, int]] = []
        damaged = False
        for number, disk in enumerate(self._disks):
            try:
                offset, length = guestcheck.find_ring(disk.read)
            except guestcheck.Unreadable:
                continue
            try:
                ring = guestcheck.read_ring(disk.read)
            except guestcheck.Unreadable:
                ring, damaged = None, True
            found.append((number, ring, offset, length // guestcheck.RECORD - 1))
        rings = [ring for _, ring, _, _ in found if ring]
        usable = bool(rings) and len(rings) == len(found) and [r.disk for r in rings] == list(range(len(rings)))
        usable = usable and rings[0].disks == len(rings)
        if rings or damaged:
            names = [str(number) for number, *_ in found]
            verdict = guestcheck.judge(rings, names) if usable else None
            self.was_consistent = bool(verdict and verdict.consistent)
            if verdict and verdict.consistent:
                self._vm = rings[0].vm
                self.sequence = verdict.sequence
        self._rings = [(number, offset + guestcheck.RECORD, slots) for number, _, offset, slots in found]
        if found and not self.was_consistent:
            self._format(bool(rings) or damaged)

    def _format(self, used: bool) -> None:
        self.sequence = -1
        total = len(self._rings)
        for index, (number, start, slots) in enumerate(self._rings):
            disk = self._disks[number]
            if used:
                for begin in range(0, slots, 256):
                    size = min(256, slots - begin) * guestcheck.RECORD
                    disk.write(start + begin * guestcheck.RECORD, bytes(size))
            header = guestcheck.header_block(self._vm, index, total, slots)
            disk.write(start - guestcheck.RECORD, header)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            with self._gate:
                while self._paused and not self._stopping:
                    self._gate.wait()
                if self._stopping:
                    return
                if self._rings:
                    self._try_write(0)
                due = max(due + 1.0 / self.rate, time.monotonic() - 0.1)
                wait = due - time.monotonic()
                if wait > 0:
                    # The next ones are written in a row, as guests do: a wake-up costs more than a write.
                    self._gate.wait(wait + BURST_SECONDS)

    def _try_write(self, flags: int) -> bool:
        """One record; a disk that refuses it stops the guest until `resume`, which tries the same record again."""
        try:
            self._write(flags)
        except DiskError as error:
            self.error = error
            self._paused = True
            if self._on_error:
                # Not from this thread's hold on the gate: the callee may want to pause, swap or stop.
                threading.Thread(target=self._on_error, args=(error,), daemon=True).start()
            return False
        return True

    def _write(self, flags: int) -> None:
        sequence, total = self.sequence + 1, len(self._rings)
        index, turn = sequence % total, sequence // total
        number, start, slots = self._rings[index]
        block = guestcheck.record_block(self._vm, sequence, index, total, flags, time.time(), self._filler)
        self._disks[number].write(start + guestcheck.slot_of(turn, slots) * guestcheck.RECORD, block)
        self.sequence = sequence

    def write_now(self, count: int = 1, flags: int = 0) -> None:
        """Records at once, whatever the rate; for marks and for tests. Raises what the disk raises."""
        with self._gate:
            for _ in range(count if self._rings else 0):
                self._write(flags)

    def pause(self) -> None:
        """Stun: on return no write is under way and none will begin."""
        with self._gate:
            self._paused = True

    def resume(self) -> None:
        with self._gate:
            self._paused = False
            self.error = None
            self._gate.notify_all()

    def swap(self, disks: Sequence[GuestDisk]) -> list[GuestDisk]:
        """Go on with other disk objects that hold the same content (a new delta on top); returns the old ones."""
        with self._gate:
            if len(disks) != len(self._disks):
                raise ValueError(f"{len(disks)} disks in place of {len(self._disks)}")
            old, self._disks = self._disks, list(disks)
            return old

    def reload(self, disks: Sequence[GuestDisk]) -> list[GuestDisk]:
        """Go on with disks that hold another moment (a snapshot was reverted to): the rings are read again."""
        with self._gate:
            old, self._disks = self._disks, list(disks)
            self.sequence, self.was_consistent = -1, None
            self.load()
            return old

    def quiesce(self) -> None:
        """Flush as a guest's file systems do: one quiesced mark on every disk, then hold still until `resume`."""
        with self._gate:
            for _ in self._rings:
                self._write(guestcheck.FLAG_QUIESCED)
            self._paused = True

    def shutdown(self) -> None:
        """A clean shut-down: one clean mark on every disk, then no more."""
        with self._gate:
            for _ in self._rings:
                self._write(guestcheck.FLAG_CLEAN)
            self._stopping = True
            self._gate.notify_all()
        self._join()

    def stop(self) -> None:
        """Power off or crash: stop between two records, without a mark."""
        with self._gate:
            self._stopping = True
            self._gate.notify_all()
        self._join()

    crash = stop

    def _join(self) -> None:
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
