# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role awx_objects makes, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.plugin_utils.awx import plan

DOCUMENTATION = r"""
name: awx_objects_plan
short_description: What AWX shall have, from what a role knows and what an operator changes
version_added: 0.2.0
author: Stowage contributors (@stowage)
description:
  - Lays the operator's entries over the known ones, checks that workflows and schedules fit, and puts the nodes of
    workflows in the order in which they can be made. Made for the role P(stowage.esxi.awx_objects#role).
options:
  _input:
    description: The known entries, lists under C(templates), C(workflows) and C(schedules).
    type: dict
    required: true
  given:
    description: The operator's entries, in the same form. One with the key of a known entry changes it.
    type: dict
    required: true
  prefix:
    description: What every name begins with.
    type: str
    default: ""
positional: given, prefix
"""

EXAMPLES = r"""
- name: Say what AWX shall have
  ansible.builtin.debug:
    msg: "{{ {'templates': [{'key': 'recover'}]} | stowage.esxi.awx_objects_plan({}, 'Stowage ') }}"
"""

RETURN = r"""
_value:
  description: Lists under C(templates), C(workflows), C(nodes) and C(schedules), and sentences under C(problems).
  type: dict
"""


def awx_objects_plan(known: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return plan(known, given, prefix)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"awx_objects_plan": awx_objects_plan}
