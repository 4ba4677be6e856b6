# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs.beat import CallerBeat
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import CallerGone
from fakeclock import FakeClock


def test_a_touched_file_keeps_the_copy_going_however_old_its_time_is(tmp_path):
    path, clock = tmp_path / "beat", FakeClock()
    path.write_text("")
    beat = CallerBeat(str(path), 60, clock)
    for turn in range(5):
        clock.advance(59)
        # A clock that was set back: the change counts, not the time.
        os.utime(path, (1000 - turn, 1000 - turn))
        beat.check()


def test_an_untouched_file_ends_it_after_the_window(tmp_path):
    path, clock = tmp_path / "beat", FakeClock()
    path.write_text("")
    beat = CallerBeat(str(path), 60, clock)
    clock.advance(60)
    beat.check()
    clock.advance(1)
    with pytest.raises(CallerGone, match="60 seconds"):
        beat.check()


def test_a_removed_file_ends_it_at_once(tmp_path):
    path = tmp_path / "beat"
    path.write_text("")
    beat = CallerBeat(str(path), 60, FakeClock())
    path.unlink()
    with pytest.raises(CallerGone, match="is gone"):
        beat.check()
