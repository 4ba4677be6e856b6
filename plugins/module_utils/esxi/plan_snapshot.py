# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a wish about a snapshot comes to: decided first, as a value, and then done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, power_state, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import Snapshot, SnapshotTree

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine


@dataclass(frozen=True)
class SnapshotPlan:
    """`action` is create, remove, revert or none. `after` is the tree as it will be; a new snapshot has no id yet."""

    action: str
    snapshot: Snapshot | None
    before: SnapshotTree
    after: SnapshotTree
    words: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.action != "none"

    def diff(self) -> dict[str, str]:
        return {"before": render(self.before), "after": render(self.after)}


def render(tree: SnapshotTree) -> str:
    """The tree as text, for a diff."""
    lines = [
        f"{'  ' * (s.depth - 1)}- {s.name} ({'new' if s.id is None else f'id {s.id}'}){' <- now' if s.current else ''}"
        for s in tree
    ]
    return "".join(line + "\n" for line in lines)


def plan(vm: VirtualMachine, wish: Mapping[str, Any]) -> SnapshotPlan:
    """Decide. `wish` holds the options of the module esxi_snapshot. Raises what makes the wish impossible."""
    tree = snapshots.tree(vm)
    snapshot = snapshots.choose(vm, tree, wish.get("name"), wish.get("snapshot_id"))
    if wish["state"] == "present":
        return _present(vm, tree, snapshot, wish)
    if wish["state"] == "absent":
        return _absent(tree, snapshot, bool(wish.get("remove_children")))
    return _reverted(vm, tree, snapshot, wish)


def _present(
    vm: VirtualMachine, tree: SnapshotTree, snapshot: Snapshot | None, wish: Mapping[str, Any]
) -> SnapshotPlan:
    if snapshot is not None:
        return SnapshotPlan("none", snapshot, tree, tree)
    if not wish.get("name"):
        raise snapshots.not_found(vm, str(wish.get("snapshot_id")), tree)
    current = tree.current
    memory = bool(wish.get("memory"))
    new = Snapshot(
        id=None,
        name=wish["name"],
        description=wish.get("description") or "",
        created_at=None,
        # The state that a revert would give: only the memory makes it a running one.
        state="powered on" if memory and vm.power_state() == power_state.ON else "powered off",
        depth=current.depth + 1 if current else 1,
        parent_id=current.id if current else None,
        current=True,
    )
    left_out = [disk.key for disk in vm.vmx.disks() if disk.mode.startswith("independent")]
    warnings = [f"Independent disks are not in the snapshot: {', '.join(left_out)}"] if left_out else []
    if memory and wish.get("quiesce"):
        warnings.append("With memory=true the host does not quiesce the guest")
    after = _inserted(tree, new)
    return SnapshotPlan("create", new, tree, after, (f"create snapshot {new.name!r}",), tuple(warnings))


def _inserted(tree: SnapshotTree, new: Snapshot) -> SnapshotTree:
    plain = [replace(snapshot, current=False) for snapshot in tree]
    at = len(plain)
    if new.parent_id is not None:
        family = tree.with_descendants(new.parent_id)
        at = max(index for index, snapshot in enumerate(plain) if snapshot.id in family) + 1
    return SnapshotTree((*plain[:at], new, *plain[at:]))


def _absent(tree: SnapshotTree, snapshot: Snapshot | None, children: bool) -> SnapshotPlan:
    if snapshot is None or snapshot.id is None:
        return SnapshotPlan("none", None, tree, tree)
    doomed = tree.with_descendants(snapshot.id) if children else frozenset({snapshot.id})
    words = [f"remove snapshot {s.name!r} (id {s.id})" for s in tree if s.id in doomed]
    return SnapshotPlan("remove", snapshot, tree, _without(tree, doomed), tuple(words))


def _without(tree: SnapshotTree, doomed: frozenset[int]) -> SnapshotTree:
    """The tree without some: their children move up to the nearest one that stays, and so does the current mark."""
    kept: list[Snapshot] = []
    current = tree.current
    stays = next((i for i in tree.ancestors(current.id) if i not in doomed), None) if current and current.id else None
    for snapshot in tree:
        if snapshot.id in doomed or snapshot.id is None:
            continue
        line = [i for i in tree.ancestors(snapshot.id)[1:] if i not in doomed]
        kept.append(
            replace(snapshot, parent_id=line[0] if line else None, depth=len(line) + 1, current=snapshot.id == stays)
        )
    return SnapshotTree(tuple(kept))


def _reverted(
    vm: VirtualMachine, tree: SnapshotTree, snapshot: Snapshot | None, wish: Mapping[str, Any]
) -> SnapshotPlan:
    if snapshot is None or snapshot.id is None:
        raise snapshots.not_found(vm, str(wish.get("name") or wish.get("snapshot_id")), tree)
    if not wish.get("allow_revert"):
        raise errors.NotAllowed(
            **vm.data(
                operation=f"the revert to snapshot {snapshot.name!r}",
                reason="everything that was written since it was taken would be lost",
                advice="Set allow_revert=true if that is meant.",
            )
        )
    warnings: list[str] = []
    independent = [disk.key for disk in vm.vmx.disks() if disk.mode.startswith("independent")]
    if independent:
        warnings.append(f"Independent disks do not revert and keep their present content: {', '.join(independent)}")
    if vm.power_state() == power_state.ON and snapshot.state != "powered on":
        warnings.append("The snapshot holds no running state: the VM is powered off by the revert")
    words = (f"revert to snapshot {snapshot.name!r} (id {snapshot.id})",)
    return SnapshotPlan("revert", snapshot, tree, tree.marked(snapshot.id), words, tuple(warnings))


def run(
    vm: VirtualMachine, decided: SnapshotPlan, wish: Mapping[str, Any], waiter: Waiter, journal: IntentLog | None
) -> Snapshot | None:
    """Do what was decided; the snapshot as it is afterwards, None when it is gone."""
    target = decided.snapshot
    if decided.action == "none" or target is None:
        return target
    if decided.action == "create":
        return snapshots.create(
            vm,
            target.name,
            target.description,
            bool(wish.get("memory")),
            bool(wish.get("quiesce")),
            waiter,
            journal,
            late_seconds=float(wish.get("late_timeout", 90)),
        )
    if decided.action == "remove":
        snapshots.remove(vm, target.id or 0, bool(wish.get("remove_children")), waiter, journal)
        return None
    snapshots.revert(vm, target.id or 0, bool(wish.get("suppress_power_on")), waiter, journal)
    return target
