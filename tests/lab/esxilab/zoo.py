# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zoo: a small VM for every way in which VMs differ, over three releases, and names that attack who reads them."""

from __future__ import annotations

import unicodedata
from typing import Any

#: What each would like to do is make this file; nobody may.
CANARY = "/tmp/boo"
#: One name with everything that a shell, a template engine, a glob, a quoted file or a table of VMs would act on.
NASTIEST = f"-rf {{{{ 1+1 }}}} $(touch {CANARY}) `touch {CANARY}`;touch {CANARY};'\"|[x] *?%s"
#: The file names of such a VM may hold all of it but the slash.
NASTY_FILE = "-n $(reboot) `reboot`;'\"[b] {{ 1+1 }} &*"
HOSTILE_NAMES = (
    "two  blanks",
    "-dash first",
    "quo\"te and apo'strophe",
    "[brackets] a/b.vmx   otherGuest   vmx-14",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"semi;touch {CANARY};colon",
    f"pipe|touch {CANARY}|22 & done",
    "{{ 7 * 7 }} {% raw %} {#",
    "back\\slash \\n \\x41",
    "percent %s %2f %n",
    "line\u2028separator\u0085next",
    "~root #comment =equal",
    unicodedata.normalize("NFC", "Café Zürich"),
    unicodedata.normalize("NFD", "Café Zürich"),
    "日本語 仮想マシン",
    "emoji 🐘 and rtl \u202egnp",
    "L" * 80,
)
#: Looks like a row of the table of VMs, and goes over several lines.
ANNOTATION = (
    f"first line\n\n99     ghost   [datastore1] ghost/ghost.vmx   otherGuest   vmx-14   $(touch {CANARY})\n"
    '  "last" | {{ x }}'
)
KEY_SAFE = "vmware:key/list/(pair/(fqid/<VMWARE-NULL>/lab-kms/5704a6e0,HMAC%2dSHA%2d256,c3Rvd2FnZQ%3d%3d))"


def disk(key: str, size: str = "64M", **more: Any) -> dict[str, Any]:
    return {"key": key, "size": size, "format": "thin", **more}


def small(key: str = "scsi0:0", size: str = "4M", **more: Any) -> dict[str, Any]:
    """A disk that holds data but no file system."""
    return disk(key, size, **more)


def vm(name: str, *disks: dict[str, Any], power: str = "off", **more: Any) -> dict[str, Any]:
    return {"name": name, "power": power, "tools": "running", "disks": list(disks), **more}


def hostile(number: int, name: str) -> dict[str, Any]:
    """A VM whose folder, disk file and note are as bad as its name; every third one runs."""
    file = name.replace("/", "\u2215")
    extra: dict[str, Any] = {"disks": [small(file=f"{file[:60]}.vmdk")], "annotation": f"{name}\n{ANNOTATION}"}
    if number % 4 == 1:
        extra["snapshots"] = [{"name": name, "description": f"{name}\n{ANNOTATION}"}]
    return {"name": name, "dir": file, "vmx": file[:60], "power": "on" if number % 3 == 0 else "off", **extra}


def nastiest() -> dict[str, Any]:
    """Everything at once: VM, folder, disk file, snapshot and note."""
    file = NASTIEST.replace("/", "\u2215")
    return {
        "name": NASTIEST,
        "dir": file,
        "vmx": NASTY_FILE,
        "power": "on",
        "disks": [small(file=f"{NASTY_FILE}.vmdk"), small("scsi0:1", file=f"{NASTY_FILE}_1.vmdk")],
        "snapshots": [{"name": NASTIEST, "description": ANNOTATION}],
        "annotation": ANNOTATION,
    }


def names(profiles: tuple[str, ...], everything: bool = False) -> dict[str, Any]:
    """One host of each release with the nastiest VM, the first with two names that look the same; or all with all."""
    hosts = []
    for profile in profiles:
        store = "st[x] $(touch boo) `touch boo` '\";& {{ 1 }}"
        pair = [hostile(number, name) for number, name in enumerate(HOSTILE_NAMES) if "Caf" in name]
        all_of_them = [hostile(number, name) for number, name in enumerate(HOSTILE_NAMES)]
        hosts.append(
            {
                "name": f"names{profile.replace('.', '')}",
                "profile": profile,
                "switches": {"guest_kib_per_second": 64},
                "datastores": [
                    {"name": store, "type": "vmfs6" if float(profile) >= 6.5 else "vmfs5", "size": "256M"},
                    {"name": "backup", "type": "nfs", "size": "512M", "server": "bk1"},
                ],
                "vms": [nastiest(), *(all_of_them if everything else pair if profile == profiles[0] else [])],
            }
        )
    return {"hosts": hosts, "backup_servers": [{"name": "bk1"}]}


