# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A VM as its .vmx describes it: disks, controllers, network cards, identity."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from .dictfile import DictFile
from .volumes import Volumes

_NODE = re.compile(r"^(scsi|sata|ide|nvme)(\d+):(\d+)\.filename$", re.IGNORECASE)
_CONTROLLER = re.compile(r"^(scsi|sata|nvme)(\d+)\.present$", re.IGNORECASE)
_NIC = re.compile(r"^ethernet(\d+)\.present$", re.IGNORECASE)
_DELTA = re.compile(r"^(.*)-(\d{6})\.vmdk$")

#: First device key of the disks, keys per bus, and first key of the controllers.
_KEYS = {"scsi": (2000, 16, 1000), "ide": (3000, 2, 200), "sata": (16000, 30, 15000), "nvme": (32000, 64, 31000)}


@dataclass(frozen=True)
class DiskDevice:
    """One disk slot of the .vmx."""

    node: str
    bus_type: str
    bus: int
    unit: int
    file: str
    #: Absolute path of the descriptor inside the host, with the datastore's uuid.
    path: str
    mode: str
    sharing: str

    @property
    def key(self) -> int:
        first, per_bus, _ = _KEYS[self.bus_type]
        return first + per_bus * self.bus + self.unit

    @property
    def controller_key(self) -> int:
        return _KEYS[self.bus_type][2] + self.bus

    @property
    def independent(self) -> bool:
        return self.mode.startswith("independent")


@dataclass(frozen=True)
class Controller:
    bus_type: str
    bus: int
    device: str
    sharing: str = "noSharing"

    @property
    def key(self) -> int:
        return _KEYS[self.bus_type][2] + self.bus


@dataclass(frozen=True)
class Nic:
    index: int
    device: str
    network: str
    mac: str
    mac_type: str
    connected: bool

    @property
    def key(self) -> int:
        return 4000 + self.index


