# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One VM's backup, step by step: started, frozen, committed, ended.

Each step finds everything again by the job id, which the run and the VM's identity give: a step that was repeated, or
that follows one which never happened, knows it from the job folder and not from what it is told.
"""

from __future__ import annotations

import json
import posixpath
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import JournalFailed
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.info import describe_vms
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    configfiles,
    heldstill,
    names,
    places,
    proving,
    record,
    survey,
    torn,
    turns,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import ASKED_BEFORE, INPLACE, Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copylog import log_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    BootUnknown,
    ConfigNotCopied,
    JobAltered,
    LockLost,
    NotStill,
    PendingQuestion,
    UndoIncomplete,
    VmChanged,
    VmLocked,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import ALSO, COPY, Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import LEASE_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.places import Place
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import How, decide_how, why_not_as_planned
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import vm_policy_from_dict
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.recover import (
    UNREADABLE,
    hand_on,
    recover_found,
    waits_its_turn,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostside import CUT


@dataclass(frozen=True)
class Context:
    """What every step is given beside the plan's entry."""

    host: Host
    entry: Mapping[str, Any]
    run_id: str
    state_dir: str
    label: str
    controller: str = ""
    lease_seconds: int = LEASE_SECONDS
    kind: str = "backup"
    check: bool = False
    stores: Stores = field(default_factory=Stores)

    @property
    def place(self) -> Place:
        """Where the restore point lies, or shall lie, that the plan's entry speaks of."""
        policy = self.entry.get("policy") or self.entry
        return places.of(str(policy.get("program") or places.DEFAULT), self.stores)

    @property
    def job_id(self) -> str:
        return names.job_id(self.run_id, self.label, self.entry["identity"], self.kind)

    @property
    def folder(self) -> str:
        return lock.folder_of(self.entry["directory"])

    @property
    def copy(self) -> int:
        """Which of the VM's backup points the plan's entry is for."""
        return int(self.entry.get("copy_number") or 0)

    @property
    def each(self) -> tuple[Context, ...]:
        """The same for each backup point that the plan calls ready, this one first."""
        others = [one for one in self.entry.get("also") or () if not one.get("problems")]
        return (self, *(replace(self, entry={**one, "also": []}) for one in others))


def job_view(job: Job, folder: str) -> dict[str, Any]:
    """A job as the playbook sees it."""
    return {
        "id": job.job,
        # The number of now: the plan's may be another VM's by the time that the job begins.
        "vmid": job.vmid,
        "folder": folder,
        "partial": job.partial,
        "final": job.final,
        "how": job.how,
        "snapshot_name": job.snapshot_name,
        "snapshot_description": _description(job),
        "stop": job.stop,
        "snapshot": job.snapshot,
        "restart": job.restart,
        "freeze": job.how == "cold" and job.stop,
        "disks": job.disk_keys,
        "power_before": job.power_before,
        "boot_id": job.boot_id,
        "policy": dict(job.policy),
        "copy_number": job.copy,
        # Of a VM with several backup points the others, which are copied to after this one.
        "also": [
            {"copy_number": one.copy, "point": one.policy.get("point"), "dest": one.partial or one.final}
            for one in job.copies[1:]
        ],
    }


def _description(job: Job) -> str:
    """Who finds the snapshot in the host's own client is told what it is."""
    policy = vm_policy_from_dict(job.policy) if job.kind == "backup" else None
    if policy is None or not policy.keeps_reference:
        return ""
    return (
        "Stowage: the next backup goes by this snapshot, which stays until then, for "
        f"{policy.reference.max_age_hours} hours at most. It may be removed: then the next backup hashes everything."
    )


def held_job(context: Context) -> Job | None:
    """The job of this run if it holds the lock, whole, however many backup points it has."""
    job = lock.read_job(context.host.session, context.folder)
    if job is None or job.job != context.job_id:
        return None
    for one in context.each:
        _as_planned(one, job)
    return job


