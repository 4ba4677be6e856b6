# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points are removed by rules, outside of any backup: decided first, with the reasons, then done.

In a store the store itself decides. Of folders and archives those that a verify has found damaged count for no rule,
and stay: what could be read of them is better than nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import retention
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    borgplace,
    history,
    limits,
    policy,
    rotation,
    rsyncplace,
    storeplace,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import INPLACE
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.findings import Finding
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint, several_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point

_TURN_SECONDS = 4 * 3600
_LOCK_SECONDS = 600


@dataclass(frozen=True)
class Verdict:
    """About one restore point, with every reason. `proven`: the last verify that looked at it found it good."""

    path: str
    time: str
    vm: str
    identity: str
    host: str
    keep: bool
    reasons: tuple[str, ...]
    proven: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "reasons": list(self.reasons)}


@dataclass
class Pruned:
    """`removed`: what went, or with `check` would go; `problems`: what could not go, and what was not looked at."""

    verdicts: list[Verdict] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    #: What the store's own collection did.
    collected: dict[str, Any] | None = None

    @property
    def changed(self) -> bool:
        done = self.collected or {}
        return bool(
            self.removed or any(done.get(name) for name in ("removed", "announced", "given_up", "repacked", "merged"))
        )

    def as_dict(self) -> dict[str, Any]:
        decisions = [one.as_dict() for one in self.verdicts]
        return {
            "decisions": decisions,
            "removed": self.removed,
            "problems": self.problems,
            "collected": self.collected,
            "text": text(self),
        }


@dataclass(frozen=True)
class Rules:
    """`known`: what the last verifies have found, by path; `others`: jobs that may be reading a point.

    `own`: a machine's points go by the rule that its newest backup was made with, and `keep` holds for those that tell
    of none.
    """

    keep: Keep
    own: bool = False
    min_verified: int = 1
    known: Mapping[str, Finding] = field(default_factory=dict)
    others: Sequence[Job] = ()
    check: bool = False

    def of_machine(self, facts: Iterable[Mapping[str, Any]]) -> Keep:
        """By what the restore points of one machine say, the newest first."""
        if not self.own:
            return self.keep
        for one in facts:
            made = one.get("policy")
            # What was made before a VM was written over was made by no policy of backups.
            if isinstance(made, Mapping) and made.get("keep") and not one.get("safety"):
                return _own_rule(made)
        return self.keep


def _own_rule(made: Mapping[str, Any]) -> Keep:
    try:
        keep = policy.parse_keep(made["keep"], "keep")
    except BadPolicy:
        # Of what a later version has written, nothing goes by a rule that is not understood.
        return retention.EVERYTHING
    return keep if made.get("rotate", True) else retention.EVERYTHING


def decide(
    found: Iterable[RestorePoint],
    rules: Rules,
    now: datetime,
    other: datetime | None = None,
    is_read: Callable[[str], bool] = lambda _path: False,
) -> list[Verdict]:
    """One verdict for each point of one machine, newest first; nothing is changed. `other`: a second clock."""
    by_path = {one.path: one for one in found}
    bad = {path for path in by_path if path in rules.known and rules.known[path].bad}
    aged = [retention.Aged(one.path, one.moment, one.held) for one in by_path.values() if one.path not in bad]
    made = [
        _verdict(by_path[one.path], one.keep, one.reasons, one.path in rules.known)
        for one in retention.decide(aged, rules.of_machine(_told(by_path.values())), now, other)
    ]
    for number, one in enumerate([one for one in made if one.proven][: rules.min_verified], start=1):
        if not one.keep:
            reasons = (f"verified {number} of {rules.min_verified}",)
            made[made.index(one)] = replace(one, keep=True, reasons=reasons)
    reason = ("verify found it damaged: it counts for no rule; remove it by hand when nothing of it is wanted",)
    made += [_verdict(by_path[path], True, reason, False) for path in bad]
    made = [replace(one, keep=True, reasons=("a restore reads it",)) if _goes(one, is_read) else one for one in made]
    return sorted(made, key=lambda one: (one.time, one.path), reverse=True)


def newest_of(found: Iterable[RestorePoint]) -> datetime:
    """A second clock, where there is none but this machine's: what was made last was made by now."""
    return max(one.moment for one in found)


