# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab for the system tests: started once for a file, ended with it."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from addresses import free_base_address
from house import house, whole_house  # noqa: F401  the lab of the tests that run playbooks

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "tests" / "lab" / "lab"
sys.path.insert(0, str(LAB.parent))

from esxilab import cli  # noqa: E402  the lab's package lies beside its script
from esxilab.hostroot import LabPaths  # noqa: E402
from playing import SHARED  # noqa: E402  tests/tools

if SHARED not in os.environ:
    # Before workers are started, so that it is theirs, too.
    os.environ[SHARED] = tempfile.mkdtemp(prefix="stowage-controllers-")
    atexit.register(shutil.rmtree, os.environ[SHARED], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lab-topology", default="test", help="the topology of the session's lab (default: test)")


# Files that take longest, first: files are given out whole, and one of these at the end would be waited for alone.
LONGEST = (
    "test_vmdk_copy",
    "test_night",
    "test_dedup",
    "test_backup_hot_warm_cold",
    "test_restore",
    "test_zoo",
    "test_releases",
    "test_jobs_recovered",
    "test_jobs",
    "test_esxi_modules",
    "test_link",
    "test_operator_errors",
    "test_kill_matrix",
    "test_datastore_store",
    "test_borg",
    "test_fault_matrix",
    "test_in_place",
    "test_jobs_of_others",
    "test_agent_on_hosts",
    "test_jobs_restored",
    "test_slow_guest",
    "test_programs",
    "test_remote_disks",
    "test_lab_machines",
    "test_hints",
    "test_host_untouched",
    "test_wire_cuts",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def wait_until(probe: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """The first true answer of probe."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = probe()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


class LabHost:
    """One machine of the lab, for a test."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        found = lab.status_of(name)
        self.address: str = found["address"]
        self.port: int = found["port"]
        self.password = f"Lab-{name}-1"

    def run(self, command: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command line in the machine without the network; never raises for an exit code."""
        return self.lab.exec(self.name, command, timeout=timeout)

    def ssh_argv(self, *options: str) -> list[str]:
        """ssh to the machine with the lab's own key and pinned host keys."""
        return [
            *("ssh", "-F", "none", "-i", str(self.lab.key), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={self.lab.known_hosts}", "-o", "GlobalKnownHostsFile=none"),
            # For a host of 6.0, which knows SHA-1 signatures only.
            *("-o", "HostKeyAlgorithms=+ssh-rsa", "-o", "PubkeyAcceptedAlgorithms=+ssh-rsa"),
            *("-o", "StrictHostKeyChecking=yes", "-p", str(self.port), *options, f"root@{self.address}"),
        ]

    def ssh(self, command: str, *options: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command line through a real SSH connection."""
        return subprocess.run(
            [*self.ssh_argv(*options), command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def fault(self, kind: str, **arguments: Any) -> dict[str, Any]:
        return self.lab.fault(self.name, kind, **arguments)

    def clear(self) -> dict[str, Any]:
        return self.lab.fault(self.name, "clear")

    def reboot(self) -> None:
        self.lab.call("reboot", self.name)

    @property
    def status(self) -> dict[str, Any]:
        return self.lab.status_of(self.name)

    def vm(self, name: str) -> dict[str, Any]:
        """What the lab itself knows of the first VM with that name."""
        return next(vm for vm in self.status["vms"] if vm["name"] == name)

    def volume_path(self, datastore: str) -> Path:
        """Where a datastore of this host lies outside."""
        return self.lab.folder / "volumes" / self.status["datastores"][datastore]


class Lab:
    """A running lab, for tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory_path = folder / "inventory.yml"
        self.known_hosts = folder / "known_hosts"
        self.key = folder / "keys" / "id_rsa"

    def command(self, *words: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """A verb of the lab command, with --dir put in."""
        return subprocess.run(
            [sys.executable, str(LAB), words[0], "--dir", str(self.folder), *words[1:]],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def call(self, *words: str, timeout: float = 120.0) -> str:
        """As command, and it must succeed."""
        done = self.command(*words, timeout=timeout)
        assert done.returncode == 0, f"lab {' '.join(words)}: {done.stderr}"
        return done.stdout

    def exec(self, machine: str, command: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.ask(verb="exec", machine=machine, command=command),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def ask(self, **request: Any) -> Any:
        """What a verb answers, asked without a new process."""
        return cli.ask(LabPaths(self.folder), **request)

    def fault(self, machine: str, kind: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask(verb="fault", machine=machine, kind=kind, arguments=arguments)
        return answer

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask(verb="status")
        return answer

    def status_of(self, machine: str) -> dict[str, Any]:
        found: dict[str, Any] = next(entry for entry in self.status()["machines"] if entry["name"] == machine)
        return found

    def host(self, name: str) -> LabHost:
        return LabHost(self, name)

    def volume_path(self, datastore: str, host: str | None = None) -> Path:
        """Where a datastore lies outside; `host` where several hosts have one of that name."""
        for machine in self.status()["machines"]:
            if host in (None, machine["name"]) and datastore in machine.get("datastores", {}):
                return self.folder / "volumes" / str(machine["datastores"][datastore])
        raise AssertionError(f"no datastore {datastore!r} in this lab")

    def clear(self) -> None:
        """Put all faults of all machines right."""
        for machine in self.status()["machines"]:
            self.fault(machine["name"], "clear")


def start_lab(folder: Path, topology: str, *more: str) -> Lab:
    """Bring a lab up in folder; the caller ends it by `lab.call("down")`."""
    lab = Lab(folder)
    base = free_base_address()
    lab.call("up", "--name", folder.name.lower(), "--topology", topology, "--base-address", base, *more, timeout=360)
    return lab


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The file's lab; a test that sets a fault clears it itself (fixture `clean_lab` does so).

    Its guests compute as long as it is up, whether a test uses it or not."""
    folder = tmp_path_factory.mktemp("lab") / "lab"
    running = start_lab(folder, request.config.getoption("--lab-topology"))
    try:
        yield running
    finally:
        running.call("down")


@pytest.fixture
def clean_lab(lab: Lab) -> Iterator[Lab]:
    """The lab without faults, before and after the test."""
    lab.clear()
    try:
        yield lab
    finally:
        lab.clear()
