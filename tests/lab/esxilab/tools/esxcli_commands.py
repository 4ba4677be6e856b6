# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The esxcli commands that are simulated; any other is an unknown command."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

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
    """The system's own volumes, with sizes as seen on real hosts."""
    rows: list[Row] = []
    wanted = [("BOOTBANK1", "vfat", 4293591040, 3996778496), ("BOOTBANK2", "vfat", 4293591040, 4120444928)]
    major = int(host.profile.version.split(".")[0])
    digits = hashlib.sha256(f"boot {host.name}".encode()).hexdigest()
    if major >= 7:
        label = f"OSDATA-{digits[:8]}-{digits[8:16]}-{digits[16:20]}-{digits[20:32]}"
        wanted.insert(0, (label, "VMFSOS" if major >= 8 else "VFFS", 128580583424, 124127281152))
    else:
        wanted = [("", "vfat", 261853184, 106946560), ("", "vfat", 261853184, 261844992)]
    for number, (name, kind, size, free) in enumerate(wanted):
        part = hashlib.sha256(f"{host.name} {number}".encode()).hexdigest()
        uuid = name[7:] if name.startswith("OSDATA-") else f"{part[:8]}-{part[8:16]}-{part[16:20]}-{part[20:32]}"
        rows.append(dict(zip(FILESYSTEM, (f"/vmfs/volumes/{uuid}", name, uuid, True, kind, size, free))))
    return rows


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

    for vm in host.vms():
        if vm.power == "poweredOn" and str(vm.world_id) == options["world-id"]:
            power.stop(vm, clean=False)
            return Result(text="")
    raise CliError(f"Unable to find a virtual machine with the world ID {options['world-id']}")


def _rulesets(host: Hostd, options: dict[str, str]) -> Result:
    wanted = options.get("ruleset-id")
    rows: list[Row] = [
        {"Name": name, "Enabled": enabled} for name, enabled in host.rulesets.items() if wanted in (None, name)
    ]
    if wanted and not rows:
        raise CliError(f"Ruleset with specified ruleset id {wanted} not found.")
    return Result(rows, ("Name", "Enabled"))


def _ruleset_set(host: Hostd, options: dict[str, str]) -> Result:
    name = options["ruleset-id"]
    if name not in host.rulesets:
        raise CliError(f"Ruleset with specified ruleset id {name} not found.")
    enabled = options.get("enabled", "").lower()
    if enabled in ("true", "1", "yes", "t", "false", "0", "no", "f"):
        host.rulesets[name] = enabled in ("true", "1", "yes", "t")
    elif "enabled" in options:
        raise CliError(f"Error: Invalid value for parameter enabled: {options['enabled']}")
    return Result(text="")


RULES = ("Ruleset", "Direction", "Protocol", "Port Type", "Port Begin", "Port End")


def _ruleset_rules(host: Hostd, options: dict[str, str]) -> Result:
    known = [("sshServer", "Inbound", "TCP", "Dst", 22, 22), ("sshClient", "Outbound", "TCP", "Dst", 22, 22)]
    return Result([dict(zip(RULES, rule)) for rule in known], RULES)


ADVANCED: dict[str, tuple[int, int, int, str]] = {
    "/Security/AccountLockFailures": (
        5,
        0,
        100,
        "Maximum allowed failed login attempts before locking out a user's account.",
    ),
    "/Security/AccountUnlockTime": (
        900,
        0,
        86400,
        "Duration in seconds to lock out a user's account after exceeding the limit.",
    ),
    "/User/execInstalledOnly": (0, 0, 1, "Only execute binaries that are part of an installed VIB."),
    "/UserVars/ESXiShellTimeOut": (0, 0, 86400, "Time before automatically disabling local and remote shell access."),
    "/UserVars/ESXiShellInteractiveTimeOut": (0, 0, 86400, "Idle time before an interactive shell is logged out."),
    "/VMFS3/HardwareAcceleratedLocking": (
        1,
        0,
        1,
        "Enable hardware accelerated VMFS locking (requires compliant hardware).",
    ),
}


