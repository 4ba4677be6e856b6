# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vim-cmd hostsvc/*: the host, its datastores, maintenance mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esxilab.hostd import maintenance, mounts, settings
from esxilab.hostd.clock import iso
from esxilab.hostd.errors import InvalidArgument, InvalidName, ObjectNotFound
from esxilab.hostd.vmodl import UNSET, Arr, Null, Obj, Ref

from . import vimcmd_browse as browse
from .answer import Answer
from .vimcmd import Call, Command

if TYPE_CHECKING:
    from esxilab.hostd import Hostd
    from esxilab.hostd.volumes import Volume

CPU_MHZ = 2600
MEMORY = 137358831616


def _listsummary(call: Call) -> Answer:
    items = [_summary(volume) for volume in call.host.volumes.all]
    return Answer(call.printer.text(Arr("vim.Datastore.Summary", items)))


def _summary(volume: Volume) -> Obj:
    capacity, free = volume.space()
    return Obj(
        "vim.Datastore.Summary",
        [
            ("datastore", Ref(volume.moref)),
            ("name", volume.name),
            ("url", volume.mount_point),
            ("capacity", capacity),
            ("freeSpace", free),
            ("uncommitted", 0),
            ("accessible", True),
            ("maintenanceMode", "normal"),
            ("multipleHostAccess", volume.multiple_hosts),
            ("type", "VMFS" if volume.is_vmfs else "NFS"),
        ],
    )


def _info(call: Call) -> Answer:
    volume = call.host.volumes.by_name(call.args[0])
    if volume is None:
        raise ObjectNotFound()
    capacity, free = volume.space()
    head: list[tuple[str, Any]] = [
        ("name", volume.name),
        ("url", volume.mount_point),
        ("freeSpace", free),
        ("maxFileSize", 70368744177664),
        ("timestamp", iso(call.host.clock.now())),
    ]
    if not volume.is_vmfs:
        nas = [
            ("type", volume.type_name),
            ("name", volume.name),
            ("capacity", capacity),
            ("remoteHost", volume.remote_host),
            ("remotePath", volume.remote_share),
            ("userName", UNSET),
        ]
        return Answer(
            call.printer.text(Obj("vim.host.NasDatastoreInfo", [*head, ("nas", Obj("vim.host.NasVolume", nas))]))
        )
    major = volume.type[-1]
    extent = Obj("vim.host.ScsiDisk.Partition", [("diskName", volume.device), ("partition", 1)])
    vmfs = [
        ("type", "VMFS"),
        ("name", volume.name),
        ("capacity", capacity),
        ("blockSizeMb", 1),
        ("blockSize", 1024),
        ("unmapGranularity", 1024),
        ("unmapPriority", "low"),
        ("maxBlocks", 63963136),
        ("majorVersion", int(major)),
        ("version", "6.82" if major == "6" else "5.61"),
        ("uuid", volume.uuid),
        ("extent", Arr("vim.host.ScsiDisk.Partition", [extent])),
        ("vmfsUpgradable", False),
        ("forceMountedInfo", Null("vim.host.ForceMountedInfo")),
        ("ssd", True),
        ("local", not volume.multiple_hosts),
        ("scsiDiskType", UNSET),
    ]
    return Answer(
        call.printer.text(Obj("vim.host.VmfsDatastoreInfo", [*head, ("vmfs", Obj("vim.host.VmfsVolume", vmfs))]))
    )


def hardware_summary(host: Hostd) -> Obj:
    return Obj(
        "vim.host.Summary.HardwareSummary",
        [
            ("vendor", "Stowage Lab"),
            ("model", "Simulated server"),
            ("uuid", host.uuid),
            ("memorySize", MEMORY),
            ("cpuModel", "Simulated CPU @ 2.60GHz"),
            ("cpuMhz", CPU_MHZ),
            ("numCpuPkgs", 1),
            ("numCpuCores", 12),
            ("numCpuThreads", 24),
            ("numNics", 2),
            ("numHBAs", 2),
        ],
    )


def _runtime(host: Hostd) -> Obj:
    return Obj(
        "vim.host.RuntimeInfo",
        [
            ("connectionState", "connected"),
            ("powerState", "poweredOn"),
            ("standbyMode", "none"),
            ("inMaintenanceMode", host.maintenance),
            ("bootTime", iso(host.started)),
        ],
    )


def _runtimeinfo(call: Call) -> Answer:
    return Answer(call.printer.text(_runtime(call.host)))


def _hostsummary(call: Call) -> Answer:
    host = call.host
    profile = host.profile
    product = Obj(
        "vim.AboutInfo",
        [
            ("name", "VMware ESXi"),
            ("fullName", profile.full_name),
            ("vendor", "VMware, Inc."),
            ("version", profile.version),
            ("build", profile.build),
            ("localeVersion", "INTL"),
            ("localeBuild", "000"),
            ("osType", "vmnix-x86"),
            ("productLineId", "embeddedEsx"),
            ("apiType", "HostAgent"),
            ("apiVersion", profile.version),
        ],
    )
    config = Obj(
        "vim.host.Summary.ConfigSummary",
        [("name", host.name), ("port", 443), ("product", product), ("vmotionEnabled", False)],
    )
    quick = [("overallCpuUsage", 120), ("overallMemoryUsage", 2048), ("uptime", _uptime(host))]
    return Answer(
        call.printer.text(
            Obj(
                "vim.host.Summary",
                [
                    ("host", Ref("vim.HostSystem:ha-host")),
                    ("hardware", hardware_summary(host)),
                    ("runtime", _runtime(host)),
                    ("config", config),
                    ("quickStats", Obj("vim.host.Summary.QuickStats", quick)),
                    ("overallStatus", "green"),
                    ("rebootRequired", False),
                ],
            )
        )
    )


