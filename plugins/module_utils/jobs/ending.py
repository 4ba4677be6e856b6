# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last step of a job, which always comes: undo the bracket, rotate after a success, record, unlock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import hinting, overwriting, places, record, referencing
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context, entry_of, held_job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import INPLACE, Events, downtime_seconds
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import LockLost, UndoIncomplete, VmTorn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import vm_policy_from_dict
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import DONE as STORED
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.undo import Undoer, Undone


@dataclass(frozen=True)
class Ended:
    """What the last step did."""

    entry: Mapping[str, Any]
    done: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    rotation: Mapping[str, Any] | None = None
    changed: bool = False
    error: StowageError | None = field(default=None, compare=False)


def end(
    context: Context,
    outcome: str,
    error: Any = None,
    copies: Sequence[Mapping[str, Any]] = (),
    downtime: float | None = None,
) -> Ended:
    """Undoes the bracket, rotates after a success, writes the entry, gives the lock back. Safe to repeat."""
    entry = entry_of(context)
    if copies:
        record.add_copies(entry, copies)
    job = held_job(context)
    problem = record.error_of(error)
    if job is None:
        return _end_without_job(context, entry, outcome, problem)
    undoer = Undoer(context.host, job, context.folder, **_timeouts(job), stores=context.stores)
    events = Events(tuple(undoer.log.read()))
    ok = outcome == "ok" and events.committed
    vm = _vm_or_none(context)
    undone = undoer.run(vm, spare=referencing.wants_ours(job, events, ok))
    if vm is not None and job.kind == "backup" and undone.clean:
        undone = _settle_reference(entry, undoer, vm, job, undone, ok)
    if vm is None and job.kind == "backup":
        # What lies on this host is gone; the lock stays for the host that has the VM now.
        undone = replace(
            undone, failed=(*undone.failed, f"the VM is not registered on {context.label} any more, or more than once")
        )
    events = Events(tuple(undoer.log.read()))
    told = (events.last(STORED) or {}).get("told")
    if told and events.committed:
        record.add_told(entry, told)
        record.add_hint(entry, referencing.hint_of(events), hinting.words(job.vm, referencing.hint_of(events)))
    if outcome == "ok" and not events.committed:
        what = f"No restore point of VM {job.vm!r} was committed"
        problem = problem or {
            "id": "not-committed",
            "message": what if job.kind == "backup" else f"The restore of VM {job.vm!r} did not come to its end",
            "hint": "See the task that failed before this one.",
            "data": {},
        }
    turned = None
    if ok and job.kind == "backup" and not undone.failed:
        policy, others = vm_policy_from_dict(job.policy), jobs.mirrors(context.state_dir)
        turned = places.of_job(job, context.stores).rotate(context.host, job, events, policy, others)
    _finish_entry(context, entry, job, events, undone, turned, problem, outcome, downtime)
    if undone.waiting:
        # No failure of the undoing: the VM runs as it did. Should its guest go down after all, recover starts it.
        undoer.let_go()
        kept = (*undone.left, undone.wait)
        entry["left"] = list(kept)
        record.write_entry(context.state_dir, entry)
        return Ended(entry, undone.done, kept, turned, True)
    if undone.torn and not undone.failed:
        # The lock stays, and ends at once: recover, or the next restore in place, makes it whole.
        undoer.let_go()
        mark = overwriting.Overwriting(context.host, job, undoer.log).mark()
        torn = VmTorn(host=context.label, vm=job.vm, vmid=job.vmid, **mark.words)
        kept = (*undone.left, f"{torn.message}. {torn.hint_text}")
        entry.update(status="failed", error=problem or torn.as_dict(), left=list(kept))
        record.write_entry(context.state_dir, entry)
        return Ended(entry, undone.done, kept, turned, True, torn)
    if not undone.clean:
        left = "; ".join(undone.failed) or undone.wait
        failure = UndoIncomplete(job=job.job, vm=job.vm, left=left, folder=context.folder)
        entry.update(status="failed", error=problem or failure.as_dict())
        record.write_entry(context.state_dir, entry)
        return Ended(entry, undone.done, (*undone.left, *undone.failed), turned, True, failure)
    kept = (*undone.left, *undoer.close(undone))
    entry["left"] = list(kept)
    record.write_entry(context.state_dir, entry)
    jobs.remove_mirror(context.state_dir, job.job)
    return Ended(entry, undone.done, kept, turned, True)


