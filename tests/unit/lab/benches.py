# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One simulated host with real disks, real locks and running guests, for the tests of what its commands do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import guestcheck
import pytest
from esxilab import disks, topologies, topology
from esxilab.hostd import Hostd
from esxilab.locks import LockTable

QUICK = {"snapshot_seconds": 0, "tools_seconds": 0, "shutdown_seconds": 0, "guest_kib_per_second": 800}


def disk(key: str, size: str = "64M", **more: Any) -> dict[str, Any]:
    return {"key": key, "size": size, "format": "thin", **more}


class Bench:
    """A host, and short ways to ask it."""

    def __init__(self, host: Hostd, locks: LockTable) -> None:
        self.host = host
        self.locks = locks

    def vim(self, *words: str) -> str:
        answer = self.run("vim-cmd", *words)
        assert answer["rc"] == 0, answer
        return str(answer["stdout"])

    def run(self, tool: str, *words: str) -> dict[str, Any]:
        return self.host.handle({"tool": tool, "argv": list(words), "cwd": "/", "pid": os.getpid()})

    def folder(self, vmid: str = "1") -> Path:
        return self.host.vm(vmid).folder

    def names(self, vmid: str = "1") -> set[str]:
        return set(os.listdir(self.folder(vmid)))

    def state(self, vmid: str = "1") -> str:
        return self.vim("vmsvc/power.getstate", vmid).splitlines()[1]

    def wait(self, probe: Callable[[], object], what: str) -> None:
        limit = time.monotonic() + 20
        while not probe():
            assert time.monotonic() < limit, f"{what} did not come"
            time.sleep(0.02)

    def written(self, vmid: str = "1", records: int = 5) -> None:
        """Let the guest write some more records."""
        guest = self.host.vm(vmid).guest
        start = guest.sequence
        self.wait(lambda: guest.sequence >= start + records, "a record of the guest")

    def check(self, vmid: str = "1", chain: dict[str, str] | None = None) -> str:
        """What guestcheck says of the live disks, or of those in `chain` (node to descriptor)."""
        rings, names = [], []
        for item in self.host.vm(vmid).live_disks():
            path = str(self.host.outside(chain[item.node] if chain else item.path))
            with disks.open_chain(path, resolve=self.host.engine.resolve) as one:
                ring = guestcheck.read_ring(one.read)
            assert ring is not None, f"{item.node} was never written to"
            rings.append(ring)
            names.append(item.node)
        verdict = guestcheck.judge(rings, names)
        words = [word for word in ("consistent", "quiesced", "clean") if getattr(verdict, word)]
        return f"{' '.join(words) or 'NOT consistent'} sequence={verdict.sequence} {verdict.problems}"


@pytest.fixture(scope="module")
def locks() -> Iterator[LockTable]:
    if os.geteuid() != 0:
        pytest.skip("file locks need root")
    with LockTable() as table:
        yield table


@pytest.fixture(scope="module", autouse=True)
def templates(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.setdefault("ESXILAB_CACHE", str(tmp_path_factory.mktemp("templates")))


@pytest.fixture
def bench(volume: Callable[[int], Path], locks: LockTable, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes a host with the given VMs on a VMFS 6 datastore `datastore1` (VMFS 5 on 6.0) and a VMFS 5 one, `old`."""
    hosts: list[Hostd] = []

    def make(vms: list[dict[str, Any]], profile: str = "7.0", **switches: Any) -> Bench:
        description = {
            "name": "esx1",
            "profile": profile,
            "switches": {**QUICK, **switches},
            "datastores": [
                {"name": "datastore1", "type": topologies.vmfs(profile), "size": "200M"},
                {"name": "old", "type": "vmfs5", "size": "200M"},
                {"name": "share", "type": "nfs", "size": "200M"},
            ],
            "vms": vms,
        }
        config = topology.build({"hosts": [description]}, "unit", "127.0.99.0", 22).hosts[0].config
        places = {store["uuid"]: volume(200) for store in config["datastores"]}
        host = Hostd(config, places, locks, root=tmp_path / "root")
        hosts.append(host)
        host.provision()
        return Bench(host, locks)

    yield make
    for host in hosts:
        host.shutdown()


def running(**more: Any) -> dict[str, Any]:
    return {"name": "web", "power": "on", "tools": "running", "disks": [disk("scsi0:0")], **more}
