# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device list of a VM as vim-cmd dumps it: controllers, disks with their chain, network cards."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from esxilab import disks
from esxilab.hostd.vmodl import NOTHING, UNSET, Arr, Null, Obj, Ref

from . import devices_fixed

if TYPE_CHECKING:
    from esxilab.hostd.machine import Vm
    from esxilab.hostd.vmconfig import Controller, DiskDevice, Nic

DEVICE = "vim.vm.device.VirtualDevice"
CONTROLLERS = {
    "lsilogic": ("VirtualLsiLogicController", "SCSI controller", "LSI Logic"),
    "lsisas1068": ("VirtualLsiLogicSASController", "SCSI controller", "LSI Logic SAS"),
    "pvscsi": ("ParaVirtualSCSIController", "SCSI controller", "VMware paravirtual SCSI"),
    "buslogic": ("VirtualBusLogicController", "SCSI controller", "BusLogic"),
    "sata": ("VirtualAHCIController", "SATA controller", "AHCI"),
    "nvme": ("VirtualNVMEController", "NVME controller", "NVME controller"),
}
NICS = {"vmxnet3": "VirtualVmxnet3", "e1000": "VirtualE1000", "e1000e": "VirtualE1000e", "vmxnet": "VirtualVmxnet"}
NO_CONNECT = ("connectable", Null(f"{DEVICE}.ConnectInfo"))


def _info(label: str, summary: str) -> tuple[str, Obj]:
    return "deviceInfo", Obj("vim.Description", [("label", label), ("summary", summary)])


def devices(vm: Vm) -> Arr:
    config = vm.config
    items: list[Obj] = [_plain_controller("VirtualIDEController", 200 + bus, f"IDE {bus}", bus) for bus in (0, 1)]
    items += devices_fixed.controllers(vm, devices_fixed.pci_members(vm))
    found = config.disks()
    items += [
        _controller(item, [disk.key for disk in found if disk.controller_key == item.key], number)
        for number, item in enumerate(config.controllers())
    ]
    items += [_disk(vm, disk, number) for number, disk in enumerate(found, 1)]
    items += devices_fixed.others(vm)
    items += [_nic(nic) for nic in config.nics()]
    return Arr(DEVICE, items)


def hardware(vm: Vm) -> Obj:
    config = vm.config
    return Obj(
        "vim.vm.VirtualHardware",
        [
            ("numCPU", config.cpus),
            ("numCoresPerSocket", config.values.number("cpuid.coresPerSocket", 1)),
            ("memoryMB", config.memory_mb),
            ("virtualICH7MPresent", False),
            ("virtualSMCPresent", False),
            ("device", devices(vm)),
        ],
    )


def _plain_controller(kind: str, key: int, label: str, bus: int) -> Obj:
    return Obj(
        f"vim.vm.device.{kind}",
        [
            ("key", key),
            _info(label, label),
            ("backing", Null(f"{DEVICE}.BackingInfo")),
            NO_CONNECT,
            ("slotInfo", Null(f"{DEVICE}.BusSlotInfo")),
            ("controllerKey", UNSET),
            ("unitNumber", UNSET),
            ("busNumber", bus),
            ("device", NOTHING),
        ],
    )


def _controller(item: Controller, members: list[int], number: int) -> Obj:
    kind, label, summary = CONTROLLERS.get(item.device, CONTROLLERS["lsilogic"])
    fields: list[tuple[str, Any]] = [
        ("key", item.key),
        _info(f"{label} {item.bus}", summary),
        ("backing", Null(f"{DEVICE}.BackingInfo")),
        NO_CONNECT,
        ("slotInfo", Obj(f"{DEVICE}.PciBusSlotInfo", [("pciSlotNumber", 160 + 32 * number)])),
        ("controllerKey", 100),
        ("unitNumber", 3 + number if item.bus_type == "scsi" else 24 + number),
        ("busNumber", item.bus),
        ("device", Arr("int", members) if members else NOTHING),
    ]
    if item.bus_type == "scsi":
        fields += [("hotAddRemove", True), ("sharedBus", item.sharing), ("scsiCtlrUnitNumber", 7)]
    return Obj(f"vim.vm.device.{kind}", fields)


