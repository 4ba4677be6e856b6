# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts in which a disk is backed up: spans of chunks, which fill pages of its map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.stowage.esxi.plugins.module_utils.store.claim import Proof
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import DiskSource, HashedSource
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Summed

# Chunks that a thread takes at a time: enough to read in order, few enough to end together.
SPAN_CHUNKS = 16
# Spans of one connection that are under way, asked for or fetched.
SPANS_AHEAD = 4


@dataclass(frozen=True)
class DiskInput:
    """A disk to back up. `changed`: (offset, length) of all that may differ from the parent, where that is known.

    With a `proof` all of it is looked at in spite of that, and the proof tells whether it is so."""

    key: str
    source: DiskSource | HashedSource
    changed: Sequence[tuple[int, int]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    proof: Proof | None = None


@dataclass
class Told(Summed):
    """What a backup did. Bytes; `sent` are those that came from where a disk is hashed."""

    read: int = 0
    zero: int = 0
    unchanged: int = 0
    known: int = 0
    new: int = 0
    stored: int = 0
    sent: int = 0


class Page:
    """One page of a map under work."""

    def __init__(self, disk: int, number: int, slots: int, before: bytes | None) -> None:
        self.disk, self.number = disk, number
        self.slots = bytearray(slots * SLOT_BYTES)
        self.before = before
        self.left = 0

    def at(self, slot: int) -> int:
        """Where a slot of the disk lies in this page."""
        return (slot - self.number * PAGE_SLOTS) * SLOT_BYTES


class Span(NamedTuple):
    """Slots of one page that are looked at together."""

    disk: DiskInput
    plan: DiskMap
    page: Page
    slots: list[int]

    @property
    def bytes(self) -> int:
        return sum(map(self.plan.length_of, self.slots))

    def piece(self, slot: int) -> tuple[int, int]:
        return slot * self.plan.chunk_bytes, self.plan.length_of(slot)


def slots_of(extents: Iterator[tuple[int, int]] | Sequence[tuple[int, int]], plan: DiskMap) -> Iterator[int]:
    """Numbers of the slots that these ranges touch, ascending, each once."""
    last = -1
    for offset, length in extents:
        if length <= 0:
            continue
        begin, end = offset // plan.chunk_bytes, (offset + length - 1) // plan.chunk_bytes
        yield from range(max(begin, last + 1), min(end + 1, plan.slots))
        last = max(last, end)


def by_page(wanted: Iterator[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for slot in wanted:
        if group and slot // PAGE_SLOTS != group[0] // PAGE_SLOTS:
            yield group
            group = []
        group.append(slot)
    if group:
        yield group
