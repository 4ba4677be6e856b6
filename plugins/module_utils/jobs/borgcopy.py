# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program borg: a VM into a repository, as one archive that the copy itself proves and names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import borgplace, names, proving, storebackup
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import marked, render_manifest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import parse_point_time
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import Order
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import DONE, path_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import DiskFed
from ansible_collections.stowage.esxi.plugins.module_utils.programs.intoborg import Packed, Packing, image_name, pack
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import sources_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings

predict = storebackup.predict
turn = borgplace.turn
# What a comment has of the facts; what is proven later stands in the archive's last member.
_BEGUN = ("time", "job", "run", "host", "program", "vm", "disks", "files", "how", "needs_key_provider", "proven")


def perform(host: Host, params: Mapping[str, Any], settings: Settings, frame: Frame, stores: Stores) -> dict[str, Any]:
    request = frame.request
    if frame.job is None or frame.journal is None:
        raise errors.NotSupported(
            program="borg",
            reason="it makes a restore point, which needs the journal and the proofs of a job",
            way_out="Use the role stowage.esxi.backup with backup_program=borg, or give journal and job_id of its job",
        )
    repository = borgplace.repository(stores, request.dest)
    warnings: list[str] = []
    sources, left_out = sources_of(host, request, False, warnings)
    storebackup.refuse_encrypted(host, request, sources)
    room = storebackup.room_in(host, request, sources, stores, "borg")
    if stores.access is None:
        raise ValueError("a copy into a repository needs the options of a store")
    order = BorgOrder(host, frame.job, frame.journal, repository, request.dest, stores.access, tuple(sources))
    packed, archive = order.pack(
        frame.reach(host, settings),
        settings.verify,
        settings.limits_dir,
    )
    result = storebackup.result_in(request, sources, left_out, room, warnings)
    path = path_of(request.dest, archive)
    by_key = {one.key: one for one in packed.disks}
    for disk in result["disks"]:
        one = by_key[disk["key"]]
        disk.update(
            dest=f"{path}/{image_name(one.key)}",
            read_bytes=one.read_bytes,
            sent_bytes=one.sent_bytes,
            seconds=one.seconds,
            rate=one.rate,
            verified=one.verified,
            method=one.method,
            notes=list(one.notes),
        )
    result["restore_point"] = path
    result["told"] = dict(packed.told)
    result["copied_bytes"] = packed.told["stored"]
    result["seconds"] = round(sum(one.seconds for one in packed.disks), 3)
    result["diff"]["after"] = f"{path}\n"
    return result


@dataclass(frozen=True)
class BorgOrder(Order):
    """A job's VM, on its way into a repository."""

    @property
    def repository(self) -> Repository:
        found: Repository = self.store
        return found

    def readable(self) -> str:
        return "the host's hashes as each disk's verified says; every member of the archive was listed in its size"

    def file_of(self, key: str) -> str:
        return image_name(key)

    def pack(self, reach: Reach, verify: str, limits_dir: str) -> tuple[Packed, str]:
        files = self.config()
        job = self.job
        archive = borgplace.archive_name(job.vm, job.identity, job.time)

        def prove(fed: Sequence[DiskFed]) -> str:
            return render_manifest(self.proven(archive, files, told(fed)))

        def told(fed: Sequence[DiskFed]) -> tuple[DiskFed, ...]:
            """With full there is no archive of that name unless it is so."""
            more = "; read back from the archive" if verify == "full" else ""
            return tuple(replace(one, verified=one.verified + more) for one in fed)

        packed = pack(
            self.repository,
            Packing(
                machine_name=job.vm,
                sources=self.sources,
                files=files,
                partial=names.partial_name(job.time, job.job),
                final=archive,
                comment=json.dumps(self.begun(files)),
                moment=int(parse_point_time(job.time).timestamp()),
                verify=verify,
                prove=prove,
            ),
            reach,
        )
        packed = replace(packed, disks=told(packed.disks))
        self.journal.note(DONE, point=archive, store=self.location, told=dict(packed.told), limits_dir=limits_dir)
        return packed, archive

    def begun(self, files: Mapping[str, bytes]) -> dict[str, Any]:
        """What is known of the archive before its first byte is read, and is all that a list of points needs."""
        job = self.job
        vm = proving.find_vm(self.host, job.host, job.vm, job.identity, job.vmx_path)
        facts = self.facts(vm, {}, files)
        # The rule that it was made with is what a prune goes by.
        rule = {name: job.policy[name] for name in ("keep", "rotate") if name in job.policy}
        return marked({**{name: facts[name] for name in _BEGUN}, "policy": rule})
