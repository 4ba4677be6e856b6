# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify has found of each restore point: one small object a run. The newest that names a point counts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.store import points, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectExists, ObjectMissing
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
    found: dict[str, Finding] = {}
    for name, _number in _names(store):
        try:
            found.update(_read(store, name))
        except ObjectMissing:
            continue
        except Damaged as error:
            if problems is None:
                raise
            problems.append(error.message)
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
    said = {*good, *bad}
    for name, _number in reversed(before):
        try:
            own = set(_read(store, name))
        except ObjectMissing:
            continue
        except Damaged:
            own = set()
        if not (own & there) - said:
            store.backend.delete(name)
        said |= own


def _names(store: Store) -> list[tuple[str, int]]:
    """Oldest first."""
    found = []
    for name, _size in store.backend.list(FOLDER):
        number = name[len(FOLDER) :].partition(".")[0]
        if number.isdigit():
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
