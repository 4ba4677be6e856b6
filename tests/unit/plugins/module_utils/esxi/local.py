# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session whose other machine is a busybox shell in this one: real scripts, no network."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session

APPLETS = [
    "sh", "cat", "grep", "mktemp", "rm", "sleep", "stat", "tail", "touch", "sync", "head", "ls", "mkdir", "kill",
    "true", "printf", "usleep",
]  # fmt: skip


class LocalSession(Session):
    """Commands that a test puts into `bin` (scripts) stand for the host's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Endpoint(host="esx1"))
        self.bin = folder / "bin"
        self.bin.mkdir()
        busybox = shutil.which("busybox")
        assert busybox, "these tests need busybox"
        for applet in APPLETS:
            (self.bin / applet).symlink_to(busybox)
        self.count = 0

    def put(self, name: str, text: str) -> None:
        # An applet's name is a link to the machine's own busybox: replaced, never written through.
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text("#!/bin/sh\n" + text)
        (self.bin / name).chmod(0o755)

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        self.count += 1
        done = subprocess.run(
            list(argv),
            executable=str(self.bin / argv[0]),
            input=stdin or b"",
            capture_output=True,
            timeout=timeout_seconds,
            env={**os.environ, "PATH": str(self.bin)},
            check=False,
        )
        texts = [out.decode("utf-8", "surrogateescape") for out in (done.stdout, done.stderr)]
        return Result(tuple(argv), done.returncode, *texts)

    def close(self) -> None:
        pass
