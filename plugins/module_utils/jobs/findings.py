# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found of restore points that were looked at again, as entries of the record of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, iso
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import PointDamaged
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint

#: The kind of such an entry.
KIND = "verify"
#: How deep it was looked, in words. What none of them proves, none of them says.
LEVELS = {
    "deep": "every byte was decoded and proven by its hash",
    "records": "every record was proven by its checksum",
    "data": "borg has read and proven all data of the repository",
    "repository": "borg has checked structure and metadata; no data was read",
    "sizes": "every file is there in its size; its content was not compared",
    "opened": "every disk was opened: descriptor, extents, sizes, first and last sector, the host's own check of the "
    "chain; its content was not compared",
}


@dataclass(frozen=True)
class Finding:
    """Of one restore point. `bad`: what is wrong with it, empty where nothing is; `place`: its backup point."""

    path: str
    time: str
    vm: str
    identity: str
    host: str
    level: str
    bad: str = ""
    needs_key_provider: str = ""
    place: str = ""


def of_point(point: RestorePoint, level: str, bad: str = "") -> Finding:
    return Finding(
        path=point.path,
        time=point.time,
        vm=point.vm,
        identity=point.identity,
        host=point.host,
        level=level,
        bad=bad,
        needs_key_provider=point.needs_key_provider,
    )


def entries(run_id: str, findings: Iterable[Finding], at: str) -> list[dict[str, Any]]:
    """One for each machine of each host that made the points. `failed` where any of its points is damaged."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.host, one.identity or one.vm), []).append(one)
    return [_entry(run_id, sorted(group, key=lambda one: one.time, reverse=True), at) for group in groups.values()]


def _entry(run_id: str, group: Sequence[Finding], at: str) -> dict[str, Any]:
    """`group`: newest first."""
    newest, bad = group[0], [one for one in group if one.bad]
    entry = record.new_entry(run_id, newest.host, newest.vm, newest.identity, KIND, ())
    error = PointDamaged(vm=newest.vm, path=bad[0].path, reason=bad[0].bad, more=_more(bad)) if bad else None
    entry.update(
        status="failed" if bad else "ok",
        restore_point=newest.path,
        backup_point=newest.place,
        # What no one here can decrypt, no one here has proven.
        proven=not newest.bad and not newest.needs_key_provider,
        needs_key_provider=newest.needs_key_provider,
        why=f"{len(group)} restore point(s): {LEVELS[newest.level]}",
        started_at=at,
        ended_at=at,
        error=error.as_dict() if error else None,
        verified={"level": newest.level, "points": [asdict(one) for one in group]},
    )
    return entry


def _more(bad: Sequence[Finding]) -> str:
    return f"; {len(bad) - 1} more of this machine, too" if len(bad) > 1 else ""


def note(
    state_dir: str, run_id: str, place: str, findings: Iterable[Finding], clock: Clock, check: bool
) -> list[dict[str, Any]]:
    """Writes the entries of one place down, or says with `check` what they would be."""
    made = entries(run_id, [replace(one, place=place) for one in findings], iso(clock.now()))
    if not check:
        for entry in made:
            record.write_entry(state_dir, entry)
    return made


def points_in(entry: Mapping[str, Any]) -> list[Finding]:
    """What an entry of this kind says; what is not of that form is left out, for somebody else may have written it."""
    told = entry.get("verified")
    listed = told.get("points") if isinstance(told, Mapping) else None
    known = Finding.__dataclass_fields__
    return [
        Finding(**{name: str(one.get(name) or "") for name in known})
        for one in listed or ()
        if isinstance(one, Mapping) and one.get("path")
    ]


def text(found: Iterable[Finding]) -> str:
    lines = [
        f"  {one.host}  {one.vm}  {one.path}  {'DAMAGED: ' + one.bad if one.bad else 'good: ' + LEVELS[one.level]}"
        for one in sorted(found, key=lambda one: (one.host, one.vm, one.time))
    ]
    return "\n".join([f"{len(lines)} restore point(s) looked at", *lines]) + "\n"
