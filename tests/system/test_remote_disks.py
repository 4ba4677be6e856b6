# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of running VMs below our own snapshot, read from real hosts; and nothing that holds them when that is over."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.ladder import Ladder
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source, disks_of_vm
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import probe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import OnHost, RemoteDisk
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotetarget import RemoteTarget
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentBusy
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.localdisk import LocalDisk
from conftest import Lab, LabHost, start_lab

MIB = 1 << 20


def host_of(name: str, profile: str, store: str, **more: Any) -> dict[str, Any]:
    disk = {"key": "scsi0:0", "size": "64M", "format": "thin", "fill": "6M"}
    vm = {
        "name": "web 01",
        "dir": "web 01",
        "power": "on",
        "tools": "running",
        "disks": [disk],
        "snapshots": [{"name": "mine", "description": ""}],
    }
    stores = [
        {"name": "datastore1 (1)", "type": store, "size": "600M"},
        {"name": "spare", "type": store, "size": "600M"},
        {"name": "backup", "type": "nfs", "size": "600M", "server": "bk1"},
    ]
    return {"name": name, "profile": profile, "datastores": stores, "vms": [vm], **more}


TOPOLOGY = {
    "hosts": [
        host_of("esx60", "6.0", "vmfs5"),
        host_of("esx67", "6.7", "vmfs5"),
        host_of("esx80", "8.0", "vmfs6"),
        host_of("esxbusy", "8.0", "vmfs6", switches={"base_readable_after_snapshot": False}),
    ],
    "backup_servers": [{"name": "bk1"}],
}


@pytest.fixture(scope="module")
def house_of_disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("disks") / "lab-disks"
    topology = folder.with_suffix(".json")
    topology.write_text(json.dumps(TOPOLOGY), encoding="utf-8")
    running = start_lab(folder, str(topology))
    try:
        yield running
    finally:
        running.call("down")


