# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of reference snapshots at the end of a job: ours is kept, or the one before, or none.

While a job holds the lock of its VM, every snapshot that bears the mark of a backup of this VM on this host is its own,
or one that an earlier backup has kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import hinting, reference, references
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import vm_policy_from_dict
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import Reference
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import DONE, parse_path
from ansible_collections.stowage.esxi.plugins.module_utils.programs import hints

# What a backup's hint came to, after which a snapshot of it may serve the next one.
_GOOD = (hinting.FIRST, hints.HASHED, hints.HINTED, hints.PROVEN)


@dataclass
class Settled:
    """`kept` is what the next backup will go by; None where there is nothing."""

    kept: Reference | None = None
    done: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def hint_of(events: Events) -> Mapping[str, Any]:
    """What the copy has noted."""
    return (events.last(DONE) or {}).get("hint") or {}


def wants_ours(job: Job, events: Events, ok: bool) -> bool:
    """Whether this job's snapshot is to stay."""
    return (
        ok
        and job.kind == "backup"
        and job.snapshot
        and events.snapshot_id() is not None
        and vm_policy_from_dict(job.policy).keeps_reference
        and hint_of(events).get("way") in _GOOD
    )


def _wants_old(job: Job, events: Events, ok: bool) -> bool:
    """One of an earlier backup stays while its restore point is the last that was proven to stand on it: after a
    failure, and after a backup that needed no snapshot."""
    if not vm_policy_from_dict(job.policy).keeps_reference:
        return False
    return not ok or (not job.snapshot and hint_of(events).get("way") in (hints.HINTED, hints.PROVEN))


def settle(vm: VirtualMachine, job: Job, log: IntentLog, events: Events, ok: bool, waiter: Waiter) -> Settled:
    """When the bracket is undone. That ours cannot be kept is no failure; a removal that does not come to its end is
    one, and recover goes on with it."""
    settled = Settled()
    if not vm_policy_from_dict(job.policy).reference.enabled and not references.text(vm.host.session, vm.directory):
        return settled
    try:
        _settle(vm, job, log, events, ok, waiter, settled)
    except StowageError as error:
        settled.failed.append(f"reference snapshot: {error.message}")
    return settled


def _settle(
    vm: VirtualMachine, job: Job, log: IntentLog, events: Events, ok: bool, waiter: Waiter, settled: Settled
) -> None:
    ours = events.snapshot_id() if wants_ours(job, events, ok) else None
    old = reference.parse(references.text(vm.host.session, vm.directory))
    stays = ours is None and _wants_old(job, events, ok)
    if stays and old is not None and references.is_there(vm, old.snapshot, old.name):
        settled.kept = old
        return
    doomed = references.ours(snapshots.tree(vm), job.identity, job.host)
    if old is not None and old.of_vm(job.identity, job.vmx_path):
        # Of a VM that has come from another host, or got another UUID, they bear another mark.
        doomed[old.snapshot] = old.name
    doomed.pop(ours or 0, None)
    for number, name in sorted(doomed.items()):
        if references.remove(vm, number, name, waiter, log):
            settled.done.append(f"removed reference snapshot {number}")
    if ours is None:
        references.forget(vm.host.session, vm.directory)
        return
    point = parse_path(events.made)[1]
    try:
        made = hinting.fresh(job, hint_of(events), ours, job.final, point, vm.host)
        settled.kept = references.keep(vm, made, job.disk_keys, log)
    except StowageError as error:
        settled.warnings.append(error.message)
        references.remove(vm, ours, job.snapshot_name, waiter, log)
        settled.done.append(f"removed snapshot {ours}")
    else:
        settled.done.append(f"kept snapshot {ours} as the reference of the next backup")
