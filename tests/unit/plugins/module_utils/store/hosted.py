# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor that is this machine: real agents over plain pipes, which can be cut, and disks that they read."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostbackend import HostBackend
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import ProcessPipe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import starting
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.codec import CodecChoice
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.lanes import Lane
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import Files, Line, Starter
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import StoreLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.throttle import Throttle


class Pipe(ProcessPipe):
    """Counts what the other side is sent."""

    sent = 0

    def write(self, data: Any, timeout: float) -> None:
        self.sent += memoryview(data).nbytes
        super().write(data, timeout)


class Here(Starter):
    """This machine as a host."""

    host = "here"
    packs = True

    def __init__(self, python: str = sys.executable) -> None:
        self.links: list[StoreLink] = []
        self.pipes: list[Pipe] = []
        self._made = starting.Interpreter(python, (3, 8, 0))
        self._guard = threading.Lock()

    def start(self) -> StoreLink:
        words = self._made.argv(starting.mark("test"), 60)
        pipe = Pipe(words, words[0], "here", 0, {"PATH": os.environ["PATH"]})
        link = StoreLink(pipe, "here", stall_seconds=30.0)
        try:
            link.greet(self._made)
        except BaseException:
            link.abandon()
            raise
        with self._guard:
            self.links.append(link)
            self.pipes.append(pipe)
        return link

    def end(self, link: Any) -> None:
        link.close()

    def traffic(self) -> int:
        """Bytes both ways, without the agents' own source."""
        size = len(self._made.program())
        return sum(pipe.sent - size for pipe in self.pipes) + sum(link.received_bytes for link in self.links)


def host_backend(root: Path, clock: Clock | None = None, host: Here | None = None) -> HostBackend:
    return HostBackend(host or Here(), str(root), roots=(str(root.resolve().parent),), clock=clock)


class HostDisk:
    """A flat file of that machine, read and hashed by its agents."""

    def __init__(self, path: Path, host: Here) -> None:
        self.path, self.size = str(path), path.stat().st_size
        self.open = 0
        self._host = host

    def allocated(self) -> Iterator[tuple[int, int]]:
        yield 0, self.size

    def segments(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        return [(1, offset, length)]

    def nothing(self, _offset: int, _length: int) -> bool:
        return False

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        line = Line(self._host, Files())
        try:
            line.open(self.path)
            yield Lane(self, line, CodecChoice(True, 0), Throttle(0))
        finally:
            line.close()
