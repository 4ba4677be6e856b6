# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is: the order in which a host takes its VMs, and which of them it leaves for now. Pure.

Who has waited longest for a restore point comes first: what one night has missed is what the next one begins with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import window
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import WindowClosed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import VmPolicy

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import VmPlan

# Clocks differ by less. A restore point that is further ahead says nothing of its age.
_AHEAD = timedelta(hours=1)


def in_turn(plans: Iterable[VmPlan], newest: Mapping[int, datetime], now: datetime) -> list[VmPlan]:
    """Higher priority first, then never backed up, then by the age of the newest restore point, then by name.

    ``newest`` maps vmids to the times of restore points. Each plan is told that of its own, and why it is left aside.
    """
    told = []
    for plan in plans:
        at = newest.get(plan.vmid)
        at = at if at is not None and at <= now + _AHEAD else None
        told.append(replace(plan, newest_at=iso(at) if at else "", aside=aside(plan.vm, plan.policy, at, now)))
    return sorted(told, key=lambda plan: (-plan.policy.priority, plan.newest_at, plan.vm, plan.vmid))


def aside(vm: str, policy: VmPolicy, newest: datetime | None, now: datetime) -> dict[str, Any] | None:
    """Why the VM is not begun by this run: the status that it gets, and the reason. None where it is."""
    hours = policy.only_older_than_hours
    if hours and newest is not None and now - newest < timedelta(hours=hours):
        why = f"its newest restore point is of {iso(newest)}, younger than {hours} hours"
        return {"status": "skipped", "why": why, "error": None}
    error = closed(vm, policy, now)
    return {"status": "missed", "why": error.data["reason"], "error": error.as_dict()} if error is not None else None


def closed(vm: str, policy: VmPolicy, now: datetime) -> WindowClosed | None:
    """The error of a VM that may not be begun now."""
    reason = window.closed(policy.windows, now)
    if not reason:
        return None
    opens = window.opens_at(policy.windows, now)
    return WindowClosed(vm=vm, reason=reason, opens=iso(opens) if opens else "never")
