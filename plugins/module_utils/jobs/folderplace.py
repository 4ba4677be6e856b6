# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points as folders on a datastore of the hypervisor, built beside their place and renamed into it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names, proving, rotation
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadManifest, ConfigNotCopied
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import is_point_name
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import VmPolicy

_READABLE = "descriptor, capacity, extents, first and last sector, chain; content as each disk's verified says"

_COPY = r"""
cp -f "$1" "$2" && [ "$(stat -c %s "$1")" = "$(stat -c %s "$2")" ]
"""


class FolderPlace:
    """The kind of program vmkfstools."""

    def targets(self, host: Host, wanted: Mapping[int, tuple[str, str, str]]) -> dict[int, str]:
        known = points.vm_folders(host.session, [point for point, _name, _identity in wanted.values()])
        return {vmid: points.vm_folder(known, *one) for vmid, one in wanted.items()}

    def newest(self, host: Host, label: str, wanted: Mapping[int, tuple[str, str, str]]) -> dict[int, datetime]:
        found = points.newest(host.session, [target for _point, target, _identity in wanted.values()])
        return {vmid: found[target] for vmid, (_point, target, _identity) in wanted.items() if target in found}

    def names(self, target: str, time: str, job: str) -> tuple[str, str]:
        return posixpath.join(target, names.partial_name(time, job)), posixpath.join(target, time)

    def prepare(self, host: Host, job: Job, folder: str, log: IntentLog) -> str:
        points.prepare(host.session, job, log)
        return job.partial

    def commit(
        self,
        host: Host,
        vm: VirtualMachine,
        job: Job,
        log: IntentLog,
        events: Events,
        copies: Sequence[Mapping[str, Any]],
    ) -> RestorePoint:
        proof = proving.held_still(host, vm, job, log.folder, events)
        wanted = [disk for disk in job.disks if disk["action"] == "copy"]
        disks = points.prove_disks(host, job.vm, job.partial, wanted, job.policy["disk_format"])
        log.beat()
        files = points.list_files(host.session, job.partial)
        if not any(file.role == "vmx" for file in files):
            # Nobody could restore from it: better no point than one that looks whole.
            raise ConfigNotCopied(
                path=job.vmx_path, vm=job.vm, target=job.partial, reason="it is not among the copied files"
            )
        manifest = proving.facts_of(host, vm, job, proof, disks, files, _READABLE, copies)
        log.note("commit-intent", partial=job.partial, final=job.final)
        return points.commit(host.session, job, manifest)

    def made(self, host: Host, job: Job, events: Events) -> str:
        if events.last("commit-intent") is None:
            return ""
        try:
            point = points.read_point(host, job.final)
        except BadManifest:
            return ""
        return point.path if point.manifest.get("job") == job.job else ""

    def half_copy(self, job: Job) -> str:
        """It is removed with the rest of the job."""
        return ""

    def read(self, host: Host, path: str) -> RestorePoint:
        return points.read_point(host, path)

    def rotate(self, host: Host, job: Job, events: Events, policy: VmPolicy, others: Iterable[Job]) -> dict[str, Any]:
        # Of hosts that share a datastore none may push out what the other has made of a VM with the same identity.
        return rotation.rotate(host, job, policy, others, job.host)

    def find(self, host: Host, point: str) -> tuple[list[RestorePoint], list[BadManifest]]:
        """`point` is a backup point, one VM's folder in it, or one restore point."""
        point = posixpath.normpath(point)
        if is_point_name(posixpath.basename(point)):
            return [points.read_point(host, point)], []
        found, bad = points.list_points(host, point)
        if not found and not bad:
            inside, bad = points.list_points(host, posixpath.dirname(point))
            found = [one for one in inside if posixpath.dirname(one.path) == point]
            bad = [error for error in bad if str(error.data.get("path", "")).startswith(point + "/")]
        return found, bad

    def read_text(self, host: Host, path: str) -> str:
        return host.read_text(path)

    def bring(self, host: Host, vm: str, source: str, target: str) -> None:
        result = host.session.script(_COPY, [source, target])
        if result.rc != 0:
            raise ConfigNotCopied(path=source, vm=vm, target=target, reason=result.output)
