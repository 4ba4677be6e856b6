# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A shell like the hypervisor's for the scripts of this room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session

# The values beside this file are no package of their own.
sys.path.insert(0, str(Path(__file__).parent))

APPLETS = "sh cat chmod cp date dd grep head kill ls mkdir mv printf rm rmdir sleep stat sync tail test touch tr wc ps"


class BusyboxSession(Session):
    """Runs the same texts with busybox on this machine: real files, real exit codes, no connection."""

    def __init__(self, applets: Path) -> None:
        super().__init__(Endpoint(host="127.0.0.1"))
        self.applets = applets

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        done = subprocess.run(
            list(argv),
            input=stdin or b"",
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
            env={"PATH": str(self.applets)},
            executable=str(self.applets / argv[0]),
        )
        out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
        return Result(tuple(argv), done.returncode, out, err)

    def close(self) -> None:
        return None


@pytest.fixture
def session(tmp_path: Path) -> Iterator[BusyboxSession]:
    busybox = shutil.which("busybox")
    assert busybox, "the package busybox-static is needed: the hypervisor's shell is busybox"
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in APPLETS.split():
        os.symlink(busybox, folder / name)
    yield BusyboxSession(folder)
