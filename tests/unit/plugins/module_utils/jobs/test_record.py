# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import StateNotKept
from fakeclock import FakeClock
from jobs_values import make_job

AT = datetime(2026, 11, 22, 20, tzinfo=timezone.utc)


def plan(*names: str, **problem: Any) -> dict[str, Any]:
    vms = [
        {
            "vm": name,
            "identity": f"id-{name}",
            "how": "hot",
            "effective_how": "hot",
            "why": "asked for",
            "warnings": [],
            "problems": [problem] if problem else [],
            "disks": [
                {"key": "scsi0:0", "action": "copy", "reason": "", "capacity_bytes": 10, "bytes_to_read": 5},
                {
                    "key": "scsi0:1",
                    "action": "excluded",
                    "reason": "asked for",
                    "capacity_bytes": 10,
                    "bytes_to_read": 5,
                },
            ],
        }
        for name in names
    ]
    return {"run_id": "run1", "host": "esx1", "vms": vms, "problems": [], "not_selected": ["tpl"]}


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def test_every_planned_machine_has_an_entry_before_anything_begins(state: str) -> None:
    record.write_plan(state, plan("web01", "$(x) 'y'/../z"), AT)
    merged = record.merge(state, "run1")
    assert [(entry["vm"], entry["status"]) for entry in merged["vms"]] == [
        ("$(x) 'y'/../z", "not-run"),
        ("web01", "not-run"),
    ]
    assert [disk["status"] for disk in merged["vms"][0]["disks"]] == ["not-run", "excluded"]
    assert merged["summary"]["green"] is False and merged["summary"]["not_run"] == 2


def test_a_problem_of_the_plan_is_a_failure_with_its_reason(state: str) -> None:
    record.write_plan(state, plan("web01", id="no-room", message="m", hint="h", data={}), AT)
    (entry,) = record.merge(state, "run1")["vms"]
    assert (entry["status"], entry["error"]["id"]) == ("failed", "no-room")


def test_a_name_that_nobody_has_is_in_the_record(state: str) -> None:
    value = {
        **plan(),
        "problems": [{"vm": "wbe", "error": {"id": "unknown-vm", "message": "m", "hint": "", "data": {}}}],
    }
    record.write_plan(state, value, AT)
    assert record.merge(state, "run1")["summary"]["failed_vms"][0]["vm"] == "wbe"


def test_a_kill_after_the_start_leaves_interrupted(state: str) -> None:
    value = plan("web01")
    record.write_plan(state, value, AT)
    entry = record.read_entry(state, "run1", "esx1", "id-web01")
    assert entry is not None
    record.write_entry(state, record.start_entry(entry, FakeClock()))
    (found,) = record.merge(state, "run1")["vms"]
    assert found["status"] == "interrupted" and found["disks"][0]["status"] == "interrupted"
    assert found["disks"][1]["status"] == "excluded"


def test_planning_again_forgets_nothing_that_was_done(state: str) -> None:
    record.write_plan(state, plan("web01"), AT)
    entry = record.read_entry(state, "run1", "esx1", "id-web01")
    assert entry is not None
    entry["status"] = "ok"
    record.write_entry(state, entry)
    record.write_plan(state, plan("web01"), AT)
    assert record.merge(state, "run1")["summary"]["ok"] == 1


def test_a_second_merge_changes_nothing(state: str) -> None:
    record.write_plan(state, plan("web01"), AT)
    merged = record.merge(state, "run1", ["esx1"])
    path, first = record.write_record(state, merged)
    assert (first, record.write_record(state, record.merge(state, "run1", ["esx1"]))[1]) == (True, False)
    assert json.loads(Path(path).read_text(encoding="utf-8"))["schema"] == record.SCHEMA


def test_check_mode_writes_no_record(state: str) -> None:
    path, changed = record.write_record(state, record.merge(state, "run1"), check=True)
    assert changed is True and not Path(path).exists()


