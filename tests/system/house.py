# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of its own for the tests that run whole playbooks, and what they ask of it."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "tools"))
sys.path.insert(0, str(TESTS / "lab"))

from addresses import free_base_address  # noqa: E402  they lie outside of any package
from esxilab import topologies  # noqa: E402
from judge import Lab, Machine, RestorePoint, restore_points  # noqa: E402
from playing import Controller, Playing, Run  # noqa: E402

POINT = "/vmfs/volumes/backup"
# A name that ESXi accepts, and that a shell, a template engine and a glob would all like to evaluate.
HOSTILE = "{{ 1+1 }} $(touch /tmp/stowage-was-here) *'\"`"
VARIABLES = {"stowage_host_key_policy": "pinned", "backup_point": POINT, "restore_point": POINT}


def topology() -> dict[str, Any]:
    """The tests' hosts, with one VM more: its name is an attack. And a server that the backup server can reach."""
    description = topologies.test()
    description["backup_servers"].append({"name": "bk2"})
    for host in description["hosts"]:
        # Rings that are full after seconds, so that thin disks grow no more when a plan is compared with a run.
        host.setdefault("switches", {})["guest_kib_per_second"] = 512
    host = next(host for host in description["hosts"] if host["name"] == "esx70")
    host["vms"].append(
        {
            "name": HOSTILE,
            "dir": "hostile",
            "power": "off",
            "disks": [{"key": "scsi0:0", "size": "64M", "format": "thin"}],
        }
    )
    return description


@dataclass
class House:
    """The lab, the controller, and what the lab looked like when nobody had touched it."""

    lab: Lab
    controller: Controller
    hosts: tuple[str, ...]
    before: dict[str, dict[str, Machine]] = field(default_factory=dict)

    @property
    def point(self) -> Path:
        return self.lab.outside(POINT)

    def points(self, name: str | None = None) -> list[RestorePoint]:
        """Restore points, oldest first, of one VM or of all."""
        return [point for point in restore_points(self.point) if name in (None, point.manifest["vm"]["name"])]

    def remember(self) -> None:
        self.before = {host: self.lab.machines(host) for host in self.hosts}

    def differences(self, *hosts: str) -> list[str]:
        """What of the VMs is not as it was, and what of ours is left."""
        found = []
        for host in hosts or self.hosts:
            now = self.lab.machines(host)
            found += [
                f"{host} {name}: was {was}, is {now.get(name)}"
                for name, was in self.before[host].items()
                if now.get(name) != was
            ]
            found += [f"{host}: left behind: {left}" for left in self.lab.left_behind(host)]
        return found

    def vm(self, host: str, name: str) -> dict[str, Any]:
        """What the lab itself knows of a VM."""
        found: dict[str, Any] = next(vm for vm in self.lab.host(host)["vms"] if vm["name"] == name)
        return found

    def folder(self, host: str, name: str) -> Path:
        """A VM's own folder, from outside."""
        return self.lab.outside(self.vm(host, name)["vmx"]).parent

    def datastore(self, host: str, name: str) -> Path:
        """A host's datastore, from outside."""
        return self.lab.folder / "volumes" / str(self.lab.host(host)["datastores"][name])

    def record(self, run: Run) -> dict[str, Any]:
        """The record of a run, read on the backup server."""
        answer: dict[str, Any] = json.loads(self.lab.run("bk1", "cat", run.stats["stowage_run"]["records"][0]))
        return answer

    def host_error(self, run: Run, host: str) -> str:
        """The id of the error that stopped a whole host, from the record."""
        return str(next(entry for entry in self.record(run)["hosts"] if entry["host"] == host)["error"]["id"])

    def clones(self, host: str) -> list[str]:
        return [line for line in self.lab.run(host, "ps", "-c").splitlines() if "vmkfstools -i" in line]


def until(probe: Callable[[], Any], what: str, seconds: float, playing: Playing | None = None) -> Any:
    """The first true answer; fails when it does not come in time, or when the playbook ends before."""
    end = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if playing is not None and playing.process.poll() is not None:
            raise AssertionError(f"the playbook ended before this came: {what}\n{''.join(playing.lines)[-3000:]}")
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


@pytest.fixture(scope="module")
def whole_house() -> Iterator[House]:
    """Up once for all tests of a file that run playbooks."""
    work = Path(tempfile.mkdtemp(prefix="stowage-house-"))
    (work / "topology.json").write_text(json.dumps(topology()), encoding="utf-8")
    lab = Lab(work / "lab", "house")
    lab.verb("up", "--topology", str(work / "topology.json"), "--base-address", free_base_address())
    try:
        house = House(lab, Controller(lab, work, VARIABLES), ("esx67", "esx70", "esx80"))
        lab.settle()
        house.remember()
        yield house
    finally:
        lab.verb("down")
        shutil.rmtree(work, ignore_errors=True)


@pytest.fixture
def house(whole_house: House) -> Iterator[House]:
    """The lab without faults, before and after."""
    for host in whole_house.hosts:
        whole_house.lab.fault(host, "clear")
    yield whole_house
    for host in whole_house.hosts:
        whole_house.lab.fault(host, "clear")


def as_text(house: House, asked: list[dict[str, Any]]) -> Path:
    """What an operator writes for names that are no templates: a file of variables with `!unsafe`."""
    lines = ["restore_vms:"]
    for request in asked:
        fields = [f"{key}: !unsafe {json.dumps(value)}" for key, value in request.items()]
        lines += [f"{'    ' if number else '  - '}{field}" for number, field in enumerate(fields)]
    path = house.controller.work / "requests.yml"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path
