# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether bytes travel raw or packed: by what was measured on this link, with this host and these bytes."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

from ansible_collections.stowage.esxi.plugins.module_utils.transfer.processors import Processors

RAW, PACKED = 0, 1
"""Level of zlib. Higher ones cost a hypervisor much more and save little."""

FIRST_BYTES = 4 << 20
"""So much of a way is seen before it is judged."""
# Where the other side tells how long it packs, the wire is waited for sooner or later, or it is fast.
_PATIENT_BYTES = 16 << 20
# The other way is tried again, as the bytes of a disk differ from place to place; seldom where it was far worse.
_AGAIN_BYTES, _FAR_AGAIN_BYTES = 512 << 20, 4 << 30
# On a slow wire one request is packed so often where the bytes before did not pack, seldomer each time: it costs the
# host a little, and those behind them may.
_SLOW_AGAIN_BYTES = 2 << 20, 16 << 20
_FADE = 0.8
# Packing costs processor time on both sides: it must gain something.
_GAIN = 1.1
# The pace of fewer bytes is that of a pause.
_ARRIVED_BYTES = 64 << 10
# The pace that a quarter of the last requests have reached: whatever else keeps the others waiting, processors for one,
# it is not the wire.
_PACES, _QUARTER = 16, 4
# Several lanes make each other's wire look slow: it must be so many times as slow as the packing, and more so where the
# processors of this side are what is waited for. Then whatever makes fewer bytes of it is worth while.
_SLOW, _SLOW_BUSY, _FEWER = 1.5, 3.0, 1.03
# Seconds for a byte, until something has packed: nothing is told of what does not.
_PACKING = 1 / 40e6


class CodecChoice:
    """For all lanes of a disk. `told` is called with each request that was answered whole.

    Where the other side tells how long it packs, what comes is packed first, and the wire's own pace decides: on a slow
    one a trial of the other way would cost more than all that is to be gained. Else both ways are tried and timed.
    """

    def __init__(
        self,
        possible: bool = True,
        forced: int | None = None,
        limit: int = 0,
        first: int = RAW,
        busy: Callable[[], bool] | None = None,
    ) -> None:
        """`busy`: whether the processors of this side have nothing left (those of this machine)."""
        self._limit = limit
        self._busy = busy or Processors().busy
        self._guard = threading.Lock()
        self._seconds: dict[int, float] = {}
        self._packing: float | None = None
        self._pace: float | None = None
        self._paces: deque[float] = deque(maxlen=_PACES)
        self._arrived = self._arriving = 0.0
        self._ratio = {RAW: 1.0, PACKED: 1.0}
        self._measured = {RAW: 0, PACKED: 0}
        self._since = self._trial_left = 0
        self._slow_again = _SLOW_AGAIN_BYTES[0]
        self._fixed = forced is not None or not possible
        self.chosen = (forced if forced is not None and possible else RAW) if self._fixed else first
        self.settled = self._fixed
        """Until then few requests should be under way: each goes the way that is looked at."""

    def level(self, count: int) -> int:
        """How the next `count` bytes are to travel."""
        with self._guard:
            if not self.settled or self._fixed:
                return self.chosen
            self._since += count
            if self._trial_left <= 0 and self._since >= self._patience():
                self._trial_left = FIRST_BYTES
                if self._keeps_up():
                    self._trial_left = 1
                    self._slow_again = min(self._slow_again * 3 // 2, _SLOW_AGAIN_BYTES[1])
            if self._trial_left > 0:
                self._trial_left -= count
                self._since = 0
                return PACKED - self.chosen
            return self.chosen

    def _patience(self) -> float:
        if self.chosen == PACKED and self._pace is not None:
            # Packed bytes tell the pace of the wire as well as raw ones.
            return math.inf
        if self._keeps_up():
            return self._slow_again
        cost, other = self._cost(self.chosen), self._cost(PACKED - self.chosen)
        return _AGAIN_BYTES if other < 3 * cost else _FAR_AGAIN_BYTES

    def told(
        self,
        level: int,
        count: int,
        carried: int,
        seconds: float,
        packing: float | None = None,
        arrived: int = 0,
        arriving: float = 0.0,
    ) -> None:
        """`count` bytes came as `carried` bytes, and were waited for so long. Where that is known: how long their
        `packing` took on the other side; and how many of those that came the wire was waited for, and how long
        (`arrived`, `arriving`)."""
        if not count:
            return
        with self._guard:
            new = self._measured[level] == 0
            self._ratio[level] = _mixed(self._ratio[level], carried / count, new)
            self._seconds[level] = _mixed(self._seconds.get(level, 0.0), seconds / count, new)
            if level == PACKED and packing is not None:
                self._packing = _mixed(self._packing or 0.0, packing / count, self._packing is None)
            # By their bytes: a few that came behind a pause say nothing of the wire.
            self._arrived, self._arriving = self._arrived + arrived, self._arriving + arriving
            if self._arrived >= _ARRIVED_BYTES:
                self._paces.append(self._arriving / self._arrived)
                self._arrived = self._arriving = 0.0
                self._pace = sorted(self._paces)[(len(self._paces) - 1) // _QUARTER]
            self._measured[level] += count
            if not self._fixed and (self.settled or self._measured[self.chosen] >= FIRST_BYTES):
                self._judge()

    def _judge(self) -> None:
        if (self._packing is not None and self._pace is not None) or min(self._measured.values()) >= FIRST_BYTES:
            self.settled = True
            raw, packed = self._cost(RAW), self._cost(PACKED)
            if self._packing is not None and self._pace is not None:
                self.chosen = PACKED if self._keeps_up() and packed * _FEWER < raw else RAW
                if self.chosen == PACKED:
                    self._slow_again = _SLOW_AGAIN_BYTES[0]
            else:
                self.chosen = PACKED if packed * _GAIN < raw else RAW
        elif not self.settled and (self._packing is None or self._measured[self.chosen] >= _PATIENT_BYTES):
            self.chosen = PACKED - self.chosen

    def _keeps_up(self) -> bool:
        """Whether the other side packs faster than the wire takes what is raw, where its pace is known."""
        if self._pace is None:
            return False
        packing = _PACKING if self._packing is None else self._packing
        # Of the first few requests it is their own beginning that keeps the processors busy.
        busy = len(self._paces) == _PACES and self._busy()
        return packing * (_SLOW_BUSY if busy else _SLOW) < max(self._pace, 1 / self._limit if self._limit else 0.0)

    def ratio(self, level: int) -> float:
        """Bytes on the wire for one of the disk, as last measured."""
        return self._ratio[level]

    def _cost(self, level: int) -> float:
        """Seconds for a byte."""
        if self._pace is not None and self._packing is not None:
            wire = self._ratio[level] * max(self._pace, 1 / self._limit if self._limit else 0.0)
            return max(wire, self._packing) if level == PACKED else wire
        return max(self._seconds[level], self._ratio[level] / self._limit if self._limit else 0.0, 1e-12)


def _mixed(old: float, new: float, first: bool) -> float:
    return new if first else old * _FADE + new * (1 - _FADE)
