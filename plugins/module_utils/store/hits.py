# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is hit by what is damaged: restore points, their machines and disks."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.store import maps, points
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.needed import Marks
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, DiskMap, Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.report import Report
from ansible_collections.stowage.esxi.plugins.module_utils.store.scan import BARE, Scan, claim
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name


class Hits:
    """What of restore points lies in no good record of a scan goes to its report.

    A page that several restore points share is looked through once.
    """

    def __init__(self, store: Store, job: Scan, report: Report) -> None:
        self._store, self._job, self._report = store, job, report
        self._marks = Marks(store.index())
        self._lost: dict[bytes, int] = {}

    def point(self, point: Point) -> bool:
        """Whether anything that it needs is not good."""
        before = len(self._report.hit)
        title = f"{point.machine_name!r:.200} {point.point}"
        for disk in point.disks:
            count = len(disk.pages)
            lost = sum(
                self._window(disk, range(begin, min(begin + maps.WINDOW, count)))
                for begin in range(0, count, maps.WINDOW)
            )
            if lost:
                self._report.hit.append(f"{title}: disk {disk.key}: {lost} chunks")
        for file in point.files:
            if file.id is not None and self._missing([(file.id, BARE)]):
                self._report.hit.append(f"{title}: file {file.name}")
        return len(self._report.hit) > before

    def _window(self, disk: DiskMap, numbers: range) -> int:
        """How many chunks of these pages are not good."""
        seen: list[bytes] = []
        there: list[int] = []
        lost = 0
        for number in numbers:
            page = disk.pages[number]
            if page is None:
                continue
            # One with a shorter end is the end of this disk, and may not fit another.
            if _is_whole(disk, number) and not self._marks.first(page):
                seen.append(page)
            elif self._missing([(page, BARE)]):
                lost += self._note(page, disk.slots_of(number))
            else:
                there.append(number)
        for number, found in maps.pages(self._store, disk, there):
            lost += self._page(disk, number, found)
        return lost + sum(self._lost.get(page, 0) for page in seen)

    def _page(self, disk: DiskMap, number: int, found: maps.Found) -> int:
        if isinstance(found, StoreError) and self._store.index_moved():
            ((_number, found),) = maps.pages(self._store, disk, [number])
        page = disk.pages[number] or b""
        if not isinstance(found, StoreError):
            first, length = number * PAGE_SLOTS, disk.length_of
            named = [(one, claim(check, length(first + slot))) for slot, one, check in points.slots(found)]
            return self._note(page, self._missing(named))
        place = self._store.index().find(page)
        if place is not None and self._job.mine is not None and not self._job.mine(place.pack):
            # Who is hit by it is told by the slice that its pack is in.
            if found.message not in self._report.problems:
                self._report.problems.append(found.message)
            return 0
        self._report.damaged(page, found.message)
        return self._note(page, disk.slots_of(number))

    def _note(self, page: bytes, lost: int) -> int:
        if lost:
            self._lost[page] = lost
        return lost

    def _missing(self, ids: Sequence[tuple[bytes, int]]) -> int:
        """Of ids, and what is claimed of each."""
        lost = self._without(ids)
        if lost and self._store.index_moved():
            lost = self._without(lost)
        for identity, claimed in lost:
            place = self._store.index().find(identity)
            where = "is in no pack of the index" if place is None else f"is not in {pack_name(place.pack)}"
            if place is not None and self._job.contradicts(identity, place, claimed):
                where = f"in {pack_name(place.pack)} has another check or length than a map says"
            self._report.damaged(identity, f"chunk {identity.hex()} {where}")
        return len(lost)

    def _without(self, ids: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        index, holds = self._store.index(), self._job.holds
        return [one for one in ids if not holds(one[0], index.find(one[0]), self._report, one[1])]


def _is_whole(disk: DiskMap, number: int) -> bool:
    return (number + 1) * PAGE_SLOTS * disk.chunk_bytes <= disk.size
