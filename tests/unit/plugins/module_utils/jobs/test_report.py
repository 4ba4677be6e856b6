# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the records of a fleet say in the morning: who is fresh, who is an alarm and why; no name breaks the page."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import findings, history, record, report, reporttext
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.findings import Finding
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.report import Rules, Shown, Sight
from fakeclock import FakeClock

NOW = datetime(2026, 11, 27, 6, tzinfo=timezone.utc)


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def night(state: str, hours_ago: float, vm: str = "web01", host: str = "esx1", **changes: Any) -> dict[str, Any]:
    """One attempt of a backup, by default a good one."""
    at = NOW - timedelta(hours=hours_ago)
    run = at.strftime("%Y%m%dT%H%M%SZ")
    entry = record.new_entry(run, host, vm, f"id-{vm}", "backup", ())
    entry.update(status="ok", restore_point=f"/srv/s::{run}-{vm}", proven=True, bytes=5 << 20, seconds=61.0)
    entry.update(started_at=iso(at), ended_at=iso(at), effective_how="hot")
    entry.update(changes)
    record.write_entry(state, entry)
    return entry


def failed(state: str, hours_ago: float, vm: str = "web01", message: str = "no room", **changes: Any) -> dict[str, Any]:
    error = {"id": "no-room", "message": message, "hint": "", "data": {}}
    return night(state, hours_ago, vm, status="failed", restore_point=None, proven=None, error=error, **changes)


def proof(
    state: str, hours_ago: float, vm: str = "web01", bad: str = "", host: str = "esx1", place: str = "/srv/s"
) -> None:
    found = Finding("/srv/s::p", "20261120T000000Z", vm, f"id-{vm}", host, "deep", bad)
    at = NOW - timedelta(hours=hours_ago)
    findings.note(state, f"v{at:%Y%m%dT%H%M%SZ}", place, [found], FakeClock(at), False)


def planned(state: str, host: str, **changes: Any) -> None:
    plan = {"run_id": "plan1", "host": host, "vms": [], "problems": [], "not_selected": [], "excluded": []}
    record.write_plan(state, {**plan, **changes}, NOW - timedelta(hours=3))


def shows(*names: str, host: str = "esx1", snapshots: tuple[str, ...] = ()) -> Sight:
    return Sight((host,), tuple(Shown(host, name, f"id-{name}", snapshots) for name in names))


def made(state: str, sight: Sight, **rules: Any) -> report.Report:
    return report.make(history.read(state), sight, Rules(**rules), NOW)


def alarms(state: str, sight: Sight, **rules: Any) -> list[tuple[str, str]]:
    return [(one.id, one.vm) for one in made(state, sight, **rules).alarms]


def test_a_replica_that_stands_by_needs_no_backup_and_one_that_has_taken_over_does(state: str) -> None:
    copy = Shown("esx2", "web01", "id-copy", standby=True)
    sight = Sight(("esx2",), (copy,))
    (line,) = made(state, sight).lines
    assert (line.state, alarms(state, sight)) == ("ignored", [])
    assert alarms(state, replace(sight, vms=(replace(copy, standby=False),))) == [("no-job", "web01")]


def test_a_machine_with_a_fresh_point_is_no_alarm_and_its_line_tells_all_of_it(state: str) -> None:
    night(state, 30)
    night(state, 3, bytes_new=1 << 20)
    proof(state, 2)
    found = made(state, shows("web01"))
    (line,) = found.lines
    assert (found.green, line.state, line.age_hours, line.failures) == (True, "fresh", 3.0, 0)
    assert line.last is not None and line.last["bytes"] == 5 << 20
    assert line.proof is not None and line.proof["level"] == "deep"
    text = reporttext.text(found)
    for word in ("all 1 VMs", "2026-11-27T03:00:00Z", "3 h", "5.0 MiB", "1.0 MiB", "61 s", "2026-11-27 deep"):
        assert word in text


def test_an_old_point_is_an_alarm_with_what_failed_since(state: str) -> None:
    night(state, 51)
    failed(state, 27)
    failed(state, 3, message="datastore full")
    found = made(state, shows("web01"))
    (alarm,) = found.alarms
    assert (alarm.id, found.lines[0].failures) == ("stale", 2)
    assert "51 h old" in alarm.text and "2 attempt(s) failed" in alarm.text and "datastore full" in alarm.text
    assert "datastore full" in reporttext.text(found)


