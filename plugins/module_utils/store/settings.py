# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be changed in a store after it was made. The settings file with the highest number counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.codec import Codec
from ansible_collections.stowage.esxi.plugins.module_utils.store.config import DEFAULTS, settings_problem
from ansible_collections.stowage.esxi.plugins.module_utils.store.config import SETTINGS as FOLDER
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadSettings, ObjectExists
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_ATTEMPTS = 16


def check(wanted: Mapping[str, Any], store: str) -> dict[str, Any]:
    """The settings, whole and possible; `BadSettings`."""

    whole = {**DEFAULTS, **wanted}
    unknown = sorted(set(whole) - set(DEFAULTS))
    reason = f"{', '.join(unknown)}: not known" if unknown else settings_problem(whole)
    if reason is None and 0 < whole["quota_bytes"] <= whole["reserve_bytes"]:
        quota, kept = whole["quota_bytes"], whole["reserve_bytes"]
        reason = f"of a quota of {quota} bytes a reserve of {kept} leaves no room for backups"
    if reason is not None:
        raise BadSettings(store=store, reason=reason)
    return whole


def change(store: Store, wanted: Mapping[str, Any]) -> bool:
    """Sets these, keeps the others; False when they were so already. Of two that change at once, both count."""
    for _attempt in range(_ATTEMPTS):
        names = sorted(name for name, _size in store.backend.list(FOLDER))
        now = store.newest_settings()
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
