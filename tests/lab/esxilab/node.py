# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon holds of each machine, and its way to the proxy process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from esxilab import hostroot
from esxilab.errors import LabError
from esxilab.faults import MachineFaults, Network
from esxilab.hostd import Hostd
from esxilab.machine import RunningMachine
from esxilab.memcap import MemoryCap
from esxilab.processes import ProcessId
from esxilab.topology import Machine


class ProxyProcess:
    """The proxy, and the pipe that orders go through."""

    def __init__(self, log: Path) -> None:
        environment = dict(os.environ, PYTHONPATH=str(hostroot.PACKAGE.parent), PYTHONDONTWRITEBYTECODE="1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "esxilab.proxy", str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            close_fds=True,
        )
        self.identity = ProcessId.of(self._process.pid)
        self._lock = threading.Lock()

    def order(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode("ascii") + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise LabError("the lab's network proxy has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LabError(f"network proxy: {answer['error']}")
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Node:
    """One machine with everything that belongs to it."""

    def __init__(self, machine: Machine, running: RunningMachine, network: Network, own: MachineFaults) -> None:
        self.machine = machine
        self.own = own
        self.running = running
        self.network = network
        self.hostd: Hostd | None = None
        self.wanted_up = True
        self.namespace = ""  # of its processes, where execInstalledOnly holds
        self.ramdisk = ""
        self.boots = 0
        self.memory_cap: MemoryCap | None = None
        self.lock = threading.Lock()
