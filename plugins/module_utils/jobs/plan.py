# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run would do to each VM: decided from facts alone, before anything is touched.

The value made here is the answer of check mode and the order that the run then follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    BadPolicy,
    DiskCannotBeCopied,
    HowNotPossible,
    JobError,
    NoDiskToCopy,
    NoRoom,
    NoSuchDisk,
    PendingQuestion,
    TargetMissing,
    VmChanged,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import STORING, Policy, VmPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.select import Problem, Selection
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.turns import in_turn

SCHEMA = 1


@dataclass(frozen=True)
class DiskFacts:
    """A disk as found. `allocated_bytes` counts every extent of its chain: what a reader may have to read."""

    key: str
    label: str
    path: str
    datastore: str
    capacity_bytes: int
    allocated_bytes: int
    mode: str = "persistent"
    kind: str = "flat"
    sharing: str = "none"
    bus_sharing: str = "none"
    fault: str = ""
    encrypted: bool = False


@dataclass(frozen=True)
class VmFacts:
    """A VM as found: all that the plan looks at."""

    name: str
    identity: str
    uuid: str
    vmid: int
    vmx_path: str
    directory: str
    power_state: str
    disks: tuple[DiskFacts, ...]
    uuids: tuple[str, ...] = ()
    question: str = ""
    passthrough: tuple[str, ...] = ()
    tools_running: bool = True
    consolidation_needed: bool = False
    key_provider: str = ""
    fault: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Volume:
    """A mounted datastore with its room."""

    name: str
    path: str
    capacity_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class StoreRoom:
    """A store with its room, None where nobody can tell; or why it cannot be used."""

    capacity_bytes: int | None = None
    free_bytes: int | None = None
    problem: Mapping[str, Any] | None = None
    warning: str = ""


@dataclass(frozen=True)
class PlannedDisk:
    key: str
    label: str
    source: str
    datastore: str
    capacity_bytes: int
    bytes_to_read: int
    action: str
    reason: str


@dataclass(frozen=True)
class How:
    """How the VM will be backed up as it stands now, and why."""

    effective: str
    why: str
    stop: bool = False
    snapshot: bool = False
    restart: bool = False


@dataclass(frozen=True)
class VmPlan:
    vm: str
    identity: str
    uuid: str
    vmid: int
    directory: str
    vmx_path: str
    power_state: str
    how: str
    effective_how: str
    why: str
    disks: tuple[PlannedDisk, ...]
    target: str
    room_needed: int
    problems: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    policy: VmPolicy
    needs_key_provider: str = ""
    asked: str = "asked for"
    #: Which of the VM's backup points this is for, and the plans for the others, which share its bracket.
    copy_number: int = 0
    also: tuple[VmPlan, ...] = ()
    #: Time of its newest restore point, empty where there is none.
    newest_at: str = ""
    #: Why this run does not begin it (jobs/turns.py).
    aside: Mapping[str, Any] | None = None

    @property
    def ready(self) -> bool:
        return not self.problems and self.aside is None

    @property
    def copies(self) -> tuple[VmPlan, ...]:
        """One for each backup point, this one first."""
        return (self, *self.also)

    @property
    def disk_keys(self) -> tuple[str, ...]:
        return tuple(disk.key for disk in self.disks if disk.action == "copy")

    @property
    def capacity_bytes(self) -> int:
        return sum(disk.capacity_bytes for disk in self.disks if disk.action == "copy")

    @property
    def bytes_to_read(self) -> int:
        return sum(disk.bytes_to_read for disk in self.disks if disk.action == "copy")

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "disks": [asdict(disk) for disk in self.disks],
            "problems": [dict(problem) for problem in self.problems],
            "warnings": list(self.warnings),
            "policy": self.policy.as_dict(),
            "aside": dict(self.aside) if self.aside is not None else None,
            "ready": self.ready,
            "disk_keys": list(self.disk_keys),
            "capacity_bytes": self.capacity_bytes,
            "bytes_to_read": self.bytes_to_read,
            "also": [one.as_dict() for one in self.also],
        }


