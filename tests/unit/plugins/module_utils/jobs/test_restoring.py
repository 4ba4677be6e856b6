# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a restored VM: ours from the moment it has its name until it has lost it, and nobody else's ever."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import recover, restoring, runlife, undo
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import TargetNotMade
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from fakeclock import FakeClock


class Death(BaseException):
    """The controller dies here."""


@pytest.fixture
def context(session: Session, tmp_path: Path) -> Context:
    (tmp_path / "ds").mkdir()
    directory = str(tmp_path / "ds" / "web 01 $(x)")
    plan = {
        "vm": "web01",
        "identity": f"restore:{directory}/web01.vmx",
        "directory": directory,
        "vmx_path": f"{directory}/web01.vmx",
        "vmx_text": "",
        "disks": (),
        "files": (),
        "restore_point": {"path": "/p"},
    }
    host: Any = SimpleNamespace(session=session, name="10.0.0.1", clock=FakeClock())
    return Context(host, plan, "run1", str(tmp_path / "state"), "esx1", "tests", kind="restore")


def beside(context: Context) -> list[str]:
    """What there is where the folder was to be, by name."""
    return sorted(os.listdir(os.path.dirname(context.entry["directory"])))


def recovered(context: Context, check: bool = False) -> recover.Outcome:
    (job,) = jobs.mirrors(context.state_dir)
    return recover._without_folder(context.host, job, context.state_dir, [], [], check)


def dies_at(monkeypatch: pytest.MonkeyPatch, context: Context, name: str, after: bool = False) -> None:
    """Start, and die before or after that function of the journal's or the job's room."""
    room: Any = lock if hasattr(lock, name) else restoring
    real = getattr(room, name)

    def dies(*given: Any) -> None:
        if after:
            real(*given)
        raise Death

    monkeypatch.setattr(room, name, dies)
    with pytest.raises(Death):
        restoring.start(context)
    monkeypatch.undo()


def test_a_folder_has_its_name_only_with_our_lock_in_it(context: Context) -> None:
    job, new = restoring.start(context)
    assert new and beside(context) == ["web 01 $(x)"]
    assert lock.read_job(context.host.session, context.folder) == job


def test_an_empty_folder_that_somebody_else_made_is_not_removed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_at(monkeypatch, context, "_make_folder")
    os.mkdir(context.entry["directory"])
    outcome = recovered(context)
    assert (outcome.outcome, outcome.left) == ("recovered", ())
    assert os.path.isdir(context.entry["directory"])
    assert jobs.mirrors(context.state_dir) == []


