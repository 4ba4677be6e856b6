# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job's file lies on its hypervisor, which may write into it what it likes: nothing of others follows from that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    backup,
    copying,
    ending,
    names,
    record,
    recover,
    storebackup,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Settings
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import JobAltered
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.undo import Undone
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import Request
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from fakeclock import FakeClock
from jobs_values import make_job

POLICY = {"program": "dedup", "point": "/srv/store", "keep": {"last": 7}}


@pytest.fixture
def context(session: Session, tmp_path: Path) -> Context:
    directory = tmp_path / "web01"
    directory.mkdir()
    host: Any = SimpleNamespace(session=session, name="127.0.0.1", clock=FakeClock())
    plan = {"vm": "web01", "identity": "id-web01", "directory": str(directory), "vmx_path": f"{directory}/web01.vmx"}
    plan |= {"disks": [], "target": "/srv/store", "policy": POLICY}
    return Context(host, plan, "run1", str(tmp_path / "state"), "esx1", stores=Stores())


def begun(context: Context, **changes: Any) -> Job:
    """As `started` leaves it, but for what the hypervisor has changed in its own file."""
    entry = context.entry
    job = make_job(
        job=context.job_id,
        host=context.label,
        identity=entry["identity"],
        directory=entry["directory"],
        partial="",
        final=entry["target"],
        policy=POLICY,
    )
    jobs.write_mirror(context.state_dir, job)
    lock.acquire(context.host.session, entry["directory"])
    lock.write_job(context.host.session, context.folder, replace(job, **changes))
    return job


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identity": "id-db01"}, "it names the identity id-db01"),
        ({"host": "esx2"}, "it is the backup of esx2"),
        ({"policy": {**POLICY, "keep": {"last": 1}}}, "it has other rules"),
        ({"final": "/srv/another"}, "it names the backup point /srv/another"),
    ],
)
def test_whose_points_are_rotated_and_by_which_rules_does_not_go_by_what_the_host_says(
    context: Context, changes: dict[str, Any], words: str
) -> None:
    """With another's identity, his host and a rule that keeps one, the rotation after a success took the others."""
    begun(context, **changes)
    for act in (
        lambda: backup.must_hold(context),
        lambda: ending.end(context, "ok"),
        lambda: backup.commit(context, []),
    ):
        with pytest.raises(JobAltered, match=words):
            act()


def test_a_job_as_it_was_begun_is_held(context: Context) -> None:
    job = begun(context)
    assert backup.must_hold(context) == job
    folder = replace(context, entry={**context.entry, "target": "/vmfs/volumes/bk/web01-aa", "policy": {}})
    backup._as_planned(folder, replace(job, final="/vmfs/volumes/bk/web01-aa/20261122T200000Z", policy={}))


@pytest.mark.parametrize("changes", [{"host": "esx2"}, {"identity": "id-db01"}, None])
def test_what_a_host_may_be_told_of_goes_by_what_stands_on_the_backup_server(
    context: Context, changes: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scope is a hypervisor's name: it was read from a file that lies on that hypervisor."""
    job = begun(context)
    if changes is None:
        jobs.remove_mirror(context.state_dir, job.job)
    store = str(tmp_path / "store")
    Store.create(LocalBackend(store)).close()
    monkeypatch.setattr(storebackup, "sources_of", lambda *_words: ((), ()))
    frame: Any = SimpleNamespace(request=Request(store, reserve_percent=0), journal=object())
    frame.job = replace(job, **(changes or {}))
    with Stores(Access()) as stores, pytest.raises(JobAltered, match="is not there, or says otherwise"):
        storebackup.perform(context.host, {}, Settings(state_dir=context.state_dir), frame, stores)


def test_a_recovered_job_that_was_altered_writes_over_nobodys_entry_and_forgets_nobodys_job(context: Context) -> None:
    state, theirs = (
        context.state_dir,
        make_job(job=names.job_id("run1", "esx2", "id-db01"), host="esx2", identity="id-db01"),
    )
    jobs.write_mirror(state, theirs)
    entry = record.new_entry("run1", "esx2", "db01", "id-db01", "backup", ())
    entry.update(status="failed", error={"id": "no-room", "message": "full", "hint": "", "data": {}})
    record.write_entry(state, entry)
    events = Events(({"event": "commit-done", "final": "/srv/store::made-up"},))
    altered = replace(theirs, vm="db01 $(x)")
    assert (jobs.is_begun(state, theirs), jobs.is_begun(state, altered)) == (True, False)
    jobs.forget(state, altered)
    recover.close_record(context.host, altered, state, events, Undone((), ()), ours=jobs.is_begun(state, altered))
    assert record.read_entry(state, "run1", "esx2", "id-db01") == entry and jobs.mirrors(state) == [theirs]
    recover.close_record(context.host, theirs, state, events, Undone((), ()), ours=jobs.is_begun(state, theirs))
    closed = record.read_entry(state, "run1", "esx2", "id-db01")
    assert closed is not None and closed["status"] == "interrupted"
    jobs.forget(state, theirs)
    assert jobs.mirrors(state) == []


def test_a_copy_keeps_no_other_run_alive_and_believes_no_figures(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(context)
    settings = Settings(state_dir=context.state_dir, journal=context.folder, job_id="run9-b0123456789ab")
    monkeypatch.setattr(copying, "request_from", lambda *_words: Request("/srv/store"))
    with pytest.raises(JobAltered, match="it says that it is run1-b"), copying.around(context.host, {}, settings, None):
        pass
    entry = record.new_entry("run1", "esx1", "web01", "id-web01", "backup", ())
    for told in ({"stored": "much", "sent": -1, "new": [1]}, "x", [1]):
        record.add_told(entry, told)  # type: ignore[arg-type]
        assert (entry["bytes"], entry["bytes_sent"], entry["bytes_new"]) == (0, 0, 0)
    record.add_told(entry, {"stored": 3, "sent": 2, "new": 1})
    assert (entry["bytes"], entry["bytes_sent"], entry["bytes_new"]) == (3, 2, 1)
