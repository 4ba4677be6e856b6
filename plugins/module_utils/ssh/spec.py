# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection options that every module of the group has, and the endpoint made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import BACKENDS, POLICIES, Endpoint


def connection_argument_spec() -> dict[str, dict[str, Any]]:
    """A fresh copy each time: the caller adds its own options."""
    return {
        "hostname": {"type": "str"},
        "port": {"type": "int", "default": 22},
        "username": {"type": "str", "default": "root"},
        "password": {"type": "str", "no_log": True},
        "private_key_file": {"type": "path", "no_log": False},
        "private_key": {"type": "str", "no_log": True},
        "private_key_passphrase": {"type": "str", "no_log": True},
        "jump_host": {"type": "str"},
        "host_key_policy": {"type": "str", "choices": list(POLICIES), "default": "strict", "no_log": False},
        "host_key_fingerprints": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "jump_host_key_fingerprints": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "known_hosts_file": {"type": "path"},
        "use_agent": {"type": "bool", "default": False},
        "connect_timeout": {"type": "int", "default": 15},
        "ssh_backend": {"type": "str", "choices": list(BACKENDS), "default": "auto"},
    }


def endpoint_from_params(params: Mapping[str, Any]) -> Endpoint:
    """The endpoint that a module's parameters describe; ``BadEndpoint`` for settings that cannot work."""
    return Endpoint(
        host=params.get("hostname") or "",
        port=params["port"],
        user=params["username"],
        password=params.get("password"),
        private_key_file=params.get("private_key_file"),
        private_key=params.get("private_key"),
        passphrase=params.get("private_key_passphrase"),
        jump=params.get("jump_host"),
        host_key_policy=params["host_key_policy"],
        host_key_fingerprints=tuple(params.get("host_key_fingerprints") or ()),
        known_hosts_file=params.get("known_hosts_file"),
        use_agent=bool(params.get("use_agent")),
        connect_timeout_seconds=params["connect_timeout"],
        backend=params["ssh_backend"],
        jump_host_key_fingerprints=tuple(params.get("jump_host_key_fingerprints") or ()),
    )
