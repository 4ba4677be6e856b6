# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The snapshot dictionary of a VM."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from .dictfile import DictFile

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - datetime.UTC needs 3.11


@dataclass
class Snapshot:
    """One snapshot; `disks` maps a device node to the file that the snapshot froze."""

    uid: int
    name: str
    description: str
    created: datetime
    filename: str
    parent: int | None = None
    memory: bool = False
    quiesced: bool = False
    disks: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """The power state that a revert leads to."""
        return "poweredOn" if self.memory else "poweredOff"


@dataclass
class SnapshotDict:
    """The whole file."""

    last_uid: int = 0
    current: int | None = None
    snapshots: list[Snapshot] = field(default_factory=list)

    def find(self, uid: int) -> Snapshot | None:
        return next((snapshot for snapshot in self.snapshots if snapshot.uid == uid), None)

    def children(self, uid: int | None) -> list[Snapshot]:
        return [snapshot for snapshot in self.snapshots if snapshot.parent == uid]

    def descendants(self, uid: int) -> list[Snapshot]:
        found: list[Snapshot] = []
        for child in self.children(uid):
            found += [child, *self.descendants(child.uid)]
        return found

    def depth(self, uid: int | None) -> int:
        """Levels from the root to this snapshot, itself included."""
        levels = 0
        while uid is not None:
            found = self.find(uid)
            if found is None:
                break
            levels, uid = levels + 1, found.parent
        return levels

    def remove(self, uid: int) -> None:
        """Take one out; its children move up to its parent."""
        gone = self.find(uid)
        if gone is None:
            return
        for child in self.children(uid):
            child.parent = gone.parent
        if self.current == uid:
            self.current = gone.parent
        self.snapshots.remove(gone)

    def render(self) -> str:
        if not self.last_uid:
            return ""
        out = DictFile()
        out.set(".encoding", "UTF-8")
        out.set("snapshot.lastUID", self.last_uid)
        if not self.snapshots:
            return out.render()
        if self.current is not None:
            out.set("snapshot.current", self.current)
        for number, snapshot in enumerate(self.snapshots):
            _put(out, f"snapshot{number}", snapshot)
            if number == 0:
                out.set("snapshot.numSnapshots", len(self.snapshots))
        return out.render()


def _put(out: DictFile, key: str, snapshot: Snapshot) -> None:
    out.set(f"{key}.uid", snapshot.uid)
    out.set(f"{key}.filename", snapshot.filename)
    if snapshot.parent is not None:
        out.set(f"{key}.parent", snapshot.parent)
    out.set(f"{key}.displayName", snapshot.name)
    if snapshot.description:
        out.set(f"{key}.description", snapshot.description)
    if snapshot.memory:
        out.set(f"{key}.type", 1)
    micros = (snapshot.created - EPOCH) // timedelta(microseconds=1)
    low = micros & 0xFFFFFFFF
    out.set(f"{key}.createTimeHigh", micros >> 32)
    # The low half is written as a signed number.
    out.set(f"{key}.createTimeLow", low - (1 << 32) if low >= 1 << 31 else low)
    out.set(f"{key}.numDisks", len(snapshot.disks))
    for number, (node, name) in enumerate(snapshot.disks.items()):
        out.set(f"{key}.disk{number}.fileName", name)
        out.set(f"{key}.disk{number}.node", node)


def parse_vmsd(text: str) -> SnapshotDict:
    values = DictFile(text)
    current = values.get("snapshot.current")
    found = SnapshotDict(values.number("snapshot.lastUID"), int(current) if current.isdigit() else None)
    for number in range(values.number("snapshot.numSnapshots")):
        key = f"snapshot{number}"
        if f"{key}.uid" not in values:
            continue
        parent = values.get(f"{key}.parent")
        micros = (values.number(f"{key}.createTimeHigh") << 32) | (values.number(f"{key}.createTimeLow") & 0xFFFFFFFF)
        found.snapshots.append(
            Snapshot(
                uid=values.number(f"{key}.uid"),
                name=values.get(f"{key}.displayName"),
                description=values.get(f"{key}.description"),
                created=EPOCH + timedelta(microseconds=micros),
                filename=values.get(f"{key}.filename"),
                parent=int(parent) if parent.isdigit() else None,
                memory=values.get(f"{key}.type") == "1",
                disks={
                    values.get(f"{key}.disk{disk}.node"): values.get(f"{key}.disk{disk}.fileName")
                    for disk in range(values.number(f"{key}.numDisks"))
                },
            )
        )
    found.last_uid = max([found.last_uid, *(snapshot.uid for snapshot in found.snapshots)])
    return found
