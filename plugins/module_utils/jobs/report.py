# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The morning's account of a fleet: of every VM its last good restore point, and what speaks against trusting it.

A pure function of what the records say and what the hosts show; `reporttext` puts it into words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.findings import LEVELS
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.history import History, Proof, moment

_FAILED = ("failed", "interrupted", "not-run")
_OURS = names.snapshot_name("")

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Rules:
    """`max_age_hours`: how old the last good point may be; `proven_days`: how long ago a verify may have proven one, 0
    where nobody asks; `ignore`: names and UUIDs of VMs that need no backup."""

    max_age_hours: float = 26
    proven_days: float = 8
    ignore: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Shown:
    """A VM as its host shows it now, with the names of its snapshots."""

    host: str
    name: str
    identity: str
    snapshots: tuple[str, ...] = ()
    #: A replica that stands by: it has the restore points of the VM that it is one of.
    standby: bool = False


@dataclass(frozen=True)
class Sight:
    """What the hosts show. `hosts`: all that are meant; `silent`: those that did not answer, with the reason."""

    hosts: tuple[str, ...] = ()
    vms: tuple[Shown, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)

    def answered(self, host: str) -> bool:
        return host in self.hosts and host not in self.silent


@dataclass(frozen=True)
class Alarm:
    """`id` is stable, and for programs."""

    id: str
    host: str
    vm: str
    text: str


@dataclass
class Line:
    """One VM. `state`: `fresh`, `alarm`, `ignored`, or `gone` where its host answers and does not have it any more."""

    host: str
    vm: str
    identity: str
    state: str = "fresh"
    last: dict[str, Any] | None = None
    age_hours: float | None = None
    proof: dict[str, Any] | None = None
    failures: int = 0
    last_error: str = ""
    reference: dict[str, Any] | None = None
    left: list[str] = field(default_factory=list)


@dataclass
class Report:
    at: str
    hosts: list[str]
    silent: dict[str, str]
    rules: Rules
    lines: list[Line] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)

    @property
    def green(self) -> bool:
        return not self.alarms

    def as_dict(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "green": self.green,
            "hosts": self.hosts,
            "silent_hosts": self.silent,
            "vms": [dict(vars(line)) for line in self.lines],
            "alarms": [dict(vars(alarm)) for alarm in self.alarms],
            "max_age_hours": self.rules.max_age_hours,
            "proven_days": self.rules.proven_days,
        }


def make(history: History, sight: Sight, rules: Rules, now: datetime) -> Report:
    """A line for every VM that a host shows or a record speaks of, and an alarm for everything that must not wait."""
    report = Report(iso(now), sorted(sight.hosts), dict(sorted(sight.silent.items())), rules)
    for host, reason in report.silent.items():
        report.alarms.append(Alarm("host-silent", host, "", f"the host did not answer: {reason}"))
    attempts: dict[str, list[Entry]] = {}
    for entry in history.attempts:
        attempts.setdefault(_key(entry.get("identity"), entry.get("host"), entry.get("vm")), []).append(entry)
    proofs: dict[str, list[Proof]] = {}
    for proof in history.proofs:
        proofs.setdefault(proof.finding.identity, []).append(proof)
    for shown, is_there in _all(sight, history):
        tried = attempts.get(_key(shown.identity, shown.host, shown.name), [])
        line = _line(shown, tried, proofs.get(shown.identity, []), now)
        report.lines.append(line)
        excluded = (history.plans.get(shown.host) or {}).get("excluded") or ()
        if {shown.name, shown.identity} & rules.ignore or shown.name in excluded or shown.standby:
            line.state = "ignored"
        elif not is_there and sight.answered(shown.host):
            line.state = "gone"
        else:
            found = [*_age(line, tried, rules, now), *_proven(line, tried, proofs.get(shown.identity, []), rules, now)]
            line.state = "alarm" if found else "fresh"
            report.alarms += [Alarm(name, line.host, line.vm, text) for name, text in found]
    report.lines.sort(key=lambda line: (line.host, line.vm, line.identity))
    report.alarms += [Alarm("record-unreadable", "", "", problem) for problem in history.problems]
    return report


def _key(identity: Any, host: Any, vm: Any) -> str:
    """A VM that could not be read has no identity: then its name on its host has to do."""
    return str(identity or f"{host} {vm}")


def _all(sight: Sight, history: History) -> list[tuple[Shown, bool]]:
    """Every VM once, and whether its host shows it. Of a silent host what its last plan knew; then what only entries
    speak of."""
    found = [(one, True) for one in sight.vms]
    known = {_key(one.identity, one.host, one.name) for one in sight.vms}
    named = {(one.host, one.name) for one in sight.vms}

    def add(host: str, vm: str, identity: str) -> None:
        key = _key(identity, host, vm)
        if key not in known and (identity or (host, vm) not in named):
            known.add(key)
            named.add((host, vm))
            found.append((Shown(host, vm, identity), False))

    for entry in reversed(history.attempts):
        if entry.get("identity"):
            add(str(entry["host"]), str(entry["vm"]), str(entry["identity"]))
    for host, plan in sorted(history.plans.items()):
        if not sight.answered(host):
            for vm in plan.get("vms") or ():
                add(host, str(vm.get("vm")), str(vm.get("identity") or ""))
            for name in (*(plan.get("not_selected") or ()), *(plan.get("excluded") or ())):
                add(host, str(name), "")
    return found


