# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One VM's restore in place, its first and its last step. The VM and its folder are there; the lock in it is ours."""

from __future__ import annotations

import socket
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    backup,
    configfiles,
    heldstill,
    names,
    record,
    torn,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import INPLACE, TEAR, Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import VmGone, VmLocked
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import LEASE_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.overwriting import Overwriting, safety_job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.recover import recover_found


def start(context: Context) -> tuple[Job, bool]:
    """Takes the lock and writes down what is to be done. A VM that is torn already becomes this job's to make whole."""
    host, session = context.host, context.host.session
    if not context.check:
        record.write_entry(context.state_dir, record.start_entry(backup.entry_of(context), host.clock))
    vm = _vm(context)
    held = _clear(context, vm)
    if held is not None:
        return held, False
    job = _new_job(context, vm)
    log = IntentLog(session, context.folder, host.clock)
    work = Overwriting(host, job, log)
    now = work.at_rest()
    config = configfiles.files_of(vm) if job.extra["safety_point"] else []
    if context.check:
        return job, True
    _let_go(context, vm)
    if not lock.acquire(session, vm.directory):
        raise _locked(context, None)
    # First here: what has no mirror is nobody's that this backup server has begun.
    jobs.write_mirror(context.state_dir, job)
    lock.write_job(session, context.folder, job)
    log.note("started", job=job.job, directory=job.directory)
    if now.torn is not None:
        log.note(TEAR, directory=job.directory)
        torn.write(session, work.mark())
    if job.extra["safety_point"]:
        saved = safety_job(job)
        backup.copy_config(context, vm, config, context.place.prepare(host, saved, context.folder, log))
        heldstill.write_before(
            session, context.folder, heldstill.take(host, vm, job.disk_keys, now.power_state, now.boot_id)
        )
    return job, True


def _vm(context: Context) -> VirtualMachine:
    path = context.entry["vmx_path"]
    vm = next((one for one in context.host.vms() if one.vmx_path == path), None)
    if vm is None:
        raise VmGone(vm=context.entry["vm"], identity=path, host=context.label)
    return vm


def _clear(context: Context, vm: VirtualMachine) -> Job | None:
    """Our own job when this step is repeated; a live one of others raises; a dead one is undone. What a dead one has
    torn this one makes whole: see `_let_go`; the mark beside the VM stays."""
    session = context.host.session
    for found in lock.look(session, [vm.directory], touch=not context.check):
        if found.job is not None and found.job.job == context.job_id and found.path == context.folder:
            return found.job
        if context.check:
            if not _left(found):
                raise _locked(context, found)
            continue
        if not _left(found):
            recover_found(context.host, found, context.state_dir, vm)
    return None


def _let_go(context: Context, vm: VirtualMachine) -> None:
    """The journal of a dead one that has left the VM torn goes only when nothing speaks against this one any more: it
    is all that recover could finish by."""
    session = context.host.session
    for found in lock.look(session, [vm.directory]):
        if not _left(found) or found.job is None:
            raise _locked(context, found)
        folder = lock.take_over(session, found)
        if folder is None:
            raise _locked(context, found)
        lock.release(session, folder, found.job.job)
        jobs.remove_mirror(context.state_dir, found.job.job)


def _left(found: lock.Found) -> bool:
    """Whether a restore in place has ended there, and left the VM torn."""
    return found.let_go and found.job is not None and found.job.kind == INPLACE


def _locked(context: Context, found: lock.Found | None) -> VmLocked:
    job = found.job if found is not None else None
    return VmLocked(
        vm=context.entry["vm"],
        job=job.job if job else "(not named yet)",
        owner=job.owner if job else "somebody else",
        age=found.sign.age if found is not None else 0,
        lease=job.lease_seconds if job else LEASE_SECONDS,
    )


def _new_job(context: Context, vm: VirtualMachine) -> Job:
    plan, now = context.entry, context.host.clock.now()
    asked = plan["in_place"]
    return Job(
        job=context.job_id,
        run=context.run_id,
        kind=INPLACE,
        host=context.label,
        host_name=context.host.name,
        vm=plan["vm"],
        identity=plan["identity"],
        vmid=vm.vmid,
        vmx_path=plan["vmx_path"],
        directory=plan["directory"],
        how="restore",
        power_before="poweredOff",
        boot_id=str(asked["boot_id"]),
        stop=False,
        snapshot=False,
        restart=False,
        snapshot_name="",
        partial="",
        final=str(plan["restore_point"]["path"]).partition("::")[0],
        time=names.point_time(now),
        created_at=iso(now),
        controller=context.controller,
        backup_server=socket.gethostname(),
        lease_seconds=context.lease_seconds,
        disks=tuple({**disk, "source": disk["dest"]} for disk in plan["disks"]),
        policy={"program": "dedup"},
        extra={
            "files": [dict(file) for file in plan["files"]],
            "restore_point": dict(plan["restore_point"]),
            "vmx_text": plan["vmx_text"],
            "identity": asked["identity"],
            "replica_state": str(asked["replica_state"]),
            "safety_point": bool(asked["safety_point"]),
            "safety_before": str(asked["safety_before"]),
        },
    )


def commit(context: Context) -> tuple[dict[str, Any], bool]:
    """Proves the disks, gives the VM its configuration, and takes the mark away."""
    job = backup.must_hold(context)
    log = IntentLog(context.host.session, context.folder, context.host.clock)
    work = Overwriting(context.host, job, log)
    changed = not Events(tuple(log.read())).committed
    if changed:
        work.commit(context.place)
    else:
        # The first time it may have failed at this.
        torn.remove(context.host.session, job.directory, job.job)
    vm = _vm(context)
    view = {
        "vmid": vm.vmid,
        "name": vm.name,
        "vmx_path": job.vmx_path,
        "directory": job.directory,
        "restore_point": str(job.extra["restore_point"]["path"]),
        "safety_point": work.safety_point() or None,
    }
    return view, changed
