# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several backup points a VM: one plan and one bracket, and of each point its own rules, entry and outcome."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, ending, record, recover, undo
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events, Situation, plan_undo
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copylog import log_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job, parse_job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import HostPlan, StoreRoom, Volume, plan_host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import parse_policy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.select import Candidate, Selection
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.undo import Undone
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from fakeclock import FakeClock
from jobs_values import make_job, make_vm

AT = datetime(2026, 11, 22, 20, 0, tzinfo=timezone.utc)
GIB = 1 << 30
TWO = ["/vmfs/volumes/backup/", {"point": "/srv/store", "program": "dedup", "keep": {"daily": 30}, "rotate": "no"}]
PARTIALS = tuple(f"/vmfs/volumes/{name}/web01-aa/.partial-20261122T200000Z-run1-b0123456789ab" for name in "ab")


def two_copies(**changes: Any) -> Job:
    """A job with two folders as backup points; the plan's number 1 leads, as number 0 had no room."""
    also = {
        "copy_number": 2,
        "policy": {"point": "/vmfs/volumes/b"},
        "partial": PARTIALS[1],
        "final": "/vmfs/volumes/b/t",
    }
    values: dict[str, Any] = {"partial": PARTIALS[0], "extra": {"copy_number": 1, "also": [also], "why": "asked for"}}
    return make_job(**{**values, **changes})


# -- the wish ------------------------------------------------------------------------------------------------------


def test_each_point_has_its_own_rules_and_takes_the_rest_from_the_common_ones() -> None:
    policy = parse_policy({"points": TWO, "how": "cold", "verify": "full", "keep": {"last": 3}})
    first, second = policy.all_for_vm(["web01"])
    assert (first.point, first.program, first.keep.last, first.rotate) == (
        "/vmfs/volumes/backup",
        "vmkfstools",
        3,
        True,
    )
    assert (second.point, second.program, second.keep.daily, second.keep.last) == ("/srv/store", "dedup", 30, 0)
    assert (second.rotate, second.how, second.verify) == (False, "cold", "full")
    assert policy.for_vm(["web01"]) == first


def test_one_point_is_one_policy_and_stays_what_it_was() -> None:
    policy = parse_policy({"point": "/vmfs/volumes/backup", "vms": {"db01": {"points": TWO}}})
    assert [one.point for one in policy.all_for_vm(["web01"])] == ["/vmfs/volumes/backup"]
    assert [one.point for one in policy.all_for_vm(["db01"])] == ["/vmfs/volumes/backup", "/srv/store"]


def test_a_point_or_a_list_of_a_single_machine_stands_in_the_place_of_the_common_list() -> None:
    own = {"db01": {"point": "/vmfs/volumes/own"}, "mail": {"points": ["/vmfs/volumes/x"]}, "web": {"verify": "none"}}
    policy = parse_policy({"points": TWO, "vms": own})
    assert [one.point for one in policy.all_for_vm(["db01"])] == ["/vmfs/volumes/own"]
    assert [one.point for one in policy.all_for_vm(["mail"])] == ["/vmfs/volumes/x"]
    assert [(one.program, one.verify) for one in policy.all_for_vm(["web"])] == [
        ("vmkfstools", "none"),
        ("dedup", "none"),
    ]


