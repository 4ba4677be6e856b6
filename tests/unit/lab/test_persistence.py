# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A boot puts back the users' keys that were saved last."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from esxilab import persistence
from esxilab.sysimage import AUTO_BACKUP


class Paths:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def root(self, _machine: Any) -> Path:
        return self.folder / "root"

    def machine(self, _machine: Any) -> Path:
        return self.folder


@pytest.fixture
def host(tmp_path: Path) -> tuple[Any, Any, Path]:
    keys = tmp_path / "root/etc/ssh/keys-root"
    keys.mkdir(parents=True)
    (tmp_path / "root/vmfs/volumes/bank").mkdir(parents=True)
    (tmp_path / "root/bootbank").symlink_to("/vmfs/volumes/bank")
    (keys / "authorized_keys").write_text("installed\n")
    paths, machine = Paths(tmp_path), SimpleNamespace(is_esxi=True)
    persistence.keep_image(paths, machine)  # type: ignore[arg-type]
    return paths, machine, keys


def save(root: Path) -> None:
    """auto-backup.sh as it stands, with the host's root in place of ours."""
    script = AUTO_BACKUP.replace("cd /", f"cd {root}").replace("/bootbank/", f"{root}/vmfs/volumes/bank/")
    subprocess.run(["sh"], input=script, text=True, check=True, capture_output=True)


def test_what_was_not_saved_is_gone_after_a_boot(host: tuple[Any, Any, Path]) -> None:
    paths, machine, keys = host
    (keys / "authorized_keys").write_text("changed\n")
    (keys / "new").write_text("new\n")
    persistence.boot(paths, machine)
    assert {path.name: path.read_text() for path in keys.iterdir()} == {"authorized_keys": "installed\n"}


def test_what_was_saved_is_there_after_a_boot_with_its_mode_and_time(host: tuple[Any, Any, Path]) -> None:
    paths, machine, keys = host
    (keys / "new").write_text("new\n")
    (keys / "new").chmod(0o600)
    os.utime(keys / "new", (1_700_000_000, 1_700_000_000))
    save(paths.root(machine))
    (keys / "authorized_keys").write_text("too late\n")
    persistence.boot(paths, machine)
    assert {path.name: path.read_text() for path in keys.iterdir()} == {
        "authorized_keys": "installed\n",
        "new": "new\n",
    }
    state = (keys / "new").stat()
    assert (state.st_mode & 0o777, state.st_mtime) == (0o600, 1_700_000_000)
