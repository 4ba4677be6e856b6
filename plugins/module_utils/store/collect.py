# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Room that nothing needs any more, given back in two phases beside running writers.

`collect` first finishes what earlier collections announced and may be removed by now, then announces what is dead now.
So the room of a pruned restore point comes back with the second collection, or with the first one if nobody writes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.store import points, registry
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import ChunkMissing, Damaged, StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index, Place, Segment, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.registry import Announcement
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name

OBSERVE_SECONDS = 60.0


@dataclass
class Report:
    """What a collection did, or with `check` would do. Bytes and names of packs."""

    announced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    rescued: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    waiting_for: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)


def run(store: Store, *, observe_seconds: float = OBSERVE_SECONDS, check: bool = False) -> Report:
    """One collection. A writer that shows no life for `observe_seconds` of our own clock is given up, which costs his
    restore point and nothing else. Refuses to remove anything while a restore point or the index cannot be trusted."""
    report = Report()
    backend = store.backend
    needed = _Needed(store)
    if not check:
        _give_up_dead(store, observe_seconds, report)
        backend.tidy()
        for one in registry.announcements(backend):
            waits = one if one.waits_for is not None else registry.ask_waits(backend, one)
            if not _unended(store, waits):
                _sweep(store, needed.fresh(), waits, report)
    dead = _dead(store, needed.fresh())
    report.announced = dead
    if dead and not check:
        registry.announce(backend, frozenset(dead))
        latest = registry.ask_waits(backend, registry.announcements(backend)[-1])
        if not _unended(store, latest):
            report.announced = []
            _sweep(store, needed.fresh(), latest, report)
    return report


def _unended(store: Store, one: Announcement) -> frozenset[str]:
    """The writers that may not know of it and have not ended."""
    return frozenset(writer.id for writer in registry.registrations(store.backend)) & (one.waits_for or frozenset())


def _give_up_dead(store: Store, observe_seconds: float, report: Report) -> None:
    """Writers that show no sign of life between two looks."""
    if not registry.registrations(store.backend):
        return
    known = {
        writer.id: registry.beats(store.backend).get(writer.id) for writer in registry.registrations(store.backend)
    }
    store.clock.sleep(observe_seconds)
    beats = registry.beats(store.backend)
    for writer in registry.registrations(store.backend):
        # One that came meanwhile has not been looked at twice.
        if writer.id not in known or beats.get(writer.id) != known[writer.id]:
            report.waiting_for.append(writer.id)
        elif registry.revoke(store.backend, writer, build(())):
            report.given_up.append(writer.id)


class _Needed:
    """Every id that some restore point needs, read anew at each `fresh`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def fresh(self) -> _Needed:
        """Also proves the index: by one wrong entry in it a pack would be removed that is needed."""
        index = self._store.index(fresh=True)
        for name, reason in self._store.index_problems.items():
            raise self._untrusted(name, reason)
        for segment in index.segments:
            try:
                segment.verify()
            except Damaged as error:
                raise self._untrusted(segment.name, error.message) from error
        return self

    def _untrusted(self, name: str, reason: str) -> Damaged:
        return Damaged(
            name=name, store=self._store.name, reason=f"nothing is collected with a damaged index ({reason})"
        )

    def __iter__(self) -> Iterator[bytes]:
        """Pages are shared between restore points: each is read once."""
        seen: set[bytes] = set()
        for name, _size in self._store.backend.list(points.FOLDER):
            point = self._read(name)
            if point is None:
                continue
            for disk in point.disks:
                for number, page in enumerate(disk.pages):
                    if page is None or page in seen:
                        continue
                    seen.add(page)
                    yield page
                    for _slot, identity, _check in points.slots(self._store.page(disk, number)):
                        yield identity
            for file in point.files:
                if file.id is not None:
                    yield file.id

    def _read(self, name: str) -> points.Point | None:
        try:
            return self._store.read_point(name)
        except StoreError as error:
            if error.id == "store-object-missing":
                return None
            raise Damaged(
                name=name,
                store=self._store.name,
                reason=f"nothing is collected while a restore point cannot be read ({error.message})",
            ) from error


def _dead(store: Store, needed: _Needed) -> list[str]:
    """Packs in which nothing is needed, of writers that have ended, and not announced yet."""
    # In this order: a pack that is listed belongs to somebody who is still registered, or whose point is listed after.
    packs = {name.rpartition("/")[2].partition(".")[0] for name, _size in store.backend.list("packs/")}
    living = {writer.id for writer in registry.registrations(store.backend)}
    known = registry.condemned(store.backend)
    index = store.index(fresh=True)
    live: set[str] = set()
    for identity in needed:
        live.add(_place(store, index, identity).pack)
    return sorted(pack for pack in packs - live - known if pack.partition("-")[0] not in living)


def _place(store: Store, index: Index, identity: bytes) -> Place:
    """A restore point that was committed since has its chunks in an index file that was written since."""
    place = index.find(identity) or store.index(fresh=True).find(identity)
    if place is None:
        raise ChunkMissing(chunk=identity.hex(), store=store.name)
    return place


def _sweep(store: Store, needed: _Needed, one: Announcement, report: Report) -> None:
    """Removes what was announced, after one more look at every restore point: the last one may have come since."""
    index = store.index(fresh=True)
    others = Index(index.segments)
    others.without = one.packs
    rescued: set[str] = set()
    for identity in needed:
        if identity not in others:
            rescued.add(_place(store, index, identity).pack)
    rescued &= one.packs
    going = one.packs - rescued
    sizes = dict(store.backend.list("packs/"))
    # The index first: whoever registers after the announcement is gone must not find the packs in it.
    _rewrite(store, index, going)
    for pack in sorted(going):
        report.freed_bytes += sizes.get(pack_name(pack), 0)
        store.backend.delete(pack_name(pack))
    registry.withdraw(store.backend, one)
    store.index(fresh=True)
    report.removed += sorted(going)
    report.rescued += sorted(rescued)


def _rewrite(store: Store, index: Index, going: frozenset[str]) -> None:
    """Index files that name one of these packs get a successor without them, then go."""
    for segment in index.segments:
        if not going.intersection(segment.packs):
            continue
        left = [(identity, place) for identity, place in segment.items() if place.pack not in going]
        if left:
            store.backend.create(_successor(segment), build(left))
        store.backend.delete(segment.name)


def _successor(segment: Segment) -> str:
    """A new name each time: one that a cut has left is whole, and may stand beside it."""
    return f"{segment.name.partition('.')[0].partition('~')[0]}~{secrets.token_hex(6)}.idx"
