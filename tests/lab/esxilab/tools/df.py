# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""df: one line per datastore, in bytes or with units. Runs in the client's own process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

TYPE_NAMES = {"vmfs5": "VMFS-5", "vmfs6": "VMFS-6", "nfs": "NFS", "nfs41": "NFS41"}


def human(value: int) -> str:
    """1.4G, as df -h writes it."""
    size = float(value)
    for unit in ("B", "K", "M", "G"):
        if size < 1024:
            return f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}T"


def render(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first and the last are flush left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in range(1, 5)), row[5]]
        lines.append(" ".join(cells) + "\n")
    return "".join(lines)


def main(arguments: Sequence[str], lab: Any) -> int:
    options = "".join(word[1:] for word in arguments if word.startswith("-"))
    if set(options) - {"h"}:
        sys.stderr.write(f"df: invalid option -- '{min(set(options) - {'h'})}'\n")
        return 1
    number = human if "h" in options else str
    rows = [["Filesystem", "Size" if "h" in options else "Bytes", "Used", "Available", "Use%", "Mounted on"]]
    description = lab.call({"tool": "vmkfstools", "ask": "host"})
    for volume in description["volumes"]:
        space = os.statvfs(f"/vmfs/volumes/{volume['uuid']}")
        size, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
        cells = [number(value) for value in (size, size - free, free)]
        percent = f"{(size - free) * 100 // size}%"
        rows.append([TYPE_NAMES[volume["type"]], *cells, percent, f"/vmfs/volumes/{volume['name'] or volume['uuid']}"])
    for system in description["system"]:
        used = system["size"] - system["free"]
        cells = [number(value) for value in (system["size"], used, system["free"])]
        where = f"/vmfs/volumes/{system['label'] or system['uuid']}"
        rows.append([system["kind"], *cells, f"{used * 100 // system['size']}%", where])
    sys.stdout.write(render(rows))
    return 0
