# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a store from time to time, for the module: each gives what it did, and whether that was a change."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, prune, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import DamageFound, NoStore
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_MOST_NAMED = 3


def run(backend: Backend, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """`changed`, `id`, and what was done; `damage` is an error that is to be told with them."""
    try:
        opened = Store.open(backend, params["passphrase"])
    except NoStore:
        if not check:
            raise
        # The step that makes it has not really happened.
        return {"changed": False, params["state"]: {}}
    with closing(opened) as store:
        chore = {"collected": _collect, "pruned": _prune, "verified": _verify}[params["state"]]
        return {"id": store.id, **chore(store, params, check)}


def _collect(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    report = collect.run(store, observe_seconds=params["observe_seconds"], check=check)
    return {"changed": _changed(report), "collected": vars(report), "diff": _diff(report, check)}


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
        "collected": vars(report.collected) if report.collected is not None else None,
    }


def _prune(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    report = prune.run(
        store,
        Keep(**params["keep"]),
        machines=params["machines"],
        min_verified=params["min_verified"],
        room=params["room_bytes"],
        check=check,
        observe_seconds=params["observe_seconds"],
    )
    told = pruned(report)
    before = sorted(one["point"] for one in told["decisions"])
    after = sorted(set(before) - set(told["removed"]))
    collected = report.collected or collect.Report()
    changed = bool(told["removed"]) or _changed(collected)
    return {"changed": changed, "pruned": told, "diff": {"before": {"points": before}, "after": {"points": after}}}


def _verify(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    report = verify.run(store, deep=params["deep"])
    told = shown(report)
    if report.ok:
        return {"changed": False, "verified": told}
    first = [*report.hit, *report.problems, *report.bad.values()]
    more = f" and {len(first) - _MOST_NAMED} more" if len(first) > _MOST_NAMED else ""
    error = DamageFound(store=store.name, found="; ".join(first[:_MOST_NAMED]) + more)
    return {"changed": False, "verified": told, "damage": error}


def shown(report: verify.Report) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "packs": report.packs,
        "records": report.records,
        "stored_bytes": report.stored,
        "proven_bytes": report.proven,
        "bad": {identity.hex(): reason for identity, reason in sorted(report.bad.items())},
        "problems": report.problems,
        "hit": report.hit,
    }
