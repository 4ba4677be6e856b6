# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the plan of one host: reads, chooses, decides, and lays down the skeleton of the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.info import describe_vms
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    places,
    record,
    replica,
    storeroom,
    storetwins,
    survey,
    torn,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy, NothingSelected, VmTorn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import valid_run_id
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import HostPlan, VmFacts, plan_host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import STORING, VmPolicy, parse_policy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.select import select
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import uuid_of


def plan_backup(
    host: Host,
    raw_policy: Mapping[str, Any],
    run_id: str,
    label: str,
    host_tags: Mapping[str, Any],
    stores: Stores | None = None,
) -> HostPlan:
    """The plan; nothing is changed anywhere. `label` is the host's name in the inventory and in the record."""
    if not valid_run_id(run_id):
        raise BadPolicy(what=f"run_id {run_id!r} must be 1 to 64 letters, digits, dots, dashes or underscores")
    policy, stores = parse_policy(raw_policy), stores or Stores()
    vms = host.vms()
    infos = {vm.vmid: info for vm, info in zip(vms, describe_vms(host, vms))}
    found = survey.candidates(vms, infos, host_tags, {vm.vmid for vm in vms if replica.stands_by(vm)})
    selection = select(policy.select, policy.exclude, found, label, policy.unknown_names)
    none_is_right = policy.allow_none or any(one.standby for one in selection.left_out)
    if not selection.chosen and not selection.problems and not none_is_right:
        wishes = ", ".join(str(wish) for wish in policy.select) or "an empty selection"
        raise NothingSelected(host=label, select=wishes, count=len(vms))
    by_id = {vm.vmid: vm for vm in vms}
    marks = torn.look(host.session, [by_id[one.vmid].directory for one in selection.chosen if by_id[one.vmid].vmx_path])
    facts = {chosen.vmid: survey.vm_facts(host, by_id[chosen.vmid], infos[chosen.vmid]) for chosen in selection.chosen}
    for vmid, one in facts.items():
        if one.directory in marks:
            error = VmTorn(host=label, vm=one.name, vmid=vmid, **marks[one.directory].words)
            facts[vmid] = replace(one, fault=error.as_dict())
    wanted = {
        (vmid, number): (wish, one)
        for vmid, one in facts.items()
        for number, wish in enumerate(policy.all_for_vm([one.name, *one.uuids]))
    }
    targets = _targets(host, wanted, stores)
    newest = _newest(host, label, wanted, targets, stores)
    points = {(wish.point, wish.program) for wish, _facts in wanted.values() if wish.program in STORING}
    rooms = {point: storeroom.look(stores, point, program) for point, program in sorted(points)}
    problem = storeroom.way_problem(host) if points else None
    if problem is not None:
        rooms = {point: replace(room, problem=room.problem or problem) for point, room in rooms.items()}
    # Of a VM that cannot be read the UUIDs are unknown: then nothing is said of entries that it might be meant by.
    strangers = policy.without_vm([(one.name, *one.uuids) for one in found])
    if any(not one.uuids for one in found):
        strangers = tuple(key for key in strangers if uuid_of(key) is None)
    now, mounted = host.clock.now(), survey.volumes(host)
    plan = plan_host(run_id, label, selection, facts, policy, targets, mounted, strangers, rooms, newest, now)
    return storetwins.noticed(plan, stores)


def _targets(
    host: Host, wanted: Mapping[tuple[int, int], tuple[VmPolicy, VmFacts]], stores: Stores
) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    keys = list(wanted)
    for program in sorted({policy.program for policy, _facts in wanted.values()}):
        mine = {
            at: (policy.point, facts.name, facts.identity)
            for at, (policy, facts) in enumerate(wanted.values())
            if policy.program == program
        }
        found.update({keys[at]: target for at, target in places.of(program, stores).targets(host, mine).items()})
    return found


def _newest(
    host: Host,
    label: str,
    wanted: Mapping[tuple[int, int], tuple[VmPolicy, VmFacts]],
    targets: Mapping[tuple[int, int], str],
    stores: Stores,
) -> dict[int, datetime]:
    """By vmid. Of a VM's several backup points the one that has waited longest counts."""
    found: dict[tuple[int, int], datetime] = {}
    keys = list(wanted)
    for program in sorted({policy.program for policy, _facts in wanted.values()}):
        mine = {
            at: (policy.point, targets[keys[at]], facts.identity)
            for at, (policy, facts) in enumerate(wanted.values())
            if policy.program == program
        }
        found.update({keys[at]: time for at, time in places.of(program, stores).newest(host, label, mine).items()})
    lacking = {vmid for vmid, number in keys if (vmid, number) not in found}
    return {
        vmid: min(time for key, time in found.items() if key[0] == vmid)
        for vmid in {vmid for vmid, _number in keys} - lacking
    }


def write_skeleton(state_dir: str, plan: HostPlan, host: Host) -> str:
    return record.write_plan(state_dir, plan.as_dict(), host.clock.now())
