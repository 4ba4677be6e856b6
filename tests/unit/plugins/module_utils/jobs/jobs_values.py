# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that many tests of this room start from."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import DiskFacts, VmFacts


def make_job(**changes: object) -> Job:
    values: dict[str, object] = {
        "job": "run1-b0123456789ab",
        "run": "run1",
        "kind": "backup",
        "host": "esx1",
        "host_name": "10.0.0.1",
        "vm": "web01",
        "identity": "52f1c3a4-0c1d-4c8e-9b69-0d0b3f6c1a11",
        "vmid": 7,
        "vmx_path": "/vmfs/volumes/ds/web01/web01.vmx",
        "directory": "/vmfs/volumes/ds/web01",
        "how": "hot",
        "power_before": "poweredOn",
        "boot_id": "boot-1",
        "stop": False,
        "snapshot": True,
        "restart": False,
        "snapshot_name": "stowage-run1-b0123456789ab",
        "partial": "/vmfs/volumes/bk/web01-aa/.partial-20261122T200000Z-run1-b0123456789ab",
        "final": "/vmfs/volumes/bk/web01-aa/20261122T200000Z",
        "time": "20261122T200000Z",
        "created_at": "2026-11-22T20:00:00Z",
        "policy": {"shutdown_timeout": 600},
    }
    values.update(changes)
    for name, derived in (
        ("run", str(values["job"]).rpartition("-")[0]),
        ("snapshot_name", f"stowage-{values['job']}"),
    ):
        values[name] = changes.get(name, derived)
    return Job(**values)  # type: ignore[arg-type]


def make_disk(key: str = "scsi0:0", **changes: object) -> DiskFacts:
    values: dict[str, object] = {
        "key": key,
        "label": "Hard disk 1",
        "path": f"/vmfs/volumes/u1/web01/{key.replace(':', '-')}.vmdk",
        "datastore": "ds1",
        "capacity_bytes": 1 << 30,
        "allocated_bytes": 100 << 20,
    }
    values.update(changes)
    return DiskFacts(**values)  # type: ignore[arg-type]


def make_vm(name: str = "web01", **changes: object) -> VmFacts:
    values: dict[str, object] = {
        "name": name,
        "identity": f"id-{name}",
        "uuid": f"id-{name}",
        "vmid": 7,
        "vmx_path": f"/vmfs/volumes/u1/{name}/{name}.vmx",
        "directory": f"/vmfs/volumes/u1/{name}",
        "power_state": "poweredOn",
        "disks": (make_disk(),),
    }
    values.update(changes)
    return VmFacts(**values)  # type: ignore[arg-type]
