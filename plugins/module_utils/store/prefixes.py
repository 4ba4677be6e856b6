# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each of many ids may be: eight bytes for each, 48 bits of it and a number. Whoever asks looks there."""

from __future__ import annotations

from array import array
from bisect import bisect_left

LARGEST_NUMBER = (1 << 24) - 1
# Of an id: one byte is the number of its part, five more lie in the entry, above the number.
_PARTS = 256
_KEY = (1 << 40) - 1
# Entries that a part may have unsorted, besides an eighth of it.
_SLACK = 512


class Prefixes:
    """For one thread at a time. Of an id that was added with several numbers the lowest stands."""

    def __init__(self) -> None:
        self._parts: list[array[int]] = [array("Q") for _part in range(_PARTS)]
        # Entries of each part that are sorted, each id once.
        self._counts = [0] * _PARTS

    def __len__(self) -> int:
        """Without what was added last, as it may be there twice."""
        return sum(self._counts)

    def add(self, first: int, number: int) -> None:
        """An id, by its first eight bytes as a big-endian number. `tidy` follows sooner or later."""
        self._parts[first >> 56].append((first >> 16 & _KEY) << 24 | number)

    def tidy(self, all_of_it: bool = False) -> None:
        """What has grown is sorted; what was added is found after `tidy(True)`."""
        for part, count in enumerate(self._counts):
            if all_of_it or len(self._parts[part]) > count + count // 8 + _SLACK:
                self._tidy(part)

    def _tidy(self, part: int) -> None:
        last = -1
        kept = array("Q")
        for entry in sorted(self._parts[part]):
            if entry >> 24 != last:
                kept.append(entry)
                last = entry >> 24
        self._parts[part] = kept
        self._counts[part] = len(kept)

    def find(self, identity: bytes) -> int | None:
        """The number of an id, or by a chance of one in 2^48 of another one."""
        first = int.from_bytes(identity[:8], "big")
        part, key = self._parts[first >> 56], first >> 16 & _KEY
        at = bisect_left(part, key << 24)
        return part[at] & LARGEST_NUMBER if at < len(part) and part[at] >> 24 == key else None
