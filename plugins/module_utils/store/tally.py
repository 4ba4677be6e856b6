# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far long work is, for whoever looks on: the engine counts, nobody has to listen."""

from __future__ import annotations

import threading


class Tally:
    """Serves several threads. Whoever wants to show it looks at `done` and `total`, or overrides `add`."""

    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = None
        self._lock = threading.Lock()

    def expect(self, total: int | None) -> None:
        """None: not known any more."""
        self.total = total

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count


class Summed:
    """Figures that several threads counted, each for itself."""

    def add(self, other: Summed) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
