# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the restore points of a host's machines lie, for what looks at them when the backup is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import parse_policy

DOCUMENTATION = r"""
name: backup_places
short_description: The backup points that a host's policy of backups names
version_added: 0.2.0
author: Stowage contributors (@stowage)
description:
  - Lists the backup points of all machines that have none of their own, in the order in which the policy names them,
    each in the form in which a backup knows it. Made for the roles P(stowage.esxi.verify#role) and
    P(stowage.esxi.prune#role).
options:
  _input:
    description:
      - The policy, with C(point), C(points) and C(program), as C(backup_point), C(backup_points) and
        C(backup_program) of the role P(stowage.esxi.backup#role) have them.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say where the restore points are
  ansible.builtin.debug:
    msg: "{{ {'point': '/srv/stowage', 'program': 'dedup'} | stowage.esxi.backup_places }}"
"""

RETURN = r"""
_value:
  description: The backup points, each with its C(point) and the C(program) that writes to it.
  type: list
  elements: dict
"""


def backup_places(raw: Mapping[str, Any]) -> list[dict[str, str]]:
    """The points of a policy; AnsibleFilterError says what is wrong with it."""
    try:
        found = parse_policy({name: value for name, value in raw.items() if value}).places()
    except BadPolicy as error:
        raise AnsibleFilterError(f"{error.message}. {error.hint_text}") from error
    return [{"point": point, "program": program} for point, program in found]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"backup_places": backup_places}
