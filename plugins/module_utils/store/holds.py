# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds: a restore point that no rule may take, for a reason that has a name."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.store import find, removal, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BadHold,
    Damaged,
    NoSuchHold,
    NoSuchPoint,
    ObjectExists,
    ObjectMissing,
    PointGoing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point, object_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


@dataclass(frozen=True)
class Hold:
    """One reason for which one restore point stays."""

    name: str
    reason: str
    created_at: str
    machine_id: str
    point: str

    @property
    def object_name(self) -> str:
        return _object(object_name(self.machine_id, self.point), self.name)


def hold(store: Store, point: Point, name: str, reason: str) -> bool:
    """Holds a restore point; False when it is held under this name and for this reason already."""
    if _NAME.match(name) is None:
        raise BadHold(name=name, reason="a name has up to 64 letters, digits, dots, dashes and underscores")
    one = Hold(name, reason, iso(store.clock.now()), point.machine_id, point.point)
    value = {
        "name": name,
        "reason": reason,
        "created_at": one.created_at,
        "machine": one.machine_id,
        "point": one.point,
    }
    try:
        store.backend.create(one.object_name, store.seal(textfile.render(value)))
    except ObjectExists:
        there = read(store, one.object_name)
        if there.reason != reason:
            raise BadHold(
                name=name, reason=f"{point.point} is held under it for another reason: {there.reason}"
            ) from None
        return False
    # After the hold stands; see removal.
    if any(point.object_name in going.points for going in removal.under_way(store.backend)):
        store.backend.delete(one.object_name)
        raise PointGoing(store=store.name, point=point.point)
    try:
        store.point(point.machine_id, point.point)
    except NoSuchPoint:
        store.backend.delete(one.object_name)
        raise
    return True


def release(store: Store, point: Point, name: str) -> None:
    """Takes a hold away; `NoSuchHold` when the point is not held under this name."""
    wanted = _object(point.object_name, name)
    there = [found for found, _size in store.backend.list(removal.holds_of(point.object_name))]
    if wanted not in there:
        names = find.few(sorted(one.rpartition("/")[2].rpartition(".")[0] for one in there), 20)
        raise NoSuchHold(name=name, point=point.point, present=names or "none")
    store.backend.delete(wanted)


def listed(store: Store, point: Point | None = None) -> list[Hold]:
    """All holds, or those of one restore point, by point and name."""
    prefix = removal.HOLDS if point is None else removal.holds_of(point.object_name)
    found = []
    for name, _size in store.backend.list(prefix):
        with contextlib.suppress(ObjectMissing):
            found.append(read(store, name))
    return sorted(found, key=lambda one: (one.point, one.machine_id, one.name))


def read(store: Store, name: str) -> Hold:
    """The hold in an object; `Damaged` when it is not the one of that name."""
    value = textfile.parse(store.unseal(store.backend.read(name, 1 << 20), name), name, store.name)
    fields = [value.get(key) for key in ("name", "reason", "created_at", "machine", "point")]
    texts = [field for field in fields if isinstance(field, str)]
    if len(texts) != len(fields):
        raise Damaged(name=name, store=store.name, reason="it does not hold what a hold must")
    one = Hold(*texts)
    if one.object_name != name:
        raise Damaged(name=name, store=store.name, reason="it is the hold of another point")
    return one


def _object(point: str, name: str) -> str:
    return f"{removal.holds_of(point)}{name}.json"
