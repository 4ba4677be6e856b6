# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example inventory, read by Ansible itself: what an operator copies must be complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible.vars.manager import VariableManager
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import Policy, parse_policy
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import BadEndpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import (
    connection_argument_spec,
    endpoint_from_params,
)
from ansible_collections.stowage.esxi.plugins.plugin_utils import resolve

EXAMPLE = Path(__file__).resolve().parents[4] / "docs" / "example-inventory"
HOSTS = ("esx1", "esx2", "esx-branch")


class Variables:
    """One host's variables, resolved."""

    def __init__(self, name: str, values: dict[str, Any], loader: DataLoader) -> None:
        self.name = name
        self.values = values
        self._templar = Templar(loader=loader, variables=values)

    def get(self, name: str) -> Any:
        return self._templar.template(self.values[name]) if name in self.values else None

    def read_key(self, path: str) -> str:
        raise AssertionError(f"the example needs a key file: {path}")


@pytest.fixture(scope="module")
def example() -> dict[str, Variables]:
    loader = DataLoader()
    loader.set_basedir(str(EXAMPLE))
    inventory = InventoryManager(loader=loader, sources=[str(EXAMPLE / "hosts.yml")])
    manager = VariableManager(loader=loader, inventory=inventory)
    return {
        host.name: Variables(host.name, manager.get_vars(host=host, include_hostvars=False), loader)
        for host in inventory.get_hosts()
    }


def endpoint_of(variables: Variables) -> Any:
    given = resolve.resolve({}, variables, runs_on_controller=False, agent_here=False)
    defaults = {name: option.get("default") for name, option in connection_argument_spec().items()}
    return endpoint_from_params({**defaults, **given})


def policy_of(variables: Variables) -> Policy:
    names = ("point", "select", "exclude", "vms", "keep")
    given = {name: variables.get(f"backup_{name}") for name in names}
    return parse_policy({name: value for name, value in given.items() if value is not None})


def test_the_hypervisors_are_those_that_are_judged_here(example: dict[str, Variables]) -> None:
    assert set(example) == {*HOSTS, "backup1"}


@pytest.mark.parametrize("host", HOSTS)
def test_every_hypervisor_has_complete_connection_settings(example: dict[str, Variables], host: str) -> None:
    endpoint = endpoint_of(example[host])
    assert (endpoint.user, endpoint.host_key_policy) == ("root", "pinned")
    assert endpoint.password and endpoint.host_key_fingerprints
    assert example[host].get("stowage_backup_server") in example


def test_a_jump_host_without_its_fingerprints_would_not_do(example: dict[str, Variables]) -> None:
    assert endpoint_of(example["esx-branch"]).jump_address.host == "branch-gw.example.com"
    values = {**example["esx-branch"].values, "stowage_jump_host_key_fingerprints": []}
    with pytest.raises(BadEndpoint, match="jump host"):
        endpoint_of(Variables("esx-branch", values, DataLoader()))


@pytest.mark.parametrize("host", HOSTS)
def test_every_hypervisor_has_a_policy_that_selects_something(example: dict[str, Variables], host: str) -> None:
    policy = policy_of(example[host])
    assert policy.select and policy.common.keep == Keep(last=7, weekly=4, min=2)


def test_the_numbers_of_a_machines_own_rule_mean_what_they_say(example: dict[str, Variables]) -> None:
    policy = policy_of(example["esx1"])
    assert policy.for_vm(["db01"]).keep == Keep(last=14, monthly=6, min=3)
    assert policy.for_vm(["report {{ 2026 }}"]).how == "cold"
