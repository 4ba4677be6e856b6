# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finishes what killed runs left on one host: finds their job folders, takes over the stale ones, undoes them."""

from __future__ import annotations

import posixpath
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    names,
    overwriting,
    places,
    record,
    runlife,
    storeplace,
    survey,
    torn,
    upkeep,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import (
    ASKED_BEFORE,
    INPLACE,
    Events,
    downtime_seconds,
    shutdown_grace,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    JobAltered,
    RecoverIncomplete,
    StoreNotGiven,
    UndoIncomplete,
    VmTorn,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import LEASE_SECONDS, doubt_seconds, is_stale
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.undo import Undoer, Undone

UNREADABLE = "its job.json is of another version or damaged; nothing in it can be proven"
OUTCOMES = ("recovered", "live", "waiting", "vanished", "elsewhere", "failed")

# A restore's folder under the name that only the job gives: it was to get the VM's name, or had lost it again.
_UNNAMED = r"""
root=$1 unnamed=$2 directory=$3 check=$4
[ -d "$root/." ] || { echo unseen; exit 0; }
[ -d "$unnamed" ] || { echo absent; exit 0; }
[ "$check" = yes ] && { echo removed; exit 0; }
for lock in "$unnamed/.stowage-job" "$unnamed"/.stowage-job.*; do [ -d "$lock" ] && rm -rf "$lock"; done
rmdir "$unnamed" 2>/dev/null && { echo removed; exit 0; }
[ -e "$directory" ] || { mv "$unnamed" "$directory" && { echo "kept $directory"; exit 0; }; }
echo "kept $unnamed"
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one job folder."""

    job: str
    vm: str
    kind: str
    folder: str
    outcome: str
    done: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    error: Mapping[str, Any] | None = None

    @property
    def changed(self) -> bool:
        return self.outcome == "recovered" or bool(self.done)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "done": list(self.done), "left": list(self.left)}


@dataclass(frozen=True)
class Report:
    """What the module returns; with `error` it fails with the same fields, after all jobs were handled."""

    jobs: list[dict[str, Any]]
    summary: Mapping[str, int]
    changed: bool
    error: RecoverIncomplete | None = None
    references: tuple[upkeep.Kept, ...] = ()


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts = {name: sum(1 for one in outcomes if one.outcome == name) for name in OUTCOMES}
    return {"found": len(outcomes), **counts}


def report(label: str, outcomes: Sequence[Outcome], kept: Sequence[upkeep.Kept] = ()) -> Report:
    failed = [one.vm or one.folder for one in outcomes if one.outcome == "failed"]
    failed += [f"{one.vm} ({one.error})" for one in kept if one.error]
    error = None
    if failed:
        error = RecoverIncomplete(host=label, count=len(failed), vms=", ".join(failed))
    changed = any(one.changed for one in outcomes) or any(one.removed for one in kept)
    return Report([one.as_dict() for one in outcomes], summary(outcomes), changed, error, tuple(kept))


def keep_up(
    host: Host, label: str, outcomes: Sequence[Outcome], consolidation_timeout: int, check: bool = False
) -> list[upkeep.Kept]:
    """Reference snapshots that have to go before the next backup. Where a job is, that one looks after its VM's."""
    busy = [posixpath.dirname(one.folder) for one in outcomes if one.outcome not in ("recovered", "vanished")]
    return upkeep.look(host, label, host.vms(), busy, consolidation_timeout, check)


