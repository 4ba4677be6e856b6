# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points as people name them: by id, by the beginning of an id, or as the latest of a machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.store import bounds, points
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    AmbiguousPoint,
    NewestUnreadable,
    NoSuchMachine,
    NoSuchPart,
    NoSuchPoint,
    StoreError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap, Point, StoredFile
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

LATEST = "latest"
# What says that no restore point, or no single one, is meant.
NOT_MEANT = (AmbiguousPoint, NoSuchMachine, NoSuchPoint)


def all_points(store: Store, machine: str | None = None) -> tuple[list[Point], list[str]]:
    """The restore points, oldest first, and what is wrong with those that cannot be read.

    `machine` is an id, or a name where no machine has it as its id; `NoSuchMachine`, unless it has one that cannot be
    read."""
    found, problems, unreadable = [], [], []
    for name, point in store.look_at_points():
        if isinstance(point, StoreError):
            problems.append(point.message)
            unreadable.append(name)
        else:
            found.append(point)
    if machine is not None:
        there = found
        by_id = [point for point in found if point.machine_id == machine]
        found = by_id or [point for point in found if point.machine_name == machine]
        if not found and not any(name.startswith(points.folder_of(machine)) for name in unreadable):
            raise no_such_machine(store, machine, there)
    return sorted(found, key=lambda point: point.point), problems


def machine_ids(store: Store, found: Iterable[Point], machines: Iterable[str]) -> frozenset[str]:
    """The ids of machines that are named by these, or by their names where no machine has it as its id."""
    there = list(found)
    ids = {point.machine_id for point in there}
    chosen: set[str] = set()
    for machine in machines:
        meant = {machine} & ids or {point.machine_id for point in there if point.machine_name == machine}
        if not meant:
            raise no_such_machine(store, machine, there)
        chosen |= meant
    return frozenset(chosen)


def no_such_machine(store: Store, machine: str, found: Iterable[Point]) -> NoSuchMachine:
    names = {point.machine_id: point.machine_name for point in found}
    present = few([f"{name!r} ({one})" for one, name in sorted(names.items(), key=lambda pair: pair[::-1])])
    return NoSuchMachine(store=store.name, machine=machine, present=present or "none")


def point(store: Store, wanted: str, machine: str | None = None) -> Point:
    """`NoSuchPoint`, `NoSuchMachine`, `AmbiguousPoint`, or whatever is wrong with the one that was meant; of the latest
    `NewestUnreadable`: nobody is to get an older one for it without a word."""
    if wanted == LATEST:
        return _newest(store, machine)
    read = [store.read_point(name) for name in named(store, wanted)]
    found = [one for one in read if one is not None and machine in (None, one.machine_id, one.machine_name)]
    if not found:
        if machine is not None:
            all_points(store, machine)
        raise NoSuchPoint(store=store.name, point=wanted)
    if len(found) > 1:
        raise AmbiguousPoint(store=store.name, point=wanted, candidates=few([one.point for one in found]))
    return found[0]


def named(store: Store, wanted: str) -> list[str]:
    """The names of the objects whose id this is, or else begins with this."""
    found = sorted(
        name
        for name, _size in store.backend.list(points.FOLDER)
        if wanted and name.rpartition("/")[2].startswith(wanted)
    )
    return [name for name in found if name.rpartition("/")[2] == f"{wanted}.json"] or found


def _newest(store: Store, machine: str | None) -> Point:
    found = latest(store, machine)
    for name, newer in store.look_at_points(found.machine_id):
        if isinstance(newer, StoreError) and name > found.object_name:
            raise NewestUnreadable(store=store.name, name=name, reason=newer.message, before=found.point)
    return found


def latest(store: Store, machine: str | None) -> Point:
    """The latest that can be read; what cannot be is told where nothing is left."""
    found, problems = all_points(store, machine)
    machines = {one.machine_id for one in found}
    if len(machines) > 1:
        raise AmbiguousPoint(store=store.name, point=LATEST, candidates=few([one.point for one in reversed(found)]))
    if not found:
        reason = f" that can be read ({problems[0]})" if problems else ""
        raise NoSuchPoint(store=store.name, point=f"{LATEST}{reason}")
    return found[-1]


def latest_of(store: Store, machine_id: str) -> Point | None:
    """The newest restore point of a machine that can be read; for a parent, which is only a hint."""
    for name in sorted((name for name, _size in store.backend.list(points.folder_of(machine_id))), reverse=True):
        with contextlib.suppress(StoreError):
            found = store.read_point(name)
            if found is not None:
                return found
    return None


def few(words: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return between.join(map(bounds.shortened, words[:most])) + more


def disk(point: Point, key: str) -> DiskMap:
    found = point.disk(key)
    if found is None:
        present = few([one.key for one in point.disks], 20) or "none"
        raise NoSuchPart(point=point.point, what="disk", name=key, present=present)
    return found


def file(point: Point, name: str) -> StoredFile:
    found = next((one for one in point.files if one.name == name), None)
    if found is None:
        present = few([one.name for one in point.files], 20) or "none"
        raise NoSuchPart(point=point.point, what="file", name=name, present=present)
    return found
