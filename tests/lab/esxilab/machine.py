# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One machine while it runs: a bubblewrap with its namespaces and an sshd in it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time

from esxilab import hostroot
from esxilab.errors import LabError
from esxilab.hostroot import LabPaths
from esxilab.interpreters import Interpreter
from esxilab.processes import ProcessId, child_of, end_all
from esxilab.topology import Machine, Topology

START_SECONDS = 60.0


class RunningMachine:
    """The processes of one machine. Start it from the daemon's main thread: it dies with the thread that made it."""

    def __init__(self, paths: LabPaths, topology: Topology, machine: Machine, python: Interpreter) -> None:
        self.machine = machine
        self._paths = paths
        self._topology = topology
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self.outer: ProcessId | None = None  # bwrap as seen from outside
        self.init: ProcessId | None = None  # pid 1 of the machine, as seen from outside

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start the machine; 'wait_ready' tells when it answers."""
        read_end, write_end = os.pipe()
        passed = [write_end]
        program = hostroot.seccomp_program(self.machine)
        seccomp_fd = None
        if program:
            seccomp_fd, program_end = os.pipe()
            os.write(program_end, program)
            os.close(program_end)
            passed.append(seccomp_fd)
        command = hostroot.command(self._paths, self._topology, self.machine, self._python, write_end, seccomp_fd)
        log = self._paths.machine(self.machine) / "console.log"
        try:
            with open(log, "ab") as output:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=passed, close_fds=True
                )
        finally:
            for descriptor in passed:
                os.close(descriptor)
        try:
            self._read_info(read_end)
        finally:
            os.close(read_end)

    def _read_info(self, descriptor: int) -> None:
        assert self._process is not None
        text = b""
        end = time.monotonic() + START_SECONDS
        while not text.rstrip().endswith(b"}") and time.monotonic() < end:
            if select.select([descriptor], [], [], 1.0)[0]:
                piece = os.read(descriptor, 4096)
                if not piece:
                    break
                text += piece
        try:
            pid = int(json.loads(text)["child-pid"])
        except (ValueError, KeyError) as error:
            raise LabError(f"{self.machine.name}: bubblewrap did not start it: {self._last_words()}") from error
        self.outer = ProcessId.of(self._process.pid)
        self.init = ProcessId.of(pid)

    def wait_ready(self) -> None:
        """Until sshd sends its banner."""
        end = time.monotonic() + START_SECONDS
        address = (self.machine.address, hostroot.inner_port(self.machine))
        while time.monotonic() < end:
            if not self.alive:
                break
            try:
                with socket.create_connection(address, timeout=5.0) as connection:
                    if connection.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(0.02)
        raise LabError(
            f"{self.machine.name}: its sshd does not answer on {address[0]}:{address[1]}: {self._last_words()}"
        )

    def _last_words(self) -> str:
        """The ends of the machine's logs, for a message that outlives them."""
        folder = self._paths.machine(self.machine)
        words = []
        for log in (folder / "console.log", folder / "root/scratch/log/auth.log", folder / "root/var/log/auth.log"):
            if log.is_file():
                words += log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
        return "; ".join(words) or "its logs are empty"

    def kill(self) -> None:
        """End every process of the machine at once, as a power cut does."""
        if self.init is not None:
            # The death of pid 1 makes the kernel kill all other processes of its namespace.
            end_all([self.init], grace_seconds=0.0)
        if self._process is not None:
            if self.outer is not None:
                end_all([self.outer], grace_seconds=0.5)
            self._process.wait(timeout=10)

    def pid_inside(self) -> int:
        """A process in all namespaces of the machine, for nsenter."""
        if self.init is None or not self.init.alive():
            raise LabError(f"{self.machine.name} is down")
        return self.init.pid

    def sshd_pid(self) -> int:
        """The machine's sshd as seen from outside."""
        return child_of(self.pid_inside(), 2.0)

    def enter_command(self, command: str) -> list[str]:
        """The argv that runs a command line in the machine as 'ssh machine COMMAND' does, without the network."""
        namespaces = ["nsenter", "-t", str(self.pid_inside()), "-m", "-u", "-i", "-p", "-r", "-w"]
        home, shell = ("/", "/bin/sh") if self.machine.is_esxi else ("/root", "/bin/bash")
        path = "/bin:/sbin" if self.machine.is_esxi else "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = [f"HOME={home}", "USER=root", "LOGNAME=root", f"SHELL={shell}", f"PATH={path}"]
        return [*namespaces, "/usr/bin/env", "-i", *environment, shell, "-c", f"cd {home} && {command}"]
