# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone

_MARK = re.compile(r"^((?:--)*)\|-(ROOT|CHILD)\s*$")
_NAME = re.compile(r"^((?:--)+)Snapshot Name\s*: ?(.*)$")
_ID = re.compile(r"^((?:--)+)Snapshot Id\s*: ?(\d+)\s*$")
_DESCRIPTION = re.compile(r"^((?:--)+)Snapshot Desc(?:r)?iption\s*: ?(.*)$")
_CREATED = re.compile(r"^((?:--)+)Snapshot Created On\s*: ?(\d+)/(\d+)/(\d+) (\d+):(\d+):(\d+)\s*$")
_STATE = re.compile(r"^((?:--)+)Snapshot State\s*: ?(powered on|powered off|suspended)\s*$")


class SnapshotTextError(ValueError):
    """The listing has not the form that any release prints."""


@dataclass(frozen=True)
class Snapshot:
    """One snapshot. `id` is None only on ESXi 4. `state` is the power state a revert would give."""

    id: int | None
    name: str
    description: str
    created_at: datetime | None
    state: str
    depth: int
    parent_id: int | None
    current: bool = False


@dataclass(frozen=True)
class SnapshotTree:
    """All snapshots of a VM, parents before their children, branches in the order of the host."""

    snapshots: tuple[Snapshot, ...] = ()

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self.snapshots)

    def __len__(self) -> int:
        return len(self.snapshots)

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(snapshot.id for snapshot in self.snapshots if snapshot.id is not None)

    @property
    def current(self) -> Snapshot | None:
        return next((snapshot for snapshot in self.snapshots if snapshot.current), None)

    def find(self, snapshot_id: int) -> Snapshot | None:
        return next((snapshot for snapshot in self.snapshots if snapshot.id == snapshot_id), None)

    def named(self, name: str) -> tuple[Snapshot, ...]:
        return tuple(snapshot for snapshot in self.snapshots if snapshot.name == name)

    def children(self, snapshot_id: int) -> tuple[Snapshot, ...]:
        return tuple(snapshot for snapshot in self.snapshots if snapshot.parent_id == snapshot_id)

    def with_descendants(self, snapshot_id: int) -> frozenset[int]:
        found = {snapshot_id}
        for snapshot in self.snapshots:  # parents come first
            if snapshot.parent_id in found and snapshot.id is not None:
                found.add(snapshot.id)
        return frozenset(found)

    def ancestors(self, snapshot_id: int) -> tuple[int, ...]:
        """The snapshot itself, then its parents up to the root."""
        path: list[int] = []
        at: int | None = snapshot_id
        while at is not None and at not in path:
            snapshot = self.find(at)
            if snapshot is None:
                break
            path.append(at)
            at = snapshot.parent_id
        return tuple(path)

    def marked(self, current_id: int | None) -> SnapshotTree:
        return SnapshotTree(tuple(replace(s, current=s.id is not None and s.id == current_id) for s in self.snapshots))


def parse_snapshots(text: str) -> SnapshotTree:
    """Read `snapshot.get` (and the tree that remove and revert print).

    Names and descriptions are raw text. A description ends only before a time line and a state line of its own depth
    that are followed by a marker line or the end: a description that imitates less than a whole record changes
    nothing. What does not fit is an error, never a guess.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    at = next((index for index, line in enumerate(lines) if line.lstrip().startswith("|-ROOT")), None)
    if at is None:
        if any(line.strip() and not line.strip().endswith("Snapshot:") for line in lines):
            raise SnapshotTextError(f"neither a snapshot tree nor an empty one: {text[:200]!r}")
        return SnapshotTree()
    margin = len(lines[at]) - len(lines[at].lstrip())
    if margin:
        lines = [line[margin:] if line[:margin].isspace() else line for line in lines]
    found: list[Snapshot] = []
    path: list[int | None] = []
    while at < len(lines):
        mark = _MARK.match(lines[at])
        if not mark:
            raise SnapshotTextError(f"a marker line was expected: {lines[at][:120]!r}")
        depth = len(mark.group(1)) // 2 + 1
        snapshot, at = _record(lines, at + 1, "--" * depth)
        if depth > len(path) + 1:
            raise SnapshotTextError(f"a child without its parent: {snapshot.name!r}")
        del path[depth - 1 :]
        parent = path[-1] if path else None
        found.append(replace(snapshot, depth=depth, parent_id=parent))
        path.append(snapshot.id)
    ids = [snapshot.id for snapshot in found if snapshot.id is not None]
    if len(ids) != len(set(ids)):
        raise SnapshotTextError(f"an id occurs twice: {ids}")
    return SnapshotTree(tuple(found))


def _record(lines: list[str], at: int, dashes: str) -> tuple[Snapshot, int]:
    name = _match(_NAME, lines, at, dashes)
    if name is None:
        raise SnapshotTextError(f"a name line was expected: {lines[at : at + 1]!r}")
    names, at = [name.group(2)], at + 1
    # A name can hold a newline too: it ends before its id and description lines.
    while not (_match(_ID, lines, at, dashes) or _match(_DESCRIPTION, lines, at, dashes)):
        if at >= len(lines):
            raise SnapshotTextError(f"the listing ends in the record of {names[0]!r}")
        names.append(lines[at])
        at += 1
    number = _match(_ID, lines, at, dashes)
    at += 1 if number else 0
    description = _match(_DESCRIPTION, lines, at, dashes)
    if description is None:
        raise SnapshotTextError(f"a description line was expected after {names[0]!r}")
    texts, at = [description.group(2)], at + 1
    while not _ends(lines, at, dashes):
        if at >= len(lines):
            raise SnapshotTextError(f"the listing ends in the record of {names[0]!r}")
        texts.append(lines[at])
        at += 1
    created = _match(_CREATED, lines, at, dashes)
    state = _match(_STATE, lines, at + 1, dashes)
    if created is None or state is None:
        raise SnapshotTextError(f"no time or state in the record of {names[0]!r}")
    return (
        Snapshot(
            id=int(number.group(2)) if number else None,
            name="\n".join(names),
            description="\n".join(texts),
            created_at=_time(created),
            state=state.group(2),
            depth=len(dashes) // 2,
            parent_id=None,
        ),
        at + 2,
    )


def _match(pattern: re.Pattern[str], lines: list[str], at: int, dashes: str) -> re.Match[str] | None:
    match = pattern.match(lines[at]) if at < len(lines) else None
    return match if match and match.group(1) == dashes else None


def _ends(lines: list[str], at: int, dashes: str) -> bool:
    if not (_match(_CREATED, lines, at, dashes) and _match(_STATE, lines, at + 1, dashes)):
        return False
    return at + 2 >= len(lines) or bool(_MARK.match(lines[at + 2]))


def _time(match: re.Match[str]) -> datetime | None:
    month, day, year, hour, minute, second = (int(match.group(n)) for n in range(2, 8))
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError:
        return None