class Desk:
    """One host with its VM, and our snapshot on it."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.machine = lab, LabHost(lab, name)
        endpoint = Endpoint(
            host=self.machine.address,
            port=self.machine.port,
            private_key_file=str(lab.key),
            known_hosts_file=str(lab.known_hosts),
        )
        self.host = Host(open_session(endpoint))
        (self.vm,) = self.host.vms()
        self.noted: list[dict[str, Any]] = []
        self.starter = OnHost(self.host.session, probe(self.host.session), self.note)

    def note(self, event: str, **data: object) -> None:
        self.noted.append({"event": event, **data})

    def source(self, snapshot_id: int) -> Source:
        (source,), _left = disks_of_vm(self.host, self.vm, ["scsi0:0"], snapshot_id, False, [])
        return source

    def open(self, path: str, **options: Any) -> RemoteDisk:
        return RemoteDisk(self.starter, path, **options)

    def outside(self, path: str) -> Path:
        _empty, _vmfs, _volumes, volume, *rest = path.split("/")
        return self.lab.folder / "volumes" / volume / "/".join(rest)

    def agents(self) -> list[str]:
        return [row for row in self.machine.run("/bin/ps -c").stdout.splitlines() if "stowage-" in row]


@pytest.fixture(scope="module")
def desks(house_of_disks: Lab) -> Iterator[dict[str, tuple[Desk, Source, int]]]:
    """Each host that a test has asked for, with our snapshot; it is there until the last tests take it away."""
    taken: dict[str, tuple[Desk, Source, int]] = {}
    yield taken
    for found, _source, number in taken.values():
        if any(one.id == number for one in snapshots.tree(found.vm)):
            snapshots.remove(found.vm, number)


@pytest.fixture
def desk(house_of_disks: Lab, desks: dict[str, tuple[Desk, Source, int]]) -> Iterator[Any]:
    house_of_disks.clear()

    def sit(name: str) -> tuple[Desk, Source, int]:
        if name not in desks:
            found = Desk(house_of_disks, name)
            snapshot = snapshots.create(found.vm, "stowage test")
            desks[name] = found, found.source(snapshot.id), snapshot.id
        desks[name][0].noted.clear()
        return desks[name]

    yield sit
    house_of_disks.clear()


def pieces(size: int) -> list[tuple[int, int]]:
    return [(at, min(MIB, size - at)) for at in range(0, size, MIB)]


def content(disk: RemoteDisk, lanes: int = 2) -> list[bytes]:
    """All of it, hashed and fetched by several lanes, each proven against the other."""
    found: dict[int, bytes] = {}
    wrong: list[int] = []

    def run(number: int) -> None:
        with disk.lane() as lane:
            own = pieces(disk.size)[number::lanes]
            hashes = lane.ask(own).hashes()
            for (offset, length), digest, view in zip(own, hashes, lane.fetch(own).chunks()):
                found[offset] = bytes(view)
                blank = found[offset].count(0) == length
                if digest != (None if blank else hashlib.sha256(view).digest()):
                    wrong.append(offset)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    return [found[offset] for offset, _length in pieces(disk.size)]


def expected(desk: Desk, path: str) -> list[bytes]:
    disk = LocalDisk(str(desk.outside(path)), [str(desk.lab.folder)])
    try:
        found = []
        for offset, length in pieces(disk.size):
            room = bytearray(length)
            disk.read_into(memoryview(room), offset)
            found.append(bytes(room))
        return found
    finally:
        disk.close()


@pytest.mark.parametrize("name", ["esx60", "esx67", "esx80"])
def test_a_running_vm_is_read_below_our_snapshot_and_a_cut_is_gone_over(desk: Any, name: str) -> None:
    found, source, _snapshot = desk(name)
    wanted = expected(found, source.path)
    with found.open(source.path, level=0) as disk:
        # The frozen delta of the user's snapshot, and the base.
        assert len(disk.links) == 2 and len(found.agents()) == 1
        assert content(disk) == wanted
        if found.starter.way.method == "agent":
            local = LocalDisk(str(found.outside(source.path)), [str(found.lab.folder)])
            assert list(disk.allocated()) == list(local.allocated())
            local.close()
        else:
            assert name == "esx60" and found.starter.way.digest == "sha256sum"
        assert disk.renewals == 0
        found.machine.fault("cut", mode="reset", after_bytes="3M")
        assert content(disk) == wanted
        assert disk.renewals >= 1
        found.machine.clear()
    assert found.agents() == []
    assert {one["event"] for one in found.noted} == {"process"}


def test_a_disk_that_the_host_keeps_locked_is_cloned_read_and_left_clean(desk: Any) -> None:
    found, source, _snapshot = desk("esxbusy")
    with pytest.raises(ExtentBusy, match=r"web 01-(flat|000001-sesparse).vmdk cannot be read .*resource busy"):
        found.open(source.path)
    assert found.agents() == []
    with pytest.raises(ExtentBusy), Ladder(found.host, "job-1", way="direct").opened(source, found.open):
        pass
    ladder = Ladder(found.host, "job-1", note=found.note)
    with ladder.opened(source, found.open) as (disk, reading):
        assert (reading.way, reading.datastore) == ("clone", "backup") and "resource busy" in reading.reason
        assert "/.stowage-clone-job-1-" in reading.path
        assert content(disk) == expected(found, reading.path)
        size = f"the same {source.capacity_bytes} bytes, "
        assert reading.proof.startswith(size) and f"its source {source.bytes_to_read}; not compared: " in reading.proof
        clone = found.outside(reading.path)
        assert clone.exists()
        temps = [one["path"] for one in found.noted if one["event"] == "temp"]
        assert str(temps[0]) == reading.path.rpartition("/")[0]
    assert not clone.parent.exists() and found.agents() == []
    poor = Ladder(found.host, "job-1", reserve_percent=100)
    words = r"cannot be read where it lies .*resource busy.*spare has"
    with pytest.raises(errors.NoRoomToClone, match=words), poor.opened(source, found.open):
        pass


def test_a_clone_can_be_asked_for_where(desk: Any) -> None:
    found, source, _snapshot = desk("esx67")
    ladder = Ladder(found.host, "job-2", way="clone", datastore="spare")
    with ladder.opened(source, found.open) as (disk, reading):
        assert (reading.way, reading.datastore, reading.reason) == ("clone", "spare", "it was asked for")
        assert "; not compared: its source is a chain of 2 links" in reading.proof
        assert content(disk) == expected(found, source.path)
    with Ladder(found.host, "job-2").opened(source, found.open) as (disk, reading):
        assert reading.way == "direct" and disk.size == 64 * MIB


def test_a_clone_that_is_not_its_source_is_not_read(desk: Any) -> None:
    """The host says of both that they are whole; found out where the source can be read."""
    found, _source, _snapshot = desk("esx67")
    folder = f"{found.host.datastore('spare').path}/alone"
    found.machine.run(f"mkdir {folder}; vmkfstools -c 8M -d thin {folder}/d.vmdk")
    found.outside(f"{folder}/d-flat.vmdk").write_bytes(os.urandom(8 * MIB))
    source = Source("scsi0:0", f"{folder}/d.vmdk", 8 * MIB, 8 * MIB, flat=f"{folder}/d-flat.vmdk")
    ladder = Ladder(found.host, "job-4", way="clone", datastore="spare")
    with ladder.opened(source, found.open) as (_disk, reading):
        assert reading.proof.endswith("its source 8388608; compared: sample of 128 blocks of 64 KiB")
    found.machine.fault("clone_short", bytes="1M", hole="true")
    with pytest.raises(errors.CopyDiffers, match="other bytes at or after offset"), ladder.opened(source, found.open):
        pass
    found.machine.clear()
    said = found.machine.run(f"ls -a /vmfs/volumes/spare; vmkfstools -U {folder}/d.vmdk; rmdir {folder}").stdout
    assert "alone" in said and "stowage-clone" not in said


@pytest.mark.parametrize("name", ["esx80"])
def test_a_disk_that_the_host_made_is_written_and_stays_thin(desk: Any, name: str) -> None:
    found, source, _snapshot = desk(name)
    wanted = expected(found, source.path)
    store = found.host.datastore("spare")
    folder = f"{store.path}/restored"
    found.machine.run(f"mkdir {folder}; vmkfstools -c 64M -d thin {folder}/d.vmdk")
    with RemoteTarget(found.starter, f"{folder}/d-flat.vmdk") as target:
        lanes = [target.lane(), target.lane()]
        for number, data in enumerate(wanted):
            if data.count(0) < MIB:
                lanes[number % 2].write(memoryview(data), number * MIB)
        target.sync()
        for number, data in enumerate(wanted):
            (digest,) = lanes[0].ask([(number * MIB, MIB)]).hashes()
            assert digest == (None if data.count(0) == MIB else hashlib.sha256(data).digest())
    assert found.agents() == []
    assert expected(found, f"{folder}/d.vmdk") == wanted
    written = sum(MIB for data in wanted if data.count(0) < MIB)
    assert found.outside(f"{folder}/d-flat.vmdk").stat().st_blocks * 512 <= written + MIB
    said = found.machine.run(f"vmkfstools -e {folder}/d.vmdk; vmkfstools -U {folder}/d.vmdk; rmdir {folder}")
    assert "Disk chain is consistent" in said.stdout


@pytest.mark.parametrize("name", ["esx60", "esx67", "esx80", "esxbusy"])
def test_our_snapshot_can_go_as_soon_as_the_disk_is_closed(desk: Any, name: str) -> None:
    found, source, snapshot = desk(name)
    with Ladder(found.host, "job-3").opened(source, found.open) as (disk, reading):
        assert (reading.way == "clone") == (name == "esxbusy")
        for lane in [disk.lane() for _lane in range(3)]:
            lane.ask(pieces(disk.size)).hashes()
        # Requests that nobody has waited for.
        lane.ask(pieces(disk.size))
        lane.fetch(pieces(disk.size))
    snapshots.remove(found.vm, snapshot)
    assert not snapshots.consolidation_needed(found.vm)
    assert [one.name for one in snapshots.tree(found.vm)] == ["mine"]
