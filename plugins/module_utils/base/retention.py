# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which restore points stay and which go, each with its reasons: a pure function that a dry run prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Keep:
    """How many restore points stay: the newest of each span, and never fewer than `min`."""

    last: int = 7
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within_days: int = 0
    min: int = 1


RULES = tuple(one.name for one in fields(Keep) if one.name != "min")
#: Nothing goes by it.
EVERYTHING = Keep(last=1 << 30)


@dataclass(frozen=True)
class Aged:
    """A restore point as far as keeping it is concerned."""

    path: str
    time: datetime
    held: bool = False


@dataclass(frozen=True)
class Decision:
    path: str
    time: datetime
    keep: bool
    reasons: tuple[str, ...]


def _week(moment: datetime) -> str:
    year, week, _day = moment.isocalendar()
    return f"{year:04d}-W{week:02d}"


_SPANS: tuple[tuple[str, Callable[[datetime], str]], ...] = (
    ("hourly", lambda moment: moment.strftime("%Y-%m-%d %Hh")),
    ("daily", lambda moment: moment.strftime("%Y-%m-%d")),
    ("weekly", _week),
    ("monthly", lambda moment: moment.strftime("%Y-%m")),
    ("yearly", lambda moment: moment.strftime("%Y")),
)


def decide(points: Sequence[Aged], keep: Keep, now: datetime, other: datetime | None = None) -> tuple[Decision, ...]:
    """One decision a point, newest first.

    A span rule keeps the newest point of each of the latest `n` spans that have one, so that a pause in the backups
    costs no history. A point in the future (a clock was wrong) is kept, and counts as no span's newest. Only
    `within_days` goes by ages: where `other`, the time of a second clock, is earlier, it goes by that, so that no one
    clock that jumped ahead makes everything old.
    """
    ordered = sorted(points, key=lambda point: (point.time, point.path), reverse=True)
    reasons: dict[str, list[str]] = {point.path: [] for point in ordered}
    past = [point for point in ordered if point.time <= now]
    for point in ordered:
        if point.held:
            reasons[point.path].append("held")
        if point.time > now:
            reasons[point.path].append("its time lies in the future")
    for number, point in enumerate(past[: keep.last], start=1):
        all_of_them = keep.last >= EVERYTHING.last
        reasons[point.path].append("no rule removes it" if all_of_them else f"last {number} of {keep.last}")
    for name, label in _SPANS:
        seen: list[str] = []
        for point in past:
            span = label(point.time)
            if span not in seen:
                if len(seen) == getattr(keep, name):
                    break
                seen.append(span)
                reasons[point.path].append(f"{name} {len(seen)} of {getattr(keep, name)} ({span})")
    if keep.within_days:
        earlier = now if other is None else min(now, other)
        for point in past:
            if (earlier - point.time) / timedelta(days=1) <= keep.within_days:
                reasons[point.path].append(f"within {keep.within_days} days")
    _never_below(keep.min, ordered, reasons)
    return tuple(
        Decision(
            path=point.path,
            time=point.time,
            keep=bool(reasons[point.path]),
            reasons=tuple(reasons[point.path]) or ("no rule keeps it",),
        )
        for point in ordered
    )


def _never_below(least: int, ordered: Sequence[Aged], reasons: dict[str, list[str]]) -> None:
    kept = sum(1 for point in ordered if reasons[point.path])
    for point in ordered:
        if kept >= least:
            return
        if not reasons[point.path]:
            reasons[point.path].append(f"never fewer than {least}")
            kept += 1
