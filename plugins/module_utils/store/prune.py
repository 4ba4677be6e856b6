# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Old restore points go by rules, and then by room; each one with the reasons for which it stays or goes.

What a rule counts are restore points that were committed, and that verify has not found damaged: a backup that failed
takes no other one's place. Each hypervisor's of one machine are counted apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import retention
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Aged, Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store import capacity, collect, find, removal, verified
from ansible_collections.stowage.esxi.plugins.module_utils.store.known import HYPERVISOR
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_point_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.needed import Needed
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import FOLDER, Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

RuleOf = Callable[[Iterable[Point]], Keep]
"""The rule of one machine, by its restore points."""


@dataclass
class Decision:
    """About one restore point. `least`: not even a lack of room takes it."""

    point: Point
    keep: bool
    reasons: list[str]
    verified: bool = False
    least: bool = False


@dataclass
class Report:
    """What a prune did, or with `check` would do. `decisions`: by machine, newest first; `removed`: names of objects.

    `room_bytes` is what packs and index are expected to take when collections are through; `over_bytes` how much of
    that is above the given room although nothing more may go.
    """

    decisions: list[Decision] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    room_bytes: int | None = None
    over_bytes: int = 0
    collected: collect.Report | None = None


def keep_of(rules: Mapping[str, int], least: int) -> Keep:
    """The policy of some rules. Without any, as where room alone decides, everything stays that there is room for."""
    return replace(Keep(last=0) if rules else retention.EVERYTHING, **rules, min=least)


def run(
    store: Store,
    keep: Keep | RuleOf,
    *,
    machines: Collection[str] | None = None,
    min_verified: int = 1,
    room: int | None = None,
    check: bool = False,
    observe_seconds: float = collect.OBSERVE_SECONDS,
    spared: Collection[str] = (),
) -> Report:
    """Removes what no rule keeps, then gives back its room. `machines`: ids, or names; the others are left as they are.
    `keep`: for all of them, or what tells it of each; `spared`: ids of points that stay.

    Of each machine at least `keep.min` points stay, and the newest `min_verified` that verify has found good. With
    `room`, further points go, the oldest first, until packs and index would take no more bytes than that.
    """
    report = Report()
    # With a damaged index no room comes back: then nothing goes, either.
    Needed(store).fresh()
    report.decisions = decide(store, keep, machines, min_verified)
    _spare(report.decisions, spared)
    if room is not None:
        _make_room(store, report, room)
    going = [one.point.object_name for one in report.decisions if not one.keep]
    if check:
        report.removed = sorted(going)
        report.collected = collect.run(store, check=True, without=going)
        return report
    report.removed, report.held = removal.remove(store.backend, going)
    report.collected = collect.run(store, observe_seconds=observe_seconds)
    return report


