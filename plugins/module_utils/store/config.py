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
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECKS, HASHES, XXH3

CHUNK_SIZES = tuple(1 << bits for bits in range(16, 25))
DEFAULTS: dict[str, Any] = {
    "codec": "zstd",
    "level": 1,
    "pack_bytes": 64 << 20,
    # Room that the store may take; 0: no limit. Of it, a backup leaves the reserve to commits and collections (0: a
    # twentieth).
    "quota_bytes": 0,
    "reserve_bytes": 0,
    # A pack of which less is needed is written anew without the rest.
    "repack_percent": 50,
}
# Of a new store whose place packs chunks itself: a codec that every Python has, and few files.
KEPT_DEFAULTS: dict[str, Any] = {**DEFAULTS, "codec": "zlib", "pack_bytes": 256 << 20}
# Below 0 zstd is faster than at its level 1, and packs less.
LEVELS = {"zstd": (-7, 19), "zlib": (1, 9), "none": (-7, 19)}
SETTINGS = "settings/"
PACK_BYTES = (1 << 16, 1 << 31)


def check(config: Mapping[str, Any], name: str, store: str) -> None:
    """`Damaged` names the first field that is not as it must be."""
    encryption = config.get("encryption")
    fields = {
        "id": _is_hex(config.get("id"), 32),
        "chunk_bytes": _is_number(config.get("chunk_bytes")) and config["chunk_bytes"] in CHUNK_SIZES,
        "hash": config.get("hash") in HASHES,
        "check": config.get("check", XXH3) in CHECKS,
        "encryption": encryption is None or encryption == {"cipher": "aes-256-gcm"},
        "seed": encryption is not None or _is_hex(config.get("seed"), 16),
    }
    _refuse(fields, name, store)


def settings_problem(settings: Mapping[str, Any]) -> str | None:
    """Why a store cannot have these settings, in words; None when it can. Settings that are not known are none."""
    codec, level = settings["codec"], settings["level"]
    if not isinstance(codec, str) or codec not in NAMES:
        return f"unknown codec {codec!r:.100}: one of {', '.join(NAMES)}"
    low, high = LEVELS[codec]
    if not _is_number(level, low, high):
        return f"{codec} has levels from {low} to {high}, not {level!r:.100}"
    least, most = PACK_BYTES
    if not _is_number(settings["pack_bytes"], least, most):
        return f"packs have between {least} and {most} bytes, not {settings['pack_bytes']!r:.100}"
    for name in ("quota_bytes", "reserve_bytes"):
        if not _is_number(settings[name]):
            return f"{name} is a number of bytes, not {settings[name]!r:.100}"
    if not _is_number(settings["repack_percent"], 0, 100):
        return f"repack_percent is from 0 to 100, not {settings['repack_percent']!r:.100}"
    return None


def _refuse(fields: Mapping[str, bool], name: str, store: str) -> None:
    for field, good in fields.items():
        if not good:
            raise Damaged(name=name, store=store, reason=f"its {field} cannot be")


def _is_hex(value: Any, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{length}}}", value) is not None


def _is_number(value: Any, least: int = 0, most: int = 1 << 62) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
