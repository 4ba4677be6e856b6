# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making the VMs of a topology: their disks, .vmx and snapshots, registered and in the asked power state."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esxilab import disks, images
from esxilab.topology import parse_size
from esxilab.zoo import KEY_SAFE

from . import power, snapshots
from .dictfile import DictFile
from .vmconfig import location_uuid, spaced

if TYPE_CHECKING:
    from .machine import Vm
    from .server import Hostd

#: By release: the highest hardware version is too new for a VM that moves between the lab's hosts.
HARDWARE = {"6.0": 11, "6.7": 14, "7.0": 14, "8.0": 14, "9.0": 14}
TOOLS_VERSION = "12352"
PASSTHROUGH = {
    "deviceId": "0x1234",
    "vendorId": "0x10de",
    "systemId": "BYPASS",
    "id": "00000:003:00.0",
    "present": "TRUE",
}


def provision(host: Hostd, host_config: Mapping[str, Any]) -> list[str]:
    """Create what is missing of `host_config["vms"]`; returns the vmids of the new VMs."""
    made = []
    for spec in host_config.get("vms", []):
        ending = "vmtx" if spec.get("template") else "vmx"
        vmx = f"{_folder(host, spec)}/{spec.get('vmx', spec['dir'])}.{ending}"
        if host.inventory.holder(vmx) is None:
            made.append(_make_vm(host, spec, vmx))
    for store in host_config.get("datastores", []):
        if store.get("lost"):
            _lose(host, str(store["name"]))
    return made