@pytest.mark.parametrize(("name", "after"), [("acquire", False), ("acquire", True), ("write_job", True)])
def test_what_was_made_and_never_named_is_removed(
    context: Context, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    dies_at(monkeypatch, context, name, after)
    assert beside(context) == [".partial-restore-" + context.job_id]
    looked = recovered(context, check=True)
    assert beside(context) == [".partial-restore-" + context.job_id]
    outcome = recovered(context)
    assert looked == outcome and outcome.outcome == "recovered" and outcome.done[0].startswith("removed ")
    assert beside(context) == [] and jobs.mirrors(context.state_dir) == []


def test_a_restore_that_has_only_just_begun_is_left_alone(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    dies_at(monkeypatch, context, "write_job", after=True)
    runlife.RunLife(context.state_dir, context.run_id).beat()
    assert recovered(context).outcome == "live"
    assert beside(context) == [".partial-restore-" + context.job_id]


def test_a_datastore_that_is_not_there_forgets_no_job(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    dies_at(monkeypatch, context, "write_job", after=True)
    monkeypatch.setattr(recover.points, "datastore_root", lambda path: "/nowhere")
    assert recovered(context).outcome == "vanished"
    assert len(jobs.mirrors(context.state_dir)) == 1


@pytest.mark.parametrize("inside", ["", "theirs"])
def test_a_folder_that_somebody_makes_meanwhile_stays_his(
    context: Context, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    real = lock.write_job

    def meanwhile(*given: Any) -> None:
        real(*given)
        os.mkdir(context.entry["directory"])
        if inside:
            (Path(context.entry["directory"]) / inside).write_text("keep", encoding="utf-8")

    monkeypatch.setattr(lock, "write_job", meanwhile)
    with pytest.raises(TargetNotMade):
        restoring.start(context)
    assert beside(context) == ["web 01 $(x)"]
    assert os.listdir(context.entry["directory"]) == ([inside] if inside else [])
    assert jobs.mirrors(context.state_dir) == []


def test_a_folder_is_not_moved_into_one_that_came_in_between(context: Context) -> None:
    """Between the look and the rename there is room for somebody else: what went into his folder comes back out."""
    unnamed, directory = Path(context.entry["directory"] + "-unnamed"), Path(context.entry["directory"])
    unnamed.mkdir()
    directory.mkdir()
    blind = restoring._NAME.replace('[ -e "$dir" ] &&', "false &&")
    result = context.host.session.script(blind, [str(unnamed), str(directory)])
    assert (result.rc, list(directory.iterdir()), unnamed.is_dir()) == (4, [], True)


def test_a_parent_that_is_not_there_is_said(context: Context) -> None:
    os.rmdir(os.path.dirname(context.entry["directory"]))
    with pytest.raises(TargetNotMade) as caught:
        restoring.start(context)
    assert "there is no folder" in caught.value.message and "restore_directory" in caught.value.hint_text
    assert jobs.mirrors(context.state_dir) == []


# -- seen from another backup server, which has no mirror of the job ------------------------------------------------


def found_by_another(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, age: int = 1000) -> Any:
    """What a recover of another backup server finds and does, the volume being this test's folder."""
    session = context.host.session
    monkeypatch.setattr(lock, "_SCAN", lock._SCAN.replace("/vmfs/volumes", str(tmp_path)))
    monkeypatch.setattr(context.host, "vms", list, raising=False)
    for lease in Path(context.entry["directory"]).parent.glob(".partial-restore-*/.stowage-job/lease"):
        then = time.time() - age
        os.utime(lease, (then, then))
    assert len(lock.scan(session)) == 1
    return recover.recover_host(context.host, "esx1", str(tmp_path / "other"), 0.1, 60)


@pytest.mark.parametrize(("name", "after"), [("acquire", True), ("write_job", True)])
def test_a_restore_that_died_before_its_folder_had_a_name_is_cleared_up_from_another_backup_server(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, after: bool
) -> None:
    dies_at(monkeypatch, context, name, after)
    (outcome,) = found_by_another(context, monkeypatch, tmp_path)
    assert (outcome.outcome, outcome.error, outcome.left) == ("recovered", None, ())
    assert beside(context) == []


def test_a_restore_that_lives_is_left_alone_by_another_backup_server(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dies_at(monkeypatch, context, "write_job", after=True)
    (outcome,) = found_by_another(context, monkeypatch, tmp_path, age=5)
    assert outcome.outcome == "live"
    assert beside(context) == [".partial-restore-" + context.job_id]


# -- the way back ------------------------------------------------------------------------------------------------

EMPTIED = undo.Undone(("removed the half restored files",), ())


def undoer(context: Context, job: Job) -> undo.Undoer:
    return undo.Undoer(context.host, job, context.folder)


def test_an_emptied_folder_goes_with_its_lock(context: Context) -> None:
    job, _new = restoring.start(context)
    assert undoer(context, job).close(EMPTIED) == ()
    assert beside(context) == []


def test_what_is_not_ours_keeps_its_folder_and_only_the_lock_goes(context: Context) -> None:
    job, _new = restoring.start(context)
    (Path(context.entry["directory"]) / "theirs").write_text("keep", encoding="utf-8")
    assert undoer(context, job).close(EMPTIED) == (f"{job.directory}/theirs: not ours",)
    assert os.listdir(job.directory) == ["theirs"]


def test_a_close_that_was_cut_is_ended_by_recover_and_spares_what_has_the_name_by_now(context: Context) -> None:
    job, _new = restoring.start(context)
    os.rename(job.directory, recover.names.unnamed_folder(job.directory, job.job))
    os.mkdir(job.directory)
    assert recovered(context).outcome == "recovered"
    assert beside(context) == ["web 01 $(x)"]


def test_a_file_that_came_into_a_folder_on_its_way_out_gets_its_name_back(context: Context) -> None:
    job, _new = restoring.start(context)
    unnamed = recover.names.unnamed_folder(job.directory, job.job)
    os.rename(job.directory, unnamed)
    (Path(unnamed) / "theirs").write_text("keep", encoding="utf-8")
    outcome = recovered(context)
    assert outcome.left == (f"{job.directory} holds files that are not ours",)
    assert (beside(context), os.listdir(job.directory)) == (["web 01 $(x)"], ["theirs"])
