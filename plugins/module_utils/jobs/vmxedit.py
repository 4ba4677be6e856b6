# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restored VM's configuration: the old one with the new place's names in it. Pure: a vmx in, a vmx out."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import REPLICA_PREFIX, Vmx

RESTORED_FROM = "stowage.restoredFrom"
#: After a restore in place: content ids and times of the disks. By them a second run knows that nobody touched them.
RESTORED_DISKS = "stowage.restoredDisks"

# What belongs to the life of the old VM: swap, suspend and migration state, places, redo logs.
_DROPPED_PREFIXES = ("checkpoint.", "migrate.", "sched.swap.", "snapshot.", "replay.")
_DROPPED_KEYS = ("workingdir", "suspend.directory", "snapshot.directory", "log.filename", "vmxstats.filename")
_REDO = re.compile(r"^(scsi|sata|ide|nvme)\d+:\d+\.redo$", re.IGNORECASE)
_FIXED_MAC = "static"
_IDENTITY = ("uuid.bios", "uuid.location", "vc.uuid")
_ADDRESS = ("addressType", "address", "generatedAddress", "generatedAddressOffset", "checkMACAddress")


@dataclass(frozen=True)
class NewPlace:
    """Where and as what the VM comes back."""

    name: str
    disks: Mapping[str, str]
    restored_from: str
    uuid: str = "keep"
    mac: str = "keep"
    networks: Mapping[str, str] = field(default_factory=dict)
    connect_networks: bool = True
    absent_images: frozenset[str] = frozenset()
    nvram: str | None = None
    vmxf: str | None = None


@dataclass(frozen=True)
class Rewritten:
    vmx: Vmx
    notes: tuple[str, ...]


def rewrite(vmx: Vmx, place: NewPlace) -> Rewritten:
    """Everything not named here stays as it was."""
    changes: dict[str, str | None] = {}
    notes: list[str] = []
    for key in vmx:
        low = key.lower()
        if low.startswith(_DROPPED_PREFIXES) or low in _DROPPED_KEYS or _REDO.match(low):
            changes[key] = None
        # A machine that comes back out of a replica is none.
        if low.startswith(REPLICA_PREFIX):
            changes[key] = None
            changes["annotation"] = plain_annotation(vmx.get("annotation", "")) or None
    changes["displayName"] = place.name
    changes[RESTORED_FROM] = place.restored_from
    changes[RESTORED_DISKS] = None
    changes["nvram"] = place.nvram
    changes["extendedConfigFile"] = place.vmxf
    _identity(place, changes, notes)
    _disks(vmx, place, changes, notes)
    _images(vmx, place, changes, notes)
    _nics(vmx, place, changes, notes)
    return Rewritten(Vmx(dict(vmx.changed(changes))), tuple(notes))


def _identity(place: NewPlace, changes: dict[str, str | None], notes: list[str]) -> None:
    """`uuid.action` answers the question "moved or copied?" before the host can ask it."""
    if place.uuid == "new":
        changes.update({"uuid.bios": None, "uuid.location": None, "vc.uuid": None, "uuid.action": "create"})
        notes.append("it gets a new identity when it is powered on")
    else:
        changes["uuid.action"] = "keep"


def _disks(vmx: Vmx, place: NewPlace, changes: dict[str, str | None], notes: list[str]) -> None:
    for disk in vmx.disks():
        if disk.key in place.disks:
            changes[f"{disk.key}.fileName"] = place.disks[disk.key]
            continue
        for key in vmx:
            if key.lower().startswith(disk.key + "."):
                changes[key] = None
        notes.append(f"disk {disk.key} is not in the restore point: the device was taken out")


def _images(vmx: Vmx, place: NewPlace, changes: dict[str, str | None], notes: list[str]) -> None:
    """An image that is not there keeps a VM from starting; an empty drive does not."""
    for device, file in images(vmx).items():
        if file not in place.absent_images:
            continue
        floppy = device.startswith("floppy")
        changes[f"{device}.fileName"] = "" if floppy else "emptyBackingString"
        changes[f"{device}.startConnected"] = "FALSE"
        changes[f"{device}.clientDevice"] = "TRUE"
        if floppy:
            changes[f"{device}.fileType"] = "device"
        else:
            changes[f"{device}.deviceType"] = "cdrom-raw"
        notes.append(f"{device}: {file} is not there, the drive was emptied")


