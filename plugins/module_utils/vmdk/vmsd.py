# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import parse_dictionary

_ENTRY = re.compile(r"^snapshot(\d+)\.(.+)$", re.IGNORECASE)
_DISK = re.compile(r"^disk(\d+)\.(filename|node)$", re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class VmsdSnapshot:
    """One snapshot as written beside the VM. `disks` maps a device key to the file that this snapshot froze."""

    uid: int
    name: str
    description: str
    parent: int | None
    created_at: datetime | None
    with_memory: bool
    state_file: str | None
    disks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Vmsd:
    last_uid: int
    current: int | None
    snapshots: tuple[VmsdSnapshot, ...] = ()

    def find(self, uid: int) -> VmsdSnapshot | None:
        return next((snapshot for snapshot in self.snapshots if snapshot.uid == uid), None)


def parse_vmsd(text: str, path: str) -> Vmsd:
    """Read a .vmsd. An empty file and the residue after the last removal both mean: no snapshot."""
    data = parse_dictionary(text, path)
    groups: dict[int, dict[str, str]] = {}
    for key, value in data.items():
        match = _ENTRY.match(key)
        if match:
            groups.setdefault(int(match.group(1)), {})[match.group(2).lower()] = value
    # After a removal the host leaves entries above numSnapshots behind in some releases: only the first count.
    # The entry numbers are places in a list, so they run from 0.
    limit = _number(data.get("snapshot.numSnapshots"))
    numbers = sorted(groups)
    if limit is not None:
        numbers = [number for number in numbers if number < limit]
    snapshots = tuple(_entry(groups[number]) for number in numbers if _number(groups[number].get("uid")) is not None)
    known = {snapshot.uid for snapshot in snapshots}
    current = _number(data.get("snapshot.current"))
    return Vmsd(
        last_uid=_number(data.get("snapshot.lastUID")) or 0,
        current=current if current in known else None,
        snapshots=snapshots,
    )


def _entry(values: Mapping[str, str]) -> VmsdSnapshot:
    disks: dict[int, dict[str, str]] = {}
    for key, value in values.items():
        match = _DISK.match(key)
        if match:
            disks.setdefault(int(match.group(1)), {})[match.group(2).lower()] = value
    return VmsdSnapshot(
        uid=_number(values.get("uid")) or 0,
        name=values.get("displayname", ""),
        description=values.get("description", ""),
        parent=_number(values.get("parent")) or None,
        created_at=_time(values.get("createtimehigh"), values.get("createtimelow")),
        with_memory=values.get("type") == "1",
        state_file=values.get("filename") or None,
        disks={
            disk["node"].lower(): disk["filename"]
            for _number_of_disk, disk in sorted(disks.items())
            if disk.get("node") and disk.get("filename")
        },
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text.strip()) else None


def _time(high: str | None, low: str | None) -> datetime | None:
    """Microseconds since 1970 as two signed 32-bit words."""
    upper, lower = _number(high), _number(low)
    if upper is None or lower is None:
        return None
    return _EPOCH + timedelta(microseconds=(upper << 32) | (lower & 0xFFFFFFFF))
