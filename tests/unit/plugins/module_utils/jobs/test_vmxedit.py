# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.vmxedit import NewPlace, Rewritten, disk_names, rewrite
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import parse_vmx

VMX = """.encoding = "UTF-8"
displayName = "web01"
annotation = "two|0Alines with |22quotes|22"
virtualHW.version = "14"
nvram = "web01.nvram"
extendedConfigFile = "web01.vmxf"
uuid.bios = "56 4d 36 cf 69 88 c9 1d-0f 5f a6 26 28 d4 65 53"
uuid.location = "56 4d 36 cf 69 88 c9 1d-0f 5f a6 26 28 d4 65 53"
vc.uuid = "52 f1 c3 a4 0c 1d 4c 8e-9b 69 0d 0b 3f 6c 1a 11"
scsi0.present = "TRUE"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web01-000002.vmdk"
scsi0:0.redo = ""
scsi0:0.mode = "persistent"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "/vmfs/volumes/u2/web01_1.vmdk"
sched.scsi0:1.shares = "normal"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "/vmfs/volumes/iso/a.iso"
ide1:0.startConnected = "TRUE"
floppy0.present = "TRUE"
floppy0.fileType = "file"
floppy0.fileName = "/vmfs/volumes/iso/a.flp"
ethernet0.present = "TRUE"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "00:0c:29:d4:65:53"
ethernet0.generatedAddressOffset = "0"
ethernet1.present = "TRUE"
ethernet1.networkName = "DMZ"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:00:00:01"
sched.swap.derivedName = "/vmfs/volumes/u1/web01/web01-9f48cfff.vswp"
migrate.hostlog = "./web01-6b6f8ae3.hlog"
checkpoint.vmState = "web01.vmss"
workingDir = "/vmfs/volumes/u1/web01"
"""


def rewritten(**changes: Any) -> Rewritten:
    values: dict[str, Any] = {
        "name": "web01 again",
        "disks": {"scsi0:0": "new.vmdk", "scsi0:1": "new_1.vmdk"},
        "restored_from": "id@20261122T200000Z",
        "nvram": "new.nvram",
    }
    return rewrite(parse_vmx(VMX, "web01.vmx"), NewPlace(**{**values, **changes}))


def test_disks_are_named_after_the_restored_base_disks() -> None:
    vmx = rewritten().vmx
    assert [(disk.key, disk.file) for disk in vmx.disks()] == [("scsi0:0", "new.vmdk"), ("scsi0:1", "new_1.vmdk")]
    assert vmx["scsi0:0.mode"] == "persistent"


def test_a_disk_that_is_not_in_the_restore_point_is_taken_out_and_told() -> None:
    found = rewritten(disks={"scsi0:0": "new.vmdk"})
    assert [disk.key for disk in found.vmx.disks()] == ["scsi0:0"]
    assert not any(key.lower().startswith("scsi0:1.") for key in found.vmx)
    assert any("scsi0:1" in note for note in found.notes)


@pytest.mark.parametrize(
    "key", ["sched.swap.derivedName", "migrate.hostlog", "checkpoint.vmState", "workingDir", "scsi0:0.redo"]
)
def test_what_belonged_to_the_old_life_is_dropped(key: str) -> None:
    assert key in parse_vmx(VMX, "x") and key not in rewritten().vmx


def test_files_that_do_not_come_along_are_not_named() -> None:
    vmx = rewritten(vmxf=None).vmx
    assert vmx["nvram"] == "new.nvram" and "extendedConfigFile" not in vmx


def test_everything_else_stays_to_the_letter() -> None:
    before, after = parse_vmx(VMX, "x"), rewritten().vmx
    for key in ("annotation", "virtualHW.version", "sched.scsi0:1.shares", "scsi0.present"):
        assert after[key] == before[key]
    assert after.display_name == "web01 again"


def test_a_kept_identity_is_kept_without_a_question() -> None:
    vmx = rewritten().vmx
    assert vmx["uuid.action"] == "keep"
    assert vmx.instance_uuid == "52f1c3a4-0c1d-4c8e-9b69-0d0b3f6c1a11"


def test_a_new_identity_leaves_nothing_of_the_old_one() -> None:
    vmx = rewritten(uuid="new", mac="new").vmx
    assert vmx["uuid.action"] == "create"
    assert (vmx.instance_uuid, vmx.bios_uuid, vmx.get("uuid.location")) == (None, None, None)


def test_new_addresses_leave_nothing_of_the_old_ones() -> None:
    vmx = rewritten(mac="new").vmx
    assert [nic.mac for nic in vmx.nics()] == [None, None]
    assert (vmx["ethernet1.addressType"], "ethernet1.address" in vmx) == ("generated", False)


def test_a_kept_address_outlives_a_new_identity() -> None:
    vmx = rewritten(uuid="new", mac="keep").vmx
    assert [nic.mac for nic in vmx.nics()] == ["00:0c:29:d4:65:53", "00:50:56:00:00:01"]
    assert vmx["ethernet0.addressType"] == "static" and vmx["ethernet0.checkMACAddress"] == "FALSE"
    assert "ethernet0.generatedAddress" not in vmx


def test_networks_are_mapped_by_name() -> None:
    assert [nic.network for nic in rewritten(networks={"DMZ": "Isolated"}).vmx.nics()] == ["VM Network", "Isolated"]


def test_cards_can_come_back_unconnected() -> None:
    assert not any(nic.connected for nic in rewritten(connect_networks=False).vmx.nics())


def test_absent_images_are_ejected_and_present_ones_stay() -> None:
    vmx = rewritten(absent_images=frozenset({"/vmfs/volumes/iso/a.iso"})).vmx
    assert (vmx["ide1:0.deviceType"], vmx["ide1:0.startConnected"]) == ("cdrom-raw", "FALSE")
    assert "/vmfs/volumes/iso/a.iso" not in vmx.values()
    assert vmx["floppy0.fileName"] == "/vmfs/volumes/iso/a.flp"


def test_an_absent_floppy_is_ejected_too() -> None:
    vmx = rewritten(absent_images=frozenset({"/vmfs/volumes/iso/a.flp"})).vmx
    assert (vmx["floppy0.fileType"], vmx["ide1:0.fileName"]) == ("device", "/vmfs/volumes/iso/a.iso")


def test_the_new_text_reads_back_as_the_same_configuration() -> None:
    vmx = rewritten().vmx
    assert dict(parse_vmx(vmx.render(), "x")) == dict(vmx)


def test_disks_are_named_as_the_host_names_them() -> None:
    assert disk_names("web", ["scsi0:0", "scsi0:1", "sata0:0"]) == {
        "scsi0:0": "web.vmdk",
        "scsi0:1": "web_1.vmdk",
        "sata0:0": "web_2.vmdk",
    }