def images(vmx: Vmx) -> dict[str, str]:
    """Device -> image file of every CD drive and floppy that has one."""
    found = {}
    for drive in vmx.removable():
        if "image" in drive.device_type.lower() and drive.file and drive.file.lower() != "emptybackingstring":
            found[drive.key] = drive.file
    for number in (0, 1):
        device = f"floppy{number}"
        file = vmx.get(f"{device}.fileName", "")
        if vmx.flag(f"{device}.present") and vmx.get(f"{device}.fileType", "").lower() == "file" and file:
            found[device] = file
    return found


def wanted_networks(vmx: Vmx, networks: Mapping[str, str]) -> dict[int, str]:
    """NIC number -> the port group it will ask for."""
    return {nic.index: networks.get(nic.network or "", nic.network or "") for nic in vmx.nics()}


def _nics(vmx: Vmx, place: NewPlace, changes: dict[str, str | None], notes: list[str]) -> None:
    wanted = wanted_networks(vmx, place.networks)
    for nic in vmx.nics():
        device = f"ethernet{nic.index}"
        if nic.network in place.networks:
            changes[f"{device}.networkName"] = wanted[nic.index]
            for key in vmx:
                if key.lower().startswith(f"{device}.dvs."):
                    changes[key] = None
        if not place.connect_networks:
            changes[f"{device}.startConnected"] = "FALSE"
        static = vmx.get(f"{device}.addressType", "").lower() == _FIXED_MAC
        if place.mac == "new":
            changes[f"{device}.generatedAddress"] = None
            changes[f"{device}.generatedAddressOffset"] = None
            changes[f"{device}.address"] = None
            changes[f"{device}.addressType"] = "generated"
        elif place.uuid == "new" and not static and nic.mac:
            # A generated address is made from the UUID: with a new one it stays only as a fixed address.
            changes[f"{device}.generatedAddress"] = None
            changes[f"{device}.generatedAddressOffset"] = None
            changes[f"{device}.addressType"] = _FIXED_MAC
            changes[f"{device}.address"] = nic.mac
            changes[f"{device}.checkMACAddress"] = "FALSE"
            notes.append(f"{device} keeps its address {nic.mac} as a fixed one")


def plain_annotation(text: str) -> str:
    """Without the line that a replica has above the machine's own."""
    return text.partition("\n")[2] if text.startswith("REPLICA of ") else text


def carried(vmx: Vmx, now: Vmx, keys: Sequence[str]) -> Vmx:
    """With these devices as the VM has them now, and with their controllers where the configuration has none."""
    changes: dict[str, str | None] = {}
    for device in keys:
        changes.update({key: None for key in vmx if key.lower().startswith(f"{device}.")})
        changes.update({key: now[key] for key in now if key.lower().startswith(f"{device}.")})
        controller = f"{device.partition(':')[0]}."
        if not any(key.lower().startswith(controller) for key in vmx):
            changes.update({key: now[key] for key in now if key.lower().startswith(controller)})
    return Vmx(dict(vmx.changed(changes)))


def own_identity(vmx: Vmx, now: Vmx, uuid: str, mac: str) -> Vmx:
    """`new` means: not that of the restore point. A VM that is there keeps its own."""
    changes: dict[str, str | None] = {}
    if uuid == "new":
        changes.update({key: now.get(key) for key in _IDENTITY})
    if mac == "new":
        for nic in now.nics():
            changes.update({f"ethernet{nic.index}.{key}": now.get(f"ethernet{nic.index}.{key}") for key in _ADDRESS})
    return Vmx(dict(vmx.changed(changes)))


def disk_names(stem: str, keys: list[str]) -> dict[str, str]:
    """`web.vmdk`, `web_1.vmdk`, … in the order of the device keys, as the host itself names them."""
    return {key: f"{stem}.vmdk" if number == 0 else f"{stem}_{number}.vmdk" for number, key in enumerate(keys)}


def stem_of(directory: str) -> str:
    return posixpath.basename(directory.rstrip("/"))
