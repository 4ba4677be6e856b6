# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import BadDictionary
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import escape, parse_vmx, unescape, uuid_of
from hypothesis import given
from hypothesis import strategies as st

TEXT = """\
.encoding = "UTF-8"
displayName = "a |22quoted|22 $(reboot) ünï [x] -rf"
annotation = "one|0Atwo"
virtualHW.version = "14"
firmware = "efi"
uuid.bios = "56 4d 36 cf 69 88 c9 1d-0f 5f a6 26 28 d4 65 53"
vc.uuid = "52 f1 c3 a4 0c 1d 4c 8e-9b 69 0d 0b 3f 6c 1a 11"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi1.present = "TRUE"
scsi1.sharedBus = "physical"
scsi0:10.fileName = "ten.vmdk"
scsi0:10.present = "TRUE"
scsi0:2.fileName = "/vmfs/volumes/other/two.vmdk"
scsi0:2.present = "TRUE"
scsi0:2.mode = "independent-persistent"
SCSI0:0.filename = "zero-000001.vmdk"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.present = "TRUE"
scsi0:0.sharing = "multi-writer"
scsi1:0.fileName = "shared.vmdk"
scsi1:0.present = "TRUE"
scsi0:3.fileName = "gone.vmdk"
scsi0:3.present = "FALSE"
sata0:0.present = "TRUE"
sata0:0.deviceType = "cdrom-image"
sata0:0.fileName = "/vmfs/volumes/iso/debian.iso"
ethernet0.present = "TRUE"
ethernet0.networkName = "VM Network"
ethernet0.virtualDev = "vmxnet3"
ethernet0.generatedAddress = "00:0C:29:AA:BB:CC"
ethernet1.present = "FALSE"
vtpm.present = "TRUE"
pciPassthru0.present = "TRUE"
"""


@pytest.fixture
def vmx():
    return parse_vmx(TEXT, "a.vmx")


def test_names_and_notes_come_back_unescaped(vmx):
    assert vmx.display_name == 'a "quoted" $(reboot) ünï [x] -rf'
    assert vmx["annotation"] == "one\ntwo"


def test_identity_has_one_form(vmx):
    assert vmx.bios_uuid == "564d36cf-6988-c91d-0f5f-a62628d46553"
    assert vmx.instance_uuid == "52f1c3a4-0c1d-4c8e-9b69-0d0b3f6c1a11"
    assert uuid_of("564D36CF-6988-C91D-0F5F-A62628D46553") == vmx.bios_uuid
    assert uuid_of("") is None and uuid_of("00 " * 16) is None and uuid_of("564d") is None


def test_disks_are_the_present_ones_in_the_order_of_their_numbers(vmx):
    assert [disk.key for disk in vmx.disks()] == ["scsi0:0", "scsi0:2", "scsi0:10", "scsi1:0"]
    assert vmx.disks()[0].file == "zero-000001.vmdk" and vmx.disks()[0].sharing == "multi-writer"
    assert vmx.disks()[0].mode == "persistent" and vmx.disks()[1].mode == "independent-persistent"
    assert vmx.bus_sharing("scsi1:0") == "physical" and vmx.bus_sharing("scsi0:0") == "none"


def test_a_cd_is_not_a_disk(vmx):
    assert [device.key for device in vmx.removable()] == ["sata0:0"]


def test_network_and_devices(vmx):
    (nic,) = vmx.nics()
    assert (nic.network, nic.mac, nic.type) == ("VM Network", "00:0c:29:aa:bb:cc", "vmxnet3")
    assert (vmx.vtpm, vmx.encrypted, vmx.passthrough()) == (True, False, ("pcipassthru0",))
    assert (vmx.hardware_version, vmx.firmware) == (14, "efi")


def test_keys_are_changed_in_place_added_and_dropped_without_regard_to_case(vmx):
    changed = vmx.changed({"SCSI0:0.FILENAME": "zero.vmdk", "uuid.action": "create", "vc.uuid": None})
    assert changed.disks()[0].file == "zero.vmdk" and "vc.uuid" not in changed
    assert changed.render().splitlines()[-1] == 'uuid.action = "create"'
    assert 'SCSI0:0.filename = "zero.vmdk"' in changed.render()
    assert vmx.disks()[0].file == "zero-000001.vmdk", "the original is untouched"


def test_rendering_and_reading_again_gives_the_same(vmx):
    assert dict(parse_vmx(vmx.render(), "a.vmx")) == dict(vmx)
    assert vmx.render().splitlines()[1] == 'displayName = "a |22quoted|22 $(reboot) ünï [x] -rf"'


def test_damage_is_named_with_its_line():
    with pytest.raises(BadDictionary) as caught:
        parse_vmx('a = "1"\n\x00\x00garbage\n', "/x/a.vmx")
    assert "/x/a.vmx" in caught.value.message and "line 2" in caught.value.message


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_value_survives_escaping(value):
    assert unescape(escape(value)) == value
    assert "\n" not in escape(value) and '"' not in escape(value)
    assert parse_vmx(f'k = "{escape(value)}"\n', "k")["k"] == value
