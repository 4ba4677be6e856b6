# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a clone that still runs has stopped to get on."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock

DEFAULT_SECONDS = 900

# A percent of a very large disk takes longer than any limit for a small one, and thick targets do not grow meanwhile.
SLOWEST_BYTES_PER_SECOND = 4 << 20

GROWTH = r"""
stowage_growth() {
    stem=${1%.vmdk}
    for file in "$stem-flat.vmdk" "$stem"-s[0-9][0-9][0-9].vmdk; do
        [ -f "$file" ] && stat -c '%s %b %Y' "$file"
    done
    return 0
}
stowage_growth "$@"
"""
"""Argument: the target's descriptor. Size, allocated blocks and time of each of its extents: any change is progress."""


class Stall:
    """Looks at the percent each time, and at the target's extents only while that stands still."""

    def __init__(self, limit_seconds: float, capacity_bytes: int, clock: Clock, growth: Callable[[], str]) -> None:
        self.limit = max(limit_seconds, capacity_bytes / 100 / SLOWEST_BYTES_PER_SECOND)
        self._clock = clock
        self._growth = growth
        self._percent = -1
        self._since = self._looked = clock.monotonic()
        self._extents: str | None = None

    def seconds(self, percent: int) -> float | None:
        """How long nothing has moved, once that is longer than the limit."""
        now = self._clock.monotonic()
        if percent != self._percent:
            self._percent, self._since, self._looked, self._extents = percent, now, now, None
        if now - self._looked < self.limit / 4:
            return None
        self._looked, extents = now, self._growth()
        if extents != self._extents:
            self._extents, self._since = extents, now
        return now - self._since if now - self._since >= self.limit else None