def _settle_reference(
    entry: dict[str, Any], undoer: Undoer, vm: VirtualMachine, job: Job, undone: Undone, ok: bool
) -> Undone:
    """The bracket is undone; now the snapshots that stay between backups."""
    waiter = Waiter(undoer.consolidation_timeout, clock=undoer.host.clock, beat=undoer.log.beat)
    events = Events(tuple(undoer.log.read()))
    settled = referencing.settle(vm, job, undoer.log, events, ok, waiter)
    entry["reference"] = settled.kept.view() if settled.kept is not None else None
    entry["warnings"] += [warning for warning in settled.warnings if warning not in entry["warnings"]]
    return replace(undone, done=(*undone.done, *settled.done), failed=(*undone.failed, *settled.failed))


def _finish_entry(
    context: Context,
    entry: dict[str, Any],
    job: Job,
    events: Events,
    undone: Undone,
    turned: Mapping[str, Any] | None,
    problem: dict[str, Any] | None,
    outcome: str,
    downtime: float | None,
) -> None:
    """Fills in how it went; `ok` only with a commit and without an error."""
    now = context.host.clock.now()
    if problem is not None and events.committed and job.kind == "backup":
        there = f"{problem['message']}. The restore point {_restore_point(job, events)} was made all the same"
        problem = {**problem, "message": there}
    status = "ok" if events.committed and outcome == "ok" else "failed" if outcome == "ok" else outcome
    entry.update(
        status=status,
        effective_how=job.how,
        why=job.extra.get("why"),
        error=None if status == "ok" else problem,
        restore_point=_restore_point(job, events) if events.committed else None,
        proven=events.committed and not job.extra.get("needs_key_provider") if job.kind == "backup" else None,
        ended_at=iso(now),
        seconds=_seconds_between(entry.get("started_at"), iso(now)),
        downtime_seconds=downtime if downtime is not None else downtime_seconds(events.entries),
        done=list(undone.done),
        left=[*undone.left, *undone.failed],
        rotation=turned,
    )
    if job.kind == INPLACE:
        note_safety(entry, overwriting.Overwriting(context.host, job, IntentLog(context.host.session, context.folder)))
    # Of a restored VM that then did not start as asked the disks are back all the same.
    record.set_disk_statuses(entry, "ok" if events.committed and job.kind != "backup" else status)


def note_safety(entry: dict[str, Any], work: overwriting.Overwriting) -> None:
    """Where what was there before is kept, and how it comes back."""
    path = work.safety_point()
    entry["safety_point"] = path or None
    if path:
        back = f"what it held before is {path}; it comes back with restore_in_place=true and restore_point={path}"
        entry["warnings"] = [*(one for one in entry["warnings"] if path not in one), back]


def _end_without_job(context: Context, entry: dict[str, Any], outcome: str, problem: dict[str, Any] | None) -> Ended:
    """`started` never got the lock, or this step was done before: only the record is left to complete."""
    if entry["status"] == "interrupted":
        # A run that did not get the lock left the VM alone; that is a failure of its wish all the same.
        status = "failed" if outcome == "ok" else outcome
        if problem is None and entry["error"] is None:
            reason = "another run or recover has ended it; a restore point that it had made is there all the same"
            problem = LockLost(job=context.job_id, vm=context.entry["vm"], reason=reason).as_dict()
        problem = problem or entry["error"]
        entry.update(status=status, error=problem, ended_at=iso(context.host.clock.now()))
        record.set_disk_statuses(entry, "not-run")
        if not context.check:
            record.write_entry(context.state_dir, entry)
        return Ended(entry, changed=False)
    if context.kind == "restore" and outcome == "failed" and entry["status"] == "ok":
        # It was there before this run, which was to do more to it than that.
        entry.update(status="failed", error=problem, ended_at=iso(context.host.clock.now()))
        record.write_entry(context.state_dir, entry)
    return Ended(entry)


def _vm_or_none(context: Context) -> VirtualMachine | None:
    if context.kind == "restore":
        found = [vm for vm in context.host.vms() if vm.vmx_path == context.entry["vmx_path"]]
    else:
        vms = context.host.vms()
        found = [vm for vm in vms if vm.identity == context.entry["identity"]]
        # Registered anew during the job, it may have got another one.
        found = found or [vm for vm in vms if vm.vmx_path == context.entry["vmx_path"]]
    return found[0] if len(found) == 1 else None


def _timeouts(job: Job) -> dict[str, int]:
    return {
        "consolidation_timeout": int(job.policy.get("consolidation_timeout", 7200)),
        "power_on_timeout": int(job.policy.get("power_on_timeout", 300)),
    }


def _seconds_between(start: Any, stop: str) -> float | None:
    if not start:
        return None
    first, last = (datetime.fromisoformat(str(text).replace("Z", "+00:00")) for text in (start, stop))
    return max(0.0, (last - first).total_seconds())


def _restore_point(job: Job, events: Events) -> str:
    """The one that was made, or the one that was restored."""
    return events.made or job.final if job.kind == "backup" else str(job.extra["restore_point"]["path"])
