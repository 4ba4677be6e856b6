# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a store is looked at: a slice of its packs, or what some restore points need."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from ansible_collections.stowage.esxi.plugins.module_utils.store import find, points
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BadSlice,
    ObjectMissing,
    StoreError,
    passing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


@dataclass(frozen=True)
class Slice:
    """One of `count` parts of the packs. A pack is in exactly one of them, whatever packs come and go."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Slice:
        """`3/7`; `BadSlice`."""
        found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None:
            raise BadSlice(slice=text, reason="it is not of the form K/N")
        one = Slice(int(found[1]), int(found[2]))
        if not 1 <= one.number <= one.count:
            raise BadSlice(slice=text, reason=f"of {one.count} slices there is none with the number {one.number}")
        return one

    def has(self, pack: str) -> bool:
        return zlib.crc32(pack.encode("utf-8", "surrogateescape")) % self.count == self.number - 1

    def shown(self) -> dict[str, Any]:
        return {"part": "slice", "slice": f"{self.number}/{self.count}"}


@dataclass(frozen=True)
class Chosen:
    """Restore points, and those meant that cannot be read: why, by the names of their objects."""

    points: tuple[Point, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    newest: bool = False

    def shown(self) -> dict[str, Any]:
        return {"part": "newest" if self.newest else "points", "points": [point.point for point in self.points]}


Part = Union[Slice, Chosen]


def shown(part: Part | None) -> dict[str, Any]:
    """As plain data; None is all of a store."""
    return part.shown() if part is not None else {"part": "all"}


def newest(store: Store, machines: Sequence[str] | None = None) -> Chosen:
    """The newest restore point of each machine that can be read, and what newer ones cannot. `machines`: ids, or names
    where no machine has it as its id; `NoSuchMachine`."""
    folders: dict[str, list[str]] = {}
    for name, _size in store.backend.list(points.FOLDER):
        folders.setdefault(f"{name.rpartition('/')[0]}/", []).append(name)
    looked = {folder: _newest_of(store, names) for folder, names in sorted(folders.items())}
    there = {folder: one for folder, one in looked.items() if one.points or one.unreadable}
    chosen = list(there)
    if machines is not None:
        chosen = [folder for machine in dict.fromkeys(machines) for folder in _folders(store, there, machine)]
    found = [there[folder] for folder in dict.fromkeys(chosen)]
    unreadable = {name: reason for one in found for name, reason in one.unreadable.items()}
    return Chosen(tuple(point for one in found for point in one.points), unreadable, newest=True)


def _newest_of(store: Store, names: Sequence[str]) -> Chosen:
    unreadable = {}
    for name in sorted(names, reverse=True):
        try:
            point = store.read_point(name)
        except ObjectMissing:
            continue
        except StoreError as error:
            if passing(error):
                raise
            unreadable[name] = error.message
            continue
        if point is not None:
            return Chosen((point,), unreadable)
    return Chosen((), unreadable)


def _folders(store: Store, there: Mapping[str, Chosen], machine: str) -> list[str]:
    own = points.folder_of(machine)
    if own in there:
        return [own]
    found = [folder for folder, one in there.items() if any(point.machine_name == machine for point in one.points)]
    if not found:
        raise find.no_such_machine(store, machine, [point for one in there.values() for point in one.points])
    return found


def named(store: Store, wanted: Sequence[str], machine: str | None = None) -> Chosen:
    """Restore points as people name them. One whose manifest is damaged is found all the same, if it is no other."""
    found: dict[str, Point] = {}
    unreadable: dict[str, str] = {}
    for word in wanted:
        names = find.named(store, word)
        try:
            point = find.latest(store, machine) if word == find.LATEST else find.point(store, word, machine)
        except StoreError as error:
            if len(names) != 1 or isinstance(error, find.NOT_MEANT) or passing(error):
                raise
            unreadable[names[0]] = error.message
            continue
        found[point.object_name] = point
        if word == find.LATEST:
            unreadable.update(newest(store, [point.machine_id]).unreadable)
    return Chosen(tuple(found.values()), unreadable)
