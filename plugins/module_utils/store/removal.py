# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points on their way out: what decides between whoever removes a point and whoever holds it.

A removal writes down what is to go, then looks for holds. A hold is written, then looks for removals. Whichever order
two of them meet in, one of them sees the other, and the one who holds steps back. A removal that was cut short is
finished by the next one: what was to go has been decided, and every later decision counts it as gone.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import points, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectMissing
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_point_name, names_in

FOLDER = "removals/"
HOLDS = "holds/"


@dataclass(frozen=True)
class Removal:
    """Restore points, by the names of their objects, that somebody has begun to remove."""

    object_name: str
    points: frozenset[str]


def going(value: Mapping[str, Any]) -> frozenset[str] | None:
    """What a removal names; None where it is none: a list of names must not lead a removal elsewhere."""
    return names_in(value.get("points"), is_point_name)


def under_way(backend: Backend) -> list[Removal]:
    found = []
    for name, _size in sorted(backend.list(FOLDER)):
        try:
            value = textfile.parse(backend.read(name), name, backend.name)
        except ObjectMissing:
            continue
        wanted = going(value)
        if wanted is None:
            raise Damaged(name=name, store=backend.name, reason="it is no list of restore points")
        found.append(Removal(name, wanted))
    return found


def holds_of(point: str) -> str:
    """The folder of the holds of a restore point, from the name of its object."""
    return f"{HOLDS}{point[len(points.FOLDER) :].rpartition('.')[0]}/"


def held(backend: Backend) -> frozenset[str]:
    """The names of the objects of all held points. A hold counts by its name: its content may be damaged."""
    return frozenset(
        f"{points.FOLDER}{name[len(HOLDS) :].rpartition('/')[0]}.json" for name, _size in backend.list(HOLDS)
    )


def remove(backend: Backend, wanted: Iterable[str]) -> tuple[list[str], list[str]]:
    """Removes these points, and what earlier removals have left; returns what is gone, and what is held."""
    wanted = frozenset(wanted)
    mine = None
    if wanted:
        mine = Removal(f"{FOLDER}{secrets.token_hex(8)}.json", wanted)
        backend.create(mine.object_name, textfile.render({"points": sorted(wanted)}))
    everyone = under_way(backend)
    # In this order: a hold that is not in this list finds the removal when it looks for it.
    kept = held(backend)
    gone = []
    for name in sorted(frozenset().union(*(one.points for one in everyone)) - kept):
        backend.delete(name)
        gone.append(name)
    for one in everyone:
        # Another's stays as long as a point of it does: he may be alive, and about to remove that point.
        if one.object_name == (mine and mine.object_name) or not one.points & kept:
            backend.delete(one.object_name)
    return gone, sorted(wanted & kept)
