# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify has found of each restore point: one small object a run. The newest that names a point counts, but what
a deep look has found damaged only a deep one finds good: a checksum that is right over wrong bytes stays right."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.store import points, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectExists, ObjectMissing
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_number
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

FOLDER = "verified/"


@dataclass(frozen=True)
class Finding:
    """Of one restore point: whether all that it needs was good, when, and whether every byte was proven."""

    good: bool
    deep: bool
    at: str


def findings(store: Store, problems: list[str] | None = None) -> dict[str, Finding]:
    """By the names of the points' objects. A damaged record is raised, or told in `problems` and left out."""
    return {point: one for point, (_name, one) in _counting(store, problems).items()}


def _counting(store: Store, problems: list[str] | None) -> dict[str, tuple[str, Finding]]:
    """Of each point the record that counts, and what it says."""
    found: dict[str, tuple[str, Finding]] = {}
    for name, _number in _names(store):
        try:
            said = _read(store, name)
        except ObjectMissing:
            continue
        except Damaged as error:
            if problems is None:
                raise
            problems.append(error.message)
            continue
        for point, one in said.items():
            before = found[point][1] if point in found else one
            if one.deep or not one.good or before.good or not before.deep:
                found[point] = name, one
    return found


def record(store: Store, deep: bool, good: Collection[str], bad: Collection[str]) -> None:
    """Writes down one run of verify; records that say nothing any more go."""
    at = iso(store.clock.now())
    value = {"at": at, "deep": deep, "good": sorted(good), "bad": sorted(bad)}
    before = _names(store)
    number = before[-1][1] if before else 0
    while True:
        number += 1
        try:
            store.backend.create(f"{FOLDER}{number:08d}.json", textfile.render(value))
            break
        except ObjectExists:
            # Somebody else has verified at the same time.
            continue
    there = {name for name, _size in store.backend.list(points.FOLDER)}
    counting = {name for point, (name, _one) in _counting(store, []).items() if point in there}
    doubted: set[str] = set()
    for name, _number in before:
        try:
            said = _read(store, name)
        except ObjectMissing:
            continue
        except Damaged:
            said = {}
        # Also one that takes back what an older one says, as long as that stays for others.
        if name in counting or any(one.good and one.deep and point in doubted for point, one in said.items()):
            doubted |= {point for point, one in said.items() if one.deep and not one.good}
        else:
            store.backend.delete(name)


def _names(store: Store) -> list[tuple[str, int]]:
    """Oldest first."""
    found = []
    for name, _size in store.backend.list(FOLDER):
        number = name[len(FOLDER) :].partition(".")[0]
        if is_number(number):
            found.append((name, int(number)))
    return sorted(found, key=lambda one: one[1])


def _read(store: Store, name: str) -> dict[str, Finding]:
    value = textfile.parse(store.backend.read(name), name, store.name)
    try:
        at, deep = str(value["at"]), bool(value["deep"])
        return {
            **{str(point): Finding(True, deep, at) for point in value["good"]},
            **{str(point): Finding(False, deep, at) for point in value["bad"]},
        }
    except (KeyError, TypeError) as error:
        raise Damaged(name=name, store=store.name, reason="it is no record of verify") from error