def _as_planned(context: Context, whole: Job) -> None:
    """The job file is in the hands of its hypervisor; whose store, identity and rules these are says the plan."""
    entry, job = context.entry, whole.of_copy(context.copy)
    wrong: list[str] = []
    if job is None:
        raise JobAltered(job=context.job_id, vm=entry["vm"], reason=f"it has no backup point {entry['target']}")
    kind = INPLACE if context.kind == "restore" and entry.get("in_place") else context.kind
    if job.kind != kind or job.host != context.label:
        wrong.append(f"it is the {job.kind} of {job.host}")
    if kind == INPLACE and not jobs.is_begun(context.state_dir, job):
        # It names what is read from the store at the end.
        wrong.append("its copy on the backup server says otherwise")
    if context.kind == "backup":
        if job.identity != entry["identity"]:
            wrong.append(f"it names the identity {job.identity}")
        if _plain(job.policy) != _plain(entry["policy"]):
            wrong.append("it has other rules")
        if entry["target"] not in (job.final, posixpath.dirname(job.final)):
            wrong.append(f"it names the backup point {job.final}")
    if wrong:
        raise JobAltered(job=context.job_id, vm=entry["vm"], reason="; ".join(wrong))


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def must_hold(context: Context) -> Job:
    """The job as the backup point of this context sees it."""
    job = held_job(context)
    if job is None:
        raise LockLost(
            job=context.job_id, vm=context.entry["vm"], reason=f"{context.folder} is not this job's (any more)"
        )
    lock.beat(context.host.session, context.folder, job.job, job.vm)
    return job.of_copy(context.copy) or job


def find_vm(context: Context) -> VirtualMachine:
    entry = context.entry
    return proving.find_vm(context.host, context.label, entry["vm"], entry["identity"], entry["vmx_path"])


def entry_of(context: Context) -> dict[str, Any]:
    label = context.entry["identity"] or context.entry["vm"]
    known = record.read_entry(context.state_dir, context.run_id, context.label, label, context.kind, context.copy)
    return known or record.entry_of_plan(context.run_id, context.label, context.entry, context.kind)


# -- started -----------------------------------------------------------------------------------------------------


def start(context: Context) -> tuple[Job, bool]:
    """Takes the lock and writes down what will have to be undone. Returns the job and whether it is new."""
    _in_window(context)
    for one in () if context.check else context.each:
        record.write_entry(context.state_dir, record.start_entry(entry_of(one), context.host.clock))
    vm = find_vm(context)
    # Before all else, a job that left it so included: what it holds is no state that anybody wants back.
    torn.must_be_whole(vm)
    held, asked = _others(context, vm)
    if held is not None:
        return held, False
    _same_disks(context, vm)
    state = vm.power_state()
    text = survey.question_text(vm)
    if text:
        raise PendingQuestion(vm=vm.name, host=context.label, question=text)
    if state != context.entry.get("power_state"):
        _still_possible(context, vm)
    how = decide_how(context.entry["policy"]["how"], state, str(context.entry.get("asked") or "asked for"))
    boot = vm.boot_id() or ""
    if how.stop and not boot:
        raise BootUnknown(vm=vm.name, reason=f"{vm.directory}/vmware.log cannot be read")
    config = configfiles.files_of(vm)
    job = _new_job(context, vm, how, state, boot)
    if asked:
        # It ran when an earlier job asked its guest to shut down: that it may be off by now is our doing.
        job = replace(job, power_before="poweredOn", extra={**job.extra, ASKED_BEFORE: asked})
    if context.check:
        return job, True
    seen = heldstill.take(context.host, vm, job.disk_keys, state, boot)
    job = replace(job, disks=tuple(_with_cids(disk, seen) for disk in job.disks))
    if not lock.acquire(context.host.session, vm.directory):
        raise _locked(context, lock.look(context.host.session, [vm.directory]))
    # First here: what has no mirror is nobody's that this backup server has begun.
    jobs.write_mirror(context.state_dir, job)
    lock.write_job(context.host.session, context.folder, job)
    log = IntentLog(context.host.session, context.folder, context.host.clock)
    log.note("started", job=job.job, how=job.how, power_before=state, boot_id=boot)
    _prepare(context, job, vm, config, log)
    if job.how == "cold" and not job.stop:
        heldstill.write_before(context.host.session, context.folder, seen)
    return job, True


