# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the source held still while it was copied. Comparing is pure; nothing is ever inferred from a lock.

Cold: power state, start, chain, content ids, sizes and times of every file that was read are the same as before the
copy. Hot and warm: our snapshot is still there, what it froze is what we noted before we took it, every content id
below is unchanged, and the chain above still stands on it (the child remembers the content id of its parent).
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.disks import DiskReader, read_disks
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

BEFORE = "before.json"


@dataclass(frozen=True)
class FileState:
    path: str
    size: int
    mtime: int


@dataclass(frozen=True)
class DiskState:
    """The chain of one disk, top first, and the files behind it."""

    key: str
    links: tuple[str, ...]
    cids: tuple[str, ...]
    files: tuple[FileState, ...]
    fault: str = ""


@dataclass(frozen=True)
class SourceState:
    """A VM's disks at one moment."""

    power_state: str
    boot_id: str
    disks: tuple[DiskState, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def disk(self, key: str) -> DiskState | None:
        return next((disk for disk in self.disks if disk.key == key), None)


@dataclass(frozen=True)
class SnapshotState:
    """What became of our snapshot: its name by its id, and what it froze by device key."""

    id: int
    name: str | None
    frozen: Mapping[str, str] = field(default_factory=dict)


def take(host: Host, vm: VirtualMachine, keys: Sequence[str], power_state: str, boot_id: str) -> SourceState:
    """Looks at the disks with these keys as they are now."""
    reader = DiskReader(host)
    vm.reload_vmx()
    disks = read_disks(host, [vm], reader)[vm.vmid]
    states = []
    for disk in disks:
        if disk.key not in keys:
            continue
        chain = disk.chain
        if chain is None:
            states.append(DiskState(disk.key, (), (), (), disk.problem or "its chain cannot be read"))
            continue
        paths = sorted(set(chain.paths) | set(chain.extent_paths))
        entries = [reader.entries.get(path) for path in paths]
        files = tuple(FileState(entry.path, entry.size_bytes, entry.mtime) for entry in entries if entry is not None)
        missing = [path for path, entry in zip(paths, entries) if entry is None]
        fault = f"{missing[0]} cannot be seen" if missing else ""
        states.append(DiskState(disk.key, chain.paths, chain.cids, files, fault))
    return SourceState(power_state, boot_id, tuple(sorted(states, key=lambda state: state.key)))


def source_state_from_dict(raw: Mapping[str, Any]) -> SourceState:
    disks = tuple(
        DiskState(
            key=disk["key"],
            links=tuple(disk["links"]),
            cids=tuple(disk["cids"]),
            files=tuple(FileState(file["path"], int(file["size"]), int(file["mtime"])) for file in disk["files"]),
            fault=disk.get("fault", ""),
        )
        for disk in raw["disks"]
    )
    return SourceState(raw["power_state"], raw["boot_id"], disks)


def write_before(session: Session, folder: str, state: SourceState) -> None:
    session.write_text(posixpath.join(folder, BEFORE), json.dumps(state.as_dict(), sort_keys=True) + "\n")


def read_before(session: Session, folder: str) -> SourceState | None:
    result = session.run(["cat", posixpath.join(folder, BEFORE)])
    if result.rc != 0:
        return None
    try:
        return source_state_from_dict(json.loads(result.stdout))
    except (ValueError, KeyError, TypeError):
        return None


def compare_cold(before: SourceState | None, after: SourceState, keys: Sequence[str]) -> tuple[str, ...]:
    """The reasons why a VM that was off (or suspended) did not hold still; empty when it did."""
    if before is None:
        return ("nobody looked at its disks before the copy began",)
    reasons = []
    if before.power_state == "poweredOn":
        reasons.append("it was powered on when the copy began")
    if after.power_state != before.power_state:
        reasons.append(f"its power state went from {before.power_state} to {after.power_state}")
    if after.boot_id != before.boot_id:
        reasons.append("it was started in between")
    for key in keys:
        was, now = before.disk(key), after.disk(key)
        if was is None or now is None:
            reasons.append(f"disk {key} is no longer there")
        elif was.fault or now.fault:
            reasons.append(f"disk {key}: {was.fault or now.fault}")
        else:
            reasons.extend(_disk_changes(key, was, now))
    return tuple(reasons)


def _disk_changes(key: str, was: DiskState, now: DiskState) -> list[str]:
    if was.links != now.links:
        return [f"disk {key}: its chain changed from {' <- '.join(was.links)} to {' <- '.join(now.links)}"]
    reasons = [
        f"disk {key}: the content id of {link} went from {old} to {new}"
        for link, old, new in zip(was.links, was.cids, now.cids)
        if old != new
    ]
    after = {file.path: file for file in now.files}
    for file in was.files:
        other = after.get(file.path)
        if other is None:
            reasons.append(f"disk {key}: {file.path} is gone")
        elif other.size != file.size:
            reasons.append(f"disk {key}: the size of {file.path} went from {file.size} to {other.size}")
        elif other.mtime != file.mtime:
            reasons.append(f"disk {key}: {file.path} was written at {other.mtime}, after the copy had begun")
    return reasons


def compare_snapshot(
    noted: Mapping[str, Mapping[str, Any]],
    snapshot: SnapshotState,
    expected_name: str,
    after: SourceState,
    keys: Sequence[str],
) -> tuple[str, ...]:
    """The reasons why what our snapshot froze did not stay as it was.

    `noted` is per key what was seen before the snapshot: `source`, the file that was then written to, and `cids`, the
    content ids from there down. The top one may change until the snapshot is taken; those below it may not.
    """
    if snapshot.name is None:
        return (f"our snapshot (id {snapshot.id}) is gone",)
    if snapshot.name != expected_name:
        return (f"snapshot {snapshot.id} is now called {snapshot.name!r}; ours was {expected_name!r}",)
    reasons = []
    for key in keys:
        now, frozen = after.disk(key), snapshot.frozen.get(key)
        before = noted.get(key) or {}
        if frozen is None:
            reasons.append(f"disk {key}: our snapshot did not freeze it")
        elif frozen != before.get("source"):
            reasons.append(f"disk {key}: our snapshot holds {frozen}, not {before.get('source')}")
        elif now is None:
            reasons.append(f"disk {key} is no longer there")
        elif now.fault:
            reasons.append(f"disk {key}: {now.fault}")
        elif frozen not in now.links[1:]:
            reasons.append(
                f"disk {key}: the VM no longer stands on {frozen}; somebody reverted it or removed snapshots"
            )
        else:
            cids = now.cids[now.links.index(frozen) :]
            if list(cids[1:]) != list(before.get("cids") or ())[1:]:
                reasons.append(f"disk {key}: content ids below {frozen} changed")
    return tuple(reasons)
