# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation of one VM's restore points, after a success only."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import retention
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import VmPolicy

CLOCKS_DIFFER = timedelta(hours=12)


def rotate(
    host: Host,
    job: Job,
    policy: VmPolicy,
    others: Iterable[Job] = (),
    only_of: str | None = None,
    hypervisor: Host | None = None,
) -> dict[str, Any]:
    """Removes what no rule keeps. A problem here never turns the fresh restore point into a failure; it is reported.

    `others` are the jobs that go on meanwhile: what a restore reads from stays until the next rotation. `only_of` is
    the hypervisor whose points are meant, where several use one backup point. `hypervisor`: whose clock is asked beside
    this machine's own, where `host` is none.
    """
    result: dict[str, Any] = {"kept": [], "removed": [], "problems": []}
    try:
        _rotate(host, job, policy, others, only_of, hypervisor or host, result)
    except StowageError as error:
        result["problems"].append(error.message)
    return result


def _rotate(
    host: Host,
    job: Job,
    policy: VmPolicy,
    others: Iterable[Job],
    only_of: str | None,
    hypervisor: Host,
    result: dict[str, Any],
) -> None:
    folder = posixpath.dirname(job.final)
    found, bad = points.list_points(host, posixpath.dirname(folder), job.identity)
    result["problems"].extend(error.message for error in bad)
    mine = [point for point in found if posixpath.dirname(point.path) == folder and only_of in (None, point.host)]
    aged = [retention.Aged(point.path, point.moment, point.held) for point in mine]
    now = host.clock.now()
    other = second_clock(hypervisor, policy, now, result)
    decisions = retention.decide(aged, policy.keep, now, other)
    by_path = {point.path: point for point in mine}
    read = {tail(str(other.extra["restore_point"]["path"])) for other in others if other.kind == "restore"}
    for decision in decisions:
        line = {"path": decision.path, "reasons": list(decision.reasons)}
        # The point that was made just now is the proof that the run was worth it: no rule may take it.
        if decision.keep or decision.path == job.final or not policy.rotate:
            result["kept"].append(line)
        elif tail(decision.path) in read:
            result["kept"].append({**line, "reasons": ["a restore reads it"]})
        elif _remove(host, by_path[decision.path], result):
            result["removed"].append(line)
    if policy.rotate:
        for point in points.half_removed(host, folder):
            if point.identity == job.identity and only_of in (None, point.host) and _remove(host, point, result):
                result["removed"].append({"path": point.path, "reasons": ["its removal had been cut short"]})


def second_clock(host: Host, policy: VmPolicy, now: datetime, result: dict[str, Any]) -> datetime | None:
    """What the hypervisor says that it is now, where a rule goes by ages; a problem where the two are far apart."""
    other = clock_of(host) if policy.keep.within_days else None
    if other is not None and abs(now - other) > CLOCKS_DIFFER:
        result["problems"].append(clocks_differ(host, now, other))
    return other


def clocks_differ(host: Host, now: datetime, other: datetime) -> str:
    return (
        f"the clock of {host.name} says {iso(other)}, that of the backup server {iso(now)}: within_days goes by "
        "the earlier one; set the wrong one right"
    )


def clock_of(host: Host) -> datetime | None:
    said = host.session.run(["date", "+%s"]).stdout.strip()
    return datetime.fromtimestamp(int(said), timezone.utc) if said.isdigit() else None


def tail(path: str) -> tuple[str, ...]:
    """A point by its VM's folder and its time: hosts may see the same datastore under different names."""
    return tuple(posixpath.normpath(path).split("/")[-2:])


def _remove(host: Host, point: RestorePoint, result: dict[str, Any]) -> bool:
    try:
        foreign = points.remove(host.session, point)
    except StowageError as error:
        result["problems"].append(error.message)
        return False
    if foreign:
        result["problems"].append(f"{point.path}: left with files that are not ours: {', '.join(foreign)}")
    return True
