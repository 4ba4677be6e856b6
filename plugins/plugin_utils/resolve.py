# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From an inventory host's variables to a module's connection options. Knows nothing of Ansible's own objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

# Option: the variables that fill it, the first one that is set counts.
VARIABLES: dict[str, tuple[str, ...]] = {
    "hostname": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "username": ("ansible_user", "ansible_ssh_user"),
    "jump_host": ("stowage_jump_host",),
    "host_key_policy": ("stowage_host_key_policy",),
    "host_key_fingerprints": ("stowage_host_key_fingerprints",),
    "jump_host_key_fingerprints": ("stowage_jump_host_key_fingerprints",),
    "known_hosts_file": ("stowage_known_hosts_file",),
    "connect_timeout": ("ansible_timeout", "ansible_ssh_timeout"),
    "ssh_backend": ("stowage_ssh_backend",),
}
PASSWORD = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
KEY_TEXT = ("ansible_private_key", "ansible_ssh_private_key")
KEY_FILE = ("ansible_private_key_file", "ansible_ssh_private_key_file")
# On the machine where the module runs, as link_server makes it: with it, no password is needed any more.
KEY_FILE_THERE = ("stowage_private_key_file",)
# What a link's source calls its target, where that is not the address that the module uses.
LINK_VARIABLES: dict[str, tuple[str, ...]] = {
    "address": ("stowage_link_address",),
    "address_port": ("stowage_link_port",),
}
PASSPHRASE = ("ansible_private_key_passphrase", "ansible_ssh_private_key_passphrase")
SSH_ARGUMENTS = ("ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args")
AGENT_FORWARDING = "stowage_agent_forwarding"

CREDENTIALS = ("password", "private_key", "private_key_file", "use_agent")
OPTIONS = (*VARIABLES, *CREDENTIALS, "private_key_passphrase")

_JUMP = re.compile(r"(?:^|\s|['\"])-[A-Za-z0-9]*[JW]|ProxyJump|ProxyCommand", re.IGNORECASE)
_LOCAL = ("localhost", "127.0.0.1", "::1")


class CannotResolve(Exception):
    """The settings cannot work; the text says which, why, and what to set."""


class Variables(Protocol):
    """The variables of the inventory host that the task is for, never those of the machine it is delegated to."""

    name: str

    def get(self, name: str) -> Any:
        """The value with all templates resolved; ``None`` where it is not set."""

    def read_key(self, path: str) -> str:
        """The text of a key file on the controller."""


def resolve(
    arguments: Mapping[str, Any], variables: Variables, *, runs_on_controller: bool, agent_here: bool
) -> dict[str, Any]:
    """The module's arguments, the connection options filled in where they were left to the inventory.

    With an explicit hostname nothing is filled in: a credential of one machine must not reach another.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    if given.get("hostname"):
        return given
    filled = dict(given)
    for option, names in VARIABLES.items():
        if option not in given:
            value = _first(variables, names)
            if value is not None:
                filled[option] = value
    filled.setdefault("hostname", variables.name)
    if filled["hostname"] in _LOCAL and _first(variables, VARIABLES["hostname"]) is None:
        raise CannotResolve(
            f"This task is for {variables.name}, which is no hypervisor. Run it for the hypervisor and delegate it to "
            "the backup server (hosts: the hypervisor, delegate_to: the backup server), or name the hypervisor with "
            "the option hostname"
        )
    for option in ("host_key_fingerprints", "jump_host_key_fingerprints"):
        if isinstance(filled.get(option), str):
            filled[option] = [part.strip() for part in filled[option].split(",") if part.strip()]
    if "host_key_policy" not in filled and filled.get("host_key_fingerprints"):
        filled["host_key_policy"] = "pinned"
    if "jump_host" not in filled and variables.get("stowage_jump_host") is None:
        _refuse_hidden_jump(variables)
    if not any(name in given for name in CREDENTIALS):
        _fill_credentials(filled, variables, runs_on_controller=runs_on_controller, agent_here=agent_here)
    return filled


def _fill_credentials(
    filled: dict[str, Any], variables: Variables, *, runs_on_controller: bool, agent_here: bool
) -> None:
    there = _first(variables, KEY_FILE_THERE)
    if there is not None:
        filled["private_key_file"] = str(there)
        return
    password = _first(variables, PASSWORD)
    if password is not None:
        filled["password"] = str(password)
    key = _first(variables, KEY_TEXT)
    if key is None:
        path = _first(variables, KEY_FILE)
        if path is not None:
            key = variables.read_key(str(path))
    if key is not None:
        filled["private_key"] = str(key)
        passphrase = _first(variables, PASSPHRASE)
        if passphrase is not None and "private_key_passphrase" not in filled:
            filled["private_key_passphrase"] = str(passphrase)
    if password is None and key is None:
        # Without either, the default keys of the user there are what is left, beside an agent where one may be used.
        forwarded = _truth(variables.get(AGENT_FORWARDING))
        if forwarded or (runs_on_controller and agent_here):
            filled["use_agent"] = True


def _refuse_hidden_jump(variables: Variables) -> None:
    for name in SSH_ARGUMENTS:
        value = variables.get(name)
        if value is not None and _JUMP.search(str(value)):
            raise CannotResolve(
                f"{name} of {variables.name} leads through another machine, as seen from the controller. This module "
                "may run elsewhere and does not use it. Set stowage_jump_host to [user@]host[:port] as seen from the "
                "machine where the module runs, or to an empty text where no jump host is needed from there"
            )


def first(variables: Variables, names: tuple[str, ...]) -> Any:
    """The first of these variables that is set; an empty text counts as not set."""
    return _first(variables, names)


def _first(variables: Variables, names: tuple[str, ...]) -> Any:
    for name in names:
        value = variables.get(name)
        if value is not None and value != "":
            return value
    return None


def _truth(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "yes", "on", "1", "y", "t")
