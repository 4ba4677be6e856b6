# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every VM that a restore was asked for is in the record, whatever became of it; its plan can be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record, restoreplanning
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import NoRestorePoint
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import parse_manifest, render_manifest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import identity_hash
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import Volume
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.restore import (
    Registered,
    Target,
    Wish,
    mark_of,
    plan_restore,
    refuse,
)
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import parse_vmx

GIB = 1 << 30
PLACE = "/vmfs/volumes/u1/web01-new"
POINT = parse_manifest(
    render_manifest(
        {
            "time": "20261122T200000Z",
            "host": "esx1",
            "vm": {"name": "web01", "identity": "id-1", "uuid": "uuid-1"},
            "disks": [
                {
                    "key": "scsi0:0",
                    "label": "Hard disk 1",
                    "file": "scsi0-0.vmdk",
                    "capacity_bytes": GIB,
                    "allocated_bytes": 3 << 20,
                    "cid": "0000000a",
                    "format": "thin",
                    "source": "/vmfs/volumes/u/web01/web01.vmdk",
                }
            ],
            "files": [
                {"name": "scsi0-0.vmdk", "size": 500, "role": "disk"},
                {"name": "web01.vmx", "size": 50, "role": "vmx"},
            ],
        }
    ),
    f"/vmfs/volumes/bk/web01-{identity_hash('id-1')}/20261122T200000Z",
)
VMX = parse_vmx(
    'displayName = "web01"\nethernet0.present = "TRUE"\nethernet0.networkName = "VM Network"\n'
    'ethernet1.present = "TRUE"\nethernet1.networkName = "Backup"\nethernet1.startConnected = "FALSE"\n'
    'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "web01.vmdk"\n'
    'scsi0:1.present = "TRUE"\nscsi0:1.fileName = "web01_1.vmdk"\n',
    "web01.vmx",
)
WISH = Wish(directory=PLACE, name="web01 new", networks={"VM Network": "Isolated"}, uuid="new", mac="new")
TARGET = Target(
    host="esx2",
    directory_exists=False,
    registered=(),
    hardware_version_max=14,
    networks=("Isolated", "Backup"),
    volume=Volume("ds 1", "/vmfs/volumes/u1", 100 * GIB, 50 * GIB),
)
THERE = Registered(3, "web01 new", PLACE, "id-1", "poweredOff", restored_from=mark_of(POINT))
GONE = "disk scsi0:1 is not in the restore point: the device was taken out"


def plan(wish: Wish = WISH, **target: Any) -> Any:
    return plan_restore(POINT, VMX, wish, replace(TARGET, **target))


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    asked = {"vm": "web01", "name": "web01 new", "point": "/vmfs/volumes/bk", "datastore": "ds 1"}
    return {**asked, "run_id": "run1", "state_dir": str(tmp_path), "inventory_host": "esx2", "hostname": "10.0.0.2"}


def merged(params: dict[str, Any]) -> dict[str, Any]:
    return record.merge(params["state_dir"], "run1", ["esx2"])


# -- the plan in lines -------------------------------------------------------------------------------------------


def test_the_plan_says_what_comes_from_where_and_goes_where_as_what() -> None:
    assert restoreplanning.text(plan().as_dict()).splitlines() == [
        "web01 new: restore to esx2, ready, room needed 4.0 MiB",
        f"  from      web01 of esx1 at 2026-11-22T20:00:00Z  {POINT.path}",
        f"  to        [ds 1] {PLACE}",
        f"  scsi0:0   copy      3.0 MiB of 1.0 GiB         {POINT.path}/scsi0-0.vmdk  to web01-new.vmdk, thin",
        "  ethernet0 network   'VM Network' becomes 'Isolated', connected",
        "  ethernet1 network   'Backup', not connected",
        "  identity  gets new UUIDs when it is powered on; its network cards get new addresses",
        "  note: it gets a new identity when it is powered on",
        f"  note: {GONE}",
    ]


def test_a_plan_that_must_not_be_shows_all_that_stands_against_it() -> None:
    text = restoreplanning.text(plan(directory_exists=True, networks=()).as_dict())
    assert ", PROBLEM, " in text.splitlines()[0]
    assert text.count("  problem: ") == 3


def test_a_plan_with_nothing_to_do_says_so() -> None:
    text = restoreplanning.text(plan(registered=(THERE,), directory_exists=True).as_dict())
    assert ", already restored, left as it is, " in text.splitlines()[0]


# -- the record --------------------------------------------------------------------------------------------------


def test_a_planned_restore_is_in_the_record_before_its_first_step(params: dict[str, Any]) -> None:
    restoreplanning.noted(params, {"plan": plan().as_dict()}, check=False)
    (entry,) = merged(params)["vms"]
    assert (entry["vm"], entry["status"], entry["kind"]) == ("web01 new", "not-run", "restore")
    assert merged(params)["summary"]["green"] is False


