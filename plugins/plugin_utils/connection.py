# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of all action plugins of the collection: the inventory's variables become the module's options."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail, AnsibleError, AnsibleValueOmittedError
from ansible.plugins.action import ActionBase
from ansible_collections.stowage.esxi.plugins.plugin_utils import resolve


class InventoryVariables:
    """The variables of the inventory host, under ``delegate_to`` too.

    Ansible adds connection variables that the host does not have (ansible_user, ansible_port, ansible_timeout,
    ansible_private_key_file…) to the task's variables, with the values of the *delegate's* connection. Only
    names that inventory, play, role or task really set are looked at, so that the delegate's user or key is never
    taken for the hypervisor's. The value comes from the task's variables, where precedence has been settled.
    """

    def __init__(self, task: Any, task_vars: dict[str, Any], templar: Any, loader: Any) -> None:
        self.name = str(task_vars["inventory_hostname"])
        self._task_vars = task_vars
        self._templar = templar
        self._loader = loader
        self._names = _names_set(task, task_vars, self.name)

    def get(self, name: str) -> Any:
        if name not in self._names or name not in self._task_vars:
            return None
        try:
            value = self._templar.template(self._task_vars[name])
        except AnsibleValueOmittedError:
            # "{{ omit }}" says that the host has no such setting.
            return None
        except AnsibleError as error:
            raise AnsibleActionFail(f"The variable {name} of {self.name} cannot be resolved: {error}") from error
        return value

    def read_key(self, path: str) -> str:
        place = os.path.abspath(os.path.expanduser(path))
        try:
            # A vaulted key file is decrypted on the way; the loader removes its temporary file.
            real = self._loader.get_real_file(place, decrypt=True)
            with open(real, encoding="utf-8") as file:
                return file.read()
        except (AnsibleError, OSError, UnicodeDecodeError) as error:
            there = os.path.exists(place)
            reason = (getattr(error, "strerror", None) or str(error)).rstrip(".") if there else "there is no such file"
            # Not "from error": Ansible appends the cause's own words, which are in ours.
            raise AnsibleActionFail(
                f"The private key of {self.name} cannot be read on the controller: {place}: {reason}. Set "
                "ansible_ssh_private_key_file to a file of the controller, or the option private_key_file to one of "
                "the machine where the module runs"
            ) from None


class OtherHostVariables(InventoryVariables):
    """The variables of another host of the inventory than the one that the task is for."""

    def __init__(self, name: str, variables: Any, loader: Any) -> None:
        self.name = name
        self._variables = variables
        self._loader = loader

    def get(self, name: str) -> Any:
        if name not in self._variables:
            return None
        try:
            return self._variables[name]
        except AnsibleValueOmittedError:
            return None
        except AnsibleError as error:
            raise AnsibleActionFail(f"The variable {name} of {self.name} cannot be resolved: {error}") from error


def _names_set(task: Any, task_vars: dict[str, Any], host: str) -> set[str]:
    names: set[str] = set()
    hostvars = task_vars.get("hostvars")
    if hostvars is not None and host in hostvars:
        names.update(hostvars[host])
    names.update(task.get_vars())
    play = getattr(task, "play", None) or getattr(getattr(task, "_parent", None), "_play", None)
    if play is not None:
        names.update(play.get_vars())
    role = getattr(task, "_role", None)
    if role is not None:
        names.update(role.get_vars())
        names.update(role.get_default_vars())
    return names


class EsxiActionBase(ActionBase):
    """Runs the module of the same name with the connection options filled in. A subclass names ``MODULE``."""

    MODULE: ClassVar[str] = ""

    _supports_check_mode = True
    _supports_async = True
    _requires_connection = True

    def module_args(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """The task's arguments (those of ``module_defaults`` are in them), completed from the inventory host."""
        if not (self._task.args.get("hostname") or self._task.delegate_to or self.runs_on_controller()):
            host = task_vars["inventory_hostname"]
            raise AnsibleActionFail(
                f"This task would run its module on {host} itself, where nothing of ours runs. Add delegate_to with "
                'the backup server, for example delegate_to: "{{ stowage_backup_server }}"'
            )
        variables = InventoryVariables(self._task, task_vars, self._templar, self._loader)
        try:
            return resolve.resolve(
                self._task.args,
                variables,
                runs_on_controller=self.runs_on_controller(),
                agent_here=bool(os.environ.get("SSH_AUTH_SOCK")),
            )
        except resolve.CannotResolve as error:
            raise AnsibleActionFail(str(error)) from error

    def runs_on_controller(self) -> bool:
        return bool(getattr(self._connection, "_remote_is_local", False) or self._connection.transport == "local")

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars if task_vars is not None else {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        in_background = bool(self._task.async_val and not self._connection.has_native_async)
        result.update(
            self._execute_module(
                module_name=self.MODULE,
                module_args=self.module_args(task_vars),
                task_vars=task_vars,
                wrap_async=in_background,
            )
        )
        if not in_background:
            # The background job still needs its files; it removes them itself.
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
