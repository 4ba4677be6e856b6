# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store whose parts are damaged, made whole as far as that can be.

The index is made anew from the packs, with the good records only. So what is damaged counts as not there, and the next
backup of that disk writes it again; or it is taken from a second store now. When every restore point is whole, the
packs with damage are written anew without it, and verify finds nothing any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    collect,
    copy,
    heal,
    mend,
    points,
    registry,
    removal,
    spool,
    unfinished,
    verify,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError, passing
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index, Place, Segment, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.keeper import Keeper
from ansible_collections.stowage.esxi.plugins.module_utils.store.merge import Merged
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_point_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import Entry
from ansible_collections.stowage.esxi.plugins.module_utils.store.scan import Scan, claim
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally

# Entries that are in memory at a time.
BATCH = 1 << 17


@dataclass
class Report:
    """What a repair found and did, or with `check` would do. Packs and files by their names.

    `lost`: what of each restore point cannot be restored, by the name of its object; a point whose manifest cannot be
    read is one of them. They are removed only where that was asked for, and held ones never.
    """

    packs: int = 0
    records: int = 0
    bad_records: int = 0
    damaged_packs: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    healed: int = 0
    lost: dict[str, list[str]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    collected: collect.Report | None = None


def run(
    store: Store,
    *,
    other: Store | None = None,
    remove: bool = False,
    check: bool = False,
    deep: bool = False,
    threads: int = 0,
    observe_seconds: float = collect.OBSERVE_SECONDS,
    tally: Tally | None = None,
) -> Report:
    """Reads every pack. `other`: a second store with copies of these restore points, or their originals. `remove`:
    restore points that cannot be restored are removed. `deep` proves every record by its hash, not its checksum.

    What the place does not give now, and may give the next time, is raised: nothing is taken for lost by that."""
    if other is not None:
        copy.check_pair(store, other)
    report, tally = Report(), tally or Tally()
    if check:
        report.mended = mend.damaged(store)
        rebuilt, _old, _bad, scan = _rebuilt(store, report, deep, threads, tally)
        index = Index([rebuilt])
        store.lean_on(index)
        healed = heal.run(store, None, index, other, report.problems) if other is not None else {}
        report.healed = len(healed)
        report.lost = lost(store, scan, healed)
        store.index(fresh=True)
        return report
    report.mended = mend.run(store, observe_seconds)
    with Keeper(store) as keeper:
        rebuilt, old, bad, scan = _rebuilt(store, report, deep, threads, tally)
        index = Index([rebuilt])
        store.lean_on(index)
        if other is not None:
            with keeper.lane() as lane:
                report.healed = len(heal.run(store, lane, index, other, report.problems))
        own = Segment(build(keeper.settle()), "its own", store.name)
        keeper.publish(Merged([own, rebuilt]))
        for name in old:
            _retire(store, name, empty=name in bad)
            report.replaced.append(name)
        store.index(fresh=True)
        report.lost = lost(store, scan)
    if remove and report.lost:
        report.removed, report.held = removal.remove(store.backend, filter(is_point_name, report.lost))
        report.lost = {name: words for name, words in report.lost.items() if name not in report.removed}
    if not report.lost:
        report.collected = collect.run(
            store, observe_seconds=observe_seconds, rewrite=report.damaged_packs, tally=tally
        )
    return report


def _rebuilt(
    store: Store, report: Report, deep: bool, threads: int, tally: Tally
) -> tuple[Segment, list[str], dict[str, str], Scan]:
    """One index of all good records, the index files that it can stand for, which of them are damaged, and the look at
    the packs."""
    guard = threading.Lock()
    batch: list[tuple[bytes, Place]] = []
    segments: list[Segment] = []

    def keep(pack: str, entries: list[Entry]) -> None:
        with guard:
            if pack.partition("-")[0] not in living or pack in told:
                batch.extend((one.id, Place(pack, one.offset, one.stored, one.length)) for one in entries)
            if len(batch) >= BATCH:
                segments.append(_spooled(store, [build(batch)]))
                batch.clear()

    # In this order: of a file that is listed all packs are, and who has ended by the last look adds nothing to either.
    listed = {segment.name for segment in store.index(fresh=True).segments if segment.count}
    bad = {**store.index_problems, **verify.spoiled_names(store)}
    for segment in store.index().segments:
        try:
            segment.verify()
        except StoreError as error:
            bad[segment.name] = error.message
    # A living writer's own index stays his.
    listed.update(bad)
    sizes = dict(store.packs())
    tally.expect(sum(sizes.values()))
    living = {writer.id for writer in registry.registrations(store.backend)}
    # Of living writers, what others may lean on already.
    told = unfinished.packs(store)
    scan = Scan(store, deep, keep, sizes=sizes, tally=tally)
    found = scan.run(sorted(sizes), threads)
    report.packs, report.records, report.bad_records = found.packs, found.records, len(found.bad)
    report.problems += [*bad.values(), *found.problems, *found.reasons]
    report.damaged_packs = sorted(scan.damaged)
    segments.append(_spooled(store, [build(batch)]))
    old = sorted(name for name in listed if name.rpartition("/")[2].partition(".")[0] not in living)
    return _spooled(store, Merged(segments).pieces()), old, bad, scan


def _spooled(store: Store, pieces: Iterable[bytes]) -> Segment:
    with spool.opened() as file:
        for piece in pieces:
            file.write(piece)
        return Segment(spool.mapped(file), "made anew", store.name)


def _retire(store: Store, name: str, empty: bool) -> None:
    """One that cannot be read may have been there to take a dead writer's name: an empty one goes on with that."""
    store.backend.delete(name)
    if empty:
        store.backend.create(name, build(()))


def lost(store: Store, scan: Scan, healed: Mapping[bytes, bytes | None] = MappingProxyType({})) -> dict[str, list[str]]:
    """What cannot be restored, in words, for every restore point that is not whole by the index that the store has.
    `healed`: records that would be there by then, and the bytes of pages."""
    index = store.index()
    found: dict[str, list[str]] = {}
    for name, point in store.look_at_points():
        if isinstance(point, StoreError):
            if passing(point):
                raise point
            found[name] = [point.message]
            continue
        words = []
        for disk in point.disks:
            count = sum(_lost_of(store, scan, healed, disk, number) for number in range(len(disk.pages)))
            if count:
                words.append(f"disk {disk.key}: {count} chunks")
        words += [
            f"file {file.name}" for file in point.files if file.id and file.id not in index and file.id not in healed
        ]
        if words:
            found[name] = words
    return found


def _lost_of(store: Store, scan: Scan, healed: Mapping[bytes, bytes | None], disk: points.DiskMap, number: int) -> int:
    page, index = disk.pages[number], store.index()
    if page is None:
        return 0

    def is_lost(slot: int, identity: bytes, check: bytes) -> bool:
        place = index.find(identity)
        if place is None:
            return identity not in healed
        claimed = claim(check, disk.length_of(number * points.PAGE_SLOTS + slot))
        return scan.contradicts(identity, place, claimed)

    try:
        if page in index or page in healed:
            slots = points.slots(healed.get(page) or store.page(disk, number))
            return sum(is_lost(*one) for one in slots)
    except StoreError as error:
        if passing(error):
            raise
        # Its own checksum was right, and its bytes are not what they were.
    return disk.slots_of(number)
