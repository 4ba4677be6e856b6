# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of place that restore points lie in, behind one interface: jobs know what, a place knows how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadManifest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.folderplace import FolderPlace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import VmPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import StorePlace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores

DEFAULT = "vmkfstools"


class Place(Protocol):
    """Where restore points of one kind lie."""

    def targets(self, host: Host, wanted: Mapping[int, tuple[str, str, str]]) -> dict[int, str]:
        """For (backup point, name, identity) of each copy the place below that point which is the VM's own."""

    def newest(self, host: Host, label: str, wanted: Mapping[int, tuple[str, str, str]]) -> dict[int, datetime]:
        """When the newest good restore point of each VM was made, given (backup point, target, identity) of each.

        VMs without one are absent, and so are those of a place that is not there. `label`: the hypervisor that must
        have made it, where an identity alone could be another one's word."""

    def names(self, target: str, time: str, job: str) -> tuple[str, str]:
        """What a job works on, and what that becomes, as its job file keeps them."""

    def prepare(self, host: Host, job: Job, folder: str, log: IntentLog) -> str:
        """Makes what has to be there before the copy; returns the hypervisor's folder for the VM's configuration.

        `folder` is the job's own."""

    def commit(
        self,
        host: Host,
        vm: VirtualMachine,
        job: Job,
        log: IntentLog,
        events: Events,
        copies: Sequence[Mapping[str, Any]],
    ) -> RestorePoint:
        """From here on it is a restore point, proven readable; or it raises what speaks against that."""

    def made(self, host: Host, job: Job, events: Events) -> str:
        """The path of the point of a job whose commit was begun and never answered; empty where there is none."""

    def half_copy(self, job: Job) -> str:
        """What a job that did not get to its end has left for the next backup to go on with; empty where nothing."""

    def read(self, host: Host, path: str) -> RestorePoint:
        """One restore point by what its `path` says."""

    def rotate(self, host: Host, job: Job, events: Events, policy: VmPolicy, others: Iterable[Job]) -> dict[str, Any]:
        """After a success: removes what no rule keeps, except what `others` read. Tells problems, never raises."""

    def find(self, host: Host, point: str) -> tuple[list[RestorePoint], list[BadManifest]]:
        """The restore points that an operator's word means, and what looks like one but is not."""

    def read_text(self, host: Host, path: str) -> str:
        """A small file of a restore point."""

    def bring(self, host: Host, vm: str, source: str, target: str) -> None:
        """Copies a small file of a restore point to a path of the hypervisor."""


def of(program: str, stores: Stores) -> Place:
    """By what moves the bytes; most jobs have no use for the code of the other programs."""
    if program == "borg":
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs.borgplace import BorgPlace

        return BorgPlace(stores)
    if program == "rsync":
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs.rsyncplace import RsyncPlace

        return RsyncPlace(stores)
    return StorePlace(stores) if program == "dedup" else FolderPlace()


def of_job(job: Job, stores: Stores) -> Place:
    return of(str(job.policy.get("program") or DEFAULT), stores)
