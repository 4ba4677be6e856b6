# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The room that a store may take. A backup that meets it is given up before it takes what a collection needs."""

from __future__ import annotations

import threading

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import QuotaReached
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name

_SHARE = 20


def reserve(store: Store) -> int:
    """Bytes of the quota that no backup takes."""
    wanted: int = store.settings["reserve_bytes"]
    return wanted or int(store.settings["quota_bytes"]) // _SHARE


def room_left(store: Store) -> int | None:
    """Bytes below the quota, the reserve among them; None without a quota."""
    quota: int = store.settings["quota_bytes"]
    return max(0, quota - used(store)) if quota else None


def used(store: Store, without_writer: str | None = None) -> int:
    """Bytes of packs and index, as far as they are whole; those of one writer may be left out."""
    own = pack_name(f"{without_writer}-").partition(".")[0] if without_writer else None
    total = 0
    for folder in ("packs/", "index/"):
        total += sum(size for name, size in store.backend.list(folder) if not (own and name.startswith(own)))
    return total


class Quota:
    """Of one writer. Others write too: the store is measured anew whenever half of what was left is taken."""

    def __init__(self, store: Store, writer: str) -> None:
        self._store, self._writer = store, writer
        self._guard = threading.Lock()
        self._quota: int = store.settings["quota_bytes"]
        self._own = 0
        if self._quota:
            self._measure()

    def take(self, count: int) -> None:
        """So many bytes more; `QuotaReached`."""
        if not self._quota:
            return
        with self._guard:
            self._own += count
            if self._own > self._look_at:
                self._measure()
            if self._own > self._room:
                raise QuotaReached(
                    store=self._store.name, quota=self._quota, reserve=reserve(self._store), used=self._used
                )

    def _measure(self) -> None:
        self._used = used(self._store, self._writer)
        self._room = self._quota - reserve(self._store) - self._used
        self._look_at = self._own + (self._room - self._own) // 2