@dataclass(frozen=True)
class HostPlan:
    run_id: str
    host: str
    vms: tuple[VmPlan, ...]
    not_selected: tuple[str, ...]
    problems: tuple[Problem, ...]
    policy: Mapping[str, Any] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    policies_with_vm: tuple[str, ...] = ()
    policies_without_vm: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        ready = [vm for vm in self.vms if vm.ready]
        copies = [one for vm in self.vms for one in vm.copies if one.ready]
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "host": self.host,
            "policy": dict(self.policy),
            "vms": [vm.as_dict() for vm in self.vms],
            "not_selected": list(self.not_selected),
            "excluded": list(self.excluded),
            "policies_with_vm": list(self.policies_with_vm),
            "policies_without_vm": list(self.policies_without_vm),
            "problems": [problem.as_dict() for problem in self.problems],
            "totals": {
                "vms": len(self.vms),
                "ready": len(ready),
                "disks": sum(len(vm.disk_keys) for vm in ready),
                "capacity_bytes": sum(vm.capacity_bytes for vm in ready),
                "copies": len(copies),
                "bytes_to_read": sum(one.bytes_to_read for one in copies),
                "room_needed": sum(one.room_needed for one in copies),
            },
            "text": self.text(),
        }

    def text(self) -> str:
        """The plan for people, one line a disk."""
        lines = []
        for vm in self.vms:
            state = "ready" if vm.ready else "PROBLEM" if vm.problems else str((vm.aside or {}).get("status"))
            newest = f"newest restore point {vm.newest_at}" if vm.newest_at else "no restore point yet"
            to = f" to {vm.policy.point} ({vm.policy.program})" if vm.also else ""
            lines.append(f"{vm.vm}: {vm.effective_how} ({vm.why}){to}, {state}, {_room_words(vm)}, {newest}")
            if vm.aside is not None:
                lines.append(f"  left for now: {vm.aside['why']}")
            for disk in vm.disks:
                reads = f"reads {format_bytes(disk.bytes_to_read)} of " if disk.action == "copy" else ""
                size = f"{reads}{format_bytes(disk.capacity_bytes)}"
                lines.append(f"  {disk.key:<9} {disk.action:<9} {size:<32} {disk.source}  {disk.reason}".rstrip())
            lines.extend(f"  problem: {problem['message']}" for problem in vm.problems)
            lines.extend(f"  warning: {warning}" for warning in vm.warnings)
            lines.extend(line for one in vm.also for line in _also_lines(vm, one))
        lines.extend(f"{problem.vm}: problem: {problem.error['message']}" for problem in self.problems)
        if self.excluded:
            lines.append("excluded: " + ", ".join(self.excluded))
        if self.not_selected:
            lines.append("not selected: " + ", ".join(self.not_selected))
        if self.policies_without_vm:
            names = ", ".join(self.policies_without_vm)
            lines.append(f"warning: no VM of this host is meant by these entries of backup_vms: {names}")
        return "\n".join(lines) + "\n"


def _also_lines(vm: VmPlan, one: VmPlan) -> list[str]:
    """Another backup point of a VM: what holds for the VM as a whole has been said."""
    state = "ready" if one.ready else "PROBLEM"
    lines = [f"  also to {one.policy.point} ({one.policy.program}): {state}, {_room_words(one)}"]
    lines += [f"    problem: {told['message']}" for told in one.problems if told not in vm.problems]
    return lines + [f"    warning: {told}" for told in one.warnings if told not in vm.warnings]


def _room_words(vm: VmPlan) -> str:
    if vm.policy.program not in STORING:
        return f"room needed {format_bytes(vm.room_needed)}"
    # What of it the store has already is known when it has been looked at.
    return f"at most {format_bytes(vm.room_needed)} new in the store"


def decide_how(wanted: str, power_state: str, asked: str = "asked for") -> How:
    """A VM that does not run needs no bracket: its disks are at rest, and nothing would be gained by a snapshot.

    `asked` says in words who wants it so.
    """
    if power_state == "poweredOff":
        return How(
            "cold", "powered off: its disks are at rest" if wanted != "cold" else f"{asked}; powered off already"
        )
    if power_state == "suspended":
        return How("cold", "suspended: its disks are at rest, and it stays suspended")
    if wanted == "cold":
        return How("cold", asked, stop=True)
    if wanted == "warm":
        return How("warm", asked, stop=True, snapshot=True, restart=True)
    return How("hot", asked, snapshot=True)


def decide_disk(disk: DiskFacts, how: How, policy: VmPolicy) -> PlannedDisk:
    action, reason = _action(disk, how, policy)
    return PlannedDisk(
        key=disk.key,
        label=disk.label,
        source=disk.path,
        datastore=disk.datastore,
        capacity_bytes=disk.capacity_bytes,
        bytes_to_read=min(disk.allocated_bytes, disk.capacity_bytes) if disk.capacity_bytes else disk.allocated_bytes,
        action=action,
        reason=reason,
    )


