# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a store's keys, as they lie there."""

from __future__ import annotations

from typing import Any, Union

from ansible_collections.stowage.esxi.plugins.module_utils.store import textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectMissing

FOLDER = "keys/"
_ATTEMPTS = 16

Entry = Union[dict[str, Any], Damaged]


def read(backend: Backend) -> dict[str, Entry]:
    """What is in each, by the names of their objects, or why it cannot be read."""
    for _attempt in range(_ATTEMPTS - 1):
        try:
            return _read(backend)
        except ObjectMissing:
            # One that goes between the listing and the reading has been replaced, or was of a making that lost.
            continue
    return _read(backend)


def _read(backend: Backend) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for name, _size in sorted(backend.list(FOLDER)):
        try:
            found[name] = textfile.parse(backend.read(name, 1 << 16), name, backend.name)
        except Damaged as error:
            found[name] = error
    return found
