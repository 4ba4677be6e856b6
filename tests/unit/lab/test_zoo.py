# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zoo's animals on one bench: what a description makes, what it refuses, and what the host then answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from esxilab import disks, topology, zoo
from esxilab.errors import LabError
from esxilab.hostd import Hostd
from esxilab.locks import LockTable

QUICK = {"snapshot_seconds": 0, "tools_seconds": 0, "shutdown_seconds": 0, "guest_kib_per_second": 800}
STORE = {"name": "datastore1", "type": "vmfs6", "size": "128M"}


def lab_of(vms: list[dict[str, Any]], stores: list[dict[str, Any]] | None = None) -> topology.Topology:
    host = {"name": "esx1", "profile": "7.0", "switches": QUICK, "datastores": stores or [STORE], "vms": vms}
    return topology.build({"hosts": [host]}, "bench", "127.0.21.0", 2222)


Up = Callable[..., Hostd]


@pytest.fixture
def up(volume: Callable[[int], Path], tmp_path: Path) -> Iterator[Up]:
    started: list[Hostd] = []

    def make(vms: list[dict[str, Any]], stores: list[dict[str, Any]] | None = None) -> Hostd:
        (machine,) = lab_of(vms, stores).hosts
        places = {store["uuid"]: volume(store["size"] >> 20) for store in machine.config["datastores"]}
        (tmp_path / "root").mkdir()
        host = Hostd(machine.config, places, locks, root=tmp_path / "root")
        host.provision()
        started.append(host)
        return host

    with LockTable() as locks:
        yield make
        for host in started:
            host.shutdown()


def answer(host: Hostd, *words: str) -> dict[str, Any]:
    return host.handle({"tool": "vim-cmd", "argv": list(words), "cwd": "/", "pid": os.getpid()})


def test_the_zoo_and_the_hostile_names_are_descriptions_without_a_mistake() -> None:
    assert {host.profile for host in topology.build(zoo.zoo(), "zoo", "127.0.21.0", 2222).hosts} >= {
        "6.7",
        "7.0",
        "8.0",
    }
    every = topology.build(zoo.names(topology.PROFILES, everything=True), "names", "127.0.21.0", 2222)
    assert [host.profile for host in every.hosts] == list(topology.PROFILES)
    assert max(len(name) for name in zoo.HOSTILE_NAMES) == len(zoo.NASTIEST[:80].ljust(80)) == 80


@pytest.mark.parametrize(
    ("vm", "word"),
    [
        (zoo.vm("x", zoo.small(), colour="red"), "'colour'"),
        (zoo.vm("x", zoo.small(colour="red")), "'colour'"),
        (zoo.vm("x", zoo.small("scsi9:0")), "no such slot"),
        (zoo.vm("x", zoo.small("scsi0:7")), "no such slot"),
        (zoo.vm("x", zoo.small("usb0:0")), "scsi0:1"),
        (zoo.vm("x", zoo.small(), zoo.small()), "twice"),
        (zoo.vm("x", zoo.small(mode="independent")), "independent-persistent"),
        (zoo.vm("x", zoo.small(kind="rdm")), "rdm-virtual"),
        (zoo.vm("x", {"key": "scsi0:0"}), "'size'"),
        (zoo.vm("x", {"key": "scsi0:0", "parent": {"dir": "nobody", "file": "x.vmdk"}}), "'nobody'"),
        (zoo.vm("x", zoo.small(file="a/b.vmdk")), "descriptor"),
        (zoo.vm("x", zoo.small(file="a.vmdk"), zoo.small("scsi0:1", file="a.vmdk")), "same file"),
        (zoo.vm("x", zoo.small(), snapshots=[{"name": "s", "from": 1}]), "branches off"),
        (zoo.vm("x", zoo.small(), power="maybe"), "'maybe'"),
        (zoo.vm("x", zoo.small(), power="on", template=True), "template"),
        (zoo.vm("x" * 81, zoo.small(), dir="x"), "80"),
        (zoo.vm("a/b", zoo.small()), "'dir'"),
        (zoo.vm("x", zoo.small(), datastore="nowhere"), "'nowhere'"),
    ],
)
def test_a_mistake_in_a_description_is_an_error_that_names_it(vm: dict[str, Any], word: str) -> None:
    with pytest.raises(LabError, match="esx1") as caught:
        lab_of([vm])
    assert word in str(caught.value)


def test_two_vms_in_one_folder_are_an_error() -> None:
    with pytest.raises(LabError, match="folder"):
        lab_of([zoo.vm("twin", zoo.small()), zoo.vm("twin", zoo.small())])


