# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vim-cmd vmsvc/get.*: what a VM is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from esxilab.hostd.clock import iso
from esxilab.hostd.errors import InvalidPowerState, InvalidState
from esxilab.hostd.guestos import full_name
from esxilab.hostd.vmodl import NOTHING, UNSET, Arr, Null, Obj, Ref

from . import devices
from .answer import Answer
from .vimcmd import Call, Command

if TYPE_CHECKING:
    from esxilab.hostd.machine import Question, Vm
    from esxilab.hostd.vmsd import Snapshot, SnapshotDict
    from esxilab.hostd.volumes import Volume


def _dump(title: str, build: Callable[[Vm], Any]) -> Callable[[Call], Answer]:
    def run(call: Call) -> Answer:
        vm = call.host.vm(call.args[0])
        # Built before the title is printed: a VM that cannot be read is a fault and nothing else.
        dump = call.printer.text(build(vm))
        return Answer(title + dump)

    return run


def _question(question: Question | None) -> Any:
    if question is None:
        return Null("vim.vm.QuestionInfo")
    choices = [
        Obj("vim.ElementDescription", [("label", text), ("summary", text), ("key", str(number))])
        for number, text in enumerate(question.choices)
    ]
    choice = [("choiceInfo", Arr("vim.ElementDescription", choices)), ("defaultIndex", question.default)]
    return Obj(
        "vim.vm.QuestionInfo",
        [
            ("id", question.id),
            ("text", f"{question.key}:{question.text}"),
            ("choice", Obj("vim.option.ChoiceOption", [("valueIsReadonly", UNSET), *choice])),
        ],
    )


def runtime(vm: Vm) -> Obj:
    on = vm.power == "poweredOn"
    return Obj(
        "vim.vm.RuntimeInfo",
        [
            ("host", Ref("vim.HostSystem:ha-host")),
            ("connectionState", "connected" if vm.valid else "invalid"),
            ("powerState", vm.power),
            ("faultToleranceState", "notConfigured"),
            ("toolsInstallerMounted", False),
            ("suspendTime", iso(vm.suspend_time) if vm.suspend_time else UNSET),
            ("bootTime", iso(vm.boot_time) if vm.boot_time else UNSET),
            ("suspendInterval", 0),
            ("question", _question(vm.question)),
            ("memoryOverhead", 36958208 if on else UNSET),
            ("maxCpuUsage", 2600 * vm.config.cpus if on else UNSET),
            ("maxMemoryUsage", vm.config.memory_mb if on else UNSET),
            ("numMksConnections", 0),
            ("recordReplayState", "inactive"),
            ("cleanPowerOff", UNSET if on or vm.clean_power_off is None else vm.clean_power_off),
            ("needSecondaryReason", UNSET),
            ("onlineStandby", False),
            ("minRequiredEVCModeKey", UNSET),
            ("consolidationNeeded", vm.busy is None and vm.needs_consolidation()),
        ],
    )


def _tools(vm: Vm) -> list[tuple[str, Any]]:
    status = vm.tools_status
    version = {"toolsNotInstalled": "guestToolsNotInstalled"}.get(status, "guestToolsUnmanaged")
    return [
        ("toolsStatus", status),
        ("toolsVersionStatus", version),
        ("toolsRunningStatus", "guestToolsRunning" if vm.tools_running else "guestToolsNotRunning"),
    ]


