# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that can be said of a store without reading its packs, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import bounds, describe, find, registry, stats
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import NoStore, NoSuchMachine, StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def run(
    backend: Backend, secret: str | None, *, machine: str | None = None, gather: Sequence[str] = ("points", "stats")
) -> dict[str, Any]:
    """A place without a store is no error: `exists` is false."""
    try:
        store = Store.open(backend, secret)
    except NoStore:
        health = {"ok": True, "problems": [], "writers": 0, "announced_packs": 0, "untold": {}}
        return {"exists": False, "store": {}, "health": health, **_nothing(gather)}
    with closing(store):
        found: dict[str, Any] = {"exists": True, "store": describe.store(store)}
        problems: dict[str, None] = {}
        if "points" in gather:
            points, unreadable = _points(store, machine)
            found["points"] = describe.all_points(store, points, unreadable)
            problems.update(dict.fromkeys(unreadable))
            found["machines"] = _machines(points)
        if "stats" in gather:
            counted = stats.gather(store)
            problems.update(dict.fromkeys(counted.problems))
            found["stats"] = {
                name: value for name, value in counted.as_dict().items() if name not in ("problems", "writers")
            }
        found["health"] = _health(store, list(problems))
    return found


def _points(store: Store, machine: str | None) -> tuple[list[Point], list[str]]:
    """A machine without restore points is no error either."""
    try:
        return find.all_points(store, machine)
    except NoSuchMachine:
        return [], find.all_points(store)[1]


def _nothing(gather: Sequence[str]) -> dict[str, Any]:
    empty: dict[str, Any] = {"points": [], "machines": []} if "points" in gather else {}
    return {**empty, "stats": {}} if "stats" in gather else empty


def _machines(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Oldest points first: the last one of each machine says its name."""
    found: dict[str, dict[str, Any]] = {}
    for point in points:
        count = found.get(point.machine_id, {}).get("points", 0)
        found[point.machine_id] = {
            "id": point.machine_id,
            "name": point.machine_name,
            "points": count + 1,
            "latest": point.point,
            "latest_at": point.created_at,
        }
    return sorted(found.values(), key=lambda one: (one["name"], one["id"]))


def _health(store: Store, problems: list[str]) -> dict[str, Any]:
    writers = announced = 0
    store.index(fresh=True)
    told = (*store.index_problems.values(), *store.settings_problems.values())
    problems += [reason for reason in told if reason not in problems]
    try:
        writers = sum(one.point is not None for one in registry.registrations(store.backend))
        announced = len(registry.condemned(store.backend))
    except StoreError as error:
        problems.append(error.message)
    health = {"ok": not problems, "problems": problems, "writers": writers, "announced_packs": announced}
    return bounds.bounded(health, "problems")