def _disk(vm: Vm, disk: DiskDevice, number: int) -> Obj:
    links = _links(vm, disk.path)
    capacity = links[0][1].capacity if links else 0
    shares = Obj("vim.SharesInfo", [("shares", 1000), ("level", "normal")])
    allocation = [("limit", -1), ("shares", shares), ("reservation", 0)]
    return Obj(
        "vim.vm.device.VirtualDisk",
        [
            ("key", disk.key),
            _info(f"Hard disk {number}", f"{capacity // 1024:,} KB"),
            ("backing", _backing(vm, disk, links)),
            NO_CONNECT,
            ("slotInfo", Null(f"{DEVICE}.BusSlotInfo")),
            ("controllerKey", disk.controller_key),
            ("unitNumber", disk.unit),
            ("capacityInKB", capacity // 1024),
            ("capacityInBytes", capacity),
            ("shares", shares),
            ("storageIOAllocation", Obj("vim.StorageResourceManager.IOAllocationInfo", allocation)),
            ("diskObjectId", f"{vm.vmid}-{disk.key}"),
            ("vFlashCacheConfigInfo", Null("vim.vm.device.VirtualDisk.VFlashCacheConfigInfo")),
        ],
    )


def _links(vm: Vm, path: str) -> list[tuple[str, disks.Descriptor]]:
    """(path inside the host, descriptor) from the top link down, as far as they can be read."""
    found: list[tuple[str, disks.Descriptor]] = []
    next_path: str | None = path
    while next_path is not None and len(found) < 40:
        try:
            found.append((next_path, disks.read_descriptor(str(vm.host.outside(next_path)))))
        except disks.DiskError:
            break
        next_path = vm.host.engine.parent_of(next_path)
    return found


BACKINGS = {
    "seSparse": "SeSparseBackingInfo",
    "vmfsRawDeviceMap": "RawDiskMappingVer1BackingInfo",
    "vmfsPassthroughRawDeviceMap": "RawDiskMappingVer1BackingInfo",
}


def _backing(vm: Vm, disk: DiskDevice, links: list[tuple[str, disks.Descriptor]]) -> Any:
    flat = "vim.vm.device.VirtualDisk.FlatVer2BackingInfo"
    if not links:
        return Null(flat)
    (path, descriptor), rest = links[0], links[1:]
    kind = "vim.vm.device.VirtualDisk." + BACKINGS.get(descriptor.create_type, "FlatVer2BackingInfo")
    volume = vm.host.volumes.volume_of(path)
    head: list[tuple[str, Any]] = [
        ("fileName", vm.host.volumes.api_path(path)),
        ("datastore", Ref(volume.moref) if volume else UNSET),
        ("backingObjectId", ""),
    ]
    uuid = _uuid(links[-1][1].ddb.get("ddb.uuid", ""))
    content = descriptor.ddb.get("ddb.longContentID", "")
    if kind.endswith("RawDiskMappingVer1BackingInfo"):
        mode = "physicalMode" if "Passthrough" in descriptor.create_type else "virtualMode"
        return Obj(
            kind,
            [
                *head,
                ("lunUuid", "020000000060" + content[:28]),
                ("deviceName", "vml.0200000000" + content[:32]),
                ("compatibilityMode", mode),
                ("diskMode", disk.mode.replace("-", "_") if disk.independent else "persistent"),
                ("uuid", uuid),
                ("contentId", content),
                ("changeId", UNSET),
                ("parent", Null(kind)),
                ("sharing", "sharingNone"),
            ],
        )
    parent = _backing(vm, disk, rest) if rest else Null(kind)
    sharing = {"multi-writer": "sharingMultiWriter"}.get(disk.sharing, "sharingNone")
    mode = disk.mode.replace("-", "_") if disk.independent else "persistent"
    if kind.endswith("SeSparseBackingInfo"):
        return Obj(
            kind,
            [
                *head,
                ("diskMode", mode),
                ("writeThrough", False),
                ("uuid", uuid),
                ("contentId", content),
                ("changeId", UNSET),
                ("parent", parent),
                ("deltaDiskFormat", "seSparseFormat"),
                ("digestEnabled", False),
                ("grainSize", 8),
            ],
        )
    delta = descriptor.create_type == "vmfsSparse"
    return Obj(
        kind,
        [
            *head,
            ("diskMode", mode),
            ("split", False),
            ("writeThrough", False),
            ("thinProvisioned", descriptor.is_thin),
            ("eagerlyScrub", UNSET),
            ("uuid", uuid),
            ("contentId", content),
            ("changeId", UNSET),
            ("parent", parent),
            ("deltaDiskFormat", "redoLogFormat" if delta else UNSET),
            ("digestEnabled", False),
            ("deltaGrainSize", UNSET),
            ("deltaDiskFormatVariant", UNSET),
            ("sharing", sharing),
        ],
    )


def _uuid(spaced: str) -> str:
    digits = spaced.replace(" ", "").replace("-", "")
    upper = digits[:8].upper()
    return f"{upper}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}" if len(digits) == 32 else ""


def _nic(nic: Nic) -> Obj:
    connect = Obj(
        f"{DEVICE}.ConnectInfo",
        [
            ("migrateConnect", "unset"),
            ("startConnected", nic.connected),
            ("allowGuestControl", True),
            ("connected", nic.connected),
            ("status", "ok"),
        ],
    )
    return Obj(
        f"vim.vm.device.{NICS.get(nic.device, 'VirtualE1000')}",
        [
            ("key", nic.key),
            _info(f"Network adapter {nic.index + 1}", nic.network),
            (
                "backing",
                Obj(
                    "vim.vm.device.VirtualEthernetCard.NetworkBackingInfo",
                    [
                        ("deviceName", nic.network),
                        ("useAutoDetect", False),
                        ("network", Ref(f"vim.Network:HaNetwork-{nic.network}")),
                        ("inPassthroughMode", UNSET),
                    ],
                ),
            ),
            ("connectable", connect),
            ("slotInfo", Obj(f"{DEVICE}.PciBusSlotInfo", [("pciSlotNumber", 192 + 32 * nic.index)])),
            ("controllerKey", 100),
            ("unitNumber", 7 + nic.index),
            ("addressType", nic.mac_type),
            ("macAddress", nic.mac),
            ("wakeOnLanEnabled", True),
            ("resourceAllocation", Null("vim.vm.device.VirtualEthernetCardResourceAllocation")),
            ("externalId", UNSET),
            ("uptCompatibilityEnabled", False),
        ],
    )


def file_layout(vm: Vm) -> Obj:
    """get.filelayoutex: every file of the VM with its type and size."""
    files: list[tuple[str, str]] = []
    config = vm.config
    files.append((vm.vmx_path, "config"))
    chains: list[tuple[int, list[tuple[int, int]]]] = []

    def add(path: str, kind: str) -> int:
        for number, (known, _) in enumerate(files):
            if known == path:
                return number
        files.append((path, kind))
        return len(files) - 1

    def links(path: str) -> list[tuple[int, int]]:
        found = []
        for link, descriptor in reversed(_links(vm, path)):
            extent = vm.host.volumes.inside(descriptor.extents[0].file, os.path.dirname(link))
            found.append((add(link, "diskDescriptor"), add(extent, "diskExtent")))
        return found

    if config.values.get("nvram"):
        add(config.absolute(config.values.get("nvram")), "nvram")
    add(vm.vmx_path[: -len(".vmx")] + ".vmsd", "snapshotList")
    for disk in config.disks():
        chains.append((disk.key, links(disk.path)))
    snapshots = vm.snapshots()
    kept = []
    for snapshot in snapshots.snapshots:
        data = add(f"{config.folder}/{snapshot.filename}", "snapshotData")
        memory = -1
        if snapshot.memory:
            memory = add(f"{config.folder}/{snapshot.filename.replace('.vmsn', '.vmem')}", "snapshotMemory")
        frozen = [(config.key_of(node), links(config.absolute(name))) for node, name in snapshot.disks.items()]
        kept.append(
            Obj(
                "vim.vm.FileLayoutEx.SnapshotLayout",
                [
                    ("key", Ref(f"vim.vm.Snapshot:{vm.vmid}-snapshot-{snapshot.uid}")),
                    ("dataKey", data),
                    ("memoryKey", memory),
                    ("disk", _disk_layouts(frozen)),
                ],
            )
        )
    for name in sorted(os.listdir(vm.folder)):
        if name.startswith("vmware") and name.endswith(".log"):
            add(f"{config.folder}/{name}", "log")
        elif name.endswith(".vswp"):
            add(f"{config.folder}/{name}", "uwswap" if name.startswith("vmx-") else "swap")
        elif name.endswith(".vmss"):
            add(f"{config.folder}/{name}", "suspend")
    items = []
    for number, (path, kind) in enumerate(files):
        try:
            stat = os.stat(vm.host.outside(path))
            size = stat.st_blocks * 512 if kind == "diskExtent" else stat.st_size
            accessible = True
        except OSError:
            size, accessible = 0, False
        name = vm.host.volumes.api_path(path)
        items.append(
            Obj(
                "vim.vm.FileLayoutEx.FileInfo",
                [
                    ("key", number),
                    ("name", name),
                    ("type", kind),
                    ("size", size),
                    ("uniqueSize", size),
                    ("accessible", accessible),
                ],
            )
        )
    from esxilab.hostd.clock import iso

    return Obj(
        "vim.vm.FileLayoutEx",
        [
            ("file", Arr("vim.vm.FileLayoutEx.FileInfo", items)),
            ("disk", _disk_layouts(chains)),
            ("snapshot", Arr("vim.vm.FileLayoutEx.SnapshotLayout", kept) if kept else NOTHING),
            ("timestamp", iso(vm.host.clock.now())),
        ],
    )


def _disk_layouts(chains: list[tuple[int, list[tuple[int, int]]]]) -> Any:
    """The file keys of each disk's chain, base first."""
    unit = "vim.vm.FileLayoutEx.DiskUnit"
    layouts = [
        Obj(
            "vim.vm.FileLayoutEx.DiskLayout",
            [("key", key), ("chain", Arr(unit, [Obj(unit, [("fileKey", Arr("int", pair))]) for pair in chain]))],
        )
        for key, chain in chains
    ]
    return Arr("vim.vm.FileLayoutEx.DiskLayout", layouts) if layouts else NOTHING


def old_file_layout(vm: Vm) -> Obj:
    """get.filelayout: names only, and of the disks only the descriptors."""
    name = vm.host.volumes.api_path
    logs = sorted(item for item in os.listdir(vm.folder) if item.startswith("vmware") and item.endswith(".log"))
    layouts = [
        Obj(
            "vim.vm.FileLayout.DiskLayout",
            [
                ("key", disk.key),
                ("diskFile", Arr("string", [name(path) for path, _ in reversed(_links(vm, disk.path))])),
            ],
        )
        for disk in vm.config.disks()
    ]
    return Obj(
        "vim.vm.FileLayout",
        [
            ("configFile", Arr("string", [f"{vm.config.base_name}.vmx", f"{vm.config.base_name}.vmsd"])),
            ("logFile", Arr("string", logs) if logs else NOTHING),
            ("disk", Arr("vim.vm.FileLayout.DiskLayout", layouts) if layouts else NOTHING),
            ("swapFile", UNSET),
        ],
    )