def recover_host(
    host: Host,
    label: str,
    state_dir: str,
    observe_seconds: float,
    consolidation_timeout: int,
    check: bool = False,
    stores: Stores | None = None,
) -> list[Outcome]:
    """Every job folder that this host can see, and every job of the mirror whose folder it cannot.

    `stores` opens what a restore in place came from, to finish it; nothing else needs a store."""
    vms = host.vms()
    directories = [vm.directory for vm in vms if vm.vmx_path]
    mirrored = jobs.mirrors(state_dir, label)
    scanned = lock.scan(host.session)
    places = list(dict.fromkeys([*directories, *scanned, *(job.directory for job in mirrored)]))
    outcomes = []
    found = lock.look(host.session, places, touch=not check) if places else []
    again = _look_again(host, found, state_dir, observe_seconds, check)
    # To write disks takes long: first all that is quickly put right.
    for one in sorted(found, key=lambda one: one.job is not None and one.job.kind == INPLACE):
        try:
            vm = _vm_of(vms, one)
            outcomes.append(
                recover_found(host, one, state_dir, vm, observe_seconds, consolidation_timeout, check, again, stores)
            )
        except StowageError as error:
            # One job that cannot be recovered must not keep the others from it.
            outcomes.append(_outcome(one, "failed", error=error.as_dict()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Nor one whose folder holds what no job of ours has written.
            reason = f"its journal cannot be understood ({error!r})"
            outcomes.append(_outcome(one, "failed", error=_error(one, reason)))
    seen = {one.job_id for one in found}
    outcomes += _torn_alone(host, label, vms, {one.directory for one in found})
    for job in mirrored:
        if job.job not in seen:
            outcomes.append(_without_folder(host, job, state_dir, vms, found, check))
    return outcomes


def _torn_alone(host: Host, label: str, vms: Sequence[VirtualMachine], known: set[str]) -> list[Outcome]:
    """VMs that are torn, and whose journal is gone: nobody knows any more what was to be written. They are named."""
    by_folder = {vm.directory: vm for vm in vms if vm.vmx_path and vm.directory not in known}
    found = []
    for directory, mark in torn.look(host.session, by_folder).items():
        vm = by_folder[directory]
        error = VmTorn(host=label, vm=vm.name, vmid=vm.vmid, **mark.words)
        folder = posixpath.join(directory, torn.NAME)
        found.append(Outcome(mark.job, vm.name, "restore", folder, "failed", error=error.as_dict()))
    return found


def _vm_of(vms: Sequence[VirtualMachine], found: lock.Found) -> VirtualMachine | None:
    """The VM that the folder belongs to: by identity, wherever it lies by now; a restored one by its path."""
    if found.job is None:
        return next((vm for vm in vms if vm.directory == found.directory), None)
    if found.job.kind in ("restore", INPLACE):
        return next((vm for vm in vms if vm.vmx_path == found.job.vmx_path), None)
    same = [vm for vm in vms if vm.identity == found.job.identity]
    # Registered anew, a VM may have got another identity: in the job's folder, of the job's file, it is the one.
    same = same or [vm for vm in vms if vm.vmx_path == found.job.vmx_path]
    here = [vm for vm in same if vm.directory == found.directory]
    return here[0] if len(here) == 1 else same[0] if len(same) == 1 else None


def recover_found(
    host: Host,
    found: lock.Found,
    state_dir: str,
    vm: VirtualMachine | None,
    observe_seconds: float = 20.0,
    consolidation_timeout: int = 7200,
    check: bool = False,
    again: Mapping[str, lock.Found] | None = None,
    stores: Stores | None = None,
) -> Outcome:
    """One job folder; `again` has the second looks, where they were taken for all folders together.

    A live one is left alone; a stale one is taken over, undone and removed."""
    if found.unreadable:
        return _outcome(found, "failed", error=_error(found, UNREADABLE))
    if again is None:
        again = _look_again(host, [found], state_dir, observe_seconds, check)
    if not found.let_go and (waits_its_turn(found, state_dir) or not _stale(host, found, again)):
        return _outcome(found, "live")
    if found.job is None:
        if not check and lock.take_over(host.session, found) is None:
            return _outcome(found, "live")
        if not check:
            _drop_nameless(host, found)
            if names.is_unnamed(found.directory):
                host.session.run(["rmdir", found.directory])
        return _outcome(found, "recovered", done=("removed a lock that nobody had written his name into",))
    job = found.job
    if job.kind == "restore" and found.directory == names.unnamed_folder(job.directory, job.job):
        if not check and lock.take_over(host.session, found) is None:
            return _outcome(found, "live")
        return replace(_unnamed(host, job, state_dir, check), folder=found.path)
    if _is_copy(host, found, job):
        return _drop_copy(host, found, job, check)
    if job.kind in ("backup", INPLACE) and vm is None:
        # Undoing needs the host that has the VM: whoever runs it now will find the folder in its own scan.
        left = (f"VM {job.vm!r} ({job.identity}) is not registered on this host",)
        return _outcome(found, "vanished" if job.host_name == host.name else "elsewhere", left=left)
    if job.kind == "restore" and vm is None and job.host_name != host.name:
        return _outcome(found, "elsewhere", left=(f"it belongs to {job.host}",))
    if job.kind == "backup" and vm is not None and job.host_name != host.name:
        # Merging below a VM that runs would ruin it, and only its own host is sure to refuse that.
        file = survey.runs_elsewhere(host, vm)
        if file:
            where = f"begun on {job.host}, and {file} says that VM {vm.name!r} runs, though not here: recover there"
            left = (f"it was {where}; or power it on here, or remove that file if it is old",)
            return _outcome(found, "elsewhere", left=left)
    preview, now, _events = Undoer(host, job, found.path).plan(vm)
    # For its time the guest is stood by. After it all but the wait is undone, and the lock is left to the next run.
    idle = now.asked_seconds_ago < shutdown_grace(job) or (found.let_go and not preview.steps())
    if preview.wait and (check or idle):
        return _outcome(found, "waiting", left=(preview.wait,))
    if check:
        return _outcome(found, "recovered", done=preview.steps(), left=preview.left)
    folder = lock.take_over(host.session, found)
    if folder is None:
        return _outcome(found, "live", left=("another recover was faster, or its owner came back",))
    return _undo(host, job, folder, found, state_dir, vm, consolidation_timeout, stores)


def _is_copy(host: Host, found: lock.Found, job: Job) -> bool:
    """Whether somebody copied or moved the folder with our job in it (a storage snapshot that was mounted, too).

    A restore never follows its folder: what it may delete are files of the folder that it made itself. A backup does,
    as its VM's folder may be moved; but not while the job still lies where it was begun.
    """
    if found.directory == job.directory:
        return False
    if job.kind in ("restore", INPLACE):
        return True
    return any(one.job_id == job.job for one in lock.look(host.session, [job.directory], touch=False))


def _drop_copy(host: Host, found: lock.Found, job: Job, check: bool) -> Outcome:
    """Of a copy only the lock is ours: it goes, so that the folder can be worked with. Everything else stays."""
    if not check:
        folder = lock.take_over(host.session, found)
        if folder is None:
            return _outcome(found, "live")
        lock.release(host.session, folder, job.job)
    left = (f"{found.directory} is a copy of {job.directory}: its files were not touched",)
    return _outcome(found, "recovered", done=("removed a copied job folder",), left=left)


def _undo(
    host: Host,
    job: Job,
    folder: str,
    found: lock.Found,
    state_dir: str,
    vm: VirtualMachine | None,
    consolidation_timeout: int,
    stores: Stores | None = None,
) -> Outcome:
    undoer = Undoer(host, job, folder, consolidation_timeout=consolidation_timeout)
    undone, ours = undoer.run(vm), jobs.is_begun(state_dir, job)
    if undone.torn and not undone.failed:
        undone = _made_whole(host, job, undoer, undone, stores, ours)
    events = Events(tuple(undoer.log.read()))
    left = undone.left
    if undone.clean:
        left = (*left, *undoer.close(undone))
        jobs.forget(state_dir, job)
    close_record(host, job, state_dir, events, undone, found.let_go, ours)
    if undone.waiting:
        undoer.let_go()
        return _outcome(found, "waiting", done=undone.done, left=(*left, undone.wait))
    if undone.clean:
        return _outcome(found, "recovered", done=undone.done, left=left)
    if undone.torn:
        # It needs no lease to run out: whoever comes next may be able to finish it.
        undoer.let_go()
    error = _error(found, "; ".join(undone.failed) or undone.wait)
    return _outcome(found, "failed", done=undone.done, left=(*left, *undone.failed), error=error)


def _made_whole(host: Host, job: Job, undoer: Undoer, undone: Undone, stores: Stores | None, ours: bool) -> Undone:
    """Writes what a restore in place had still to write. What keeps it from that is told, with the way out.

    Only of a job that is `ours`: what another file on the hypervisor names may be a machine that it must not read."""
    mark = overwriting.Overwriting(host, job, undoer.log).mark()
    error = VmTorn(host=job.host, vm=job.vm, vmid=job.vmid, **mark.words)
    try:
        if not ours:
            raise JobAltered(job=job.job, vm=job.vm, reason="it was not begun here, or its file there says otherwise")
        if stores is None:
            raise StoreNotGiven(store=job.final)
        log = IntentLog(host.session, undoer.folder, host.clock, job.job)
        done = overwriting.finish(host, job, log, places.of_job(job, stores), stores)
    except StowageError as reason:
        if _committed(undoer):
            # It is whole, and only its mark is still there.
            return replace(undone, failed=(*undone.failed, f"{reason.message}. {reason.hint_text}"), torn=False)
        told = f"{error.message}. It could not be finished: {reason.message}. {reason.hint_text} {error.hint_text}"
        return replace(undone, failed=(*undone.failed, told))
    return replace(undone, done=(*undone.done, done), torn=False)


def _committed(undoer: Undoer) -> bool:
    try:
        return Events(tuple(undoer.log.read())).committed
    except StowageError:
        return False


def close_record(
    host: Host, job: Job, state_dir: str, events: Events, undone: Undone, ended: bool = False, ours: bool = True
) -> None:
    """The entry of the run that was killed: interrupted, whatever it had reached, and what was undone when.

    A job that is not `ours`, or that a hypervisor has altered, writes over no entry that is here."""
    if job.extra.get(upkeep.UPKEEP):
        return
    for one in job.copies:
        _close_entry(host, one, state_dir, events.of_copy(one), undone, ended, ours)


def _close_entry(host: Host, job: Job, state_dir: str, events: Events, undone: Undone, ended: bool, ours: bool) -> None:
    """That of one backup point."""
    kind = "backup" if job.kind == "backup" else "restore"
    entry = record.read_entry(state_dir, job.run, job.host, job.identity, kind, job.copy or 0)
    if entry is not None and not ours:
        return
    if entry is None:
        # Another backup server began it; this one keeps its own note of what it did.
        entry = record.new_entry(job.run, job.host, job.vm, job.identity, kind, job.disks)
        entry.update(effective_how=job.how, started_at=job.created_at, copy_number=job.copy or 0)
        entry.update(backup_point=job.policy.get("point"), program=job.policy.get("program"))
    if ended and entry["ended_at"]:
        # Its run has written its own verdict; only what was left to others is new.
        done = [*entry["done"], *(f"recovered: {step}" for step in undone.done)]
        entry.update(done=done, left=[*undone.left, *undone.failed, *([undone.wait] if undone.wait else [])])
        entry["downtime_seconds"] = downtime_seconds(events.entries)
        if job.kind == INPLACE and events.committed:
            entry["restore_point"] = _point_of(job, events)
        record.write_entry(state_dir, entry)
        return
    if entry["status"] == "ok":
        return
    past, open_point = "backed up" if kind == "backup" else "restored", storeplace.unsure(job, events)
    if open_point:
        unknown = f"whether its restore point {open_point} came to be can only be seen in the store (dedup_store_info)"
        undone = replace(undone, left=(*undone.left, unknown))
    ending = "undone by recover; run the " + kind + " again"
    if job.kind == INPLACE and (events.committed or undone.torn):
        ending = "finished by recover" if events.committed else "left torn; see what is left"
    entry.update(
        status="interrupted",
        restore_point=(_point_of(job, events) if events.committed else None) or entry["restore_point"],
        ended_at=iso(host.clock.now()),
        downtime_seconds=downtime_seconds(events.entries),
        done=[f"recovered: {step}" for step in undone.done],
        left=[*undone.left, *undone.failed],
        error=entry["error"]
        or {
            "id": "interrupted",
            "message": f"The run that {past} VM {job.vm!r} was killed or cut off",
            "hint": f"What it had begun was {ending}.",
            "data": {"job": job.job},
        },
    )
    record.set_disk_statuses(entry, "interrupted")
    record.write_entry(state_dir, entry)


def _point_of(job: Job, events: Events) -> str | None:
    if job.kind == "backup":
        return events.made or job.final
    return str(job.extra["restore_point"]["path"]) if job.kind == INPLACE else None


def hand_on(host: Host, found: lock.Found, state_dir: str) -> str:
    """Ends a job that only waits for its guest, for one in its place: the start in which the guest was asked."""
    job = found.job
    folder = lock.take_over(host.session, found) if job is not None and found.let_go else None
    if job is None or folder is None:
        return ""
    undoer = Undoer(host, job, folder)
    intent = Events(tuple(undoer.log.read())).last("power-off-intent") or {}
    asked = str(intent.get("boot_id") or job.extra.get(ASKED_BEFORE) or "")
    if asked:
        lock.release(host.session, folder, job.job)
        jobs.forget(state_dir, job)
    return asked


def waits_its_turn(found: lock.Found, state_dir: str) -> bool:
    """A job may be silent for long between two tasks, while other tasks of its run are at work on this machine."""
    return found.job is not None and runlife.lives(state_dir, found.job.run, found.job.lease_seconds)


def _lease_of(host: Host, found: lock.Found) -> tuple[int, bool]:
    """Its length, and whether its age is sure: see `lease.doubt_seconds`."""
    job = found.job
    if job is None:
        return LEASE_SECONDS, False
    return job.lease_seconds, job.host_name == host.name and job.backup_server == socket.gethostname()


def _look_again(
    host: Host, found: Sequence[lock.Found], state_dir: str, observe_seconds: float, check: bool
) -> dict[str, lock.Found]:
    """One pause for all that are in doubt, as long as the longest doubt; then where they stand, by path."""
    doubtful: dict[str, float] = {}
    for one in found:
        seconds = doubt_seconds(one.sign, *_lease_of(host, one), observe_seconds)
        if seconds and not one.let_go and not one.unreadable and not waits_its_turn(one, state_dir):
            doubtful[one.path] = seconds
    if not doubtful:
        return {}
    host.clock.sleep(max(doubtful.values()))
    places = list(dict.fromkeys(one.directory for one in found if one.path in doubtful))
    seen = lock.look(host.session, places, touch=not check)
    return {one.path: one for one in seen if one.path in doubtful}


def _stale(host: Host, found: lock.Found, again: Mapping[str, lock.Found]) -> bool:
    second = again.get(found.path)
    return is_stale(found.sign, *_lease_of(host, found), None if second is None else second.sign)


def _drop_nameless(host: Host, found: lock.Found) -> None:
    """The folder we have just taken over is the only one there without a name in it."""
    for one in lock.look(host.session, [found.directory], touch=False):
        if one.job is None and not one.unreadable and one.path != found.path:
            lock.release(host.session, one.path, "")


def _without_folder(
    host: Host, job: Job, state_dir: str, vms: Sequence[VirtualMachine], found: Sequence[lock.Found], check: bool
) -> Outcome:
    """The mirror tells of a job whose folder this host cannot see (any more)."""
    if job.kind == "restore":
        return _unnamed(host, job, state_dir, check)
    what = (job.job, job.vm, job.kind, job.directory)
    vm = next((vm for vm in vms if vm.directory == job.directory), None)
    if vm is None:
        left = (f"VM {job.vm!r} ({job.identity}) and its folder {job.directory} are not on this host any more",)
        return Outcome(*what, "vanished", left=left)
    if runlife.lives(state_dir, job.run, job.lease_seconds):
        return Outcome(*what, "live")
    # A host knows its machines before it has mounted their datastores: that nothing is seen there means nothing then.
    if survey.existing(host.session, [vm.vmx_path]) != (vm.vmx_path,):
        return Outcome(*what, "vanished", left=(f"{vm.vmx_path} cannot be seen: its datastore is not there",))
    for one in found:
        if one.directory == job.directory and one.job is None:
            return Outcome(*what, "vanished", left=(f"{one.path} names no job that can be read: it may be this one",))
    # The folder is gone although the VM is there: the job was ended, or undone by another backup server.
    if not check:
        jobs.forget(state_dir, job)
    return Outcome(*what, "recovered", done=("forgot a job that left no trace",))


def _unnamed(host: Host, job: Job, state_dir: str, check: bool) -> Outcome:
    """A restore whose folder has not got its name yet, or has lost it. Without our journal the name is no proof."""
    what = (job.job, job.vm, job.kind, job.directory)
    if runlife.lives(state_dir, job.run, job.lease_seconds):
        return Outcome(*what, "live")
    unnamed = names.unnamed_folder(job.directory, job.job)
    arguments = [points.datastore_root(job.directory), unnamed, job.directory, "yes" if check else "no"]
    result = host.session.script(_UNNAMED, arguments)
    said = result.stdout.strip()
    if result.rc != 0 or said == "unseen":
        reason = result.output.strip() if result.rc != 0 else "its datastore is not there"
        return Outcome(*what, "vanished", left=(f"{job.directory} cannot be looked at: {reason}",))
    if not check:
        jobs.forget(state_dir, job)
    done = f"removed {unnamed}" if said == "removed" else "forgot a job that left no trace"
    kept = said.partition("kept ")[2]
    return Outcome(*what, "recovered", done=(done,), left=(f"{kept} holds files that are not ours",) if kept else ())


def _outcome(
    found: lock.Found,
    outcome: str,
    done: tuple[str, ...] = (),
    left: tuple[str, ...] = (),
    error: Mapping[str, Any] | None = None,
) -> Outcome:
    job = found.job
    return Outcome(
        job=job.job if job else "",
        vm=job.vm if job else "",
        kind=job.kind if job else "",
        folder=found.path,
        outcome=outcome,
        done=done,
        left=left,
        error=error,
    )


def _error(found: lock.Found, reason: str) -> dict[str, Any]:
    vm = found.job.vm if found.job else found.directory
    return UndoIncomplete(job=found.job_id or "(unknown)", vm=vm, left=reason, folder=found.path).as_dict()
