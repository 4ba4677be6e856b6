# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import LEASE_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.runlife import RunLife, lives, sign_path

WINDOW_SECONDS = 60
RECOVER_EVERY_SECONDS = 600


def test_a_run_lives_for_as_long_as_its_last_sign_is_young(tmp_path: Path) -> None:
    state = str(tmp_path)
    assert not lives(state, "run1", 180)
    RunLife(state, "run1").beat()
    assert lives(state, "run1", 180) and not lives(state, "run2", 180)
    sign = sign_path(state, "run1")
    for age, alive in ((170, True), (190, False), (-300, False)):
        os.utime(sign, (time.time() - age,) * 2)
        assert lives(state, "run1", 180) is alive


def test_a_sign_is_given_at_most_every_ten_seconds(tmp_path: Path) -> None:
    now = [0.0]
    life = RunLife(str(tmp_path), "run1", lambda: now[0])
    life.beat()
    sign = Path(sign_path(str(tmp_path), "run1"))
    for seconds, given in ((9.0, False), (10.0, True)):
        os.utime(sign, (1, 1))
        now[0] = seconds
        life.beat()
        assert (sign.stat().st_mtime != 1) is given


@pytest.mark.parametrize("run", ["", "../../etc", "a/b"])
def test_a_name_that_is_no_runs_makes_no_file_and_never_lives(tmp_path: Path, run: str) -> None:
    RunLife(str(tmp_path / "state"), run).beat()
    assert not lives(str(tmp_path / "state"), run, 180)
    assert os.listdir(tmp_path) == []


def test_a_sign_that_cannot_be_given_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    RunLife(str(tmp_path / "state"), "run1").beat()
    assert not lives(str(tmp_path / "state"), "run1", 180)


def test_the_default_lease_keeps_recovery_within_fifteen_minutes() -> None:
    assert WINDOW_SECONDS + LEASE_SECONDS + RECOVER_EVERY_SECONDS <= 900