class VmConfig:
    """The values of one .vmx, and the folder that its relative names belong to."""

    def __init__(self, values: DictFile, vmx_path: str, volumes: Volumes) -> None:
        self.values = values
        self.vmx_path = vmx_path
        self.folder = os.path.dirname(vmx_path)
        self._volumes = volumes

    @property
    def base_name(self) -> str:
        """The .vmx's own name without its ending; logs, swap and snapshot files are named after it."""
        return os.path.splitext(os.path.basename(self.vmx_path))[0]

    @property
    def name(self) -> str:
        return self.values.get("displayName") or self.base_name

    @property
    def guest_id(self) -> str:
        """`guestOS = "debian10-64"` of the file is `debian10_64Guest` in the API."""
        text = self.values.get("guestOS", "otherlinux-64")
        known = {"other": "otherGuest", "otherlinux": "otherLinuxGuest", "otherlinux-64": "otherLinux64Guest"}
        if text in known:
            return known[text]
        if text.endswith("Guest"):
            return text
        stem, dash, bits = text.partition("-")
        glue = "_" if dash and stem[-1:].isdigit() else ""
        return f"{stem}{glue}{bits}Guest"

    @property
    def hardware(self) -> int:
        return self.values.number("virtualHW.version", 8)

    @property
    def memory_mb(self) -> int:
        return self.values.number("memSize", self.values.number("memsize", 256))

    @property
    def cpus(self) -> int:
        return self.values.number("numvcpus", 1)

    @property
    def annotation(self) -> str:
        return self.values.get("annotation")

    @property
    def bios_uuid(self) -> str:
        return dashed(self.values.get("uuid.bios"))

    @property
    def instance_uuid(self) -> str:
        return dashed(self.values.get("vc.uuid"))

    @property
    def has_tools(self) -> bool:
        return "guestinfo.vmtools.versionNumber" in self.values

    def absolute(self, name: str) -> str:
        return self._volumes.inside(name, self.folder)

    def disks(self) -> list[DiskDevice]:
        found = []
        for key, value in self.values.items():
            match = _NODE.match(key)
            if not match or not value.lower().endswith(".vmdk"):
                continue
            bus_type, bus, unit = match.group(1).lower(), int(match.group(2)), int(match.group(3))
            node = f"{bus_type}{bus}:{unit}"
            if not self.values.flag(f"{node}.present"):
                continue
            mode = self.values.get(f"{node}.mode") or "persistent"
            sharing = self.values.get(f"{node}.sharing")
            found.append(DiskDevice(node, bus_type, bus, unit, value, self.absolute(value), mode, sharing))
        return sorted(found, key=lambda disk: disk.key)

    @staticmethod
    def key_of(node: str) -> int:
        """The device key of a slot such as scsi0:1."""
        match = _NODE.match(f"{node}.fileName")
        if match is None:
            return -1
        first, per_bus, _ = _KEYS[match.group(1).lower()]
        return first + per_bus * int(match.group(2)) + int(match.group(3))

    def controllers(self) -> list[Controller]:
        found = []
        for key, value in self.values.items():
            match = _CONTROLLER.match(key)
            if match and value.lower() == "true":
                kind, bus = match.group(1).lower(), int(match.group(2))
                device = self.values.get(f"{kind}{bus}.virtualDev") or {"scsi": "lsilogic"}.get(kind, kind)
                shared = {"virtual": "virtualSharing", "physical": "physicalSharing"}
                sharing = shared.get(self.values.get(f"{kind}{bus}.sharedBus"), "noSharing")
                found.append(Controller(kind, bus, device, sharing))
        return sorted(found, key=lambda item: item.key)

    def nics(self) -> list[Nic]:
        found = []
        for key, value in self.values.items():
            match = _NIC.match(key)
            if not match or value.lower() != "true":
                continue
            slot = f"ethernet{match.group(1)}"
            kind = self.values.get(f"{slot}.addressType") or "generated"
            mac = self.values.get(f"{slot}.address") if kind == "static" else ""
            found.append(
                Nic(
                    int(match.group(1)),
                    self.values.get(f"{slot}.virtualDev") or "vmxnet3",
                    self.values.get(f"{slot}.networkName"),
                    mac or self.values.get(f"{slot}.generatedAddress") or self.values.get(f"{slot}.address"),
                    {"static": "manual", "vpx": "assigned"}.get(kind, "generated"),
                    self.values.flag(f"{slot}.startConnected", True),
                )
            )
        return sorted(found, key=lambda nic: nic.index)

    def set_disk_file(self, node: str, path: str) -> None:
        """Point a slot at another descriptor, written relative where it lies in the VM's folder."""
        self.values.set(f"{node}.fileName", self.shorten(path))

    def shorten(self, path: str) -> str:
        return os.path.basename(path) if os.path.dirname(path) == self.folder else path


def split_delta(path: str) -> tuple[str, int]:
    """Base name (without .vmdk) and number of a descriptor's path: number 0 for a base disk."""
    match = _DELTA.match(path)
    if match:
        return match.group(1), int(match.group(2))
    return path[: -len(".vmdk")], 0


def dashed(spaced: str) -> str:
    """`56 4d … -… 53` of the file as `564d36cf-6988-c91d-0f5f-a62628d46553`."""
    digits = re.sub(r"[^0-9a-fA-F]", "", spaced).lower()
    if len(digits) != 32:
        return ""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def spaced(uuid: str) -> str:
    """The reverse of dashed."""
    digits = uuid.replace("-", "").lower()
    pairs = [digits[i : i + 2] for i in range(0, 32, 2)]
    return " ".join(pairs[:8]) + "-" + " ".join(pairs[8:])


def location_uuid(vmx_path: str) -> str:
    """What uuid.location must be for a VM that lies there."""
    return spaced("564d" + hashlib.sha256(vmx_path.encode()).hexdigest()[:28])
