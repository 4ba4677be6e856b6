# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference snapshot: one of ours that stays until the next backup, where a VM's policy asks for it.

What it froze is what its restore point holds; so the deltas above it have all that was written since. Deciding is here,
and pure: whether it still tells the truth, and whether it has to go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import SnapshotTree
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.heldstill import DiskState, FileState

#: Beside the VM's .vmx, as the lock: it follows the VM to another host, and no backup server need remember it.
FILE = ".stowage-reference.json"
SCHEMA = 1


@dataclass(frozen=True)
class Rules:
    """What a policy says of reference snapshots."""

    enabled: bool = False
    max_age_hours: int = 72
    max_size_percent: int = 20
    reserve_percent: int = 10
    prove_backups: int = 7
    prove_days: int = 30


@dataclass(frozen=True)
class Reference:
    """Schema 1. The snapshot, the restore point that it belongs to, and what it froze, seen when nothing merged any
    more. `unproven` are the backups in a row that believed the deltas; the first of them came after `proven_at`."""

    vm: str
    identity: str
    vmx_path: str
    host: str
    job: str
    snapshot: int
    name: str
    store: str
    point: str
    created_at: str
    proven_at: str
    unproven: int = 0
    disks: tuple[DiskState, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)

    @property
    def ours(self) -> bool:
        """Whether its name is one that only a job of ours gives."""
        run = self.job.rpartition("-")[0]
        return names.is_job_id(self.job, run) and self.name == names.snapshot_name(self.job)

    def of_vm(self, identity: str, vmx_path: str) -> bool:
        """Whether that VM's own, also where it has got another UUID since (registered anew, "I copied it")."""
        return identity == self.identity or vmx_path == self.vmx_path

    def disk(self, key: str) -> DiskState | None:
        return next((disk for disk in self.disks if disk.key == key), None)

    def render(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True) + "\n"

    def view(self) -> dict[str, Any]:
        """For a record."""
        shown = ("snapshot", "name", "point", "created_at", "proven_at", "unproven")
        return {**{name: getattr(self, name) for name in shown}, "limits": asdict(self.rules)}


def parse(text: str) -> Reference | None:
    """None for what is cut, of a newer schema, or not ours."""
    try:
        value = json.loads(text)
        if value.pop("schema") != SCHEMA:
            return None
        disks = tuple(
            DiskState(
                str(disk["key"]),
                tuple(map(str, disk["links"])),
                tuple(map(str, disk["cids"])),
                tuple(FileState(str(file["path"]), int(file["size"]), int(file["mtime"])) for file in disk["files"]),
                str(disk["fault"]),
            )
            for disk in value.pop("disks")
        )
        found = Reference(disks=disks, rules=Rules(**value.pop("rules")), **value)
        {str(key): int(size) for key, size in found.sizes.items()}
        _moment(found.created_at)
        _moment(found.proven_at)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    kinds = {"str": str, "int": int, "bool": bool}
    plain = [(one, part) for part in (found, found.rules) for one in fields(part) if one.type in kinds]
    # A truth value is a number to Python, and none here.
    values = [(getattr(part, one.name), kinds[str(one.type)]) for one, part in plain]
    sound = all(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for value, kind in values)
    return found if sound and found.ours else None


def doubt(
    reference: Reference,
    *,
    identity: str,
    vmx_path: str,
    host: str,
    store: str,
    tree: SnapshotTree,
    ours: int | None,
) -> str:
    """Why it tells nothing of this VM as it is now; empty where it may. `ours` is the snapshot that is read from."""
    if reference.identity != identity:
        return f"it is that of another VM ({reference.vm!r})"
    if reference.host != host:
        return f"it was taken on {reference.host}, and a hypervisor is believed of its own restore points only"
    if reference.vmx_path != vmx_path:
        return f"the VM was moved from {reference.vmx_path}"
    if reference.store != store:
        return f"its restore point is in {reference.store}"
    found = tree.find(reference.snapshot)
    if found is None:
        return f"snapshot {reference.snapshot} is gone"
    if found.name != reference.name:
        return f"snapshot {reference.snapshot} is called {found.name!r}, not {reference.name!r}"
    if ours is None:
        now = tree.current
        above = now is not None and now.id == reference.snapshot
    else:
        now = tree.find(ours)
        above = now is not None and now.parent_id == reference.snapshot
    if not above:
        others = [f"{one.name!r} (id {one.id})" for one in tree if one.id not in (reference.snapshot, ours)]
        return (
            f"the VM does not stand right on snapshot {reference.snapshot} any more: it was reverted, or there is a "
            f"snapshot in between ({', '.join(others) or 'none is left'})"
        )
    return ""


def disk_doubt(reference: Reference, key: str, now: DiskState | None, capacity: int) -> str:
    """The same of one disk: what the snapshot froze must be there, untouched, below what is read."""
    then = reference.disk(key)
    if then is None or not then.links:
        return "it was not in the reference snapshot"
    if now is None or now.fault or not now.links:
        return now.fault if now is not None and now.fault else "its chain cannot be read"
    if reference.sizes.get(key) != capacity:
        return f"its size went from {reference.sizes.get(key)} to {capacity} bytes"
    if then.links[0] not in now.links:
        return f"it does not stand on {then.links[0]} any more"
    at = now.links.index(then.links[0])
    if now.links[at:] != then.links:
        return f"below {then.links[0]} its chain went from {' <- '.join(then.links)} to {' <- '.join(now.links[at:])}"
    for link, old, new in zip(then.links, then.cids, now.cids[at:]):
        if old != new:
            return f"the content id of {link} went from {old} to {new}"
    there = {file.path: file for file in now.files}
    for file in then.files:
        found = there.get(file.path)
        if found is None:
            return f"{file.path} is gone"
        if found != file:
            return f"{file.path} was written to: {_words(file)} became {_words(found)}"
    return ""


def _words(file: FileState) -> str:
    return f"{file.size} bytes of {file.mtime}"


def proof_due(reference: Reference, rules: Rules, now: datetime) -> str:
    """Why this backup has to look at everything; empty where it need not."""
    if reference.unproven + 1 >= rules.prove_backups:
        return f"it is backup {reference.unproven + 1} since the last proof"
    if now - _moment(reference.proven_at) >= timedelta(days=rules.prove_days):
        return f"the last proof was {reference.proven_at}"
    return ""


def over_limit(reference: Reference, now: datetime, delta_bytes: int, room: Mapping[str, tuple[int, int]]) -> str:
    """Why it has to go before the next backup; empty where it may stay. `room`: free and whole bytes by datastore."""
    rules = reference.rules
    hours = (now - _moment(reference.created_at)).total_seconds() / 3600
    if hours > rules.max_age_hours:
        return f"it is {hours:.0f} hours old, and may be {rules.max_age_hours}"
    if hours < -1:
        return f"it says of itself that it was made {-hours:.0f} hours from now"
    most = sum(int(size) for size in reference.sizes.values()) * rules.max_size_percent // 100
    if delta_bytes > most:
        return f"its deltas have {format_bytes(delta_bytes)}, and may have {format_bytes(most)}"
    for name, (free, whole) in sorted(room.items()):
        reserve = whole * rules.reserve_percent // 100
        if free < reserve:
            return f"datastore {name!r} has {format_bytes(free)} free, less than the reserve of {format_bytes(reserve)}"
    return ""


def _moment(text: str) -> datetime:
    # Python 3.9 does not read the Z that our own times end in.
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if found.tzinfo is None:
        raise ValueError(f"{text} says nothing of its zone")
    return found
