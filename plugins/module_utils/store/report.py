# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at packs and restore points has found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import bounds


@dataclass
class Report:
    """What was looked at and found. `bad` are ids whose record is damaged, with the reason; `hit` what needs them."""

    packs: int = 0
    records: int = 0
    stored: int = 0
    proven: int = 0
    bad: dict[bytes, str | None] = field(default_factory=dict)
    """The reason is None where so many have one that nobody reads more."""
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

    def damaged(self, identity: bytes, reason: str | None) -> None:
        """The first reason of a record stands."""
        self.bad.setdefault(identity, reason if len(self.bad) < bounds.MOST else None)

    @property
    def reasons(self) -> list[str]:
        return [reason for reason in self.bad.values() if reason is not None]

    def shown(self) -> dict[str, Any]:
        """As plain data, as far as anybody reads it."""
        bad = {identity.hex(): reason for identity, reason in self.bad.items() if reason is not None}
        document = {
            "ok": self.ok,
            "packs": self.packs,
            "records": self.records,
            "stored_bytes": self.stored,
            "proven_bytes": self.proven,
            "bad": bad,
            "bad_records": len(self.bad),
            "problems": self.problems,
            "hit": self.hit,
            "good_points": self.good_points,
            "bad_points": self.bad_points,
            "unrecorded": self.unrecorded,
        }
        told = bounds.bounded(document, "bad", "problems", "hit")
        rest = len(self.bad) - len(told["bad"])
        return {**told, "untold": {**told["untold"], **({"bad": rest} if rest else {})}}

    def add(self, other: Report) -> None:
        self.packs += other.packs
        self.records += other.records
        self.stored += other.stored
        self.proven += other.proven
        for identity, reason in other.bad.items():
            self.damaged(identity, reason)
        # Each thing once, also where two looks at one pack met it.
        self.problems = list(dict.fromkeys((*self.problems, *other.problems)))
