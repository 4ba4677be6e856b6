# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of a VM into a store: the whole of it is one restore point, which the copy itself proves and commits."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import configfiles, hinting, proving
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import ConfigNotCopied
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import PointDisk, PointFile, marked
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import CONFIG, DONE, INTENT, path_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access
from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import DiskFed, Fed, Feeding, feed
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.store import keepchunks

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_READABLE = "every chunk was hashed on the host, and hashed again here when it came; each one's record is in the store"
_KEPT = "every chunk was hashed on the host, and hashed again there when its record was written into the store"


@dataclass(frozen=True)
class Order:
    """A job's VM, on its way into a store."""

    host: Host
    job: Job
    journal: IntentLog
    store: Any
    location: str
    access: Access
    sources: tuple[Source, ...]
    format: ClassVar[str] = "store"

    def run(self, reach: Reach) -> tuple[Fed, Mapping[str, Any]]:
        """What went into the store, and what came of a hint (see `hinting`)."""
        files = self.config()
        facts: dict[str, Any] = {"hypervisor": self.job.host}
        if self.access.group:
            facts["group"] = self.access.group

        events = Events(tuple(self.journal.read()))
        hinted = hinting.decide(self.host, self.job, events, self.store, self.location, self.sources)
        outcome: dict[str, Any] = {}

        def before_commit(point: str, fed: Sequence[DiskFed]) -> Mapping[str, Any]:
            outcome.update(hinted.outcome(fed, iso(self.host.clock.now())))
            return {**self.proven(point, files, fed), "hint": dict(outcome)}

        fed = feed(
            self.store,
            Feeding(
                machine_id=self.job.identity,
                machine_name=self.job.vm,
                sources=self.sources,
                files=files,
                facts=facts,
                before_commit=before_commit,
                parent=hinted.parent or newest(self.store, self.job.identity, self.access.scope, facts),
                scope=self.access.scope,
                hints=hinted.hints,
            ),
            reach,
        )
        try:
            self.journal.note(DONE, point=fed.point.point, store=self.location, told=dict(fed.told), hint=outcome)
        except StowageError as error:
            # The intent names the point, and it is there: whoever looks finds it.
            fed = replace(fed, left="; ".join(filter(None, (fed.left, error.message))))
        return fed, outcome

    def config(self) -> dict[str, bytes]:
        """What was kept of the VM before anything was done to it."""
        folder = posixpath.join(self.journal.folder, CONFIG)
        session = self.host.session
        there = {name: size for name, (size, _allocated) in points.folder_files(session, folder).items()}
        # Before a byte of a disk is read: what a store cannot keep would end the backup at its end.
        configfiles.check(self.job.vm, there)
        found = {}
        for name in there:
            found[name] = session.read_text(posixpath.join(folder, name)).encode("utf-8", "surrogateescape")
        # What was said to be small may have become large.
        configfiles.check(self.job.vm, {name: len(data) for name, data in found.items()})
        if posixpath.basename(self.job.vmx_path) not in found:
            # Nobody could restore from it: better no point than one that looks whole.
            raise ConfigNotCopied(
                path=self.job.vmx_path, vm=self.job.vm, target=folder, reason="it is not among the copied files"
            )
        return found

    def proven(self, point: str, files: Mapping[str, bytes], fed: Sequence[DiskFed]) -> Mapping[str, Any]:
        """All bytes are in the store: did they hold still? From here on recover knows the point's name."""
        job = self.job
        vm = proving.find_vm(self.host, job.host, job.vm, job.identity, job.vmx_path)
        events = Events(tuple(self.journal.read()))
        proof = proving.held_still(self.host, vm, job, self.journal.folder, events)
        facts = self.facts(vm, proof, files, fed)
        self.journal.note(INTENT, point=point, store=self.location)
        return marked(facts)

    def facts(
        self, vm: VirtualMachine, proof: Mapping[str, Any], files: Mapping[str, bytes], fed: Sequence[DiskFed] = ()
    ) -> dict[str, Any]:
        disks = [self._disk(source) for source in self.sources]
        there = self.files_in(files, disks)
        measured = [{"key": one.key, "seconds": one.seconds, "verified": one.verified} for one in fed]
        return proving.facts_of(self.host, vm, self.job, proof, disks, there, self.readable(), measured)

    def files_in(self, files: Mapping[str, bytes], disks: Sequence[PointDisk]) -> list[PointFile]:
        """All that the point has, its disks among it."""
        there = [PointFile(name, len(data), points.role_of(name)) for name, data in sorted(files.items())]
        return there + [PointFile(disk.file, disk.capacity_bytes, "disk") for disk in disks]

    def file_of(self, key: str) -> str:
        """A disk's name among the files of the point."""
        return key

    def readable(self) -> str:
        return _KEPT if keepchunks.possible(self.store) else _READABLE

    def _disk(self, source: Source) -> PointDisk:
        noted = next((disk for disk in self.job.disks if disk["key"] == source.key), {})
        return PointDisk(
            key=source.key,
            label=str(noted.get("label") or ""),
            file=self.file_of(source.key),
            capacity_bytes=source.capacity_bytes,
            allocated_bytes=source.bytes_to_read,
            cid=next(iter(noted.get("cids") or ()), ""),
            format=self.format,
            source=source.path,
        )


def newest(store: Store, machine: str, scope: str, facts: Mapping[str, Any]) -> Point | None:
    """What is most like the VM, of what its hypervisor may be told of: another one may use its identity, too.

    One that cannot be read is no parent; this very backup heals what it can."""
    from ansible_collections.stowage.esxi.plugins.module_utils.store.known import Scope, leant_on

    within = Scope.of(scope, facts)
    found = [point for _name, point in store.look_at_points(machine) if not isinstance(point, StowageError)]
    near = [point for point in found if leant_on(within, facts, point) is not None]
    return max(near, key=lambda point: point.point, default=None)


def disk_results(location: str, fed: Fed, sources: Sequence[Source]) -> list[dict[str, Any]]:
    path = path_of(location, fed.point.point)
    by_key = {source.key: source for source in sources}
    return [
        {
            "key": one.key,
            "source": by_key[one.key].path,
            "dest": f"{path}/{one.key}",
            "format": "store",
            "capacity_bytes": by_key[one.key].capacity_bytes,
            "bytes_to_read": by_key[one.key].bytes_to_read,
            "read_bytes": one.read_bytes,
            "sent_bytes": one.sent_bytes,
            "seconds": one.seconds,
            "rate": one.rate,
            "verified": one.verified,
            "method": one.method,
            "notes": [*one.notes, *([f"the restore point is there, but: {fed.left}"] if fed.left else [])],
        }
        for one in fed.disks
    ]
