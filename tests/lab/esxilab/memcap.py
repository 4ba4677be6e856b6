# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory cap that all SSH sessions of one host share: they stand in one small resource group.

A watcher and no control group: the lab's datastores and ramdisks are memory of this machine, and a group would be
charged with every byte that a session writes to a datastore. What counts is what the processes themselves hold.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

EVERY_SECONDS = 0.02
KEPT_BY = "a watcher in the lab's daemon: the private memory of all processes of SSH sessions, looked at every 20 ms"


def _children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as handle:
                yield from (int(word) for word in handle.read().split())
        except OSError:
            continue


def _below(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _below(child)


def _bytes_of(path: str) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except OSError:
        return b""


def session_processes(init: int, listener: int) -> list[int]:
    """What SSH sessions have started in a machine, orphans included; as seen from outside.

    The simulated commands are left out: they stand for programs of another size.
    """
    found = list(_below(listener))
    for orphan in _children(init):
        if orphan != listener and b"\0SSH_CONNECTION=" in b"\0" + _bytes_of(f"/proc/{orphan}/environ"):
            found += [orphan, *_below(orphan)]
    return [pid for pid in found if not _bytes_of(f"/proc/{pid}/cmdline").startswith(b"/.lab/python\0")]


def private_bytes(pid: int) -> int:
    for line in _bytes_of(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


class MemoryCap:
    """Watches one host while it is up; kills the largest process of its sessions when together they hold too much."""

    def __init__(self, cap_mb: Callable[[], int], log: Path) -> None:
        self._cap_mb = cap_mb
        self._log = log
        self._stop = threading.Event()
        self.peak = 0
        self.kills = 0

    def start(self, init: int, listener: int) -> None:
        self._stop = stop = threading.Event()
        threading.Thread(target=self._watch, args=(init, listener, stop), name="memory-cap", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self, init: int, listener: int, stop: threading.Event) -> None:
        while not stop.wait(EVERY_SECONDS):
            sizes = {pid: private_bytes(pid) for pid in session_processes(init, listener)}
            used, cap = sum(sizes.values()), self._cap_mb()
            self.peak = max(self.peak, used)
            if cap and used > cap << 20:
                largest = max(sizes, key=lambda pid: sizes[pid])
                self._kill(largest, used, cap)
                # It gives its memory back while it dies; nobody else has to die for what it still seems to hold.
                while private_bytes(largest) and not stop.wait(EVERY_SECONDS):
                    pass

    def _kill(self, pid: int, used: int, cap: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.kills += 1
        moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")  # noqa: UP017 - datetime.UTC needs 3.11
        with open(self._log, "a", encoding="ascii") as handle:
            handle.write(
                f"{moment} cpu0:{pid})MemSched: Group host/vim/vimuser/terminal/ssh holds {used >> 10} KB of"
                f" {cap << 10} KB: killed by out of memory\n"
            )

    def describe(self) -> dict[str, object]:
        return {
            "cap_mb": self._cap_mb(),
            "kept_by": KEPT_BY,
            "peak_mb": round(self.peak / (1 << 20), 1),
            "kills": self.kills,
        }
