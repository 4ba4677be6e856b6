# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many index files into one, in little memory, however large they are: part by part of the ids' range."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Collection, Iterator, Sequence
from typing import IO

from ansible_collections.stowage.esxi.plugins.module_utils.store import spool
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import (
    Segment,
    bits_for,
    header,
    padded,
)

# Entries that are in memory at a time.
PART_ENTRIES = 4096
_NUMBER = struct.Struct("<I")
_PREFIX = struct.Struct(">I28x")
_PIECE = 1 << 17


class Merged:
    """The index file of several segments, without what lies in some packs. Of several places the first segment's
    stands. The segments are gone through once; what comes of it is spooled."""

    def __init__(self, segments: Sequence[Segment], without: Collection[str] = ()) -> None:
        self._segments = segments
        self._numbers: list[list[bytes]] = []
        self.packs: dict[str, int] = {}
        for segment in segments:
            self._numbers.append(
                [
                    b"" if name in without else _NUMBER.pack(self.packs.setdefault(name, len(self.packs)))
                    for name in segment.packs
                ]
            )
        most = sum(segment.count for segment in segments)
        self._bits = bits_for(most)
        self._parts = 1 << min(24, (most // PART_ENTRIES).bit_length())
        self._fan = array("I", bytes(4 * ((1 << self._bits) + 1)))
        with spool.opened() as ids, spool.opened() as places:
            self.count = self._spool(ids, places)
            self._ids, self._places = spool.mapped(ids), spool.mapped(places)

    def _spool(self, ids: IO[bytes], places: IO[bytes]) -> int:
        count, fan, shift = 0, self._fan, 32 - self._bits
        for part in self._entries():
            ordered = sorted(part)
            joined = b"".join(ordered)
            ids.write(joined)
            places.write(b"".join(map(part.__getitem__, ordered)))
            for (prefix,) in _PREFIX.iter_unpack(joined):
                fan[(prefix >> shift) + 1] += 1
            count += len(ordered)
        for bucket in range(1, len(fan)):
            fan[bucket] += fan[bucket - 1]
        return count

    def _entries(self) -> Iterator[dict[bytes, bytes]]:
        """Id and place of all, in parts that ascend."""
        step = (1 << 32) // self._parts
        for part in range(self._parts):
            found: dict[bytes, bytes] = {}
            for segment, numbers in zip(self._segments, self._numbers):
                begin, end = segment.position_from(part * step), segment.position_from((part + 1) * step)
                for identity, pack, rest in segment.raw(begin, end):
                    if pack >= len(numbers):
                        raise Damaged(
                            name=segment.name, store=segment.store, reason="it names a pack that it does not list"
                        )
                    number = numbers[pack]
                    if number and identity not in found:
                        found[identity] = number + rest
            if found:
                yield found

    def _body(self) -> Iterator[bytes]:
        for at in range(0, len(self._fan), 1 << 16):
            yield struct.pack(f"<{len(self._fan[at : at + (1 << 16)])}I", *self._fan[at : at + (1 << 16)])
        for spooled in (self._ids, self._places):
            for at in range(0, len(spooled), _PIECE):
                yield spooled[at : at + _PIECE]
        yield b"".join(map(padded, self.packs))

    def pieces(self) -> Iterator[bytes]:
        """The file, in order. Its header has the checksum of the rest, so that comes twice."""
        yield header(self._bits, len(self.packs), self.count, self._body())
        yield from self._body()


def which(segments: Sequence[Segment], most: int) -> list[Segment]:
    """Of more than `most` segments those that are worth a merge: none that is as large as all smaller ones together,
    so that an entry is written anew only when its file doubles."""
    if len(segments) <= most:
        return []
    ordered = sorted(segments, key=lambda segment: segment.count)
    total = sum(segment.count for segment in ordered)
    while len(ordered) > 2 and ordered[-1].count * 2 >= total:
        total -= ordered.pop().count
    return ordered
