# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first play of every playbook, run by ansible-playbook: it reaches no machine, so that none is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def agree(tmp_path: Path, servers: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """Runs agree.yml, then a play that says which hypervisors are left; `servers` maps each to its variables."""
    inventory = {"all": {"children": {"esxi": {"hosts": servers}, "backup_servers": {"hosts": {"backup1": {}}}}}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")
    shown = {"ansible.builtin.debug": {"msg": "left: {{ inventory_hostname }}"}}
    book = [
        {"import_playbook": str(ROOT / "playbooks" / "agree.yml")},
        {"hosts": "esxi", "gather_facts": False, "tasks": [shown]},
    ]
    (tmp_path / "play.json").write_text(json.dumps(book), encoding="utf-8")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment.update(ANSIBLE_HOME=str(tmp_path / "home"), ANSIBLE_NOCOLOR="1", LC_ALL="C.UTF-8")
    environment.update(ANSIBLE_CONFIG=str(ROOT / "tests/tools/ansible.cfg"))
    program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    return subprocess.run(
        [program, "-i", "hosts.json", "play.json", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_backup_server_that_the_inventory_does_not_have_costs_that_host_only(tmp_path: Path) -> None:
    done = agree(
        tmp_path,
        {"esx1": {"stowage_backup_server": "backup1"}, "esx2": {"stowage_backup_server": "bakcup1"}, "esx3": {}},
    )
    assert done.returncode == 2
    assert "esx2: stowage_backup_server is 'bakcup1', which is no host of the inventory" in done.stdout
    assert ["left: esx1" in done.stdout, "left: esx2" in done.stdout] == [True, False]
    # A host without one is told by the roles' own check of their variables.
    assert "left: esx3" in done.stdout


@pytest.mark.parametrize("server", ["localhost", "127.0.0.1"])
def test_the_controller_may_be_the_backup_server_without_being_in_the_inventory(tmp_path: Path, server: str) -> None:
    assert agree(tmp_path, {"esx1": {"stowage_backup_server": server}}).returncode == 0


def test_a_wrong_backup_server_of_a_host_that_the_limit_leaves_out_is_no_matter(tmp_path: Path) -> None:
    hosts = {"esx1": {"stowage_backup_server": "backup1"}, "esx2": {"stowage_backup_server": "bakcup1"}}
    assert agree(tmp_path, hosts, "--limit", "esx1").returncode == 0
