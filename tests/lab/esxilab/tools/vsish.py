# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vsish -e get|set: the memory cap of the SSH group, which is all that is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .answer import Answer

if TYPE_CHECKING:
    from esxilab.hostd import Hostd

GROUP = ["host", "vim", "vimuser", "terminal", "ssh"]
GROUP_ID = 1037


def run(host: Hostd, argv: Sequence[str]) -> Answer:
    words = [word for word in argv if word != "-e"]
    if words[:2] == ["set", "/sched/groupPathNameToID"]:
        if words[2:] == GROUP:
            return Answer(f"ID {GROUP_ID}\n")
        return Answer(stderr="VSISet(): Sysinfo error: Not found\n", rc=1)
    path = f"/sched/groups/{GROUP_ID}/memAllocationInMB"
    if words == ["get", path]:
        cap = host.ssh_memory_mb
        return Answer(
            "sched-allocation {\n   min:0\n   max:" + (str(cap) if cap else "-1") + "\n   shares:0\n"
            "   minLimit:" + (str(cap) if cap else "-1") + "\n   units:units: 3 -> mb\n}\n"
        )
    given = dict(word.partition("=")[::2] for word in words[2:])
    if words[:2] == ["set", path] and given and set(given) <= {"min", "max", "minLimit", "shares", "units"}:
        wanted = given.get("max", str(host.ssh_memory_mb))
        host.ssh_memory_mb = int(wanted) if wanted.isdigit() else 0
        return Answer()
    if words and words[0] in ("get", "set", "ls", "cat"):
        where = words[1] if len(words) > 1 else ""
        return Answer(stderr=f"VSICmdline: {where}: Not found\n", rc=1)
    return Answer(stderr="Usage: vsish [-e <command>]\n", rc=1)
