# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A limit to what all lanes of a transfer carry together."""

from __future__ import annotations

import threading

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock


class Throttle:
    """Bytes a second; 0: no limit. Who has gone before pays: `wait` returns once all that was charged is paid."""

    def __init__(self, bytes_per_second: int = 0, clock: Clock | None = None) -> None:
        self.limit = bytes_per_second
        self._clock: Clock = clock or SystemClock()
        self._guard = threading.Lock()
        self._debt = 0.0
        self._at = self._clock.monotonic()

    def charge(self, count: float) -> None:
        """May be negative, where less came than was charged before."""
        if self.limit:
            with self._guard:
                self._pay()
                self._debt += count

    def wait(self) -> None:
        while self.limit:
            with self._guard:
                self._pay()
                debt = self._debt
            if debt < 1:
                return
            self._clock.sleep(min(debt / self.limit, 1.0))

    def _pay(self) -> None:
        now = self._clock.monotonic()
        # A pause earns nothing: what was not used is gone.
        self._debt = max(self._debt - (now - self._at) * self.limit, min(self._debt, 0.0))
        self._at = now