def rotate(
    store: Store,
    keep: Keep,
    machine: str,
    spared: Collection[str] = (),
    check: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Report:
    """Removes what no rule keeps of one machine; its room is left to a collection. `spared`: ids of points that stay.

    With `facts` only points that have them count, and go. Of the other machines only the names are looked at: it runs
    after every backup of each of them.
    """
    found = {name: point for name, point in store.look_at_points(machine) if isinstance(point, Point)}
    if not found:
        raise find.no_such_machine(store, machine, store.points())
    wished = (facts or {}).items()
    found = {
        name: point for name, point in found.items() if all(point.facts.get(key) == value for key, value in wished)
    }
    held = removal.held(store.backend)
    going = frozenset().union(*(one.points for one in removal.under_way(store.backend))) - held
    findings = verified.findings(store)
    good = {name for name, one in findings.items() if one.good}
    newest = max((_moment_in(name) for name, _size in store.backend.list(FOLDER) if is_point_name(name)), default=None)
    report = Report(_of_machine(store, found.values(), keep, newest, 1, held, going, good, findings.keys() - good))
    _spare(report.decisions, spared)
    wanted = [one.point.object_name for one in report.decisions if not one.keep]
    report.removed, report.held = (sorted(wanted), []) if check else removal.remove(store.backend, wanted)
    return report


def _spare(decisions: Iterable[Decision], spared: Collection[str]) -> None:
    for one in decisions:
        if one.point.point in spared:
            one.least = True
            if not one.keep:
                one.keep, one.reasons = True, ["it is needed now"]


def decide(
    store: Store, keep: Keep | RuleOf, machines: Collection[str] | None = None, min_verified: int = 1
) -> list[Decision]:
    """What the rules say of every restore point; nothing is changed."""
    held = removal.held(store.backend)
    going = frozenset().union(*(one.points for one in removal.under_way(store.backend))) - held
    findings = verified.findings(store)
    # An identity is what a hypervisor says: of two that have the same, none may push out what the other has made.
    groups: dict[tuple[str, str], list[Point]] = {}
    everything = list(Needed(store).points())
    for point in everything:
        groups.setdefault((point.machine_id, str(point.facts.get(HYPERVISOR) or "")), []).append(point)
    if machines is not None:
        machines = find.machine_ids(store, everything, machines)
    newest = max((moment_of(point) for point in everything), default=None)
    found: list[Decision] = []
    for machine in sorted(groups, key=lambda one: (groups[one][0].machine_name, one)):
        if machines is None or machine[0] in machines:
            good = {name for name, one in findings.items() if one.good}
            bad = {name for name, one in findings.items() if not one.good}
            rule = keep if isinstance(keep, Keep) else keep(groups[machine])
            found += _of_machine(store, groups[machine], rule, newest, min_verified, held, going, good, bad)
    return found


def moment_of(point: Point) -> datetime:
    """The time in a restore point's name."""
    return _moment_in(point.point)


def _moment_in(name: str) -> datetime:
    """Of a point's id, or of the name of its object."""
    text = name.rpartition("/")[2].partition("-")[0]
    return datetime.strptime(text, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=timezone.utc)


def _of_machine(
    store: Store,
    points: Iterable[Point],
    keep: Keep,
    newest: datetime | None,
    min_verified: int,
    held: Collection[str],
    going: Collection[str],
    good: Collection[str],
    bad: Collection[str],
) -> list[Decision]:
    by_name = {point.object_name: point for point in points}
    sound = [name for name in by_name if name not in bad and name not in going]
    aged = [Aged(name, moment_of(by_name[name]), name in held) for name in sound]
    found = [
        Decision(by_name[one.path], one.keep, list(one.reasons), one.path in good)
        # No one clock that jumped ahead makes everything old: the newest point of all is a second one.
        for one in retention.decide(aged, keep, store.clock.now(), newest)
    ]
    _never_below(found, keep.min, min_verified)
    for name in by_name.keys() - set(sound):
        if name in going:
            found.append(Decision(by_name[name], False, ["its removal has begun"]))
        else:
            reason = "verify found it damaged: it counts for no rule; heal it, or let repair remove it"
            found.append(Decision(by_name[name], True, ["held"] if name in held else [reason], least=True))
    for one in found:
        one.least = one.least or one.point.object_name in held or moment_of(one.point) > store.clock.now()
    return sorted(found, key=lambda one: one.point.point, reverse=True)


def _never_below(found: list[Decision], least: int, min_verified: int) -> None:
    """Marks what stays whatever happens; `found` is newest first."""
    for one in [one for one in found if one.keep][:least]:
        one.least = True
    for number, one in enumerate([one for one in found if one.verified][:min_verified], start=1):
        one.least = True
        if not one.keep:
            one.keep, one.reasons = True, [f"verified {number} of {min_verified}"]


def _make_room(store: Store, report: Report, room: int) -> None:
    """The oldest of all machines first, as far as none of them is needed as its machine's last."""
    standing = sorted((one for one in report.decisions if one.keep and not one.least), key=lambda one: one.point.point)
    gone = {one.point.object_name for one in report.decisions if not one.keep}
    forecast = capacity.Forecast(store, gone, [one.point for one in standing])
    for one in standing:
        if forecast.size <= room:
            break
        forecast.remove(one.point)
        one.keep, one.reasons = False, [f"room: the store would take more than {room} bytes"]
    report.room_bytes = forecast.size
    report.over_bytes = max(0, forecast.size - room)
