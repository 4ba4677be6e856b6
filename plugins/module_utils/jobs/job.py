# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job writes down about itself, on the VM's datastore and, as a mirror, on the backup server."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names, state
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import LEASE_SECONDS

SCHEMA = 1
#: In a job's `extra`, where its VM has several backup points: the number of its own, and the others, which share its
#: bracket, each with `copy`, `policy`, `partial` and `final`.
COPY = "copy_number"
ALSO = "also"
_OF_A_COPY = ("policy", "partial", "final")


@dataclass(frozen=True)
class Job:
    """Schema 1. Everything that a stranger needs to undo the job, without the machine that started it."""

    job: str
    run: str
    kind: str
    host: str
    vm: str
    identity: str
    vmid: int
    vmx_path: str
    directory: str
    how: str
    power_before: str
    boot_id: str
    stop: bool
    snapshot: bool
    restart: bool
    snapshot_name: str
    partial: str
    final: str
    time: str
    created_at: str
    host_name: str = ""
    controller: str = ""
    backup_server: str = ""
    lease_seconds: int = LEASE_SECONDS
    disks: tuple[Mapping[str, Any], ...] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def disk_keys(self) -> list[str]:
        return [str(disk["key"]) for disk in self.disks if disk.get("action", "copy") == "copy"]

    @property
    def copy(self) -> int | None:
        """The number of the backup point that this is for; None where the VM has but one."""
        number = self.extra.get(COPY)
        return number if isinstance(number, int) else None

    @property
    def copies(self) -> tuple[Job, ...]:
        """The job as each of its backup points sees it, this one first."""
        own = {name: value for name, value in self.extra.items() if name != ALSO}
        others = [
            replace(self, **{name: one[name] for name in _OF_A_COPY}, extra={**own, COPY: one[COPY]})
            for one in self.extra.get(ALSO) or ()
        ]
        return (replace(self, extra=own), *others) if others else (self,)

    def of_copy(self, number: int | None) -> Job | None:
        return next((one for one in self.copies if number is None or one.copy in (None, number)), None)

    @property
    def owner(self) -> str:
        return f"{self.controller or 'an unnamed controller'} (backup server {self.backup_server or 'unnamed'})"

    def as_dict(self) -> dict[str, Any]:
        value = asdict(self)
        for name in ("controller", "backup_server"):
            value.pop(name)
        vm = {"name": value.pop("vm"), "identity": value.pop("identity"), "vmid": value.pop("vmid")}
        vm.update(vmx_path=value.pop("vmx_path"), directory=value.pop("directory"))
        owner = {"controller": self.controller, "backup_server": self.backup_server}
        return {"schema": SCHEMA, **value, "vm": vm, "owner": owner, "disks": [dict(disk) for disk in self.disks]}

    def render(self) -> str:
        """One line, so that a shell can hand it over whole."""
        return json.dumps(self.as_dict(), sort_keys=True) + "\n"


def parse_job(text: str) -> Job | None:
    """The job of a job.json; None for what is cut, of a newer schema, or not ours."""
    try:
        value = json.loads(text)
        if value["schema"] != SCHEMA:
            return None
        vm, owner = value.pop("vm"), value.pop("owner")
        value.pop("schema")
        value["disks"] = tuple(value["disks"])
        job = Job(
            vm=vm["name"],
            identity=vm["identity"],
            vmid=vm["vmid"],
            vmx_path=vm["vmx_path"],
            directory=vm["directory"],
            controller=owner["controller"],
            backup_server=owner["backup_server"],
            **value,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return job if _sound(job) else None


def _sound(job: Job) -> bool:
    """Whether each value is of its kind, and the names that things are undone by are those that only this job gives."""
    plain = {"str": str, "int": int, "bool": bool}
    values = [(getattr(job, one.name), plain[str(one.type)]) for one in fields(job) if one.type in plain]
    mappings = [*job.disks, job.policy, job.extra]
    return (
        # A bool counts as a number to isinstance, not here.
        all(isinstance(value, kind) and (kind is bool) == isinstance(value, bool) for value, kind in values)
        and all(isinstance(value, Mapping) for value in mappings)
        and _sound_copies(job)
        and names.is_job_id(job.job, job.run)
        and (job.kind != "backup" or job.snapshot_name == names.snapshot_name(job.job))
    )


def _sound_copies(job: Job) -> bool:
    """Further backup points are a backup's, each with a number of its own and what its copy is undone by."""
    also = job.extra.get(ALSO)
    if also is None:
        return True
    if job.kind != "backup" or not isinstance(also, list) or not all(isinstance(one, Mapping) for one in also):
        return False
    numbers = [job.copy, *(one.get(COPY) for one in also)]
    return (
        all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        and len(set(numbers)) == len(numbers)
        and all(isinstance(one.get("partial"), str) and isinstance(one.get("final"), str) for one in also)
        and all(isinstance(one.get("policy"), Mapping) for one in also)
    )


def mirror_path(state_dir: str, job: str) -> str:
    return os.path.join(state_dir, "jobs", f"{job}.json")


def write_mirror(state_dir: str, job: Job) -> None:
    """What the backup server remembers, for a VM whose folder can no longer be seen."""
    state.write(mirror_path(state_dir, job.job), job.as_dict())


def is_begun(state_dir: str, job: Job) -> bool:
    """Whether this backup server began the job, and it still says on its hypervisor what was written then."""
    try:
        with state.kept(state_dir), open(mirror_path(state_dir, job.job), encoding="utf-8") as file:
            mirror = parse_job(file.read())
    except FileNotFoundError:
        return False
    if mirror is not None and ALSO not in job.extra:
        # As one of several copies sees it.
        mirror = mirror.of_copy(job.copy)
    return mirror is not None and mirror.render() == job.render()


def forget(state_dir: str, job: Job) -> None:
    """Removes the mirror of a job whose file on the hypervisor says the same; of another one that is not its affair."""
    if is_begun(state_dir, job):
        remove_mirror(state_dir, job.job)


def remove_mirror(state_dir: str, job: str) -> None:
    path = mirror_path(state_dir, job)
    with contextlib.suppress(FileNotFoundError), state.kept(path):
        os.unlink(path)
        durable.sync_folder(os.path.dirname(path))


def mirrors(state_dir: str, host: str | None = None) -> list[Job]:
    """The jobs on `host`, or on all hosts, that this backup server began and has not ended."""
    folder = os.path.join(state_dir, "jobs")
    try:
        with state.kept(folder):
            names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if name.endswith(".json") and not name.startswith("."):
            try:
                with state.kept(folder), open(os.path.join(folder, name), encoding="utf-8") as file:
                    job = parse_job(file.read())
            except FileNotFoundError:
                continue
            if job is not None and host in (None, job.host):
                found.append(job)
    return found
