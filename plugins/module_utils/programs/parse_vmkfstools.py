# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``vmkfstools -i`` and ``-e`` print."""

from __future__ import annotations

import re
from dataclasses import dataclass

# At the start of a line only: the heading quotes a path, which may hold anything.
_PERCENT = re.compile(r"^Clone:\s+(\d{1,3})% done\.?")
_HEADING = re.compile(r"^(Destination disk format:|Cloning disk ')")
_CODE = re.compile(r"\((\d+)\)\.?\s*$")

# What the operator can do about it, by the code of VMware's disk library.
WAYS_OUT = {
    13: "Make room on the destination's datastore; the copy needs what the plan says plus what others write meanwhile",
    15: "The source is no virtual disk descriptor; name the .vmdk without -flat, -delta or -sesparse",
    18: "The chain of the source is broken: its parent was changed. No copy of it is good; see the VM's snapshots",
    25: "The descriptor or one of its extents is missing; look at the folder of the source",
    39: "Choose another destination; nothing is overwritten",
    16392: "Somebody holds the disk open: a running VM without a snapshot, a backup program, or another host",
    40003: "Somebody holds the disk open: a running VM without a snapshot, a backup program, or another host",
    327689: "The storage failed to read or write; look at /var/log/vmkernel.log on the host",
}
OTHER_WAY_OUT = "The text is the host's own; /var/log/vmkernel.log on the host says more"


@dataclass(frozen=True)
class CloneLog:
    """The output so far. ``message`` is everything that is neither heading nor progress, in one line."""

    percent: int
    done: bool
    message: str
    code: int | None

    @property
    def way_out(self) -> str:
        return WAYS_OUT.get(self.code, OTHER_WAY_OUT) if self.code is not None else OTHER_WAY_OUT


def parse_clone(text: str) -> CloneLog:
    """Progress is rewritten with carriage returns; the error may stand before the heading, since it goes elsewhere."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    percents = [min(100, int(match.group(1))) for line in lines for match in [_PERCENT.match(line)] if match]
    # An error may follow on the line of the last report, which has no end of its own.
    words = [_PERCENT.sub("", line).strip() for line in lines]
    said = [line for line in words if line and not _HEADING.match(line)]
    message = " ".join(said)
    codes = [int(match.group(1)) for line in said for match in [_CODE.search(line)] if match]
    return CloneLog(
        percent=percents[-1] if percents else 0,
        done=bool(percents) and percents[-1] == 100,
        message=message,
        code=codes[-1] if codes else None,
    )


def chain_verdict(text: str) -> bool | None:
    """The answer of ``-e``: consistent, not consistent, or no answer (a release without the option)."""
    lowered = text.lower()
    if "not consistent" in lowered or "failed to open disk link" in lowered:
        return False
    return True if "chain is consistent" in lowered else None
