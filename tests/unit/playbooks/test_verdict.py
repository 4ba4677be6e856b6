# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last node of a workflow in which a step failed: it fails, and says what is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def verdict(tmp_path: Path, **artifacts: Any) -> tuple[int, str]:
    (tmp_path / "given.json").write_text(json.dumps(artifacts), encoding="utf-8")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment.update(ANSIBLE_HOME=str(tmp_path / "home"), ANSIBLE_NOCOLOR="1", LC_ALL="C.UTF-8")
    environment.update(ANSIBLE_CONFIG=str(ROOT / "tests/tools/ansible.cfg"))
    program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    done = subprocess.run(
        [program, "-i", "localhost,", str(ROOT / "playbooks" / "verdict.yml"), "-e", "@given.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_it_fails_and_names_what_failed(tmp_path: Path) -> None:
    run = {"run_id": "20261127-a", "green": False, "failed_machines": ["web 01", "db"], "lost_hosts": ["esx3"]}
    rc, text = verdict(tmp_path, stowage_run=run)
    assert rc == 2
    assert (
        "The last run that said how it ended is 20261127-a. In it failed: web 01, db. Hypervisors that were lost: esx3"
        in text
    )


def test_it_fails_too_where_no_step_came_so_far_as_to_say_how_it_ended(tmp_path: Path) -> None:
    rc, text = verdict(tmp_path)
    assert rc == 2 and "No step has said how it ended" in text