def test_a_host_that_nothing_is_known_of_is_a_failed_host(state: str) -> None:
    record.write_plan(state, plan(), AT)
    merged = record.merge(state, "run1", ["esx1", "esx2"], {"esx3": {"msg": "unreachable"}})
    assert [(one["host"], one["error"]["id"]) for one in merged["summary"]["failed_hosts"]] == [
        ("esx2", "host-not-run"),
        ("esx3", "task-failed"),
    ]
    assert merged["summary"]["green"] is False


def test_an_empty_run_without_failures_is_green(state: str) -> None:
    record.write_plan(state, plan(), AT)
    assert record.merge(state, "run1", ["esx1"])["summary"]["green"] is True


def test_entries_of_another_run_are_not_counted(state: str) -> None:
    record.write_plan(state, plan("web01"), AT)
    assert record.merge(state, "run2")["vms"] == []


def test_the_figures_are_those_of_the_copies() -> None:
    entry = record.entry_of_plan("run1", "esx1", plan("web01")["vms"][0])
    record.add_copies(entry, [{"key": "scsi0:0", "copied_bytes": 7, "bytes_to_read": 5, "seconds": 2.5, "dest": "/d"}])
    assert (entry["bytes"], entry["bytes_read"], entry["disks"][0]["seconds"], entry["disks"][0]["dest"]) == (
        7,
        5,
        2.5,
        "/d",
    )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("text", ("task-failed", "text")),
        ({"msg": "m"}, ("task-failed", "m")),
        ({"msg": "m", "error": {"id": "no-room", "message": "inner"}}, ("no-room", "inner")),
        ({"id": "x", "message": "y"}, ("x", "y")),
    ],
)
def test_whatever_a_playbook_has_of_a_failure_becomes_an_error(given: Any, wanted: tuple[str, str]) -> None:
    found = record.error_of(given)
    assert found is not None and (found["id"], found["message"]) == wanted
    assert set(found) == {"id", "message", "hint", "data"}


def test_no_failure_is_none() -> None:
    assert record.error_of(None) is None and record.error_of("") is None


def test_a_policy_that_means_a_machine_on_no_host_is_a_warning_of_the_record(state: str) -> None:
    shared = {"policies_with_vm": ["web01"], "policies_without_vm": ["db01", "bd02"]}
    record.write_plan(state, {**plan(), **shared}, AT)
    other = {"host": "esx2", "policies_with_vm": ["db01"], "policies_without_vm": ["web01", "bd02"]}
    record.write_plan(state, {**plan(), **other}, AT)
    summary = record.merge(state, "run1", ["esx1", "esx2"])["summary"]
    assert summary["warnings"] == ["backup_vms has an entry for 'bd02', which no host of this run has"]
    assert "warning: backup_vms has an entry for 'bd02'" in summary["text"] and summary["green"] is True
    # The machine may be on the host that could not be planned.
    assert record.merge(state, "run1", ["esx1", "esx2", "esx3"])["summary"]["warnings"] == []


def test_the_summary_says_what_was_read_and_stored_and_what_rotation_did(state: str) -> None:
    entry = record.entry_of_plan("run1", "esx1", plan("web01")["vms"][0])
    record.add_copies(entry, [{"key": "scsi0:0", "copied_bytes": 1 << 20, "bytes_to_read": 3 << 20}])
    turned = {"kept": [{"path": "/a"}, {"path": "/b"}], "removed": [{"path": "/c"}], "problems": []}
    entry.update(status="ok", restore_point="/p/web01", seconds=2.0, rotation=turned)
    record.write_entry(state, entry)
    lines = record.merge(state, "run1")["summary"]["text"].splitlines()
    assert lines[0].endswith("ok on 1 hosts, 3.0 MiB read, 1.0 MiB stored")
    assert lines[1].endswith("3.0 MiB read, 1.0 MiB stored  2 s  /p/web01  restore points: 2 kept, 1 removed")
    record.write_entry(state, {**entry, "rotation": {**turned, "problems": ["x"]}})
    assert record.merge(state, "run1")["summary"]["text"].splitlines()[1].endswith("1 problems with older ones")


