# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How old a sign of life is, and what that means. Pure: the numbers come from one folder of one datastore."""

from __future__ import annotations

from dataclasses import dataclass

LEASE_SECONDS = 180


@dataclass(frozen=True)
class Sign:
    """The mtimes that one look at a job folder gave: all of files in that folder, so that no other clock matters.

    `touched` is the mtime of a file that the look itself has just touched; `lease` that of the owner's lease file,
    or of the folder itself where the owner came no further than making it.
    """

    lease: int
    touched: int

    @property
    def age(self) -> int:
        return self.touched - self.lease


def doubt_seconds(first: Sign, lease_seconds: int, sure: bool, observe_seconds: float) -> float:
    """How long to wait, by one's own monotonic clock, for the second look that settles it. 0 where none is needed.

    `sure` is who stands in for the clock: the lease was written by the host that looks, for this very backup server,
    whose own sign of a run that goes on was asked before. In all other cases an old mtime may be a clock that jumped
    ahead; a living owner touches its lease between two looks. A lease from the future is a clock that was put back: it
    does not age until the clock has caught up, so its owner gets the whole lease to show life in.
    """
    if first.age < 0:
        return lease_seconds + 1.0
    return 0.0 if sure or first.age <= lease_seconds else observe_seconds


def is_stale(first: Sign, lease_seconds: int, sure: bool, second: Sign | None = None) -> bool:
    """Whether the owner has shown no life for the time it promised; `second` was taken `doubt_seconds` later."""
    if second is not None and second.lease != first.lease:
        return False
    if 0 <= first.age <= lease_seconds:
        return False
    return second is not None or (sure and first.age > 0)