def test_a_reference_snapshot_belongs_to_one_point() -> None:
    stores = [{"point": "/vmfs/volumes/b"}, *({"point": f"/srv/{name}", "program": "dedup"} for name in "ab")]
    found = parse_policy({"points": stores, "reference": {"enabled": True}}).all_for_vm(["web01"])
    assert [one.keeps_reference for one in found] == [False, True, False]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "no backup point"),
        ({"points": []}, "no backup point"),
        ({"points": ["/vmfs/volumes/a", "/vmfs/volumes/a/"]}, "named twice"),
        ({"points": [{"program": "dedup"}]}, "must name its point"),
        ({"points": [7]}, "must name its point"),
        ({"points": [{"point": "/vmfs/volumes/a", "how": "cold"}]}, "not a setting of one point"),
        ({"points": ["/srv/store", "s3://bucket/x"], "program": "borg"}, "borg knows no buckets"),
        ({"points": ["relative"]}, r"points\[0\].point"),
        ({"point": "/vmfs/volumes/a", "vms": {"w": {"point": "/x", "points": ["/y"]}}}, "both given"),
        ({"point": "/vmfs/volumes/a", "vms": {"w": {"points": ["s3://b/x"]}}}, r"vms\['w'\].points\[0\]"),
    ],
)
def test_points_that_cannot_be_are_refused_before_any_machine_is_touched(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        parse_policy(raw)


# -- the plan ------------------------------------------------------------------------------------------------------


def planned(free: int = 90 * GIB, **more: Any) -> HostPlan:
    policy = parse_policy({"points": TWO, **more})
    selection = Selection((Candidate("web01", "id-web01", 7, "poweredOn"),), (), ())
    targets = {(7, 0): "/vmfs/volumes/backup/web01-aa", (7, 1): "/srv/store"}
    volumes = [
        Volume("backup", "/vmfs/volumes/u-backup", 100 * GIB, free),
        Volume("ds1", "/vmfs/volumes/u1", 100 * GIB, 50 * GIB),
    ]
    stores = {"/srv/store": StoreRoom(100 * GIB, 50 * GIB)}
    return plan_host("run1", "esx1", selection, {7: make_vm()}, policy, targets, volumes, (), stores)


def test_a_machine_with_two_points_is_one_entry_of_the_plan_that_has_both() -> None:
    plan = planned().as_dict()
    (vm,) = plan["vms"]
    assert [(one["copy_number"], one["target"], one["ready"]) for one in (vm, *vm["also"])] == [
        (0, "/vmfs/volumes/backup/web01-aa", True),
        (1, "/srv/store", True),
    ]
    totals = plan["totals"]
    assert (totals["vms"], totals["ready"], totals["copies"], totals["bytes_to_read"]) == (1, 1, 2, 2 * (100 << 20))
    assert "web01: hot (asked for) to /vmfs/volumes/backup (vmkfstools), ready" in plan["text"]
    assert "  also to /srv/store (dedup): ready, at most 100 MiB new in the store\n" in plan["text"]


def test_a_point_without_room_is_no_problem_of_the_other_which_then_leads() -> None:
    plan = planned(free=GIB)
    (vm,) = plan.vms
    assert (vm.copy_number, vm.ready, vm.target) == (1, True, "/srv/store")
    assert [(one.copy_number, [problem["id"] for problem in one.problems]) for one in vm.also] == [(0, ["no-room"])]
    assert "also to /vmfs/volumes/backup (vmkfstools): PROBLEM" in plan.text() and "    problem: " in plan.text()


def test_what_is_wrong_with_the_machine_itself_is_said_once() -> None:
    policy = parse_policy({"points": TWO})
    selection = Selection((Candidate("web01", "id-web01", 7, "poweredOn"),), (), ())
    facts = {7: make_vm(question="Did you copy it?")}
    targets = {(7, 0): "/vmfs/volumes/backup/w", (7, 1): "/srv/store"}
    volumes = [Volume("backup", "/vmfs/volumes/u-backup", 100 * GIB, 90 * GIB)]
    plan = plan_host("r", "esx1", selection, facts, policy, targets, volumes)
    assert plan.text().count("Did you copy it?") == 1 and not plan.vms[0].ready


# -- the record ----------------------------------------------------------------------------------------------------


def written(state: str, statuses: dict[int, str]) -> dict[str, Any]:
    record.write_plan(state, planned().as_dict(), AT)
    for copy, status in statuses.items():
        entry = record.read_entry(state, "run1", "esx1", "id-web01", copy=copy)
        assert entry is not None and entry["copy_number"] == copy
        point = f"/point/{copy}" if status == "ok" else None
        error = None if status == "ok" else {"id": "x", "message": "no room", "hint": "", "data": {}}
        record.write_entry(state, {**entry, "status": status, "restore_point": point, "error": error})
    return record.merge(state, "run1", ["esx1"])


def test_a_point_that_failed_is_told_with_its_name_beside_the_one_that_was_made(tmp_path: Path) -> None:
    merged = written(str(tmp_path), {0: "ok", 1: "failed"})
    assert [(one["backup_point"], one["program"], one["status"]) for one in merged["vms"]] == [
        ("/vmfs/volumes/backup", "vmkfstools", "ok"),
        ("/srv/store", "dedup", "failed"),
    ]
    summary = merged["summary"]
    assert (summary["vms"], summary["copies"], summary["ok"], summary["failed"]) == (1, 2, 0, 1)
    assert [one["backup_point"] for one in summary["failed_vms"]] == ["/srv/store"] and not summary["green"]
    assert "0 of 1 VMs ok (1 of 2 copies)" in summary["text"] and "/srv/store: no room" in summary["text"]
    assert "/point/0" in summary["text"]


def test_a_machine_is_ok_when_all_its_points_are(tmp_path: Path) -> None:
    summary = written(str(tmp_path), {0: "ok", 1: "ok"})["summary"]
    assert (summary["ok"], summary["green"], summary["failed_vms"]) == (1, True, [])
    assert "1 of 1 VMs ok (2 of 2 copies)" in summary["text"]


# -- the job -------------------------------------------------------------------------------------------------------


def test_a_job_tells_each_of_its_points_apart_and_comes_back_from_its_file() -> None:
    job = two_copies()
    again = parse_job(job.render())
    assert again is not None and again.render() == job.render()
    first, second = again.copies
    assert [(one.copy, one.partial) for one in (first, second)] == [(1, PARTIALS[0]), (2, PARTIALS[1])]
    assert second.policy == {"point": "/vmfs/volumes/b"} and second.extra["why"] == "asked for"
    assert again.of_copy(2) == second and again.of_copy(0) is None
    single = make_job()
    assert single.copies == (single,) and single.copy is None and single.of_copy(5) == single


@pytest.mark.parametrize(
    "also", [["x"], [{"copy_number": 1}], [{"copy_number": "2", "policy": {}, "partial": "", "final": ""}], {}, 7]
)
def test_a_job_file_whose_points_are_not_what_we_write_is_none_of_ours(also: Any) -> None:
    assert parse_job(two_copies(extra={"copy_number": 1, "also": also}).render()) is None


def test_each_copy_is_known_by_the_mirror_of_the_whole(tmp_path: Path) -> None:
    job = two_copies()
    jobs.write_mirror(str(tmp_path), job)
    assert jobs.is_begun(str(tmp_path), job) and all(jobs.is_begun(str(tmp_path), one) for one in job.copies)
    altered = two_copies(extra={**job.extra, "also": [{**job.extra["also"][0], "final": "/vmfs/volumes/other/t"}]})
    assert not jobs.is_begun(str(tmp_path), altered) and not jobs.is_begun(str(tmp_path), altered.copies[1])


def test_what_a_copy_notes_the_others_do_not_see_and_the_bracket_is_seen_by_all(
    session: Session, tmp_path: Path
) -> None:
    (tmp_path / "job.json").write_text('{"job": "run1-b0123456789ab"}\n')
    (tmp_path / "lease").touch()
    log, (first, second) = IntentLog(session, str(tmp_path), FakeClock()), two_copies().copies
    log.note("snapshot-done", id=4)
    log_of(log, first).note("commit-done", final="/a")
    seen = [[entry["event"] for entry in log_of(log, one).read()] for one in (first, second)]
    assert seen == [["snapshot-done", "commit-done"], ["snapshot-done"]]
    events = Events(tuple(log.read()))
    assert [events.of_copy(one).committed for one in (first, second)] == [True, False]
    assert log_of(log, make_job()) is log


# -- undone --------------------------------------------------------------------------------------------------------


def test_of_a_killed_job_the_half_copy_of_each_point_goes_and_nothing_of_others() -> None:
    situation = Situation(7, "poweredOn", "boot-1", partial_exists=True, other_partials=(PARTIALS[1],))
    undone = plan_undo(two_copies(), Events(), situation)
    assert undone.half_copies == PARTIALS
    foreign = dict(two_copies().extra["also"][0], partial="/vmfs/volumes/b/of others")
    job = two_copies(extra={"copy_number": 1, "also": [foreign]})
    undone = plan_undo(
        job, Events(), Situation(7, "poweredOn", "boot-1", other_partials=("/vmfs/volumes/b/of others",))
    )
    assert undone.half_copies == () and undone.left


def test_a_half_copy_beside_a_restore_point_that_was_made_is_removed_and_the_point_stays(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, half = tmp_path / "a" / "20261122T200000Z", tmp_path / "b" / Path(PARTIALS[1]).name
    for folder in (made, half, tmp_path / "job"):
        folder.mkdir(parents=True)
    (tmp_path / "job" / "job.json").write_text('{"job": "run1-b0123456789ab"}\n')
    also = {"copy_number": 2, "policy": {}, "partial": str(half), "final": str(tmp_path / "b" / "t")}
    job = two_copies(
        partial=str(tmp_path / "a" / half.name), final=str(made), extra={"copy_number": 1, "also": [also]}, policy={}
    )
    host: Any = SimpleNamespace(session=session, name="esx1", clock=FakeClock())
    undoer = undo.Undoer(host, job, str(tmp_path / "job"))
    log_of(undoer.log, job.copies[0]).note("commit-done", final=str(made))
    monkeypatch.setattr(undo.survey, "processes", lambda _session: ())
    asked: list[int | None] = []
    monkeypatch.setattr(undo.places, "of_job", lambda one, _stores: asked.append(one.copy) or _NothingMade())
    undone = undoer.run(None)
    assert undone.clean and undone.done == (f"removed {half}",)
    assert made.is_dir() and not half.exists() and asked == [2, 2]


class _NothingMade:
    def made(self, *_args: Any) -> str:
        return ""

    def half_copy(self, _job: Any) -> str:
        return ""


# -- the end -------------------------------------------------------------------------------------------------------


def test_the_copy_to_one_point_failing_unmakes_no_other_and_each_has_its_own_verdict(tmp_path: Path) -> None:
    (lead,) = planned().as_dict()["vms"]
    record.write_plan(str(tmp_path), planned().as_dict(), AT)
    host: Any = SimpleNamespace(clock=FakeClock())
    context = backup.Context(host, lead, "run1", str(tmp_path), "esx1")
    also = {"copy_number": 1, "policy": lead["also"][0]["policy"], "partial": "", "final": "/srv/store"}
    job = two_copies(extra={"copy_number": 0, "also": [also]}, policy=lead["policy"])
    told = {"id": "store-full", "message": "no room in the store", "hint": "", "data": {}}
    (other,) = ending._others(context, job, None, {1: {"copy_number": 1, "error": told}})
    first = ending._Copy(context, job.copies[0], ending.entry_of(context), "ok", None)
    first.events = Events(({"event": "commit-done", "final": "/vmfs/volumes/backup/w/t", "of_copy": 0},))
    for one in (first, other):
        ending._finish(one, Undone((), (), ("kept from rotating",)), False, None)
    assert (first.entry["status"], first.entry["restore_point"]) == ("ok", "/vmfs/volumes/backup/w/t")
    assert (other.entry["status"], other.entry["restore_point"], other.entry["error"]) == ("failed", None, told)
    # What failed before any copy had begun has failed for all of them.
    (unmade,) = ending._others(context, job, told, {})
    assert (unmade.outcome, unmade.problem) == ("failed", told)


def test_recover_closes_the_entry_of_each_point_by_what_became_of_it(tmp_path: Path) -> None:
    state = str(tmp_path)
    (lead,) = planned().as_dict()["vms"]
    also = {"copy_number": 1, "policy": lead["also"][0]["policy"], "partial": "", "final": "/srv/store"}
    job = two_copies(extra={"copy_number": 0, "also": [also]}, policy=lead["policy"], identity="id-web01")
    record.write_plan(state, planned().as_dict(), AT)
    for copy in (0, 1):
        entry = record.read_entry(state, "run1", "esx1", "id-web01", copy=copy)
        assert entry is not None
        record.write_entry(state, record.start_entry(entry, FakeClock()))
    host: Any = SimpleNamespace(clock=FakeClock())
    events = Events(({"event": "commit-done", "final": "/vmfs/volumes/backup/w/t", "of_copy": 0},))
    recover.close_record(host, job, state, events, Undone(("removed snapshot 4",), ()))
    merged = record.merge(state, "run1", ["esx1"])
    assert [(one["copy_number"], one["status"], one["restore_point"]) for one in merged["vms"]] == [
        (0, "interrupted", "/vmfs/volumes/backup/w/t"),
        (1, "interrupted", None),
    ]
    assert json.dumps(merged)
