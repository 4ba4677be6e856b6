# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the one who asked for the copy is still there."""

from __future__ import annotations

import os

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import CallerGone


class CallerBeat:
    """A file that somebody touches. Its age is counted here, from change to change: two clocks never agree."""

    def __init__(self, path: str, window_seconds: float = 60.0, clock: Clock | None = None) -> None:
        self.path = path
        self.window_seconds = window_seconds
        self._clock: Clock = clock or SystemClock()
        self._stamp = self._look()
        self._changed = self._clock.monotonic()

    def check(self) -> None:
        """Raises CallerGone when the file was removed, or has not changed for longer than the window."""
        stamp = self._look()
        now = self._clock.monotonic()
        if stamp is None:
            raise CallerGone(reason=f"the task that waited for it has ended ({self.path} is gone)")
        if stamp != self._stamp:
            self._stamp, self._changed = stamp, now
        elif now - self._changed > self.window_seconds:
            raise CallerGone(reason=f"nothing was heard from the controller for {self.window_seconds:g} seconds")

    def _look(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns
