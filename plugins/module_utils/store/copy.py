# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points into a second store, or back from it: what changed since the last copy is read, what is new written.

The two stores may have different keys, and name chunks by different hashes: everything is proven by the names of one
and named anew for the other. A copy has the time of its original, and says where it comes from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, find
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    ChunkMissing,
    ChunkSizesDiffer,
    Damaged,
    ObjectMissing,
    SameStore,
    StoreError,
    passing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import (
    NOTHING,
    PAGE_SLOTS,
    SLOT_BYTES,
    DiskMap,
    Point,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.stored import StoredDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally

Key = tuple[str, str, str]


@dataclass
class Report:
    """What a copy did, or with `check` would do. `copied`: originals and their copies; `there`: what the target has;
    `failed`: what cannot be read whole, and why; `unreadable`: what is wrong with manifests that say nothing more."""

    copied: list[tuple[Point, Point | None]] = field(default_factory=list)
    there: list[Point] = field(default_factory=list)
    failed: list[tuple[Point, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    told: backup.Told = field(default_factory=backup.Told)


def run(
    source: Store,
    target: Store,
    chosen: Sequence[Point] | None = None,
    *,
    machines: Collection[str] | None = None,
    threads: int = 0,
    check: bool = False,
    tally: Tally | None = None,
) -> Report:
    """Copies restore points (all, or those of some machines, by ids or names), oldest first. What the target has
    already is left; so a copy that was cut short is taken up where it was."""
    check_pair(source, target)
    report = Report()
    ours = _readable(source, report.unreadable)
    if machines is not None:
        machines = find.machine_ids(source, ours, machines)
    # Of the target's own, what cannot be read is copied again.
    theirs = {key_of(target, point): point for point in _readable(target, [])}
    for point in sorted(ours if chosen is None else chosen, key=lambda one: one.point):
        if machines is not None and point.machine_id not in machines:
            continue
        key = key_of(source, point)
        if key in theirs:
            report.there.append(point)
            continue
        made = None
        if not check:
            base = _base(source, ours, theirs, point)
            try:
                made, told = _copy(source, target, point, base, threads, tally)
            except (ChunkMissing, Damaged, ObjectMissing) as error:
                # Its writer has given it up. The others are no worse for it.
                report.failed.append((point, error.message))
                continue
            theirs[key] = made
            report.told.add(told)
        report.copied.append((point, made))
    return report


def _readable(store: Store, unreadable: list[str]) -> list[Point]:
    """Oldest first. What cannot be read is told of, and the others are no worse for it."""
    found = []
    for _name, point in store.look_at_points():
        if not isinstance(point, StoreError):
            found.append(point)
        elif passing(point):
            raise point
        else:
            unreadable.append(point.message)
    return sorted(found, key=lambda one: one.point)


def check_pair(source: Store, target: Store) -> None:
    """`SameStore`, `ChunkSizesDiffer`: between these nothing can be copied."""
    if source.backend.same_place(target.backend):
        raise SameStore(store=source.name, other=target.name)
    if source.chunk_bytes != target.chunk_bytes:
        raise ChunkSizesDiffer(
            store=source.name, bytes=source.chunk_bytes, other=target.name, other_bytes=target.chunk_bytes
        )


def key_of(store: Store, point: Point) -> Key:
    """What a restore point and all its copies have in common: the store that it was made in, its machine and name."""
    origin = point.facts.get("origin")
    if isinstance(origin, dict) and isinstance(origin.get("store"), str) and isinstance(origin.get("point"), str):
        return origin["store"], point.machine_id, origin["point"]
    return store.id, point.machine_id, point.point


def _base(source: Store, ours: Sequence[Point], theirs: dict[Key, Point], point: Point) -> tuple[Point, Point] | None:
    """The last point of the machine before this one that both stores have, in the source and in the target."""
    for one in sorted(ours, key=lambda one: one.point, reverse=True):
        if one.machine_id == point.machine_id and one.point < point.point and key_of(source, one) in theirs:
            return one, theirs[key_of(source, one)]
    return None


def _copy(
    source: Store,
    target: Store,
    point: Point,
    base: tuple[Point, Point] | None,
    threads: int,
    tally: Tally | None,
) -> tuple[Point, backup.Told]:
    store, _machine, name = key_of(source, point)
    with contextlib.ExitStack() as stack:
        disks = []
        for disk in point.disks:
            before = base[0].disk(disk.key) if base else None
            changed = list(differing(source, before, disk)) if before else None
            opened = stack.enter_context(contextlib.closing(StoredDisk(source, disk)))
            disks.append(backup.DiskInput(disk.key, opened, changed, disk.facts))
        return backup.run(
            target,
            point.machine_id,
            point.machine_name,
            disks,
            {file.name: source.read_record(file.id, file.size) if file.id else b"" for file in point.files},
            parent=base[1] if base else None,
            trust_check=False,
            threads=threads,
            facts={**point.facts, "origin": {"store": store, "point": name}},
            like=point,
            tally=tally,
        )


def differing(store: Store, old: DiskMap, new: DiskMap) -> Iterator[tuple[int, int]]:
    """(offset, length) of the chunks in which the new disk is not the old one. Equal pages are not read."""
    for number, page in enumerate(new.pages):
        before = old.pages[number] if number < len(old.pages) else None
        if page is None or (page == before and old.slots_of(number) == new.slots_of(number)):
            continue
        now, then = store.page(new, number), store.page(old, number) if before else b""
        for at in range(0, len(now), SLOT_BYTES):
            slot = now[at : at + SLOT_BYTES]
            if slot != then[at : at + SLOT_BYTES] and slot[: len(NOTHING)] != NOTHING:
                yield (number * PAGE_SLOTS + at // SLOT_BYTES) * new.chunk_bytes, new.chunk_bytes
