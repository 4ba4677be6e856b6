# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Creating, removing and reverting snapshots."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .chains import MAX_LEVELS, Chains, consolidate
from .dictfile import DictFile
from .errors import (
    GenericVmConfigFault,
    InsufficientRoom,
    ManagedObjectNotFound,
    NotSupported,
    QuiesceFailed,
    SystemError_,
    TooManySnapshotLevels,
    VimFault,
)
from .vmodl import Ref
from .vmsd import Snapshot

if TYPE_CHECKING:
    from .machine import Vm

#: What a .vmsn starts with; the rest of ours is the .vmx as it was, and padding to the size of a real one.
MAGIC = b"\xd2\xbe\xd2\xbe\x08\x00\x00\x00"
STATE_SIZE = 28672
UNCHANGED = (
    "Snapshot not taken since the state of the virtual machine has not changed since the last snapshot operation."
)


def create(vm: Vm, name: str, description: str, memory: bool, quiesce: bool) -> Snapshot:
    """Freeze every dependent disk, by a stun of the guest where it runs."""
    host, engine = vm.host, vm.host.engine
    snapshots = vm.snapshots()
    _refuse_impossible(vm, snapshots.depth(snapshots.current), memory)
    if vm.has_fault("snapshot_fails"):
        raise GenericVmConfigFault("An error occurred while taking a snapshot: Failed to create the snapshot.")
    if vm.power == "suspended" and snapshots.current is not None and not _changed_since(vm, snapshots.current):
        raise VimFault(UNCHANGED)
    host.clock.sleep(host.snapshot_delay(vm))
    host.check_alive(vm)
    memory = memory and vm.power == "poweredOn"
    # Memory wins over quiesce, and without running Tools the quiesce flag is ignored.
    quiesce = quiesce and not memory and vm.power == "poweredOn" and vm.tools_running
    if quiesce and vm.has_fault("quiesce_fails"):
        vm.log.write("ToolsBackup: not enough disk space or the guest did not answer the freeze request", "vmx", 5)
        raise QuiesceFailed()
    uid = snapshots.last_uid + 1
    snapshot = Snapshot(
        uid=uid,
        name=name,
        description=description,
        created=host.clock.now(),
        filename=f"{vm.config.base_name}-Snapshot{uid}.vmsn",
        parent=snapshots.current,
        memory=memory,
        quiesced=quiesce,
    )
    with engine.stunned(vm, quiesce=quiesce):
        made = _freeze_disks(vm, snapshot)
        before = vm.config.values.copy()
        try:
            _write_state(vm, snapshot)
            for node, path in made.items():
                vm.config.set_disk_file(node, path)
            vm.save_config()
            snapshots.snapshots.append(snapshot)
            snapshots.last_uid = snapshots.current = uid
            vm.save_snapshots(snapshots)
        except (VimFault, OSError) as error:
            _undo(vm, snapshot, list(made.values()), before)
            if isinstance(error, VimFault):
                raise
            raise SystemError_(str(error)) from error
        if vm.power == "poweredOn":
            engine.reopen(vm)
    vm.log.write(f"SnapshotVMXTakeSnapshotComplete: Done with snapshot '{name}': {uid}", "vmx", 5)
    return snapshot


def _undo(vm: Vm, snapshot: Snapshot, made: list[str], before: DictFile) -> None:
    """A snapshot that could not be written down: the VM goes on as before, nothing of it stays."""
    vm.config.values = before
    with contextlib.suppress(OSError):
        vm.save_config()
    for path in made:
        vm.host.engine.delete(path)
    for name in (snapshot.filename, snapshot.filename.replace(".vmsn", ".vmem")):
        (vm.folder / name).unlink(missing_ok=True)


def _refuse_impossible(vm: Vm, depth: int, memory: bool) -> None:
    if depth + 1 >= MAX_LEVELS:
        raise TooManySnapshotLevels()
    if memory and vm.power == "poweredOn" and vm.config.values.flag("pciPassthru0.present"):
        raise NotSupported("Cannot take a memory snapshot of a virtual machine with a pass-through device.")
    for disk in vm.live_disks():
        if disk.sharing == "multi-writer":
            raise NotSupported("Cannot take a snapshot of a virtual machine with multi-writer disks.")
        bus = vm.config.values.get(f"{disk.bus_type}{disk.bus}.sharedBus", "none")
        if bus not in ("", "none") and vm.power == "poweredOn":
            raise NotSupported("Cannot take a snapshot of a virtual machine that shares its SCSI bus.")


