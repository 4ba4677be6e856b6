# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
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
        wanted = given.pop("target", None)
        source = str(given.pop("source", None) or given.get("source_name") or (host if wanted else runner))
        if given.get("hostname"):
            filled = given
        else:
            target = str(wanted or host)
            filled = self._with_target(given, self._variables(target, given, task_vars), runner)
            if target == source and not boolean(given.get("source_gone", False)):
                raise AnsibleActionFail(f"The link {filled.get('name')!r} would lead from {source} to {source} itself")
        if not filled.get("source_connection"):
            filled.setdefault("source_name", source)
            if given.get("state") == "absent" and source not in (runner, *task_vars["groups"]["all"]):
                # It has left; that its target forgets the key is what counts.
                filled["source_gone"] = True
            if source != runner and not boolean(filled.get("source_gone", False)):
                filled["source_connection"] = self._resolve({}, self._variables(source, given, task_vars))
        return filled

    def _variables(self, name: str, given: dict[str, Any], task_vars: dict[str, Any]) -> resolve.Variables:
        if name == task_vars["inventory_hostname"]:
            return InventoryVariables(self._task, task_vars, self._templar, self._loader)
        if name not in task_vars["groups"]["all"]:
            raise AnsibleActionFail(
                f"The link {given.get('name')!r} starts or ends at {name!r}, which is no host of the inventory. Add "
                "it, or give the options hostname or source_connection"
            )
        return OtherHostVariables(name, task_vars["hostvars"][name], self._loader)

    def _with_target(self, given: dict[str, Any], variables: resolve.Variables, runner: str) -> dict[str, Any]:
        if variables.name == runner:
            filled = {**given, "target_is_local": True}
            for option, name in (("address", "hostname"), ("address_port", "port")):
                value = resolve.first(variables, resolve.VARIABLES[name])
                if value is not None:
                    filled.setdefault(option, value)
            filled.setdefault("address", variables.name)
        else:
            filled = self._resolve(given, variables)
        filled.setdefault("target_name", variables.name)
        for option, names in resolve.LINK_VARIABLES.items():
            value = resolve.first(variables, names)
            if value is not None and option not in given:
                filled[option] = value
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
