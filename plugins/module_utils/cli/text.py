# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain text for people. What comes from a store is data: nothing in it may steer the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from fractions import Fraction

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.store import bounds

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def printable(text: str) -> str:
    """Control characters, what turns the direction of text, and what is not valid Unicode, as escapes."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def size(count: int) -> str:
    return format_bytes(count)


_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?B?|B)?", re.IGNORECASE)


def parse_size(word: str) -> int:
    """`64MiB`, `1.5 TiB`, `500G`, `4096`: binary units; `ValueError`."""
    found = _SIZE.fullmatch(word.strip())
    if found is None:
        raise ValueError(f"{word!r} is no size such as 64MiB")
    power = "BKMGT".index((found[2] or "B")[0].upper())
    return int(Fraction(found[1]) * 1024**power)


def count(number: int, word: str) -> str:
    """`1 disk`, `2 disks`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def machine(name: str, identity: str) -> str:
    """`web01 (52f1c3a4-0c1d)`: commands take either."""
    return identity if name == identity else f"{name} ({identity})"


def told(prefix: str, found: Sequence[str], count: int | None = None) -> Iterator[str]:
    """A line for each of the first sentences, and how many more there are; of `count`, where these are not all."""
    lines = bounds.first(found)
    for line in lines:
        yield f"{prefix}: {printable(line)}"
    more = (len(found) if count is None else count) - len(lines)
    if more:
        yield f"{prefix}: and {more} more"


def moment(text: str, now: datetime) -> str:
    """`2026-11-26 15:00:00 UTC (3 days ago)`."""
    try:
        at = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return printable(text)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC ({_ago((now - at).total_seconds())})"


def _ago(seconds: float) -> str:
    if seconds < 0:
        return "in the future"
    for word, length in _UNITS:
        if seconds >= length:
            return f"{count(int(seconds // length), word)} ago"
    return "just now"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """Columns as wide as they must be; `right` are those that are flush right."""
    cells = [[printable(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        words = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        yield "  ".join(words).rstrip()


def pairs(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(name) for name, _value in rows), default=0)
    for name, value in rows:
        yield f"{name.ljust(width)}  {printable(value)}"
