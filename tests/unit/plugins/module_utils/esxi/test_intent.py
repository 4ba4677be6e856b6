# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import JournalFailed, JournalLost
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from fakeclock import FakeClock


def test_entries_come_back_in_order_whatever_is_in_them(local_session: Any, tmp_path: Path) -> None:
    journal = IntentLog(local_session, str(tmp_path), FakeClock())
    name = "$(x) 'q' \"q\"\nline ü"
    journal.note("snapshot-intent", name=name, known_ids=[1, 2])
    journal.note("snapshot-done", id=3)
    first, second = journal.read()
    assert (first["event"], first["name"], first["known_ids"]) == ("snapshot-intent", name, [1, 2])
    assert (second["event"], second["id"], second["at"]) == ("snapshot-done", 3, "2026-01-01T00:00:00Z")
    assert (tmp_path / "lease").exists()


def test_a_line_cut_by_a_crash_swallows_nothing(local_session: Any, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text('{"event": "process", "pi')
    journal = IntentLog(local_session, str(tmp_path), FakeClock())
    journal.note("temp", path="/x")
    assert [entry["event"] for entry in journal.read()] == ["temp"]


def test_no_journal_yet_is_an_empty_one_but_a_lost_folder_is_an_error(local_session: Any, tmp_path: Path) -> None:
    assert IntentLog(local_session, str(tmp_path)).read() == []
    gone = IntentLog(local_session, str(tmp_path / "gone"))
    for act in (lambda: gone.note("x"), gone.beat):
        with pytest.raises(JournalFailed, match="gone"):
            act()
    assert not (tmp_path / "gone").exists()


def test_the_lease_is_refreshed_at_most_every_ten_seconds(local_session: Any, tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / "lease").touch()
    journal = IntentLog(local_session, str(tmp_path), clock)
    for _turn in range(30):
        journal.beat()
        clock.advance(1)
    assert local_session.count == 3


@pytest.mark.parametrize("known", [True, False])
def test_a_lease_that_is_gone_is_noticed_and_never_made_anew(local_session: Any, tmp_path: Path, known: bool) -> None:
    clock = FakeClock()
    journal = IntentLog(local_session, str(tmp_path), clock)
    if known:
        journal.note("started")
        (tmp_path / "lease").unlink()
        clock.advance(60)
    with pytest.raises(JournalLost, match="lease is gone"):
        journal.beat()
    assert not (tmp_path / "lease").exists()


def test_another_jobs_folder_of_the_same_name_is_not_kept_alive_nor_written_to(
    local_session: Any, tmp_path: Path
) -> None:
    clock = FakeClock()
    (tmp_path / "job.json").write_text('{"how": "hot", "job": "run1-b1", "policy": {}}\n')
    journal = IntentLog(local_session, str(tmp_path), clock)
    journal.note("started")
    clock.advance(60)
    journal.beat()
    (tmp_path / "job.json").write_text('{"how": "hot", "job": "run2-b1", "policy": {}}\n')
    (tmp_path / "journal").write_text("")
    os.utime(tmp_path / "lease", (1, 1))
    clock.advance(60)
    for act in (journal.beat, lambda: journal.note("snapshot-intent")):
        with pytest.raises(JournalLost, match="belongs to run2-b1, not to run1-b1"):
            act()
    assert (tmp_path / "lease").stat().st_mtime == 1
    assert (tmp_path / "journal").read_text() == ""
