# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a copy would read and write: looked up on the host, decided before anything is touched.

Check mode answers with the plan, the real run does it.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import Datastore
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import CopyTask, DiskTask, FileTask
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import (
    Source,
    config_files,
    disks_of_path,
    disks_of_vm,
)

# What of the target's folder can be a part of a disk that we would make: refused, so that undoing never meets it.
_PARTS = ("", "-flat", *(f"-s{number:03d}" for number in range(1, 1000)))

_LOOK = r"""
for path in "$@"; do
    if [ -d "$path" ]; then echo folder; elif [ -e "$path" ] || [ -h "$path" ]; then echo there; else echo none; fi
done
"""


@dataclass(frozen=True)
class Request:
    """What is asked for. Either ``vm`` (with the device keys in ``disks``, all if empty) or ``src``."""

    dest: str
    vm: VirtualMachine | None = None
    disks: tuple[str, ...] = ()
    src: str | None = None
    snapshot_id: int | None = None
    disk_format: str = "thin"
    include_config: bool = True
    reserve_percent: int = 5


@dataclass(frozen=True)
class Room:
    """What the copy needs on the destination's datastore."""

    datastore: str
    needed_bytes: int
    free_bytes: int
    reserve_bytes: int

    @property
    def enough(self) -> bool:
        return self.needed_bytes <= self.free_bytes - self.reserve_bytes

    def as_dict(self) -> dict[str, Any]:
        return {
            "datastore": self.datastore,
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "reserve_bytes": self.reserve_bytes,
        }


@dataclass(frozen=True)
class CopyPlan:
    disks: tuple[DiskTask, ...]
    files: tuple[FileTask, ...]
    left_out: tuple[tuple[str, str], ...]
    datastore: str
    folders: tuple[str, ...]
    room: Room

    @property
    def bytes_total(self) -> int:
        """What will be read."""
        return sum(disk.bytes_to_read for disk in self.disks)

    @property
    def capacity_bytes(self) -> int:
        return sum(disk.capacity_bytes for disk in self.disks)

    @property
    def folder(self) -> str:
        return posixpath.dirname(self.disks[0].target)

    def task(self, lease: str = "") -> CopyTask:
        """The order for a program, under a token that nobody else has."""
        token = secrets.token_hex(8)
        return CopyTask(
            disks=self.disks,
            files=self.files,
            datastore=self.datastore,
            folders=self.folders,
            work_dir=posixpath.join(self.folder, f".stowage-tmp-{token}"),
            token=token,
            lease=lease,
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "disks": [
                {
                    "key": disk.key,
                    "source": disk.source,
                    "dest": disk.target,
                    "format": disk.format,
                    "capacity_bytes": disk.capacity_bytes,
                    "bytes_to_read": disk.bytes_to_read,
                }
                for disk in self.disks
            ],
            "files": [file.target for file in self.files],
            "left_out": [{"key": key, "reason": reason} for key, reason in self.left_out],
            "bytes_total": self.bytes_total,
            "capacity_bytes": self.capacity_bytes,
            "room": self.room.as_dict(),
        }


def plan_copy(host: Host, request: Request, *, foresight: bool = False) -> tuple[CopyPlan, list[str]]:
    """The plan, and what the operator should know. Raises the first thing that makes the copy impossible.

    With ``foresight`` (check mode) an earlier step may only have pretended: a VM that still runs is then a warning.
    """
    warnings: list[str] = []
    sources, left_out = sources_of(host, request, foresight, warnings)
    return plan_target(host, request, sources, left_out), warnings


def plan_target(
    host: Host, request: Request, sources: Sequence[Source], left_out: tuple[tuple[str, str], ...] = ()
) -> CopyPlan:
    """Where these disks go, whether they may, and whether they fit."""
    store, folder, name = _destination(host, request, len(sources))
    if store.is_nfs and request.disk_format == "eagerzeroedthick":
        raise errors.NotSupported(
            program="vmkfstools",
            reason=f"datastore {store.name!r} of {host.name} is NFS, which knows no eagerzeroedthick disks",
            way_out="Use thin or zeroedthick there",
        )
    disks = tuple(
        DiskTask(
            key=source.key,
            source=source.path,
            target=posixpath.join(folder, name or file_name(source)),
            format=request.disk_format,
            capacity_bytes=source.capacity_bytes,
            bytes_to_read=source.bytes_to_read,
            source_kind=source.kind,
            flat=source.flat,
            not_flat=source.not_flat,
        )
        for source in sources
    )
    files: tuple[FileTask, ...] = ()
    if request.vm is not None and request.include_config and name is None:
        files = tuple(
            FileTask(path, posixpath.join(folder, posixpath.basename(path))) for path in config_files(host, request.vm)
        )
    folders = _ancestors(store, folder)
    _refuse_existing(host, disks, files, folders)
    room = _room(store, disks, request)
    if not room.enough:
        raise errors.NotEnoughRoom(
            host=host.name,
            datastore=store.name,
            needed=format_bytes(room.needed_bytes),
            free=format_bytes(room.free_bytes),
            reserve=format_bytes(room.reserve_bytes),
            room=room.as_dict(),
        )
    return CopyPlan(disks, files, left_out, store.path, folders, room)


