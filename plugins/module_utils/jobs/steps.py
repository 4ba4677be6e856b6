# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of backup_job, for both kinds of job, in earnest and in check mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    backup,
    ending,
    hooks,
    names,
    record,
    storeplace,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.runlife import RunLife
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores

_NEEDED = {
    "backup": ("vm", "identity", "directory", "vmx_path", "disks", "target", "policy"),
    "restore": ("vm", "identity", "directory", "vmx_path", "vmx_text", "disks", "files", "restore_point"),
}


@dataclass(frozen=True)
class Step:
    """What the module returns; with `error` it fails with the same fields."""

    changed: bool
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: StowageError | None = None


def context_of(host: Host, params: Mapping[str, Any], check: bool, stores: Stores | None = None) -> Context:
    plan, kind = params["plan"], params["kind"]
    missing = [key for key in _NEEDED[kind] if key not in plan]
    if missing:
        raise BadPolicy(what=f"plan lacks {', '.join(missing)}; give one entry of plan.vms, or restore_plan's plan")
    if not names.valid_run_id(params["run_id"]):
        raise BadPolicy(
            what=f"run_id {params['run_id']!r} may hold up to 64 letters, digits, dots, dashes, underscores"
        )
    return Context(
        host=host,
        entry=plan,
        run_id=params["run_id"],
        state_dir=params["state_dir"],
        label=params["inventory_host"] or host.name,
        controller=params["controller"] or "",
        lease_seconds=params["lease_seconds"],
        kind=kind,
        check=check,
        stores=stores or Stores(),
    )


def run(host: Host, params: Mapping[str, Any], check: bool, stores: Stores | None = None) -> Step:
    context = context_of(host, params, check, stores)
    state = params["state"]
    if not check:
        # A task that has just begun: so somebody began it.
        RunLife(context.state_dir, context.run_id).beat()
    steps = {"started": _started, "frozen": _frozen, "committed": _committed, "ended": _ended, "noted": _noted}
    try:
        return steps[state](context, params)
    except StowageError as error:
        if not check:
            # The entry knows why, even if the playbook dies before its last step, or that one cannot reach the host.
            for one in (context,) if state == "committed" else context.each:
                _note(one, state, params, error)
        raise


def _note(context: Context, state: str, params: Mapping[str, Any], error: StowageError) -> None:
    entry = backup.entry_of(context)
    if state == "committed":
        # Into a store the copy itself commits: its point is there, whatever became of the host since.
        entry["restore_point"] = entry["restore_point"] or storeplace.made_by(params["copies"] or ())
    if state != "ended" or entry["status"] == "interrupted":
        known = entry["error"] if context.copy and state == "ended" else None
        entry["error"] = known or record.error_of(params["error"]) or error.as_dict()
        record.write_entry(context.state_dir, entry)


def in_place(context: Context) -> bool:
    return bool(context.entry.get("in_place"))


def _started(context: Context, params: Mapping[str, Any]) -> Step:
    start = backup.start
    if context.kind == "restore":
        # What a backup, the everyday job, need not load.
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs import inplacing, restoring

        start = inplacing.start if in_place(context) else restoring.start
    job, new = start(context)
    return Step(new, {"job": backup.job_view(job, context.folder)})


def _frozen(context: Context, params: Mapping[str, Any]) -> Step:
    if context.check and backup.held_job(context) is None:
        return Step(True)
    return Step(backup.freeze(context)) if not context.check else Step(True)


def _committed(context: Context, params: Mapping[str, Any]) -> Step:
    if context.check:
        # No earlier step has really happened: what would be there is told by the plan alone.
        return Step(True, _predicted(context))
    if context.kind == "restore":
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs import inplacing, restoring

        if in_place(context):
            vm, changed = inplacing.commit(context)
        else:
            vm, changed = restoring.commit(context, params["register"])
        return Step(changed, {"vm": vm})
    point, changed = backup.commit(context, params["copies"] or ())
    return Step(changed, {"restore_point": point})


def _predicted(context: Context) -> dict[str, Any]:
    plan = context.entry
    if context.kind == "restore":
        return {
            "vm": {
                "vmid": None,
                "name": plan["vm"],
                "vmx_path": plan["vmx_path"],
                "directory": plan["directory"],
                "restore_point": plan["restore_point"]["path"],
            }
        }
    time = names.point_time(context.host.clock.now())
    copied = [disk for disk in plan["disks"] if disk["action"] == "copy"]
    return {
        "restore_point": {
            "path": context.place.names(plan["target"], time, "")[1],
            "time": time,
            "vm": plan["vm"],
            "identity": plan["identity"],
            "host": context.label,
            "bytes": sum(disk["bytes_to_read"] for disk in copied),
            "disks": [disk["key"] for disk in copied],
        }
    }


def _ended(context: Context, params: Mapping[str, Any]) -> Step:
    if context.check:
        entry = backup.entry_of(context)
        return Step(True, {"entry": entry, "done": [], "left": [], "rotation": None, "others": []})
    others = {int(one["copy_number"]): one for one in params.get("others") or ()}
    ended = ending.end(
        context, params["outcome"], params["error"], params["copies"] or (), params["downtime_seconds"], others
    )
    fields = {
        "entry": ended.entry,
        "done": list(ended.done),
        "left": list(ended.left),
        "rotation": ended.rotation,
        "others": [dict(one) for one in ended.others],
    }
    return Step(ended.changed, fields, ended.error)


def _noted(context: Context, params: Mapping[str, Any]) -> Step:
    """Nothing of the VM or its host is touched, or asked for: what is changed is the account of the run."""
    return Step(False, {"entry": hooks.note_failure(context, params["hook"], params["error"])})
