# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ranges of addresses that the labs of tests get."""

from __future__ import annotations

import os
import subprocess
import sys

import addresses


def test_no_range_is_given_twice_not_even_to_a_process_that_begins_with_the_same() -> None:
    mine = {addresses.free_base_address() for _turn in range(20)}
    code = "import os, addresses; os.getpid = lambda: {}; print(*(addresses.free_base_address() for _ in range(20)))"
    done = subprocess.run(
        [sys.executable, "-c", code.format(os.getpid())],
        env={**os.environ, "PYTHONPATH": os.path.dirname(addresses.__file__)},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = set(done.stdout.split())
    assert len(mine) == len(theirs) == 20
    assert not mine & theirs
