# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Between two backups: reference snapshots that are too old, too large, or in the way of others' room are removed.

They are what their own file says, so that no policy is needed here. A removal is a job of its own: it holds the VM's
lock, and what is cut off in it the next recover goes on with.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names, references, survey
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import ReferenceStays
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import parse

#: In a job's `extra`: it has backed nothing up, and no record speaks of it.
UPKEEP = "upkeep"


@dataclass(frozen=True)
class Kept:
    """One reference snapshot as it was found, and what became of it."""

    vm: str
    snapshot: int
    point: str
    created_at: str
    bytes: int = 0
    removed: bool = False
    reason: str = ""
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def look(
    host: Host,
    label: str,
    vms: Sequence[VirtualMachine],
    busy: Sequence[str],
    consolidation_timeout: int,
    check: bool,
) -> list[Kept]:
    """Every reference of a VM that this host has. `busy`: folders in which a job is at work, or has left something."""
    found = []
    by_folder = {vm.directory: vm for vm in vms if vm.vmx_path}
    for directory in references.scan(host.session):
        vm = by_folder.get(directory)
        if vm is None or directory in busy:
            continue
        try:
            found += _one(host, label, vm, consolidation_timeout, check)
        except StowageError as error:
            found.append(Kept(vm.name, 0, "", "", error=error.message))
    return found


def _one(host: Host, label: str, vm: VirtualMachine, timeout: int, check: bool) -> list[Kept]:
    text = references.text(host.session, vm.directory)
    reference, size = parse(text), 0
    if reference is not None and not reference.of_vm(vm.identity, vm.vmx_path):
        # A copied folder: what its file speaks of is the other VM's.
        return []
    if reference is None:
        doomed, reason = references.ours(snapshots.tree(vm), vm.identity, label), "its file cannot be understood"
    else:
        doomed = {reference.snapshot: reference.name}
        if not references.is_there(vm, reference.snapshot, reference.name):
            reason = "its snapshot is gone"
        else:
            reason, size = references.why_over(host, vm, reference)
    told = [
        Kept(
            vm.name,
            number,
            reference.point if reference is not None else "",
            reference.created_at if reference is not None else "",
            size,
            bool(reason),
            reason,
        )
        for number in sorted(doomed)
    ]
    if not reason or check:
        return told
    elsewhere = survey.runs_elsewhere(host, vm)
    if elsewhere:
        raise ReferenceStays(vm=vm.name, reason=f"{elsewhere} says that it runs, though not here")
    _remove(host, label, vm, doomed, timeout)
    return told


def _remove(host: Host, label: str, vm: VirtualMachine, doomed: dict[int, str], timeout: int) -> None:
    job = _job(host, label, vm, timeout)
    if not lock.acquire(host.session, vm.directory):
        raise ReferenceStays(vm=vm.name, reason="a job has begun on it")
    folder = lock.folder_of(vm.directory)
    lock.write_job(host.session, folder, job)
    log = IntentLog(host.session, folder, host.clock, job.job)
    log.note("started", job=job.job)
    waiter = Waiter(timeout, clock=host.clock, beat=log.beat)
    for number, name in sorted(doomed.items()):
        references.remove(vm, number, name, waiter, log)
    references.forget(host.session, vm.directory)
    lock.release(host.session, folder, job.job)


def _job(host: Host, label: str, vm: VirtualMachine, timeout: int) -> Job:
    now = host.clock.now()
    run = f"upkeep-{names.point_time(now)}"
    job = names.job_id(run, label, vm.identity)
    return Job(
        job=job,
        run=run,
        kind="backup",
        host=label,
        host_name=host.name,
        vm=vm.name,
        identity=vm.identity,
        vmid=vm.vmid,
        vmx_path=vm.vmx_path,
        directory=vm.directory,
        how="cold",
        power_before="",
        boot_id="",
        stop=False,
        snapshot=False,
        restart=False,
        snapshot_name=names.snapshot_name(job),
        partial="",
        final="",
        time=names.point_time(now),
        created_at=iso(now),
        backup_server=socket.gethostname(),
        policy={"consolidation_timeout": timeout},
        extra={UPKEEP: True},
    )
