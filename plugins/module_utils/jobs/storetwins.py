# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else has made restore points of a VM's identity, which is no more than what a hypervisor says.

A VM may have moved, it may be a copy that kept its UUID, or a hypervisor lies. All of them are backed up; each
hypervisor's restore points are kept, counted and rotated apart, and whoever reads the plan is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import HostPlan, VmPlan
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

# What is older than so many points is no news. Each is read, in a bucket by a request.
LOOKED_AT = 8


def noticed(plan: HostPlan, stores: Stores) -> HostPlan:
    """The plan, with a warning for each VM whose identity another hypervisor has used of late."""

    def with_told(vm: VmPlan) -> VmPlan:
        told: Sequence[str] = ()
        if vm.policy.program == "dedup" and not vm.problems:
            try:
                told = warnings(stores.open(vm.policy.point), vm.identity, plan.host)
            except StowageError:
                # A store that is still to be made has no points; what else is wrong with it, the plan says already.
                told = ()
        return replace(vm, warnings=(*vm.warnings, *told), also=tuple(with_told(one) for one in vm.also))

    return replace(plan, vms=tuple(with_told(vm) for vm in plan.vms))


def warnings(store: Store, machine: str, host: str) -> list[str]:
    from ansible_collections.stowage.esxi.plugins.module_utils.store import points
    from ansible_collections.stowage.esxi.plugins.module_utils.store.known import HYPERVISOR

    makers: list[tuple[str, str]] = []
    names = sorted((name for name, _size in store.backend.list(points.folder_of(machine))), reverse=True)
    for name in names[:LOOKED_AT]:
        try:
            point = store.read_point(name)
        except StowageError:
            # Verify names it.
            continue
        maker = point.facts.get(HYPERVISOR) if point is not None else None
        if point is not None and isinstance(maker, str):
            makers.append((maker, point.created_at))
    mine = [number for number, (maker, _at) in enumerate(makers) if maker == host]
    # Newest first. What another one had made before our first is a move that was told of then.
    recent = makers[: mine[-1]] if mine else makers
    others = {maker: at for maker, at in reversed(recent) if maker != host}
    if not others:
        return []
    listed = " and ".join(f"{maker} (the newest {at})" for maker, at in sorted(others.items()))
    kept = "Each hypervisor's are kept, counted and rotated apart, and nothing of the others' is told to this one"
    if mine:
        return [
            f"{listed} and {host} take turns in making restore points of its identity {machine}: two VMs have one UUID "
            f"(give one of them a new one), or it moves to and fro. {kept}"
        ]
    return [
        f"restore points of its identity {machine} were made by {listed}, none by {host} yet: it has moved here, or "
        f"two VMs have one UUID. {kept}: what the scope lacks is sent anew, and the older ones go by prune alone"
    ]
