# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One VM's restore, step by step. The folder is made by us, and is ours alone until the last step."""

from __future__ import annotations

import socket
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names, present, record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context, entry_of, held_job, must_hold
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    RemoteStepFailed,
    TargetNotMade,
    VmLocked,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.vmxedit import RESTORED_DISKS
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import RemoteFileError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import parse_vmx

# The folder is made under a name that only this job gives, and gets its own when our lock is in it: so there is never a
# moment in which it could be taken for somebody else's, or somebody else's for ours.
_MAKE = r"""
root=$1 dir=$2 unnamed=$3
[ -d "$root/." ] || { echo "no datastore at $root" >&2; exit 3; }
[ -d "${dir%/*}/." ] || { echo "there is no folder ${dir%/*}" >&2; exit 3; }
[ -e "$dir" ] && { echo "it exists" >&2; exit 4; }
rm -rf "$unnamed/.stowage-job"
rmdir "$unnamed" 2>/dev/null
mkdir "$unnamed"
"""

# `mv` would put it into a folder that somebody has made meanwhile.
_NAME = r"""
unnamed=$1 dir=$2
[ -e "$dir" ] && { echo "it exists" >&2; exit 4; }
mv "$unnamed" "$dir" || exit 1
inside=$dir/${unnamed##*/}
[ -d "$inside" ] || exit 0
mv "$inside" "$unnamed"
echo "somebody else has made it" >&2
exit 4
"""

_DROP = r"""
[ -d "$1" ] || exit 0
rm -rf "$1/.stowage-job"
rmdir "$1"
"""


def start(context: Context) -> tuple[Job, bool]:
    """Makes the new VM's folder and the lock in it. The mirror comes first: it knows of the folder from the start."""
    if not context.check:
        record.write_entry(context.state_dir, record.start_entry(entry_of(context), context.host.clock))
    held = held_job(context)
    if held is not None:
        return held, False
    job = _new_job(context)
    if context.check:
        return job, True
    jobs.write_mirror(context.state_dir, job)
    session, unnamed = context.host.session, names.unnamed_folder(job.directory, job.job)
    try:
        _make_folder(session, job, unnamed)
    except (TargetNotMade, RemoteStepFailed, RemoteFileError):
        # The host has said no. What cannot be dropped now is recover's, which knows it from the mirror.
        if session.script(_DROP, [unnamed]).rc == 0:
            jobs.remove_mirror(context.state_dir, job.job)
        raise
    IntentLog(session, context.folder, context.host.clock).note("started", job=job.job, directory=job.directory)
    return job, True


def _make_folder(session: Session, job: Job, unnamed: str) -> None:
    made = session.script(_MAKE, [points.datastore_root(job.directory), job.directory, unnamed])
    if made.rc == 0:
        if not lock.acquire(session, unnamed):
            raise VmLocked(vm=job.vm, job="(not named yet)", owner="somebody else", age=0, lease=job.lease_seconds)
        lock.write_job(session, lock.folder_of(unnamed), job)
        made = session.script(_NAME, [unnamed, job.directory])
    if made.rc != 0:
        raise TargetNotMade(path=job.directory, reason=made.stderr.strip() or f"exit code {made.rc}")


def _new_job(context: Context) -> Job:
    plan, now = context.entry, context.host.clock.now()
    return Job(
        job=context.job_id,
        run=context.run_id,
        kind="restore",
        host=context.label,
        host_name=context.host.name,
        vm=plan["vm"],
        identity=plan["identity"],
        vmid=0,
        vmx_path=plan["vmx_path"],
        directory=plan["directory"],
        how="restore",
        power_before="poweredOff",
        boot_id="",
        stop=False,
        snapshot=False,
        restart=False,
        snapshot_name="",
        partial="",
        final=plan["directory"],
        time=names.point_time(now),
        created_at=iso(now),
        controller=context.controller,
        backup_server=socket.gethostname(),
        lease_seconds=context.lease_seconds,
        disks=tuple(dict(disk) for disk in plan["disks"]),
        extra={"files": [dict(file) for file in plan["files"]], "restore_point": dict(plan["restore_point"])},
    )


def commit(context: Context, register: bool) -> tuple[dict[str, Any], bool]:
    """Proves the disks, writes the configuration, registers. Until then nothing there looks like a VM."""
    job = must_hold(context)
    host, session, place = context.host, context.host.session, context.place
    log = IntentLog(session, context.folder, host.clock)
    if Events(tuple(log.read())).committed:
        return _view(_registered(context, job), job), False
    for disk in job.disks:
        points.prove_disks(host, job.vm, job.directory, [disk], str(disk["format"]))
        log.beat()
    for file in job.extra["files"]:
        place.bring(host, job.vm, str(file["src"]), str(file["dest"]))
    session.write_text(job.vmx_path, _config(context, job))
    mode = session.run(["chmod", "0755", job.vmx_path])
    if mode.rc != 0:
        raise RemoteStepFailed(what=f"Setting the mode of {job.vmx_path}", rc=mode.rc, stderr=mode.output)
    vm = None
    if register:
        log.note("register-intent", vmx_path=job.vmx_path, name=job.vm)
        vmid = host.register(job.vmx_path, job.vm)
        log.note("register-done", vmid=vmid)
        vm = _registered(context, job)
    log.note("commit-done", final=job.directory)
    return _view(vm, job), True


def _config(context: Context, job: Job) -> str:
    """A replica keeps in mind how its disks were left, so that it is noticed when somebody has been at them."""
    text = str(context.entry["vmx_text"])
    if not context.entry.get("replica_of"):
        return text
    seals = {str(disk["key"]): present.seal(context.host, str(disk["dest"])) for disk in job.disks}
    return parse_vmx(text, job.vmx_path).changed({RESTORED_DISKS: present.sealed(seals)}).render()


def _registered(context: Context, job: Job) -> VirtualMachine | None:
    return next((vm for vm in context.host.vms() if vm.vmx_path == job.vmx_path), None)


def _view(vm: VirtualMachine | None, job: Job) -> dict[str, Any]:
    return {
        "vmid": vm.vmid if vm else None,
        "name": vm.name if vm else job.vm,
        "vmx_path": job.vmx_path,
        "directory": job.directory,
        "restore_point": str(job.extra["restore_point"]["path"]),
    }
