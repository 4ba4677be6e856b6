# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Labs of their own for the zoo, the hostile names and random inventories, and what is asked of them."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from addresses import free_base_address
from house import VARIABLES, House
from judge import Lab, Wrong
from playing import Controller


@contextlib.contextmanager
def running(name: str, description: Mapping[str, Any]) -> Iterator[House]:
    """A lab of this description."""
    work = Path(tempfile.mkdtemp(prefix=f"stowage-{name}-"))
    (work / "topology.json").write_text(json.dumps(description), encoding="utf-8")
    lab = Lab(work / "lab", name)
    try:
        lab.verb("up", "--topology", str(work / "topology.json"), "--base-address", free_base_address())
        yield House(lab, Controller(lab, work, VARIABLES), tuple(host["name"] for host in description["hosts"]))
    finally:
        with contextlib.suppress(Wrong):
            lab.verb("down")
        shutil.rmtree(work, ignore_errors=True)


def state(house: House) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Power, snapshots (their whole file) and descriptors of every VM, by host and vmid."""
    found: dict[tuple[str, str], tuple[Any, ...]] = {}
    for host in house.hosts:
        for vm in house.lab.host(host)["vms"]:
            parts = str(vm["vmx"]).split("/")
            folder = house.lab.folder / "volumes" / parts[3] / parts[4]
            files = sorted(path.name for path in folder.glob("*.vmdk")) if folder.is_dir() else []
            trees = [path.read_bytes() for path in folder.glob("*.vmsd")] if folder.is_dir() else []
            # Two lines stay when the last snapshot is gone (3.1).
            passing = (b".encoding", b"snapshot.lastUID")
            tree = [line for text in trees for line in text.splitlines() if not line.startswith(passing)]
            found[host, str(vm["vmid"])] = (vm["name"], vm["power"], tuple(vm["snapshots"]), tuple(files), tuple(tree))
    return found


def changes(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> list[str]:
    keys = [*before, *(key for key in after if key not in before)]
    return [f"{key}: was {before.get(key)}, is {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def left_behind(house: House) -> list[str]:
    return [f"{host}: {left}" for host in house.hosts for left in house.lab.left_behind(host)]


def outcome_of(record: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What a plan promises a host in total, counted from what the run then did."""
    totals: dict[str, dict[str, int]] = {}
    for entry in record["vms"]:
        mine = totals.setdefault(entry["host"], {"ready": 0, "disks": 0, "bytes_to_read": 0, "capacity_bytes": 0})
        if entry["status"] == "ok":
            copied = [disk for disk in entry["disks"] if disk["status"] == "ok"]
            mine["ready"] += 1
            mine["disks"] += len(copied)
            mine["bytes_to_read"] += sum(disk["bytes_read"] for disk in copied)
            mine["capacity_bytes"] += sum(disk["capacity_bytes"] for disk in copied)
    return totals
