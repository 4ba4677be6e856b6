# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host and its VMs as plain data: what esxi_vm_info returns and what selection queries work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power_state, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.disks import Disk, DiskReader, read_disks
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.options import describe_tree
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_message import Question
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import SnapshotTree
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_vmodl import Dump, VmodlError, parse_dump

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine

# First key of the controllers of a bus, and how many of them there can be.
_CONTROLLERS = {"ide": (200, 2), "scsi": (1000, 4), "sata": (15000, 4), "nvme": (31000, 4)}
_COMMANDS = 4


def describe_host(host: Host) -> dict[str, Any]:
    host.load()
    return {
        "name": host.name,
        "version": host.version.text,
        "build": host.version.build,
        "hardware_version_max": host.hardware_version_max,
        "datastores": [store.as_dict() for store in host.datastores(fresh=False)],
        "networks": list(host.networks(fresh=False)),
    }


def describe_vms(host: Host, vms: Sequence[VirtualMachine]) -> list[dict[str, Any]]:
    """All that is known of these VMs, in few commands for any number of them.

    A VM that cannot be read in part is still listed: `problems` says what is missing and why.
    """
    readable = [vm for vm in vms if vm.readable and vm.invalid is None]
    asked: list[list[str]] = []
    for vm in readable:
        vmid = str(vm.vmid)
        asked += [["vim-cmd", "vmsvc/get.summary", vmid], ["vim-cmd", "vmsvc/device.getdevices", vmid]]
        asked += snapshots.commands(vm)
    replies = host.ask_many(asked)
    by_vm = {vm.vmid: replies[n * _COMMANDS : (n + 1) * _COMMANDS] for n, vm in enumerate(readable)}
    problems: dict[int, list[str]] = {vm.vmid: [] for vm in vms}
    summaries: dict[int, Dump] = {}
    labels: dict[tuple[int, str], str] = {}
    for vm in readable:
        summaries[vm.vmid] = _dump(by_vm[vm.vmid][0], problems[vm.vmid])
        for key, label in device_labels(_dump(by_vm[vm.vmid][1], problems[vm.vmid])).items():
            labels[vm.vmid, key] = label
    asking = [vm for vm in readable if isinstance(summaries[vm.vmid].get("runtime.question"), Dump)]
    messages = host.ask_many([["vim-cmd", "vmsvc/message", str(vm.vmid)] for vm in asking])
    questions = {vm.vmid: power_state.parse_question(reply) for vm, reply in zip(asking, messages)}
    disks = read_disks(host, readable, DiskReader(host), labels)
    described = []
    for vm in vms:
        if vm.vmid not in by_vm:
            reason = vm.invalid or "its .vmx file cannot be read"
            described.append(_vm(vm, Dump(""), (), SnapshotTree(), None, [*problems[vm.vmid], reason]))
            continue
        tree = SnapshotTree()
        try:
            tree = snapshots.reading_of(vm, by_vm[vm.vmid][2], by_vm[vm.vmid][3]).tree
        except StowageError as error:
            problems[vm.vmid].append(error.message)
        problems[vm.vmid] += [f"{disk.key}: {disk.problem}" for disk in disks[vm.vmid] if disk.problem]
        described.append(_vm(vm, summaries[vm.vmid], disks[vm.vmid], tree, questions.get(vm.vmid), problems[vm.vmid]))
    return described


def device_labels(devices: Dump) -> dict[str, str]:
    """Device key -> the host's label, from device.getdevices."""
    found: dict[str, str] = {}
    for device in devices.items("device"):
        if not isinstance(device, Dump) or device.name != "VirtualDisk":
            continue
        controller, unit = device.get("controllerKey"), device.get("unitNumber")
        for bus, (first, count) in _CONTROLLERS.items():
            if isinstance(controller, int) and isinstance(unit, int) and first <= controller < first + count:
                found[f"{bus}{controller - first}:{unit}"] = device.text("deviceInfo.label")
    return found


def _dump(reply: Reply, problems: list[str]) -> Dump:
    try:
        value = parse_dump(reply.stdout) if reply.rc == 0 else None
    except VmodlError as error:
        problems.append(f"`{' '.join(reply.argv)}`: {error}")
        return Dump("")
    if not isinstance(value, Dump):
        problems.append(f"`{' '.join(reply.argv)}`: {' '.join(reply.text.split())[:300] or 'no answer'}")
        return Dump("")
    return value


def _vm(
    vm: VirtualMachine,
    summary: Dump,
    disks: Sequence[Disk],
    tree: SnapshotTree,
    question: Question | None,
    problems: Sequence[str],
) -> dict[str, Any]:
    vmx = vm.vmx if vm.readable else None
    return {
        "name": vm.name,
        "vmid": vm.vmid,
        "identity": vm.identity,
        "instance_uuid": vm.instance_uuid,
        "bios_uuid": vm.bios_uuid,
        "vmx_path": vm.vmx_path,
        "directory": vm.directory,
        "datastore": vm.datastore,
        "power_state": summary.get("runtime.powerState"),
        "guest": {
            "id": summary.text("config.guestId") or vm.guest_id or None,
            "tools_status": summary.text("guest.toolsStatus") or None,
            "tools_running": power_state.tools_running(summary),
            "hostname": summary.text("guest.hostName") or None,
            "ip": summary.text("guest.ipAddress") or None,
        },
        "hardware_version": vmx.hardware_version if vmx else None,
        "firmware": vmx.firmware if vmx else None,
        "nics": [
            {"key": f"ethernet{n.index}", "network": n.network, "mac": n.mac, "type": n.type, "connected": n.connected}
            for n in (vmx.nics() if vmx else ())
        ],
        "disks": [describe_disk(disk) for disk in disks],
        "snapshots": describe_tree(tree),
        "annotation": vmx.get("annotation", "") if vmx else "",
        "replica": vmx.replica_state if vmx else "",
        "template": vm.vmx_path.endswith(".vmtx") or summary.get("config.template") is True,
        "question": describe_question(question),
        "consolidation_needed": summary.get("runtime.consolidationNeeded") is True,
        "passthrough_devices": list(vmx.passthrough()) if vmx else [],
        "vtpm": vmx.vtpm if vmx else False,
        "encrypted": vmx.encrypted if vmx else False,
        "problems": list(problems),
    }


def describe_disk(disk: Disk) -> dict[str, Any]:
    return {
        "key": disk.key,
        "label": disk.label,
        "file": disk.file,
        "path": disk.path,
        "datastore": disk.datastore,
        "capacity_bytes": disk.capacity_bytes,
        "allocated_bytes": disk.allocated_bytes,
        "mode": disk.mode,
        "kind": disk.kind,
        "sharing": disk.sharing,
        "thin": disk.thin,
        "encrypted": disk.chain.encrypted if disk.chain else False,
        "chain": list(disk.chain.paths) if disk.chain else [],
        "problem": disk.problem,
    }


def describe_question(question: Question | None) -> dict[str, Any] | None:
    if question is None:
        return None
    return {
        "id": question.id,
        "text": question.text,
        "choices": [{"number": number, "label": label} for number, label in question.choices],
        "default": question.default,
    }
