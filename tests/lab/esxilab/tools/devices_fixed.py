# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Devices that every VM has, and those that a .vmx names besides disks and network cards.

Keys are those of the transcripts and of the API; the fields that no tool reads are kept short.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from esxilab.hostd.vmodl import NOTHING, UNSET, Arr, Null, Obj

if TYPE_CHECKING:
    from esxilab.hostd.machine import Vm

DEVICE = "vim.vm.device.VirtualDevice"
_CDROM = re.compile(r"^(ide|sata|scsi)(\d+):(\d+)\.devicetype$", re.IGNORECASE)
#: First key of the drives on a bus, and keys per controller.
_DRIVES = {"ide": (3000, 2, 200), "sata": (16000, 30, 15000), "scsi": (2000, 16, 1000)}


def _device(
    kind: str,
    key: int,
    label: str,
    summary: str,
    place: tuple[Any, Any],
    more: Sequence[tuple[str, Any]] = (),
    backing: Any = None,
) -> Obj:
    info = Obj("vim.Description", [("label", label), ("summary", summary)])
    fields: list[tuple[str, Any]] = [
        ("key", key),
        ("deviceInfo", info),
        ("backing", backing or Null(f"{DEVICE}.BackingInfo")),
        ("connectable", Null(f"{DEVICE}.ConnectInfo")),
        ("slotInfo", Null(f"{DEVICE}.BusSlotInfo")),
        ("controllerKey", place[0]),
        ("unitNumber", place[1]),
    ]
    return Obj(f"vim.vm.device.{kind}", [*fields, *more])


def _bus(number: int, members: list[int]) -> list[tuple[str, Any]]:
    return [("busNumber", number), ("device", Arr("int", members) if members else NOTHING)]


def controllers(vm: Vm, members: list[int]) -> list[Obj]:
    """What stands before the disks' controllers; `members` are the keys on the PCI bus."""
    nowhere = (UNSET, UNSET)
    return [
        _device("VirtualPS2Controller", 300, "PS2 controller 0", "PS2 controller 0", nowhere, _bus(0, [600, 700])),
        _device("VirtualPCIController", 100, "PCI controller 0", "PCI controller 0", nowhere, _bus(0, members)),
        _device("VirtualSIOController", 400, "SIO controller 0", "SIO controller 0", nowhere, _bus(0, [])),
        _device("VirtualKeyboard", 600, "Keyboard", "Keyboard", (300, 0)),
        _device(
            "VirtualPointingDevice",
            700,
            "Pointing device",
            "Pointing device; Device",
            (300, 1),
            backing=Obj(
                "vim.vm.device.VirtualPointingDevice.DeviceBackingInfo",
                [("deviceName", ""), ("useAutoDetect", False), ("hostPointingDevice", "autodetect")],
            ),
        ),
        _device(
            "VirtualMachineVideoCard",
            500,
            "Video card",
            "Video card",
            (100, 0),
            [("videoRamSizeInKB", 4096), ("numDisplays", 1), ("useAutoDetect", False), ("enable3DSupport", False)],
        ),
    ]


def pci_members(vm: Vm) -> list[int]:
    keys = [500]
    if vm.config.values.flag("vmci0.present"):
        keys.append(12000)
    keys += [controller.key for controller in vm.config.controllers()]
    return keys + [nic.key for nic in vm.config.nics()]


def others(vm: Vm) -> list[Obj]:
    """CD drives, floppies, USB and VMCI, as far as the .vmx has them."""
    values = vm.config.values
    found: list[Obj] = []
    if values.flag("vmci0.present"):
        fields = [("id", UNSET), ("allowUnrestrictedCommunication", False), ("filterEnable", True)]
        text = "Device on the virtual machine PCI bus for the virtual machine communication interface"
        found.append(_device("VirtualMachineVMCIDevice", 12000, "VMCI device", text, (100, 17), fields))
    drives = 0
    for name, value in values.items():
        match = _CDROM.match(name)
        if not match or not value.lower().startswith(("cdrom", "atapi-cdrom")):
            continue
        kind, bus, unit = match.group(1).lower(), int(match.group(2)), int(match.group(3))
        if not values.flag(f"{kind}{bus}:{unit}.present"):
            continue
        first, per_bus, controller = _DRIVES[kind]
        drives += 1
        found.append(
            _cdrom(vm, f"{kind}{bus}:{unit}", value, first + per_bus * bus + unit, (controller + bus, unit), drives)
        )
    if values.flag("floppy0.present"):
        found.append(_device("VirtualFloppy", 8000, "Floppy drive 1", "Remote", (400, 0)))
    if values.flag("usb.present"):
        fields = [*_bus(0, []), ("autoConnectDevices", False), ("ehciEnabled", values.flag("ehci.present"))]
        found.append(_device("VirtualUSBController", 7000, "USB controller", "USB controller", (100, 22), fields))
    return found


def _cdrom(vm: Vm, node: str, kind: str, key: int, place: tuple[int, int], number: int) -> Obj:
    name = vm.config.values.get(f"{node}.fileName")
    if kind.lower() == "cdrom-image":
        path = vm.host.volumes.api_path(vm.config.absolute(name))
        backing = Obj("vim.vm.device.VirtualCdrom.IsoBackingInfo", [("fileName", path), ("backingObjectId", UNSET)])
        summary = f"ISO {path}"
    else:
        fields = [("deviceName", name), ("useAutoDetect", False)]
        backing = Obj("vim.vm.device.VirtualCdrom.AtapiBackingInfo", fields)
        summary = f"ATAPI {name}"
    return _device("VirtualCdrom", key, f"CD/DVD drive {number}", summary, place, backing=backing)
