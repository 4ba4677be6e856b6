# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from dataclasses import dataclass

_DASHES = re.compile(r"^-+(?: {2}-+)*\s*$")


def parse_table(text: str) -> list[dict[str, str]]:
    """Read an esxcli table by the places of its dashes: a cell may be empty, or hold blanks."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    rule = next((index for index, line in enumerate(lines) if index and line.strip() and _DASHES.match(line)), None)
    if rule is None:
        return []
    spans = [match.span() for match in re.finditer(r"-+", lines[rule])]
    names = [cell.strip() for cell in _cells(lines[rule - 1], spans)]
    return [
        dict(zip(names, (cell.strip() for cell in _cells(line, spans)))) for line in lines[rule + 1 :] if line.strip()
    ]


def _cells(line: str, spans: list[tuple[int, int]]) -> list[str]:
    # The last column has no trailing pad: it runs to the end of the line. Names outside of ASCII may be counted in
    # bytes by the host, so a cell that is cut in the middle is read again by its bytes.
    if len(line.encode("utf-8", "surrogateescape")) != len(line) and not _fits(line, spans):
        data = line.encode("utf-8", "surrogateescape")
        cells = [data[start : None if n == len(spans) - 1 else end] for n, (start, end) in enumerate(spans)]
        return [cell.decode("utf-8", "surrogateescape") for cell in cells]
    return [line[start : None if n == len(spans) - 1 else end] for n, (start, end) in enumerate(spans)]


def _fits(line: str, spans: list[tuple[int, int]]) -> bool:
    return all(not line[end : end + 2].strip() for _start, end in spans[:-1])


@dataclass(frozen=True)
class Filesystem:
    """One row of `esxcli storage filesystem list`."""

    path: str
    name: str
    uuid: str
    mounted: bool
    type: str
    capacity_bytes: int
    free_bytes: int


def parse_filesystems(text: str) -> tuple[Filesystem, ...]:
    return tuple(
        Filesystem(
            path=row.get("Mount Point", ""),
            name=row.get("Volume Name", ""),
            uuid=row.get("UUID", ""),
            mounted=row.get("Mounted", "") == "true",
            type=row.get("Type", ""),
            capacity_bytes=_number(row.get("Size", "")),
            free_bytes=_number(row.get("Free", "")),
        )
        for row in parse_table(text)
    )


def _number(text: str) -> int:
    digits = text.replace(",", "").strip()
    return int(digits) if digits.isdigit() else 0