def summary(vm: Vm) -> Obj:
    config, host = vm.config, vm.host
    committed, uncommitted = _space(vm)
    uptime = int((host.clock.now() - vm.boot_time).total_seconds()) if vm.boot_time else 0
    guest = [
        ("guestId", config.guest_id if vm.tools_running else UNSET),
        ("guestFullName", full_name(config.guest_id) if vm.tools_running else UNSET),
        *_tools(vm),
        ("hostName", config.name if vm.tools_running else UNSET),
        ("ipAddress", guest_address(vm) if vm.tools_running else UNSET),
    ]
    described = [
        ("name", config.name),
        ("template", False),
        ("vmPathName", host.volumes.api_path(vm.vmx_path)),
        ("memorySizeMB", config.memory_mb),
        ("cpuReservation", 0),
        ("memoryReservation", 0),
        ("numCpu", config.cpus),
        ("numEthernetCards", len(config.nics())),
        ("numVirtualDisks", len(config.disks())),
        ("uuid", config.bios_uuid),
        ("instanceUuid", config.instance_uuid),
        ("guestId", config.guest_id),
        ("guestFullName", full_name(config.guest_id)),
        ("annotation", config.annotation),
        ("product", Null("vim.vApp.ProductInfo")),
        ("installBootRequired", False),
        ("ftInfo", Null("vim.vm.FaultToleranceConfigInfo")),
    ]
    quick = [
        ("overallCpuUsage", 40 if vm.power == "poweredOn" else 0),
        ("guestMemoryUsage", 0),
        ("hostMemoryUsage", 0),
        ("guestHeartbeatStatus", "green" if vm.tools_running else "gray"),
        ("uptimeSeconds", uptime),
    ]
    storage = [
        ("committed", committed),
        ("uncommitted", uncommitted),
        ("unshared", committed),
        ("timestamp", iso(host.clock.now())),
    ]
    return Obj(
        "vim.vm.Summary",
        [
            ("vm", Ref(f"vim.VirtualMachine:{vm.vmid}")),
            ("runtime", runtime(vm)),
            ("guest", Obj("vim.vm.Summary.GuestSummary", guest)),
            ("config", Obj("vim.vm.Summary.ConfigSummary", described)),
            ("storage", Obj("vim.vm.Summary.StorageSummary", storage)),
            ("quickStats", Obj("vim.vm.Summary.QuickStats", quick)),
            ("overallStatus", "green"),
            ("customValue", NOTHING),
        ],
    )


def _space(vm: Vm) -> tuple[int, int]:
    """Bytes on the datastores, and what thin disks may still take."""
    committed = 0
    for name in os.listdir(vm.folder):
        committed += (vm.folder / name).stat().st_blocks * 512
    capacity = 0
    for disk in vm.config.disks():
        links = devices._links(vm, disk.path)
        capacity += links[0][1].capacity if links else 0
    return committed, max(0, capacity - committed)


def guest_address(vm: Vm) -> str:
    digest = vm.config.bios_uuid[-4:] or "0101"
    return f"10.20.{int(digest[:2], 16)}.{int(digest[2:], 16)}"


def config_info(vm: Vm) -> Obj:
    config, volumes = vm.config, vm.host.volumes
    folder = volumes.api_path(config.folder) + "/"
    files = [
        ("vmPathName", volumes.api_path(vm.vmx_path)),
        ("snapshotDirectory", folder),
        ("suspendDirectory", folder),
        ("logDirectory", folder),
        ("ftMetadataDirectory", UNSET),
    ]
    used = {volume.uuid: volume for volume in _volumes_of(vm)}
    urls = [
        Obj("vim.vm.ConfigInfo.DatastoreUrlPair", [("name", v.name), ("url", v.mount_point)]) for v in used.values()
    ]
    tools = [
        ("toolsVersion", config.values.number("guestinfo.vmtools.versionNumber", 0)),
        ("toolsInstallType", UNSET),
        ("afterPowerOn", True),
        ("afterResume", True),
        ("beforeGuestStandby", True),
        ("beforeGuestShutdown", True),
        ("syncTimeWithHost", False),
    ]
    flags = [("snapshotDisabled", False), ("snapshotLocked", False), ("diskUuidEnabled", False)]
    return Obj(
        "vim.vm.ConfigInfo",
        [
            ("changeVersion", iso(vm.host.clock.now())),
            ("modified", "1970-01-01T00:00:00Z"),
            ("name", config.name),
            ("guestFullName", full_name(config.guest_id)),
            ("version", f"vmx-{config.hardware:02d}"),
            ("uuid", config.bios_uuid),
            ("instanceUuid", config.instance_uuid),
            ("npivTemporaryDisabled", True),
            ("locationId", config.values.get("uuid.location")),
            ("template", False),
            ("guestId", config.guest_id),
            ("alternateGuestName", ""),
            ("annotation", config.annotation),
            ("files", Obj("vim.vm.FileInfo", files)),
            ("tools", Obj("vim.vm.ToolsConfigInfo", tools)),
            ("flags", Obj("vim.vm.FlagInfo", flags)),
            ("hardware", devices.hardware(vm)),
            ("memoryHotAddEnabled", False),
            ("cpuHotAddEnabled", False),
            ("datastoreUrl", Arr("vim.vm.ConfigInfo.DatastoreUrlPair", urls)),
            ("firmware", config.values.get("firmware") or "bios"),
            ("maxMksConnections", 40),
            ("guestAutoLockEnabled", False),
            ("changeTrackingEnabled", config.values.flag("ctkEnabled")),
            ("guestMonitoringModeInfo", Null("vim.vm.GuestMonitoringModeInfo")),
        ],
    )


