# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at packs by several threads: each record by its checksum, or decoded and proven by its hash."""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import ObjectMissing, StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import HEADER, NO_CHECK, Entry, PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name, pack_stem
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
    good_points: list[str] = field(default_factory=list)
    bad_points: list[str] = field(default_factory=list)
    """Restore points by the names of their objects."""
    unrecorded: str | None = None
    """Why the store could not keep what was found: it may be read only."""

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


class Scan:
    """A look at packs. `good`: where in each pack seen the good records begin; `keep` gets them as they are found.

    `sizes`: of the packs, for the `tally`.
    """

    def __init__(
        self,
        store: Store,
        deep: bool,
        keep: Callable[[str, list[Entry]], None] | None = None,
        *,
        sizes: Mapping[str, int] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.store, self.deep = store, deep
        self.sizes = sizes or {}
        self.tally = tally or Tally()
        self.tally.expect(sum(self.sizes.values()))
        self.good: dict[str, array[int]] = {}
        self.damaged: set[str] = set()
        self.stopped = threading.Event()
        self._keep = keep
        self._guard = threading.Lock()

    def run(self, names: Sequence[str], threads: int) -> Report:
        report = Report()
        work = iter(names)
        count = threads or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(count, thread_name_prefix="verify") as executor:
            try:
                for one in [executor.submit(self.lane, work) for _lane in range(count)]:
                    report.add(one.result())
            except BaseException:
                # Also an interrupt from the keyboard: the threads are not to read all packs first.
                self.stopped.set()
                raise
        return report

    def lane(self, work: Iterator[str]) -> Report:
        report = Report()
        while not self.stopped.is_set():
            with self._guard:
                name = next(work, None)
            if name is None:
                break
            self.look(name, report)
        return report

    def look(self, name: str, report: Report) -> None:
        before = report.stored
        try:
            with self.store.backend.open(name) as ranges:
                self._pack(PackReader(name, ranges, self.store.name, self.store.codec, self.store.vault), report)
        except ObjectMissing:
            # It went since it was listed. If anything needs it, that is told there.
            return
        except StoreError as error:
            report.problems.append(error.message)
            self.damaged.add(pack_stem(name))
        report.packs += 1
        # Table of contents, and what could not be followed.
        self.tally.add(max(0, self.sizes.get(name, 0) - (report.stored - before)))

    def holds(self, place: Place | None, report: Report) -> bool:
        """Whether a good record lies there. A pack that came since is looked at now."""
        if place is None:
            return False
        if place.pack not in self.good:
            self.good[place.pack] = array("I")
            self.look(pack_name(place.pack), report)
        good = self.good[place.pack]
        at = bisect_left(good, place.offset)
        return at < len(good) and good[at] == place.offset

    def _pack(self, pack: PackReader, report: Report) -> None:
        pack.check_header(bytes.fromhex(self.store.id))
        deep = self.deep
        try:
            entries = pack.entries()
        except StoreError as error:
            # Nothing vouches for the header any more: only decoding shows whether the records can be had.
            report.problems.append(error.message)
            self.damaged.add(pack_stem(pack.name))
            entries, deep = list(pack.survivors()), True
        good = []
        for entry in entries:
            report.records += 1
            report.stored += entry.span
            self.tally.add(entry.span)
            try:
                self._record(pack, entry, report, deep)
                good.append(entry)
            except StoreError as error:
                report.bad[entry.id] = error.message
                self.damaged.add(pack_stem(pack.name))
        report.stored += HEADER.size
        self.tally.add(HEADER.size)
        name = pack_stem(pack.name)
        with self._guard:
            self.good[name] = array("I", (entry.offset for entry in good))
            if self._keep is not None:
                self._keep(name, good)

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