def _prepare(context: Context, job: Job, vm: VirtualMachine, config: Sequence[str], log: IntentLog) -> None:
    """Each backup point gets what has to be there before the copy. One that cannot is found out by its own copy."""
    failed: list[StowageError] = []
    for one in job.copies:
        place = places.of_job(one, context.stores)
        try:
            copy_config(context, vm, config, place.prepare(context.host, one, context.folder, log_of(log, one)))
        except (JournalFailed, *CUT):
            # Then nothing can be done for any of them.
            raise
        except StowageError as error:
            failed.append(error)
            _note_failure(context, one, error)
    if len(failed) == len(job.copies):
        raise failed[0]


def _note_failure(context: Context, job: Job, error: StowageError) -> None:
    for one in context.each:
        if one.copy == (job.copy or 0):
            record.write_entry(context.state_dir, {**entry_of(one), "error": error.as_dict()})


def _in_window(context: Context) -> None:
    """Hours may have gone since the plan. A job that was begun in its window, and whose step is repeated, goes on."""
    policy = vm_policy_from_dict(context.entry["policy"]) if context.kind == "backup" else None
    now = context.host.clock.now()
    error = turns.closed(context.entry["vm"], policy, now) if policy is not None and policy.windows else None
    if error is None:
        return
    entries = [entry_of(one) for one in context.each]
    if entries[0]["status"] != "not-run":
        return
    for entry in () if context.check else entries:
        record.set_aside(entry, {"status": "missed", "why": error.data["reason"], "error": error.as_dict()})
        record.write_entry(context.state_dir, entry)
    raise error


def _same_disks(context: Context, vm: VirtualMachine) -> None:
    """A disk that came or went since the plan would be neither copied nor explained."""
    planned, now = {disk["key"] for disk in context.entry["disks"]}, {disk.key for disk in vm.reload_vmx().disks()}
    if planned != now:
        reason = f"planned were the disks {sorted(planned)}, there are {sorted(now)}"
        raise VmChanged(vm=vm.name, reason=reason)


def _still_possible(context: Context, vm: VirtualMachine) -> None:
    """A VM that was started since the plan is done another way, which may leave disks out that were to be copied."""
    (info,) = describe_vms(context.host, [vm])
    facts = survey.vm_facts(context.host, vm, info)
    planned = {disk["key"]: disk["action"] for disk in context.entry["disks"]}
    problem = why_not_as_planned(facts, planned, vm_policy_from_dict(context.entry["policy"]), context.label)
    if problem is not None:
        raise problem


def _others(context: Context, vm: VirtualMachine) -> tuple[Job | None, str]:
    """Our own job when this step is repeated; a live one of others raises; a dead one is undone first.

    One that only waits for its guest hands that on: returned is the start in which the guest was asked.
    """
    session, asked = context.host.session, ""
    for found in lock.look(session, [vm.directory], touch=not context.check):
        if found.job is not None and found.job.job == context.job_id and found.path == context.folder:
            _as_planned(context, found.job)
            return found.job, ""
        if found.unreadable:
            raise UndoIncomplete(job="(unknown)", vm=vm.name, left=UNREADABLE, folder=found.path)
        if context.check:
            if found.let_go:
                continue
            lease_seconds = found.job.lease_seconds if found.job else LEASE_SECONDS
            if found.sign.age <= lease_seconds or waits_its_turn(found, context.state_dir):
                raise _locked(context, [found])
            continue
        outcome = recover_found(context.host, found, context.state_dir, vm)
        if outcome.outcome == "failed" and outcome.error is not None:
            # Nobody works on it: what is to be told is why its undoing does not end.
            raise UndoIncomplete(**outcome.error["data"])
        if outcome.outcome == "waiting" and found.job is not None:
            asked = hand_on(context.host, found, context.state_dir)
        if outcome.outcome != "recovered" and not asked:
            raise _locked(context, [found])
    return None, asked