def _volumes_of(vm: Vm) -> list[Volume]:
    paths = [vm.vmx_path, *(disk.path for disk in vm.config.disks())]
    found: list[Volume] = []
    for path in paths:
        volume = vm.host.volumes.volume_of(path)
        if volume is not None and volume not in found:
            found.append(volume)
    return found


def guest(vm: Vm) -> Obj:
    running = vm.tools_running
    later: list[tuple[str, Any]] = []
    if vm.host.profile.release_number >= (7, 0):
        customization = [
            ("customizationStatus", "TOOLSDEPLOYPKG_IDLE"),
            ("startTime", UNSET),
            ("endTime", UNSET),
            ("errorMsg", ""),
        ]
        later = [
            ("toolsHealthEvents", UNSET),
            ("customizationInfo", Obj("vim.vm.GuestInfo.CustomizationInfo", customization)),
        ]
    return Obj(
        "vim.vm.GuestInfo",
        [
            *_tools(vm),
            ("toolsVersion", str(vm.config.values.number("guestinfo.vmtools.versionNumber", 0))),
            ("toolsInstallType", "guestToolsTypeOpenVMTools" if vm.config.has_tools else UNSET),
            ("toolsUpdateStatus", Null("vim.vm.GuestInfo.ToolsUpdateStatus")),
            ("guestId", vm.config.guest_id if running else UNSET),
            ("guestFamily", "linuxGuest" if running else UNSET),
            ("guestFullName", full_name(vm.config.guest_id) if running else UNSET),
            ("hostName", vm.config.name if running else UNSET),
            ("ipAddress", guest_address(vm) if running else UNSET),
            ("guestState", "running" if running else "notRunning"),
            ("appHeartbeatStatus", "appStatusGray"),
            ("guestKernelCrashed", False if running else UNSET),
            ("appState", "none"),
            ("guestOperationsReady", running),
            ("interactiveGuestOperationsReady", False),
            ("guestStateChangeSupported", running),
            ("hwVersion", f"vmx-{vm.config.hardware:02d}"),
            *later,
        ],
    )


def snapshot_info(vm: Vm) -> Any:
    snapshots = vm.snapshots()
    if not snapshots.snapshots:
        return Null("vim.vm.SnapshotInfo")
    current = Ref(_moref(vm, snapshots.current)) if snapshots.current is not None else UNSET
    roots = [_tree(vm, snapshots, root) for root in snapshots.children(None)]
    return Obj(
        "vim.vm.SnapshotInfo",
        [("currentSnapshot", current), ("rootSnapshotList", Arr("vim.vm.SnapshotTree", roots))],
    )


def _moref(vm: Vm, uid: int) -> str:
    return f"vim.vm.Snapshot:{vm.vmid}-snapshot-{uid}"


def _tree(vm: Vm, snapshots: SnapshotDict, snapshot: Snapshot) -> Obj:
    children = [_tree(vm, snapshots, child) for child in snapshots.children(snapshot.uid)]
    return Obj(
        "vim.vm.SnapshotTree",
        [
            ("snapshot", Ref(_moref(vm, snapshot.uid))),
            ("vm", Ref(f"vim.VirtualMachine:{vm.vmid}")),
            ("name", snapshot.name),
            ("description", snapshot.description),
            ("id", snapshot.uid),
            ("createTime", iso(snapshot.created)),
            ("state", snapshot.state),
            ("quiesced", snapshot.quiesced),
            ("backupManifest", UNSET),
            ("childSnapshotList", Arr("vim.vm.SnapshotTree", children) if children else NOTHING),
            ("replaySupported", False),
        ],
    )


