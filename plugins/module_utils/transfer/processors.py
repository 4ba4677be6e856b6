# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the processors here have anything left, by what the kernel counts of them (proc(5): `/proc/stat`)."""

from __future__ import annotations

import threading
import time

STAT = "/proc/stat"
# Its counts go by hundredths of a second: what is shorter than this says nothing.
_LEAST_SECONDS = 0.25
_IDLE, _IOWAIT = 3, 4
_LEFT = 0.1


class Processors:
    """Serves several threads. Where the kernel tells nothing, there is always something left."""

    def __init__(self, stat: str = STAT) -> None:
        self._stat = stat
        self._guard = threading.Lock()
        self._at = time.monotonic()
        self._counts = self._read()
        self._busy = False

    def busy(self) -> bool:
        """Whether less than a tenth of them was idle, when last looked at: at most four times a second."""
        with self._guard:
            now = time.monotonic()
            if now - self._at >= _LEAST_SECONDS:
                counts = self._read()
                idle, all_of_it = (new - old for new, old in zip(counts, self._counts))
                self._busy = all_of_it > 0 and idle < _LEFT * all_of_it
                self._at, self._counts = now, counts
            return self._busy

    def _read(self) -> tuple[int, int]:
        """Ticks that nobody used, and all."""
        try:
            with open(self._stat, encoding="ascii") as file:
                ticks = [int(word) for word in file.readline().split()[1:]]
            return ticks[_IDLE] + ticks[_IOWAIT], sum(ticks)
        except (OSError, ValueError, IndexError):
            return 0, 0
