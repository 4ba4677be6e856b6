# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of vmsvc/getallvms and the tree of vmsvc/snapshot.get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esxilab.hostd.vmsd import Snapshot, SnapshotDict

HEADERS = ("Vmid", "Name", "File", "Guest OS", "Version", "Annotation")
STATE_WORDS = {"poweredOn": "powered on", "poweredOff": "powered off", "suspended": "suspended"}


def getallvms(rows: Iterable[Sequence[str]]) -> str:
    """Centred headers, left-justified cells, three blanks between columns, pad kept, in the order of the id's text."""
    table = sorted((tuple(row) for row in rows), key=lambda row: row[0])
    widths = [max([len(header), *(len(row[i]) for row in table)]) for i, header in enumerate(HEADERS)]
    lines = ["   ".join(_centred(header, width) for header, width in zip(HEADERS, widths))]
    lines += ["   ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in table]
    return "".join(line + "\n" for line in lines)


def _centred(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return " " * left + text + " " * (width - len(text) - left)


def snapshot_tree(snapshots: SnapshotDict) -> str:
    """Every root with its children below it; nothing at all when there is no snapshot."""
    return "".join(_branch(snapshots, root, 0) for root in snapshots.children(None))


def _branch(snapshots: SnapshotDict, snapshot: Snapshot, depth: int) -> str:
    mark = "--" * depth
    label = "--" * (depth + 1)
    when = snapshot.created
    stamp = f"{when.month}/{when.day}/{when.year} {when.hour}:{when.minute}:{when.second}"
    text = (
        f"{mark}|-{'CHILD' if depth else 'ROOT'}\n"
        f"{label}Snapshot Name        : {snapshot.name}\n"
        f"{label}Snapshot Id        : {snapshot.uid}\n"
        f"{label}Snapshot Desciption  : {snapshot.description}\n"
        f"{label}Snapshot Created On  : {stamp}\n"
        f"{label}Snapshot State       : {STATE_WORDS[snapshot.state]}\n"
    )
    return text + "".join(_branch(snapshots, child, depth + 1) for child in snapshots.children(snapshot.uid))