def test_a_failure_after_a_point_that_is_still_fresh_is_told_and_is_no_alarm(state: str) -> None:
    night(state, 20)
    failed(state, 1)
    found = made(state, shows("web01"))
    assert (found.green, found.lines[0].failures) == (True, 1) and "no room" in reporttext.text(found)


def test_a_machine_that_no_job_names_is_an_alarm_and_one_that_a_job_excludes_is_none(state: str) -> None:
    night(state, 1)
    planned(state, "esx1", excluded=["scratch"], not_selected=["forgotten"])
    sight = shows("web01", "scratch", "forgotten", "new")
    assert alarms(state, sight) == [("no-job", "forgotten"), ("no-job", "new")]
    assert alarms(state, sight, ignore=frozenset({"new", "id-forgotten"})) == []


def test_a_host_that_did_not_answer_is_an_alarm_and_hides_none_of_its_machines(state: str) -> None:
    night(state, 1)
    planned(state, "esx1", not_selected=["forgotten"])
    sight = Sight(("esx1",), (), {"esx1": "No route to host"})
    assert alarms(state, sight) == [("host-silent", ""), ("no-job", "forgotten")]
    found = made(state, sight)
    assert [line.vm for line in found.lines] == ["forgotten", "web01"]
    assert "HOSTS THAT DID NOT ANSWER" in reporttext.text(found) and "No route to host" in reporttext.text(found)


def test_a_machine_that_its_host_no_longer_has_is_told_and_is_no_alarm(state: str) -> None:
    night(state, 400, "gone01")
    night(state, 1)
    found = made(state, shows("web01"))
    assert found.green and [line.state for line in found.lines] == ["gone", "fresh"]
    assert "ON NO HOST ANY MORE" in reporttext.text(found)


def test_a_machine_that_moved_keeps_its_history(state: str) -> None:
    night(state, 1, host="esx2")
    (line,) = made(state, Sight(("esx1", "esx2"), shows("web01").vms)).lines
    assert (line.host, line.state, line.age_hours) == ("esx1", "fresh", 1.0)


@pytest.mark.parametrize(("proven_hours", "first_hours", "said"), [(None, 24 * 9, "never"), (24 * 10, 24 * 30, "10 d")])
def test_not_proven_for_too_long_is_an_alarm_with_the_number_of_days(
    state: str, proven_hours: int | None, first_hours: int, said: str
) -> None:
    night(state, first_hours)
    night(state, 1)
    if proven_hours is not None:
        proof(state, proven_hours)
    (alarm,) = made(state, shows("web01")).alarms
    assert alarm.id == "not-verified" and said in alarm.text
    assert alarms(state, shows("web01"), proven_days=0) == []


def test_a_damaged_point_is_an_alarm_until_a_later_proof_finds_it_good(state: str) -> None:
    night(state, 1)
    proof(state, 3, bad="2 chunks lost")
    (alarm,) = made(state, shows("web01")).alarms
    assert alarm.id == "damaged" and "2 chunks lost" in alarm.text
    proof(state, 2)
    assert made(state, shows("web01")).green


def test_a_sound_backup_point_hides_neither_the_damage_of_another_nor_that_it_was_never_proven(state: str) -> None:
    for copy, place in enumerate(("/srv/a", "/srv/b")):
        night(state, 24 * 12, run_id="old", backup_point=place, copy_number=copy)
        night(state, 1, run_id="new", backup_point=place, copy_number=copy)
    proof(state, 3, place="/srv/a")
    (alarm,) = made(state, shows("web01")).alarms
    assert alarm.id == "not-verified" and "in /srv/b for 12 days (never" in alarm.text
    proof(state, 2, place="/srv/b", bad="2 chunks lost")
    proof(state, 1, place="/srv/a")
    (alarm,) = made(state, shows("web01")).alarms
    assert alarm.id == "damaged" and "2 chunks lost" in alarm.text
    proof(state, 0.5, place="/srv/b")
    assert made(state, shows("web01")).green


