# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mounting and unmounting NFS datastores of a running host."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import DuplicateName, HostConfigFault, InvalidArgument, ObjectNotFound, ResourceInUse
from .volumes import Volume

if TYPE_CHECKING:
    from .server import Hostd

TYPES = {"nfs": "nfs", "nfs41": "nfs41"}


def add(host: Hostd, name: str, kind: str, server: str, share: str) -> Volume:
    """An export of a backup server of this lab becomes a datastore; any other server does not answer."""
    known = TYPES.get(kind.lower())
    if known is None:
        raise InvalidArgument("spec.type")
    if host.volumes.by_name(name) is not None:
        raise DuplicateName(name)
    source = host.machine_events.exported(server, share)
    if source is None:
        raise HostConfigFault(
            "An error occurred during host configuration: Operation failed, diagnostics report: Unable to complete "
            f"Sysinfo operation. Mount failed: Unable to connect to NFS server {server}, share {share}"
        )
    digits = hashlib.sha256(f"{server} {share}".encode()).hexdigest()
    uuid = f"{digits[:8]}-{digits[8:16]}"
    if any((volume.remote_host, volume.remote_share) == (server, share) for volume in host.volumes.all):
        raise HostConfigFault(f"Unable to complete Sysinfo operation. {server}:{share} is already mounted")
    volume = Volume(name, uuid, known, source, server, share, multiple_hosts=True)
    _show(host, volume)
    host.machine_events.mount(source, uuid, name)
    host.volumes.all.append(volume)
    return volume


def remove(host: Hostd, name: str) -> None:
    """Only NFS datastores can be let go; one that a registered VM or an open file needs stays."""
    volume = host.volumes.by_name(name)
    if volume is None:
        raise ObjectNotFound()
    if volume.is_vmfs:
        raise ResourceInUse(name)
    for vm in host.vms():
        paths = [vm.vmx_path, *(disk.path for disk in vm.live_disks())] if vm.valid else [vm.vmx_path]
        if any(host.volumes.volume_of(path) is volume for path in paths):
            raise ResourceInUse(name)
    try:
        host.machine_events.unmount(volume.uuid, volume.name)
    except OSError as error:
        raise ResourceInUse(name) from error
    _hide(host, volume)
    host.volumes.all.remove(volume)


def restore(host: Hostd, volumes: Sequence[Volume]) -> None:
    """After a boot a host has the datastores of its description again, and only those."""
    for volume in host.volumes.all:
        if volume not in volumes:
            _hide(host, volume)
    for volume in volumes:
        if volume not in host.volumes.all:
            _show(host, volume)
    host.volumes.all[:] = volumes


def _show(host: Hostd, volume: Volume) -> None:
    folder = host.root / "vmfs/volumes"
    (folder / volume.uuid).mkdir(parents=True, exist_ok=True)
    (folder / volume.name).symlink_to(volume.uuid)


def _hide(host: Hostd, volume: Volume) -> None:
    folder = host.root / "vmfs/volumes"
    (folder / volume.name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / volume.uuid).rmdir()
