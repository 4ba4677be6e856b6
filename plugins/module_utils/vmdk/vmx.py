# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import BadDictionary

_LINE = re.compile(r'^\s*([^\s=#"][^=]*?)\s*=\s*(?:"(.*)"|([^"]*?))\s*$')
_ESCAPE = re.compile(r"(?:\|[0-9A-Fa-f]{2})+")
_DEVICE = re.compile(r"^(scsi|sata|ide|nvme)(\d+):(\d+)\.(\w+)$", re.IGNORECASE)
_CONTROLLER = re.compile(r"^(scsi|sata|ide|nvme)(\d+)\.(\w+)$", re.IGNORECASE)
_NIC = re.compile(r"^ethernet(\d+)\.(\w+)$", re.IGNORECASE)

#: Our own keys, of a VM that is a replica of another one.
REPLICA_PREFIX = "stowage.replica"
REPLICA_OF, REPLICA_STATE = f"{REPLICA_PREFIX}Of", f"{REPLICA_PREFIX}State"
REPLICA_READY, REPLICA_ACTIVE = "ready", "active"


def unescape(value: str) -> str:
    """`|22` is a quote, `|0A` a newline, `|7C` the bar itself: a byte in hexadecimal."""
    return _ESCAPE.sub(lambda match: bytes.fromhex(match.group(0).replace("|", "")).decode("utf-8", "replace"), value)


def escape(value: str) -> str:
    return re.sub(r'[|"\x00-\x1f\x7f]', lambda match: f"|{ord(match.group(0)):02X}", value)


@dataclass(frozen=True)
class VmxDisk:
    """A disk device of a .vmx. `file` is as written there; `mode` is never empty."""

    key: str
    file: str
    mode: str
    sharing: str
    device_type: str
    present: bool


@dataclass(frozen=True)
class VmxNic:
    index: int
    network: str | None
    mac: str | None
    type: str
    present: bool
    connected: bool


