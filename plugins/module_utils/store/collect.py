# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Room that nothing needs any more, given back in two phases beside running writers.

`collect` first finishes what earlier collections announced and may be removed by now, then announces what is dead now.
So the room of a pruned restore point comes back with the second collection, or with the first one if nobody writes.
Packs that are needed in part only are written anew without the rest, and many index files become one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.store import merge, quota, registry, repack, unfinished
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    ChunkMissing,
    KeeperBusy,
    KeeperRevoked,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index, Segment, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.keeper import Keeper
from ansible_collections.stowage.esxi.plugins.module_utils.store.merge import Merged
from ansible_collections.stowage.esxi.plugins.module_utils.store.needed import Needed, Usage, usage
from ansible_collections.stowage.esxi.plugins.module_utils.store.registry import Announcement
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import BEAT_SECONDS

OBSERVE_SECONDS = 60.0
# Who lives shows it twice in this time.
LEAST_SECONDS = 2 * BEAT_SECONDS
# Whoever looks a chunk up that is new goes through all of them.
MOST_SEGMENTS = 4


@dataclass
class Report:
    """What a collection did, or with `check` would do. Bytes and names of packs and index files.

    `stopped` says why it did not come to its end: another one was at work. Nothing is lost by that.
    """

    announced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    rescued: list[str] = field(default_factory=list)
    repacked: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    written_bytes: int = 0
    waiting_for: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    stopped: str | None = None


def run(
    store: Store,
    *,
    observe_seconds: float = OBSERVE_SECONDS,
    check: bool = False,
    rewrite: Collection[str] = (),
    without: Collection[str] = (),
    tally: Tally | None = None,
) -> Report:
    """One collection. A writer that shows no life for `observe_seconds` of our own clock is given up, which costs his
    restore point and nothing else. Refuses to remove anything while a restore point or the index cannot be trusted.

    `rewrite`: packs that are written anew however much of them is needed. `without`, for `check`: points that would be
    gone by then, by the names of their objects. `tally` counts what is read of the maps, then what is written anew.
    """
    report, tally = Report(), tally or Tally()
    tally.expect(None)
    if check:
        found = usage(store, Needed(store, without).fresh(), tally)
        report.announced = found.dead()
        report.freed_bytes = sum(found.sizes[pack] for pack in report.announced)
        report.repacked = _candidates(store, found, rewrite)
        report.merged = [segment.name for segment in _mergeable(store)]
        return report
    needed = Needed(store).fresh()
    give_up_dead(store, observe_seconds, report)
    store.backend.tidy()
    try:
        # First: what follows looks every chunk up that is needed.
        _merge(store, needed, report)
        _finish(store, needed, report)
        found = usage(store, needed.fresh(), tally)
        _announce(store, needed, found.dead(), report)
        packs = _candidates(store, found, rewrite)
        tally.expect(tally.done + sum(found.live[pack] for pack in packs))
        _repack(store, needed, packs, report, tally)
    except (KeeperBusy, KeeperRevoked) as error:
        report.stopped = error.message
    unfinished.tidy(store)
    return report


def patience(seconds: float) -> float:
    """What people give, but never so little that a writer who lives is given up."""
    return max(float(seconds), LEAST_SECONDS)


def _unended(store: Store, one: Announcement) -> frozenset[str]:
    """The writers that may not know of it and have not ended."""
    return frozenset(writer.id for writer in registry.registrations(store.backend)) & (one.waits_for or frozenset())


def give_up_dead(store: Store, observe_seconds: float, report: Report) -> None:
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


# -- what may go now -------------------------------------------------------------------------------------------------


def _ready(store: Store) -> list[Announcement]:
    """What was announced, and nobody is left who might not know it."""
    found = []
    for one in registry.announcements(store.backend):
        if one.waits_for is None:
            registry.ask_waits(store.backend, one)
        elif not _unended(store, one):
            found.append(one)
    return found


def _finish(store: Store, needed: Needed, report: Report) -> None:
    if any(one.waits_for is None for one in registry.announcements(store.backend)):
        _ready(store)
    if _ready(store):
        with Keeper(store) as keeper:
            # Again, now that nobody else removes anything.
            ready = _ready(store)
            if ready:
                _sweep(keeper, needed.fresh(), ready, report)


def _sweep(keeper: Keeper, needed: Needed, ready: list[Announcement], report: Report) -> None:
    """Removes what was announced, after one more look at every restore point: the last one may have come since."""
    store = keeper.store
    going = frozenset().union(*(one.packs for one in ready))
    index = store.index()
    others = Index(index.segments)
    # What another one has announced is no reason for this one to go: he might go by the same reason.
    others.without = keeper.index.without | registry.condemned(store.backend) | going
    rescued: set[str] = set()
    for ids in needed:
        for identity in others.missing(ids):
            places = list(index.places(identity)) or list(store.index(fresh=True).places(identity))
            if not places:
                raise ChunkMissing(chunk=identity.hex(), store=store.name)
            rescued.update(place.pack for place in places)
    rescued &= going
    going -= rescued
    sizes = dict(store.backend.list("packs/"))
    # The index first: whoever registers after the announcement is gone must not find the packs in it.
    old = [segment for segment in index.segments if going.intersection(segment.packs)]
    keeper.replace(old, Merged(old, going))
    for pack in sorted(going):
        report.freed_bytes += sizes.get(pack_name(pack), 0)
        store.backend.delete(pack_name(pack))
    for one in ready:
        registry.withdraw(store.backend, one)
    report.removed += sorted(going)
    report.rescued += sorted(rescued)
    report.announced = [pack for pack in report.announced if pack not in going | rescued]


# -- what may go next ------------------------------------------------------------------------------------------------


def _announce(store: Store, needed: Needed, packs: Collection[str], report: Report) -> None:
    if packs:
        registry.announce(store.backend, frozenset(packs))
        report.announced += packs
        _finish(store, needed, report)


def _candidates(store: Store, found: Usage, rewrite: Collection[str]) -> list[str]:
    """Those that free most for what they cost first, as long as there is room for the copies."""
    wanted = {*found.partly(store.settings["repack_percent"]), *(pack for pack in rewrite if found.live.get(pack))}
    room = quota.room_for_copies(store)
    chosen = []
    for pack in sorted(wanted & found.sizes.keys(), key=lambda pack: (found.live[pack], pack)):
        if room is not None:
            room -= found.live[pack]
            if room < 0:
                break
        chosen.append(pack)
    return sorted(chosen)


def _repack(store: Store, needed: Needed, packs: Collection[str], report: Report, tally: Tally) -> None:
    if not packs:
        return
    with Keeper(store) as keeper:
        known = registry.condemned(store.backend)
        old = [pack for pack in packs if pack not in known]
        moved = repack.run(keeper, needed.fresh(), old, report.problems, tally)
        report.written_bytes += keeper.stored_bytes
    report.repacked += moved
    # The keeper has ended: the announcement need not wait for it, and all that it wrote is in the index.
    _announce(store, needed, moved, report)


def _mergeable(store: Store) -> list[Segment]:
    """Not those that name a pack which may go or be rescued at any time, nor the empty ones: they take a dead name."""
    known = registry.condemned(store.backend)
    segments = [segment for segment in store.index(fresh=True).segments if segment.count]
    return merge.which([segment for segment in segments if not known.intersection(segment.packs)], MOST_SEGMENTS)


def _merge(store: Store, needed: Needed, report: Report) -> None:
    if _mergeable(store):
        with Keeper(store) as keeper:
            needed.fresh()
            old = _mergeable(store)
            keeper.replace(old, Merged(old))
            report.merged = [segment.name for segment in old]
