# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datastores as tmpfs mounts of a fixed size: a full one is really full, and df says so."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from esxilab.errors import LabError


def mount(path: Path, size: int, label: str) -> None:
    """Mount a tmpfs at path."""
    path.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", label, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"a tmpfs could not be mounted at {path}: {done.stderr.strip()}; the lab needs root")


def mounts_below(folder: Path) -> list[str]:
    """Mount points at or below folder, deepest first, as this process sees them."""
    prefix = os.path.realpath(folder)
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
        for line in handle:
            point = line.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            if point == prefix or point.startswith(prefix + "/"):
                found.append(point)
    return sorted(found, key=len, reverse=True)


def unmount_all(folder: Path) -> list[str]:
    """Unmount everything below folder; what stays mounted is returned."""
    for point in mounts_below(folder):
        # Lazy, since a namespace that is just ending may hold the mount for a moment longer.
        subprocess.run(["umount", "-l", point], capture_output=True, check=False)
    return mounts_below(folder)
