# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The store's small files: one line of JSON, and a line that proves it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import record_check

_LAST = b"xxh3-128 "


def render(value: Mapping[str, Any]) -> bytes:
    # ASCII escapes: names that are not valid UTF-8 survive the trip.
    body = json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"
    return body + _LAST + record_check(body).hex().encode("ascii") + b"\n"


def parse(data: bytes, name: str, store: str) -> dict[str, Any]:
    """The object; `Damaged` when one bit of it is not as it was written."""
    body, newline, last = data.partition(b"\n")
    if not newline or last != _LAST + record_check(body + newline).hex().encode("ascii") + b"\n":
        raise Damaged(name=name, store=store, reason="its checksum is wrong")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Damaged(name=name, store=store, reason=f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Damaged(name=name, store=store, reason="it is no object")
    return value
