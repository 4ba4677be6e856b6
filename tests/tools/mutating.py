# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files changed at will, for whatever reads them; and a limit on the memory that this may take."""

from __future__ import annotations

import contextlib
import random
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

Change = tuple[int, int, int]
"""Kind, where, value."""
_ROOM = 768 << 20
_NUMBERS = (0, 1, 2, 255, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def changed(data: bytes, changes: Sequence[Change]) -> bytes:
    """The bytes after these changes. Header and end are hit as often as all the rest."""
    out = bytearray(data)
    for kind, where, value in changes:
        if not out:
            break
        span = len(out) if where & 3 == 0 else min(len(out), 160)
        at = (where >> 2) % span
        if where & 3 == 1:
            at = len(out) - 1 - at
        number = _NUMBERS[value % len(_NUMBERS)] if value & 1 else value
        kind %= 9
        if kind == 0:
            out[at] ^= 1 << value % 8
        elif kind == 1:
            out[at] = number & 255
        elif kind in (2, 3, 4):
            width = 1 << (kind - 1)
            at -= at % width
            out[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif kind == 5:
            del out[at:]
        elif kind == 6:
            del out[at : at + 1 + value % 64]
        elif kind == 7:
            out[at:at] = bytes(out[: 1 + value % 64])
        else:
            out[at : at + value % 200] = bytes(value % 200)
    return bytes(out)


def random_changes(chance: random.Random) -> list[Change]:
    count = chance.choice((1, 1, 1, 2, 3))
    return [(chance.randrange(9), chance.getrandbits(32), chance.getrandbits(20)) for _turn in range(count)]


@contextlib.contextmanager
def within_room() -> Iterator[None]:
    """No more memory than some: what asks for more gets a MemoryError, which no property allows."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
