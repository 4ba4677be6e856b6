# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that is this machine: the agent in a process of its own, and nothing between but a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import ProcessPipe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import RemoteDisk
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.shellway import ShellLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.starting import Interpreter
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import Starter

TESTS = Path(__file__).resolve().parents[1]
for place in (str(TESTS / "lab"), str(TESTS / "unit" / "plugins" / "module_utils" / "vmdk")):
    if place not in sys.path:
        # Behind the others: its conftest is not the one that is meant.
        sys.path.append(place)


class CuttingPipe(ProcessPipe):
    """Ends after so many bytes have come through it."""

    left = 1 << 62

    def readinto(self, view: memoryview, timeout_seconds: float) -> int:
        if self.left <= 0:
            return 0
        count = super().readinto(view[: min(len(view), self.left)], timeout_seconds)
        self.left -= count
        return count


class LocalHost(Starter):
    """`cuts`: after how many bytes each next connection ends; behind the last one they hold."""

    host = "here"
    packs = True

    def __init__(self, *cuts: int, python: str = sys.executable, **options: Any) -> None:
        self.cuts = list(cuts)
        self.python = python
        self.options = options
        self.links: list[AgentLink] = []
        self.greeted: list[int] = []
        self.refuse: Exception | None = None
        self.before_start: Callable[[], object] = lambda: None

    def start(self) -> AgentLink:
        self.before_start()
        if self.refuse is not None:
            raise self.refuse
        interpreter = Interpreter(self.python, sys.version_info[:3])
        argv = interpreter.argv("stowage-agent-0123456789abcdef", 60)
        pipe = CuttingPipe(argv, "agent", self.host, 0, dict(os.environ))
        link = AgentLink(pipe, self.host, **self.options)
        link.greet(interpreter)
        pipe.left = self.cuts.pop(0) if self.cuts else 1 << 62
        self.links.append(link)
        self.greeted.append(link.received_bytes)
        return link

    def heard(self, number: int) -> int:
        """Bytes that came over one of the connections after the agent's greeting."""
        return self.links[number].received_bytes - self.greeted[number]

    def end(self, link: AgentLink) -> None:
        link.close()
        deadline = time.monotonic() + 10
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(link.pid, 0)
                time.sleep(0.01)
            raise AssertionError("the agent stays")


class LocalShell(LocalHost):
    """Without a Python 3. `digest`: what hashes there, if anything does."""

    packs = False

    def __init__(self, *cuts: int, digest: str | None = "sha256sum") -> None:
        super().__init__(*cuts)
        self.digest = digest

    def start(self) -> Any:
        token = f"stowage-shell-{len(self.links)}"
        pipe = CuttingPipe(["sh", "-s", "--", token], "shell", self.host, 0, dict(os.environ))
        link: Any = ShellLink(pipe, self.host, token=token, digest=self.digest)
        link.greet()
        pipe.left = self.cuts.pop(0) if self.cuts else 1 << 62
        self.links.append(link)
        self.greeted.append(link.received_bytes)
        return link


def remote(path: Path, host: LocalHost | None = None, **options: Any) -> RemoteDisk:
    options.setdefault("roots", [os.path.realpath(path.parent)])
    return RemoteDisk(host or LocalHost(), str(path), **options)
