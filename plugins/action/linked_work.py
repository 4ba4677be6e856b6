# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.stowage.esxi.plugins.plugin_utils import resolve
from ansible_collections.stowage.esxi.plugins.plugin_utils.connection import (
    EsxiActionBase,
    InventoryVariables,
    OtherHostVariables,
)


class ActionModule(EsxiActionBase):
    """Takes where the target is from the inventory. The key is the link's own: no credential is looked at."""

    MODULE = "stowage.esxi.linked_work"

    def module_args(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in self._task.args.items() if value is not None}
        host = str(task_vars["inventory_hostname"])
        source = str(self._task.delegate_to or host)
        target = given.setdefault("target", host)
        given.setdefault("source_name", source)
        if target == source and not given.get("address"):
            raise AnsibleActionFail(
                f"The work of link {given.get('link')!r} would be started on {source} by {source} itself. Name the "
                "link's target, or delegate the task to its source"
            )
        variables = self._variables(target, host, task_vars)
        if variables is None:
            return given
        for option, names in (
            ("address", (*resolve.LINK_VARIABLES["address"], *resolve.VARIABLES["hostname"])),
            ("address_port", (*resolve.LINK_VARIABLES["address_port"], *resolve.VARIABLES["port"])),
            ("user", resolve.VARIABLES["username"]),
        ):
            value = resolve.first(variables, names)
            if value is not None:
                given.setdefault(option, value)
        return given

    def _variables(self, target: str, host: str, task_vars: dict[str, Any]) -> resolve.Variables | None:
        """None for a target that is no host of the inventory: then the options say where it is."""
        if target == host:
            return InventoryVariables(self._task, task_vars, self._templar, self._loader)
        if target in task_vars["groups"]["all"]:
            return OtherHostVariables(target, task_vars["hostvars"][target], self._loader)
        return None
