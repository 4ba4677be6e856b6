# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links that a machine accepts and the matrix of role link_fleet does not name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.plugin_utils.matrix import unlisted

DOCUMENTATION = r"""
name: link_fleet_unlisted
short_description: The links that a machine accepts and a matrix does not name
version_added: 0.2.0
author: Stowage contributors (@stowage)
description:
  - Compares what M(stowage.esxi.link_server) found in the files of a machine's accounts with the matrix. Made for the
    role P(stowage.esxi.link_fleet#role).
options:
  _input:
    description: Results of M(stowage.esxi.link_server) for links to one machine.
    type: list
    elements: dict
    required: true
  named:
    description: Every link to that machine that somebody knows, each as C(NAME:SOURCE:TARGET).
    type: list
    elements: str
    required: true
positional: named
"""

EXAMPLES = r"""
- name: Say which links nobody knows
  ansible.builtin.debug:
    msg: "{{ [link_fleet_own] | stowage.esxi.link_fleet_unlisted(['control:backup01:esx1']) }}"
"""

RETURN = r"""
_value:
  description: The links, each with its C(name), C(source) and C(target), and the C(user) whose file has its key.
  type: list
  elements: dict
"""


def link_fleet_unlisted(found: Sequence[Mapping[str, Any]], named: Collection[str]) -> list[dict[str, str]]:
    return unlisted(found, named)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"link_fleet_unlisted": link_fleet_unlisted}
