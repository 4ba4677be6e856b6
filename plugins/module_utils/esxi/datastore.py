# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datastores and the two ways to write a path on one."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_esxcli import Filesystem

# Boot banks, system volumes and the like are mounted in the same place, but hold no VMs.
_TYPES = ("VMFS-", "NFS", "vsan", "vvol")
_DATASTORE_PATH = re.compile(r"^\[([^\]]*)\] ?(.*)$", re.DOTALL)

VOLUMES = "/vmfs/volumes"


@dataclass(frozen=True)
class Datastore:
    """`path` is the mount point by UUID, which a rename does not change."""

    name: str
    path: str
    uuid: str
    type: str
    capacity_bytes: int
    free_bytes: int

    @property
    def is_nfs(self) -> bool:
        """NFS: no lock of the host keeps other readers or writers out."""
        return self.type.upper().startswith("NFS")

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "path": self.path,
            "type": self.type,
            "capacity_bytes": self.capacity_bytes,
            "free_bytes": self.free_bytes,
        }


def datastores_of(filesystems: tuple[Filesystem, ...]) -> tuple[Datastore, ...]:
    return tuple(
        Datastore(row.name, row.path, row.uuid, row.type, row.capacity_bytes, row.free_bytes)
        for row in filesystems
        if row.mounted and row.name and row.type.startswith(_TYPES)
    )


def split_datastore_path(text: str) -> tuple[str, str] | None:
    """`[ds] folder/x.vmx` -> (`ds`, `folder/x.vmx`)."""
    match = _DATASTORE_PATH.match(text)
    return (match.group(1), match.group(2)) if match else None


def split_volume_path(path: str) -> tuple[str, str] | None:
    """`/vmfs/volumes/V/folder/x` -> (`V`, `folder/x`), V being a name or a UUID; None for any other path."""
    clean = posixpath.normpath(path)
    if not clean.startswith(VOLUMES + "/"):
        return None
    volume, _slash, rest = clean[len(VOLUMES) + 1 :].partition("/")
    return (volume, rest) if volume else None
