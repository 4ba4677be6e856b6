# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole labs into a store on the backup server and back, by the playbooks; judged by the store's reader and by qemu."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from house import House, as_text
from judge import file_system_is_clean, one_moment, same_content

# Of a disk with a partition table nobody uses it, and of one without any nobody minds.
UNUSED_BYTE = 100 * 512
# A datastore of the lab holds so many machines more at a time.
AT_A_TIME = 4


def place(how: str) -> str:
    """Each mode has a store of its own, so that its first backup is one."""
    return f"/var/stowage-store-{how}"


def into(how: str) -> dict[str, Any]:
    """The variables that switch a backup to a store."""
    return {
        "backup_program": "dedup",
        "backup_point": place(how),
        "backup_store_create": True,
        "backup_reserve_percent": 0,
    }


def change(house: House) -> int:
    """Writes into each disk of each machine that is off, where no file system has anything; those that run do so."""
    changed = 0
    for host in house.hosts:
        for vm in house.lab.host(host)["vms"]:
            if vm["power"] != "poweredOff":
                continue
            for flat in sorted(folder_of(house, vm).glob("*-flat.vmdk")):
                try:
                    with open(flat, "r+b") as file:
                        file.seek(UNUSED_BYTE)
                        file.write(os.urandom(512))
                except OSError as error:
                    # What a running linked clone reads is locked.
                    if error.errno != errno.EBUSY:
                        raise
                    continue
                changed += 1
    return changed


def folder_of(house: House, vm: Mapping[str, Any]) -> Path:
    parts = str(vm["vmx"]).split("/")
    return house.lab.folder / "volumes" / parts[3] / parts[4]


def from_the_store(house: House, how: str, point: str, key: str, target: Path) -> Path:
    """A disk of a restore point as a plain file, by the reader that lies in the store and knows none of our code."""
    store = house.lab.folder / "servers/bk1/root" / place(how).lstrip("/")
    number = point.partition("::")[2]
    words = [sys.executable, "-I", str(store / "reader.py"), str(store), number, key, str(target)]
    subprocess.run(words, check=True, timeout=600)
    return target


def batches(entries: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    for begin in range(0, len(entries), AT_A_TIME):
        yield entries[begin : begin + AT_A_TIME]


def come_back(
    house: House, host: str, how: str, entries: Sequence[Mapping[str, Any]], wrote: frozenset[str], work: Path
) -> list[str]:
    """Brings machines of a record to a host, under another name, has each judged, and takes them away; a row of each.

    `wrote`: the machines whose guest has written, which have one moment to look for."""
    rows = []
    for some in batches(entries):
        wanted = [
            # Several machines may have one name, and be told apart by their points.
            {
                "vm": entry["identity"],
                "point": entry["restore_point"],
                "name": f"again {number}",
                "uuid": "new",
                "mac": "new",
            }
            for number, entry in enumerate(some)
        ]
        given = {"restore_program": "dedup", "restore_point": place(how), "restore_datastore": "datastore1"}
        asked = f"@{as_text(house, wanted)}"
        house.controller.play("restore", "-e", asked, restore_host=host, **given).must_end_with(0)
        for number, entry in enumerate(some):
            rows.append(f"{entry['vm']!r}: {judged(house, host, how, entry, number, wrote, work)}")
            house.lab.run(host, "vim-cmd", "vmsvc/destroy", str(house.vm(host, f"again {number}")["vmid"]))
    return rows


def judged(
    house: House, host: str, how: str, entry: Mapping[str, Any], number: int, wrote: frozenset[str], work: Path
) -> str:
    folder = house.folder(host, f"again {number}")
    values = (folder / f"again-{number}.vmx").read_text(encoding="utf-8")
    said, raws = [], []
    for disk in entry["disks"]:
        if disk["status"] != "ok":
            continue
        (line,) = [line for line in values.splitlines() if line.startswith(f"{disk['key']}.fileName")]
        back = folder / line.split('"')[1]
        image = from_the_store(house, how, entry["restore_point"], disk["key"], work / f"{len(raws)}.raw")
        raws.append(image)
        assert same_content(back, image) == "Images are identical."
        source = as_it_lies(house, disk["source"])
        if source is not None and entry["vm"] not in wrote:
            assert same_content(source, image) == "Images are identical."
            said.append("its source's bytes")
        if disk["capacity_bytes"] >= 64 << 20:
            assert "bad" not in file_system_is_clean(image)
            said.append("file system clean")
    # The guest writes to all of its disks; what is left out, or has no ring, leaves nothing to be judged.
    whole = all(disk["status"] == "ok" and disk["capacity_bytes"] >= 64 << 20 for disk in entry["disks"])
    if entry["vm"] in wrote and whole:
        verdict = one_moment(raws)
        assert bool(verdict.get("clean")) is (how != "hot")
        said.append("one moment" if how == "hot" else "one moment, clean shutdown")
    for image in raws:
        image.unlink()
    return ", ".join(dict.fromkeys(said)) or "the store's bytes"


def as_it_lies(house: House, path: str) -> Path | None:
    """The descriptor of a disk without a parent, of a machine that was off: it is still what was backed up."""
    found = house.lab.outside(path)
    text = found.read_text(encoding="utf-8", errors="replace") if found.exists() else "parentFileNameHint"
    return None if "parentFileNameHint" in text or "VMFSRDM" in text else found
