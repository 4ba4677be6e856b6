# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be changed in a store after it was made. The settings file with the highest number counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.codec import NAMES, Codec
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadSettings, ObjectExists
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import DEFAULTS, Store

FOLDER = "settings/"
LEVELS = {"zstd": (1, 19), "zlib": (1, 9), "none": (0, 19)}
SMALLEST_PACK, LARGEST_PACK = 1 << 20, 1 << 31
_ATTEMPTS = 16


def check(wanted: Mapping[str, Any], store: str) -> dict[str, Any]:
    """The settings, whole and possible; `BadSettings`."""

    def wrong(reason: str) -> BadSettings:
        return BadSettings(store=store, reason=reason)

    whole = {**DEFAULTS, **wanted}
    unknown = sorted(set(whole) - set(DEFAULTS))
    if unknown:
        raise wrong(f"{', '.join(unknown)}: not known")
    if whole["codec"] not in NAMES:
        raise wrong(f"unknown codec {whole['codec']!r}: one of {', '.join(NAMES)}")
    low, high = LEVELS[whole["codec"]]
    if not low <= whole["level"] <= high:
        raise wrong(f"{whole['codec']} has levels from {low} to {high}, not {whole['level']}")
    negative = [name for name, value in whole.items() if name.endswith("_bytes") and value < 0]
    if negative:
        raise wrong(f"{', '.join(negative)}: no number of bytes is below 0")
    if not 0 <= whole["repack_percent"] <= 100:
        raise wrong(f"repack_percent is from 0 to 100, not {whole['repack_percent']}")
    if not SMALLEST_PACK <= whole["pack_bytes"] <= LARGEST_PACK:
        raise wrong(f"packs have between {SMALLEST_PACK} and {LARGEST_PACK} bytes, not {whole['pack_bytes']}")
    return whole


def change(store: Store, wanted: Mapping[str, Any]) -> bool:
    """Sets these, keeps the others; False when they were so already. Of two that change at once, both count."""
    for _attempt in range(_ATTEMPTS):
        names = sorted(name for name, _size in store.backend.list(FOLDER))
        found = textfile.parse(store.backend.read(names[-1], 1 << 16), names[-1], store.name) if names else {}
        now = {**DEFAULTS, **found}
        new = check({**now, **wanted}, store.name)
        if new != now:
            number = int(names[-1][len(FOLDER) :].partition(".")[0]) + 1 if names else 1
            try:
                store.backend.create(f"{FOLDER}{number:08d}.json", textfile.render(new))
            except ObjectExists:
                # Somebody changed them at the same time: what he set is kept.
                continue
        store.settings = new
        store.codec = Codec(new["codec"], new["level"])
        return new != now
    raise BadSettings(store=store.name, reason=f"they were changed by others {_ATTEMPTS} times meanwhile")
