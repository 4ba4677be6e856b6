# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real ansible-playbook runs on this machine: a store is made in check mode, really, and again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.cli import bundle

ROOT = Path(__file__).resolve().parents[3]
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: The store is there
      stowage.esxi.dedup_store:
        location: "{{ place }}"
        passphrase: "{{ secret }}"
        level: "{{ level }}"
        keys:
          - name: spare
            passphrase: "{{ secret }}-spare"
      register: made
    - name: What no restore point needs is gone
      stowage.esxi.dedup_store:
        location: "{{ place }}"
        passphrase: "{{ secret }}"
        state: collected
        observe_seconds: 0
      tags: [chore]
    - name: The slice of this weekday is proven
      stowage.esxi.dedup_store:
        location: "{{ place }}"
        passphrase: "{{ secret }}"
        state: verified
        deep: true
        slice: "{{ '%u' | ansible.builtin.strftime }}/7"
      tags: [chore]
    - name: It is looked at
      stowage.esxi.dedup_store_info:
        location: "{{ place }}"
        passphrase: "{{ secret }}"
      register: found
    - name: What is there is told
      ansible.builtin.debug:
        msg: "exists={{ found.exists }} level={{ (found.store.settings | default({})).level | default('none') }}"
"""


def play(folder: Path, level: int, *options: str) -> tuple[int, str]:
    """How many tasks changed something, and all that was printed."""
    namespace = folder / "collections" / "ansible_collections" / "stowage"
    namespace.mkdir(parents=True, exist_ok=True)
    if not (namespace / "esxi").is_symlink():
        (namespace / "esxi").symlink_to(ROOT, target_is_directory=True)
    (folder / "play.yml").write_text(PLAY)
    variables = {"place": str(folder / "store"), "secret": "s3cret", "level": level}
    variables["ansible_python_interpreter"] = sys.executable
    words = ["ansible-playbook", "-i", "localhost,", "-c", "local", "play.yml", "-e", json.dumps(variables), *options]
    environment = {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(ROOT / "tests/tools/ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "tools" / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "payloads",
        "ANSIBLE_FORCE_COLOR": "false",
    }
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3cret" not in done.stdout.replace(json.dumps(variables), "")
    return sum(map(int, re.findall(r"changed=(\d+)", done.stdout))), done.stdout


def test_a_store_is_made_by_a_playbook_predicted_and_at_rest(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    predicted, text = play(tmp_path, 2, "--check", "--diff")
    assert predicted == 1 and not (tmp_path / "store").exists() and "exists=False" in text
    happened, real = play(tmp_path, 2, "--diff")
    assert happened == 1 and "exists=True level=2" in real

    def shown(said: str) -> str:
        return said[said.index("--- before") : said.index("changed: [localhost]")]

    assert shown(text) == shown(real) and '+    "encrypted": true,' in real
    # Whole, although what made it came here as a module's payload.
    assert (tmp_path / "store" / "stowage.pyz").read_bytes() == bundle.build()
    again, rest = play(tmp_path, 2, "--diff", "--skip-tags", "chore")
    assert again == 0 and "--- before" not in rest
    changed, told = play(tmp_path, 3, "--diff", "--skip-tags", "chore")
    assert changed == 1 and '-        "level": 2,' in told and '+        "level": 3,' in told
