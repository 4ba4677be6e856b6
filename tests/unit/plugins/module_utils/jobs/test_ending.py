# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the last step writes about a restore that went well when something asked for afterwards did not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import ending, record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.undo import Undone
from fakeclock import FakeClock
from jobs_values import make_job

PROBLEM = {"id": "esxi-power-failed", "message": "it is poweredOff", "hint": "", "data": {}}
PLAN = {
    "vm": "web01",
    "identity": "restore:/ds/web01/web01.vmx",
    "directory": "/ds/web01",
    "disks": [{"key": "scsi0:0", "action": "copy"}],
}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    host: Any = SimpleNamespace(clock=FakeClock())
    return Context(host, PLAN, "run1", str(tmp_path), "esx1", "tests", kind="restore")


def test_a_restored_vm_that_did_not_start_is_failed_and_its_disks_are_back(context: Context) -> None:
    entry = record.start_entry(ending.entry_of(context), context.host.clock)
    job = make_job(kind="restore", extra={"restore_point": {"path": "/p/web01"}})
    events = Events(({"event": "commit-done"},))
    ending._finish_entry(context, entry, job, events, Undone((), ()), None, PROBLEM, "failed", None)
    assert (entry["status"], entry["error"], entry["restore_point"]) == ("failed", PROBLEM, "/p/web01")
    assert [disk["status"] for disk in entry["disks"]] == ["ok"]


def test_a_backup_that_failed_when_its_point_was_there_names_it_with_the_reason(tmp_path: Path) -> None:
    """A commit whose answer was lost has happened all the same."""
    host: Any = SimpleNamespace(clock=FakeClock())
    plan = {**PLAN, "identity": "id-1"}
    context = Context(host, plan, "run1", str(tmp_path), "esx1", "tests")
    entry = record.start_entry(ending.entry_of(context), context.host.clock)
    events = Events(({"event": "commit-done", "final": "/srv/store::P"},))
    ending._finish_entry(context, entry, make_job(), events, Undone((), ()), None, PROBLEM, "failed", None)
    assert (entry["status"], entry["restore_point"]) == ("failed", "/srv/store::P")
    assert entry["error"]["message"] == "it is poweredOff. The restore point /srv/store::P was made all the same"
    ending._finish_entry(context, entry, make_job(), Events(), Undone((), ()), None, PROBLEM, "failed", None)
    assert (entry["error"], entry["restore_point"]) == (PROBLEM, None)


def test_one_that_had_been_there_before_is_failed_too(context: Context) -> None:
    entry = ending.entry_of(context)
    entry.update(status="ok", why="already restored")
    record.write_entry(context.state_dir, entry)
    ended = ending._end_without_job(context, ending.entry_of(context), "failed", PROBLEM)
    assert ended.entry == ending.entry_of(context)
    assert (ended.entry["status"], ended.entry["error"], ended.entry["why"]) == ("failed", PROBLEM, "already restored")


def test_a_last_step_that_is_repeated_leaves_a_good_entry_alone(context: Context) -> None:
    entry = ending.entry_of(context)
    entry.update(status="ok")
    record.write_entry(context.state_dir, entry)
    assert ending._end_without_job(context, ending.entry_of(context), "ok", None).entry["status"] == "ok"
