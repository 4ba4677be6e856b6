# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a store's configuration and its settings may hold. They may be a stranger's, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.codec import NAMES
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import HASHES

CHUNK_SIZES = tuple(1 << bits for bits in range(16, 25))
_PACK_BYTES = (1 << 16, 1 << 31)
_LEVELS = (-7, 22)


def check(config: Mapping[str, Any], name: str, store: str) -> None:
    """`Damaged` names the first field that is not as it must be."""
    encryption = config.get("encryption")
    fields = {
        "id": _is_hex(config.get("id"), 32),
        "chunk_bytes": _is_number(config.get("chunk_bytes")) and config["chunk_bytes"] in CHUNK_SIZES,
        "hash": config.get("hash") in HASHES,
        "encryption": encryption is None or encryption == {"cipher": "aes-256-gcm"},
        "seed": encryption is not None or _is_hex(config.get("seed"), 16),
    }
    _refuse(fields, name, store)


def check_settings(settings: Mapping[str, Any], name: str, store: str) -> None:
    fields = {
        "codec": isinstance(settings["codec"], str) and settings["codec"] in NAMES,
        "level": _is_number(settings["level"], *_LEVELS),
        "pack_bytes": _is_number(settings["pack_bytes"], *_PACK_BYTES),
    }
    _refuse(fields, name, store)


def _refuse(fields: Mapping[str, bool], name: str, store: str) -> None:
    for field, good in fields.items():
        if not good:
            raise Damaged(name=name, store=store, reason=f"its {field} cannot be")


def _is_hex(value: Any, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{length}}}", value) is not None


def _is_number(value: Any, least: int = 0, most: int = 1 << 62) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
