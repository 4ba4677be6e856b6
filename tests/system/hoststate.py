# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole hypervisor before and after: every file that it has, every process, and who has which disk open.

Looked at from outside, and by the host's own commands over the lab's own way in: no SSH connection is part of it.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .conftest import LabHost

# What the host does on its own: logs that roll over, the lock file of a disk that is open.
PASSING = re.compile(r".*/(vmware(-\d+)?\.log|[^/]*\.hlog|[^/]*\.lck)|.*/var/(log|run/log)/.*")
# One for each connection that is open, whoever has made it.
SESSION = re.compile(r"\bsshd\b.*(@|\[\w+\]|: root)|\bps -c\b|\bsh -c\b.*\bps\b")


@dataclass(frozen=True)
class HostState:
    """Paths with their kind and mode; command lines with how many there are; disk files with their readers' names."""

    files: frozenset[tuple[str, str]]
    processes: Counter[str]
    opened: Counter[str]

    def differences(self, after: HostState, *allowed: str) -> list[str]:
        """In words; `allowed` are parts of paths of what may come or go."""

        def others(found: Iterable[tuple[str, str]]) -> list[str]:
            return sorted(f"{path} ({kind})" for path, kind in found if not any(part in path for part in allowed))

        lost, come = others(self.files - after.files), others(after.files - self.files)
        words = [f"gone: {one}" for one in lost] + [f"left: {one}" for one in come]
        for what, old, new in (
            ("process", self.processes, after.processes),
            ("open", self.opened, after.opened),
        ):
            words += [f"{what} ended: {one}" for one in sorted((old - new).elements())]
            words += [f"{what} left: {one}" for one in sorted((new - old).elements())]
        return words


def look(machine: LabHost) -> HostState:
    lab = machine.lab
    files = set(_files(lab.folder / "hosts" / machine.name / "root", "/"))
    for volume in set(machine.status["datastores"].values()):
        files.update(_files(lab.folder / "volumes" / volume, f"/vmfs/volumes/{volume}/"))
    # It is in the host's memory, where nobody sees it from outside.
    files.update((path, "in memory") for path in machine.run("find /tmp").stdout.splitlines() if path != "/tmp")
    lines = machine.run("ps -c").stdout.splitlines()[1:]
    processes = Counter(_command(line) for line in lines if not SESSION.search(line))
    held = [[word.strip() for word in line.split("|")] for line in machine.run("lsof").stdout.splitlines()]
    opened = Counter(f"{words[1]} {words[-1]}" for words in held if words[-1].endswith(".vmdk"))
    return HostState(frozenset(files), processes, opened)


def _command(line: str) -> str:
    """A line of the host's process list without its numbers."""
    return " ".join(word for word in line.split() if not word.isdigit())


def _files(top: Path, prefix: str) -> Iterable[tuple[str, str]]:
    for folder, folders, names in os.walk(top):
        for name in [*folders, *names]:
            path = f"{prefix}{os.path.relpath(os.path.join(folder, name), top)}"
            if PASSING.fullmatch(path):
                continue
            try:
                mode = os.lstat(os.path.join(folder, name)).st_mode
            except FileNotFoundError:
                continue
            yield path, stat.filemode(mode)
