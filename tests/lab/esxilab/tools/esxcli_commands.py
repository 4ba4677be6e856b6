# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The esxcli commands that are simulated; any other is an unknown command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esxilab.hostd import mounts
from esxilab.hostd.errors import VimFault

from .bootbanks import system_volumes
from .esxcli import CliCommand, CliError, Result
from .identity import fqdn

if TYPE_CHECKING:
    from esxilab.hostd import Hostd

    from .tables import Row

FULL_RELEASE = ("Product", "Version", "Build", "Update", "Patch")


def _version(host: Hostd, options: dict[str, str]) -> Result:
    profile = host.profile
    values = ("VMware ESXi", profile.version, f"Releasebuild-{profile.build}", profile.update, profile.patch)
    return Result([dict(zip(FULL_RELEASE, values))], FULL_RELEASE, single=True)


def _hostname(host: Hostd, options: dict[str, str]) -> Result:
    full = fqdn(host)
    short, _, domain = full.partition(".")
    row: Row = {"Domain Name": domain, "Fully Qualified Domain Name": full, "Host Name": short}
    return Result([row], tuple(row), single=True)


def _uuid(host: Hostd, options: dict[str, str]) -> Result:
    digits = host.uuid.replace("-", "")
    return Result(text=f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}\n")


FILESYSTEM = ("Mount Point", "Volume Name", "UUID", "Mounted", "Type", "Size", "Free")


def _boot_volumes(host: Hostd) -> list[Row]:
    return [
        dict(
            zip(
                FILESYSTEM,
                (f"/vmfs/volumes/{one.uuid}", one.label, one.uuid, True, one.kind, one.size, one.free),
            )
        )
        for one in system_volumes(host.name, host.profile)
    ]


def _filesystems(host: Hostd, options: dict[str, str]) -> Result:
    rows: list[Row] = []
    for volume in host.volumes.all:
        size, free = volume.space()
        values = (volume.mount_point, volume.name, volume.uuid, True, volume.type_name, size, free)
        rows.append(dict(zip(FILESYSTEM, values)))
    return Result(rows + _boot_volumes(host), FILESYSTEM)


NFS = ("Volume Name", "Host", "Share", "Accessible", "Mounted", "Read-Only", "isPE", "Hardware Acceleration")


def _nfs(host: Hostd, options: dict[str, str]) -> Result:
    rows: list[Row] = [
        dict(zip(NFS, (v.name, v.remote_host, v.remote_share, True, True, False, False, "Not Supported")))
        for v in host.volumes.all
        if not v.is_vmfs
    ]
    return Result(rows, NFS)


def _nfs_add(host: Hostd, options: dict[str, str]) -> Result:
    try:
        mounts.add(host, options["volume-name"], "nfs", options["host"], options["share"])
    except VimFault as fault:
        raise CliError(fault.msg) from fault
    return Result(text="")


def _nfs_remove(host: Hostd, options: dict[str, str]) -> Result:
    try:
        mounts.remove(host, options["volume-name"])
    except VimFault as fault:
        raise CliError(fault.msg) from fault
    return Result(text="")


EXTENTS = ("Volume Name", "VMFS UUID", "Extent Number", "Device Name", "Partition")


def _extents(host: Hostd, options: dict[str, str]) -> Result:
    rows: list[Row] = [
        dict(zip(EXTENTS, (volume.name, volume.uuid, 0, volume.device, 1)))
        for volume in host.volumes.all
        if volume.is_vmfs
    ]
    return Result(rows, EXTENTS)


PROCESS = ("World ID", "Process ID", "VMX Cartel ID", "UUID", "Display Name", "Config File")


def _processes(host: Hostd, options: dict[str, str]) -> Result:
    rows: list[Row] = []
    for vm in host.vms():
        if vm.power != "poweredOn":
            continue
        uuid = vm.config.values.get("uuid.bios")
        rows.append(dict(zip(PROCESS, (vm.world_id, 0, vm.world_id - 1, uuid, vm.config.name, vm.vmx_path))))
    return Result(rows, PROCESS, headed="Display Name")