def _line(shown: Shown, tried: Sequence[Entry], proofs: Sequence[Proof], now: datetime) -> Line:
    line = Line(shown.host, shown.name, shown.identity)
    good = [entry for entry in tried if entry.get("restore_point")]
    if good:
        line.last = _told(good[-1])
        line.age_hours = _hours(good[-1], now)
    since = tried[tried.index(good[-1]) + 1 :] if good else tried
    failed = [entry for entry in since if entry.get("status") in _FAILED]
    line.failures = len(failed)
    if failed:
        line.last_error = str((failed[-1].get("error") or {}).get("message") or failed[-1].get("status"))
    proven = [one for one in proofs if not one.finding.bad and not one.finding.needs_key_provider]
    if proven:
        last = proven[-1]
        line.proof = {"at": iso(last.at), "path": last.finding.path, "level": last.finding.level}
    latest = tried[-1] if tried else {}
    line.reference = latest.get("reference")
    line.left = [str(text) for text in latest.get("left") or ()]
    mine = str((line.reference or {}).get("name") or "")
    for name in shown.snapshots:
        if name.startswith(_OURS) and name != mine:
            line.left.append(f"snapshot {name}, which is no reference that the last backup has left")
    return line


def _told(entry: Entry) -> dict[str, Any]:
    wanted = ("run_id", "restore_point", "status", "effective_how", "bytes", "bytes_read", "bytes_sent", "bytes_new")
    told = {name: entry.get(name) for name in (*wanted, "seconds", "downtime_seconds", "proven")}
    return {"at": entry.get("started_at") or entry.get("ended_at"), **told}


def _hours(entry: Entry, now: datetime) -> float | None:
    """The age of what is in it: its disks were frozen soon after it began."""
    at = moment(entry.get("started_at") or entry.get("ended_at"))
    return round((now - at) / timedelta(hours=1), 1) if at is not None else None


def _is_fresh(entry: Entry, rules: Rules, now: datetime) -> bool:
    age = _hours(entry, now)
    return age is not None and age <= rules.max_age_hours


def _age(line: Line, tried: Sequence[Entry], rules: Rules, now: datetime) -> list[tuple[str, str]]:
    """What is wrong with how new its restore points are."""
    good = [entry for entry in tried if entry.get("restore_point")]
    failed = f"; {line.failures} attempt(s) failed since, the last with: {line.last_error}" if line.failures else ""
    if not tried:
        return [("no-job", "no job has backed it up, and none leaves it out on purpose")]
    if not good:
        return [("no-restore-point", f"it has no restore point{failed}")]
    if not _is_fresh(good[-1], rules, now):
        age = f"{line.age_hours:g} h old" if line.age_hours is not None else "of an unknown time"
        return [("stale", f"its last restore point is {age}, the limit is {rules.max_age_hours:g} h{failed}")]
    found = []
    if not good[-1].get("proven"):
        needs = str(good[-1].get("needs_key_provider") or "")
        why = f"it needs its key provider ({needs})" if needs else "its copy was not proven readable"
        found.append(("not-proven", f"its last restore point is not proven: {why}"))
    # Of a machine with several backup points each has to have one.
    places = _places_of(tried)
    for place in places if len(places) > 1 else ():
        there = [entry for entry in good if str(entry.get("backup_point")) == place]
        if not there or not _is_fresh(there[-1], rules, now):
            found.append(("stale-copy", f"{place} has no restore point of the last {rules.max_age_hours:g} h{failed}"))
    return found


def _proven(
    line: Line, tried: Sequence[Entry], proofs: Sequence[Proof], rules: Rules, now: datetime
) -> list[tuple[str, str]]:
    """What verify says, or has not been asked for too long."""
    found = []
    # Each of its backup points is looked at by itself: a sound one mends no other.
    last: dict[str, datetime] = {}
    for one in proofs:
        last[one.finding.place] = last[""] = one.at
    damaged = [one.finding for one in proofs if one.finding.bad and one.at == last[one.finding.place]]
    if damaged:
        found.append(("damaged", f"verify has found {damaged[0].path} damaged: {damaged[0].bad}"))
    if not rules.proven_days or damaged:
        return found
    sound = [one for one in proofs if not one.finding.bad and not one.finding.needs_key_provider]
    for place in _places_of(tried):
        here = [entry for entry in tried if entry.get("restore_point") and place in ("", entry.get("backup_point"))]
        proven = [one for one in sound if place in ("", one.finding.place or place)]
        begin = proven[-1].at if proven else moment(_told(here[0])["at"]) if here else None
        days = (now - begin) / timedelta(days=1) if begin is not None else 0.0
        if begin is not None and days > rules.proven_days:
            since = "the last time" if proven else "never, and its first restore point"
            what = f"a restore point of it in {place}" if place else "a restore point of it"
            found.append(("not-verified", f"no verify has proven {what} for {days:.0f} days ({since} {iso(begin)})"))
    return found


def _places_of(tried: Sequence[Entry]) -> list[str]:
    """The backup points of a machine that has several; of others one that stands for whatever it had."""
    latest = {str(one.get("backup_point")) for one in tried if one.get("run_id") == tried[-1].get("run_id")}
    return sorted(latest) if len(latest) > 1 else [""]


def level_words(level: str) -> str:
    return LEVELS.get(level, level)
