# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers the facts that plans and undos are decided on. Everything here reads; nothing is changed."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import torn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import INPLACE, Events, Process, Situation
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RemoteStepFailed, VmUnusable
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import DiskFacts, VmFacts, Volume
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.select import Candidate, tags_of
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

_PS_LINE = re.compile(r"^\s*(\d+)\s")

_EXISTING = r"""
for path in "$@"; do
    if [ -e "$path" ]; then echo yes; else echo no; fi
done
"""

_RUNNING = r"""
for file in "$1"/*.vmx.lck "$1"/*.vswp; do
    [ -e "$file" ] && { printf '%s\n' "${file##*/}"; break; }
done
exit 0
"""


def volumes(host: Host) -> list[Volume]:
    return [Volume(store.name, store.path, store.capacity_bytes, store.free_bytes) for store in host.datastores()]


def uuids_of(vm: VirtualMachine) -> tuple[str, ...]:
    return tuple(dict.fromkeys(uuid for uuid in (vm.instance_uuid, vm.bios_uuid) if uuid))


def candidates(
    vms: Sequence[VirtualMachine],
    infos: Mapping[int, Mapping[str, Any]],
    host_tags: Mapping[str, Any],
    replicas: Collection[int] = (),
) -> list[Candidate]:
    """What choosing needs. `infos` maps vmid to the VM's esxi_vm_info entry; `replicas` have not taken over."""
    found = []
    for vm in vms:
        info = infos[vm.vmid]
        stores = {str(disk["datastore"]) for disk in info.get("disks") or () if disk.get("datastore")}
        uuids = uuids_of(vm)
        found.append(
            Candidate(
                name=vm.name,
                identity=vm.identity,
                vmid=vm.vmid,
                power_state=str(info.get("power_state") or ""),
                uuids=uuids,
                datastores=tuple(sorted(stores | {vm.datastore} - {""})),
                tags=tags_of(host_tags, vm.name, uuids),
                info=info,
                unknown=_unknown(vm, info),
                standby=vm.vmid in replicas and info.get("power_state") == "poweredOff",
            )
        )
    return found


def _unknown(vm: VirtualMachine, info: Mapping[str, Any]) -> str:
    """Why the VM cannot be judged by its facts. One that the host itself calls invalid neither runs nor has any."""
    if vm.invalid is not None or (vm.readable and info.get("power_state")):
        return ""
    return "; ".join(info.get("problems") or ()) or "the host does not tell its power state"


def vm_facts(host: Host, vm: VirtualMachine, info: Mapping[str, Any]) -> VmFacts:
    """The facts of one VM. One that cannot be read has its fault, and the others go on."""
    fault: Mapping[str, Any] | None = None
    if vm.invalid is not None or not vm.readable or not info.get("power_state"):
        reason = vm.invalid or "; ".join(info.get("problems") or ()) or "the host does not tell its power state"
        fault = VmUnusable(vm=vm.name, host=host.name, reason=reason).as_dict()
    question = info.get("question") or {}
    return VmFacts(
        name=vm.name,
        identity=vm.identity,
        uuid=vm.instance_uuid or vm.bios_uuid or "",
        vmid=vm.vmid,
        vmx_path=vm.vmx_path,
        directory=vm.directory,
        power_state=str(info.get("power_state") or "unknown"),
        disks=tuple(disk_facts(disk) for disk in info.get("disks") or ()),
        uuids=uuids_of(vm),
        question=str(question.get("text") or ""),
        passthrough=tuple(info.get("passthrough_devices") or ()),
        tools_running=bool((info.get("guest") or {}).get("tools_running")),
        consolidation_needed=bool(info.get("consolidation_needed")),
        key_provider=key_provider(info),
        fault=fault,
    )


def key_provider(info: Mapping[str, Any]) -> str:
    """Why what is copied of the VM can be used only where its key provider is; empty where it needs none."""
    reasons = [
        text for key, text in (("encrypted", "it is encrypted"), ("vtpm", "it has a virtual TPM")) if info.get(key)
    ]
    return " and ".join(reasons)


