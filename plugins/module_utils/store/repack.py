# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is needed of packs that are mostly not, copied into new ones; the old ones then are like any dead pack."""

from __future__ import annotations

from collections.abc import Collection

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index, Place, Segment, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.keeper import Keeper
from ansible_collections.stowage.esxi.plugins.module_utils.store.merge import Merged
from ansible_collections.stowage.esxi.plugins.module_utils.store.needed import Marks, Needed, place_of, span_of
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Lane


def run(
    keeper: Keeper, needed: Needed, old: Collection[str], problems: list[str], tally: Tally | None = None
) -> list[str]:
    """Copies what is needed of the `old` packs and lies nowhere else. Returns the packs of which no record is needed
    any more once the keeper has ended; one that cannot be read whole is told in `problems`, and stays."""
    wanted = _wanted(keeper, needed, frozenset(old))
    done = [pack for pack in old if pack not in wanted]
    with keeper.lane() as lane:
        for pack in sorted(wanted):
            try:
                _copy(keeper, lane, pack, sorted(wanted[pack], key=lambda one: one[1].offset), tally or Tally())
                done.append(pack)
            except StoreError as error:
                problems.append(error.message)
    places = list(keeper.settle())
    if places:
        own = Segment(build(places), "its own", keeper.store.name)
        keeper.publish(Merged([own]))
    return sorted(done)


def _wanted(keeper: Keeper, needed: Needed, old: frozenset[str]) -> dict[str, list[tuple[bytes, Place]]]:
    """Not what lies elsewhere too, in a pack that stays."""
    store, condemned = keeper.store, keeper.index.without
    index = Index(store.index().segments)
    index.without = condemned
    others = Index(index.segments)
    others.without = condemned | old
    marks = Marks(index)
    wanted: dict[str, list[tuple[bytes, Place]]] = {}
    for ids in needed:
        for identity in others.missing([met.id for met in marks.new(ids)]):
            place = place_of(store, index, identity)
            if place.pack in old:
                wanted.setdefault(place.pack, []).append((identity, place))
    return wanted


def _copy(keeper: Keeper, lane: Lane, name: str, records: list[tuple[bytes, Place]], tally: Tally) -> None:
    """Records keep their compression; each is proven by its own checksum, or its encryption."""
    pack = keeper.store.pack(name)
    with pack.ranges:
        for identity, place in records:
            record = pack.raw(place.offset, place.stored)
            codec, kind, check, payload = pack.packed(record, place.offset, place.length, identity)
            lane.add_packed(identity, check, codec, payload, place.length, kind)
            tally.add(span_of(place))
