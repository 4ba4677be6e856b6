# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether bytes travel raw or packed: by what was measured on this link, with this host and these bytes."""

from __future__ import annotations

RAW, PACKED = 0, 1
"""Level of zlib. Higher ones cost a hypervisor much more and save little."""

_FIRST_BYTES = 16 << 20
# The other way is tried again, as the bytes of a disk differ from place to place; seldom where it was far worse.
_AGAIN_BYTES, _FAR_AGAIN_BYTES = 512 << 20, 4 << 30
_FADE = 0.7
# Packing costs processor time on both sides: it must gain something.
_GAIN = 1.1


class CodecChoice:
    """For one lane. `told` is called with each request that was answered whole."""

    def __init__(self, possible: bool = True, forced: int | None = None, limit: int = 0) -> None:
        self._possible = possible
        self._forced = forced
        self._limit = limit
        self._seconds: dict[int, float] = {}
        self._ratio = {RAW: 1.0, PACKED: 1.0}
        self._measured = {RAW: 0, PACKED: 0}
        self._planned = {RAW: 0, PACKED: 0}
        self._since = 0
        self.chosen = RAW

    def level(self, count: int) -> int:
        """How the next `count` bytes are to travel."""
        if self._forced is not None or not self._possible:
            self.chosen = self._forced if self._forced is not None and self._possible else RAW
            return self.chosen
        for level in (RAW, PACKED):
            if self._planned[level] < _FIRST_BYTES:
                self._planned[level] += count
                return level
        if len(self._seconds) < 2:
            return self.chosen
        costs = {level: self._cost(level) for level in (RAW, PACKED)}
        self.chosen = PACKED if costs[PACKED] * _GAIN < costs[RAW] else RAW
        other = PACKED - self.chosen
        self._since += count
        if self._since >= (_AGAIN_BYTES if costs[other] < 3 * costs[self.chosen] else _FAR_AGAIN_BYTES):
            self._since = 0
            self._planned[other] = _FIRST_BYTES // 2
            return other
        return self.chosen

    def told(self, level: int, count: int, carried: int, seconds: float) -> None:
        """`count` bytes came as `carried` bytes, and were waited for so long."""
        if not count:
            return
        self._ratio[level] = _mixed(self._ratio[level], carried / count, self._measured[level] == 0)
        self._seconds[level] = _mixed(self._seconds.get(level, 0.0), seconds / count, level not in self._seconds)
        self._measured[level] += count

    def ratio(self, level: int) -> float:
        """Bytes on the wire for one of the disk, as last measured."""
        return self._ratio[level]

    def _cost(self, level: int) -> float:
        """Seconds for a byte."""
        return max(self._seconds[level], self._ratio[level] / self._limit if self._limit else 0.0, 1e-12)


def _mixed(old: float, new: float, first: bool) -> float:
    return new if first else old * _FADE + new * (1 - _FADE)
