# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import datetime, timedelta, timezone

from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Aged, Keep, decide
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=timezone.utc)


def points(*ages: timedelta, held: tuple[int, ...] = ()) -> list[Aged]:
    return [Aged(f"/p/{number}", NOW - age, number in held) for number, age in enumerate(ages)]


def kept(aged: list[Aged], keep: Keep) -> set[str]:
    return {decision.path for decision in decide(aged, keep, NOW) if decision.keep}


def days(*numbers: float) -> list[timedelta]:
    return [timedelta(days=number) for number in numbers]


def test_last_keeps_the_newest() -> None:
    assert kept(points(*days(3, 1, 2, 4)), Keep(last=2)) == {"/p/1", "/p/2"}


def test_daily_keeps_the_newest_of_each_day_and_skips_days_without_a_backup() -> None:
    aged = points(*days(0.1, 0.2, 1, 9, 10))
    assert kept(aged, Keep(last=0, daily=3)) == {"/p/0", "/p/2", "/p/3"}


def test_weeks_go_by_the_iso_calendar_over_the_turn_of_the_year() -> None:
    sunday, monday = datetime(2027, 1, 3, tzinfo=timezone.utc), datetime(2027, 1, 4, tzinfo=timezone.utc)
    friday = datetime(2027, 1, 1, tzinfo=timezone.utc)
    aged = [Aged("fri", friday), Aged("sun", sunday), Aged("mon", monday)]
    decisions = decide(aged, Keep(last=0, weekly=2), monday)
    assert {one.path for one in decisions if one.keep} == {"sun", "mon"}
    assert any("2026-W53" in reason for one in decisions for reason in one.reasons)


def test_several_rules_add_up_and_each_is_named() -> None:
    aged = points(*days(0, 40, 400))
    decisions = {one.path: one for one in decide(aged, Keep(last=1, monthly=2, yearly=2), NOW)}
    assert all(one.keep for one in decisions.values())
    assert len(decisions["/p/0"].reasons) == 3
    assert decisions["/p/2"].reasons == ("yearly 2 of 2 (2025)",)


def test_within_days_keeps_all_of_them() -> None:
    assert kept(points(*days(1, 6.9, 7.1)), Keep(last=0, within_days=7)) == {"/p/0", "/p/1"}


def test_ages_go_by_the_earlier_of_two_clocks() -> None:
    aged, keep = points(*days(1, 6.9, 7.1)), Keep(last=0, within_days=7)
    ahead, behind = NOW + timedelta(days=3000), NOW - timedelta(days=3000)
    assert {one.path for one in decide(aged, keep, ahead, NOW) if one.keep} == {"/p/0", "/p/1"}
    assert {one.path for one in decide(aged, keep, NOW, ahead) if one.keep} == {"/p/0", "/p/1"}
    # A clock that is behind keeps too much, and never too little.
    assert all(one.keep for one in decide(aged, keep, NOW, behind))


def test_a_held_point_stays_whatever_its_age() -> None:
    assert kept(points(*days(1, 900), held=(1,)), Keep(last=1)) == {"/p/0", "/p/1"}


def test_a_point_from_the_future_is_kept_and_displaces_nothing() -> None:
    aged = points(timedelta(days=-5), *days(1, 2))
    assert kept(aged, Keep(last=1)) == {"/p/0", "/p/1"}


def test_what_goes_says_that_no_rule_keeps_it() -> None:
    decision = decide(points(*days(1, 2)), Keep(last=1), NOW)[1]
    assert (decision.keep, decision.reasons) == (False, ("no rule keeps it",))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 400 * 24), max_size=25),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(1, 10),
)
def test_never_fewer_than_the_minimum_and_the_newest_always_among_them(
    hours: list[int], last: int, daily: int, monthly: int, least: int
) -> None:
    aged = points(*(timedelta(hours=number) for number in hours))
    decisions = decide(aged, Keep(last=last, daily=daily, monthly=monthly, min=least), NOW)
    stay = [one for one in decisions if one.keep]
    assert len(stay) >= min(least, len(aged))
    assert not decisions or decisions[0].keep
    assert len(decisions) == len(aged) and all(one.reasons for one in decisions)