@pytest.mark.parametrize("use", ["plan", "entry", "mirror", "record", "mirrors", "merge"])
def test_a_state_folder_that_cannot_be_used_is_an_error_with_the_way_out(tmp_path: Path, use: str) -> None:
    """A file where a folder must be: the refusal that root meets, too."""
    for name in ("runs", "jobs"):
        (tmp_path / name).write_text("", encoding="utf-8")
    state = str(tmp_path)
    uses: dict[str, Any] = {
        "plan": lambda: record.write_plan(
            state, {"run_id": "r", "host": "h", "vms": [], "problems": []}, datetime(2026, 1, 1, tzinfo=timezone.utc)
        ),
        "entry": lambda: record.write_entry(state, record.new_entry("r", "h", "vm", "id", "backup", ())),
        "mirror": lambda: jobs.write_mirror(state, make_job()),
        "record": lambda: record.write_record(state, {"run_id": "r"}),
        "mirrors": lambda: jobs.mirrors(state),
        "merge": lambda: record.merge(state, "r"),
    }
    with pytest.raises(StateNotKept) as caught:
        uses[use]()
    assert state in caught.value.message and "backup_state_dir" in caught.value.hint_text


def test_a_restored_machine_that_failed_afterwards_is_told_with_its_point_and_the_reason(tmp_path: Path) -> None:
    entry = record.new_entry("run1", "esx1", "web01", "restore:/x", "restore", ())
    entry.update(
        status="failed", restore_point="/p/web01", error={"id": "x", "message": "it is poweredOff", "hint": ""}
    )
    record.write_entry(str(tmp_path), entry)
    text = record.merge(str(tmp_path), "run1")["summary"]["text"]
    assert text.split("\n")[1].endswith("/p/web01  it is poweredOff")


def test_copies_of_one_machine_on_two_hosts_are_told_and_one_that_two_hosts_show_is_not(tmp_path: Path) -> None:
    def vm(path: str, target: str = "/bk/web01-aa") -> dict[str, Any]:
        return {"vm": "web01", "identity": "id-1", "vmx_path": path, "target": target, "problems": [], "disks": []}

    state = str(tmp_path)
    plan = {"run_id": "run1", "not_selected": [], "problems": []}
    for host, one in (("esx1", vm("/v/a")), ("esx2", vm("/v/b")), ("esx3", vm("/v/a")), ("esx4", vm("/v/c", "/other"))):
        record.write_plan(state, {**plan, "host": host, "vms": [one]}, FakeClock().now())
    (warning,) = record.merge(state, "run1", ["esx1", "esx2", "esx3", "esx4"])["summary"]["warnings"]
    assert "'web01' of esx1 and 'web01' of esx2" in warning and "esx4" not in warning
    for host, one in (("esx1", vm("/v/a")), ("esx3", vm("/v/a"))):
        record.write_plan(state, {**plan, "run_id": "run2", "host": host, "vms": [one]}, FakeClock().now())
    assert record.merge(state, "run2", ["esx1", "esx3"])["summary"]["warnings"] == []
    # Whoever has the lock backs it up. That both have done so, with one path, is what only two machines can.
    for host in ("esx1", "esx3"):
        entry = record.read_entry(state, "run2", host, "id-1")
        assert entry is not None
        record.write_entry(state, {**entry, "status": "ok", "restore_point": f"/bk/web01-aa/{host}"})
    (warning,) = record.merge(state, "run2", ["esx1", "esx3"])["summary"]["warnings"]
    assert "'web01' of esx1 and 'web01' of esx3 have one UUID (id-1): their restore points are mixed in" in warning
    stored = {**vm("/v/a", "/srv/store"), "policy": {"program": "dedup"}}
    for host, one in (("esx1", stored), ("esx2", {**stored, "vmx_path": "/v/b"})):
        record.write_plan(state, {**plan, "run_id": "run3", "host": host, "vms": [one]}, FakeClock().now())
    (warning,) = record.merge(state, "run3", ["esx1", "esx2"])["summary"]["warnings"]
    assert "kept apart by their hypervisors in /srv/store" in warning