def _told(found: Iterable[RestorePoint]) -> list[Mapping[str, Any]]:
    return [one.manifest for one in sorted(found, key=lambda one: (one.time, one.path), reverse=True)]


def _goes(one: Verdict, is_read: Callable[[str], bool]) -> bool:
    return not one.keep and is_read(one.path)


def _verdict(point: RestorePoint, keep: bool, reasons: tuple[str, ...], proven: bool) -> Verdict:
    return Verdict(point.path, point.time, point.vm, point.identity, point.host, keep, reasons, proven)


def _sources(others: Iterable[Job]) -> set[str]:
    """What restores that go on read, and would need to go back."""
    found = set()
    for job in others:
        if job.kind in ("restore", INPLACE):
            found.add(str(job.extra["restore_point"]["path"]))
            found.add(str(job.extra.get("safety_before") or ""))
    return found - {""}


def in_folders(host: Host, place: str, label: str, rules: Rules) -> Pruned:
    """Folders below a backup point. Of hosts that share it, the one that made a machine's newest point prunes them."""
    report = Pruned()
    found, bad = points.list_points(host, place)
    report.problems += [error.message for error in bad]
    folders: dict[str, list[RestorePoint]] = {}
    for one in found:
        folders.setdefault(posixpath.dirname(one.path), []).append(one)
    # Of several VMs with one identity each host prunes its own.
    for folder, some in folders.items():
        if several_of(some):
            folders[folder] = [one for one in some if one.host == label]
    folders = {folder: some for folder, some in folders.items() if some}
    now = host.clock.now()
    by_age = rules.keep.within_days or any(rules.of_machine(_told(some)).within_days for some in folders.values())
    other = rotation.clock_of(host) if by_age else None
    if other is not None and abs(now - other) > rotation.CLOCKS_DIFFER:
        report.problems.append(rotation.clocks_differ(host, now, other))
    read = {rotation.tail(path) for path in _sources(rules.others)}
    for folder in sorted(folders):
        if folders[folder][0].host != label:
            continue
        verdicts = decide(folders[folder], rules, now, other, lambda path: rotation.tail(path) in read)
        report.verdicts += verdicts
        by_path = {one.path: one for one in folders[folder]}
        going = [verdict.path for verdict in verdicts if not verdict.keep]
        report.removed += [path for path in going if rules.check or _removed(host, by_path[path], report)]
        # What a rotation or a prune that was cut short had decided already.
        halves = () if rules.check else points.half_removed(host, folder)
        own = {(one.host, one.identity) for one in folders[folder]}
        report.removed += [
            one.path for one in halves if (one.host, one.identity) in own and _removed(host, one, report)
        ]
    return report


def in_images(stores: Stores, location: str, rules: Rules) -> Pruned:
    """Folders of images on the backup server, or on one that it reaches. Of two hosts that show one identity, none
    pushes out what the other has made."""
    place = spot.parse(location)
    with rsyncplace.machine_of(stores, place) as there:
        found, bad = points.list_points(there, place.path)
        report = Pruned(problems=[error.message for error in bad])
        groups: dict[tuple[str, str], list[RestorePoint]] = {}
        for one in found:
            groups.setdefault((one.host, one.identity), []).append(one)
        read, now = {rotation.tail(path) for path in _sources(rules.others)}, there.clock.now()
        for group in sorted(groups):
            by_path = {str(place.at(one.path)): one for one in groups[group]}
            named = [replace(one, path=path) for path, one in by_path.items()]
            verdicts = decide(named, rules, now, newest_of(named), lambda path: rotation.tail(path) in read)
            report.verdicts += verdicts
            going = [verdict.path for verdict in verdicts if not verdict.keep]
            report.removed += [path for path in going if rules.check or _removed(there, by_path[path], report)]
    return report


def _removed(host: Host, point: RestorePoint, report: Pruned) -> bool:
    try:
        foreign = points.remove(host.session, point)
    except StowageError as error:
        report.problems.append(error.message)
        return False
    if foreign:
        report.problems.append(f"{point.path}: left with files that are not ours: {', '.join(foreign)}")
    return True


