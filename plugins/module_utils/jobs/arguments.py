# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the modules of this room, with the defaults of the policy taken from where they are defined."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import LEASE_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import HOWS, PROGRAMS, VmPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.record import DEFAULT_STATE_DIR
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import FORMATS, TRANSFER_MODES, VERIFY
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec

# Those that run for one VM.
HOOK_NAMES = ("pre_vm", "post_vm", "on_success", "on_error")
_CHOICES = {"how": HOWS, "program": PROGRAMS, "disk_format": FORMATS, "verify": VERIFY, "transfer_mode": TRANSFER_MODES}
_TYPES = {"bool": "bool", "int": "int", "str": "str"}


def _common() -> dict[str, dict[str, Any]]:
    return {
        **connection_argument_spec(),
        "inventory_host": {"type": "str"},
        "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
    }


def store_option() -> dict[str, dict[str, Any]]:
    """What opens a store, beside its place; and what of it a hypervisor may be told."""
    options = {
        "passphrase": {"type": "str", "no_log": True},
        "endpoint": {"type": "str"},
        "region": {"type": "str"},
        "access_key": {"type": "str", "no_log": False},
        "secret_key": {"type": "str", "no_log": True},
        "create": {"type": "bool", "default": False},
        "scope": {"type": "str", "choices": ["host", "group", "store"], "default": "host"},
        "group": {"type": "str"},
        "borg_path": {"type": "str", "default": "borg"},
        "borg_rsh": {"type": "str"},
        "rsync_path": {"type": "str"},
        "rsync_whole_file": {"type": "bool", "default": False},
        "ssh_key": {"type": "path"},
        "stage_dir": {"type": "path"},
    }
    return {"store": {"type": "dict", "options": options}}


def policy_options() -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {
        "select": {"type": "list", "elements": "raw", "default": []},
        "exclude": {"type": "list", "elements": "raw", "default": []},
        "allow_none": {"type": "bool", "default": False},
        "unknown_names": {"type": "str", "choices": ["error", "ignore"], "default": "error"},
        "vms": {"type": "dict", "default": {}},
    }
    for field in fields(VmPolicy):
        if field.name == "point":
            options["point"] = {"type": "str"}
            options["points"] = {"type": "list", "elements": "raw", "default": []}
        elif field.name == "windows":
            options["windows"] = {"type": "list", "elements": "dict", "default": []}
        elif field.default is MISSING:
            # Empty is the default of the policy.
            options[field.name] = {"type": "dict", "default": {}}
        else:
            options[field.name] = {"type": _TYPES[str(field.type)], "default": field.default}
            if field.name in _CHOICES:
                options[field.name]["choices"] = list(_CHOICES[field.name])
    return options


def plan_spec() -> dict[str, dict[str, Any]]:
    return {
        **_common(),
        **store_option(),
        "policy": {"type": "dict", "required": True, "options": policy_options()},
        "run_id": {"type": "str", "required": True},
        "host_tags": {"type": "dict", "default": {}},
        "write_record": {"type": "bool", "default": True},
    }


def job_spec() -> dict[str, dict[str, Any]]:
    return {
        **_common(),
        **store_option(),
        "state": {"type": "str", "choices": ["started", "frozen", "committed", "ended", "noted"], "required": True},
        "hook": {"type": "str", "choices": list(HOOK_NAMES)},
        "plan": {"type": "dict", "required": True},
        "run_id": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": ["backup", "restore"], "default": "backup"},
        "controller": {"type": "str"},
        "lease_seconds": {"type": "int", "default": LEASE_SECONDS},
        "copies": {"type": "list", "elements": "dict", "default": []},
        "others": {"type": "list", "elements": "dict", "default": []},
        "register": {"type": "bool", "default": True},
        "outcome": {"type": "str", "choices": ["ok", "failed", "skipped"], "default": "ok"},
        "error": {"type": "raw"},
        "downtime_seconds": {"type": "float"},
    }


def recover_spec() -> dict[str, dict[str, Any]]:
    return {
        **_common(),
        "observe_seconds": {"type": "int", "default": 20},
        "consolidation_timeout": {"type": "int", "default": 7200},
        "fail_incomplete": {"type": "bool", "default": True},
        **store_option(),
    }


def record_spec() -> dict[str, dict[str, Any]]:
    return {
        "run_id": {"type": "str", "required": True},
        "hosts": {"type": "list", "elements": "str", "default": []},
        "host_errors": {"type": "dict", "default": {}},
        "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
    }


def restore_spec() -> dict[str, dict[str, Any]]:
    return {
        **_common(),
        **store_option(),
        "program": {"type": "str", "choices": list(PROGRAMS), "default": PROGRAMS[0]},
        "run_id": {"type": "str"},
        "point": {"type": "str", "required": True},
        "vm": {"type": "str"},
        "at": {"type": "str"},
        "made_by": {"type": "str"},
        "datastore": {"type": "str"},
        "directory": {"type": "str"},
        "name": {"type": "str"},
        "networks": {"type": "dict", "default": {}},
        "connect_networks": {"type": "bool", "default": True},
        "uuid": {"type": "str", "choices": ["keep", "new"], "default": "keep"},
        "mac": {"type": "str", "choices": ["keep", "new"], "default": "keep"},
        "disk_format": {"type": "str", "choices": ["thin", "zeroedthick", "eagerzeroedthick"], "default": "thin"},
        "reserve_percent": {"type": "int", "default": 5},
        "in_place": {"type": "bool", "default": False},
        "safety_point": {"type": "bool", "default": True},
        "replica_of": {"type": "str"},
        "replica_touched": {"type": "str", "choices": ["refuse", "resync"], "default": "refuse"},
    }


def replica_spec() -> dict[str, dict[str, Any]]:
    return {
        **connection_argument_spec(),
        "inventory_host": {"type": "str"},
        "vm": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["checked", "active", "ready"], "default": "checked"},
        "touched": {"type": "str", "choices": ["refuse", "resync"], "default": "refuse"},
    }