def _changed_since(vm: Vm, uid: int) -> bool:
    snapshot = vm.snapshots().find(uid)
    return snapshot is None or vm.suspend_time is None or vm.suspend_time > snapshot.created


def _freeze_disks(vm: Vm, snapshot: Snapshot) -> dict[str, str]:
    """A delta above every dependent disk; all or none."""
    engine = vm.host.engine
    made: dict[str, str] = {}
    try:
        for disk in vm.live_disks():
            if disk.independent or engine.is_physical_rdm(disk.path):
                continue
            child = vm.next_delta(disk.path)
            engine.create_delta(vm, disk.path, child)
            made[disk.node] = child
            snapshot.disks[disk.node] = disk.file
    except engine.DiskError as error:
        for child in made.values():
            engine.delete(child)
        volume = vm.host.volumes.volume_of(disk.path)
        if isinstance(error, engine.DiskFull):
            raise InsufficientRoom(volume.name if volume else disk.path) from error
        raise GenericVmConfigFault(f"Failed to create a delta disk: {error.vmware_text}") from error
    return made


def _write_state(vm: Vm, snapshot: Snapshot) -> None:
    """The .vmsn: the configuration as it is now; with memory, the .vmem beside it."""
    text = DictFile()
    text.set("quiesced", "TRUE" if snapshot.quiesced else "FALSE")
    body = text.render() + vm.config.values.render()
    data = MAGIC + body.encode("utf-8", "surrogateescape")
    _write(vm.folder / snapshot.filename, data.ljust(STATE_SIZE, b"\0"))
    if snapshot.memory:
        path = vm.folder / snapshot.filename.replace(".vmsn", ".vmem")
        _write(path, b"")
        os.truncate(path, vm.config.memory_mb << 20)


def _write(path: os.PathLike[str], data: bytes) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
            handle.write(data)
    except OSError as error:
        raise GenericVmConfigFault(f"Failed to write the snapshot state: {error.strerror}") from error


def saved_state(vm: Vm, snapshot: Snapshot) -> DictFile:
    """What the .vmsn holds; empty when it is gone."""
    try:
        data = (vm.folder / snapshot.filename).read_bytes()
    except OSError:
        return DictFile()
    return DictFile(data[len(MAGIC) :].rstrip(b"\0").decode("utf-8", "surrogateescape"))


def remove(vm: Vm, uids: Sequence[int]) -> None:
    """Take the entries out of the .vmsd first, then merge what they held: a failed merge leaves no entry."""
    snapshots = vm.snapshots()
    gone = [snapshots.find(uid) for uid in uids]
    before = Chains(vm, snapshots).referenced()
    for snapshot in gone:
        if snapshot is not None:
            snapshots.remove(snapshot.uid)
            for name in (snapshot.filename, snapshot.filename.replace(".vmsn", ".vmem")):
                (vm.folder / name).unlink(missing_ok=True)
    vm.save_snapshots(snapshots)
    vm.host.clock.sleep(vm.host.faults.seconds("remove_delay", vm.safe_name))
    vm.host.check_alive(vm)
    # Links that only the removed snapshots named (leaves of other branches) are deleted, not merged.
    for path in before - Chains(vm, snapshots).referenced():
        vm.host.engine.delete(path)
    consolidate(vm, snapshots)


def find(vm: Vm, uid: str) -> Snapshot:
    found = vm.snapshots().find(int(uid)) if uid.isdigit() else None
    if found is None:
        raise ManagedObjectNotFound(Ref(f"vim.vm.Snapshot:{vm.vmid}-snapshot-{uid}"))
    return found


def revert(vm: Vm, snapshot: Snapshot) -> None:
    """Throw the live links away and start new ones above what the snapshot froze. The VM is off by now."""
    engine = vm.host.engine
    snapshots = vm.snapshots()
    before = Chains(vm, snapshots).referenced()
    made = {}
    for node, name in snapshot.disks.items():
        frozen = vm.config.absolute(name)
        child = vm.next_delta(frozen)
        engine.create_delta(vm, frozen, child)
        made[node] = child
    saved = saved_state(vm, snapshot)
    saved.drop("quiesced")
    if "displayName" in saved:
        vm.config.values = saved
    for node, path in made.items():
        vm.config.set_disk_file(node, path)
    vm.save_config()
    snapshots.current = snapshot.uid
    vm.save_snapshots(snapshots)
    for path in before - Chains(vm, snapshots).referenced():
        engine.delete(path)
