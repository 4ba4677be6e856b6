# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import window
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import parse_policy, vm_policy_from_dict

BERLIN = "Europe/Berlin"


def windows(start: Any, stop: Any, zone: str = BERLIN, days: Any = None) -> tuple[window.Window, ...]:
    return window.read_windows([{"from": start, "to": stop, "timezone": zone, "days": days}], "windows")


def at(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("now", "is_open"),
    [
        ("2026-11-25 20:59", False),
        ("2026-11-25 21:00", True),
        ("2026-11-25 23:59", True),
        ("2026-11-26 03:59", True),
        ("2026-11-26 04:00", False),
        ("2026-11-26 12:00", False),
    ],
)
def test_a_window_over_midnight_is_open_from_its_first_minute_to_before_its_last(now: str, is_open: bool) -> None:
    found = windows("22:00", "05:00")
    assert (window.closed(found, at(now)) == "") is is_open


def test_a_closed_one_says_when_it_is_and_what_was_asked_for_and_when_it_opens() -> None:
    found = windows("22:00", "05:00", days=["fri", "Saturday"])
    words = "it is 2026-11-25T12:00:00Z, outside of its window 22:00 to 05:00 Europe/Berlin (fri, sat)"
    assert window.closed(found, at("2026-11-25 12:00")) == words
    assert window.opens_at(found, at("2026-11-25 12:00")) == at("2026-11-27 21:00")
    assert window.closes_at(found, at("2026-11-28 03:00")) == at("2026-11-28 04:00")


def test_a_day_is_that_on_which_the_window_opens() -> None:
    friday = windows("22:00", "05:00", days="fri")
    # Saturday, early in the morning, is Friday's night; Friday, early, is not.
    assert window.closed(friday, at("2026-11-28 03:00")) == ""
    assert window.closed(friday, at("2026-11-27 03:00")) != ""


def test_the_day_is_that_of_its_own_zone() -> None:
    monday = windows("06:00", "07:00", "Pacific/Auckland", "mon")
    # Monday 06:30 there is Sunday 17:30 in UTC.
    assert window.closed(monday, at("2026-11-29 17:30")) == ""


@pytest.mark.parametrize(
    ("start", "stop", "day", "begin", "end"),
    [
        # 29 March 2026: 02:00 becomes 03:00. 25 October 2026: 03:00 becomes 02:00.
        ("22:00", "05:00", "2026-03-28", "2026-03-28 21:00", "2026-03-29 03:00"),
        ("22:00", "05:00", "2026-10-24", "2026-10-24 20:00", "2026-10-25 04:00"),
        # In the hour that is skipped: it is as long as ever, and comes right after it.
        ("02:30", "02:45", "2026-03-29", "2026-03-29 01:30", "2026-03-29 01:45"),
        # In the hour that comes twice: the first.
        ("02:15", "02:45", "2026-10-25", "2026-10-25 00:15", "2026-10-25 00:45"),
        ("01:00", "02:30", "2026-10-25", "2026-10-24 23:00", "2026-10-25 00:30"),
        ("08:00", "08:00", "2026-11-25", "2026-11-25 07:00", "2026-11-26 07:00"),
        ("00:00", "24:00", "2026-11-25", "2026-11-24 23:00", "2026-11-25 23:00"),
    ],
)
def test_a_window_lies_between_two_moments_also_where_clocks_change(
    start: str, stop: str, day: str, begin: str, end: str
) -> None:
    (one,) = windows(start, stop)
    assert one.span(datetime.strptime(day, "%Y-%m-%d").date()) == (at(begin), at(end))


def test_of_several_windows_one_that_is_open_is_enough() -> None:
    both = (*windows("22:00", "23:00", "UTC"), *windows("22:30", "24:00", "UTC"))
    assert [window.closed(both, at(f"2026-11-25 {time}")) == "" for time in ("22:15", "23:30", "21:59")] == [
        True
    ] * 2 + [False]
    assert window.closes_at(both, at("2026-11-25 22:45")) == at("2026-11-26 00:00")
    assert window.closed((), at("2026-11-25 12:00")) == ""


def test_a_time_without_quotes_is_read_as_yaml_gives_it() -> None:
    # 22:00 in YAML is 22 * 60.
    assert windows(1320, "05:00") == windows("22:00", "05:00")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("22:00", "must be a list of windows"),
        ([{"from": "22:00", "to": "05:00"}], r"windows\[0\]\.timezone is not given"),
        ([{"from": "22h", "to": "05:00", "timezone": "UTC"}], "from is '22h'"),
        ([{"from": "22:00", "to": "25:00", "timezone": "UTC"}], "to is '25:00'"),
        ([{"from": 22.5, "to": "25:00", "timezone": "UTC"}], "from is 22.5"),
        ([{"from": "22:00", "to": "05:00", "timezone": "Berlin"}], "'Berlin', which the backup server does not know"),
        ([{"from": "22:00", "to": "05:00", "timezone": "../etc/passwd"}], "does not know"),
        ([{"from": "22:00", "to": "05:00", "timezone": "UTC", "days": ["noon"]}], "days has 'noon'"),
        ([{"from": "22:00", "to": "05:00", "timezone": "UTC", "on": 1}], r"windows\[0\]\.on is not a setting"),
        (["22-05"], "must be a mapping"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused_before_the_night(given: Any, words: str) -> None:
    with pytest.raises(BadPolicy, match=words):
        window.read_windows(given, "windows")


def test_windows_travel_with_the_policy_of_a_vm_which_may_have_its_own() -> None:
    common = {"from": "22:00", "to": "05:00", "timezone": BERLIN}
    own = {"windows": [{"from": "01:00", "to": "02:00", "timezone": "UTC"}], "priority": "7"}
    policy = parse_policy({"point": "/vmfs/volumes/b", "windows": [common], "vms": {"db01": own}})
    found = policy.for_vm(["db01"])
    assert ([str(one) for one in found.windows], found.priority) == (["01:00 to 02:00 UTC"], 7)
    assert [str(one) for one in policy.common.windows] == ["22:00 to 05:00 Europe/Berlin"]
    assert vm_policy_from_dict(found.as_dict()) == found
