# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each of many ids may be: eight bytes for each, 40 bits of it and a number. Whoever asks looks there."""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from math import isqrt

NUMBER_BITS = 24
_KEY = (1 << 64) - (1 << NUMBER_BITS)
_WORD = 8
_PART_BITS = 10
_SHIFT = 64 - _PART_BITS
# Entries that are collected before they go to their parts.
_BATCH = 1 << 16


class Prefixes:
    """For one thread at a time. Of an id that was added with several numbers the lowest stands.

    Its room is fixed, and takes memory as it is filled. Ids are even: each part, by their first bits, has the same."""

    def __init__(self, most: int) -> None:
        """Of more ids than `most` some are not taken."""
        share = most >> _PART_BITS
        self._room = share + share // 32 + 5 * isqrt(share) + 16
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._table = memoryview(mmap.mmap(-1, (self._room << _PART_BITS) * _WORD, flags)).cast("Q")
        self._counts = [0] * (1 << _PART_BITS)
        self._full = bytearray(len(self._counts))
        self._batch: list[int] = []

    def __len__(self) -> int:
        """Some may be there twice before `finish`."""
        return sum(self._counts)

    @property
    def full(self) -> bool:
        """Whether next to nothing more is taken."""
        return sum(self._full) > len(self._full) // 2

    def add(self, firsts: Iterable[int], number: int) -> None:
        """Ids, by their first eight bytes as big-endian numbers. They are found after `finish`."""
        self._batch += [first & _KEY | number for first in firsts]
        if len(self._batch) >= _BATCH:
            self._distribute()

    def finish(self) -> None:
        self._distribute()
        for part in range(len(self._counts)):
            self._sort(part)

    def find(self, identity: bytes) -> int | None:
        """The number of an id; by a chance of one in 2^40 for each that is there, that of another one."""
        key = int.from_bytes(identity[:8], "big") & _KEY
        begin = (key >> _SHIFT) * self._room
        end = begin + self._counts[key >> _SHIFT]
        at = bisect_left(self._table, key, begin, end)
        return self._table[at] & ~_KEY if at < end and self._table[at] & _KEY == key else None

    def _distribute(self) -> None:
        batch = sorted(self._batch)
        self._batch = []
        begin = 0
        for part in range(len(self._counts)):
            end = bisect_left(batch, (part + 1) << _SHIFT, begin)
            self._put(part, batch[begin:end])
            begin = end

    def _put(self, part: int, entries: list[int]) -> None:
        while entries and not self._full[part]:
            count = self._counts[part]
            some = array("Q", entries[: self._room - count])
            at = part * self._room + count
            self._table[at : at + len(some)] = some
            self._counts[part] += len(some)
            entries = entries[len(some) :]
            if self._counts[part] == self._room:
                self._sort(part)
                # It would be sorted again and again for a few.
                self._full[part] = self._counts[part] > self._room - self._room // 32 - 1

    def _sort(self, part: int) -> None:
        begin = part * self._room
        found = sorted(self._table[begin : begin + self._counts[part]])
        kept = array("Q", [one for one, last in zip(found, [-1, *found]) if (one ^ last) & _KEY])
        self._table[begin : begin + len(kept)] = kept
        self._counts[part] = len(kept)