def _kill(host: Hostd, options: dict[str, str]) -> Result:
    from esxilab.hostd import power

    if options["type"] not in ("soft", "hard", "force"):
        raise CliError(f"Error: Invalid value for parameter type: {options['type']}")
    for vm in host.vms():
        if vm.power == "poweredOn" and str(vm.world_id) == options["world-id"]:
            power.stop(vm, clean=False)
            return Result(text="")
    raise CliError(f"Unable to find a virtual machine with the world ID {options['world-id']}")


MODULES = ("vmkernel", "procfs", "vmkapi_v2_6_0_0_vmkernel_shim", "vmfs3", "nfsclient", "nfs41client", "vmw_satp_local")


def is_loaded(host: Hostd, name: str) -> bool:
    built_in = name == "multiextent" and not host.profile.multiextent_module
    return name in MODULES or name in host.modules_loaded or built_in


def _modules(host: Hostd, options: dict[str, str]) -> Result:
    rows: list[Row] = [{"Name": name, "Is Loaded": True, "Is Enabled": True} for name in MODULES]
    loaded = "multiextent" in host.modules_loaded or not host.profile.multiextent_module
    if loaded:
        rows.append({"Name": "multiextent", "Is Loaded": True, "Is Enabled": True})
    return Result(rows, ("Name", "Is Loaded", "Is Enabled"))


def _module_load(host: Hostd, options: dict[str, str]) -> Result:
    name = options["module"]
    if is_loaded(host, name):
        raise CliError(f"Unable to load module /usr/lib/vmware/vmkmod/{name}: Busy")
    if name != "multiextent":
        raise CliError(f"Unable to load module {name}: Not found")
    host.modules_loaded.add(name)
    return Result(text="")


def _cpu(host: Hostd, options: dict[str, str]) -> Result:
    row: Row = {
        "CPU Packages": 1,
        "CPU Cores": 12,
        "CPU Threads": 24,
        "Hyperthreading Active": True,
        "Hyperthreading Supported": True,
        "Hyperthreading Enabled": True,
        "HV Support": 3,
    }
    return Result([row], tuple(row), single=True)


def _memory(host: Hostd, options: dict[str, str]) -> Result:
    row: Row = {"Physical Memory": "137358831616 Bytes", "Reliable Memory": "0 Bytes", "NUMA Node Count": 1}
    return Result([row], tuple(row), single=True)


def _platform(host: Hostd, options: dict[str, str]) -> Result:
    row: Row = {
        "UUID": "0x" + " 0x".join(host.uuid.replace("-", "")[i : i + 2] for i in range(0, 32, 2)),
        "Product Name": "Simulated server",
        "Vendor Name": "Stowage Lab",
        "Serial Number": host.name,
        "Enclosure Serial Number": host.name,
        "BIOS Asset Tag": "",
        "IPMI Supported": False,
    }
    return Result([row], tuple(row), single=True)


def _nothing(host: Hostd, options: dict[str, str]) -> Result:
    return Result(text="")


COMMANDS = {
    "system version get": CliCommand(_version),
    "system hostname get": CliCommand(_hostname),
    "system uuid get": CliCommand(_uuid),
    "storage filesystem list": CliCommand(_filesystems),
    "storage filesystem rescan": CliCommand(_nothing),
    "storage nfs list": CliCommand(_nfs),
    "storage nfs add": CliCommand(
        _nfs_add,
        {
            "-H": "host",
            "--host": "host",
            "-s": "share",
            "--share": "share",
            "-v": "volume-name",
            "--volume-name": "volume-name",
        },
        ("host", "share", "volume-name"),
    ),
    "storage nfs remove": CliCommand(
        _nfs_remove, {"-v": "volume-name", "--volume-name": "volume-name"}, ("volume-name",)
    ),
    "storage vmfs extent list": CliCommand(_extents),
    "vm process list": CliCommand(_processes),
    "vm process kill": CliCommand(
        _kill,
        {"-w": "world-id", "--world-id": "world-id", "-t": "type", "--type": "type"},
        ("world-id", "type"),
    ),
    "system module list": CliCommand(_modules),
    "system module load": CliCommand(_module_load, {"-m": "module", "--module": "module"}, ("module",)),
    "hardware cpu global get": CliCommand(_cpu),
    "hardware memory get": CliCommand(_memory),
    "hardware platform get": CliCommand(_platform),
}
