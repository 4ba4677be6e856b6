# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a store from time to time, for the module: each gives what it did, and whether that was a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    bounds,
    collect,
    copy,
    find,
    prune,
    repair,
    verify,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store import part as parts
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BadNumber,
    DamageFound,
    EmptyList,
    NoStore,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.options import open_place
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_OPENER = "_opener"
_MOST, _MOST_SECONDS = 1 << 62, 1_000_000


Opener = Callable[[Mapping[str, Any]], AbstractContextManager[Backend]]


def run(backend: Backend, params: Mapping[str, Any], check: bool, opener: Opener = open_place) -> dict[str, Any]:
    """`changed`, `id`, and what was done; `damage` is an error that is to be told with them. `opener`: of the second
    store's place."""
    _refuse(params)
    try:
        opened = Store.open(backend, params["passphrase"])
    except NoStore:
        if not check:
            raise
        # The step that makes it has not really happened.
        return {"changed": False, params["state"]: {}}
    with closing(opened) as store:
        return {"id": store.id, **CHORES[params["state"]](store, {**params, _OPENER: opener}, check)}


def _refuse(params: Mapping[str, Any]) -> None:
    """Numbers below zero, and those that are none; lists that name nothing, as a template makes them: a proof of
    nothing would look like one of all."""
    for name in ("machines", "points"):
        if params[name] == []:
            raise EmptyList(name=name)
    given = {name: params[name] for name in ("min_verified", "room_bytes", "observe_seconds")}
    given.update({f"keep.{name}": value for name, value in (params["keep"] or {}).items()})
    for name, value in given.items():
        most = _MOST_SECONDS if name == "observe_seconds" else _MOST
        if value is not None and not 0 <= value <= most:
            raise BadNumber(name=name, value=value, most=most)


def _collect(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    report = collect.run(store, observe_seconds=collect.patience(params["observe_seconds"]), check=check)
    result: dict[str, Any] = {"changed": _changed(report), "collected": collected(report)}
    return {**result, "diff": _diff(report, check), **_damage(store, report)}


def _damage(store: Store, report: collect.Report | None) -> dict[str, Any]:
    """What could not be written anew stays where it is, which somebody has to know."""
    if report is None or not report.problems:
        return {}
    return {"damage": DamageFound(store=store.name, found=find.few(report.problems, 3, "; "))}


def _changed(report: collect.Report) -> bool:
    return bool(report.removed or report.announced or report.given_up or report.repacked or report.merged)


def _diff(report: collect.Report, check: bool) -> dict[str, Any]:
    gone = report.announced if check else report.removed
    return {"before": {"packs": sorted(gone)}, "after": {"packs": []}} if gone else {"before": {}, "after": {}}


def pruned(report: prune.Report) -> dict[str, Any]:
    """What a prune did or would do, as plain data."""
    return {
        "decisions": [
            {
                "point": one.point.point,
                "machine": {"id": one.point.machine_id, "name": one.point.machine_name},
                "created_at": one.point.created_at,
                "keep": one.keep,
                "reasons": one.reasons,
                "verified": one.verified,
            }
            for one in report.decisions
        ],
        "removed": [one.point.point for one in report.decisions if one.point.object_name in report.removed],
        "held": report.held,
        "room_bytes": report.room_bytes,
        "over_bytes": report.over_bytes,
        "collected": collected(report.collected) if report.collected is not None else None,
    }


def _prune(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    rules = dict(params["keep"] or {})
    least = rules.pop("min", 1)
    report = prune.run(
        store,
        prune.keep_of(rules, least),
        machines=params["machines"],
        min_verified=params["min_verified"],
        room=params["room_bytes"],
        check=check,
        observe_seconds=collect.patience(params["observe_seconds"]),
    )
    told = pruned(report)
    before = sorted(one["point"] for one in told["decisions"])
    after = sorted(set(before) - set(told["removed"]))
    changed = bool(told["removed"]) or _changed(report.collected or collect.Report())
    diff = {"before": {"points": before}, "after": {"points": after}}
    return {"changed": changed, "pruned": told, "diff": diff, **_damage(store, report.collected)}


def repaired(report: repair.Report) -> dict[str, Any]:
    """What a repair did or would do, as plain data."""
    document = {**vars(report), "collected": collected(report.collected) if report.collected is not None else None}
    return bounds.bounded(document, "damaged_packs", "mended", "lost", "problems")


def collected(report: collect.Report) -> dict[str, Any]:
    """What a collection did or would do, as plain data."""
    return bounds.bounded(vars(report), "problems")


def copied(report: copy.Report) -> dict[str, Any]:
    """What a copy did or would do, as plain data."""
    return {
        "copied": [
            {
                "point": old.point,
                "machine": {"id": old.machine_id, "name": old.machine_name},
                "copy": new.point if new is not None else None,
            }
            for old, new in report.copied
        ],
        "there": [point.point for point in report.there],
        "failed": [{"point": point.point, "reason": reason} for point, reason in report.failed],
        "unreadable": report.unreadable,
        "told": vars(report.told),
    }


def _repair(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    with ExitStack() as stack:
        other = stack.enter_context(_other(params)) if params["other"] is not None else None
        report = repair.run(
            store,
            other=other,
            remove=params["remove_lost"],
            check=check,
            deep=params["deep"],
            observe_seconds=collect.patience(params["observe_seconds"]),
        )
    changed = bool(report.bad_records or report.damaged_packs or report.mended or report.healed or report.removed)
    result: dict[str, Any] = {"changed": changed, "repaired": repaired(report)}
    if report.lost:
        result["damage"] = DamageFound(
            store=store.name,
            found=find.few([f"{name}: {find.few(words)}" for name, words in sorted(report.lost.items())], 3, "; "),
        )
    return result


def _copy(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    with _other(params) as other:
        report = copy.run(store, other, machines=params["machines"], check=check)
    result: dict[str, Any] = {"changed": bool(report.copied), "copied": copied(report)}
    if report.failed or report.unreadable:
        names = [f"{point.machine_name!r} {point.point}: {reason}" for point, reason in report.failed]
        names += report.unreadable
        result["damage"] = DamageFound(store=store.name, found=find.few(names, 3, "; "))
    return result


@contextmanager
def _other(params: Mapping[str, Any]) -> Iterator[Store]:
    with params[_OPENER](params["other"]) as backend:
        yield Store.open(backend, params["other"]["passphrase"])


def _verify(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    part = _part(store, params)
    report = verify.run(store, part=part, deep=params["deep"])
    told = {"looked_at": parts.shown(part), **report.shown()}
    if report.ok:
        return {"changed": False, "verified": told}
    first = [*report.hit, *report.problems, *report.reasons]
    error = DamageFound(store=store.name, found=find.few(first, 3, "; "))
    return {"changed": False, "verified": told, "damage": error}


def _part(store: Store, params: Mapping[str, Any]) -> parts.Part | None:
    if params["slice"] is not None:
        return parts.Slice.parse(params["slice"])
    if params["newest"]:
        return parts.newest(store, params["machines"])
    return parts.named(store, params["points"]) if params["points"] is not None else None


CHORES: dict[str, Callable[[Store, Mapping[str, Any], bool], dict[str, Any]]] = {
    "collected": _collect,
    "copied": _copy,
    "pruned": _prune,
    "repaired": _repair,
    "verified": _verify,
}
