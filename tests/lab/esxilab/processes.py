# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes by identity: a pid alone may be somebody else's by now, so it goes with its start time."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ProcessId:
    """A process that can be told from a later one with the same number."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        return cls(pid, start_time(pid))

    def alive(self) -> bool:
        return self.started != "" and start_time(self.pid) == self.started and state(self.pid) != "Z"

    def signal(self, number: int) -> None:
        """Send a signal, but only to the process that was meant."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def _stat_fields(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            # The command name may hold blanks and brackets: the fields start behind its last bracket.
            return handle.read().rpartition(")")[2].split()
    except OSError:
        return []


def start_time(pid: int) -> str:
    """The kernel's start time of the process in ticks, or an empty string when there is none."""
    fields = _stat_fields(pid)
    return fields[19] if len(fields) > 19 else ""


def state(pid: int) -> str:
    """The one-letter state as in ps (R, S, Z ...), or an empty string."""
    fields = _stat_fields(pid)
    return fields[0] if fields else ""


def child_of(pid: int, timeout_seconds: float = 10.0) -> int:
    """The only child of pid, waited for; 0 when it never comes."""
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as handle:
                children = handle.read().split()
        except OSError:
            return 0
        if children:
            return int(children[0])
        time.sleep(0.01)
    return 0


def end_all(processes: Iterable[ProcessId], grace_seconds: float = 2.0) -> list[ProcessId]:
    """TERM, a grace, then KILL; the ones that live on even so are returned."""
    targets = [process for process in processes if process.alive()]
    for process in targets:
        process.signal(signal.SIGTERM)
    end = time.monotonic() + grace_seconds
    while any(process.alive() for process in targets) and time.monotonic() < end:
        time.sleep(0.02)
    for process in targets:
        process.signal(signal.SIGKILL)
    end = time.monotonic() + 5.0
    while any(process.alive() for process in targets) and time.monotonic() < end:
        time.sleep(0.02)
    return [process for process in targets if process.alive()]


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