def _advanced(host: Hostd, options: dict[str, str]) -> Result:
    wanted = options.get("option")
    if wanted is not None and wanted not in ADVANCED:
        raise CliError(f"Unable to find option {wanted.rpartition('/')[2]}")
    rows: list[Row] = []
    for path, (value, least, most, text) in ADVANCED.items():
        if wanted not in (None, path):
            continue
        switches = {
            "/User/execInstalledOnly": int(bool(host.switches.get("exec_installed_only"))),
            "/Security/AccountLockFailures": host.switches.get("lockout_failures", value),
            "/Security/AccountUnlockTime": host.switches.get("lockout_seconds", value),
        }
        rows.append(
            {
                "Path": path,
                "Type": "integer",
                "Int Value": int(switches.get(path, value)),
                "Default Int Value": value,
                "Min Value": least,
                "Max Value": most,
                "String Value": "",
                "Default String Value": "",
                "Valid Characters": "",
                "Description": text,
            }
        )
    columns = tuple(rows[0])
    if wanted is None:
        return Result(rows, columns, headed="Path")
    return Result(rows, columns, single=True)


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


def _maintenance_get(host: Hostd, options: dict[str, str]) -> Result:
    return Result(text="Enabled\n" if host.maintenance else "Disabled\n")


def _maintenance_set(host: Hostd, options: dict[str, str]) -> Result:
    wanted = options["enable"].lower() in ("true", "1", "yes")
    if wanted == host.maintenance:
        raise CliError(f"Maintenance mode is already {'enabled' if wanted else 'disabled'}.")
    if wanted and any(vm.power == "poweredOn" for vm in host.vms()):
        raise CliError("The operation is not allowed while virtual machines are powered on.")
    host.maintenance = wanted
    return Result(text="")


def _portgroups(host: Hostd, options: dict[str, str]) -> Result:
    from .vimcmd_hostsvc import port_groups

    columns = ("Name", "Virtual Switch", "Active Clients", "VLAN ID")
    rows: list[Row] = []
    for name in port_groups(host):
        clients = sum(nic.network == name for vm in host.vms() if vm.power == "poweredOn" for nic in vm.config.nics())
        rows.append(dict(zip(columns, (name, "vSwitch0", clients, 0))))
    return Result(rows, columns)


def _network_vms(host: Hostd, options: dict[str, str]) -> Result:
    columns = ("World ID", "Name", "Num Ports", "Networks")
    rows: list[Row] = []
    for vm in host.vms():
        if vm.power == "poweredOn":
            nics = vm.config.nics()
            networks = ", ".join(nic.network for nic in nics)
            rows.append(dict(zip(columns, (vm.world_id, vm.config.name, len(nics), networks))))
    return Result(rows, columns)


def _nothing(host: Hostd, options: dict[str, str]) -> Result:
    return Result(text="")


RULESET_ID = {"-r": "ruleset-id", "--ruleset-id": "ruleset-id"}

COMMANDS = {
    "system version get": CliCommand(_version),
    "system hostname get": CliCommand(_hostname),
    "system uuid get": CliCommand(_uuid),
    "system maintenanceMode get": CliCommand(_maintenance_get),
    "system maintenanceMode set": CliCommand(
        _maintenance_set,
        {"-e": "enable", "--enable": "enable", "-t": "timeout", "--timeout": "timeout"},
        ("enable",),
    ),
    "storage filesystem list": CliCommand(_filesystems),
    "storage filesystem rescan": CliCommand(_nothing),
    "storage nfs list": CliCommand(_nfs),
    "storage vmfs extent list": CliCommand(_extents),
    "vm process list": CliCommand(_processes),
    "vm process kill": CliCommand(
        _kill,
        {"-w": "world-id", "--world-id": "world-id", "-t": "type", "--type": "type"},
        ("world-id", "type"),
    ),
    "network firewall ruleset list": CliCommand(_rulesets, RULESET_ID),
    "network firewall ruleset set": CliCommand(
        _ruleset_set,
        {**RULESET_ID, "-e": "enabled", "--enabled": "enabled", "-a": "allowed-all", "--allowed-all": "allowed-all"},
        ("ruleset-id",),
    ),
    "network firewall ruleset rule list": CliCommand(_ruleset_rules, RULESET_ID),
    "network vswitch standard portgroup list": CliCommand(_portgroups),
    "network vm list": CliCommand(_network_vms),
    "system settings advanced list": CliCommand(_advanced, {"-o": "option", "--option": "option"}),
    "system module list": CliCommand(_modules),
    "system module load": CliCommand(_module_load, {"-m": "module", "--module": "module"}, ("module",)),
    "hardware cpu global get": CliCommand(_cpu),
    "hardware memory get": CliCommand(_memory),
    "hardware platform get": CliCommand(_platform),
}
