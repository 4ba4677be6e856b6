# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source may be told that the store has: the chunks of the restore points of its scope.

Eight bytes for each of at most 10 million chunks; the pages of the maps, a few of them in memory, prove the rest. Where
there are more, those of the newest restore points are known, and what only older ones have is fetched once more.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import maps, points
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.prefixes import Prefixes
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

SCOPES = ("host", "group", "store")
HYPERVISOR, GROUP = "hypervisor", "group"
"""Facts of a restore point that say whose it is: texts."""
MOST_CHUNKS = 10_000_000
MOST_PAGES = 1 << 18
# Pages in memory at a time: three MiB.
_PAGES = 64


@dataclass(frozen=True)
class Scope:
    """Restore points whose chunks a source may be told of. `name`: of the hypervisor or the group; None is nobody's."""

    kind: str
    name: str | None = None

    @staticmethod
    def of(kind: str, facts: Mapping[str, Any]) -> Scope:
        """That of a restore point with these facts."""
        if kind not in SCOPES:
            raise ValueError(f"unknown scope {kind!r}: one of {', '.join(SCOPES)}")
        return Scope(kind, None if kind == "store" else _text(facts, _fact(kind)))

    def holds(self, facts: Mapping[str, Any]) -> bool:
        if self.kind == "store":
            return True
        return self.name is not None and _text(facts, _fact(self.kind)) == self.name


def leant_on(scope: Scope, facts: Mapping[str, Any], parent: Point | None) -> Point | None:
    """The parent, where a source may be told of it: one of the scope, or one that the same hypervisor has made.

    Whose disk it is proves nothing: a machine's id is what a hypervisor says."""
    if parent is None or scope.holds(parent.facts) or Scope.of("host", facts).holds(parent.facts):
        return parent
    return None


def _fact(kind: str) -> str:
    return HYPERVISOR if kind == "host" else GROUP


def _text(facts: Mapping[str, Any], key: str) -> str | None:
    value = facts.get(key)
    return value if isinstance(value, str) and value else None


class Known:
    """Made at the first question: a backup that finds only what is unchanged, or new to the store, makes none.

    Serves several threads."""

    def __init__(self, store: Store, scope: Scope, parent: Point | None = None) -> None:
        """The chunks of `parent` are known in any case: see `leant_on`."""
        self._store, self._scope, self._parent = store, scope, parent
        self._guard = threading.Lock()
        self._table: Prefixes | None = None
        self._ids = bytearray()
        self._near: OrderedDict[int, bytes] = OrderedDict()

    def check(self, identity: bytes) -> bytes | None:
        """The check of a chunk that is known; None for every other."""
        with self._guard:
            if self._table is None:
                self._table = self._made()
            number = self._table.find(identity)
            return None if number is None else self._looked_up(number, identity)

    def _looked_up(self, number: int, identity: bytes) -> bytes | None:
        page = self._near.get(number)
        if page is None:
            try:
                page = self._store.read_record(
                    bytes(self._ids[number * ID_BYTES : (number + 1) * ID_BYTES]), PAGE_SLOTS * SLOT_BYTES
                )
            except StoreError:
                # It was there a moment ago. What is not proven is not known.
                page = b""
            self._near[number] = page
            if len(self._near) > _PAGES:
                self._near.popitem(last=False)
        else:
            self._near.move_to_end(number)
        at = page.find(identity)
        while at >= 0 and at % SLOT_BYTES:
            at = page.find(identity, at + 1)
        return page[at + ID_BYTES : at + SLOT_BYTES] if at >= 0 else None

    # -- making it -----------------------------------------------------------------------------------------------

    def _made(self) -> Prefixes:
        table = Prefixes(MOST_CHUNKS)
        seen: set[bytes] = set()
        for point in self._points():
            for disk in point.disks:
                fresh = []
                for number, page in enumerate(disk.pages):
                    if page is not None and page[:12] not in seen:
                        seen.add(page[:12])
                        fresh.append((number, page))
                for begin in range(0, len(fresh), maps.WINDOW):
                    some = dict(fresh[begin : begin + maps.WINDOW])
                    for number, found in maps.pages(self._store, disk, some):
                        # One that cannot be read says nothing of what is known.
                        if not isinstance(found, StoreError):
                            self._add(table, some[number], found)
                    if len(self._ids) >= MOST_PAGES * ID_BYTES or table.full:
                        table.finish()
                        return table
        table.finish()
        return table

    def _points(self) -> Iterator[Point]:
        """The parent, then those of the scope, the newest first."""
        if self._parent is not None:
            yield self._parent
        if self._scope.kind != "store" and self._scope.name is None:
            return
        names = [name for name, _size in self._store.backend.list(points.FOLDER)]
        for name in sorted(names, key=lambda name: name.rpartition("/")[2], reverse=True):
            try:
                point = self._store.read_point(name)
            except StoreError:
                # Gone meanwhile, or damaged: verify names it.
                continue
            if point is not None and self._scope.holds(point.facts):
                yield point

    def _add(self, table: Prefixes, page: bytes, data: bytes) -> None:
        """The newest page that has a chunk comes first, and stands."""
        number = len(self._ids) // ID_BYTES
        self._ids += page
        words = array("Q", data)
        if sys.byteorder == "little":
            words.byteswap()
        table.add(filter(None, words[:: SLOT_BYTES // words.itemsize]), number)
