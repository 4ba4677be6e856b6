# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a collection has announced: the packs that are about to go."""

from __future__ import annotations

import json

from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectMissing

FOLDER = "gc/"


def condemned(backend: Backend) -> frozenset[str]:
    """Packs that no new restore point may lean on."""
    found: set[str] = set()
    for name, _size in backend.list(FOLDER):
        try:
            found.update(json.loads(backend.read(name))["packs"])
        except ObjectMissing:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(name=name, store=backend.name, reason="it is no list of packs") from error
    return frozenset(found)
