# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Datastores, and the three ways to write a path on one.

``/vmfs/volumes/<name or uuid>/dir/file`` inside the host, ``[name] dir/file`` in the API, and the path under the
lab's folder, where the daemon itself reads and writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = "/vmfs/volumes"
TYPE_NAMES = {"vmfs5": "VMFS-5", "vmfs6": "VMFS-6", "nfs": "NFS", "nfs41": "NFS41"}


@dataclass
class Volume:
    """One datastore as this host sees it. `path` is its mount point outside the host."""

    name: str
    uuid: str
    type: str
    path: Path
    remote_host: str = ""
    remote_share: str = ""
    device: str = ""
    accessible: bool = True
    multiple_hosts: bool = False

    @property
    def is_vmfs(self) -> bool:
        return self.type.startswith("vmfs")

    @property
    def type_name(self) -> str:
        return TYPE_NAMES[self.type]

    @property
    def block_size(self) -> int:
        return 1 << 20

    @property
    def mount_point(self) -> str:
        return f"{ROOT}/{self.uuid}"

    @property
    def moref(self) -> str:
        if self.is_vmfs:
            return f"vim.Datastore:{self.uuid}"
        return f"vim.Datastore:{self.remote_host}:{self.remote_share}"

    def space(self) -> tuple[int, int]:
        """Capacity and free bytes, from the file system itself."""
        stat = os.statvfs(self.path)
        return stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize


def volumes_of(datastores: Sequence[Mapping[str, Any]], places: Mapping[str, Any] | str | Path) -> Volumes:
    """The datastores of a host's description, at their mount points.

    `places` is the folder that holds one mount per uuid, or maps a uuid or name to its mount point.
    """
    found = []
    for store in datastores:
        name, kind, uuid = str(store["name"]), str(store.get("type", "vmfs6")).lower(), str(store.get("uuid") or "")
        place = Path(str(places.get(uuid) or places[name])) if isinstance(places, Mapping) else Path(places) / uuid
        uuid = uuid or place.name
        server = str(store.get("server_address") or store.get("server") or "192.168.20.5")
        found.append(
            Volume(
                name=name,
                uuid=uuid,
                type=kind,
                path=place,
                remote_host=server if kind.startswith("nfs") else "",
                remote_share=str(store.get("server_share") or f"/export/{name}") if kind.startswith("nfs") else "",
                device="" if kind.startswith("nfs") else "naa.600508b1001c" + uuid.replace("-", "")[:16],
                multiple_hosts=bool(store.get("shared_id")) or kind.startswith("nfs"),
            )
        )
    return Volumes(found)


class Volumes:
    """The datastores of one host."""

    def __init__(self, volumes: list[Volume]) -> None:
        self.all = volumes

    def by_name(self, name: str) -> Volume | None:
        for volume in self.all:
            if name in (volume.name, volume.uuid):
                return volume
        return None

    def inside(self, path: str, cwd: str = "/") -> str:
        """A path as typed in the host, made absolute, with the datastore's uuid for its name."""
        full = os.path.normpath(os.path.join(cwd, path))
        found = self._split(full)
        if found is None:
            return full
        volume, rest = found
        return os.path.join(volume.mount_point, rest) if rest else volume.mount_point

    def outside(self, path: str, cwd: str = "/") -> Path | None:
        """Where the daemon finds a path of the host; None when it is on no datastore."""
        found = self._split(os.path.normpath(os.path.join(cwd, path)))
        return None if found is None else found[0].path / found[1]

    def volume_of(self, path: str) -> Volume | None:
        found = self._split(path)
        return found[0] if found else None

    def api_path(self, path: str) -> str:
        """``[name] dir/file`` of a path inside the host."""
        found = self._split(path)
        if found is None:
            return f"[] {path}"
        volume, rest = found
        return f"[{volume.name}] {rest}"

    def from_api(self, path: str) -> str:
        """The path inside the host of ``[name] dir/file``; any other text is returned as it is."""
        match = re.match(r"\[(.+?)\] ?(.*)", path)
        if not match:
            return path
        volume = self.by_name(match.group(1))
        return f"{volume.mount_point if volume else ROOT + '/' + match.group(1)}/{match.group(2)}"

    def inside_of(self, path: Path) -> str:
        """The path inside the host of a path under the lab's folder."""
        for volume in self.all:
            try:
                return os.path.join(volume.mount_point, str(path.relative_to(volume.path)))
            except ValueError:
                continue
        return str(path)

    def _split(self, full: str) -> tuple[Volume, str] | None:
        if not full.startswith(ROOT + "/"):
            return None
        name, _, rest = full[len(ROOT) + 1 :].partition("/")
        volume = self.by_name(name)
        return (volume, rest) if volume else None
