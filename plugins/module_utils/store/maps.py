# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages of a disk's map, many at a time: pack by pack, in the order in which they lie there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Union

from ansible_collections.stowage.esxi.plugins.module_utils.store import points
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import ChunkMissing, Damaged, StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

# Pages that are sorted, or whose chunks are, at a time: 64 GiB of a disk with chunks of 1 MiB.
WINDOW = 64
Found = Union[bytes, StoreError]


def pages(store: Store, disk: DiskMap, numbers: Iterable[int]) -> Iterator[tuple[int, Found]]:
    """Each of these pages by its number, in any order, or why it cannot be read where the index says that it lies."""
    index = store.index()
    placed: list[tuple[Place, int, bytes]] = []
    for number in numbers:
        identity = disk.pages[number]
        place = index.find(identity) if identity is not None else None
        if identity is None:
            yield number, bytes(disk.slots_of(number) * points.SLOT_BYTES)
        elif place is None:
            yield number, ChunkMissing(chunk=identity.hex(), store=store.name)
        else:
            placed.append((place, number, identity))
    for name, group in groupby(sorted(placed), key=lambda one: one[0].pack):
        found = list(group)
        try:
            pack = store.pack(name)
        except StoreError as error:
            yield from ((number, error) for _place, number, _identity in found)
            continue
        with pack.ranges:
            pack.expect((place.offset, place.stored) for place, _number, _identity in found)
            for place, number, identity in found:
                yield number, _page(store, pack, place, identity, disk.slots_of(number) * points.SLOT_BYTES)


def _page(store: Store, pack: PackReader, place: Place, identity: bytes, wanted: int) -> Found:
    if place.length != wanted:
        return Damaged(name=f"page {identity.hex()}", store=store.name, reason=f"{place.length} bytes, not {wanted}")
    try:
        return store.record_in(pack, place, identity)
    except StoreError as error:
        return error