def _action(disk: DiskFacts, how: How, policy: VmPolicy) -> tuple[str, str]:
    if disk.key in policy.disks.exclude:
        return "excluded", "asked for: listed in disks.exclude"
    if policy.disks.include and disk.key not in policy.disks.include:
        return "excluded", "asked for: not listed in disks.include"
    if disk.kind == "rdm-physical":
        return "excluded", "physical raw device mapping: it cannot be snapshotted or cloned"
    if disk.fault:
        return "cannot", disk.fault
    if disk.mode.lower().startswith("independent") and how.snapshot:
        return "excluded", f"{disk.mode}: snapshots leave independent disks out; only a cold backup reads it"
    if disk.encrypted and policy.program in STORING:
        return (
            "cannot",
            f"it is encrypted, and {policy.program} keeps the bytes of a disk, not its keys: back this VM up with the "
            "program vmkfstools (backup_vms)",
        )
    if _is_multi_writer(disk):
        return "cannot", "multi-writer: another VM may write to it at any moment"
    if disk.bus_sharing not in ("", "none") and how.snapshot:
        return "cannot", f"its controller is shared ({disk.bus_sharing}): no snapshot is possible while the VM runs"
    if disk.kind == "rdm-virtual":
        return "copy", "virtual raw device mapping: what its device holds is copied into a disk of its own"
    return "copy", ""


def _is_multi_writer(disk: DiskFacts) -> bool:
    return disk.sharing.lower().replace("-", "") == "multiwriter"


def _is_shared(disk: DiskFacts) -> str:
    """How other VMs get to the disk, in words; empty where they do not."""
    if _is_multi_writer(disk):
        return "multi-writer"
    return "" if disk.bus_sharing in ("", "none") else f"on a shared controller ({disk.bus_sharing})"


def why_not_as_planned(facts: VmFacts, planned: Mapping[str, str], policy: VmPolicy, host: str) -> JobError | None:
    """Why the VM in its present state cannot be backed up as planned: `planned` maps disks to their actions."""
    how = decide_how(policy.how, facts.power_state)
    disks = tuple(decide_disk(disk, how, policy) for disk in facts.disks)
    for disk in disks:
        if planned.get(disk.key) == "copy" and disk.action != "copy":
            reason = f"it is {facts.power_state} now, and so {disk.key} can no longer be copied: {disk.reason}"
            return VmChanged(vm=facts.name, reason=reason)
    return next(iter(_problems(facts, policy, how, disks, host)), None)


def room_needed(disk: PlannedDisk, disk_format: str) -> int:
    """What the copy may take. A thin copy never takes more than its chain holds, nor more than its capacity."""
    return room_for(disk.bytes_to_read, disk.capacity_bytes, disk_format)


def room_for(data_bytes: int, capacity_bytes: int, disk_format: str) -> int:
    if disk_format in ("zeroedthick", "eagerzeroedthick"):
        return capacity_bytes
    # A sparse disk has two tables of 4 bytes a grain of 64 KiB, empty or not. A thin one costs the file system its
    # block pointers, 8 bytes a block of 1 MiB, here twice: a disk of 2 TiB that is nearly empty fits nearly everywhere.
    tables = capacity_bytes // (8192 if disk_format == "2gbsparse" else 65536)
    return data_bytes + tables + 1024 * 1024


def volume_of(path: str, volumes: Sequence[Volume]) -> Volume | None:
    """The datastore that holds a path written with its label or its own path."""
    for volume in volumes:
        for root in (volume.path.rstrip("/"), f"/vmfs/volumes/{volume.name}"):
            if path == root or path.startswith(root + "/"):
                return volume
    return None


