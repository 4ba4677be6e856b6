# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a store will take once some of its restore points are gone and collections are through."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import PLACE
from ansible_collections.stowage.esxi.plugins.module_utils.store.needed import (
    EMPTY_PACK,
    Marks,
    Needed,
    of_point,
    place_of,
    span_of,
    until_none_goes,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_stem

_INDEX_ENTRY = ID_BYTES + PLACE.size + 1


class Forecast:
    """Goes through every restore point once. `gone` are names of objects that go anyway; `standing` may be removed in
    this order, and for each of them what goes with it is known: what none of those after it needs."""

    def __init__(self, store: Store, gone: Collection[str], standing: Sequence[Point]) -> None:
        self._percent: int = store.settings["repack_percent"]

        def look(there: set[str]) -> None:
            self._look(store, gone, [point for point in standing if point.object_name in there])

        until_none_goes(store, look)

    def _look(self, store: Store, gone: Collection[str], standing: Sequence[Point]) -> None:
        index = store.index(fresh=True)
        marks = Marks(index)
        seen: set[bytes] = set()
        self._sizes = {pack_stem(name): size for name, size in store.packs()}
        self._live: dict[str, int] = {}
        self._own: dict[str, dict[str, int]] = {}
        self._records: dict[str, int] = {}
        self._count = 0

        def needs(point: Point) -> dict[str, int]:
            found: dict[str, int] = {}
            self._records[point.object_name] = 0
            for ids in of_point(store, point, seen):
                for met in marks.new(ids):
                    place = met.place(()) or place_of(store, index, met.id)
                    found[place.pack] = found.get(place.pack, 0) + span_of(place)
                    self._records[point.object_name] += 1
            return found

        later = {point.object_name for point in standing}
        last = list(Needed(store, {*gone, *later}).points())
        for point in [*last, *reversed(standing)]:
            self._own[point.object_name] = needs(point)
            self._count += self._records[point.object_name]
            for pack, count in self._own[point.object_name].items():
                self._live[pack] = self._live.get(pack, 0) + count

    def remove(self, point: Point) -> None:
        """The next of those that stand. One that somebody else has removed meanwhile counts no more."""
        self._count -= self._records.get(point.object_name, 0)
        for pack, count in self._own.pop(point.object_name, {}).items():
            self._live[pack] -= count

    @property
    def size(self) -> int:
        """Of packs and index: a dead pack goes, one that is needed in part is written anew without the rest."""
        total = self._count * _INDEX_ENTRY
        for pack, size in self._sizes.items():
            live = self._live.get(pack, 0)
            whole = size - EMPTY_PACK
            if live:
                total += size if live * 100 >= whole * self._percent else live + EMPTY_PACK
        return total
