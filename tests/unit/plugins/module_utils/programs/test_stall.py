# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.programs.stall import SLOWEST_BYTES_PER_SECOND, Stall
from fakeclock import FakeClock

GIB = 1 << 30


class Copy:
    """A clone as it is seen every ten seconds."""

    def __init__(self, capacity: int = 8 * GIB) -> None:
        self.clock = FakeClock()
        self.extents = "0 0 0"
        self.asked = 0
        self.stall = Stall(100, capacity, self.clock, self.growth)

    def growth(self) -> str:
        self.asked += 1
        return self.extents

    def goes_on(self, percent: int, turns: int) -> float | None:
        for _turn in range(turns):
            self.clock.sleep(10)
            stood = self.stall.seconds(percent)
            if stood is not None:
                return stood
        return None


def test_what_stands_still_is_told_within_one_and_a_half_limits() -> None:
    copy = Copy()
    assert copy.goes_on(37, 11) is None
    assert copy.goes_on(37, 5) is not None


def test_percents_that_move_are_progress_and_cost_no_question() -> None:
    copy = Copy()
    for percent in range(100):
        assert copy.goes_on(percent, 2) is None
    assert copy.asked == 0


def test_a_target_that_grows_is_progress() -> None:
    copy = Copy()
    for size in range(20):
        copy.extents = f"{size} 0 0"
        assert copy.goes_on(1, 5) is None
    assert copy.goes_on(1, 15) is not None


def test_a_percent_of_a_huge_disk_may_take_its_time() -> None:
    copy = Copy(capacity=100 * 1000 * SLOWEST_BYTES_PER_SECOND)
    assert copy.goes_on(1, 99) is None
    assert copy.goes_on(1, 40) is not None