def file_name(source: Source) -> str:
    """``scsi0:0`` -> ``scsi0-0.vmdk``: the key names the disk, whatever its file is called; a path keeps its name."""
    return source.key if source.key.endswith(".vmdk") else source.key.replace(":", "-") + ".vmdk"


def sources_of(
    host: Host, request: Request, foresight: bool, warnings: list[str]
) -> tuple[tuple[Source, ...], tuple[tuple[str, str], ...]]:
    if request.vm is None:
        return (disks_of_path(host, request.src or "", foresight, warnings),), ()
    return disks_of_vm(host, request.vm, request.disks, request.snapshot_id, foresight, warnings)


def _destination(host: Host, request: Request, count: int) -> tuple[Datastore, str, str | None]:
    """The datastore, the folder, and the descriptor's name where ``dest`` is one."""
    path = host.resolve(request.dest)
    store = host.datastore(path)
    if "\n" in path or "\r" in path:
        raise errors.BadDestination(
            host=host.name, dest=repr(path), reason="it holds a line break", way_out="Choose another name"
        )
    if not path.endswith(".vmdk"):
        if path == store.path:
            raise errors.BadDestination(
                host=host.name,
                dest=request.dest,
                reason="it is the datastore itself",
                way_out="Name a folder on it; it is made if it is not there",
            )
        return store, path, None
    if count != 1:
        raise errors.BadDestination(
            host=host.name,
            dest=request.dest,
            reason=f"it names one descriptor, and {count} disks are to be copied",
            way_out="Name a folder, or one disk in disks",
        )
    return store, posixpath.dirname(path), posixpath.basename(path)


def _ancestors(store: Datastore, folder: str) -> tuple[str, ...]:
    """Every folder below the datastore that leads to ``folder``, outermost first."""
    below = posixpath.relpath(folder, store.path)
    if below == ".":
        return ()
    parts = below.split("/")
    return tuple(posixpath.join(store.path, *parts[: number + 1]) for number in range(len(parts)))


def _refuse_existing(host: Host, disks: Sequence[DiskTask], files: Sequence[FileTask], folders: Sequence[str]) -> None:
    targets = [file.target for file in files]
    targets += [disk.target.removesuffix(".vmdk") + part + ".vmdk" for disk in disks for part in ("", "-flat")]
    doubles = sorted({target for target in targets if targets.count(target) > 1})
    if doubles:
        raise errors.BadDestination(
            host=host.name,
            dest=doubles[0],
            reason="two things would be copied to it",
            way_out="Copy them one by one, to different destinations",
        )
    answers = host.session.script(_LOOK, [*folders, *targets]).stdout.split()
    if len(answers) != len(folders) + len(targets):
        raise errors.NotStarted(host=host.name, target=targets[0], reason="the host did not say what is there already")
    for folder, answer in zip(folders, answers):
        if answer == "there":
            raise errors.BadDestination(
                host=host.name, dest=folder, reason="it is a file", way_out="Choose another folder"
            )
    for target, answer in zip(targets, answers[len(folders) :]):
        if answer != "none":
            raise errors.TargetExists(host=host.name, target=target)
    if folders and answers[len(folders) - 1] == "folder" or not folders:
        there = set(host.read_folders({posixpath.dirname(disk.target) for disk in disks}))
        for disk in disks:
            stem = disk.target.removesuffix(".vmdk")
            for path in sorted(there & {f"{stem}{part}.vmdk" for part in _PARTS}):
                raise errors.TargetExists(host=host.name, target=path)


def _room(store: Datastore, disks: Sequence[DiskTask], request: Request) -> Room:
    thick = request.disk_format in ("zeroedthick", "eagerzeroedthick")
    return Room(
        datastore=store.name,
        needed_bytes=sum(disk.capacity_bytes if thick else disk.bytes_to_read for disk in disks),
        free_bytes=store.free_bytes,
        reserve_bytes=store.capacity_bytes * request.reserve_percent // 100,
    )