def _uptime(host: Hostd) -> int:
    return int((host.clock.now() - host.started).total_seconds())


def _hosthardware(call: Call) -> Answer:
    cpu = [("numCpuPackages", 1), ("numCpuCores", 12), ("numCpuThreads", 24), ("hz", CPU_MHZ * 10**6)]
    system = [("vendor", "Stowage Lab"), ("model", "Simulated server"), ("uuid", call.host.uuid)]
    return Answer(
        call.printer.text(
            Obj(
                "vim.host.HardwareInfo",
                [
                    ("systemInfo", Obj("vim.host.SystemInfo", system)),
                    ("cpuInfo", Obj("vim.host.CpuInfo", cpu)),
                    ("memorySize", MEMORY),
                ],
            )
        )
    )


def _maintenance(enter: bool) -> Any:
    """Prints its task and does not wait for it: a host enters when its last VM is off."""

    def run(call: Call) -> Answer:
        timeout = float(call.arg(0, "0") or 0) if call.arg(0, "0").isdigit() else 0.0
        task = maintenance.begin(call.host, enter, timeout)
        return Answer(f"'{task.moref}'\n")

    return run


def _networks(call: Call) -> Answer:
    """hostsvc/net/info in short: the port groups of the host."""
    names = port_groups(call.host)
    groups = [
        Obj(
            "vim.host.PortGroup",
            [
                ("key", f"key-vim.host.PortGroup-{name}"),
                ("vswitch", "key-vim.host.VirtualSwitch-vSwitch0"),
                (
                    "spec",
                    Obj(
                        "vim.host.PortGroup.Specification", [("name", name), ("vlanId", 0), ("vswitchName", "vSwitch0")]
                    ),
                ),
            ],
        )
        for name in names
    ]
    return Answer(call.printer.text(Obj("vim.host.NetworkInfo", [("portgroup", Arr("vim.host.PortGroup", groups))])))


def port_groups(host: Hostd) -> list[str]:
    return list(host.host_config.get("port_groups", ["VM Network", "Management Network"]))


def _option(host: Hostd, name: str) -> settings.Setting:
    found = settings.find(host, name)
    if found is None:
        raise InvalidName(name)
    return found


def _advopt_view(call: Call) -> Answer:
    setting = _option(call.host, call.args[0])
    fields: list[tuple[str, Any]] = [("key", setting.name), ("value", settings.value(call.host, setting))]
    items = [Obj("vim.option.OptionValue", fields)]
    return Answer(call.printer.text(Arr("vim.option.OptionValue", items)))


def _advopt_update(call: Call) -> Answer:
    """hostsvc/advopt/update name type value"""
    setting = _option(call.host, call.args[0])
    if call.args[1] not in ("int", "long") or not call.args[2].lstrip("-").isdigit():
        raise InvalidArgument("value")
    try:
        settings.put(call.host, setting, int(call.args[2]))
    except ValueError as error:
        raise InvalidArgument("value") from error
    return Answer()


def _nas_create(call: Call) -> Answer:
    """hostsvc/datastore/nas_create name type share readonly server: arguments in the order that tools give them."""
    name, kind, share, _, server = (*call.args, "", "")[:5]
    mounts.add(call.host, name, kind, server, share)
    return Answer()


def _destroy(call: Call) -> Answer:
    mounts.remove(call.host, call.args[0])
    return Answer()


def _quiet(call: Call) -> Answer:
    return Answer()


COMMANDS = {
    "hostsvc/datastore/listsummary": Command(0, 0, "", "List the summaries of all datastores.", _listsummary),
    "hostsvc/datastore/info": Command(1, 1, "datastoreName", "Information about a datastore.", _info),
    "hostsvc/datastore/refresh": Command(1, 1, "datastoreName", "Refresh a datastore.", _quiet),
    "hostsvc/hostsummary": Command(0, 0, "", "Summary of the host.", _hostsummary),
    "hostsvc/hosthardware": Command(0, 0, "", "Hardware of the host.", _hosthardware),
    "hostsvc/runtimeinfo": Command(0, 0, "", "Runtime information of the host.", _runtimeinfo),
    "hostsvc/maintenance_mode_enter": Command(0, 1, "[timeout]", "Enter maintenance mode.", _maintenance(True)),
    "hostsvc/maintenance_mode_exit": Command(0, 1, "[timeout]", "Exit maintenance mode.", _maintenance(False)),
    "hostsvc/net/info": Command(0, 0, "", "Information about the networks of the host.", _networks),
    "hostsvc/datastore/nas_create": Command(
        5, 5, "localName type remotePath readOnly remoteHost", "Mount a NAS datastore.", _nas_create
    ),
    "hostsvc/datastore/destroy": Command(1, 1, "datastoreName", "Unmount a NAS datastore.", _destroy),
    "hostsvc/datastorebrowser/search": Command(
        2, 2, "subfolders datastorePath", "Search a folder of a datastore.", browse.search
    ),
    "hostsvc/advopt/view": Command(1, 1, "name", "View an advanced option.", _advopt_view),
    "hostsvc/advopt/update": Command(3, 3, "name type value", "Change an advanced option.", _advopt_update),
    "hostsvc/enable_ssh": Command(0, 0, "", "Enable SSH.", _quiet),
    "hostsvc/start_ssh": Command(0, 0, "", "Start SSH.", _quiet),
    "internalsvc/refresh_services": Command(0, 0, "", "Refresh the services.", _quiet),
}