def test_one_verify_of_two_backup_points_leaves_an_entry_for_each(state: str) -> None:
    for place in ("/srv/a", "/srv/b"):
        proof(state, 1, place=place)
    (run,) = os.listdir(os.path.join(state, "runs"))
    assert sorted(entry["backup_point"] for entry in record.read_run(state, run)[1]) == ["/srv/a", "/srv/b"]


def test_a_point_that_nobody_here_can_decrypt_is_not_proven(state: str) -> None:
    night(state, 1, proven=False, needs_key_provider="virtual TPM")
    (alarm,) = made(state, shows("web01")).alarms
    assert alarm.id == "not-proven" and "virtual TPM" in alarm.text


def test_of_several_backup_points_each_has_to_have_a_fresh_one(state: str) -> None:
    night(state, 2, backup_point="/srv/a")
    second = failed(state, 2, backup_point="/srv/b")
    # As a second point's entry, beside the first one's.
    folder = Path(record.run_folder(state, second["run_id"]), "entries")
    (path,) = folder.iterdir()
    path.rename(folder / "second.json")
    night(state, 2, backup_point="/srv/a")
    (alarm,) = made(state, shows("web01")).alarms
    assert alarm.id == "stale-copy" and "/srv/b" in alarm.text


def test_snapshots_of_ours_are_told_apart_from_the_reference_that_a_policy_keeps(state: str) -> None:
    kept = {"snapshot": 4, "name": "stowage-a", "created_at": "2026-11-26T00:00:00Z", "limits": {"max_age_hours": 72}}
    night(state, 1, reference=kept)
    found = made(state, shows("web01", snapshots=("users own", "stowage-a", "stowage-b")))
    assert found.lines[0].left == ["snapshot stowage-b, which is no reference that the last backup has left"]
    text = reporttext.text(found)
    assert "snapshot 4 is the reference" in text and "72 h" in text and "users own" not in text


def test_a_record_that_cannot_be_read_is_an_alarm_and_hides_no_other_run(state: str) -> None:
    night(state, 1)
    broken = Path(state, "runs", "broken", "entries")
    broken.mkdir(parents=True)
    (broken / "a.json").write_text("{")
    found = made(state, shows("web01"))
    assert [one.id for one in found.alarms] == ["record-unreadable"] and found.lines[0].state == "fresh"


def test_runs_that_nobody_wrote_to_since_are_not_read(state: str) -> None:
    entry = night(state, 24 * 100)
    old = (NOW - timedelta(days=100)).timestamp()
    for folder in ("entries", ""):
        os.utime(os.path.join(record.run_folder(state, entry["run_id"]), folder), (old, old))
    assert history.read(state, NOW - timedelta(days=90)).attempts == []
    assert len(history.read(state).attempts) == 1
    assert history.read(str(Path(state, "nowhere"))).attempts == []


def test_a_name_cannot_write_lines_of_its_own(state: str) -> None:
    name = "web\nALARMS\x1b[2J\u2028x\udcff"
    night(state, 1, name)
    found = made(state, shows(name))
    lines = reporttext.text(found).splitlines()
    assert "ALARMS" not in lines and not any("\x1b" in line for line in lines)
    reporttext.text(found).encode("utf-8")


def test_the_subject_says_whether_anybody_has_to_get_up(state: str) -> None:
    night(state, 1)
    assert reporttext.subject(made(state, shows("web01"))).startswith("Backups: all 1 VMs")
    assert reporttext.subject(made(state, shows("web01", "new"))) == "Backups: 1 alarm(s), 2 VMs on 1 hosts"


def test_a_proof_is_an_entry_of_the_record_that_counts(state: str) -> None:
    proof(state, 1, bad="2 chunks lost")
    run = os.listdir(os.path.join(state, "runs"))[0]
    merged = record.merge(state, run)
    (entry,) = merged["vms"]
    assert (entry["kind"], entry["status"], entry["proven"]) == ("verify", "failed", False)
    assert entry["error"]["id"] == "restore-point-damaged" and not merged["summary"]["green"]
    assert "every byte" in merged["summary"]["text"] and "2 chunks lost" in merged["summary"]["text"]


def test_what_a_stranger_wrote_into_a_proof_is_left_out() -> None:
    assert findings.points_in({"verified": "x"}) == []
    (found,) = findings.points_in({"verified": {"points": ["x", {}, {"path": "/p", "bad": None, "more": 1}]}})
    assert (found.path, found.bad) == ("/p", "")
