# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks' own tools: what they measure is there, and without a peer there is no figure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import disks  # noqa: E402
import measure  # noqa: E402
import peers  # noqa: E402


def test_the_memory_of_a_command_is_that_of_its_whole_tree() -> None:
    child = (
        "room = bytearray(60 << 20)\nfor at in range(0, len(room), 4096): room[at] = 1\nimport time; time.sleep(0.5)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost = measure.run([sys.executable, "-c", parent])
    assert 60 < cost.memory < 120 and cost.wall > 0.5


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(measure.Failed, match="ended with 3: broken"):
        measure.run(["sh", "-c", "echo broken; exit 3"])


def test_without_a_peer_there_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cp").symlink_to(str(shutil.which("cp")))
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--small", "--data", str(tmp_path), "--pairs", "1", "verify"]
    environment = {"PATH": str(tmp_path / "bin")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "borg is not installed" in done.stderr, done.stderr
    assert done.returncode == 2 and " x " not in done.stdout


def test_our_half_restores_what_it_has_backed_up(tmp_path: Path) -> None:
    disks.make(tmp_path, small=True)
    ours = peers.OursFast(tmp_path)
    ours.clear()
    for day in (1, 2):
        assert ours.backup(f"day{day}", disks.names(tmp_path, day)).memory < 100
    source, target = disks.names(tmp_path, 2)[1], str(tmp_path / "restored.raw")
    ours.restore("day2", source, target)
    assert subprocess.run(["cmp", source, target], check=False).returncode == 0
    ours.verify("--deep")
