# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the store what it was? Records by their checksums, or every byte by its hash; and who is hit by what is not."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    holds,
    keys,
    registry,
    removal,
    unfinished,
    verified,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    Damaged,
    ObjectMissing,
    StoreError,
    passing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.hits import Hits
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import EMPTY_BYTES, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.part import Chosen, Part, Slice
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.report import Report
from ansible_collections.stowage.esxi.plugins.module_utils.store.scan import Scan
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, is_pack, pack_stem
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally
from ansible_collections.stowage.esxi.plugins.module_utils.store.wanted import Wanted


def run(
    store: Store,
    *,
    part: Part | None = None,
    deep: bool = False,
    threads: int = 0,
    record: bool = True,
    tally: Tally | None = None,
) -> Report:
    """Every pack and every restore point, or a part of them; the index and the small files always. `deep` decodes
    every record and proves it by its hash.

    What cannot be had now, and may be there the next time, is raised: then nothing is said of any restore point.

    With `record` the store keeps what was found of each restore point. A slice proves none of them whole: it can only
    find them damaged. What was found earlier of those that are not looked at stays.
    """
    tally = tally or Tally()
    if isinstance(part, Chosen):
        report = _chosen(store, part, deep, threads, tally)
    else:
        report = _packs(store, part, deep, threads, tally)
    _others(store, report)
    if record and (part is None or report.good_points or report.bad_points):
        try:
            verified.record(store, deep, report.good_points, report.bad_points)
        except StoreError as error:
            report.unrecorded = error.message
    return report


def _packs(store: Store, part: Slice | None, deep: bool, threads: int, tally: Tally) -> Report:
    """All of them or those of a slice, and every restore point: what it needs of them."""
    mine = part.has if part is not None else None
    sizes, strays = {}, []
    for name, size in store.backend.list("packs/"):
        if mine is None or mine(pack_stem(name)):
            if is_pack(name):
                sizes[name] = size
            else:
                strays.append(
                    Damaged(name=name, store=store.name, reason="no pack has this name in this place").message
                )
    tally.expect(sum(sizes.values()))
    job = Scan(store, deep, sizes=sizes, tally=tally, mine=mine)
    report = job.run(sorted(sizes), threads)
    report.problems += sorted(strays)
    _index(store, report)
    hits = Hits(store, job, report)
    for name, point in store.look_at_points():
        if isinstance(point, StoreError):
            if passing(point):
                raise point
            report.problems.append(point.message)
            report.bad_points.append(name)
        elif hits.point(point):
            report.bad_points.append(name)
        elif part is None:
            report.good_points.append(name)
    return report


def _chosen(store: Store, part: Chosen, deep: bool, threads: int, tally: Tally) -> Report:
    """The pages of the maps first: they say what else is needed."""
    report = Report(problems=[*part.unreadable.values()], bad_points=[*part.unreadable])
    _index(store, report)
    wanted = Wanted(store.index())
    wanted.add_pages(part.points)
    marks, sizes = wanted.take()
    pages = Scan(store, True, sizes=sizes, tally=tally, wanted=marks, each=wanted.add_page)
    report.add(pages.run(sorted(sizes), threads))
    for point in part.points:
        wanted.add_files(point)
    marks, sizes = wanted.take()
    tally.expect(tally.done + sum(sizes.values()))
    rest = Scan(store, deep, sizes=sizes, tally=tally, wanted=marks, claims=wanted.claims)
    report.add(rest.run(sorted(sizes), threads))
    report.packs = len({*pages.good, *rest.good})
    whole = wanted.complete and pages.complete() and rest.complete()
    rest.take_over(pages)
    hits = Hits(store, rest, report)
    for point in part.points:
        if not whole and _gone(store, point):
            # What it alone needed went with it.
            continue
        hit = not whole and hits.point(point)
        (report.bad_points if hit else report.good_points).append(point.object_name)
    return report


def _gone(store: Store, point: Point) -> bool:
    """Whether a prune has removed it meanwhile."""
    try:
        return store.read_point(point.object_name) is None
    except ObjectMissing:
        return True
    except StoreError:
        return False


def _index(store: Store, report: Report) -> None:
    segments = store.index(fresh=True).segments
    report.problems += store.index_problems.values()
    for segment in segments:
        try:
            segment.verify()
        except StoreError as error:
            report.problems.append(error.message)


def spoiled_names(store: Store) -> dict[str, str]:
    """Index files without entries, which nobody reads: those that are not what they must be, and why."""
    found = {}
    for name, size in store.backend.list("index/"):
        if size == EMPTY_BYTES:
            try:
                if store.backend.read(name) != build(()):
                    found[name] = Damaged(name=name, store=store.name, reason="it has entries, or should have").message
            except ObjectMissing:
                continue
    return found


def _others(store: Store, report: Report) -> None:
    """The small files that no restore needs, but a prune or a collection does."""
    verified.findings(store, report.problems)
    report.problems += spoiled_names(store).values()
    for slot in keys.slots(store.backend):
        if slot.kind == keys.DAMAGED:
            reason = "it opens nothing any more; set the key anew, or remove it"
            report.problems.append(Damaged(name=slot.object_name, store=store.name, reason=reason).message)
    looks: list[Callable[[], object]] = [
        lambda: holds.listed(store),
        lambda: removal.under_way(store.backend),
        lambda: registry.condemned(store.backend),
        lambda: registry.registrations(store.backend),
        lambda: report.problems.extend(store.damaged_settings().values()),
    ]
    for look in looks:
        try:
            look()
        except StoreError as error:
            report.problems.append(error.message)
    report.problems += [word.message for _name, word in unfinished.words(store) if isinstance(word, StoreError)]
