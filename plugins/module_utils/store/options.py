# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam of the modules about a store: their options become a place, a wish; results become what is returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import RULES
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.config import DEFAULTS
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadKeys
from ansible_collections.stowage.esxi.plugins.module_utils.store.location import S3Access, backend_at
from ansible_collections.stowage.esxi.plugins.module_utils.store.wish import Wish


def place_argument_spec() -> dict[str, dict[str, Any]]:
    return {
        "location": {"type": "str", "required": True, "aliases": ["path"]},
        "passphrase": {"type": "str", "no_log": True},
        "endpoint": {"type": "str"},
        "region": {"type": "str"},
        "access_key": {"type": "str", "no_log": False},
        "secret_key": {"type": "str", "no_log": True},
        "ssh_key": {"type": "path"},
    }


def settings_argument_spec() -> dict[str, dict[str, Any]]:
    return {
        "codec": {"type": "str", "choices": ["none", "zlib", "zstd"]},
        "level": {"type": "int"},
        "pack_bytes": {"type": "int"},
        "quota_bytes": {"type": "int"},
        "reserve_bytes": {"type": "int"},
        "repack_percent": {"type": "int"},
    }


def keys_argument_spec() -> dict[str, dict[str, Any]]:
    one = {"name": {"type": "str", "required": True}, "passphrase": {"type": "str", "required": True, "no_log": True}}
    return {
        "keys": {"type": "list", "elements": "dict", "default": [], "no_log": False, "options": one},
        "purge_keys": {"type": "bool", "default": False},
        "recovery_key": {"type": "bool", "default": False, "no_log": False},
    }


def chores_argument_spec() -> dict[str, dict[str, Any]]:
    """What the states other than present need."""
    keep = {name: {"type": "int", "default": 0} for name in RULES}
    return {
        "keep": {"type": "dict", "options": {**keep, "min": {"type": "int", "default": 1}}},
        "machines": {"type": "list", "elements": "str"},
        "min_verified": {"type": "int", "default": 1},
        "room_bytes": {"type": "int"},
        "other": {"type": "dict", "options": place_argument_spec()},
        "remove_lost": {"type": "bool", "default": False},
        "deep": {"type": "bool", "default": False},
        "slice": {"type": "str"},
        "newest": {"type": "bool"},
        "points": {"type": "list", "elements": "str"},
        "observe_seconds": {"type": "float", "default": 60},
    }


# For required_if.
NEEDED_BY_STATE = [("state", "copied", ("other",)), ("state", "pruned", ("keep", "room_bytes"), True)]
# For mutually_exclusive.
NEVER_TOGETHER = [("slice", "newest", "points"), ("slice", "machines"), ("points", "machines")]


@contextmanager
def open_place(params: Mapping[str, Any]) -> Iterator[Backend]:
    access = S3Access(params["endpoint"], params["region"], params["access_key"], params["secret_key"])
    backend = backend_at(params["location"], access)
    try:
        yield backend
    finally:
        backend.close()


def wish_of(params: Mapping[str, Any]) -> Wish:
    passphrases: dict[str, str] = {}
    for entry in params["keys"]:
        if entry["name"] in passphrases:
            raise BadKeys(store=params["location"], reason=f"the key {entry['name']!r} was given twice")
        passphrases[entry["name"]] = entry["passphrase"]
    return Wish(
        chunk_bytes=params["chunk_bytes"],
        hash_name=params["hash"],
        passphrase=params["passphrase"],
        settings={name: params[name] for name in DEFAULTS if params.get(name) is not None},
        keys=passphrases,
        purge_keys=params["purge_keys"],
        recovery_key=params["recovery_key"],
    )
