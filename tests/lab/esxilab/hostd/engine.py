# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running VM does to its disks and locks, and what hostd does to the disks of a VM.

Paths are descriptors as seen inside the host; files are opened where they lie under the lab's folder.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esxilab import disks
from esxilab.guest import GuestWriter

from .machine import Question
from .vmconfig import dashed

if TYPE_CHECKING:
    from esxilab.locks import Lock

    from .machine import Vm
    from .server import Hostd

#: Lock modes of VMFS: a running VM's top disk, and what it only reads.
EXCLUSIVE, SHARED = 1, 2
RECORD = 4096


class Engine:
    DiskError = disks.DiskError
    DiskFull = disks.DiskFull
    FileLocked = disks.FileLocked

    def __init__(self, host: Hostd, locks: Any) -> None:
        self.host = host
        self.locks = locks
        self._open: dict[str, list[disks.VirtualDisk]] = {}

    # --- paths -----------------------------------------------------------------------------------------------

    def resolve(self, path: str) -> str:
        """For the disk library: an absolute path that a descriptor names, as a path here."""
        found = self.host.volumes.outside(path)
        return str(found) if found is not None else path

    def _out(self, path: str) -> str:
        return str(self.host.outside(path))

    def parent_of(self, path: str) -> str | None:
        """The parent's path inside the host; None for a base disk or a descriptor that cannot be read."""
        try:
            descriptor = disks.read_descriptor(self._out(path))
        except disks.DiskError:
            return None
        if not descriptor.is_child or not descriptor.parent_hint:
            return None
        return self.host.volumes.inside(descriptor.parent_hint, os.path.dirname(path))

    def extents(self, path: str) -> list[str]:
        """Extent files of one link, where they lie here."""
        try:
            descriptor = disks.read_descriptor(self._out(path))
        except disks.DiskError:
            return []
        return [descriptor.beside(line.file, self.resolve) for line in descriptor.extents]

    def is_physical_rdm(self, path: str) -> bool:
        with contextlib.suppress(disks.DiskError):
            return disks.read_descriptor(self._out(path)).create_type == "vmfsPassthroughRawDeviceMap"
        return False

    def is_hosted(self, path: str) -> bool:
        with contextlib.suppress(disks.DiskError):
            return any(line.kind == "SPARSE" for line in disks.read_descriptor(self._out(path)).extents)
        return False

    # --- running VMs -----------------------------------------------------------------------------------------

    def start(self, vm: Vm) -> None:
        """Open the VM's disks, take its locks, boot the guest."""
        self._take_locks(vm)
        try:
            self._open[vm.cartel] = self._open_disks(vm)
        except disks.DiskError:
            self._drop_locks(vm)
            raise
        guest = GuestWriter(
            self._open[vm.cartel],
            rate=max(0.2, float(self.host.switches["guest_kib_per_second"]) * 1024 / RECORD),
            vm_uuid=uuid.UUID(dashed(vm.config.values.get("uuid.bios")) or str(uuid.uuid4())).bytes,
            on_error=lambda error: self._out_of_space(vm, error),
            name=f"guest-{self.host.name}-{vm.vmid}",
        )
        try:
            guest.start()
        except disks.DiskError:
            self._close(vm, clean=True)
            self._drop_locks(vm)
            raise
        vm.guest = guest

    def stop(self, vm: Vm, clean: bool, crash: bool = False) -> None:
        """End the guest: `clean` lets it shut down, `crash` leaves open files as a dying host does."""
        guest, vm.guest = vm.guest, None
        if guest is not None:
            if clean:
                try:
                    guest.shutdown()
                except disks.DiskError:
                    guest.stop()
            else:
                guest.stop()
        self._close(vm, clean=not crash)
        self._drop_locks(vm)

    def _open_disks(self, vm: Vm) -> list[disks.VirtualDisk]:
        opened: list[disks.VirtualDisk] = []
        try:
            for disk in vm.live_disks():
                if not self.is_physical_rdm(disk.path):
                    opened.append(disks.open_chain(self._out(disk.path), writable=True, resolve=self.resolve))
        except disks.DiskError:
            for one in opened:
                one.close()
            raise
        return opened

    def _close(self, vm: Vm, clean: bool) -> None:
        for disk in self._open.pop(vm.cartel, []):
            disk.close(clean)

    @contextlib.contextmanager
    def stunned(self, vm: Vm, quiesce: bool = False) -> Iterator[None]:
        """The guest holds still for the block; `quiesce` has it flush first."""
        guest = vm.guest
        if guest is None:
            yield
            return
        if quiesce:
            guest.quiesce()
        else:
            guest.pause()
        self._flush(vm)
        try:
            yield
        finally:
            if vm.question is None:
                guest.resume()

    def _flush(self, vm: Vm) -> None:
        for disk in self._open.get(vm.cartel, []):
            disk.flush()

    def suspend_disks(self, vm: Vm) -> None:
        """Close the disks of a stunned VM so that its top links can be merged; `reopen` follows."""
        for disk in self._open.get(vm.cartel, []):
            disk.close()

    def reopen(self, vm: Vm) -> None:
        """Let a running VM go on with what its .vmx names now: same content, other links."""
        guest = vm.guest
        if guest is None:
            return
        held = guest.paused
        guest.pause()
        old = self._open.get(vm.cartel, [])
        for disk in old:
            disk.close()
        self._take_locks(vm)
        self._open[vm.cartel] = fresh = self._open_disks(vm)
        guest.swap(fresh)
        if not held:
            guest.resume()

    def guest_status(self, vm: Vm) -> dict[str, Any] | None:
        guest = vm.guest
        if guest is None:
            return None
        return {"sequence": guest.sequence, "paused": guest.paused, "consistent_at_boot": guest.was_consistent}

    def _out_of_space(self, vm: Vm, error: disks.DiskError) -> None:
        """A full datastore pauses the VM with a question until there is room and someone answers."""
        volume = self.host.volumes.volume_of(self.host.volumes.inside_of(Path(error.path)))
        question = Question(
            number=self.host.next_question(),
            key="msg.hbacommon.outofspace",
            text=(
                f"There is no more space for virtual disk '{os.path.basename(error.path)}'. You might be able to "
                "continue this session by freeing disk space on the relevant volume, and clicking Retry. "
                "Click Cancel to terminate this session."
            ),
            choices=["Retry", "Cancel"],
            default=0,
        )
        vm.question = question
        vm.log.write(f"Msg_Question: {question.key} (id={question.number}) on {volume.name if volume else '?'}", "vmx")
        while not question.answered.wait(0.1):
            if self.host.stopped or vm.power != "poweredOn":
                return
        vm.question = None
        if question.choice == 0 and vm.guest is not None:
            vm.guest.resume()
        elif question.choice == 1:
            from . import power

            power.stop(vm, clean=False)

    # --- locks -----------------------------------------------------------------------------------------------

    def _owner(self, vm: Vm) -> str:
        """Each VM holds its locks for itself; what VMFS shows of the owner is the host, the first word."""
        return f"{self.host.lock_owner} vm {vm.cartel}"

    def _take_locks(self, vm: Vm) -> None:
        """Top links exclusive, all below shared. A file that another VM holds makes it fail. NFS has no locks.

        What the VM holds already is changed in place, and what it needs no more is let go last: nothing is ever free
        in between.
        """
        if self.locks is None:
            return
        base_readable = bool(self.host.switches["base_readable_after_snapshot"])
        asked = self.host.switches["frozen_delta_readable"]
        delta_readable = base_readable if asked is None else bool(asked)
        wanted: dict[str, int] = {}
        open_to_readers: set[str] = set()
        for disk in vm.live_disks():
            path: str | None = disk.path
            mode = EXCLUSIVE if disk.sharing != "multi-writer" else SHARED
            while path is not None:
                parent = self.parent_of(path)
                for extent in self.extents(path):
                    volume = self.host.volumes.volume_of(self.host.volumes.inside_of(Path(extent)))
                    if volume is not None and volume.is_vmfs:
                        wanted[extent] = max(mode, wanted.get(extent, 0)) if mode == EXCLUSIVE else mode
                        if base_readable if parent is None else delta_readable:
                            open_to_readers.add(extent)
                path, mode = parent, SHARED
        volume = self.host.volumes.volume_of(vm.vmx_path)
        if volume is not None and volume.is_vmfs:
            wanted.update({str(path): EXCLUSIVE for path in vm.swap_files})
        for extent, mode in wanted.items():
            try:
                readable = mode == SHARED and extent in open_to_readers
                self.locks.lock(extent, mode, readable=readable, owner=self._owner(vm))
            except OSError as error:
                self._drop_locks(vm)
                raise disks.FileLocked(extent, str(error)) from error
            if extent not in vm.locked:
                vm.locked.append(extent)
        self._drop_locks(vm, keep=wanted)

    def _drop_locks(self, vm: Vm, keep: Collection[str] = ()) -> None:
        for extent in vm.locked:
            if extent not in keep:
                self.locks.unlock(extent, owner=self._owner(vm))
        vm.locked = [extent for extent in vm.locked if extent in keep]

    def holders(self, extent: str) -> list[int]:
        """Processes other than this daemon that have the file open."""
        if self.locks is None:
            return []
        try:
            return list(self.locks.holders(extent))
        except FileNotFoundError:
            return []

    def readers(self, extent: str) -> list[int]:
        """Processes for which a consolidation has to wait in vain."""
        return self.holders(extent) if self.host.switches["reader_blocks_consolidation"] else []

    # --- disks -----------------------------------------------------------------------------------------------

    def _extent_folder(self, vm: Vm) -> str | None:
        """Where the extents of new deltas lie, if not beside their descriptors."""
        folder = vm.config.values.get("workingDir")
        if not folder or not self.host.switches["delta_extent_in_working_dir"]:
            return None
        return self.host.volumes.inside(folder, os.path.dirname(vm.vmx_path))

    def create_delta(self, vm: Vm | None, parent: str, child: str) -> None:
        """A new delta in the format of its datastore: SESparse on VMFS 6 and above 2 TB, VMFSsparse elsewhere."""
        volume = self.host.volumes.volume_of(child)
        large = disks.read_descriptor(self._out(parent)).capacity > 2 << 40
        sesparse = volume is not None and (
            (volume.type == "vmfs6" and self.host.profile.sesparse_on_vmfs6) or (volume.type == "vmfs5" and large)
        )
        kind = self.host.switches["delta_format"] or ("sesparse" if sesparse else "vmfssparse")
        same = os.path.dirname(parent) == os.path.dirname(child)
        disks.create_delta(
            self._out(parent),
            self._out(child),
            kind,
            release=self.host.profile.version,
            hint=os.path.basename(parent) if same else parent,
            extent_folder=self._extent_folder(vm) if vm else None,
            resolve=self.resolve,
        )

    def merge(self, vm: Vm, child: str, parent: str) -> None:
        """Commit a delta into its parent; meanwhile nobody else gets to either. Keeps the delta's files."""
        with self._exclusive(vm, [*self.extents(parent), *self.extents(child)]):
            disks.merge_delta(self._out(child), resolve=self.resolve, held=lambda extent: bool(self.readers(extent)))

    @contextlib.contextmanager
    def _exclusive(self, vm: Vm, extents: list[str]) -> Iterator[None]:
        if self.locks is None:
            yield
            return
        owner = self._owner(vm)
        before: dict[str, Lock | None] = {}
        try:
            for extent in extents:
                volume = self.host.volumes.volume_of(self.host.volumes.inside_of(Path(extent)))
                if volume is not None and volume.is_vmfs:
                    held = self.locks.state(extent)
                    try:
                        self.locks.lock(extent, EXCLUSIVE, owner=owner)
                    except OSError as error:
                        raise disks.FileLocked(extent, str(error)) from error
                    before[extent] = held
            yield
        finally:
            for extent, lock in before.items():
                if lock is None:
                    self.locks.unlock(extent, owner=owner)
                else:
                    self.locks.lock(extent, lock.mode, readable=lock.readable, owner=owner)

    def set_parent(self, vm: Vm, child: str, parent: str) -> None:
        """Hang a delta on another link that holds the same content as its old parent did."""
        with self._descriptor(vm, child) as descriptor:
            same = os.path.dirname(parent) == os.path.dirname(child)
            never_written = descriptor.cid == descriptor.parent_cid
            descriptor.parent_hint = os.path.basename(parent) if same else parent
            descriptor.parent_cid = disks.read_descriptor(self._out(parent)).cid
            if never_written:
                descriptor.cid = descriptor.parent_cid
            descriptor.write()

    @contextlib.contextmanager
    def _descriptor(self, vm: Vm, path: str) -> Iterator[disks.Descriptor]:
        """A descriptor to change: of a running VM's top link the one that it will write itself at its first write."""
        place = self._out(path)
        for disk in self._open.get(vm.cartel, []):
            if disk.path == place:
                with disk.held() as descriptor:
                    yield descriptor
                return
        yield disks.read_descriptor(place)

    def delete(self, path: str) -> None:
        with contextlib.suppress(disks.FileMissing):
            disks.delete(self._out(path), resolve=self.resolve)

    def delete_vm_files(self, vm: Vm) -> None:
        """vmsvc/destroy: the VM's disks with their snapshots' links, and its own small files; a foreign file stays."""
        from .chains import Chains

        own = vm.config.base_name
        for path in Chains(vm).own() | {disk.path for disk in vm.live_disks()}:
            self.delete(path)
        for snapshot in vm.snapshots().snapshots:
            for name in (snapshot.filename, snapshot.filename.replace(".vmsn", ".vmem")):
                (vm.folder / name).unlink(missing_ok=True)
        nvram = vm.config.values.get("nvram")
        for name in os.listdir(vm.folder):
            if name in {f"{own}.vmx", f"{own}.vmsd", f"{own}.vmxf", nvram} or (
                name.startswith("vmware") and name.endswith(".log")
            ):
                (vm.folder / name).unlink()
        with contextlib.suppress(OSError):
            vm.folder.rmdir()
