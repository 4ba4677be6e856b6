# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The VMs of a topology, checked before anything is made: an error names the host, the VM and the key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from esxilab.errors import LabError

VM_KEYS = frozenset(
    {
        "name",
        "dir",
        "vmx",
        "datastore",
        "power",
        "tools",
        "disks",
        "snapshots",
        "nics",
        "annotation",
        "firmware",
        "hardware",
        "guest_os",
        "bios_uuid",
        "instance_uuid",
        "memory_mb",
        "cpus",
        "extra",
        "ignores_shutdown",
        "quiesce_fails",
        "invalid",
        "template",
        "passthrough",
        "vtpm",
        "encrypted",
        "cdrom",
    }
)
DISK_KEYS = frozenset(
    {
        "key",
        "size",
        "format",
        "fill",
        "blank",
        "datastore",
        "mode",
        "sharing",
        "bus_sharing",
        "kind",
        "controller",
        "file",
        "parent",
        "encrypted",
    }
)
CHOICES = {
    "mode": ("persistent", "independent-persistent", "independent-nonpersistent"),
    "sharing": ("none", "multi-writer"),
    "bus_sharing": ("none", "virtual", "physical"),
    "kind": ("flat", "rdm-physical", "rdm-virtual"),
    "format": ("thin", "zeroedthick", "eagerzeroedthick"),
}
POWER = ("on", "off", "suspended", "poweredOn", "poweredOff")
#: Buses with the number of controllers and of units on each (5.6); unit 7 of a SCSI bus is the controller itself.
BUSES = {"scsi": (4, 65), "sata": (4, 30), "nvme": (4, 15), "ide": (2, 2)}
NAME_LIMIT = 80
#: What is left of a file name's 255 bytes when the host has made the name of a delta's extent of it.
FILE_LIMIT = 255 - len("-000001-sesparse")
_NODE = re.compile(r"(scsi|sata|nvme|ide)(\d+):(\d+)")


def check(host: str, vms: Sequence[Mapping[str, Any]], datastores: Collection[str]) -> None:
    """`vms` have their `datastore` and `dir`; raises LabError for the first mistake."""
    folders: dict[tuple[str, str], str] = {}
    for vm in vms:
        place = f"{host}: VM {vm['name']!r}"
        _known(place, vm, VM_KEYS)
        _name(place, str(vm["name"]), str(vm["dir"]))
        folder = (str(vm["datastore"]), str(vm["dir"]))
        if folder in folders:
            raise LabError(
                f"{place}: the folder {folder[1]!r} is that of {folders[folder]!r}; give one of both a 'dir'"
            )
        if str(vm.get("power", "off")) not in POWER:
            raise LabError(f"{place}: power is {vm['power']!r}; it is one of {', '.join(POWER)}")
        if vm.get("template") and vm.get("power", "off") not in ("off", "poweredOff"):
            raise LabError(f"{place}: a template cannot run; leave 'power' out")
        _snapshots(place, vm)
        _disks(place, vm, datastores, {other for _, other in folders})
        folders[folder] = str(vm["name"])


def _known(place: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in given:
        if key not in known:
            raise LabError(f"{place}: there is no key {key!r}; there are {', '.join(sorted(known))}")


def _name(place: str, name: str, folder: str) -> None:
    if not 1 <= len(name) <= NAME_LIMIT:
        raise LabError(f"{place}: a VM's name has 1 to {NAME_LIMIT} characters, this one has {len(name)}")
    if "/" in folder or folder in ("", ".", "..") or len(folder.encode()) > 255 or "\n" in folder or "\0" in folder:
        raise LabError(f"{place}: {folder!r} cannot be a folder's name; give it a 'dir'")


def _snapshots(place: str, vm: Mapping[str, Any]) -> None:
    for number, snapshot in enumerate(vm.get("snapshots", [])):
        origin = snapshot.get("from")
        if origin is not None and (not isinstance(origin, int) or not 1 <= origin <= number):
            raise LabError(f"{place}: snapshot {number + 1} branches off from {origin!r}, which is none before it")


def _disks(place: str, vm: Mapping[str, Any], datastores: Collection[str], folders: Collection[str]) -> None:
    nodes, files = set(), set()
    for disk in vm.get("disks", []):
        node = str(disk.get("key", ""))
        where = f"{place}, disk {node!r}"
        _known(where, disk, DISK_KEYS)
        match = _NODE.fullmatch(node)
        if match is None:
            raise LabError(f"{where}: a disk's key is like scsi0:1; buses are {', '.join(BUSES)}")
        controllers, units = BUSES[match.group(1)]
        if int(match.group(2)) >= controllers or int(match.group(3)) >= units or node.endswith(":7") and "scsi" in node:
            raise LabError(f"{where}: there is no such slot")
        if node in nodes:
            raise LabError(f"{where}: the slot is used twice")
        nodes.add(node)
        for key, choices in CHOICES.items():
            if key in disk and disk[key] not in choices:
                raise LabError(f"{where}: {key} is {disk[key]!r}; it is one of {', '.join(choices)}")
        if ("size" in disk) == ("parent" in disk):
            raise LabError(f"{where}: it needs either a 'size' or a 'parent'")
        if "parent" in disk and disk["parent"].get("dir") not in folders:
            raise LabError(f"{where}: its parent's folder {disk['parent'].get('dir')!r} is that of no VM before it")
        name = disk.get("file")
        if name is None:
            continue
        store = str(disk.get("datastore", vm["datastore"]))
        if "/" in name or not name.endswith(".vmdk") or len(name.encode()) > FILE_LIMIT or "\n" in name:
            raise LabError(f"{where}: {name!r} cannot be a descriptor: a name that ends in .vmdk, without a slash")
        if (store, name) in files:
            raise LabError(f"{where}: another disk of the VM has the same file on {store!r}")
        files.add((store, name))
