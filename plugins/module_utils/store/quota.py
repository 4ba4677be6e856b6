# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The room that a store may take, and the room that there is. A backup that meets either is given up before it takes
what a commit and a collection need."""

from __future__ import annotations

import threading

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import NoRoomLeft, QuotaReached
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name

_SHARE = 20
# Of a large file system: the index of ten million chunks, written anew, and some packs.
_MOST_KEPT = 1 << 30
# What others write there meanwhile is not seen for so many bytes of ours.
_LOOK = 64 << 20
_LEAST_LOOK = 1 << 20


def reserve(store: Store) -> int:
    """Bytes of the quota that no backup takes."""
    wanted: int = store.settings["reserve_bytes"]
    return wanted or int(store.settings["quota_bytes"]) // _SHARE


def room_left(store: Store) -> int | None:
    """Bytes below the quota, the reserve among them; None without a quota."""
    quota: int = store.settings["quota_bytes"]
    return max(0, quota - used(store)) if quota else None


def room_for_copies(store: Store) -> int | None:
    """Bytes that a collection may write before it gives any back."""
    room = store.backend.room()
    found = [left for left in (room_left(store), None if room is None else room[1]) if left is not None]
    return min(found, default=None)


def must_have_room(store: Store) -> int | None:
    """`NoRoomLeft` where the file system has no more than its reserve; else what it has besides, None for no limit."""
    room = store.backend.room()
    if room is None:
        return None
    capacity, free = room
    kept = int(store.settings["reserve_bytes"]) or min(capacity // _SHARE, _MOST_KEPT)
    if free <= kept:
        raise NoRoomLeft(store=store.name, free=free, reserve=kept)
    return free - kept


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
        # Of the file system, until it is looked at again.
        self._left = 0
        if self._quota:
            self._measure()

    def take(self, count: int) -> None:
        """So many bytes more, which are written by now; `QuotaReached`, `NoRoomLeft`."""
        with self._guard:
            self._left -= count
            if self._left < 0:
                room = must_have_room(self._store)
                self._left = _LOOK if room is None else min(_LOOK, max(_LEAST_LOOK, room // 2))
            if not self._quota:
                return
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
