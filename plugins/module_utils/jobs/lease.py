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


def is_stale(first: Sign, lease_seconds: int, same_host: bool, second: Sign | None = None) -> bool:
    """Whether the owner has shown no life for the time it promised.

    Two hosts stamp with their own clocks. Where the lease was written by another host than the one that looks, an old
    mtime alone proves nothing: then it must also be the same in a second look, `second`.
    """
    if second is not None and second.lease != first.lease:
        return False
    if first.age <= lease_seconds:
        return False
    return same_host or second is not None
