# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Job folders that no job of ours has left as they are, and machines that are not who they were."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, ending, record, recover
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import UndoIncomplete
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job, parse_job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import Sign
from fakeclock import FakeClock
from jobs_values import make_job

HOST: Any = SimpleNamespace(name="10.0.0.1", clock=FakeClock(), session=None)
ENTRY = {"vm": "web01", "identity": "id-1", "directory": "/v/web01", "vmx_path": "/v/web01/web01.vmx", "disks": []}


def found_of(job: Job | None, directory: str = "/vmfs/volumes/ds/web01", text: bool = True) -> lock.Found:
    return lock.Found(f"{directory}/.stowage-job", directory, Sign(1, 1000), "1", job, text and job is None)


@pytest.mark.parametrize(
    ("seen", "found", "lives", "outcome", "said"),
    [
        (True, None, False, "recovered", ""),
        (False, None, False, "vanished", "its datastore is not there"),
        (True, found_of(None), False, "vanished", "it may be this one"),
        (True, found_of(None, text=False), False, "vanished", "it may be this one"),
        (True, found_of(None, "/vmfs/volumes/ds/other"), False, "recovered", ""),
        (True, None, True, "live", ""),
    ],
    ids=["gone", "not mounted", "unreadable", "nameless", "another's", "under way"],
)
def test_a_job_whose_folder_is_not_seen_is_forgotten_only_where_it_would_be_seen(
    seen: bool,
    found: lock.Found | None,
    lives: bool,
    outcome: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host knows its machines before it has mounted their datastores."""
    job, state = make_job(), str(tmp_path / "state")
    jobs.write_mirror(state, job)
    vm: Any = SimpleNamespace(directory=job.directory, vmx_path=job.vmx_path)
    monkeypatch.setattr(recover.survey, "existing", lambda _session, paths: tuple(paths) if seen else ())
    monkeypatch.setattr(recover.runlife, "lives", lambda *_words: lives)
    there = [] if found is None else [found]
    told = recover._without_folder(HOST, job, state, [vm], there, False)
    assert (told.outcome, len(jobs.mirrors(state))) == (outcome, 0 if outcome == "recovered" else 1)
    assert said in "".join(told.left)


@pytest.mark.parametrize(
    "changes",
    [
        {"job": ""},
        {"job": "vmfs"},
        {"job": "run1-b0123456789ab/.."},
        {"run": "../run1"},
        {"snapshot_name": "before the upgrade"},
        {"lease_seconds": "180"},
        {"lease_seconds": None},
        {"stop": "no"},
        {"vmid": True},
        {"partial": 7},
        {"policy": []},
        {"extra": None},
        {"disks": ["scsi0:0"]},
        {"disks": 5},
        {"kind": ["backup"]},
    ],
)
def test_a_job_that_no_job_of_ours_can_be_is_unreadable(changes: dict[str, Any]) -> None:
    value = make_job().as_dict()
    assert parse_job(json.dumps(value)) == make_job()
    place = value["vm"] if "vmid" in changes else value
    place.update(changes)
    assert parse_job(json.dumps(value)) is None


@pytest.mark.parametrize("text", ["[]", "7", "null", '{"schema": 1, "vm": 3, "owner": 4}', '{"schema": 1, "vm": {}}'])
def test_what_is_no_job_at_all_is_unreadable(text: str) -> None:
    assert parse_job(text) is None


@pytest.mark.parametrize("fault", [KeyError("pid"), TypeError("x"), ValueError("x"), AttributeError("x")])
def test_a_journal_that_nobody_understands_keeps_no_other_job_from_its_recovery(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Exception
) -> None:
    jobs = [found_of(make_job()), found_of(make_job(), "/vmfs/volumes/ds/web02")]

    def one_by_one(_host: Any, found: lock.Found, *_more: Any) -> recover.Outcome:
        if found is jobs[0]:
            raise fault
        return recover._outcome(found, "recovered")

    monkeypatch.setattr(lock, "scan", lambda _: ["/vmfs/volumes/ds/web01"])
    monkeypatch.setattr(lock, "look", lambda *_args, **_more: jobs)
    monkeypatch.setattr(recover, "_look_again", lambda *_: {})
    monkeypatch.setattr(recover, "recover_found", one_by_one)
    host: Any = SimpleNamespace(**vars(HOST), vms=list)
    first, second = recover.recover_host(host, "esx1", str(tmp_path), 0.1, 1)
    assert (first.outcome, second.outcome) == ("failed", "recovered")
    assert first.error is not None and "cannot be understood" in first.error["message"]


def machine(identity: str, vmx_path: str) -> Any:
    return SimpleNamespace(identity=identity, vmx_path=vmx_path, directory=vmx_path.rpartition("/")[0], name="web01")


def test_a_machine_that_got_another_identity_is_known_by_its_file() -> None:
    job = make_job()
    anew, other = machine("new", job.vmx_path), machine("other", "/vmfs/volumes/ds/x/x.vmx")
    assert recover._vm_of([other, anew], found_of(job)) is anew
    assert recover._vm_of([other], found_of(job)) is None
    moved = machine(job.identity, "/vmfs/volumes/ds2/web01/web01.vmx")
    assert recover._vm_of([anew, moved], found_of(job)) is moved
    host: Any = SimpleNamespace(vms=lambda: [other, anew])
    entry = {"identity": job.identity, "vmx_path": job.vmx_path}
    assert ending._vm_or_none(Context(host, entry, "run1", "/x", "esx1")) is anew


@pytest.mark.parametrize("check", [False, True])
def test_a_job_that_cannot_be_undone_is_told_with_its_reason_and_not_as_somebodys_work(
    monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    vm = machine("id-1", "/v/web01/web01.vmx")
    context = Context(HOST, ENTRY, "run2", "/x", "esx1", check=check)
    monkeypatch.setattr(lock, "look", lambda *_args, **_more: [found_of(None)])
    with pytest.raises(UndoIncomplete, match="another version or damaged"):
        backup._others(context, vm)
    if not check:
        dead = found_of(make_job())
        outcome = recover._outcome(dead, "failed", error=recover._error(dead, "its base is read"))
        monkeypatch.setattr(lock, "look", lambda *_args, **_more: [dead])
        monkeypatch.setattr(backup, "recover_found", lambda *_: outcome)
        with pytest.raises(UndoIncomplete, match="its base is read"):
            backup._others(context, vm)


@pytest.mark.parametrize("known", [False, True])
def test_a_job_that_others_have_ended_before_its_own_end_says_so(tmp_path: Path, known: bool) -> None:
    context = Context(HOST, ENTRY, "run1", str(tmp_path), "esx1")
    entry = record.start_entry(ending.entry_of(context), HOST.clock)
    if known:
        entry["error"] = {"id": "interrupted", "message": "cut off", "hint": "", "data": {}}
    ended = ending._end_without_job(context, entry, "ok", None)
    error = ended.entry["error"]
    assert ended.entry["status"] == "failed"
    assert (error["id"], error["message"][:7]) == (("interrupted", "cut off") if known else ("lock-lost", "Job run"))
