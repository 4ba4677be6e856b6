# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role awx_objects does about the nodes of workflows, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.plugin_utils.awx import changes

DOCUMENTATION = r"""
name: awx_objects_changes
short_description: How the nodes of AWX's workflows differ from a plan
version_added: 0.2.0
author: Stowage contributors (@stowage)
description:
  - Compares what P(stowage.esxi.awx_objects_plan#filter) returns with the nodes that AWX shows. Made for the role
    P(stowage.esxi.awx_objects#role).
options:
  _input:
    description: The plan.
    type: dict
    required: true
  found:
    description: The nodes, as AWX's API lists them.
    type: list
    elements: dict
    required: true
positional: found
"""

EXAMPLES = r"""
- name: Say which nodes differ
  ansible.builtin.debug:
    msg: "{{ awx_objects_plan | stowage.esxi.awx_objects_changes(awx_objects_answer) }}"
"""

RETURN = r"""
_value:
  description: Lists of nodes under C(removed), C(loosened) (an edge has changed its kind) and C(made).
  type: dict
"""


def awx_objects_changes(plan: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = [workflow["name"] for workflow in plan["workflows"] if workflow["state"] == "present"]
    return changes(plan["nodes"], [dict(one) for one in found], kept)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"awx_objects_changes": awx_objects_changes}