def _locked(context: Context, found: Sequence[lock.Found]) -> VmLocked:
    other = found[0] if found else None
    job = other.job if other else None
    return VmLocked(
        vm=context.entry["vm"],
        job=job.job if job else "(not named yet)",
        owner=job.owner if job else "somebody else",
        age=other.sign.age if other else 0,
        lease=job.lease_seconds if job else LEASE_SECONDS,
    )


def _new_job(context: Context, vm: VirtualMachine, how: How, state: str, boot: str) -> Job:
    entry, now = context.entry, context.host.clock.now()
    job, time = context.job_id, names.point_time(now)
    named = [(one, one.place.names(one.entry["target"], time, job)) for one in context.each]
    partial, final = named[0][1]
    several: dict[str, Any] = {}
    if len(named) > 1:
        several = {
            COPY: context.copy,
            ALSO: [
                {COPY: one.copy, "policy": dict(one.entry["policy"]), "partial": names_of[0], "final": names_of[1]}
                for one, names_of in named[1:]
            ],
        }
    return Job(
        job=job,
        run=context.run_id,
        kind="backup",
        host=context.label,
        host_name=context.host.name,
        vm=vm.name,
        identity=vm.identity,
        vmid=vm.vmid,
        vmx_path=vm.vmx_path,
        directory=vm.directory,
        how=how.effective,
        power_before=state,
        boot_id=boot,
        stop=how.stop,
        snapshot=how.snapshot,
        restart=how.restart,
        snapshot_name=names.snapshot_name(job),
        partial=partial,
        final=final,
        time=time,
        created_at=iso(now),
        controller=context.controller,
        backup_server=socket.gethostname(),
        lease_seconds=context.lease_seconds,
        disks=tuple(dict(disk) for disk in entry["disks"]),
        policy=dict(entry["policy"]),
        extra={
            "why": how.why,
            "warnings": list(entry.get("warnings") or ()),
            "needs_key_provider": entry.get("needs_key_provider") or "",
            **several,
        },
    )


def _with_cids(disk: Mapping[str, Any], seen: heldstill.SourceState) -> dict[str, Any]:
    """The source as it is at the moment of locking: the plan may be hours old."""
    state = seen.disk(disk["key"])
    if state is None or not state.links:
        return dict(disk)
    return {**disk, "source": state.links[0], "cids": list(state.cids)}


def copy_config(context: Context, vm: VirtualMachine, files: Sequence[str], folder: str) -> None:
    """Before the snapshot: the vmx then names the disks that a restore can mean."""
    copied = points.copy_files(context.host.session, vm.name, files, folder)
    if vm.vmx_path not in copied:
        # All else may be absent; without its .vmx nothing could be restored.
        raise ConfigNotCopied(path=vm.vmx_path, vm=vm.name, target=folder, reason="it is not there")


# -- frozen ------------------------------------------------------------------------------------------------------


def freeze(context: Context) -> bool:
    """Notes what the disks look like now that nothing writes to them any more."""
    job = must_hold(context)
    vm = find_vm(context)
    state = heldstill.take(context.host, vm, job.disk_keys, vm.power_state(), vm.boot_id() or "")
    if job.how == "cold" and state.power_state == "poweredOn":
        raise NotStill(vm=job.vm, reason="it is still powered on")
    if heldstill.read_before(context.host.session, context.folder) == state:
        return False
    heldstill.write_before(context.host.session, context.folder, state)
    return True


# -- committed ---------------------------------------------------------------------------------------------------


def commit(context: Context, copies: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
    """Held still? readable? Then, and only then, the copy becomes a restore point."""
    job = must_hold(context)
    host, place = context.host, places.of_job(job, context.stores)
    log = log_of(IntentLog(host.session, context.folder, host.clock), job)
    events = Events(tuple(log.read()))
    if events.committed:
        found = place.read(host, events.made or job.final)
        if found.manifest.get("job") != job.job:
            raise JobAltered(
                job=job.job, vm=job.vm, reason=f"its journal names {found.path}, which another job has made"
            )
        return found.summary(), False
    point = place.commit(host, find_vm(context), job, log, events, copies)
    log.note("commit-done", final=point.path)
    return point.summary(), True