def plan_vm(facts: VmFacts, policy: VmPolicy, target: str, host: str, asked: str = "asked for") -> VmPlan:
    """The plan of one VM, without the question of room, which depends on the VMs before it."""
    how = decide_how(policy.how, facts.power_state, asked)
    disks = tuple(decide_disk(disk, how, policy) for disk in facts.disks)
    problems = (
        [dict(facts.fault)]
        if facts.fault
        else [error.as_dict() for error in _problems(facts, policy, how, disks, host)]
    )
    warnings = []
    if how.stop and not facts.tools_running and not policy.force_off:
        warnings.append("VMware Tools do not run: the guest cannot be asked to shut down, and force_off is not allowed")
    if facts.consolidation_needed:
        warnings.append("the host says that its disks need consolidation")
    if facts.key_provider:
        warnings.append(f"{facts.key_provider}: its copy needs its key provider, and is not proven")
    if facts.passthrough:
        devices = ", ".join(facts.passthrough)
        warnings.append(f"it has pass-through devices ({devices}): they are named in its copy, and not part of it")
    if how.snapshot and policy.quiesce and not facts.tools_running:
        warnings.append("VMware Tools do not run: the snapshot will not be quiesced")
    return VmPlan(
        vm=facts.name,
        identity=facts.identity,
        uuid=facts.uuid,
        vmid=facts.vmid,
        directory=facts.directory,
        vmx_path=facts.vmx_path,
        power_state=facts.power_state,
        how=policy.how,
        effective_how=how.effective,
        why=how.why,
        disks=disks,
        target=target,
        room_needed=sum(
            disk.bytes_to_read if policy.program in STORING else room_needed(disk, policy.disk_format)
            for disk in disks
            if disk.action == "copy"
        ),
        problems=tuple(problems),
        warnings=tuple(warnings),
        policy=policy,
        needs_key_provider=facts.key_provider,
        asked=asked,
    )


def _problems(facts: VmFacts, policy: VmPolicy, how: How, disks: Sequence[PlannedDisk], host: str) -> list[JobError]:
    found: list[JobError] = []
    if facts.question:
        found.append(PendingQuestion(vm=facts.name, host=host, question=facts.question))
    present = {disk.key for disk in disks}
    for option in ("include", "exclude"):
        for key in getattr(policy.disks, option):
            # A general exclusion need not fit every VM; a disk that is to be included must be there.
            if key not in present and option == "include":
                listed = ", ".join(sorted(present)) or "none"
                found.append(NoSuchDisk(vm=facts.name, disk=key, option=option, present=listed))
    for disk in disks:
        if disk.action == "cannot":
            found.append(DiskCannotBeCopied(vm=facts.name, disk=disk.key, reason=disk.reason))
    for disk, fact in zip(disks, facts.disks):
        # Left out of the copy or not: the host takes no snapshot of a VM that has such a disk.
        shared = _is_shared(fact)
        if shared and how.snapshot and disk.action != "cannot":
            reason = f"the host takes no snapshot of it, because its disk {fact.key} is {shared}"
            found.append(HowNotPossible(vm=facts.name, how=how.effective, reason=reason, instead="cold"))
    if facts.passthrough and how.effective == "hot":
        devices = ", ".join(facts.passthrough)
        reason = f"it has pass-through devices ({devices}), which forbid snapshots while it runs"
        found.append(HowNotPossible(vm=facts.name, how="hot", reason=reason, instead="warm or cold"))
    if not any(disk.action in ("copy", "cannot") for disk in disks):
        why = "; ".join(f"{disk.key}: {disk.reason}" for disk in disks) or "it has no virtual disk at all"
        found.append(NoDiskToCopy(vm=facts.name, why=why))
    return found


def check_room(
    plans: Sequence[VmPlan], volumes: Sequence[Volume], host: str, stores: Mapping[str, StoreRoom] | None = None
) -> tuple[VmPlan, ...]:
    """Adds what the VMs before it will have taken to each VM's question of room, on the target and for its delta."""
    taken: dict[str, int] = {}
    checked = []
    for plan in plans:
        if plan.aside is not None:
            checked.append(plan)
            continue
        problems, warnings = list(plan.problems), list(plan.warnings)
        volume = volume_of(plan.policy.point, volumes)
        if plan.policy.program in STORING:
            _store_room(plan, (stores or {}).get(plan.policy.point, StoreRoom()), problems, warnings)
        elif volume is None:
            problems.append(TargetMissing(point=plan.policy.point, host=host).as_dict())
        else:
            reserve = volume.capacity_bytes * plan.policy.reserve_percent // 100
            free = volume.free_bytes - taken.get(volume.name, 0)
            if plan.room_needed > free - reserve:
                problems.append(_no_room(plan.vm, plan.room_needed, volume.name, free, reserve))
            elif not problems:
                taken[volume.name] = taken.get(volume.name, 0) + plan.room_needed
        if plan.effective_how in ("hot", "warm"):
            problems.extend(_snapshot_room(plan, volumes))
        checked.append(replace(plan, problems=tuple(problems), warnings=tuple(warnings)))
    return tuple(checked)