class Dictionary(Mapping[str, str]):
    """A VMware dictionary file (.vmx, .vmsd): ordered `key = "value"` lines, keys found without regard to case."""

    def __init__(self, items: Mapping[str, str] | None = None) -> None:
        self._items: dict[str, tuple[str, str]] = {}
        for key, value in (items or {}).items():
            self._items[key.lower()] = (key, value)

    def __getitem__(self, key: str) -> str:
        return self._items[key.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (key for key, _value in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._items

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        return default if value is None or not value.strip() else value.strip().lower() in ("true", "yes", "1", "on")

    def changed(self, values: Mapping[str, str | None]) -> Dictionary:
        """A copy with these keys set in place (new ones at the end), those given as None left out."""
        items = dict(self._items)
        for key, value in values.items():
            if value is None:
                items.pop(key.lower(), None)
            else:
                items[key.lower()] = (items.get(key.lower(), (key, ""))[0], value)
        copy = type(self)()
        copy._items = items
        return copy

    def render(self) -> str:
        return "".join(f'{key} = "{escape(value)}"\n' for key, value in self._items.values())


def parse_dictionary(text: str, path: str) -> Dictionary:
    """Read a .vmx or .vmsd. A repeated key keeps its last value, as the host reads it."""
    items: dict[str, str] = {}
    for number, raw in enumerate(text.lstrip("\ufeff").split("\n"), start=1):
        line = raw.rstrip("\r")
        if not line.strip() or line.lstrip().startswith(("#", "//")):
            continue
        match = _LINE.match(line)
        if not match:
            raise BadDictionary(path=path, line=number, reason=f'not in the form key = "value": {line[:80]!r}')
        key, quoted, bare = match.groups()
        items[key] = unescape(bare if quoted is None else quoted)
    return Dictionary(items)


class Vmx(Dictionary):
    """A VM's configuration file."""

    @property
    def display_name(self) -> str:
        return self.get("displayName", "")

    @property
    def instance_uuid(self) -> str | None:
        return uuid_of(self.get("vc.uuid", ""))

    @property
    def bios_uuid(self) -> str | None:
        return uuid_of(self.get("uuid.bios", ""))

    @property
    def replica_state(self) -> str:
        """`ready` or `active`, as `stowage.esxi.replicate` has written into its replicas; empty for any other VM."""
        return (self.get(REPLICA_STATE) or REPLICA_READY) if self.get(REPLICA_OF) else ""

    @property
    def hardware_version(self) -> int | None:
        text = self.get("virtualHW.version", "")
        return int(text) if text.isdigit() else None

    @property
    def firmware(self) -> str:
        return self.get("firmware", "") or "bios"

    def disks(self) -> tuple[VmxDisk, ...]:
        """Present disks in the order of their device keys; CD drives and devices without a file are not disks."""
        return tuple(device for device in self._devices() if device.present and _is_disk(device))

    def removable(self) -> tuple[VmxDisk, ...]:
        """Present drives of the same buses that are not disks (CD images and the like)."""
        return tuple(device for device in self._devices() if device.present and not _is_disk(device))

    def _devices(self) -> Iterator[VmxDisk]:
        found: dict[tuple[str, int, int], dict[str, str]] = {}
        for key, value in self.items():
            match = _DEVICE.match(key)
            if match:
                bus, number, unit, name = match.groups()
                found.setdefault((bus.lower(), int(number), int(unit)), {})[name.lower()] = value
        for (bus, number, unit), values in sorted(found.items()):
            controller_off = self.get(f"{bus}{number}.present", "TRUE").lower() == "false"
            yield VmxDisk(
                key=f"{bus}{number}:{unit}",
                file=values.get("filename", ""),
                mode=values.get("mode", "") or "persistent",
                sharing=values.get("sharing", "") or "none",
                device_type=values.get("devicetype", ""),
                present=values.get("present", "FALSE").lower() == "true" and not controller_off,
            )

    def bus_sharing(self, key: str) -> str:
        """`none`, `virtual` or `physical`: how the controller of device `key` is shared."""
        return self.get(f"{key.split(':', 1)[0]}.sharedBus", "") or "none"

    def nics(self) -> tuple[VmxNic, ...]:
        found: dict[int, dict[str, str]] = {}
        for key, value in self.items():
            match = _NIC.match(key)
            if match:
                found.setdefault(int(match.group(1)), {})[match.group(2).lower()] = value
        return tuple(
            VmxNic(
                index=index,
                network=values.get("networkname") or values.get("dvs.portgroupid") or None,
                mac=(values.get("address") or values.get("generatedaddress") or "").lower() or None,
                type=values.get("virtualdev", "") or "vlance",
                present=True,
                connected=values.get("startconnected", "TRUE").lower() == "true",
            )
            for index, values in sorted(found.items())
            if values.get("present", "FALSE").lower() == "true"
        )

    def passthrough(self) -> tuple[str, ...]:
        keys = {key.split(".")[0].lower() for key in self if key.lower().startswith("pcipassthru")}
        return tuple(sorted(key for key in keys if self.flag(f"{key}.present")))

    @property
    def vtpm(self) -> bool:
        return self.flag("vtpm.present")

    @property
    def encrypted(self) -> bool:
        return any(key in self for key in ("encryption.keySafe", "encryption.data", "encryption.bundle"))


def parse_vmx(text: str, path: str) -> Vmx:
    plain = parse_dictionary(text, path)
    return Vmx(dict(plain))


def uuid_of(text: str) -> str | None:
    """`56 4d 36 cf …-0f 5f …` and `564d36cf-6988-…` are the same identity: 32 digits in the usual groups."""
    digits = re.sub(r"[^0-9a-f]", "", text.lower())
    if len(digits) != 32 or digits == "0" * 32:
        return None
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _is_disk(device: VmxDisk) -> bool:
    if "cdrom" in device.device_type.lower() or "floppy" in device.device_type.lower():
        return False
    return device.file.lower().endswith(".vmdk")
