# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at packs and restore points has found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """What was looked at and found. `bad` are ids whose record is damaged, with the reason; `hit` what needs them."""

    packs: int = 0
    records: int = 0
    stored: int = 0
    proven: int = 0
    bad: dict[bytes, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)
    good_points: list[str] = field(default_factory=list)
    bad_points: list[str] = field(default_factory=list)
    """Restore points by the names of their objects."""
    unrecorded: str | None = None
    """Why the store could not keep what was found: it may be read only."""

    @property
    def ok(self) -> bool:
        return not self.bad and not self.problems

    def shown(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "ok": self.ok,
            "packs": self.packs,
            "records": self.records,
            "stored_bytes": self.stored,
            "proven_bytes": self.proven,
            "bad": {identity.hex(): reason for identity, reason in sorted(self.bad.items())},
            "problems": self.problems,
            "hit": self.hit,
            "good_points": self.good_points,
            "bad_points": self.bad_points,
            "unrecorded": self.unrecorded,
        }

    def add(self, other: Report) -> None:
        self.packs += other.packs
        self.records += other.records
        self.stored += other.stored
        self.proven += other.proven
        self.bad.update(other.bad)
        # Each thing once, also where two looks at one pack met it.
        self.problems = list(dict.fromkeys((*self.problems, *other.problems)))
