# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What restore points need, and how much of each pack that is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.store import points, registry
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    ChunkMissing,
    Damaged,
    StoreError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECK_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index, Place, Segment
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import ENTRY, FOOTER_BYTES, HEADER, RECORD
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_stem
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally

T = TypeVar("T")

EMPTY_PACK = HEADER.size + FOOTER_BYTES


class Needed:
    """Every id that some restore point needs, read anew at each `fresh`."""

    def __init__(self, store: Store, without: Collection[str] = ()) -> None:
        """`without`: points, by the names of their objects, that are not asked."""
        self._store = store
        self._without = without
        self._proven: set[tuple[str, bytes]] = set()

    def fresh(self) -> Needed:
        """Also proves the index: by one wrong entry in it a pack would be removed that is needed."""
        index = self._store.index(fresh=True)
        for name, reason in self._store.index_problems.items():
            raise self._untrusted(name, reason)
        for segment in index.segments:
            if (segment.name, segment.checksum) in self._proven:
                # They never change.
                continue
            try:
                segment.verify()
            except Damaged as error:
                raise self._untrusted(segment.name, error.message) from error
            self._proven.add((segment.name, segment.checksum))
        return self

    def _untrusted(self, name: str, reason: str) -> Damaged:
        return Damaged(
            name=name, store=self._store.name, reason=f"nothing is collected with a damaged index ({reason})"
        )

    def __iter__(self) -> Iterator[list[bytes]]:
        return self.ids()

    def ids(self, tally: Tally | None = None) -> Iterator[list[bytes]]:
        """Many at a time. Pages are shared between restore points: each is read once, and counted in `tally`."""
        seen: set[bytes] = set()
        for point in self.points():
            yield from of_point(self._store, point, seen, tally)

    def points(self) -> Iterator[Point]:
        for name, point in self._store.look_at_points():
            if name in self._without:
                continue
            if isinstance(point, StoreError):
                raise Damaged(
                    name=name,
                    store=self._store.name,
                    reason=f"nothing is collected while a restore point cannot be read ({point.message})",
                ) from point
            yield point


def of_point(store: Store, point: Point, seen: set[bytes], tally: Tally | None = None) -> Iterator[list[bytes]]:
    """The ids that a point needs, page by page, except for pages that were seen before, and what is in them."""
    for disk in point.disks:
        for number, page in enumerate(disk.pages):
            if page is None or page in seen:
                continue
            seen.add(page)
            # Before it is read: what no index knows is missing, whatever its bytes are.
            yield [page]
            data = store.page(disk, number)
            if tally is not None:
                tally.add(len(data))
            yield [identity for _slot, identity, _check in points.slots(data)]
    yield [file.id for file in point.files if file.id is not None]


def place_of(store: Store, index: Index, identity: bytes) -> Place:
    """A restore point that was committed since has its chunks in an index file that was written since."""
    place = index.find(identity)
    if place is None:
        fresh = Index(store.index(fresh=True).segments)
        fresh.without = index.without
        place = fresh.find(identity) or store.index().find(identity)
    if place is None:
        raise ChunkMissing(chunk=identity.hex(), store=store.name)
    return place


class Met(NamedTuple):
    """An id that was asked for the first time, and where in the index it is; nowhere without a segment."""

    id: bytes
    segment: Segment | None
    position: int

    def place(self, without: Collection[str]) -> Place | None:
        """Without a second search; None where that does not do."""
        if self.segment is None:
            return None
        try:
            place = self.segment.place(self.position)
        except Damaged:
            # Another segment, or the packs themselves, know it.
            return None
        return None if place.pack in without else place


class Marks:
    """Which entries of the index have been met: a byte for each."""

    def __init__(self, index: Index) -> None:
        self._pairs = [(segment, bytearray(segment.count)) for segment in index.segments]
        self._strays: set[bytes] = set()

    def first(self, identity: bytes) -> bool:
        """True the first time that it is asked for an id."""
        return any(True for _met in self.new([identity]))

    def new(self, ids: Sequence[bytes]) -> Iterator[Met]:
        """Those of many that it is asked for the first time."""
        for segment, met in self._pairs:
            left = []
            for identity, position in zip(ids, segment.positions(ids)):
                if position < 0:
                    left.append(identity)
                elif not met[position]:
                    met[position] = 1
                    yield Met(identity, segment, position)
            ids = left
            if not ids:
                return
        for identity in ids:
            if identity not in self._strays:
                self._strays.add(identity)
                yield Met(identity, None, -1)


def span_of(place: Place) -> int:
    """Bytes that a record takes in its pack, with its entry in the table of contents."""
    return RECORD.size + place.stored + CHECK_BYTES + ENTRY.size


@dataclass
class Usage:
    """Sizes of the packs that may be collected at all, and how much of each is needed. Bytes."""

    sizes: dict[str, int] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)

    def dead(self) -> list[str]:
        return sorted(pack for pack in self.sizes if not self.live.get(pack))

    def partly(self, percent: int) -> list[str]:
        """Of which less than this is needed, but something."""
        return sorted(
            pack
            for pack, size in self.sizes.items()
            if self.live.get(pack) and self.live[pack] * 100 < (size - EMPTY_PACK) * percent
        )


def until_none_goes(store: Store, look: Callable[[set[str]], T]) -> T:
    """`look` goes through restore points, of which it gets the names of all. What one needs may go meanwhile, when
    somebody removes the point and somebody else collects: then it looks again."""
    while True:
        there = _names_of_points(store)
        try:
            return look(there)
        except StoreError:
            if there <= _names_of_points(store):
                raise


def _names_of_points(store: Store) -> set[str]:
    return {name for name, _size in store.backend.list(points.FOLDER)}


def usage(store: Store, needed: Needed, tally: Tally | None = None) -> Usage:
    """Leaves out the packs of living writers, and those that are announced already."""
    return until_none_goes(store, lambda _there: _usage(store, needed, tally))


def _usage(store: Store, needed: Needed, tally: Tally | None) -> Usage:
    # In this order: a pack that is listed belongs to somebody who is still registered, or whose point is listed after.
    packs = {pack_stem(name): size for name, size in store.packs()}
    living = {writer.id for writer in registry.registrations(store.backend)}
    known = registry.condemned(store.backend)
    index = Index(store.index(fresh=True).segments)
    index.without = known
    marks = Marks(index)
    found = Usage(
        {pack: size for pack, size in packs.items() if pack not in known and pack.partition("-")[0] not in living}
    )
    live = found.live
    for ids in needed.ids(tally):
        for met in marks.new(ids):
            place = met.place(known) or place_of(store, index, met.id)
            live[place.pack] = live.get(place.pack, 0) + span_of(place)
    return found