def test_a_raw_device_is_a_mapping_that_every_command_knows(up: Up) -> None:
    host = up([zoo.vm("raw", zoo.small("scsi0:1", kind="rdm-physical"), zoo.small("scsi0:2", kind="rdm-virtual"))])
    folder = host.vm("1").folder
    types = [disks.read_descriptor(str(folder / name)).create_type for name in ("raw.vmdk", "raw_1.vmdk")]
    assert types == ["vmfsPassthroughRawDeviceMap", "vmfsRawDeviceMap"]
    assert {"raw-rdmp.vmdk", "raw_1-rdm.vmdk"} <= set(os.listdir(folder))
    assert 'RW 8192 VMFSRDM "raw-rdmp.vmdk"' in (folder / "raw.vmdk").read_text()
    text = answer(host, "vmsvc/device.getdevices", "1")["stdout"]
    assert text.count("RawDiskMappingVer1BackingInfo) {") == 2
    assert 'compatibilityMode = "physicalMode"' in text and 'compatibilityMode = "virtualMode"' in text


def test_snapshots_branch_and_may_share_a_name(up: Up) -> None:
    wanted = [{"name": "root"}, {"name": "twice"}, {"name": "twice", "from": 1}]
    host = up([zoo.vm("tree", zoo.small(), power="on", snapshots=wanted)])
    tree = host.vm("1").snapshots()
    assert [(one.uid, one.name, one.parent) for one in tree.snapshots] == [
        (1, "root", None),
        (2, "twice", 1),
        (3, "twice", 1),
    ]
    assert answer(host, "vmsvc/snapshot.get", "1")["stdout"].count("Snapshot Name        : twice") == 2


def test_a_linked_clone_never_writes_to_nor_deletes_what_is_another_vms(up: Up) -> None:
    parent = {"key": "scsi0:0", "parent": {"dir": "golden", "file": "golden.vmdk"}}
    host = up(
        [
            zoo.vm("golden", zoo.disk("scsi0:0"), snapshots=[{"name": "base"}]),
            zoo.vm("clone", parent, power="on"),
        ]
    )
    golden, clone = host.vm("1"), host.vm("2")
    before = (golden.folder / "golden-flat.vmdk").read_bytes()
    files = set(os.listdir(golden.folder))
    assert answer(host, "vmsvc/snapshot.create", "2", "s")["rc"] == 0
    clone.host.clock.sleep(0.3)
    assert answer(host, "vmsvc/snapshot.removeall", "2")["rc"] == 0
    assert not clone.needs_consolidation()
    assert disks.read_descriptor(str(clone.folder / "clone.vmdk")).is_child
    assert answer(host, "vmsvc/power.off", "2")["rc"] == 0
    assert answer(host, "vmsvc/destroy", "2")["rc"] == 0
    assert (golden.folder / "golden-flat.vmdk").read_bytes() == before
    assert set(os.listdir(golden.folder)) == files


def test_what_cannot_be_seen_is_skipped_and_a_template_is_listed_and_never_starts(up: Up) -> None:
    lost = {"name": "gone", "type": "vmfs6", "size": "16M", "lost": True}
    host = up(
        [
            zoo.vm("broken", zoo.small(), invalid=True),
            zoo.vm("away", zoo.small(), datastore="gone"),
            zoo.vm("form", zoo.small(), template=True),
        ],
        [STORE, lost],
    )
    listing = answer(host, "vmsvc/getallvms")
    assert listing["stderr"] == "Skipping invalid VM '1'\nSkipping invalid VM '2'\n"
    assert "[datastore1] form/form.vmtx" in listing["stdout"]
    assert answer(host, "vmsvc/power.on", "3")["rc"] != 0
    assert "gone" not in answer(host, "hostsvc/datastore/listsummary")["stdout"]


def test_a_pass_through_device_refuses_a_memory_snapshot_of_a_running_vm_only(up: Up) -> None:
    host = up([zoo.vm("gpu", zoo.small(), power="on", passthrough=True)])
    snapshots = host.vm("1").snapshots
    answer(host, "vmsvc/snapshot.create", "1", "with memory", "", "1", "0")
    host.clock.sleep(0.5)
    assert snapshots().snapshots == []
    answer(host, "vmsvc/snapshot.create", "1", "without", "", "0", "0")
    host.clock.sleep(0.5)
    assert [one.name for one in snapshots().snapshots] == ["without"]


def test_the_keys_of_an_encrypted_vm_are_in_its_vmx_and_its_disk_keeps_its_mark_in_a_clone(up: Up) -> None:
    host = up([zoo.vm("sealed", zoo.small(encrypted=True), encrypted=True, vtpm=True)])
    values = host.vm("1").config.values
    assert values.get("encryption.keySafe") and values.get("encryption.data") and values.flag("vtpm.present")
    folder = host.vm("1").folder
    made = disks.clone(str(folder / "sealed.vmdk"), str(folder / "copy.vmdk"), "thin")
    assert made.ddb["ddb.iofilters"] == "vmwarevmcrypt"


def test_a_disk_of_more_than_two_terabytes_gets_a_sesparse_delta_on_vmfs5(up: Up) -> None:
    host = up([zoo.vm("huge", zoo.small(size="2049G", blank=True))], [{**STORE, "type": "vmfs5"}])
    answer(host, "vmsvc/snapshot.create", "1", "s")
    host.clock.sleep(0.5)
    assert disks.read_descriptor(str(host.vm("1").folder / "huge-000001.vmdk")).create_type == "seSparse"
