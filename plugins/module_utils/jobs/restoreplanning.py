# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator reads of a restore: its plan in lines, and its entry of the record, which every request gets."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock, iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RestoreRefused
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import parse_point_time, valid_run_id

ALREADY = "already restored, left as it is"

_UUID = {"keep": "keeps its UUIDs", "new": "gets new UUIDs when it is powered on"}
_MAC = {"keep": "its network cards keep their addresses", "new": "its network cards get new addresses"}
_OWN_UUID = {"keep": "has the UUIDs of the restore point", "new": "keeps its own UUIDs"}
_OWN_MAC = {
    "keep": "its network cards have the addresses of the restore point",
    "new": "its network cards keep their own addresses",
}
_SAFETY = "safety    what its disks hold now becomes a restore point of the same store first"
_NO_SAFETY = "safety    no restore point is made of what its disks hold now"
# What tells one request from another where there is no plan to tell them apart.
_ASKED = ("point", "vm", "at", "made_by", "datastore", "directory", "name")


def text(plan: Mapping[str, Any]) -> str:
    """The plan for people, one line a disk, as the plan of a backup has it."""
    source = plan["restore_point"]
    state = ALREADY if plan["already"] else "ready" if plan["ready"] else "PROBLEM"
    place = f"[{plan['datastore']}]" if plan["datastore"] else "no datastore"
    lines = [
        f"{plan['vm']}: restore to {plan['host']}, {state}, room needed {format_bytes(plan['room_needed'])}",
        f"  from      {source['vm']} of {source['host']} at {iso(parse_point_time(source['time']))}  {source['path']}",
        f"  to        {place} {plan['directory']}",
    ]
    for disk in plan["disks"]:
        if plan.get("in_place"):
            size = f"{format_bytes(disk['bytes_there'])} of {format_bytes(disk['capacity_bytes'])}"
            lines.append(f"  {disk['key']:<9} in place  compares {size:<26} {disk['dest']}  with {disk['src']}")
            continue
        size = f"{format_bytes(disk['bytes_to_read'])} of {format_bytes(disk['capacity_bytes'])}"
        name = posixpath.basename(disk["dest"])
        lines.append(f"  {disk['key']:<9} copy      {size:<26} {disk['src']}  to {name}, {disk['format']}")
    for nic in plan["networks"]:
        mapped = f"{nic['was']!r} becomes {nic['network']!r}" if nic["was"] != nic["network"] else repr(nic["network"])
        connected = "connected" if nic["connected"] else "not connected"
        lines.append(f"  {nic['nic']:<9} network   {mapped}, {connected}")
    words = (_OWN_UUID, _OWN_MAC) if plan.get("in_place") else (_UUID, _MAC)
    lines.append(f"  identity  {words[0][plan['uuid']]}; {words[1][plan['mac']]}")
    if plan.get("in_place"):
        lines.append(f"  {_SAFETY if plan['in_place']['safety_point'] else _NO_SAFETY}")
        lines.append(
            "  Only chunks that differ are written. Which they are is known when the host has hashed them, in the run"
        )
    lines.extend(f"  note: {note}" for note in plan["notes"])
    lines.extend(f"  problem: {problem['message']}" for problem in plan["problems"])
    return "\n".join(lines) + "\n"


def noted(params: Mapping[str, Any], answer: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """What the module returns of a plan. The entry is there before the first step, so that a kill loses no VM."""
    plan = answer["plan"]
    fields = {**answer, "text": text(plan)}
    if not _records(params, check):
        return fields
    known = record.read_entry(params["state_dir"], params["run_id"], plan["host"], plan["identity"], "restore")
    if known is not None and known["status"] == "ok":
        # The same run has restored it: that it is there now is its own doing.
        return {**fields, "entry": known}
    entry = planned_entry(params["run_id"], plan, SystemClock().now())
    record.write_entry(params["state_dir"], entry)
    return {**fields, "entry": entry}


def refused(params: Mapping[str, Any], error: StowageError, check: bool) -> dict[str, Any]:
    """What the module returns beside the error of a request that came to nothing, or to a plan that must not be."""
    plan = error.plan if isinstance(error, RestoreRefused) else None
    fields: dict[str, Any] = {"plan": dict(plan), "text": text(plan)} if plan else {}
    if _records(params, check):
        fields["entry"] = refused_entry(params, error, plan, SystemClock().now())
        record.write_entry(params["state_dir"], fields["entry"])
    return fields


def planned_entry(run_id: str, plan: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    """Not run yet; or ok at once, where this restore point was restored to this place before."""
    entry = record.entry_of_plan(run_id, plan["host"], plan, "restore")
    if plan["already"]:
        path = plan["restore_point"]["path"]
        entry.update(status="ok", why=ALREADY, restore_point=path, started_at=iso(at), ended_at=iso(at))
        record.set_disk_statuses(entry, "ok")
        for disk in entry["disks"]:
            disk["reason"] = ALREADY
    return entry


def refused_entry(
    params: Mapping[str, Any], error: StowageError, plan: Mapping[str, Any] | None, at: datetime
) -> dict[str, Any]:
    """It goes by what was asked for: the target of a refused restore may be the place of another one that went well."""
    asked = {key: params[key] for key in _ASKED if params.get(key)}
    host = params.get("inventory_host") or params.get("hostname") or ""
    name = str(asked.get("name") or asked.get("vm") or posixpath.basename(posixpath.normpath(params["point"])))
    identity = "request:" + ",".join(f"{key}={value}" for key, value in asked.items())
    planned = {**(plan or {}), "problems": (), "vm": name, "identity": identity}
    entry = record.entry_of_plan(params["run_id"], host, planned, "restore")
    entry.update(status="failed", effective_how="restore", error=error.as_dict(), ended_at=iso(at))
    return entry


def _records(params: Mapping[str, Any], check: bool) -> bool:
    return not check and valid_run_id(params.get("run_id") or "")
