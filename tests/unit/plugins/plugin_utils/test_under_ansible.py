# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real ansible-playbook runs: what reaches the module when it is delegated to a backup server.

The collection is laid out with a module in the place of esxi_vm_info that returns the arguments it got.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
PINNED = "SHA256:" + "A" * 43

ECHO = """
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec

def main():
    spec = {name: dict(option, no_log=False) for name, option in connection_argument_spec().items()}
    module = AnsibleModule(spec, supports_check_mode=True)
    module.exit_json(got=dict(module.params), check=module.check_mode)

main()
"""

INVENTORY: dict[str, Any] = {
    "esxi": {
        "hosts": {
            "with_password": {
                "ansible_host": "192.0.2.1",
                "ansible_password": "{{ base }}-secret",
                "base": "{{ inventory_hostname }}",
                "stowage_host_key_fingerprints": [PINNED],
            },
            "with_key": {
                "ansible_ssh_private_key_file": "{{ inventory_dir }}/key",
                "ansible_ssh_private_key_passphrase": 12345,
                "ansible_port": 2201,
                "ansible_ssh_user": "backup",
                "stowage_host_key_policy": "accept_new",
                "stowage_known_hosts_file": "/var/lib/known",
                "stowage_jump_host": "hop@192.0.2.9:2222",
                "ansible_ssh_common_args": "-o ProxyJump=bastion",
            },
            "bare": {},
            "hidden_jump": {"ansible_ssh_common_args": "-o ProxyCommand='ssh -W %h:%p bastion'"},
            "lost_key": {"ansible_ssh_private_key_file": "/no/such/key"},
            "omitted": {"ansible_password": "{{ omit }}", "ansible_port": "{{ omit }}"},
        }
    },
    "servers": {
        "hosts": {
            "bs": {
                "ansible_connection": "local",
                "ansible_host": "198.51.100.1",
                "ansible_user": "delegate",
                "ansible_port": 9999,
                "ansible_timeout": 77,
                "ansible_password": "of-the-delegate",
                "ansible_private_key_file": "/no/delegate/key",
                "ansible_python_interpreter": sys.executable,
            }
        }
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("play")
    collection = folder / "ansible_collections" / "stowage" / "esxi"
    for name in ("base", "ssh"):
        shutil.copytree(ROOT / "plugins/module_utils" / name, collection / "plugins/module_utils" / name)
    for name in ("plugin_utils", "action", "doc_fragments"):
        shutil.copytree(ROOT / "plugins" / name, collection / "plugins" / name)
    (collection / "plugins/modules").mkdir()
    (collection / "plugins/modules/esxi_vm_info.py").write_text(ECHO)
    (collection / "meta").mkdir()
    shutil.copy(ROOT / "meta/runtime.yml", collection / "meta")
    shutil.copy(ROOT / "galaxy.yml", collection)
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": INVENTORY}}))
    (folder / "key").write_text("TEXT OF THE KEY\n")
    return folder


# Plays of one task, by what they show: on which hosts, the task's keywords, the play's.
SCENES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("esxi", {}, {}),
    "not delegated": ("bare", {"delegate_to": None}, {}),
    "on the controller": ("bare", {"delegate_to": None, "connection": "local"}, {}),
    "defaults": (
        "with_key",
        {"stowage.esxi.esxi_vm_info": {"connect_timeout": 4}},
        {
            "module_defaults": {
                "group/stowage.esxi.esxi": {"connect_timeout": 3, "port": 2300, "host_key_policy": "accept_new"}
            }
        },
    ),
    "a hostname": ("with_key,with_password", {"stowage.esxi.esxi_vm_info": {"hostname": "192.0.2.77"}}, {}),
    "variables": (
        "bare,with_key",
        {"vars": {"ansible_user": "of_task", "ansible_host": "{{ inventory_hostname }}.test"}},
        {"vars": {"ansible_port": 2400, "ansible_user": "of_play"}},
    ),
    # ansible-core 2.19 polls with the interpreter of the inventory host, not with the delegate's.
    "polled": ("bare", {"async": 60, "poll": 1, "vars": {"ansible_python_interpreter": sys.executable}}, {}),
}


def play(
    place: Path, *options: str, scenes: Sequence[str] = ("plain",), agent: str | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Runs a delegated task on the hosts of each scene; its result by scene and host, kept by a second task."""
    results = place / "results"
    shutil.rmtree(results, ignore_errors=True)
    book = []
    for name in scenes:
        (results / name).mkdir(parents=True)
        hosts, task, keywords = SCENES[name]
        probe = {"stowage.esxi.esxi_vm_info": {}, "delegate_to": "bs", "ignore_errors": True, "register": "out"}
        dest = f"{results}/{name}/{{{{ inventory_hostname }}}}"
        keep = {
            "ansible.builtin.copy": {"content": "{{ out | to_json }}", "dest": dest},
            "delegate_to": "bs",
            "check_mode": False,
        }
        book.append({"hosts": hosts, "gather_facts": False, **keywords, "tasks": [{**probe, **task}, keep]})
    (place / "play.json").write_text(json.dumps(book))
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment.update(
        ANSIBLE_CONFIG=str(ROOT / "tests/tools/ansible.cfg"),
        ANSIBLE_COLLECTIONS_PATH=str(place),
        ANSIBLE_HOME=str(place / "home"),
        ANSIBLE_NOCOLOR="1",
        LC_ALL="C.UTF-8",
        **({"SSH_AUTH_SOCK": agent} if agent else {}),
    )
    program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    command = [program, "-i", "hosts.json", "play.json", *options]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    found = {name: {path.name: json.loads(path.read_text()) for path in (results / name).iterdir()} for name in scenes}
    assert all(found.values()), done.stdout + done.stderr
    return found


ONCE = pytest.mark.xdist_group("under ansible")
"""All that look at the one run are given to one worker: it would be run by each."""


@pytest.fixture(scope="module")
def played(place: Path) -> dict[str, dict[str, dict[str, Any]]]:
    return play(place, scenes=list(SCENES))


@pytest.fixture(scope="module")
def plain(played: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return played["plain"]


@ONCE
def test_variables_are_the_inventory_hosts_and_never_the_delegates(plain: dict[str, Any]) -> None:
    got = plain["bare"]["got"]
    assert (got["hostname"], got["port"], got["username"]) == ("bare", 22, "root")
    assert (got["password"], got["private_key"], got["connect_timeout"]) == (None, None, 15)
    assert got["use_agent"] is False


@ONCE
def test_a_templated_password_is_resolved_for_its_own_host(plain: dict[str, Any]) -> None:
    got = plain["with_password"]["got"]
    assert (got["hostname"], got["password"]) == ("192.0.2.1", "with_password-secret")
    assert (got["host_key_policy"], got["host_key_fingerprints"]) == ("pinned", [PINNED])
    assert got["private_key"] is None


@ONCE
def test_a_key_file_of_the_controller_travels_as_text(plain: dict[str, Any]) -> None:
    got = plain["with_key"]["got"]
    assert got["private_key"].strip() == "TEXT OF THE KEY"
    assert (got["private_key_passphrase"], got["private_key_file"]) == ("12345", None)
    assert (got["username"], got["port"], got["jump_host"]) == ("backup", 2201, "hop@192.0.2.9:2222")
    assert (got["host_key_policy"], got["known_hosts_file"]) == ("accept_new", "/var/lib/known")


@ONCE
def test_a_jump_host_in_ssh_arguments_is_an_error_that_says_what_to_set(plain: dict[str, Any]) -> None:
    assert plain["hidden_jump"]["failed"]
    assert "stowage_jump_host" in plain["hidden_jump"]["msg"]


@ONCE
def test_a_missing_key_file_is_an_error_that_names_it(plain: dict[str, Any]) -> None:
    assert plain["lost_key"]["msg"].count("/no/such/key: there is no such file. Set ansible_ssh_private_key_file") == 1
    assert "on the controller" in plain["lost_key"]["msg"]
    assert plain["lost_key"]["msg"].count("/no/such/key") == 1


@ONCE
def test_an_omitted_variable_is_one_that_the_host_does_not_have(plain: dict[str, Any]) -> None:
    got = plain["omitted"]["got"]
    assert (got["password"], got["port"]) == (None, 22)


@ONCE
def test_a_forgotten_delegate_to_is_told_before_the_hypervisor_is_reached(played: dict[str, Any]) -> None:
    message = played["not delegated"]["bare"]["msg"]
    assert "would run its module on bare itself" in message and "delegate_to" in message
    # On the controller itself, or for a hypervisor that the task names, it is as it should be.
    assert "delegate_to" not in played["on the controller"]["bare"].get("msg", "")


@ONCE
def test_module_defaults_of_the_group_win_over_the_inventory_and_lose_to_the_task(played: dict[str, Any]) -> None:
    got = played["defaults"]["with_key"]["got"]
    assert (got["connect_timeout"], got["port"], got["username"]) == (4, 2300, "backup")


@ONCE
def test_an_explicit_hostname_takes_nothing_from_the_inventory(played: dict[str, Any]) -> None:
    results = played["a hostname"]
    assert len(results) == 2
    for result in results.values():
        got = result["got"]
        assert (got["hostname"], got["port"], got["username"]) == ("192.0.2.77", 22, "root")
        assert (got["password"], got["private_key"], got["jump_host"]) == (None, None, None)


@ONCE
def test_variables_of_the_play_and_the_task_count_with_their_precedence(played: dict[str, Any]) -> None:
    got = played["variables"]["bare"]["got"]
    assert (got["hostname"], got["port"], got["username"]) == ("bare.test", 2400, "of_task")
    assert played["variables"]["with_key"]["got"]["port"] == 2400


@ONCE
def test_async_reaches_the_module(played: dict[str, Any]) -> None:
    result = played["polled"]["bare"]
    assert (result["got"]["hostname"], result["check"]) == ("bare", False)
    assert result["finished"] in (1, True)


@ONCE
def test_extra_variables_win(place: Path) -> None:
    results = play(place, "--limit", "bare", "-e", "stowage_jump_host=h1", "-e", "ansible_password=p")["plain"]
    got = results["bare"]["got"]
    assert (got["jump_host"], got["password"]) == ("h1", "p")


@ONCE
def test_check_mode_and_an_agent_that_serves_without_other_credentials_reach_the_module(place: Path) -> None:
    results = play(place, "--limit", "bare,with_password", "--check", agent="/tmp/agent.sock")["plain"]
    assert [result["check"] for result in results.values()] == [True, True]
    assert results["bare"]["got"]["use_agent"] is True
    assert results["with_password"]["got"]["use_agent"] is False


def test_the_secret_is_nowhere_in_the_output_of_the_real_specification() -> None:
    from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec

    spec = connection_argument_spec()
    assert {name for name, option in spec.items() if option.get("no_log")} == {
        "password",
        "private_key",
        "private_key_passphrase",
    }
