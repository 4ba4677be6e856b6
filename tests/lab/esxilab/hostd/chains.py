# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chains of delta disks of a VM: what hangs on what, and merging what no snapshot needs any more."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import FileLocked, GenericVmConfigFault, InsufficientRoom

if TYPE_CHECKING:
    from .machine import Vm
    from .vmsd import SnapshotDict

#: Levels that a chain may have, the base disk included.
MAX_LEVELS = 32


@dataclass(frozen=True)
class Merge:
    """One step: the data of `child` goes into `parent`, and `child` disappears."""

    node: str
    child: str
    parent: str


class Chains:
    """All chains of one VM, from the .vmx and the snapshots; paths are descriptors as seen inside the host."""

    def __init__(self, vm: Vm, snapshots: SnapshotDict | None = None) -> None:
        self.vm = vm
        self.snapshots = snapshots if snapshots is not None else vm.snapshots()
        self.live = {disk.node: disk.path for disk in vm.live_disks() if not disk.independent}
        self.frozen = {
            vm.config.absolute(name) for snapshot in self.snapshots.snapshots for name in snapshot.disks.values()
        }
        self._parents: dict[str, str | None] = {}

    def chain(self, path: str) -> list[str]:
        """Descriptor paths from `path` down to its base."""
        found = [path]
        while len(found) <= MAX_LEVELS:
            parent = self._parent(found[-1])
            if parent is None or parent in found:
                break
            found.append(parent)
        return found

    def _parent(self, path: str) -> str | None:
        if path not in self._parents:
            self._parents[path] = self.vm.host.engine.parent_of(path)
        return self._parents[path]

    def tops(self) -> list[tuple[str, str]]:
        """(node, descriptor) of everything that the .vmx or a snapshot names."""
        found = list(self.live.items())
        for snapshot in self.snapshots.snapshots:
            found += [(node, self.vm.config.absolute(name)) for node, name in snapshot.disks.items()]
        return found

    def children_of(self, path: str) -> set[str]:
        found = set()
        for _, top in self.tops():
            chain = self.chain(top)
            if path in chain[1:]:
                found.add(chain[chain.index(path) - 1])
        return found

    def merges(self) -> list[Merge]:
        """What can be merged now, the lowest of each chain first."""
        found: list[Merge] = []
        for node, top in self.tops():
            chain = self.chain(top)
            for child, parent in zip(reversed(chain[:-1]), reversed(chain[1:])):
                merge = Merge(node, child, parent)
                if not _one_vm(child, parent):
                    continue
                if parent not in self.frozen and len(self.children_of(parent)) == 1 and merge not in found:
                    found.append(merge)
        return found

    def consolidation_needed(self) -> bool:
        return bool(self.merges())

    def own(self) -> set[str]:
        """Of the descriptors that chains go through, those that are this VM's: the parent of a linked clone is not."""
        found = set()
        for _, top in self.tops():
            chain = self.chain(top)
            end = next((n for n, pair in enumerate(zip(chain, chain[1:]), 1) if not _one_vm(*pair)), len(chain))
            found.update(chain[:end])
        return found

    def referenced(self) -> set[str]:
        """Every descriptor that some chain still goes through."""
        return {path for _, top in self.tops() for path in self.chain(top)}


def _one_vm(child: str, parent: str) -> bool:
    """All links of a VM's own disk lie in one folder; a linked clone's parent lies in another VM's."""
    return os.path.dirname(child) == os.path.dirname(parent)


def consolidate(vm: Vm, snapshots: SnapshotDict) -> None:
    """Merge until nothing is left to merge. A process that holds a file of the chain makes it fail."""
    for _ in range(2 * MAX_LEVELS):
        chains = Chains(vm, snapshots)
        steps = chains.merges()
        if not steps:
            return
        _merge_one(vm, chains, steps[0])
    raise GenericVmConfigFault("Unable to consolidate the disks of the virtual machine: too many links.")


def _merge_one(vm: Vm, chains: Chains, step: Merge) -> None:
    engine = vm.host.engine
    for path in (step.parent, step.child):
        for extent in engine.extents(path):
            if engine.readers(extent):
                vm.log.write(
                    f"AIOGNRC: Failed to open '{extent}' : Failed to lock the file (40003) (0x2013).", "worker", 5
                )
                vm.log.write(f"SnapshotVMXConsolidateOnlineCB: Consolidate failed for {step.node}", "vmx", 5)
                raise FileLocked(extent)
    live = chains.live.get(step.node) == step.child
    try:
        if live and vm.power == "poweredOn":
            _merge_live_top(vm, step)
        else:
            engine.merge(vm, step.child, step.parent)
            _rename_users(vm, chains, step)
            if vm.power == "poweredOn":
                engine.reopen(vm)
    except engine.FileLocked as error:
        raise FileLocked(error.path) from error
    except engine.DiskFull as error:
        volume = vm.host.volumes.volume_of(step.parent)
        raise InsufficientRoom(volume.name if volume else step.parent) from error
    engine.delete(step.child)


def _merge_live_top(vm: Vm, step: Merge) -> None:
    """The VM writes into a helper delta while its top link is merged; the helper is merged last, in a short stun."""
    engine = vm.host.engine
    helper = vm.next_delta(step.child)
    with engine.stunned(vm):
        engine.create_delta(vm, step.child, helper)
        vm.config.set_disk_file(step.node, helper)
        vm.save_config()
        engine.reopen(vm)
    vm.log.write(f"ConsolidateDiskCB: Start merging {step.child} into {step.parent}", "vmx", 5)
    engine.merge(vm, step.child, step.parent)
    engine.set_parent(vm, helper, step.parent)
    with engine.stunned(vm):
        engine.suspend_disks(vm)
        try:
            engine.merge(vm, helper, step.parent)
            vm.config.set_disk_file(step.node, step.parent)
            vm.save_config()
        finally:
            # Where the last merge was refused, the VM goes on with the helper on top of the base.
            engine.reopen(vm)
            engine.delete(step.child)
    engine.delete(helper)


def _rename_users(vm: Vm, chains: Chains, step: Merge) -> None:
    """Whoever named the merged child names the parent from now on: the .vmx, a snapshot, or a grandchild."""
    engine = vm.host.engine
    for grandchild in chains.children_of(step.child):
        engine.set_parent(vm, grandchild, step.parent)
    if chains.live.get(step.node) == step.child:
        vm.config.set_disk_file(step.node, step.parent)
        vm.save_config()
    changed = False
    for snapshot in chains.snapshots.snapshots:
        if step.node in snapshot.disks and vm.config.absolute(snapshot.disks[step.node]) == step.child:
            snapshot.disks[step.node] = vm.config.shorten(step.parent)
            changed = True
    if changed:
        vm.save_snapshots(chains.snapshots)