def _datastores(call: Call) -> Answer:
    """One padded value column per datastore."""
    volumes = _volumes_of(call.host.vm(call.args[0]))
    rows: dict[str, list[str]] = {
        "name": [v.name for v in volumes],
        "url": [v.mount_point for v in volumes],
        "capacity": [str(v.space()[0]) for v in volumes],
        "freeSpace": [str(v.space()[1]) for v in volumes],
        "accessible": ["true" for _ in volumes],
        "type": ["VMFS" if v.is_vmfs else "NFS" for v in volumes],
        "multipleHostAccess": ["true" if v.multiple_hosts else "false" for v in volumes],
    }
    return Answer(
        "".join(key.ljust(21) + "".join(f"{cell:<31}" for cell in cells) + "\n" for key, cells in rows.items())
    )


def _networks(vm: Vm) -> Arr:
    return Arr(
        "vim.Network.Summary",
        [
            Obj(
                "vim.Network.Summary",
                [
                    ("network", Ref(f"vim.Network:HaNetwork-{name}")),
                    ("name", name),
                    ("accessible", True),
                    ("ipPoolName", ""),
                    ("ipPoolId", UNSET),
                ],
            )
            for name in dict.fromkeys(nic.network for nic in vm.config.nics())
        ],
    )


def _disk_add(call: Call) -> Answer:
    """device.diskaddexisting vmid path bus unit"""
    vm = call.host.vm(call.args[0])
    if vm.power == "suspended":
        raise InvalidPowerState(None, vm.power)
    path = call.host.volumes.inside(call.host.volumes.from_api(call.args[1]))
    node = f"scsi{int(call.args[2])}:{int(call.args[3])}"
    if f"{node}.fileName" in vm.config.values and vm.config.values.flag(f"{node}.present"):
        raise InvalidState(f"The device slot {node} is in use.")
    with vm.operation("reconfigure"):
        vm.config.values.set(f"{node}.deviceType", "scsi-hardDisk")
        vm.config.set_disk_file(node, path)
        vm.config.values.set(f"{node}.present", "TRUE")
        vm.save_config()
    return Answer()


def _disk_remove(call: Call) -> Answer:
    """device.diskremove vmid controller unit delete-file"""
    vm = call.host.vm(call.args[0])
    if vm.power != "poweredOff":
        raise InvalidPowerState(None, vm.power)
    node = f"scsi{int(call.args[1])}:{int(call.args[2])}"
    with vm.operation("reconfigure"):
        disk = next((disk for disk in vm.live_disks() if disk.node == node), None)
        for key, _ in vm.config.values.items():
            if key.lower().startswith(f"{node}.") or key.lower().startswith(f"sched.{node}."):
                vm.config.values.drop(key)
        vm.save_config()
        if disk is not None and call.flag(3):
            call.host.engine.delete(disk.path)
    return Answer()


COMMANDS = {
    "vmsvc/get.summary": Command(1, 1, "vmid", "Get a virtual machine's summary.", _dump("Listsummary:\n", summary)),
    "vmsvc/get.runtime": Command(
        1, 1, "vmid", "Get a virtual machine's runtime information.", _dump("Retrieved runtime info\n", runtime)
    ),
    "vmsvc/get.config": Command(
        1, 1, "vmid", "Get a virtual machine's configuration.", _dump("Configuration:\n\n", config_info)
    ),
    "vmsvc/get.guest": Command(1, 1, "vmid", "Get the guest information.", _dump("Guest information:\n\n", guest)),
    "vmsvc/get.filelayoutex": Command(1, 1, "vmid", "Get the file layout.", _dump("", devices.file_layout)),
    "vmsvc/get.filelayout": Command(1, 1, "vmid", "Get the file layout.", _dump("", devices.old_file_layout)),
    "vmsvc/device.getdevices": Command(
        1, 1, "vmid", "Get the devices of a virtual machine.", _dump("Devices:\n\n", devices.hardware)
    ),
    "vmsvc/get.snapshotinfo": Command(
        1, 1, "vmid", "Get the snapshots of a virtual machine.", _dump("Get Snapshot Info:\n", snapshot_info)
    ),
    "vmsvc/get.networks": Command(1, 1, "vmid", "Get the networks.", _dump("Networks:\n\n", _networks)),
    "vmsvc/get.datastores": Command(1, 1, "vmid", "Get the datastores.", _datastores),
    "vmsvc/device.diskaddexisting": Command(
        4, 4, "vmid diskPath controllerNumber unitNumber", "Add an existing disk.", _disk_add
    ),
    "vmsvc/device.diskremove": Command(
        4, 4, "vmid controllerNumber unitNumber deleteFile", "Remove a disk.", _disk_remove
    ),
}
