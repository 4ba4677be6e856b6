# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the store what it was? Records by their checksums, or every byte by its hash; and who is hit by what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.store import holds, points, registry, removal, verified
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectMissing, StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import EMPTY_BYTES, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.scan import Report, Scan
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally


def run(
    store: Store, *, deep: bool = False, threads: int = 0, record: bool = True, tally: Tally | None = None
) -> Report:
    """Every pack, every index file, every restore point. `deep` decodes every record and proves it by its hash.

    With `record` the store keeps what was found of each restore point.
    """
    sizes = dict(store.backend.list("packs/"))
    job = Scan(store, deep, sizes=sizes, tally=tally)
    report = job.run(sorted(sizes), threads)
    segments = store.index(fresh=True).segments
    report.problems += store.index_problems.values()
    for segment in segments:
        try:
            segment.verify()
        except StoreError as error:
            report.problems.append(error.message)
    _points(store, report, job)
    _others(store, report)
    if record:
        try:
            verified.record(store, deep, report.good_points, report.bad_points)
        except StoreError as error:
            report.unrecorded = error.message
    return report


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
    looks: list[Callable[[], object]] = [
        lambda: holds.listed(store),
        lambda: removal.under_way(store.backend),
        lambda: registry.condemned(store.backend),
        lambda: registry.registrations(store.backend),
    ]
    for look in looks:
        try:
            look()
        except StoreError as error:
            report.problems.append(error.message)


def _points(store: Store, report: Report, job: Scan) -> None:
    """Every restore point can be read, and all that it needs lies in a good record."""
    for name, point in store.look_at_points():
        if isinstance(point, StoreError):
            report.problems.append(point.message)
            report.bad_points.append(name)
            continue
        before = len(report.hit)
        try:
            _point(store, point, report, job)
        except StoreError as error:
            report.problems.append(error.message)
            report.hit.append(f"{point.machine_name!r} {point.point}")
        (report.good_points if len(report.hit) == before else report.bad_points).append(name)


def _point(store: Store, point: Point, report: Report, job: Scan) -> None:
    def missing(ids: Sequence[bytes]) -> int:
        index = store.index()
        lost = [identity for identity in ids if not job.holds(index.find(identity), report)]
        if lost:
            # A collection may have moved them since.
            index = store.index(fresh=True)
            lost = [identity for identity in lost if not job.holds(index.find(identity), report)]
        for identity in lost:
            place = index.find(identity)
            where = "is in no pack of the index" if place is None else f"is not in {pack_name(place.pack)}"
            report.bad.setdefault(identity, f"chunk {identity.hex()} {where}")
        return len(lost)

    title = f"{point.machine_name!r} {point.point}"
    for disk in point.disks:
        lost = 0
        for number, identity in enumerate(disk.pages):
            if identity is None:
                continue
            if missing([identity]):
                lost += disk.slots_of(number)
                continue
            lost += missing([one for _slot, one, _check in points.slots(store.page(disk, number))])
        if lost:
            report.hit.append(f"{title}: disk {disk.key}: {lost} chunks")
    for file in point.files:
        if file.id is not None and missing([file.id]):
            report.hit.append(f"{title}: file {file.name}")
