# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which descriptors hold what is to be copied, and whether they hold still."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.disks import Disk, DiskReader, read_disks
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.compare import flat_extent
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import Chain

_PHYSICAL = "it is a physical raw device mapping, which only the guest or the array can copy"

_EXISTING = r"""
for path in "$@"; do [ -f "$path" ] && echo there || echo none; done
"""


@dataclass(frozen=True)
class Source:
    """One disk to read. ``key`` is its device key, or the file name for a disk named by its path."""

    key: str
    path: str
    capacity_bytes: int
    bytes_to_read: int
    kind: str = "flat"
    flat: str = ""
    not_flat: str = ""


def measure(reader: DiskReader, key: str, chain: Chain) -> Source:
    """What the chain's extents occupy is what a reader may have to read; never more than the disk can hold."""
    flat, not_flat = flat_extent(chain)
    return Source(
        key=key,
        path=chain.top.path,
        capacity_bytes=chain.capacity_bytes,
        bytes_to_read=min(reader.allocated_bytes(chain), chain.capacity_bytes),
        kind=chain.base.descriptor.kind,
        flat=flat,
        not_flat=not_flat,
    )


def disks_of_vm(
    host: Host,
    vm: VirtualMachine,
    keys: Sequence[str],
    snapshot_id: int | None,
    foresight: bool,
    warnings: list[str],
) -> tuple[tuple[Source, ...], tuple[tuple[str, str], ...]]:
    """The disks to copy, and those that are left out, with the reason."""
    disks = {disk.key: disk for disk in vm.disks()}
    unknown = [key for key in keys if key not in disks]
    if unknown:
        raise errors.NoSuchDisk(
            host=host.name,
            vm=vm.name,
            keys=", ".join(unknown),
            where="in its configuration",
            candidates=", ".join(sorted(disks)) or "no disk",
        )
    frozen = vm.frozen_disks(snapshot_id) if snapshot_id else None
    if frozen is None:
        _must_rest(host, vm, foresight, warnings)
    reader = DiskReader(host)
    found: list[Source] = []
    left_out: list[tuple[str, str]] = []
    for key, disk in disks.items():
        if keys and key not in keys:
            left_out.append((key, "not asked for"))
            continue
        reason, way_out = _obstacle(disk, frozen)
        if reason is None:
            found.append(_measured(host, vm, reader, key, frozen[key] if frozen is not None else disk.path))
        elif keys or disk.problem is not None:
            # Left out by itself is only what no copy can hold; what should be there and cannot be read is an error.
            raise errors.DiskNotCopyable(host=host.name, vm=vm.name, key=key, reason=reason, way_out=way_out)
        else:
            left_out.append((key, reason))
    if not found:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in left_out) or "it has none"
        raise errors.NoSuchDisk(host=host.name, vm=vm.name, keys="", where="that can be copied", candidates=reasons)
    return tuple(found), tuple(left_out)


def disks_of_path(host: Host, src: str, foresight: bool, warnings: list[str]) -> Source:
    """One disk by its descriptor. A registered VM that runs on it keeps it from being copied."""
    path = host.resolve(src)
    reader = DiskReader(host)
    reader.load([posixpath.dirname(path)])
    entry = reader.entries.get(path)
    if entry is None or entry.text is None:
        # Looked at by name and size first: an extent of terabytes must not be read as if it were a text.
        reason = "there is no such .vmdk file" if entry is None else "it is an extent, not a descriptor"
        raise errors.BadSource(host=host.name, source=path, reason=reason)
    source = measure(reader, posixpath.basename(path), reader.chain(path))
    if source.kind == "rdm-physical":
        raise errors.BadSource(host=host.name, source=path, reason=_PHYSICAL)
    vms = [vm for vm in host.vms() if vm.readable]
    on_it = {vmid for vmid, disks in read_disks(host, vms).items() for disk in disks if disk.path == path}
    for vm in vms:
        # The top of a VM's chain is what it writes to; what lies below holds still.
        if vm.vmid in on_it and vm.power_state() == "poweredOn":
            error = errors.SourceLocked(host=host.name, source=path, vm=vm.name, state="poweredOn")
            if not foresight:
                raise error
            warnings.append(f"{error.message}. {error.hint_text}")
    return source


def config_files(host: Host, vm: VirtualMachine) -> tuple[str, ...]:
    """The VM's own small files that are there: vmx, nvram, vmsd, vmxf."""
    stem = posixpath.splitext(posixpath.basename(vm.vmx_path))[0]
    names = [
        posixpath.basename(vm.vmx_path),
        vm.vmx.get("nvram") or f"{stem}.nvram",
        f"{stem}.vmsd",
        vm.vmx.get("extendedConfigFile") or f"{stem}.vmxf",
    ]
    paths = list(dict.fromkeys(posixpath.normpath(posixpath.join(vm.directory, name)) for name in names))
    answers = host.session.script(_EXISTING, paths).stdout.split()
    if len(answers) != len(paths) or answers[0] != "there":
        raise errors.ProgramError(host=host.name, reason=f"the configuration {vm.vmx_path} cannot be found")
    return tuple(path for path, answer in zip(paths, answers) if answer == "there")


def _must_rest(host: Host, vm: VirtualMachine, foresight: bool, warnings: list[str]) -> None:
    state = vm.power_state()
    if state != "poweredOn":
        return
    error = errors.SourceRuns(host=host.name, vm=vm.name, state=state)
    if not foresight:
        raise error
    warnings.append(f"{error.message}. {error.hint_text}. The sizes are those of now")


def _obstacle(disk: Disk, frozen: dict[str, str] | None) -> tuple[str | None, str]:
    """Why the disk cannot be copied, and what to do about it."""
    if disk.problem is not None:
        return disk.problem, "Repair its chain first"
    if disk.kind == "rdm-physical":
        return _PHYSICAL, "Leave it out"
    if frozen is not None and disk.key not in frozen:
        why = "it is independent" if disk.independent else "it was not there when the snapshot was taken"
        return f"the snapshot does not hold it: {why}", "Power the VM off and copy it without snapshot_id"
    return None, ""


def _measured(host: Host, vm: VirtualMachine, reader: DiskReader, key: str, path: str) -> Source:
    try:
        return measure(reader, key, reader.chain(path))
    except StowageError as error:
        raise errors.DiskNotCopyable(
            host=host.name, vm=vm.name, key=key, reason=error.message, way_out=error.hint_text or "Repair it first"
        ) from error
