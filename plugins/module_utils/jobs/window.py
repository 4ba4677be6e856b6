# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hours in which a VM may be begun, as wall clocks of a time zone show them. Pure: the moment comes from outside.

A window opens at a time of a day and closes at a time of that day, or of the next one. Both are moments: a night on
which clocks change has an hour more or less, a window whose hour is skipped is as long as ever, and a time that comes
twice means the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([0-9]{1,2}):([0-5][0-9])")
_DAY_MINUTES = 1440


@dataclass(frozen=True)
class Window:
    """``opens`` and ``closes`` in minutes of the day; ``days`` are those on which it opens."""

    opens: int
    closes: int
    timezone: str
    days: tuple[str, ...] = DAYS

    def as_dict(self) -> dict[str, Any]:
        return {
            "from": _text(self.opens),
            "to": _text(self.closes),
            "timezone": self.timezone,
            "days": list(self.days),
        }

    def __str__(self) -> str:
        days = "" if self.days == DAYS else f" ({', '.join(self.days)})"
        return f"{_text(self.opens)} to {_text(self.closes)} {self.timezone}{days}"

    def span(self, day: date) -> tuple[datetime, datetime]:
        """The two moments between which it is open when it opens on that day."""
        zone = zone_of(self.timezone, "timezone")
        last = day if self.closes > self.opens else day + timedelta(days=1)
        return _moment(day, self.opens, zone), _moment(last, self.closes, zone)

    def spans(self, now: datetime, days: int) -> list[tuple[datetime, datetime]]:
        """Those that may be open now, and those of the days that come."""
        today = now.astimezone(zone_of(self.timezone, "timezone")).date()
        found = [today + timedelta(days=number) for number in range(-1, days)]
        return [self.span(day) for day in found if DAYS[day.weekday()] in self.days]


def closes_at(windows: Sequence[Window], now: datetime) -> datetime | None:
    """When the windows that are open now have all closed; None where none is open."""
    open_now = [end for window in windows for begin, end in window.spans(now, 1) if begin <= now < end]
    return max(open_now, default=None)


def opens_at(windows: Sequence[Window], now: datetime) -> datetime | None:
    """When the next one opens."""
    return min((begin for window in windows for begin, _end in window.spans(now, 9) if begin > now), default=None)


def closed(windows: Sequence[Window], now: datetime) -> str:
    """Why nothing may be begun now, in words; empty where something may."""
    if not windows or closes_at(windows, now) is not None:
        return ""
    return f"it is {iso(now)}, outside of its window {', '.join(str(window) for window in windows)}"


def read_windows(value: Any, name: str) -> tuple[Window, ...]:
    """As an operator writes them; BadPolicy for what nobody could go by."""
    given = [value] if isinstance(value, Mapping) else value
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise BadPolicy(what=f"{name} must be a list of windows such as {{from: '22:00', to: '05:00', timezone: UTC}}")
    return tuple(_window(one, f"{name}[{number}]") for number, one in enumerate(given))


def _window(value: Any, name: str) -> Window:
    if not isinstance(value, Mapping):
        raise BadPolicy(what=f"{name} must be a mapping such as {{from: '22:00', to: '05:00', timezone: UTC}}")
    given = {key: one for key, one in value.items() if one is not None}
    unknown = set(given) - {"from", "to", "timezone", "days"}
    if unknown:
        raise BadPolicy(what=f"{name}.{sorted(unknown)[0]} is not a setting; known are from, to, timezone, days")
    missing = [key for key in ("from", "to", "timezone") if key not in given]
    if missing:
        raise BadPolicy(what=f"{name}.{missing[0]} is not given")
    zone_of(str(given["timezone"]), f"{name}.timezone")
    days = given.get("days") or DAYS
    words = [days] if isinstance(days, str) else list(days)
    short = [str(day).strip().lower()[:3] for day in words]
    wrong = [day for day, word in zip(words, short) if word not in DAYS]
    if wrong:
        raise BadPolicy(what=f"{name}.days has {wrong[0]!r}; days are {', '.join(DAYS)}")
    return Window(
        opens=_minutes(given["from"], f"{name}.from") % _DAY_MINUTES,
        closes=_minutes(given["to"], f"{name}.to") % _DAY_MINUTES,
        timezone=str(given["timezone"]),
        days=tuple(day for day in DAYS if day in short),
    )


def _minutes(value: Any, name: str) -> int:
    # YAML reads 22:00 without quotes as a number to the base of 60: 1320.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _DAY_MINUTES:
        return value
    match = _TIME.fullmatch(str(value).strip())
    minutes = int(match.group(1)) * 60 + int(match.group(2)) if match else -1
    if not 0 <= minutes <= _DAY_MINUTES:
        raise BadPolicy(what=f"{name} is {value!r}; it must be a time of day such as '22:00', in quotes")
    return minutes


def zone_of(text: str, name: str) -> tzinfo:
    if text == "UTC":
        return timezone.utc
    # Inside: it is needed for windows alone.
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError) as error:
        raise BadPolicy(
            what=f"{name} is {text!r}, which the backup server does not know; write UTC or a name such as "
            f"Europe/Berlin, and install the package tzdata there where it has no time zones ({error})"
        ) from error


def _moment(day: date, minutes: int, zone: tzinfo) -> datetime:
    local = datetime.combine(day, time(minutes // 60, minutes % 60), tzinfo=zone)
    return local.astimezone(timezone.utc)


def _text(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
