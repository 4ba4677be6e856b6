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
