# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM that is to be written over, as it is now, and what stands against that. Everything here reads."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.disks import Disk, DiskReader, disk_path, read_disks
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import BadPath, UnknownDatastore
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import survey, torn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.torn import Torn
from ansible_collections.stowage.esxi.plugins.module_utils.programs.compare import flat_extent
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import parent_path
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import parse_descriptor
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import Vmx

Problem = Mapping[str, str]

# Where a clone can lie: the first level of every datastore; what lies deeper is found through the inventory.
_FOLDERS = r"""
for volume in /vmfs/volumes/*; do
    [ -L "$volume" ] && continue
    for folder in "$volume"/*; do
        [ -d "$folder" ] && [ ! -L "$folder" ] && printf '%s\n' "$folder"
    done
done
exit 0
"""


@dataclass(frozen=True)
class PresentDisk:
    """A disk of the VM. `problem` says why it cannot be written over; `path` is its descriptor, `flat` its extent."""

    key: str
    label: str = ""
    path: str = ""
    flat: str = ""
    datastore: str = ""
    capacity_bytes: int = 0
    allocated_bytes: int = 0
    format: str = "thin"
    cid: str = ""
    seal: str = ""
    tracked: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Present:
    """What is there now. `dependents` are in words: what else stands on these disks."""

    vmid: int
    name: str
    directory: str
    vmx_path: str
    identity: str
    power_state: str
    boot_id: str
    vmx: Vmx
    disks: Mapping[str, PresentDisk]
    snapshots: tuple[str, ...] = ()
    dependents: tuple[str, ...] = ()
    question: str = ""
    elsewhere: str = ""
    torn: Torn | None = None


def read(host: Host, vm: VirtualMachine, others: Sequence[VirtualMachine]) -> Present:
    vm.reload_vmx()
    reader = DiskReader(host)
    disks = {disk.key: _disk(disk, reader) for disk in read_disks(host, [vm], reader)[vm.vmid]}
    paths = {disk.path for disk in disks.values() if disk.path}
    return Present(
        vmid=vm.vmid,
        name=vm.name,
        directory=vm.directory,
        vmx_path=vm.vmx_path,
        identity=vm.identity,
        power_state=vm.power_state(),
        boot_id=vm.boot_id() or "",
        vmx=vm.vmx,
        disks=disks,
        snapshots=tuple(f"{one.name!r} (id {one.id})" for one in snapshots.tree(vm)),
        dependents=_dependents(host, vm, others, paths, reader),
        question=survey.question_text(vm),
        elsewhere=survey.runs_elsewhere(host, vm),
        torn=torn.look(host.session, [vm.directory]).get(vm.directory),
    )


def _disk(disk: Disk, reader: DiskReader) -> PresentDisk:
    chain = disk.chain
    if chain is None:
        return PresentDisk(disk.key, disk.label, disk.path, problem=disk.problem or "its chain cannot be read")
    flat, problem = flat_extent(chain)
    if disk.sharing != "none":
        problem = f"it is shared with other VMs ({disk.sharing})"
    entry, descriptor = reader.entries.get(flat), chain.top.descriptor
    if not problem and entry is None:
        problem = f"{flat} cannot be seen"
    return PresentDisk(
        key=disk.key,
        label=disk.label,
        path=disk.path,
        flat=flat,
        datastore=disk.datastore,
        capacity_bytes=disk.capacity_bytes,
        allocated_bytes=min(disk.allocated_bytes, disk.capacity_bytes),
        format="thin" if disk.thin else "zeroedthick",
        cid=descriptor.cid,
        seal=f"{descriptor.cid}@{entry.mtime}" if entry is not None else "",
        tracked=descriptor.change_track or "",
        problem=problem.replace("its source is", "it is"),
    )


def _dependents(
    host: Host, vm: VirtualMachine, others: Sequence[VirtualMachine], paths: Collection[str], reader: DiskReader
) -> tuple[str, ...]:
    """Descriptors with one of these as their parent, on any datastore, registered or not; and VMs that use one, too."""
    found = [
        f"VM {other.name!r} uses {path}"
        for other in others
        if other.vmid != vm.vmid and other.readable
        for path in (disk_path(other, disk.file) for disk in other.vmx.disks())
        if path in paths
    ]
    result = host.session.script(_FOLDERS, timeout_seconds=300)
    if result.rc != 0:
        raise RemoteStepFailed(what="Looking for what depends on its disks", rc=result.rc, stderr=result.output)
    reader.load([line for line in result.stdout.split("\n") if line])
    reader.load([other.directory for other in others if other.readable])
    for path, entry in reader.entries.items():
        if entry.text is None or "parentFileNameHint" not in entry.text:
            continue
        try:
            descriptor = parse_descriptor(entry.text, path)
        except StowageError:
            continue
        if not descriptor.is_delta or not descriptor.parent_hint:
            continue
        parent = parent_path(path, descriptor)
        try:
            parent = host.resolve(parent)
        except (UnknownDatastore, BadPath):
            parent = posixpath.normpath(parent)
        if parent in paths:
            found.append(f"{path} is a snapshot or a linked clone of {posixpath.basename(parent)}")
    return tuple(found)


def seal(host: Host, path: str) -> str:
    """Content id and time of a flat disk: whoever writes to it changes one of them."""
    entries = host.read_folders([posixpath.dirname(path)])
    descriptor = parse_descriptor(entries[path].text or "", path)
    extent = posixpath.join(posixpath.dirname(path), descriptor.files[0])
    return f"{descriptor.cid}@{entries[extent].mtime}"


def sealed(seals: Mapping[str, str]) -> str:
    """The seal of each disk, as it stands in the .vmx."""
    return ",".join(f"{key}={seals[key]}" for key in sorted(seals))


def obstacles(present: Present, keys: Collection[str], host: str) -> list[Problem]:
    """Why these disks of the VM must not be written over; empty where nothing speaks against it."""
    found: list[Problem] = []
    vm = f"VM {present.name!r}"
    if present.power_state != "poweredOff":
        reason = f"{vm} is {present.power_state} on {host}, and is written over only when it is off"
        found.append(problem("vm-not-off", reason, "power it off first, or restore beside it (restore_in_place false)"))
    elif present.elsewhere:
        reason = f"{present.elsewhere} in its folder says that {vm} runs on another host"
        found.append(problem("vm-runs-elsewhere", reason, "power it off there; or remove that file if it is old"))
    if present.question:
        reason = f"{vm} waits for an answer: {present.question}"
        found.append(problem("question", reason, "answer it in the host client"))
    if present.snapshots:
        reason = f"{vm} has snapshots, which stand on its disks: {', '.join(present.snapshots)}"
        found.append(problem("has-snapshots", reason, "remove its snapshots, or restore beside it"))
    if present.dependents:
        reason = f"something else stands on the disks of {vm}: {'; '.join(present.dependents)}"
        found.append(problem("has-dependents", reason, "remove or move what stands on them, or restore beside the VM"))
    for key in sorted(keys):
        disk = present.disks.get(key)
        if disk is not None and disk.problem and not (present.snapshots and "a chain of" in disk.problem):
            reason = f"disk {key} of {vm} cannot be written over: {disk.problem}"
            found.append(problem("disk-unfit", reason, "restore beside the VM"))
    return found


def problem(name: str, reason: str, advice: str) -> dict[str, str]:
    return {"id": name, "message": reason, "hint": advice}
