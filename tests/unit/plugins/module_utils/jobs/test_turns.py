# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import HostPlan, Volume, plan_host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import parse_policy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.select import Candidate, Selection
from jobs_values import make_vm

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=timezone.utc)
CLOSED = [{"from": "22:00", "to": "02:00", "timezone": "UTC"}]
VOLUMES = [Volume(name, f"/vmfs/volumes/{name}", 100 << 30, 90 << 30) for name in ("backup", "u1")]


def planned(ages: dict[str, float | None], **policy: Any) -> HostPlan:
    """The plan of a host whose VMs have newest restore points so many hours old."""
    names = list(ages)
    candidates = tuple(Candidate(name, f"id-{name}", number, "poweredOn") for number, name in enumerate(names))
    facts = {number: make_vm(name, vmid=number) for number, name in enumerate(names)}
    newest = {names.index(name): NOW - timedelta(hours=age) for name, age in ages.items() if age is not None}
    wishes = parse_policy({"point": "/vmfs/volumes/backup", **policy})
    targets = {(number, 0): f"/vmfs/volumes/backup/{name}" for number, name in enumerate(names)}
    selection = Selection(candidates, (), ())
    return plan_host("r", "esx1", selection, facts, wishes, targets, VOLUMES, newest=newest, now=NOW)


def order(plan: HostPlan) -> list[str]:
    return [vm.vm for vm in plan.vms]


def test_who_has_waited_longest_comes_first_and_who_never_had_a_point_before_all() -> None:
    assert order(planned({"a": 2, "b": 30, "c": None, "d": 24, "e": None})) == ["c", "e", "b", "d", "a"]


def test_a_priority_goes_before_every_age() -> None:
    vms = {"a": {"priority": 10}, "c": {"priority": -1}}
    assert order(planned({"a": 2, "b": 30, "c": None, "d": None}, vms=vms)) == ["a", "d", "b", "c"]


def test_what_was_missed_yesterday_is_what_today_begins_with() -> None:
    first = order(planned({"a": 25.0, "b": 24.9, "c": 24.8}))
    # Two were made in that order; the window ended before the third.
    ages = {first[0]: 1.0, first[1]: 0.9, first[2]: 25.8}
    assert order(planned(ages))[0] == first[2]


def test_a_point_from_the_future_says_nothing_of_its_age() -> None:
    plan = planned({"a": 30, "b": -48, "c": -0.5}, only_older_than_hours=20)
    assert [(vm.vm, vm.newest_at != "", vm.ready) for vm in plan.vms] == [
        ("b", False, True),
        ("a", True, True),
        ("c", True, False),
    ]


def test_a_fresh_one_is_skipped_needs_no_room_and_leaves_the_run_green(tmp_path: Any) -> None:
    ages: dict[str, float | None] = {"old": 30, "fresh": 3, "never": None, "own": 3}
    plan = planned(ages, only_older_than_hours=20, vms={"own": {"only_older_than_hours": 2}})
    assert [(vm.vm, vm.ready) for vm in plan.vms] == [("never", True), ("old", True), ("fresh", False), ("own", True)]
    assert plan.as_dict()["totals"]["ready"] == 3
    assert "left for now: its newest restore point is of 2026-11-25T00:00:00Z, younger than 20 hours" in plan.text()
    record.write_plan(str(tmp_path), plan.as_dict(), NOW)
    for name in ("old", "never", "own"):
        entry = record.read_entry(str(tmp_path), "r", "esx1", f"id-{name}")
        assert entry is not None and entry["status"] == "not-run"
        record.write_entry(str(tmp_path), {**entry, "status": "ok"})
    merged = record.merge(str(tmp_path), "r", ["esx1"])
    assert (merged["summary"]["skipped"], merged["summary"]["green"]) == (1, True)
    assert "fresh  skipped" in merged["summary"]["text"] and "younger than 20 hours" in merged["summary"]["text"]


def test_outside_of_its_window_nothing_is_begun_and_the_record_says_missed_and_why(tmp_path: Any) -> None:
    plan = planned(
        {"a": 30, "fresh": 1, "own": 30}, windows=CLOSED, only_older_than_hours=4, vms={"own": {"windows": []}}
    )
    assert [(vm.vm, vm.ready) for vm in plan.vms] == [("a", False), ("own", True), ("fresh", False)]
    record.write_plan(str(tmp_path), plan.as_dict(), NOW)
    entry = record.read_entry(str(tmp_path), "r", "esx1", "id-own")
    assert entry is not None
    record.write_entry(str(tmp_path), {**entry, "status": "ok"})
    merged = record.merge(str(tmp_path), "r", ["esx1"])
    summary = merged["summary"]
    assert (summary["missed"], summary["skipped"], summary["ok"], summary["green"]) == (1, 1, 1, False)
    (failed,) = summary["failed_vms"]
    assert (failed["vm"], failed["status"], failed["error"]["id"]) == ("a", "missed", "window-closed")
    assert "outside of its window 22:00 to 02:00 UTC" in failed["error"]["message"]
    assert "opens again at 2026-11-25T22:00:00Z" in failed["error"]["hint"]
    (missed,) = [one for one in merged["vms"] if one["vm"] == "a"]
    assert [disk["status"] for disk in missed["disks"]] == ["not-run"]


@pytest.mark.parametrize("priority", ["high", 1001, 1.5])
def test_a_priority_is_a_whole_number_within_bounds(priority: Any) -> None:
    with pytest.raises(Exception, match="priority is"):
        planned({"a": 1}, priority=priority)