def in_repository(stores: Stores, location: str, rules: Rules, limits_dir: str) -> Pruned:
    """Archives. Of two hosts that show one identity, none pushes out what the other has made."""
    repository = borgplace.repository(stores, location)
    found, bad = borgplace.points_of(location, repository.archives())
    report = Pruned(problems=[error.message for error in bad])
    groups: dict[tuple[str, str], list[RestorePoint]] = {}
    for one in found:
        groups.setdefault((one.host, one.identity), []).append(one)
    read, now = _sources(rules.others), SystemClock().now()
    for group in sorted(groups):
        report.verdicts += decide(groups[group], rules, now, newest_of(groups[group]), read.__contains__)
    report.removed = [one.path for one in report.verdicts if not one.keep]
    if report.removed and not rules.check:
        going = [storeplace.parse_path(path)[1] for path in report.removed]
        with limits.hold([borgplace.turn(location)], limits_dir, Waiter(_TURN_SECONDS), f"prune of {location}"):
            # Compacting moves what a restore is about to read.
            repository.remove(going, _LOCK_SECONDS, compact=not read)
    return report


def in_store(stores: Stores, location: str, rules: Rules) -> Pruned:
    """Points of a dedup store; what verify has found is kept there."""
    from ansible_collections.stowage.esxi.plugins.module_utils.store import chores, prune
    from ansible_collections.stowage.esxi.plugins.module_utils.store.known import HYPERVISOR

    spared = [storeplace.parse_path(path)[1] for path in _sources(rules.others)]

    def rule_of(found: Iterable[Point]) -> Keep:
        newest = sorted(found, key=lambda one: one.point, reverse=True)
        return rules.of_machine([one.facts for one in newest])

    done = prune.run(
        stores.open(location),
        rule_of,
        min_verified=rules.min_verified,
        check=rules.check,
        spared=spared,
    )
    report = Pruned(collected=chores.collected(done.collected) if done.collected is not None else None)
    for one in done.decisions:
        path = storeplace.path_of(location, one.point.point)
        facts = one.point.facts
        report.verdicts.append(
            Verdict(
                path,
                str(facts.get("time") or one.point.point),
                one.point.machine_name,
                one.point.machine_id,
                str(facts.get("host") or facts.get(HYPERVISOR) or ""),
                one.keep,
                tuple(one.reasons),
                one.verified,
            )
        )
        if one.point.object_name in done.removed:
            report.removed.append(path)
    report.problems += [f"{name} was held meanwhile, and stays" for name in done.held]
    report.problems += done.collected.problems if done.collected is not None else []
    return report


def prune(params: Mapping[str, Any], host: Host | None, stores: Stores, label: str, rules: Rules) -> Pruned:
    """What the module's options ask for. `host`: where the points are folders, or the store lies on a datastore."""
    if params["program"] == "dedup":
        return in_store(stores, params["point"], rules)
    if params["program"] == "borg":
        return in_repository(stores, params["point"], rules, params["limits_dir"])
    if params["program"] == "rsync":
        return in_images(stores, params["point"], rules)
    if host is None:
        raise ValueError("folders lie on a host")
    return in_folders(host, params["point"], label, rules)


def rules_of(params: Mapping[str, Any], check: bool) -> Rules:
    """The module's options, and what records and open jobs of this backup server say of what must stay."""
    keep = policy.parse_keep(params["keep"], "keep")
    state_dir = params["state_dir"]
    known = history.read(state_dir).known()
    return Rules(keep, params["own_keep"], max(0, params["min_verified"]), known, jobs.mirrors(state_dir), check)


def text(report: Pruned) -> str:
    """For people: what stays and goes of each machine, and why."""
    lines, last = [], ("", "")
    gone = set(report.removed)
    for one in report.verdicts:
        if (one.host, one.identity) != last:
            last = (one.host, one.identity)
            lines.append(f"{one.host}  {one.vm}")
        word = "goes" if one.path in gone else "stays" if one.keep else "could not go"
        lines.append(f"  {word}  {one.path}  {'; '.join(one.reasons)}")
    lines += [f"  problem: {problem}" for problem in report.problems]
    return "\n".join(lines) + "\n"
