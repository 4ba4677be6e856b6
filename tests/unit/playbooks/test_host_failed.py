# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stopped a whole host is told as what it was, whichever task it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - block:
        - stowage.esxi.dedup_store: {location: "{{ item }}"}
          loop: "{{ places }}"
          when: places | length > 0
        - ansible.builtin.fail: {msg: it was told to fail}
      rescue:
        - ansible.builtin.include_tasks: "{{ tasks_file }}"
        - ansible.builtin.copy: {dest: "{{ told }}", content: "{{ backup_host_error | to_json }}"}
"""


def error(tmp_path: Path, *places: Path) -> dict[str, Any]:
    (tmp_path / "play.yml").write_text(PLAY, encoding="utf-8")
    tasks, told = ROOT / "roles" / "backup" / "tasks" / "host_failed.yml", tmp_path / "told.json"
    given = {"places": list(map(str, places)), "tasks_file": str(tasks), "told": str(told)}
    given["ansible_python_interpreter"] = sys.executable
    program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    argv = [program, "-i", "localhost,", "play.yml", "-e", json.dumps(given)]
    environment = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible"), "LC_ALL": "C.UTF-8"}
    environment["ANSIBLE_CONFIG"] = str(ROOT / "tests/tools/ansible.cfg")
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(told.read_text())
    return answer


def test_of_a_task_with_a_loop_the_item_that_failed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = error(tmp_path, tmp_path / "good", tmp_path / "file" / "store")
    assert str(tmp_path / "file" / "store") in found["message"] and "items" not in found["message"]
    assert found["id"].startswith("store") and found["hint"]


def test_of_any_other_task_its_own_words_are_taken(tmp_path: Path) -> None:
    assert error(tmp_path) == {"id": "host-failed", "message": "it was told to fail", "hint": ""}
