# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the records of many runs say together: every attempt, every restore point, everything that was proven of one.

Read from the entries, not from the merged record: recover completes an entry when the run that began it is long dead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import findings, record, state
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.findings import Finding


@dataclass(frozen=True)
class Proof:
    """What one look at a restore point has found."""

    at: datetime
    finding: Finding


@dataclass
class History:
    """`attempts`: entries of backups, oldest first; `proofs`: oldest first; `plans`: the last one of each host."""

    attempts: list[dict[str, Any]] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def known(self) -> dict[str, Finding]:
        """The last finding of each restore point, by its path."""
        return {one.finding.path: one.finding for one in self.proofs}


def moment(text: Any) -> datetime | None:
    """A time of the record; None for what is none."""
    try:
        found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


def read(state_dir: str, since: datetime | None = None) -> History:
    """All runs that this backup server keeps, or those that were written to after `since`. A run that cannot be read
    is told of, and hides no other one."""
    folder = os.path.join(state_dir, "runs")
    found = History()
    try:
        with state.kept(folder):
            names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return found
    for name in names:
        if since is not None and not _touched(os.path.join(folder, name), since):
            continue
        try:
            plans, entries = record.read_run(state_dir, name)
        except StowageError as error:
            found.problems.append(f"the run {name} cannot be read: {error.message}")
            continue
        for plan in plans:
            _take_plan(found, plan)
        for entry in entries:
            _take_entry(found, entry)
    found.attempts.sort(key=_begun)
    found.proofs.sort(key=lambda one: one.at)
    return found


def _touched(folder: str, since: datetime) -> bool:
    """Each write replaces a file, which the folder around it notices."""
    times = []
    for name in ("entries", "hosts", ""):
        try:
            times.append(os.stat(os.path.join(folder, name)).st_mtime)
        except OSError:
            continue
    return bool(times) and max(times) >= since.timestamp()


def _take_plan(found: History, plan: dict[str, Any]) -> None:
    host = str(plan.get("host"))
    before = found.plans.get(host)
    if before is None or str(before.get("planned_at")) <= str(plan.get("planned_at")):
        found.plans[host] = plan


def _take_entry(found: History, entry: dict[str, Any]) -> None:
    if entry.get("kind") == "backup":
        found.attempts.append(entry)
    elif entry.get("kind") == findings.KIND:
        at = moment(entry.get("ended_at"))
        if at is not None:
            found.proofs += [Proof(at, one) for one in findings.points_in(entry)]


def _begun(entry: Mapping[str, Any]) -> str:
    """One that was never begun has its run's name, which is a time where nobody has given another."""
    at = moment(entry.get("started_at") or entry.get("ended_at"))
    return at.strftime("%Y%m%dT%H%M%SZ") if at is not None else str(entry.get("run_id"))