def zoo() -> dict[str, Any]:
    backup = {"name": "backup", "type": "nfs", "size": "16G", "server": "bk1"}
    quick = {"guest_kib_per_second": 512}
    return {
        "hosts": [
            {
                "name": "zoo67",
                "profile": "6.7",
                "switches": quick,
                "datastores": [{"name": "datastore1", "type": "vmfs5", "size": "768M"}, backup],
                "vms": [
                    vm("huge5", disk("scsi0:0", "2049G"), power="on"),
                    vm("ide", disk("ide0:0"), small("ide1:0"), power="on"),
                    vm("no disk"),
                    vm("golden", disk("scsi0:0"), snapshots=[{"name": "base of the clone"}]),
                    vm(
                        "linked clone",
                        {"key": "scsi0:0", "parent": {"dir": "golden", "file": "golden.vmdk"}},
                        power="on",
                    ),
                    vm("invalid", small(), invalid=True),
                    vm(NASTIEST[:80], small(), dir="nasty", annotation=ANNOTATION),
                ],
            },
            {
                "name": "zoo70",
                "profile": "7.0",
                "switches": quick,
                "datastores": [
                    {"name": "datastore1", "type": "vmfs6", "size": "768M"},
                    {"name": "datastore1 (1)", "type": "vmfs6", "size": "256M"},
                    {"name": "gone", "type": "vmfs6", "size": "64M", "lost": True},
                    backup,
                ],
                "vms": [
                    vm("several", disk("scsi0:0"), disk("scsi0:1"), disk("scsi1:3"), power="on"),
                    vm(
                        "two stores",
                        disk("scsi0:0", file="same.vmdk"),
                        disk("scsi0:1", file="same.vmdk", datastore="datastore1 (1)"),
                        power="on",
                    ),
                    vm(
                        "independent",
                        disk("scsi0:0"),
                        small("scsi0:1", mode="independent-persistent"),
                        small("scsi0:2", mode="independent-nonpersistent"),
                        power="on",
                    ),
                    vm("independent off", disk("scsi0:0"), small("scsi0:1", mode="independent-persistent")),
                    vm("only independent", small(mode="independent-persistent"), power="on"),
                    vm(
                        "raw devices",
                        disk("scsi0:0"),
                        small("scsi0:1", kind="rdm-physical"),
                        small("scsi0:2", kind="rdm-virtual"),
                        power="on",
                    ),
                    vm("only a raw device", small(kind="rdm-physical")),
                    vm("multi-writer", disk("scsi0:0"), small("scsi1:0", sharing="multi-writer"), power="on"),
                    vm("multi-writer off", disk("scsi0:0"), small("scsi1:0", sharing="multi-writer")),
                    vm("shared bus", disk("scsi0:0"), small("scsi1:0", bus_sharing="virtual"), power="on"),
                    vm("pass-through", disk("scsi0:0"), power="on", passthrough=True),
                    vm("pass-through off", small(), passthrough=True),
                    vm(
                        "branches",
                        disk("scsi0:0"),
                        power="on",
                        snapshots=[
                            {"name": "root"},
                            {"name": "twice"},
                            {"name": "left leaf"},
                            {"name": "twice", "from": 1},
                        ],
                    ),
                    vm("on a lost store", small(), datastore="gone"),
                    vm("half lost", small(), small("scsi0:1", datastore="gone")),
                ],
            },
            {
                "name": "zoo80",
                "profile": "8.0",
                "switches": quick,
                "datastores": [
                    {"name": "datastore1", "type": "vmfs6", "size": "768M"},
                    {"name": "ds $(reboot) ;'q'", "type": "vmfs5", "size": "128M"},
                    backup,
                ],
                "vms": [
                    vm("uefi", disk("scsi0:0"), power="on", firmware="efi", hardware=19),
                    vm("vtpm", disk("scsi0:0"), power="on", firmware="efi", hardware=19, vtpm=True),
                    vm("encrypted", small(encrypted=True), power="on", firmware="efi", hardware=19, encrypted=True),
                    vm("sata", disk("sata0:0"), power="on"),
                    vm("nvme", disk("nvme0:0"), small("nvme0:1"), power="on", hardware=19),
                    vm("huge6", disk("scsi0:0", "2049G"), power="on"),
                    vm("suspended", disk("scsi0:0"), power="suspended"),
                    vm("template", disk("scsi0:0"), template=True),
                    vm("twin", small(), dir="twin-a"),
                    vm("twin", small(), dir="twin-b"),
                    vm("no image", small(), cdrom="/vmfs/volumes/datastore1/iso/absent.iso"),
                    vm("other store", small(), datastore="ds $(reboot) ;'q'", power="on"),
                    nastiest(),
                    *(hostile(number, name) for number, name in enumerate(HOSTILE_NAMES) if "Caf" in name),
                ],
            },
        ],
        "backup_servers": [{"name": "bk1"}],
    }
