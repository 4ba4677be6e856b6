# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hypervisor's users' keys are after a boot: those that auto-backup.sh saved last, and no others (4.9)."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

from esxilab.hostroot import LabPaths
from esxilab.topology import Machine

KEYS = "keys-"


def keep_image(paths: LabPaths, machine: Machine) -> None:
    """Remember the keys that the host was installed with: what a boot without any saved state brings."""
    if machine.is_esxi:
        _copy(paths.root(machine) / "etc/ssh", paths.machine(machine) / "installed-keys")


def boot(paths: LabPaths, machine: Machine) -> None:
    """Put the saved keys in place; /etc of a running host is memory."""
    if not machine.is_esxi:
        return
    root = paths.root(machine)
    ssh = root / "etc/ssh"
    for folder in ssh.glob(f"{KEYS}*"):
        shutil.rmtree(folder)
    # The link leads to a path as the host sees it.
    bank = root / str((root / "bootbank").readlink()).lstrip("/")
    state = bank / "state.tgz"
    if not state.is_file():
        _copy(paths.machine(machine) / "installed-keys", ssh)
        return
    with tarfile.open(state) as archive:
        for member in archive.getmembers():
            if not member.name.startswith(f"etc/ssh/{KEYS}") or ".." in member.name:
                continue
            place = root / member.name
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                place.write_bytes(content.read())
                # Also the time, since the age of a key is read from it.
                os.utime(place, (member.mtime, member.mtime))
            else:
                continue
            place.chmod(member.mode)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for folder in source.glob(f"{KEYS}*"):
        shutil.copytree(folder, target / folder.name, symlinks=True)