def _lose(host: Hostd, name: str) -> None:
    """The device under a datastore is gone, with everything on it."""
    volume = host.volumes.by_name(name)
    if volume is None:
        return
    for entry in list(volume.path.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    host.volumes.all.remove(volume)
    (host.root / "vmfs/volumes" / name).unlink(missing_ok=True)
    for vm in host.vms():
        vm.reload()


def _folder(host: Hostd, spec: Mapping[str, Any]) -> str:
    volume = host.volumes.by_name(str(spec["datastore"]))
    if volume is None:
        raise ValueError(
            f"{host.name}: VM {spec['name']!r} is on datastore {spec['datastore']!r}, which the host lacks"
        )
    return f"{volume.mount_point}/{spec['dir']}"


def _stable(host: Hostd, spec: Mapping[str, Any], what: str) -> str:
    return hashlib.sha256("\0".join((host.name, str(spec["dir"]), what)).encode()).hexdigest()


def _make_vm(host: Hostd, spec: Mapping[str, Any], vmx: str) -> str:
    folder = host.outside(os.path.dirname(vmx))
    folder.mkdir(parents=True, exist_ok=True)
    values = _vmx(host, spec, vmx)
    for number, disk in enumerate(spec.get("disks", [])):
        _make_disk(host, spec, disk, number, values, vmx)
    values.save(host.outside(vmx), 0o755)
    vmsd = host.outside(vmx).with_suffix(".vmsd")
    vmsd.touch(0o644)
    habits = {
        fault
        for key, fault in (("ignores_shutdown", "guest_ignores_shutdown"), ("quiesce_fails", "quiesce_fails"))
        if spec.get(key)
    }
    vmid = host.register(vmx)
    vm = host.vm(vmid)
    host.set_habits(vm.config.bios_uuid, habits)
    branched = any("from" in wanted for wanted in spec.get("snapshots", []))
    if branched:
        _take_snapshots(vm, spec)
    if spec.get("vtpm") or spec.get("encrypted"):
        # What the firmware keeps is ciphertext, as all of the VM's home files.
        (vm.folder / f"{vm.config.base_name}.nvram").write_bytes(random.Random(vmx).randbytes(270840))
    state = {"on": "poweredOn", "off": "poweredOff"}.get(str(spec.get("power", "off")), str(spec.get("power", "off")))
    if state in ("poweredOn", "suspended"):
        with vm.operation("powerOn"):
            power.power_on(vm)
    if not branched:
        _take_snapshots(vm, spec)
    if state == "suspended":
        with vm.operation("suspend"):
            power.suspend(vm)
    if spec.get("invalid"):
        vm.vmx_file.unlink()
        vm.reload()
    return vmid


def _take_snapshots(vm: Vm, spec: Mapping[str, Any]) -> None:
    """In their order; `from` goes back to an earlier one (by its number from 1) first, so that branches come to be."""
    for wanted in spec.get("snapshots", []):
        if "from" in wanted:
            with vm.operation("revertToSnapshot"):
                snapshots.revert(vm, snapshots.find(vm, str(wanted["from"])))
        with vm.operation("createSnapshot"):
            snapshots.create(
                vm,
                str(wanted["name"]),
                str(wanted.get("description", "")),
                bool(wanted.get("memory")),
                bool(wanted.get("quiesce")),
            )


def _vmx(host: Hostd, spec: Mapping[str, Any], vmx: str) -> DictFile:
    """The file as the host's own client writes it for a new VM."""
    base = os.path.splitext(os.path.basename(vmx))[0]
    bios = str(spec.get("bios_uuid") or "564d" + _stable(host, spec, "bios")[:28])
    hardware = int(spec.get("hardware") or HARDWARE[host.profile.name])
    values = DictFile()
    for key, value in (
        (".encoding", "UTF-8"),
        ("config.version", "8"),
        ("virtualHW.version", hardware),
        ("nvram", f"{base}.nvram"),
        ("floppy0.present", "FALSE"),
        ("svga.present", "TRUE"),
        ("svga.autodetect", "TRUE"),
        ("displayName", spec["name"]),
        ("guestOS", spec.get("guest_os", "debian10-64")),
        ("toolScripts.afterPowerOn", "TRUE"),
        ("toolScripts.beforePowerOff", "TRUE"),
        ("tools.syncTime", "FALSE"),
        ("uuid.bios", spaced(bios)),
        ("uuid.location", location_uuid(vmx)),
    ):
        values.set(key, value)
    if spec.get("instance_uuid", True):
        given = spec.get("instance_uuid")
        values.set("vc.uuid", spaced(given if isinstance(given, str) else "52" + _stable(host, spec, "instance")[:30]))
    values.set("memSize", int(spec.get("memory_mb", 256)))
    values.set("numvcpus", int(spec.get("cpus", 1)))
    values.set("sched.cpu.units", "mhz")
    values.set("vm.createDate", "1600000000000000")
    if spec.get("firmware"):
        values.set("firmware", spec["firmware"])
    if spec.get("annotation"):
        values.set("annotation", spec["annotation"])
    if str(spec.get("tools", "running")) not in ("none", "notInstalled", "False"):
        values.set("guestinfo.vmtools.versionNumber", TOOLS_VERSION)
        values.set("guestinfo.vmtools.description", "open-vm-tools 12.3.5 build 22544099")
    nics = spec.get("nics", [{"network": "VM Network"}])
    for number, nic in enumerate(nics):
        nic = {"network": nic} if isinstance(nic, str) else nic
        slot = f"ethernet{number}"
        values.set(f"{slot}.virtualDev", nic.get("device", "vmxnet3"))
        values.set(f"{slot}.networkName", nic.get("network", "VM Network"))
        if nic.get("mac"):
            values.set(f"{slot}.addressType", "static")
            values.set(f"{slot}.address", nic["mac"])
        else:
            tail = bios[-6:]
            last = f"{(int(tail[4:], 16) + 10 * number) % 256:02x}"
            values.set(f"{slot}.addressType", "generated")
            values.set(f"{slot}.generatedAddress", f"00:0c:29:{tail[:2]}:{tail[2:4]}:{last}")
        values.set(f"{slot}.present", "TRUE")
    for key, value in {**_special(spec), **dict(spec.get("extra", {}))}.items():
        values.set(str(key), value)
    return values


def _special(spec: Mapping[str, Any]) -> dict[str, str]:
    """The keys of devices and features that few VMs have."""
    found: dict[str, str] = {}
    if spec.get("passthrough"):
        found.update({f"pciPassthru0.{key}": value for key, value in PASSTHROUGH.items()})
    if spec.get("vtpm"):
        found["vtpm.present"] = "TRUE"
    if spec.get("vtpm") or spec.get("encrypted"):
        found["encryption.keySafe"] = KEY_SAFE
        found["encryption.data"] = base64.b64encode(random.Random(str(spec["dir"])).randbytes(180)).decode("ascii")
    if spec.get("cdrom"):
        cd = {"deviceType": "cdrom-image", "fileName": str(spec["cdrom"]), "startConnected": "TRUE", "present": "TRUE"}
        found.update({f"ide1:1.{key}": value for key, value in cd.items()})
    return found


def _make_disk(
    host: Hostd, spec: Mapping[str, Any], disk: Mapping[str, Any], number: int, values: DictFile, vmx: str
) -> None:
    node = str(disk["key"])
    controller, _, _ = node.partition(":")
    if controller[:3] != "ide" and f"{controller}.present" not in values:
        if controller.startswith("scsi"):
            values.set(f"{controller}.virtualDev", disk.get("controller", "pvscsi" if number else "lsilogic"))
        if disk.get("bus_sharing"):
            values.set(f"{controller}.sharedBus", disk["bus_sharing"])
        values.set(f"{controller}.present", "TRUE")
    own = os.path.dirname(vmx)
    base = os.path.splitext(os.path.basename(vmx))[0]
    folder = own
    if disk.get("datastore") and disk["datastore"] != spec["datastore"]:
        folder = _folder(host, {**spec, "datastore": disk["datastore"]})
        host.outside(folder).mkdir(parents=True, exist_ok=True)
    path = str(disk.get("file") or f"{base}{f'_{number}' if number else ''}.vmdk")
    full = f"{folder}/{path}"
    if disk.get("parent"):
        parent = f"{_folder(host, {**spec, 'dir': disk['parent']['dir']})}/{disk['parent']['file']}"
        host.engine.create_delta(None, parent, full)
    else:
        _fill_disk(host, spec, disk, full)
    values.set(f"{node}.deviceType", "scsi-hardDisk" if controller.startswith("scsi") else "disk")
    values.set(f"{node}.fileName", path if folder == own else full)
    values.set(f"sched.{node}.shares", "normal")
    values.set(f"sched.{node}.throughputCap", "off")
    if disk.get("mode") and disk["mode"] != "persistent":
        values.set(f"{node}.mode", disk["mode"])
    if disk.get("sharing"):
        values.set(f"{node}.sharing", disk["sharing"])
    values.set(f"{node}.present", "TRUE")


def _fill_disk(host: Hostd, spec: Mapping[str, Any], disk: Mapping[str, Any], full: str) -> None:
    size = parse_size(disk["size"])
    volume = host.volumes.volume_of(full)
    where = str(host.outside(full))
    kind = str(disk.get("kind", "flat"))
    if kind.startswith("rdm"):
        made = disks.create_rdm(where, size, physical="physical" in kind, release=host.profile.version)
        with open(made.beside(made.extents[0].file), "r+b") as device:
            device.write(random.Random(full).randbytes(min(size // 4, 1 << 20)))
        return
    options: dict[str, Any] = {
        "adapter": "ide" if str(disk["key"]).startswith("ide") else "lsilogic",
        "hw": str(spec.get("hardware") or HARDWARE[host.profile.name]),
        "release": host.profile.version,
        "preallocate": volume is None or volume.is_vmfs,
    }
    fmt = str(disk.get("format", "thin"))
    if disk.get("blank") or size < images.MIN_SIZE:
        made = disks.create_disk(where, size, fmt, **options)
        if disk.get("encrypted"):
            # Random bytes stand for the ciphertext; the descriptor says who can read them.
            made.ddb["ddb.iofilters"] = "vmwarevmcrypt"
            made.write()
        data = random.Random(full).randbytes(min(size // 4, 1 << 20))
        with disks.open_chain(made.path, writable=True) as handle:
            if not disk.get("blank"):
                handle.write(0, data[: len(data) // 512 * 512])
        return
    seed = f"{host.name}/{spec['dir']}/{disk['key']}"
    tools = None if str(spec.get("tools", "running")) == "none" else TOOLS_VERSION
    extra: dict[str, Any] = {"grows": bool(host.switches["disks_grow"])}
    if disk.get("fill"):
        extra["fill"] = parse_size(disk["fill"])
    images.make_guest_disk(
        where, size, seed, fmt, tools_version=tools, cache=os.environ.get("ESXILAB_CACHE"), **extra, **options
    )
