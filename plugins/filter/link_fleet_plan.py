# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one machine of a run does about the matrix of role link_fleet, as one value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible.parsing.dataloader import DataLoader
from ansible_collections.stowage.esxi.plugins.plugin_utils.matrix import lay_out

DOCUMENTATION = r"""
name: link_fleet_plan
short_description: The links of a matrix that one machine of a run deals with
version_added: 0.2.0
author: Stowage contributors (@stowage)
description:
  - Resolves the hosts, groups and patterns of each entry, and shares the pairs of machines among the hosts of the run.
    Made for the role P(stowage.esxi.link_fleet#role).
options:
  _input:
    description: The matrix, as C(link_fleet_links) of the role has it.
    type: list
    elements: dict
    required: true
  groups:
    description: The groups of the inventory with their hosts, as the variable C(groups) has them.
    type: dict
    required: true
  host:
    description: The inventory host that asks.
    type: str
    required: true
  played:
    description: The hosts of the run.
    type: list
    elements: str
    required: true
positional: groups, host, played
"""

EXAMPLES = r"""
- name: Say which links this machine deals with
  ansible.builtin.debug:
    msg: "{{ link_fleet_links | stowage.esxi.link_fleet_plan(groups, inventory_hostname, ansible_play_hosts_all) }}"
"""

RETURN = r"""
_value:
  description: >-
    Lists under C(pairs) (for each entry those of source and target that this host deals with), C(named) (every link to
    this host in the matrix), C(asked) (the hosts that make the others of these), C(problems) and C(notes) (sentences).
  type: dict
"""


class _Hosts:
    """The inventory, as the lookup `inventory_hostnames` has it: the hosts of the run or not."""

    def __init__(self, groups: Mapping[str, Collection[str]]) -> None:
        self.groups = groups
        self._manager = InventoryManager(DataLoader(), parse=False)
        for group, members in groups.items():
            self._manager.add_group(group)
            for member in members:
                self._manager.add_host(member, group=group)

    def split(self, words: Any) -> list[str]:
        return [str(word) for word in split_host_pattern([words] if isinstance(words, str) else list(words))]

    def hosts(self, patterns: Sequence[str]) -> list[str]:
        try:
            return [found.name for found in self._manager.get_hosts(pattern=list(patterns))] if patterns else []
        except AnsibleError as error:
            raise AnsibleFilterError(f"link_fleet_links, {', '.join(patterns)}: {error}") from error


def link_fleet_plan(
    entries: Sequence[Mapping[str, Any]], groups: Mapping[str, Collection[str]], host: str, played: Collection[str]
) -> dict[str, Any]:
    return lay_out(entries, _Hosts(groups), host, played)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"link_fleet_plan": link_fleet_plan}
