# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from dataclasses import dataclass

_DASHES = re.compile(r"^-+(?: {2}-+)*\s*$")
_PAIR = re.compile(r"^ +([^:]+): ?(.*)$")
_VERSION = re.compile(r"^VMware ESXi? (\d+(?:\.\d+)*)(?: build-(\d+))?", re.MULTILINE)


@dataclass(frozen=True)
class Version:
    """`numbers` has as many parts as the release prints: 8.0.2, or 9.0.1.0100."""

    text: str
    numbers: tuple[int, ...]
    build: str | None

    @property
    def major(self) -> int:
        return self.numbers[0]


def parse_version(text: str) -> Version | None:
    """Read `vmware -v`."""
    match = _VERSION.search(text)
    if not match:
        return None
    return Version(match.group(1), tuple(int(part) for part in match.group(1).split(".")), match.group(2))


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


def parse_pairs(text: str) -> dict[str, str]:
    """Read an indented `   Key: value` block (esxcli ... get)."""
    pairs: dict[str, str] = {}
    for line in text.split("\n"):
        match = _PAIR.match(line.rstrip("\r"))
        if match:
            pairs.setdefault(match.group(1).strip(), match.group(2).strip())
    return pairs


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


@dataclass(frozen=True)
class VmProcess:
    """One running VM of `esxcli vm process list`: the second opinion on power."""

    name: str
    world: int
    config_file: str


def parse_vm_processes(text: str) -> tuple[VmProcess, ...]:
    found: list[VmProcess] = []
    name = ""
    values: dict[str, str] = {}

    def finish() -> None:
        if values.get("World ID", "").isdigit() and values.get("Config File"):
            found.append(VmProcess(values.get("Display Name", name), int(values["World ID"]), values["Config File"]))

    for line in text.split("\n"):
        match = _PAIR.match(line.rstrip("\r"))
        if match and name:
            values.setdefault(match.group(1).strip(), match.group(2).strip())
        elif line.strip() and not line.startswith(" "):
            finish()
            name, values = line.strip(), {}
    finish()
    return tuple(found)


def _number(text: str) -> int:
    digits = text.replace(",", "").strip()
    return int(digits) if digits.isdigit() else 0
