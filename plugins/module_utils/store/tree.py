# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the disks and files of a restore point are called as files of a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LONGEST_BYTES = 200
# Also halves of characters that no file name can hold; the others stand for single bytes.
_BAD = re.compile("[\0-\x1f\x7f/\ud800-\udc7f\udd00-\udfff]")


def disk_name(key: str, ending: str = "raw") -> str:
    """`scsi0-0.raw`: a colon in a name is a protocol to some programs that read images."""
    return f"{key.replace(':', '-')}.{ending}"


def safe_names(wanted: Sequence[str]) -> list[str]:
    """One name of a file for each, in order, none twice, none that leaves the folder or hides in it.

    The names come from a store, which may be a stranger's.
    """
    taken: set[str] = set()
    found = []
    for one in wanted:
        name = _BAD.sub("_", one)
        if name.startswith("."):
            name = f"_{name[1:]}"
        raw = (name or "_").encode("utf-8", "surrogateescape")[:_LONGEST_BYTES]
        name = raw.decode("utf-8", "surrogateescape")
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}~{number}"
        taken.add(free)
        found.append(free)
    return found