def test_what_is_restored_already_is_ok_and_says_so(params: dict[str, Any]) -> None:
    there = plan(registered=(THERE,), directory_exists=True)
    restoreplanning.noted(params, {"plan": there.as_dict()}, check=False)
    (entry,) = merged(params)["vms"]
    assert (entry["status"], entry["why"], entry["bytes"]) == ("ok", "already restored, left as it is", 0)
    assert (entry["restore_point"], entry["disks"][0]["status"]) == (POINT.path, "ok")
    summary = merged(params)["summary"]
    assert (summary["green"], summary["ok"]) == (True, 1)
    assert "already restored, left as it is" in summary["text"] and "1 of 1 VMs ok" in summary["text"]


def test_the_second_request_of_a_run_does_not_hide_what_the_first_has_done(params: dict[str, Any]) -> None:
    first = record.entry_of_plan("run1", "esx2", plan().as_dict(), "restore")
    record.write_entry(params["state_dir"], {**first, "status": "ok", "bytes": 7})
    restoreplanning.noted(params, {"plan": plan(registered=(THERE,), directory_exists=True).as_dict()}, check=False)
    restoreplanning.refused(params, refuse(plan(directory_exists=True)), check=False)
    assert sorted((entry["status"], entry["bytes"]) for entry in merged(params)["vms"]) == [("failed", 0), ("ok", 7)]


def test_what_a_restored_machine_lacks_is_a_warning_in_its_entry_and_in_the_summary(params: dict[str, Any]) -> None:
    restoreplanning.noted(params, {"plan": plan().as_dict()}, check=False)
    (entry,) = merged(params)["vms"]
    assert GONE in entry["warnings"]
    assert f"\n    {GONE}\n" in merged(params)["summary"]["text"]


def test_a_refused_restore_is_a_failed_machine_with_its_disks_and_all_reasons(params: dict[str, Any]) -> None:
    error = refuse(plan(directory_exists=True, networks=("Backup",)))
    fields = restoreplanning.refused(params, error, check=False)
    assert "PROBLEM" in fields["text"] and fields["plan"]["ready"] is False
    (entry,) = merged(params)["vms"]
    assert (entry["vm"], entry["status"], entry["error"]["id"]) == ("web01 new", "failed", "restore-refused")
    assert [disk["status"] for disk in entry["disks"]] == ["not-run"]
    assert "the folder" in entry["error"]["message"] and "Isolated" in entry["error"]["message"]
    summary = merged(params)["summary"]
    assert (summary["vms"], summary["failed"], summary["failed_hosts"]) == (1, 1, [])


@pytest.mark.parametrize(
    ("asked", "name"),
    [({"name": None}, "web01"), ({}, "web01 new"), ({"name": None, "vm": None}, "bk")],
)
def test_a_restore_without_a_plan_is_in_the_record_by_the_name_that_was_asked_for(
    params: dict[str, Any], asked: dict[str, Any], name: str
) -> None:
    error = NoRestorePoint(wanted="of VM 'web01'", point="/vmfs/volumes/bk", found="Found there: nothing.")
    restoreplanning.refused({**params, **asked}, error, check=False)
    (entry,) = merged(params)["vms"]
    assert (entry["host"], entry["vm"], entry["status"], entry["error"]["id"]) == (
        "esx2",
        name,
        "failed",
        "no-restore-point",
    )


def test_two_requests_that_fail_for_one_name_are_two_entries(params: dict[str, Any]) -> None:
    error = NoRestorePoint(wanted="of VM 'web01'", point="/vmfs/volumes/bk", found="")
    for datastore in ("ds 1", "ds 2"):
        restoreplanning.refused({**params, "datastore": datastore}, error, check=False)
    assert merged(params)["summary"]["failed"] == 2


@pytest.mark.parametrize(("check", "run_id"), [(True, "run1"), (False, None), (False, "../x")])
def test_check_mode_and_a_task_of_no_run_record_nothing(
    params: dict[str, Any], tmp_path: Path, check: bool, run_id: str | None
) -> None:
    given = {**params, "run_id": run_id}
    assert "entry" not in restoreplanning.noted(given, {"plan": plan().as_dict()}, check)
    assert "entry" not in restoreplanning.refused(given, refuse(plan(directory_exists=True)), check)
    assert list(tmp_path.iterdir()) == []


def test_the_copies_of_a_restore_are_found_by_where_they_went(params: dict[str, Any]) -> None:
    entry = record.entry_of_plan("run1", "esx2", plan().as_dict(), "restore")
    copy = {"key": "scsi0-0.vmdk", "dest": f"{PLACE}/web01-new.vmdk", "copied_bytes": 7, "bytes_to_read": 5}
    record.add_copies(entry, [{**copy, "seconds": 2.5}])
    assert (entry["bytes"], entry["bytes_read"], entry["disks"][0]["seconds"]) == (7, 5, 2.5)
