# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from xml.etree import ElementTree

_COLUMNS = ("Vmid", "Name", "File", "Guest OS", "Version", "Annotation")
_ROW = re.compile(r"^(\d+) ")
_TAIL = re.compile(r"^\[([^\]]+)\] (.+?\.vm(?:x|tx)) +(\S+) +(vmx-\d+)(?: {3}| |$)(.*)$", re.IGNORECASE)
_INVALID = re.compile(r"^Skipping invalid VM '(\d+)'", re.MULTILINE)


@dataclass(frozen=True)
class InventoryRow:
    """One row of getallvms. `path` is relative to the datastore; the name is what the row shows, the .vmx proves it."""

    vmid: int
    name: str
    datastore: str
    path: str
    guest: str
    version: str
    annotation: str


def parse_getallvms(text: str) -> tuple[InventoryRow, ...]:
    """Rows in the order printed. Lines that have not the shape of a row continue the annotation before them."""
    rows: list[InventoryRow] = []
    notes: list[list[str]] = []
    starts: frozenset[int] = frozenset()
    for raw in text.split("\n"):
        line = raw.rstrip("\r")
        if not rows and not starts and line.startswith("Vmid ") and " File " in line:
            starts = file_column_starts(line)
            continue
        row = _row(line, starts)
        if row is not None:
            rows.append(row)
            notes.append([row.annotation])
        elif notes:
            notes[-1].append(line)
    return tuple(
        InventoryRow(r.vmid, r.name, r.datastore, r.path, r.guest, r.version, "\n".join(note).strip())
        for r, note in zip(rows, notes)
    )


def unparsed_rows(text: str, known: Set[int]) -> tuple[InventoryRow, ...]:
    """Rows of VMs that are known from elsewhere and begin a line here, but say nothing more that can be told apart."""
    heads = {int(match.group(1)) for match in map(_ROW.match, text.split("\n")) if match}
    return tuple(InventoryRow(vmid, "", "", "", "", "", "") for vmid in sorted(heads & known))


def parse_invalid_vmids(text: str) -> tuple[int, ...]:
    """Ids of the VMs that hostd skips because their files are not there (printed on stderr)."""
    return tuple(int(vmid) for vmid in _INVALID.findall(text))


def file_column_starts(header: str) -> frozenset[int]:
    """Where the File column can begin, from the header alone.

    Header cells are centred in columns joined by three blanks, so each position leaves one blank of doubt.
    Releases before 5 print them at the left, joined by one blank.
    """
    places = {name: header.find(name) for name in _COLUMNS[:3]}
    if min(places.values()) < 0:
        return frozenset()
    found = {places["File"]} if places["Name"] == 5 else set()
    starts = {0}
    for name in ("Vmid", "Name"):
        pads = {(start, places[name] - start) for start in starts if places[name] >= start}
        starts = {start + len(name) + 2 * pad + odd + 3 for start, pad in pads for odd in (0, 1)}
    return frozenset(found | {start for start in starts if start <= places["File"]})


def _row(line: str, starts: frozenset[int]) -> InventoryRow | None:
    head = _ROW.match(line)
    if not head:
        return None
    # A name can hold brackets, and even the whole shape of a row: every bracket after a blank is a candidate. The
    # one in the column's place wins; without such a place it is the last one before the first end of a row.
    candidates = [at for at in range(head.end(), len(line)) if line[at] == "[" and line[at - 1] == " "]
    tails = [(at, match) for at in candidates if (match := _TAIL.match(line[at:]))]
    if not tails:
        return None
    placed = [(at, match) for at, match in tails if at in starts]
    if placed:
        at, match = placed[0]
    else:
        first_end = min(at + match.end(4) for at, match in tails)
        at, match = [(at, match) for at, match in tails if at + match.end(4) == first_end][-1]
    datastore, path, guest, version, note = match.groups()
    name = line[head.end() : at].strip()
    return InventoryRow(int(head.group(1)), name, datastore, path, guest, version, note.rstrip())


def parse_vm_inventory(text: str) -> dict[int, str]:
    """vmid -> vmx path, from hostd's own vmInventory.xml: exact where getallvms is not. Damaged text gives {}."""
    # hostd writes this file itself, as root on the host that is asked; it holds no entities of its own.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return {}
    try:
        root = ElementTree.fromstring(text.strip())
    except ElementTree.ParseError:
        return {}
    found: dict[int, str] = {}
    for entry in root.iter("ConfigEntry"):
        vmid, path = entry.findtext("objID"), entry.findtext("vmxCfgPath")
        if vmid and vmid.strip().isdigit() and path:
            found[int(vmid)] = path
    return found


def parse_registered_vmid(text: str) -> int | None:
    """The id that solo/registervm prints alone on a line; old releases print nothing."""
    for line in reversed(text.split("\n")):
        if line.strip().isdigit():
            return int(line)
    return None
