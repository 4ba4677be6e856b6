# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The system's own volumes: boot banks, and from 7.0 on the system volume; sizes as seen on real hosts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esxilab.hostd import Hostd
    from esxilab.hostd.profiles import Profile


@dataclass(frozen=True)
class SystemVolume:
    label: str
    uuid: str
    kind: str
    size: int
    free: int
    #: What leads to it from the root, where something does.
    link: str = ""


def _uuid(*parts: object) -> str:
    digits = hashlib.sha256(" ".join(str(part) for part in parts).encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:16]}-{digits[16:20]}-{digits[20:32]}"


def system_volumes(host_name: str, profile: Profile) -> list[SystemVolume]:
    if profile.release_number < (7, 0):
        return [
            SystemVolume("", _uuid(host_name, 0), "vfat", 261853184, 106946560, "bootbank"),
            SystemVolume("", _uuid(host_name, 1), "vfat", 261853184, 261844992, "altbootbank"),
        ]
    system = _uuid("boot", host_name)
    kind = "VMFSOS" if profile.release_number >= (8, 0) else "VFFS"
    return [
        SystemVolume(f"OSDATA-{system}", system, kind, 128580583424, 124127281152),
        SystemVolume("BOOTBANK1", _uuid(host_name, 1), "vfat", 4293591040, 3996778496, "bootbank"),
        SystemVolume("BOOTBANK2", _uuid(host_name, 2), "vfat", 4293591040, 4120444928, "altbootbank"),
    ]


def banks(host: Hostd) -> list[dict[str, Any]]:
    """The vfat ones, for vmkfstools -P in the client's process."""
    device = "naa.600508b1001c" + hashlib.sha256(f"boot {host.name}".encode()).hexdigest()[:16]
    return [
        {
            "path": f"/vmfs/volumes/{one.uuid}",
            "label": one.label,
            "uuid": one.uuid,
            "size": one.size,
            "free": one.free,
            "device": f"{device}:{number}",
        }
        for number, one in enumerate(system_volumes(host.name, host.profile), 5)
        if one.kind == "vfat"
    ]
