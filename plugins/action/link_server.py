# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.stowage.esxi.plugins.plugin_utils import resolve
from ansible_collections.stowage.esxi.plugins.plugin_utils.connection import (
    EsxiActionBase,
    InventoryVariables,
    OtherHostVariables,
)


class FirstLink:
    """The key file of a link is not looked at where there is another credential: this may be its first run."""

    def __init__(self, variables: resolve.Variables) -> None:
        self.name = variables.name
        self.read_key = variables.read_key
        self._variables = variables
        others = (*resolve.PASSWORD, *resolve.KEY_TEXT, *resolve.KEY_FILE)
        self._hidden = resolve.KEY_FILE_THERE if resolve.first(variables, others) is not None else ()

    def get(self, name: str) -> Any:
        return None if name in self._hidden else self._variables.get(name)


class ActionModule(EsxiActionBase):
    """Takes the connections to both machines of a link from the inventory; the one it runs on needs none."""

    MODULE = "stowage.esxi.link_server"

    def module_args(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in self._task.args.items() if value is not None}
        host = str(task_vars["inventory_hostname"])
        runner = str(self._task.delegate_to or host)
        variables = InventoryVariables(self._task, task_vars, self._templar, self._loader)
        if given.get("hostname"):
            filled = given
        else:
            if runner == host:
                filled = {**given, "target_is_local": True}
                for option, names in (("address", ("hostname",)), ("address_port", ("port",))):
                    value = resolve.first(variables, resolve.VARIABLES[names[0]])
                    if value is not None:
                        filled.setdefault(option, value)
                filled.setdefault("address", host)
            else:
                filled = self._resolve(given, variables)
            filled.setdefault("target_name", host)
            for option, names in resolve.LINK_VARIABLES.items():
                value = resolve.first(variables, names)
                if value is not None and option not in given:
                    filled[option] = value
        return self._with_source(filled, runner, task_vars)

    def _with_source(self, filled: dict[str, Any], runner: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        source = str(filled.pop("source", None) or filled.get("source_name") or runner)
        if filled.get("source_connection"):
            return filled
        filled.setdefault("source_name", source)
        if filled.get("target_name") == source:
            raise AnsibleActionFail(f"The link {filled.get('name')!r} would lead from {source} to {source} itself")
        if source != runner:
            if source not in task_vars["groups"]["all"]:
                raise AnsibleActionFail(
                    f"The link {filled.get('name')!r} starts at {source!r}, which is no host of the inventory. Add it, "
                    "or give the option source_connection"
                )
            variables = OtherHostVariables(source, task_vars["hostvars"][source], self._loader)
            filled["source_connection"] = self._resolve({}, variables)
        return filled

    def _resolve(self, given: dict[str, Any], variables: resolve.Variables) -> dict[str, Any]:
        try:
            return resolve.resolve(
                given,
                FirstLink(variables),
                runs_on_controller=self.runs_on_controller(),
                agent_here=bool(os.environ.get("SSH_AUTH_SOCK")),
            )
        except resolve.CannotResolve as error:
            raise AnsibleActionFail(str(error)) from error
