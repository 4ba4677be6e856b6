# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM's disks: what its .vmx names, followed through the descriptors to the base."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import FileEntry, Reply
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import MAX_LINKS, Chain, parent_path, read_chain
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import parse_descriptor
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import VmxDisk

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine


@dataclass(frozen=True)
class Disk:
    """One virtual disk. `file` is as in the .vmx, `path` its absolute descriptor; `kind` is that of its base.

    `problem` says why the chain cannot be followed; then `chain` is None and the sizes are 0.
    """

    key: str
    label: str
    file: str
    path: str
    datastore: str
    capacity_bytes: int
    allocated_bytes: int
    mode: str
    kind: str
    sharing: str
    thin: bool
    chain: Chain | None
    problem: str | None = None

    @property
    def independent(self) -> bool:
        """Left out of snapshots by the host, and not touched by a revert."""
        return self.mode.startswith("independent")


class DiskReader:
    """Reads the chains of many VMs with few commands: whole folders first, then what their parents name elsewhere."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.entries: dict[str, FileEntry] = {}
        self._texts: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self._folders: set[str] = set()

    def load(self, folders: Iterable[str]) -> None:
        wanted = [folder for folder in dict.fromkeys(folders) if folder and folder not in self._folders]
        if not wanted:
            return
        self._folders.update(wanted)
        for path, entry in self.host.read_folders(wanted).items():
            self.entries[path] = entry
            if entry.text is not None:
                self._texts[path] = entry.text

    def complete(self, tops: Iterable[str]) -> None:
        """Fetch what the chains of these disks need, round by round: one command for each step out of the folders."""
        open_paths = set(tops)
        for _round in range(MAX_LINKS):
            self.load(posixpath.dirname(path) for path in open_paths)
            self._fetch(path for path in open_paths if path not in self._texts and path not in self._unreadable)
            open_paths = self._parents_of(open_paths)
            if not open_paths:
                return

    def _fetch(self, paths: Iterable[str]) -> None:
        wanted = list(paths)
        if not wanted:
            return
        for path, text in self.host.read_texts(wanted).items():
            if isinstance(text, Reply):
                self._unreadable[path] = " ".join(text.text.split()) or "it cannot be read"
            else:
                self._texts[path] = text

    def _parents_of(self, paths: Iterable[str]) -> set[str]:
        """The first ancestor of each path that is not read yet."""
        missing: set[str] = set()
        for path in paths:
            seen: set[str] = set()
            at = path
            while at in self._texts and at not in seen:
                seen.add(at)
                try:
                    descriptor = parse_descriptor(self._texts[at], at)
                except StowageError:
                    break
                if not descriptor.is_delta or not descriptor.parent_hint:
                    break
                at = self._resolve(parent_path(at, descriptor))
            if at not in self._texts and at not in self._unreadable:
                missing.add(at)
        return missing

    def _resolve(self, path: str) -> str:
        try:
            return self.host.resolve(path)
        except (errors.UnknownDatastore, errors.BadPath):
            return posixpath.normpath(path)

    def read_text(self, path: str) -> str:
        if path not in self._texts and path not in self._unreadable:
            self._fetch([path])
        if path in self._texts:
            return self._texts[path]
        raise errors.FileNotReadable(host=self.host.name, path=path, reason=self._unreadable[path])

    def chain(self, path: str) -> Chain:
        self.complete([path])
        return read_chain(self.read_text, path, self._resolve)

    def allocated_bytes(self, chain: Chain) -> int:
        """What a reader of the chain may have to read. A mapping file says nothing of what its device holds."""
        if chain.base.descriptor.kind == "rdm-virtual":
            return chain.capacity_bytes
        files = set(chain.extent_paths) | set(chain.paths)
        return sum(self.entries[path].allocated_bytes for path in files if path in self.entries)


def disk_path(vm: VirtualMachine, file: str) -> str:
    """The canonical path of a file as a .vmx or .vmsd names it: relative or absolute, never as `[datastore] path`."""
    if not file.startswith("/"):
        return posixpath.normpath(posixpath.join(vm.directory, file))
    try:
        return vm.host.resolve(file)
    except (errors.UnknownDatastore, errors.BadPath):
        return posixpath.normpath(file)


def read_disks(
    host: Host,
    vms: Sequence[VirtualMachine],
    reader: DiskReader | None = None,
    labels: Mapping[tuple[int, str], str] | None = None,
) -> dict[int, tuple[Disk, ...]]:
    """vmid -> disks, for many VMs at once. `labels` maps (vmid, device key) to the host's name of the device."""
    reader = reader or DiskReader(host)
    places = {vm.vmid: [(disk, disk_path(vm, disk.file)) for disk in vm.vmx.disks()] for vm in vms}
    reader.load([vm.directory for vm in vms])
    reader.complete(path for disks in places.values() for _disk, path in disks)
    found: dict[int, tuple[Disk, ...]] = {}
    for vm in vms:
        found[vm.vmid] = tuple(
            _disk(host, vm, disk, path, reader, (labels or {}).get((vm.vmid, disk.key), ""))
            for disk, path in places[vm.vmid]
        )
    return found


def _disk(host: Host, vm: VirtualMachine, disk: VmxDisk, path: str, reader: DiskReader, label: str) -> Disk:
    chain, problem = None, None
    try:
        chain = reader.chain(path)
    except StowageError as error:
        problem = error.message
    try:
        datastore = host.datastore(path).name
    except errors.UnknownDatastore:
        datastore = ""
    bus = vm.vmx.bus_sharing(disk.key)
    sharing = disk.sharing if disk.sharing != "none" or bus == "none" else f"bus-{bus}"
    return Disk(
        key=disk.key,
        label=label,
        file=disk.file,
        path=path,
        datastore=datastore,
        capacity_bytes=chain.capacity_bytes if chain else 0,
        allocated_bytes=reader.allocated_bytes(chain) if chain else 0,
        mode=disk.mode,
        kind=chain.base.descriptor.kind if chain else "unknown",
        sharing=sharing,
        thin=chain.base.descriptor.thin if chain else False,
        chain=chain,
        problem=problem,
    )
