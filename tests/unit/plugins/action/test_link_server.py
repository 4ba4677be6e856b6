# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real ansible-playbook run: which connections reach the module of a link, in the place of which there is an echo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]

ECHO = """
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec

OWN = ("name", "source_name", "target_name", "address", "address_port", "source", "target", "state")

def main():
    connection = {name: dict(option, no_log=False) for name, option in connection_argument_spec().items()}
    spec = dict(connection, source_connection=dict(type="dict", options=connection), target_is_local=dict(type="bool"))
    spec.update(source_gone=dict(type="bool"))
    spec.update({name: dict(type="str") for name in OWN})
    module = AnsibleModule(spec)
    module.exit_json(got=dict(module.params))

main()
"""
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
INVENTORY: dict[str, Any] = {
    "esxi": {
        "hosts": {
            "esx1": {
                "ansible_host": "192.0.2.1",
                "ansible_password": "{{ inventory_hostname }}-secret",
                "stowage_host_key_policy": "accept_new",
                "stowage_private_key_file": "~/.ssh/stowage-control@esx1",
                "stowage_link_address": "198.51.100.1",
                "stowage_link_port": 2222,
            },
            "esx2": {
                "ansible_host": "192.0.2.2",
                "ansible_user": "admin",
                "stowage_private_key_file": "~/.ssh/stowage-control@esx2",
            },
        }
    },
    "servers": {"hosts": {"bs": {**LOCAL, "ansible_host": "192.0.2.9", "ansible_port": 22022}}},
}
# All look at one run, which each worker would make for itself.
pytestmark = pytest.mark.xdist_group("link_server played")
TASKS: dict[str, dict[str, Any]] = {
    "control": {},
    "from_esx2": {"source": "esx2"},
    "to_bs": {"target": "bs"},
    "to_esx2": {"target": "esx2", "address": "10.0.0.2"},
    "to_itself": {"target": "esx1"},
    "from_nobody": {"source": "nobody"},
    "from_one_that_left": {"source": "nobody", "state": "absent"},
    "from_one_that_is_there": {"source": "esx2", "state": "absent"},
}


@pytest.fixture(scope="module")
def got(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("play")
    collection = folder / "ansible_collections" / "stowage" / "esxi"
    for name in ("base", "ssh"):
        shutil.copytree(ROOT / "plugins/module_utils" / name, collection / "plugins/module_utils" / name)
    for name in ("plugin_utils", "action", "doc_fragments"):
        shutil.copytree(ROOT / "plugins" / name, collection / "plugins" / name)
    (collection / "plugins/modules").mkdir()
    (collection / "plugins/modules/link_server.py").write_text(ECHO)
    (collection / "meta").mkdir()
    shutil.copy(ROOT / "meta/runtime.yml", collection / "meta")
    shutil.copy(ROOT / "galaxy.yml", collection)
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": INVENTORY}}))
    tasks: list[dict[str, Any]] = [
        {
            "stowage.esxi.link_server": {"name": name.replace("_", "-"), **arguments},
            "delegate_to": "bs",
            "register": f"out_{name}",
            "ignore_errors": True,
        }
        for name, arguments in TASKS.items()
    ]
    content = "{{ {" + ", ".join(f"'{name}': out_{name}" for name in TASKS) + "} | to_json }}"
    tasks.append({"ansible.builtin.copy": {"content": content, "dest": str(folder / "got")}, "delegate_to": "bs"})
    (folder / "play.json").write_text(json.dumps([{"hosts": "esx1", "gather_facts": False, "tasks": tasks}]))
    done = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), "ansible-playbook"), "-i", "hosts.json", "play.json"],
        cwd=folder,
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "ANSIBLE_CONFIG": str(ROOT / "tests/tools/ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(folder),
            "ANSIBLE_HOME": str(folder / "home"),
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "got").exists(), done.stdout + done.stderr
    found: dict[str, dict[str, Any]] = json.loads((folder / "got").read_text())
    return found


def test_the_source_is_where_the_module_runs_and_the_first_link_goes_by_password(got: dict[str, Any]) -> None:
    args = got["control"]["got"]
    assert (args["hostname"], args["password"], args["private_key_file"]) == ("192.0.2.1", "esx1-secret", None)
    assert (args["source_name"], args["target_name"], args["source_connection"]) == ("bs", "esx1", None)
    assert (args["address"], args["address_port"]) == ("198.51.100.1", "2222")


def test_another_source_is_reached_by_its_own_variables(got: dict[str, Any]) -> None:
    args = got["from_esx2"]["got"]
    connection = args["source_connection"]
    assert (args["source_name"], args["hostname"]) == ("esx2", "192.0.2.1")
    # It has no password any more: then its link's key is what there is.
    assert (connection["hostname"], connection["username"], connection["password"]) == ("192.0.2.2", "admin", None)
    assert connection["private_key_file"].endswith("/.ssh/stowage-control@esx2")


def test_a_task_may_be_for_the_source(got: dict[str, Any]) -> None:
    args = got["to_bs"]["got"]
    assert (args["target_is_local"], args["hostname"], args["target_name"]) == (True, None, "bs")
    assert (args["address"], args["address_port"]) == ("192.0.2.9", "22022")
    assert args["source_name"] == "esx1" and args["source_connection"]["password"] == "esx1-secret"
    other = got["to_esx2"]["got"]
    assert (other["hostname"], other["target_name"], other["address"]) == ("192.0.2.2", "esx2", "10.0.0.2")
    assert other["source_connection"]["hostname"] == "192.0.2.1"


def test_a_source_that_has_left_the_inventory_is_not_taken_for_the_machine_that_the_module_runs_on(
    got: dict[str, Any],
) -> None:
    args = got["from_one_that_left"]["got"]
    assert (args["source_name"], args["source_gone"], args["source_connection"]) == ("nobody", True, None)
    there = got["from_one_that_is_there"]["got"]
    assert there["source_gone"] is None and there["source_connection"]["hostname"] == "192.0.2.2"


@pytest.mark.parametrize(
    ("task", "said"), [("to_itself", "would lead from esx1 to esx1"), ("from_nobody", "'nobody', which is no host")]
)
def test_a_link_that_leads_nowhere_is_refused_on_the_controller(got: dict[str, Any], task: str, said: str) -> None:
    assert got[task]["failed"] and said in got[task]["msg"]
