# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A map of changes held against what was read of the whole disk: whether it may be believed the next time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.store.changes import Slots
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, DiskMap


@dataclass
class Proof:
    """What a map of changes has failed to tell: how many chunks, and from which byte on."""

    wrong: int = 0
    first: int | None = None


@dataclass
class Claim:
    """The chunks of one disk of which a map says that they are as in the parent. Serves one thread at a time."""

    proof: Proof
    touched: Slots
    old: DiskMap
    new: DiskMap
    _seen: set[int] = field(default_factory=set)

    def hold(self, number: int, page: bytes, before: bytes | None) -> None:
        """One page of the new map against that of the parent; one of the parent that cannot be read tells nothing."""
        self._seen.add(number)
        if before is None or page == before:
            return
        for at in range(0, min(len(page), len(before)), SLOT_BYTES):
            slot = number * PAGE_SLOTS + at // SLOT_BYTES
            same = page[at : at + SLOT_BYTES] == before[at : at + SLOT_BYTES]
            # A disk that has grown had a shorter chunk at its end.
            if not same and slot not in self.touched and self.old.length_of(slot) == self.new.length_of(slot):
                self.proof.wrong += 1
                place = slot * self.new.chunk_bytes
                self.proof.first = place if self.proof.first is None else min(place, self.proof.first)

    def rest(self, before: Callable[[DiskMap, int], bytes | None]) -> None:
        """The pages of which nothing was read, as all of them is zeros now."""
        for number, identity in enumerate(self.old.pages[: -(-self.new.slots // PAGE_SLOTS)]):
            if identity is not None and number not in self._seen:
                self.hold(number, bytes(self.new.slots_of(number) * SLOT_BYTES), before(self.old, number))
