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
    #: The entries of the VM's other backup points.
    others: tuple[Mapping[str, Any], ...] = ()


@dataclass
class _Copy:
    """One backup point of the job, and how the copy to it went."""

    context: Context
    job: Job
    entry: dict[str, Any]
    outcome: str
    problem: dict[str, Any] | None
    events: Events = field(default_factory=Events)
    rotation: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        return self.outcome == "ok" and self.events.committed

    def write(self) -> None:
        record.write_entry(self.context.state_dir, self.entry)


def end(
    context: Context,
    outcome: str,
    error: Any = None,
    copies: Sequence[Mapping[str, Any]] = (),
    downtime: float | None = None,
    others: Mapping[int, Mapping[str, Any]] | None = None,
) -> Ended:
    """Undoes the bracket, rotates after a success, writes the entry, gives the lock back. Safe to repeat.

    `others`: by the number of each other backup point its `copies` and `error`."""
    entry = entry_of(context)
    if copies:
        record.add_copies(entry, copies)
    job = held_job(context)
    problem = record.error_of(error)
    if job is None:
        for other in context.each[1:]:
            _end_without_job(other, entry_of(other), outcome, problem)
        return _end_without_job(context, entry, outcome, problem)
    if context.each[1:] and problem is not None:
        # What kept this one from being begun says more than how its copy then failed.
        problem = entry["error"] or problem
    each = [_Copy(context, job.copies[0], entry, outcome, problem)]
    each += _others(context, job, problem, others or {})
    undoer = Undoer(context.host, job, context.folder, **_timeouts(job), stores=context.stores)
    _look(each, undoer)
    vm = _vm_or_none(context)
    # Of several copies at most one has a snapshot that stays.
    refers = next((one for one in each if (one.job.policy.get("reference") or {}).get("enabled")), each[0])
    undone = undoer.run(vm, spare=referencing.wants_ours(refers.job, refers.events, refers.ok))
    if vm is not None and job.kind == "backup" and undone.clean:
        undone = _settle_reference(refers.entry, undoer, vm, refers.job, undone, refers.ok)
    if vm is None and job.kind == "backup":
        # What lies on this host is gone; the lock stays for the host that has the VM now.
        undone = replace(
            undone, failed=(*undone.failed, f"the VM is not registered on {context.label} any more, or more than once")
        )
    was_ok = [one.ok for one in each]
    _look(each, undoer)
    for one, good in zip(each, was_ok):
        _finish(one, undone, good, downtime)
    turned, more = each[0].rotation, tuple(one.entry for one in each[1:])
    if undone.waiting:
        # No failure of the undoing: the VM runs as it did. Should its guest go down after all, recover starts it.
        undoer.let_go()
        kept = (*undone.left, undone.wait)
        for one in each:
            one.entry["left"] = list(kept)
            one.write()
        return Ended(entry, undone.done, kept, turned, True, None, more)
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
        for one in each:
            one.entry.update(status="failed", error=one.problem or failure.as_dict())
            one.write()
        return Ended(entry, undone.done, (*undone.left, *undone.failed), turned, True, failure, more)
    kept = (*undone.left, *undoer.close(undone))
    for one in each:
        one.entry["left"] = list(kept)
        one.write()
    jobs.remove_mirror(context.state_dir, job.job)
    return Ended(entry, undone.done, kept, turned, True, None, more)


def _others(
    context: Context, job: Job, problem: dict[str, Any] | None, told: Mapping[int, Mapping[str, Any]]
) -> list[_Copy]:
    """The other backup points. What failed before any copy began has failed for all of them."""
    found = []
    for one in context.each[1:]:
        part = job.of_copy(one.copy)
        if part is None:
            continue
        entry, mine = entry_of(one), told.get(one.copy)
        if mine is None:
            found.append(_Copy(one, part, entry, "failed", entry["error"] or problem))
            continue
        if mine.get("copies"):
            record.add_copies(entry, mine["copies"])
        wrong = record.error_of(mine.get("error"))
        found.append(_Copy(one, part, entry, "failed" if wrong else "ok", wrong and (entry["error"] or wrong)))
    return found


def _look(each: Sequence[_Copy], undoer: Undoer) -> None:
    events = Events(tuple(undoer.log.read()))
    for one in each:
        one.events = events.of_copy(one.job)


def _finish(one: _Copy, undone: Undone, good: bool, downtime: float | None) -> None:
    """What a store told, rotation after a success, and the verdict; `good` as it was before the bracket was undone."""
    job, events = one.job, one.events
    told = (events.last(STORED) or {}).get("told")
    if told and events.committed:
        record.add_told(one.entry, told)
        record.add_hint(one.entry, referencing.hint_of(events), hinting.words(job.vm, referencing.hint_of(events)))
    if one.outcome == "ok" and not events.committed:
        what = f"No restore point of VM {job.vm!r} was committed"
        one.problem = one.problem or {
            "id": "not-committed",
            "message": what if job.kind == "backup" else f"The restore of VM {job.vm!r} did not come to its end",
            "hint": "See the task that failed before this one.",
            "data": {},
        }
    if good and job.kind == "backup" and not undone.failed:
        policy, others = vm_policy_from_dict(job.policy), jobs.mirrors(one.context.state_dir)
        place = places.of_job(job, one.context.stores)
        one.rotation = place.rotate(one.context.host, job, events, policy, others)
    _finish_entry(one.context, one.entry, job, events, undone, one.rotation, one.problem, one.outcome, downtime)


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
