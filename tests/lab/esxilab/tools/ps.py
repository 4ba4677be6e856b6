# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ps: the processes of the host and the worlds of its running VMs; -c shows whole command lines.

Runs in the client's own process, whose /proc is the host's. The world id of a process is its pid: kill takes it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

# Simulated commands are this interpreter with this option on their script: neither is shown.
LAUNCHER = (b"/.lab/python", b"-IS")


class World(NamedTuple):
    world: int
    cartel: int
    name: str
    command: str


def processes() -> list[World]:
    """What /proc shows; kernel threads do not exist in a host's namespace."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as handle:
                words = handle.read().rstrip(b"\0").split(b"\0")
            with open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as handle:
                name = handle.read().strip()
        except OSError:
            continue  # it has just ended
        if tuple(words[:2]) == LAUNCHER:
            words = words[2:]
        if name == "bwrap":
            name, words = "init", [b"/bin/init"]
        command = b" ".join(words).decode("utf-8", "surrogateescape")
        found.append(World(int(entry), int(entry), name, command))
    return found


def render(worlds: Sequence[World], whole: bool) -> str:
    width = max([20, *(len(world.name) for world in worlds)])
    digits = max([7, *(len(str(world.world)) for world in worlds)])
    head = f"{'WID':<{digits}} {'CID':<{digits}} {'World Name':<{width}} Command"
    lines = [head, "-" * (len(head) + 16)]
    for world in sorted(worlds):
        command = world.command if whole else world.command.partition(" ")[0]
        lines.append(f"{world.world:<{digits}} {world.cartel:<{digits}} {world.name:<{width}} {command}".rstrip())
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str], lab: Any) -> int:
    options = "".join(word.lstrip("-") for word in arguments)
    unknown = sorted(set(options) - set("cu"))
    if unknown:
        sys.stderr.write(f"ps: invalid option -- '{unknown[0]}'\n")
        return 1
    worlds = processes()
    for vm in lab.call({"tool": "ps", "ask": "worlds"})["worlds"]:
        worlds.append(World(vm["world"] - 1, vm["world"] - 1, "vmx", "/bin/vmx"))
        worlds.append(World(vm["world"], vm["world"] - 1, f"vmx-vcpu-0:{vm['name']}", "/bin/vmx"))
    sys.stdout.buffer.write(render(worlds, "c" in options).encode("utf-8", "surrogateescape"))
    return 0
