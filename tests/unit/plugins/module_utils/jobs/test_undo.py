# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the undoing believes: a listing that failed proves nothing, and what is still there is not called removed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import survey, undo
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Undo
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from fakeclock import FakeClock
from jobs_values import make_job


def with_rm(session: Session, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """busybox's shell takes its own applets before any file: only a function comes before them."""
    run = session.script
    monkeypatch.setattr(
        session, "script", lambda text, args=(), **more: run(f"rm() {{\n{body}\n}}\n{text}", args, **more)
    )


def replace_applet(session: Session, name: str, text: str) -> None:
    tool = Path(session.applets, name)  # type: ignore[attr-defined]
    tool.unlink()
    tool.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    tool.chmod(0o755)


@pytest.fixture
def undoer(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> undo.Undoer:
    """Of a restore to the folder `vm` that has made one disk and its configuration."""
    (tmp_path / "vm").mkdir()
    for name in ("web.vmdk", "web-flat.vmdk", "web.vmx"):
        (tmp_path / "vm" / name).write_text("x", encoding="utf-8")
    job = make_job(
        kind="restore",
        directory=str(tmp_path / "vm"),
        vmx_path=str(tmp_path / "vm" / "web.vmx"),
        disks=({"key": "scsi0:0", "dest": str(tmp_path / "vm" / "web.vmdk")},),
    )
    host: Any = SimpleNamespace(session=session, name="esx1", clock=FakeClock())
    made = undo.Undoer(host, job, str(tmp_path / "vm" / ".stowage-job"))
    monkeypatch.setattr(made, "_settle_commit", lambda: None)
    return made


def run(undoer: undo.Undoer, monkeypatch: pytest.MonkeyPatch, planned: Undo) -> undo.Undone:
    monkeypatch.setattr(undoer, "plan", lambda vm: (planned, SimpleNamespace(processes=()), None))
    return undoer.run(None)


def test_files_that_are_removed_are_told_as_removed(
    undoer: undo.Undoer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone = run(undoer, monkeypatch, Undo(remove_restored=True))
    assert (undone.failed, undone.done) == ((), ("removed the half restored files",))
    assert list((tmp_path / "vm").iterdir()) == []


@pytest.mark.parametrize("kept", ["web-flat.vmdk", "web.vmx"])
def test_a_restored_file_that_somebody_holds_is_not_told_as_removed(
    undoer: undo.Undoer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session, kept: str
) -> None:
    held = (
        f'for file in "$@"; do case $file in *{kept}) echo "$file: Device or resource busy" >&2; return 1;; esac; done'
    )
    with_rm(session, monkeypatch, held + '\ncommand rm "$@"')
    undone = run(undoer, monkeypatch, Undo(remove_restored=True))
    assert undone.done == () and not undone.clean
    assert "Device or resource busy" in undone.failed[0]


def test_a_temporary_file_that_somebody_holds_is_not_told_as_removed(
    undoer: undo.Undoer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    with_rm(session, monkeypatch, "echo 'Device or resource busy' >&2; return 1")
    undone = run(undoer, monkeypatch, Undo(remove_temps=(str(tmp_path / "vm" / "web.vmx"),)))
    assert undone.done == () and "resource busy" in undone.failed[0]


@pytest.mark.parametrize("text", ['echo "sh: can\'t fork" >&2; exit 2', "exit 0"])
def test_a_process_list_that_failed_does_not_prove_that_nothing_runs(session: Session, text: str) -> None:
    replace_applet(session, "ps", text)
    with pytest.raises(RemoteStepFailed):
        survey.processes(session)


def test_a_look_for_files_that_was_cut_short_does_not_prove_that_they_are_gone(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_EXISTING", "echo yes; exit 137")
    with pytest.raises(RemoteStepFailed):
        survey.existing(session, ["/a", "/b"])
