# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a backup goes by the reference snapshot of the one before, and what came of that.

On any doubt everything is hashed, and the doubt is told. A hint that was found wrong is not believed again until a
backup was made without the policy that asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import proving, references
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import VmPolicy, vm_policy_from_dict
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import (
    Reference,
    disk_doubt,
    doubt,
    parse,
    proof_due,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs import hints
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import DiskFed
    from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

#: Besides what a hint came to for a disk: the policy asks for none; there is none yet; it is believed no more.
OFF, FIRST, DROPPED = "off", "first", "dropped"


@dataclass(frozen=True)
class Decision:
    """What is known before the copy. `parent` is the restore point that the hints speak of, `mine` are all that this
    hypervisor has made of the VM, oldest first."""

    way: str
    reason: str = ""
    hints: hints.Hints = field(default_factory=hints.Hints)
    parent: Point | None = None
    reference: Reference | None = None
    doubts: Mapping[str, str] = field(default_factory=dict)
    mine: tuple[Point, ...] = ()

    def outcome(self, fed: Sequence[DiskFed], now: str) -> dict[str, Any]:
        """For the facts of the restore point, the journal and the record."""
        if self.way == OFF:
            return {"way": OFF}
        came = {one.hint for one in fed}
        used = next((one for one in (hints.WRONG, hints.PROVEN, hints.HINTED) if one in came), "")
        way = used or (hints.HASHED if self.way == hints.HINTED else self.way)
        reasons = [self.reason] if self.reason else []
        reasons += [f"{key}: {reason}" for key, reason in sorted(self.doubts.items())]
        reasons += [f"{one.key}: {one.notes[-1]}" for one in fed if one.hint in (hints.HASHED, hints.WRONG)]
        found: dict[str, Any] = {"way": way, "reason": "; ".join(reasons), "unproven": 0, "proven_at": now}
        if self.reference is not None:
            found.update(snapshot=self.reference.snapshot, parent=self.reference.point)
            if way == hints.HINTED:
                found.update(unproven=self.reference.unproven + 1, proven_at=self.reference.proven_at)
        if way == DROPPED:
            found["dropped"] = self.reason
        if way == hints.WRONG:
            found["dropped"] = f"{now}: {found['reason']}"
            found["doubtful"] = [point.point for point in _hinted_last(self.mine)]
        return found


def words(vm: str, outcome: Mapping[str, Any]) -> str:
    """What the operator has to know; empty where all went as it should."""
    way, reason = outcome.get("way"), outcome.get("reason")
    if way == hints.WRONG:
        doubtful = ", ".join(outcome.get("doubtful") or ()) or "none"
        return (
            f"VM {vm!r}: what the host told of changes since the reference snapshot was wrong ({reason}). This backup "
            f"has hashed everything and is whole. Restore points that were made by such a hint since it was last "
            f"proven, and may lack changes: {doubtful}. Hints are not believed for this VM any more; a backup with "
            "reference.enabled=false ends that"
        )
    if way == DROPPED:
        return (
            f"VM {vm!r}: everything was hashed, because a hint was found wrong ({reason}); a backup with "
            "reference.enabled=false ends that"
        )
    if way == hints.HASHED:
        return f"VM {vm!r}: everything was hashed, as the reference snapshot cannot be relied on: {reason}"
    return f"VM {vm!r}: not all of its disks could go by the reference snapshot: {reason}" if reason else ""


def decide(host: Host, job: Job, events: Events, store: Store, location: str, sources: Sequence[Source]) -> Decision:
    """Looks at the reference that lies in the VM's folder. What cannot be looked at is a doubt, and no failure."""
    if job.extra.get("safety"):
        # Of what a restore in place is about to overwrite; that job has no policy.
        return Decision(OFF)
    policy = vm_policy_from_dict(job.policy)
    if not policy.keeps_reference:
        return Decision(OFF)
    mine = tuple(sorted(_mine(store, job), key=lambda point: point.point))
    dropped = (_hint_of(mine[-1]).get("dropped") or "") if mine else ""
    if dropped:
        return Decision(DROPPED, str(dropped), mine=mine)
    try:
        return _judge(host, job, events, policy, location, sources, mine)
    except StowageError as error:
        return Decision(hints.HASHED, error.message, mine=mine)


def _judge(
    host: Host,
    job: Job,
    events: Events,
    policy: VmPolicy,
    location: str,
    sources: Sequence[Source],
    mine: tuple[Point, ...],
) -> Decision:
    text = references.text(host.session, job.directory)
    if not text:
        return Decision(FIRST, mine=mine)
    reference = parse(text)
    if reference is None:
        return Decision(hints.HASHED, f"{references.path_in(job.directory)} cannot be understood", mine=mine)
    vm = proving.find_vm(host, job.host, job.vm, job.identity, job.vmx_path)
    reason = doubt(
        reference,
        identity=job.identity,
        vmx_path=job.vmx_path,
        host=job.host,
        store=location,
        tree=snapshots.tree(vm),
        ours=events.snapshot_id() if job.snapshot else None,
    )
    parent = next((point for point in mine if point.point == reference.point), None)
    if not reason and parent is None:
        reason = f"its restore point {reference.point} is not in the store any more, or cannot be read"
    if reason or parent is None:
        return Decision(hints.HASHED, reason, reference=reference, mine=mine)
    doubts = {}
    now = references.states(host, {source.key: source.path for source in sources})
    for source in sources:
        why = disk_doubt(reference, source.key, now.get(source.key), source.capacity_bytes)
        old = parent.disk(source.key)
        if not why and (old is None or old.size != source.capacity_bytes):
            why = f"its restore point {reference.point} has it with another size, or not at all"
        if why:
            doubts[source.key] = why
    links = {
        source.key: found.links[0]
        for source in sources
        if source.key not in doubts and (found := reference.disk(source.key)) is not None
    }
    if not links:
        return Decision(hints.HASHED, "", doubts=doubts, reference=reference, mine=mine)
    # Who wants all of it compared with its source is not told what need not be read.
    due = policy.verify == "full" or proof_due(reference, policy.reference, host.clock.now())
    return Decision(hints.HINTED, "", hints.Hints(links, bool(due)), parent, reference, doubts, mine)


def _mine(store: Store, job: Job) -> list[Point]:
    """A hint is believed of what the same hypervisor has made, and of nothing else."""
    found = [point for _name, point in store.look_at_points(job.identity) if not isinstance(point, StowageError)]
    return [point for point in found if point.facts.get("hypervisor") == job.host]


def _hint_of(point: Point) -> Mapping[str, Any]:
    found = point.facts.get("hint")
    return found if isinstance(found, Mapping) else {}


def _hinted_last(mine: Sequence[Point]) -> list[Point]:
    """Those that went by hints since everything was hashed last."""
    found: list[Point] = []
    for point in reversed(mine):
        if _hint_of(point).get("way") != hints.HINTED:
            break
        found.append(point)
    return found[::-1]


def fresh(job: Job, outcome: Mapping[str, Any], snapshot: int, store: str, point: str, host: Host) -> Reference:
    """What this job's snapshot is for the next backup; `references.keep` adds what it froze."""
    now = iso(host.clock.now())
    return Reference(
        vm=job.vm,
        identity=job.identity,
        vmx_path=job.vmx_path,
        host=job.host,
        job=job.job,
        snapshot=snapshot,
        name=job.snapshot_name,
        store=store,
        point=point,
        created_at=now,
        proven_at=str(outcome.get("proven_at") or now),
        unproven=int(outcome.get("unproven") or 0),
        sizes={str(disk["key"]): int(disk["capacity_bytes"]) for disk in job.disks if disk["key"] in job.disk_keys},
        rules=vm_policy_from_dict(job.policy).reference,
    )
