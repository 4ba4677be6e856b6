# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variable fills which option, decided without Ansible."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec
from ansible_collections.stowage.esxi.plugins.plugin_utils import resolve


class Fixed:
    def __init__(self, name: str = "esx1", **values: Any) -> None:
        self.name = name
        self.values = values
        self.keys_read: list[str] = []

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def read_key(self, path: str) -> str:
        self.keys_read.append(path)
        return f"text of {path}"


def resolved(
    arguments: dict[str, Any], variables: Fixed, *, local: bool = False, agent: bool = False
) -> dict[str, Any]:
    return resolve.resolve(arguments, variables, runs_on_controller=local, agent_here=agent)


def test_the_options_known_here_are_those_of_the_modules() -> None:
    assert set(resolve.OPTIONS) == set(connection_argument_spec())


def test_explicit_credentials_are_not_mixed_with_those_of_the_inventory() -> None:
    variables = Fixed(ansible_password="p", ansible_ssh_private_key_file="f")
    got = resolved({"private_key_file": "/own"}, variables)
    assert got == {"private_key_file": "/own", "hostname": "esx1"}
    assert variables.keys_read == []


def test_key_and_password_of_the_inventory_go_together() -> None:
    got = resolved(
        {}, Fixed(ansible_ssh_pass=123, ansible_private_key_file="f", ansible_ssh_private_key_passphrase="s")
    )
    assert got == {
        "hostname": "esx1",
        "password": "123",
        "private_key": "text of f",
        "private_key_passphrase": "s",
    }


def test_a_key_given_as_text_needs_no_file() -> None:
    variables = Fixed(ansible_ssh_private_key="T", ansible_ssh_private_key_file="f")
    assert resolved({}, variables)["private_key"] == "T"
    assert variables.keys_read == []


@pytest.mark.parametrize(
    ("local", "agent", "values", "used"),
    [
        (True, True, {}, True),
        (True, False, {}, False),
        (False, True, {}, False),
        (False, True, {"stowage_agent_forwarding": True}, True),
        (False, False, {"stowage_agent_forwarding": "yes"}, True),
        (False, True, {"stowage_agent_forwarding": "no"}, False),
        (True, True, {"ansible_password": "p"}, False),
    ],
)
def test_the_agent_serves_only_where_it_is_or_is_allowed(
    local: bool, agent: bool, values: dict[str, Any], used: bool
) -> None:
    assert resolved({}, Fixed(**values), local=local, agent=agent).get("use_agent", False) is used


@pytest.mark.parametrize(
    "arguments",
    ["-o ProxyJump=b", "-J b", "-A -J b", "-o ProxyCommand='ssh -W %h:%p b'", "-W b:22", "-o proxyjump b"],
)
def test_a_hidden_jump_is_refused_unless_ours_is_set(arguments: str) -> None:
    with pytest.raises(resolve.CannotResolve, match="stowage_jump_host"):
        resolved({}, Fixed(ansible_ssh_common_args=arguments))
    resolved({}, Fixed(ansible_ssh_common_args=arguments, stowage_jump_host=""))
    resolved({"jump_host": "x"}, Fixed(ansible_ssh_common_args=arguments))


@pytest.mark.parametrize("arguments", ["-o ControlPersist=60s -C", "-o StrictHostKeyChecking=no", "-i ~/My-Jolly.key"])
def test_other_ssh_arguments_do_no_harm(arguments: str) -> None:
    resolved({}, Fixed(ansible_ssh_common_args=arguments, ansible_ssh_args=arguments))


def test_fingerprints_without_a_policy_pin() -> None:
    assert resolved({}, Fixed(stowage_host_key_fingerprints="SHA256:a, SHA256:b")) == {
        "hostname": "esx1",
        "host_key_fingerprints": ["SHA256:a", "SHA256:b"],
        "host_key_policy": "pinned",
    }
    assert resolved({}, Fixed(stowage_host_key_fingerprints=["x"], stowage_host_key_policy="strict"))[
        "host_key_policy"
    ] == ("strict")


def test_a_task_for_localhost_without_a_hypervisor_is_an_error_that_says_how() -> None:
    with pytest.raises(resolve.CannotResolve, match="delegate_to"):
        resolved({}, Fixed("localhost"))
    assert resolved({}, Fixed("localhost", ansible_host="192.0.2.1"))["hostname"] == "192.0.2.1"
    assert resolved({"hostname": "h"}, Fixed("localhost", ansible_password="p")) == {"hostname": "h"}


def test_a_key_on_the_backup_server_takes_the_place_of_password_and_key() -> None:
    variables = Fixed(ansible_password="p", ansible_ssh_private_key_file="f", stowage_private_key_file="~/.ssh/k")
    assert resolved({}, variables) == {"private_key_file": "~/.ssh/k", "hostname": "esx1"}
    assert resolved({"password": "own"}, variables) == {"password": "own", "hostname": "esx1"}