def disk_facts(disk: Mapping[str, Any]) -> DiskFacts:
    """From an entry of esxi_vm_info's `disks`."""
    sharing = str(disk.get("sharing") or "none")
    shared_bus = sharing.startswith("bus-")
    return DiskFacts(
        key=str(disk["key"]),
        label=str(disk.get("label") or ""),
        path=str(disk["path"]),
        datastore=str(disk.get("datastore") or ""),
        capacity_bytes=int(disk.get("capacity_bytes") or 0),
        allocated_bytes=int(disk.get("allocated_bytes") or 0),
        mode=str(disk.get("mode") or "persistent"),
        kind=str(disk.get("kind") or "flat"),
        sharing="none" if shared_bus else sharing,
        bus_sharing=sharing[len("bus-") :] if shared_bus else "none",
        fault=str(disk.get("problem") or ""),
        encrypted=disk.get("encrypted") is True,
    )


def find_identity(host: Host, identity: str) -> list[VirtualMachine]:
    """Registered VMs with this identity, whatever their names and ids are by now."""
    return [vm for vm in host.vms() if vm.identity == identity]


def processes(session: Session) -> tuple[Process, ...]:
    """Every process of the hypervisor with its arguments. A listing that failed is no proof that nothing runs."""
    result = session.run(["ps", "-c"])
    found = []
    for line in result.stdout.split("\n"):
        match = _PS_LINE.match(line)
        if match:
            found.append(Process(int(match.group(1)), line.rstrip()))
    if result.rc != 0 or not found:
        raise RemoteStepFailed(what="Listing the processes", rc=result.rc, stderr=result.output)
    return tuple(found)


def existing(session: Session, paths: Sequence[str]) -> tuple[str, ...]:
    if not paths:
        return ()
    result = session.script(_EXISTING, list(paths))
    answers = result.stdout.split()
    if len(answers) != len(paths):
        raise RemoteStepFailed(what=f"Looking for {', '.join(paths)}", rc=result.rc, stderr=result.output)
    return tuple(path for path, answer in zip(paths, answers) if answer == "yes")


def situation(
    host: Host, vm: VirtualMachine | None, job: Job, events: Events, asked_seconds_ago: float = 0.0
) -> Situation:
    """What is there now of all that the job may have made."""
    temps = list(dict.fromkeys(str(event["path"]) for event in events.of("temp") if event.get("path")))
    # The same folder may be written with its datastore's name or UUID; its own name, with our job id, is unique.
    partials = [one.partial for one in job.copies if one.partial]
    inside = [f"/{posixpath.basename(path)}/" for path in partials]
    wanted = partials + [path for path in temps if not any(folder in path for folder in inside)]
    there = existing(host.session, wanted)
    found: dict[str, Any] = {
        "partial_exists": job.partial in there,
        "other_partials": tuple(path for path in partials if path in there and path != job.partial),
        "temps": tuple(path for path in there if path not in partials),
        "processes": processes(host.session),
        "asked_seconds_ago": asked_seconds_ago,
        "marked_torn": job.kind == INPLACE and events.committed and _marked(host, job),
    }
    if vm is None:
        return Situation(vmid=None, **found)
    return Situation(
        vmid=vm.vmid,
        power_state=vm.power_state(),
        boot_id=vm.boot_id() or "",
        snapshots=tuple((found.id, found.name) for found in snapshots.tree(vm) if found.id is not None),
        vmx_path=vm.vmx_path,
        **found,
    )


def _marked(host: Host, job: Job) -> bool:
    mark = torn.look(host.session, [job.directory]).get(job.directory)
    return mark is not None and mark.job == job.job


def runs_elsewhere(host: Host, vm: VirtualMachine) -> str:
    """The file that says that another host runs the VM, which this one shows as off; nothing where there is none.

    A swap file is there for as long as a VM runs, and stays after a crash: it is a doubt, and no proof.
    """
    if vm.power_state() == "poweredOn":
        return ""
    said = host.session.script(_RUNNING, [vm.directory])
    if said.rc != 0:
        raise RemoteStepFailed(what=f"Looking into {vm.directory}", rc=said.rc, stderr=said.output)
    return said.stdout.strip()


def question_text(vm: VirtualMachine) -> str:
    try:
        question = vm.question()
    except StowageError:
        return ""
    return question.text if question is not None else ""


def under(path: str, folder: str) -> bool:
    return posixpath.normpath(path).startswith(folder.rstrip("/") + "/")
