# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the store what it was? Records by their checksums, or every byte by its hash; and who is hit by what is not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.store import points
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import HEADER, NO_CHECK, Entry, PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally


@dataclass
class Report:
    """What was looked at and found. `bad` are ids whose record is damaged, with the reason; `hit` what needs them."""

    packs: int = 0
    records: int = 0
    stored: int = 0
    proven: int = 0
    bad: dict[bytes, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.bad and not self.problems

    def add(self, other: Report) -> None:
        self.packs += other.packs
        self.records += other.records
        self.stored += other.stored
        self.proven += other.proven
        self.bad.update(other.bad)
        self.problems += other.problems


def run(store: Store, *, deep: bool = False, threads: int = 0, tally: Tally | None = None) -> Report:
    """Every pack, every index file, every restore point. `deep` decodes every record and proves it by its hash."""
    sizes = dict(store.backend.list("packs/"))
    names = sorted(sizes)
    job = _Job(store, deep, sizes, tally or Tally())
    job.tally.expect(sum(sizes.values()))
    report = Report()
    work = iter(names)
    count = threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(count, thread_name_prefix="verify") as executor:
        try:
            for one in [executor.submit(job.lane, work) for _lane in range(count)]:
                report.add(one.result())
        except BaseException:
            job.stopped.set()
            raise
    segments = store.index(fresh=True).segments
    report.problems += store.index_problems.values()
    for segment in segments:
        try:
            segment.verify()
        except StoreError as error:
            report.problems.append(error.message)
    _points(store, report, job.good)
    return report


class _Job:
    def __init__(self, store: Store, deep: bool, sizes: Mapping[str, int], tally: Tally) -> None:
        self.store, self.deep = store, deep
        self.sizes = sizes
        self.tally = tally
        self.good: dict[str, frozenset[int]] = {}
        self.stopped = threading.Event()
        self._guard = threading.Lock()

    def lane(self, work: Iterator[str]) -> Report:
        report = Report()
        while not self.stopped.is_set():
            with self._guard:
                name = next(work, None)
            if name is None:
                break
            before = report.stored
            try:
                with self.store.backend.open(name) as ranges:
                    self._pack(PackReader(name, ranges, self.store.name, self.store.codec, self.store.vault), report)
            except StoreError as error:
                report.problems.append(error.message)
            report.packs += 1
            # Table of contents, and what could not be followed.
            self.tally.add(max(0, self.sizes[name] - (report.stored - before)))
        return report

    def _pack(self, pack: PackReader, report: Report) -> None:
        pack.check_header(bytes.fromhex(self.store.id))
        deep = self.deep
        try:
            entries = pack.entries()
        except StoreError as error:
            # Nothing vouches for the header any more: only decoding shows whether the records can be had.
            report.problems.append(error.message)
            entries, deep = list(pack.survivors()), True
        good = set()
        for entry in entries:
            report.records += 1
            report.stored += entry.span
            self.tally.add(entry.span)
            try:
                self._record(pack, entry, report, deep)
                good.add(entry.offset)
            except StoreError as error:
                report.bad[entry.id] = error.message
        report.stored += HEADER.size
        self.tally.add(HEADER.size)
        name = pack.name.rpartition("/")[2].partition(".")[0]
        with self._guard:
            self.good[name] = frozenset(good)

    def _record(self, pack: PackReader, entry: Entry, report: Report, deep: bool) -> None:
        record = pack.raw(entry.offset, entry.stored)
        if not deep:
            return
        data, check = pack.expand(record, entry.offset, entry.length, entry.id)
        if self.store.identity.check(data) != check:
            raise pack.damaged(f"chunk {entry.id.hex()} has other bytes than its check says")
        if entry.check != (check if self.store.vault is None else NO_CHECK):
            raise pack.damaged(f"the table of contents has another check for chunk {entry.id.hex()}")
        if self.store.identity.of(data) != entry.id:
            raise pack.damaged(f"chunk {entry.id.hex()} has other bytes than its id says")
        report.proven += len(data)


def _points(store: Store, report: Report, good: dict[str, frozenset[int]]) -> None:
    """Every restore point can be read, and all that it needs lies in a good record."""
    for name, _size in sorted(store.backend.list(points.FOLDER)):
        try:
            point = store.read_point(name)
            if point is not None:
                _point(store, point, report, good)
        except StoreError as error:
            report.problems.append(error.message)


def _point(store: Store, point: Point, report: Report, good: dict[str, frozenset[int]]) -> None:
    def missing(ids: Sequence[bytes]) -> int:
        count = 0
        for identity in ids:
            place = store.index().find(identity)
            if place is None or place.offset not in good.get(place.pack, ()):
                count += 1
                if place is None:
                    report.bad.setdefault(identity, f"chunk {identity.hex()} is in no pack of the index")
                else:
                    report.bad.setdefault(identity, f"chunk {identity.hex()}: {pack_name(place.pack)} does not hold it")
        return count

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