def _named(item: Any) -> dict[str, Any]:
    return {"point": item} if isinstance(item, str) else dict(item)


def together(plans: Sequence[VmPlan]) -> tuple[VmPlan, ...]:
    """One plan for each VM. The first point that can be written to leads: another one's problem is its own."""
    by_vm: dict[int, list[VmPlan]] = {}
    for plan in plans:
        by_vm.setdefault(plan.vmid, []).append(plan)
    found = []
    for copies in by_vm.values():
        lead = next((one for one in copies if one.ready), copies[0])
        found.append(replace(lead, also=tuple(one for one in copies if one is not lead)))
    return tuple(found)


def _store_room(plan: VmPlan, room: StoreRoom, problems: list[Mapping[str, Any]], warnings: list[str]) -> None:
    """What a backup brings anew is not known before: refused is only one for which there is no room at all."""
    if room.problem is not None:
        problems.append(dict(room.problem))
    if room.warning:
        warnings.append(room.warning)
    if room.free_bytes is None:
        return
    reserve = (room.capacity_bytes or 0) * plan.policy.reserve_percent // 100
    if room.free_bytes <= reserve:
        problems.append(_no_room(plan.vm, 1, f"the store {plan.target}", room.free_bytes, reserve))
    elif plan.room_needed > room.free_bytes - reserve:
        free = format_bytes(room.free_bytes - reserve)
        warnings.append(f"the store has {free} left: enough only where it has much of this VM already")


def _snapshot_room(plan: VmPlan, volumes: Sequence[Volume]) -> list[dict[str, Any]]:
    """While our snapshot is open the VM writes into a delta beside its files; that datastore needs some room."""
    found = []
    for path in sorted({disk.source for disk in plan.disks} | {plan.vmx_path}):
        volume = volume_of(path, volumes)
        if volume is None:
            continue
        reserve = volume.capacity_bytes * plan.policy.snapshot_reserve_percent // 100
        if volume.free_bytes <= reserve:
            found.append(_no_room(plan.vm, 1, f"{volume.name} for the snapshot", volume.free_bytes, reserve))
    return [error for number, error in enumerate(found) if error not in found[:number]]


def _no_room(vm: str, needed: int, where: str, free: int, reserve: int) -> dict[str, Any]:
    return NoRoom(
        vm=vm, needed=format_bytes(needed), where=where, free=format_bytes(free), reserve=format_bytes(reserve)
    ).as_dict()


def plan_host(
    run_id: str,
    host: str,
    selection: Selection,
    facts: Mapping[int, VmFacts],
    policy: Policy,
    targets: Mapping[tuple[int, int], str],
    volumes: Sequence[Volume],
    policies_without_vm: Sequence[str] = (),
    stores: Mapping[str, StoreRoom] | None = None,
    newest: Mapping[int, datetime] | None = None,
    now: datetime | None = None,
) -> HostPlan:
    """The whole plan of one host, VMs in the order of work. `targets` is by vmid and number of the backup point;
    `newest`, times of restore points, by vmid."""
    plans = []
    problems = list(selection.problems)
    for candidate in selection.chosen:
        fact = facts[candidate.vmid]
        names = [fact.name, *fact.uuids]
        try:
            wanted = policy.all_for_vm(names)
        except BadPolicy as error:
            problems.append(Problem.of(fact.name, error))
            continue
        asked = "its own policy" if policy.is_own("how", names) else "asked for"
        for number, one in enumerate(wanted):
            plan = plan_vm(fact, one, targets[candidate.vmid, number], host, asked)
            plans.append(replace(plan, copy_number=number))
    return HostPlan(
        run_id=run_id,
        host=host,
        vms=together(check_room(in_turn(plans, newest or {}, now or SystemClock().now()), volumes, host, stores)),
        not_selected=tuple(candidate.name for candidate in selection.left_out),
        problems=tuple(problems),
        policy={**policy.common.as_dict(), "points": [_named(item) for item in policy.points]},
        excluded=tuple(candidate.name for candidate in selection.excluded),
        policies_with_vm=tuple(key for key in policy.overrides if key not in policies_without_vm),
        policies_without_vm=tuple(policies_without_vm),
    )
