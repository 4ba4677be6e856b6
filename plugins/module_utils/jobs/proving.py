# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is proven before a copy becomes a restore point, and what the point then says about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import heldstill, survey
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import AmbiguousVm, NotStill, VmChanged, VmGone
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import PointDisk, PointFile


def find_vm(host: Host, label: str, name: str, identity: str, vmx_path: str) -> VirtualMachine:
    """Whatever its name and number are by now; it must lie where it lay."""
    found = survey.find_identity(host, identity)
    if not found:
        raise VmGone(vm=name, identity=identity, host=label)
    if len(found) > 1:
        listed = "; ".join(f"{vm.name!r} (vmid {vm.vmid})" for vm in found)
        raise AmbiguousVm(vm=name, host=label, count=len(found), candidates=listed)
    vm = found[0]
    if vm.vmx_path != vmx_path:
        raise VmChanged(vm=vm.name, reason=f"it has moved from {vmx_path} to {vm.vmx_path}")
    return vm


def held_still(host: Host, vm: VirtualMachine, job: Job, folder: str, events: Events) -> dict[str, Any]:
    """Raises NotStill; else returns the proof that goes into the manifest."""
    before = heldstill.read_before(host.session, folder)
    after = heldstill.take(host, vm, job.disk_keys, vm.power_state(), vm.boot_id() or "")
    if not job.snapshot:
        reasons = heldstill.compare_cold(before, after, job.disk_keys)
        proof: dict[str, Any] = {
            "by": "power state, start, chain, content ids, sizes and times",
            "state": after.as_dict(),
        }
    else:
        number = events.snapshot_id()
        if number is None:
            raise NotStill(vm=job.vm, reason="the journal does not tell of a snapshot of ours")
        found = snapshots.tree(vm).find(number)
        frozen = vm.frozen_disks(number) if found is not None else {}
        snapshot = heldstill.SnapshotState(number, found.name if found is not None else None, frozen)
        noted = {str(disk["key"]): disk for disk in job.disks}
        reasons = heldstill.compare_snapshot(noted, snapshot, job.snapshot_name, after, job.disk_keys)
        if job.stop and after.power_state == "poweredOn" and events.index("power-on-intent") < 0:
            reasons = (
                *reasons,
                "somebody else started it before we did: whether our snapshot holds it at rest is unknown",
            )
        proof = {"by": "our snapshot and the content ids below it", "snapshot": number, "frozen": frozen}
    if reasons:
        raise NotStill(vm=job.vm, reason="; ".join(reasons))
    return proof


def facts_of(
    host: Host,
    vm: VirtualMachine,
    job: Job,
    proof: Mapping[str, Any],
    disks: Sequence[PointDisk],
    files: Sequence[PointFile],
    readable: str,
    copies: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What a restore point says about itself, wherever it lies."""
    measured = {str(copy.get("key")): copy for copy in copies}
    return {
        "time": job.time,
        "committed_at": iso(host.clock.now()),
        "job": job.job,
        "run": job.run,
        "host": job.host,
        "program": job.policy.get("program", "vmkfstools"),
        "vm": {
            "name": job.vm,
            "identity": job.identity,
            "uuid": vm.instance_uuid or "",
            "bios_uuid": vm.bios_uuid or "",
            "vmx_path": job.vmx_path,
            "hardware_version": vm.vmx.hardware_version,
        },
        "how": {"asked": job.policy.get("how"), "effective": job.how, "why": job.extra.get("why")},
        "power_before": job.power_before,
        "disks": [
            {**vars(disk), **{name: measured.get(disk.key, {}).get(name) for name in ("seconds", "verified")}}
            for disk in disks
        ],
        "left_out": [dict(disk) for disk in job.disks if disk["action"] != "copy"],
        "files": [vars(file) for file in files],
        "still": dict(proof),
        "readable": readable,
        # What no one here can decrypt, no one here has proven.
        "needs_key_provider": job.extra.get("needs_key_provider") or "",
        "proven": not job.extra.get("needs_key_provider"),
        "policy": dict(job.policy),
        **({"safety": True} if job.extra.get("safety") else {}),
    }
