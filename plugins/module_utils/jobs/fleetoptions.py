# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the modules around a backup run: proof, prune, report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import RULES
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.options import open_host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import arguments
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import PROGRAMS, STORING
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.record import DEFAULT_STATE_DIR
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.report import Rules, Shown, Sight
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hoststore import is_on_host
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec


def _place() -> dict[str, dict[str, Any]]:
    return {
        **connection_argument_spec(),
        **arguments.store_option(),
        "inventory_host": {"type": "str"},
        "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
        "program": {"type": "str", "choices": list(PROGRAMS), "default": PROGRAMS[0]},
        "point": {"type": "str", "required": True},
    }


def proof_spec() -> dict[str, dict[str, Any]]:
    return {
        **_place(),
        "run_id": {"type": "str", "required": True},
        "newest": {"type": "bool", "default": True},
        "deep": {"type": "bool", "default": False},
        "verified": {"type": "dict"},
        "check": {"type": "str", "choices": ["repository", "data"]},
        "damage": {"type": "str", "default": ""},
        "allow_none": {"type": "bool", "default": False},
    }


def prune_spec() -> dict[str, dict[str, Any]]:
    keep = {name: {"type": "int", "default": 0} for name in RULES}
    return {
        **_place(),
        "keep": {"type": "dict", "required": True, "options": {**keep, "min": {"type": "int", "default": 1}}},
        "own_keep": {"type": "bool", "default": False},
        "min_verified": {"type": "int", "default": 1},
        "limits_dir": {"type": "path", "default": "/var/lib/stowage/limits"},
    }


def report_spec() -> dict[str, dict[str, Any]]:
    vm = {
        "name": {"type": "str", "required": True},
        "identity": {"type": "str", "default": ""},
        "snapshots": {"type": "list", "elements": "str", "default": []},
        "standby": {"type": "bool", "default": False},
    }
    seen = {
        "host": {"type": "str", "required": True},
        "error": {"type": "str", "default": ""},
        "vms": {"type": "list", "elements": "dict", "default": [], "options": vm},
    }
    return {
        "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
        "seen": {"type": "list", "elements": "dict", "default": [], "options": seen},
        "ignore": {"type": "list", "elements": "str", "default": []},
        "max_age_hours": {"type": "float", "default": 26},
        "proven_days": {"type": "float", "default": 8},
        "history_days": {"type": "int", "default": 90},
    }


def opened(stack: ExitStack, params: Mapping[str, Any]) -> tuple[Host | None, Stores, str]:
    """The hypervisor, where the place lies on it; what opens stores; and the hypervisor's name in the record."""
    host = None
    if params["program"] not in STORING or is_on_host(params["point"]):
        host = stack.enter_context(open_host(params))
    stores = stack.enter_context(Stores(Access.of(params["store"]), host))
    return host, stores, str(params["inventory_host"] or params["hostname"])


def sight_of(seen: list[Mapping[str, Any]]) -> Sight:
    vms = [
        Shown(
            str(host["host"]),
            str(vm["name"]),
            str(vm.get("identity") or ""),
            tuple(vm.get("snapshots") or ()),
            bool(vm.get("standby")),
        )
        for host in seen
        for vm in host["vms"]
    ]
    silent = {str(host["host"]): str(host["error"]) for host in seen if host["error"]}
    return Sight(tuple(str(host["host"]) for host in seen), tuple(vms), silent)


def rules_of(params: Mapping[str, Any]) -> Rules:
    return Rules(params["max_age_hours"], params["proven_days"], frozenset(params["ignore"]))
