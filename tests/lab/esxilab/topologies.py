# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built-in topologies: the demo, the tests' hosts with one VM per failure case, one host per release, fleets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from esxilab.zoo import zoo

Description = dict[str, Any]
RELEASES = ("6.0", "6.7", "7.0", "8.0", "9.0")


def disk(key: str, size: str, **more: Any) -> dict[str, Any]:
    """One disk of a VM; a few MiB of data in it whatever its size."""
    return {"key": key, "size": size, "format": "thin", **more}


def demo() -> Description:
    """Two hypervisors of different releases, one backup server, five VMs with what makes VMs differ."""
    backup = {"name": "backup", "type": "nfs", "size": "2G", "server": "bk1"}
    return {
        "hosts": [
            {
                "name": "esx-a",
                "profile": "7.0",
                "login": "password",
                "switches": {"guest_kib_per_second": 512},
                "datastores": [{"name": "datastore1", "type": "vmfs6", "size": "1G"}, backup],
                "vms": [
                    {
                        "name": "web01",
                        "power": "on",
                        "tools": "running",
                        "disks": [disk("scsi0:0", "256M"), disk("scsi0:1", "128M")],
                    },
                    {
                        "name": "File Server (old)",
                        "power": "on",
                        "tools": "running",
                        "disks": [disk("scsi0:0", "128M", format="zeroedthick")],
                    },
                    {"name": "template-deb12", "power": "off", "disks": [disk("scsi0:0", "64M")]},
                ],
            },
            {
                "name": "esx-b",
                "profile": "8.0",
                "login": "password",
                "switches": {"guest_kib_per_second": 512},
                "datastores": [
                    {"name": "ssd 1", "type": "vmfs6", "size": "1G"},
                    {"name": "legacy", "type": "vmfs5", "size": "1G"},
                    backup,
                ],
                "vms": [
                    {
                        "name": "db01",
                        "datastore": "ssd 1",
                        "power": "on",
                        "tools": "running",
                        "disks": [
                            disk("scsi0:0", "128M"),
                            disk("scsi0:1", "512M"),
                            disk("scsi1:0", "64M", datastore="legacy"),
                        ],
                    },
                    {
                        "name": "app 02",
                        "datastore": "legacy",
                        "power": "on",
                        "tools": "running",
                        "disks": [disk("scsi0:0", "128M")],
                        "snapshots": [{"name": "before upgrade", "description": "an admin's own snapshot"}],
                    },
                ],
            },
        ],
        "backup_servers": [{"name": "bk1"}],
    }


def test() -> Description:
    """One host of each release and a small VM for every case that the tests ask for."""
    backup = {"name": "backup", "type": "nfs", "size": "1G", "server": "bk1"}
    return {
        "hosts": [
            {
                "name": "esx67",
                "profile": "6.7",
                "datastores": [{"name": "datastore1", "type": "vmfs5", "size": "512M"}, backup],
                "vms": [
                    {"name": "plain67", "power": "on", "tools": "running", "disks": [disk("scsi0:0", "64M")]},
                    {"name": "off67", "power": "off", "disks": [disk("scsi0:0", "64M")]},
                ],
            },
            {
                "name": "esx70",
                "profile": "7.0",
                "datastores": [
                    {"name": "datastore1", "type": "vmfs6", "size": "1G"},
                    {"name": "small", "type": "vmfs6", "size": "48M"},
                    {"name": "shared", "type": "vmfs6", "size": "256M", "shared_id": "lun7"},
                    backup,
                ],
                "vms": [
                    {
                        "name": "multi",
                        "power": "on",
                        "tools": "running",
                        "disks": [disk("scsi0:0", "96M"), disk("scsi0:1", "64M"), disk("scsi1:0", "64M")],
                    },
                    {
                        "name": "snapped",
                        "power": "on",
                        "tools": "running",
                        "disks": [disk("scsi0:0", "64M")],
                        "snapshots": [{"name": "users own", "description": "keep me"}],
                    },
                    {"name": "two words", "power": "off", "disks": [disk("scsi0:0", "64M")]},
                    {
                        "name": "big",
                        "power": "on",
                        "tools": "running",
                        "disks": [disk("scsi0:0", "256M", fill="96M")],
                    },
                    {"name": "notools", "power": "on", "tools": "none", "disks": [disk("scsi0:0", "64M")]},
                    {
                        "name": "deaf",
                        "power": "on",
                        "tools": "running",
                        "ignores_shutdown": True,
                        "disks": [disk("scsi0:0", "64M")],
                    },
                    {
                        "name": "noquiesce",
                        "power": "on",
                        "tools": "running",
                        "quiesce_fails": True,
                        "disks": [disk("scsi0:0", "64M")],
                    },
                ],
            },
            {
                "name": "esx80",
                "profile": "8.0",
                "datastores": [
                    {"name": "datastore1", "type": "vmfs6", "size": "1G"},
                    {"name": "shared", "type": "vmfs6", "size": "256M", "shared_id": "lun7"},
                    backup,
                ],
                "vms": [
                    {"name": "plain80", "power": "on", "tools": "running", "disks": [disk("scsi0:0", "64M")]},
                    {
                        "name": "independent",
                        "power": "on",
                        "tools": "running",
                        "disks": [disk("scsi0:0", "64M"), disk("scsi0:1", "64M", mode="independent-persistent")],
                    },
                    {"name": "twin", "dir": "twin-a", "power": "off", "disks": [disk("scsi0:0", "64M")]},
                    {"name": "twin", "dir": "twin-b", "power": "off", "disks": [disk("scsi0:0", "64M")]},
                ],
            },
        ],
        "backup_servers": [{"name": "bk1"}],
    }


def vmfs(release: str) -> str:
    """The newest VMFS that a release knows: 6 came with 6.5."""
    return "vmfs5" if release == "6.0" else "vmfs6"


def releases() -> Description:
    """One cheap host of each release with a VM that runs and one that is off, and one backup server."""
    return {
        "hosts": [
            {
                "name": f"esx{release.replace('.', '')}",
                "profile": release,
                "switches": {"guest_kib_per_second": 512},
                "datastores": [
                    {"name": "datastore1", "type": vmfs(release), "size": "400M"},
                    {"name": "backup", "type": "nfs", "size": "1G", "server": "bk1"},
                ],
                "vms": [
                    {"name": f"on{release}", "power": "on", "tools": "running", "disks": [disk("scsi0:0", "64M")]},
                    {"name": f"off{release}", "power": "off", "disks": [disk("scsi0:0", "64M")]},
                ],
            }
            for release in RELEASES
        ],
        "backup_servers": [{"name": "bk1"}],
    }


def fleet(count: int) -> Description:
    """Many cheap hosts of mixed releases with one small VM each, and one backup server."""
    return {
        "hosts": [
            {
                "name": f"esx{number:03d}",
                "profile": (release := RELEASES[number % len(RELEASES)]),
                # Fifty guests that write at full rate would keep both cores busy.
                "switches": {"guest_kib_per_second": 8},
                "datastores": [{"name": "datastore1", "type": vmfs(release), "size": "96M"}],
                "vms": [
                    {
                        "name": f"vm{number:03d}",
                        "power": "off" if number % 4 == 0 else "on",
                        "tools": "running",
                        "disks": [disk("scsi0:0", "64M")],
                    }
                ],
            }
            for number in range(1, count + 1)
        ],
        "backup_servers": [{"name": "bk1"}],
    }


BUILT_IN: dict[str, Callable[[], Description]] = {"demo": demo, "test": test, "releases": releases, "zoo": zoo}
