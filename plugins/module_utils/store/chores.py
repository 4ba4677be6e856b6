# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a store from time to time, for the module: each gives what it did, and whether that was a change."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, verify
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
        chore = {"collected": _collect, "verified": _verify}[params["state"]]
        return {"id": store.id, **chore(store, params, check)}


def _collect(store: Store, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    report = collect.run(store, observe_seconds=params["observe_seconds"], check=check)
    changed = bool(report.removed or report.announced or report.given_up)
    return {"changed": changed, "collected": vars(report), "diff": _diff(report, check)}


def _diff(report: collect.Report, check: bool) -> dict[str, Any]:
    gone = report.announced if check else report.removed
    return {"before": {"packs": sorted(gone)}, "after": {"packs": []}} if gone else {"before": {}, "after": {}}


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