def test_what_is_left_of_a_backup_that_went_well_is_told() -> None:
    entry = record.new_entry("run1", "esx1", "web01", "id-1", "backup", ())
    entry.update(status="ok", left=["snapshot 5: it has our name, but not the id that we noted"])
    assert "left: snapshot 5" in record.summary("run1", (), [entry])["text"]


def test_what_went_into_a_store_is_told_apart_from_what_was_read(state: str) -> None:
    record.write_plan(state, plan("web01", "db01"), AT)
    entry = record.read_entry(state, "run1", "esx1", "id-web01")
    assert entry is not None and (entry["bytes_sent"], entry["bytes_new"]) == (None, None)
    copy = {
        "key": "scsi0:0",
        "bytes_to_read": 5,
        "read_bytes": 8,
        "sent_bytes": 4,
        "method": "clone",
        "notes": ["slow"],
    }
    record.add_copies(entry, [copy])
    record.add_told(entry, {"read": 8, "sent": 4, "new": 3, "stored": 2, "zero": 1})
    assert (entry["bytes_read"], entry["bytes_sent"], entry["bytes_new"], entry["bytes"]) == (8, 4, 3, 2)
    disk = entry["disks"][0]
    assert (disk["bytes_planned"], disk["bytes_read"], disk["bytes_sent"]) == (5, 8, 4)
    assert (disk["method"], disk["notes"]) == ("clone", ["slow"])
    record.write_entry(state, {**entry, "status": "ok"})
    summary = record.merge(state, "run1")["summary"]
    assert (summary["bytes_sent"], summary["bytes_new"]) == (4, 3)
    assert "8 B read, 4 B sent, 3 B new, 2 B stored" in summary["text"]
    # A machine that went to a datastore, or nowhere, sent nothing that was counted.
    assert "db01  not-run  hot  0 B read, 0 B stored" in summary["text"]


def test_what_came_of_a_hint_and_the_reference_that_stays_are_told(state: str) -> None:
    record.write_plan(state, plan("web01", "web02"), AT)
    words = {"web01": "", "web02": "VM 'web02': everything was hashed, as the reference snapshot is gone"}
    for name, way in (("web01", "hinted"), ("web02", "hashed")):
        entry = record.read_entry(state, "run1", "esx1", f"id-{name}")
        assert entry is not None and entry["hint"] is None and entry["reference"] is None
        record.add_hint(entry, {"way": way, "reason": ""}, words[name])
        record.add_hint(entry, {"way": way, "reason": ""}, words[name])
        assert entry["warnings"] == ([words[name]] if words[name] else [])
        entry.update(status="ok", reference={"snapshot": 7, "limits": {"max_age_hours": 72, "max_size_percent": 20}})
        record.write_entry(state, entry)
    summary = record.merge(state, "run1")["summary"]
    assert summary["warnings"] == [f"esx1: {words['web02']}"]
    assert summary["text"].count("snapshot 7 stays as the reference of the next backup, for 72 h and 20 %") == 2
    assert "    hint: hinted\n" in summary["text"] and f"  warning: esx1: {words['web02']}\n" in summary["text"]


def test_without_a_hint_nothing_is_told_of_one() -> None:
    entry = record.new_entry("run1", "esx1", "web01", "id-web01", "backup", ())
    record.add_hint(entry, {"way": "off"}, "")
    record.add_hint(entry, {}, "")
    assert (entry["hint"], entry["warnings"]) == (None, [])
