# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a restore point: what makes a folder of files one, and what a stranger restores it by."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadManifest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import (
    MANIFEST,
    REMOVING_PREFIX,
    identity_hash,
    is_point_name,
    parse_point_time,
)

SCHEMA = 1
KIND = "stowage-restore-point"


@dataclass(frozen=True)
class PointFile:
    """A file of the restore point; `name` is relative to its folder, and never leads out of it."""

    name: str
    size: int
    role: str


@dataclass(frozen=True)
class PointDisk:
    key: str
    label: str
    file: str
    capacity_bytes: int
    allocated_bytes: int
    cid: str
    format: str
    source: str


@dataclass(frozen=True)
class RestorePoint:
    """One VM at one time."""

    path: str
    time: str
    vm: str
    identity: str
    uuid: str
    host: str
    disks: tuple[PointDisk, ...]
    files: tuple[PointFile, ...]
    manifest: Mapping[str, Any] = field(compare=False, repr=False, default_factory=dict)
    held: bool = False

    @property
    def moment(self) -> datetime:
        return parse_point_time(self.time)

    @property
    def bytes(self) -> int:
        return sum(disk.allocated_bytes for disk in self.disks)

    def file_of(self, role: str) -> str | None:
        """The absolute path of the vmx, nvram, vmsd or vmxf file."""
        return next((posixpath.join(self.path, file.name) for file in self.files if file.role == role), None)

    @property
    def needs_key_provider(self) -> str:
        """Why it can be used only where the VM's key provider is; empty where it needs none."""
        return str(self.manifest.get("needs_key_provider") or "")

    @property
    def safety(self) -> bool:
        """Whether it was made of a VM that was about to be written over."""
        return self.manifest.get("safety") is True

    def summary(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "time": self.time,
            "vm": self.vm,
            "identity": self.identity,
            "host": self.host,
            "bytes": self.bytes,
            "disks": [disk.key for disk in self.disks],
            "needs_key_provider": self.needs_key_provider,
            "proven": not self.needs_key_provider,
            "safety": self.safety,
        }


def marked(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema": SCHEMA, "kind": KIND, **value}


def render_manifest(value: Mapping[str, Any]) -> str:
    return json.dumps(marked(value), indent=1, sort_keys=True) + "\n"


def parse_manifest(text: str, path: str) -> RestorePoint:
    """The restore point in folder `path`. Whatever is not exactly ours raises BadManifest and is left alone."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadManifest(path=path, reason=f"{MANIFEST} is not JSON ({error})") from error
    point = read_facts(value, path, MANIFEST)
    _check_place(point)
    return point


def read_facts(value: Any, path: str, where: str) -> RestorePoint:
    """What a restore point says about itself, `where` it says so."""
    if not isinstance(value, Mapping) or value.get("kind") != KIND:
        raise BadManifest(path=path, reason=f"{where} does not say that it is one")
    if value.get("schema") != SCHEMA:
        raise BadManifest(path=path, reason=f"schema {value.get('schema')!r} is not known to this version")
    try:
        point = RestorePoint(
            path=path,
            time=str(value["time"]),
            vm=str(value["vm"]["name"]),
            identity=str(value["vm"]["identity"]),
            uuid=str(value["vm"].get("uuid") or ""),
            host=str(value.get("host") or ""),
            disks=tuple(
                PointDisk(**{name: disk[name] for name in PointDisk.__dataclass_fields__}) for disk in value["disks"]
            ),
            files=tuple(PointFile(str(file["name"]), int(file["size"]), str(file["role"])) for file in value["files"]),
            manifest=value,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadManifest(path=path, reason=f"{where} lacks or garbles {error}") from error
    names = {file.name for file in point.files}
    for disk in point.disks:
        if disk.file not in names:
            raise BadManifest(path=point.path, reason=f"disk {disk.key} names {disk.file!r}, which it does not list")
    return point


def _check_place(point: RestorePoint) -> None:
    """A manifest that was copied elsewhere does not make that place a restore point of this VM."""
    folder, parent = posixpath.basename(point.path), posixpath.basename(posixpath.dirname(point.path))
    if not is_point_name(point.time) or folder not in (point.time, REMOVING_PREFIX + point.time):
        raise BadManifest(path=point.path, reason=f"its time {point.time!r} is not the folder's name")
    if parent.rpartition("-")[2] != identity_hash(point.identity):
        raise BadManifest(path=point.path, reason="it lies in the folder of another VM")
    for file in point.files:
        if not file.name or "/" in file.name or file.name in (".", "..", MANIFEST):
            raise BadManifest(path=point.path, reason=f"it lists {file.name!r}, which is not a file of its folder")


def several_of(points: Sequence[RestorePoint]) -> dict[str, RestorePoint]:
    """The newest of each host, where these points of one identity are of several VMs; else nothing.

    An identity is what a hypervisor says. Hosts that take turns, each with files of its own, have a VM each; one that
    has moved is one."""
    turns = [point.host for point in sorted(points, key=lambda point: (point.time, point.path))]
    turns = [host for number, host in enumerate(turns) if number == 0 or host != turns[number - 1]]
    lasts = {point.host: point for point in sorted(points, key=lambda point: point.time)}
    files = {str((point.manifest.get("vm") or {}).get("vmx_path")) for point in lasts.values()}
    return lasts if len(turns) > len(lasts) and len(files) == len(lasts) else {}
