# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at packs by several threads: each record by its checksum, or decoded and proven by its hash."""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    ObjectMissing,
    StoreError,
    passing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import HEADER, NO_CHECK, Entry, PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.report import Report
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name, pack_stem
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally

# An array of marks, and one of claims.
MARK, CLAIM = "Q", "I"
# That something is there, and no more of it.
BARE = 1


def mark(identity: bytes, offset: int) -> int:
    """A record of a pack in eight bytes: where it begins, and the beginning of its id. In a pack that lies in the place
    of another one records of other ids may begin at the same places. Ascends as the offsets do."""
    return offset << 32 | int.from_bytes(identity[:4], "big")


def claim(check: bytes, length: int) -> int:
    """What a map says of a chunk, and the chunk of itself, in four bytes that nobody can foresee. Not below 2."""
    return hash((check, length)) & 0xFFFFFFFF | 2


def agree(one: int, other: int) -> bool:
    return one == other or one <= BARE or other <= BARE


class Scan:
    """A look at packs. `good`: the marks of the good records of each pack seen, and `said` their claims; `keep` gets
    them as they are found. `claims`: what is claimed of the wanted records, in their order.

    `sizes`: bytes of each pack that will be read, for the `tally`. `wanted`: by pack, the marks of the records that
    are looked at; without it all are. `mine`: the packs that anything is said of; without it all. `each` gets every
    record that was proven by its hash, from several threads. What cannot be had now, and may be there the next time, is
    no damage but the end of the look.
    """

    def __init__(
        self,
        store: Store,
        deep: bool,
        keep: Callable[[str, list[Entry]], None] | None = None,
        *,
        sizes: Mapping[str, int] | None = None,
        tally: Tally | None = None,
        wanted: dict[str, array[int]] | None = None,
        claims: Mapping[str, array[int]] | None = None,
        mine: Callable[[str], bool] | None = None,
        each: Callable[[Entry, Any], None] | None = None,
    ) -> None:
        self.store, self.deep = store, deep
        self.sizes = sizes or {}
        self.tally = tally or Tally()
        self.wanted, self.mine = wanted, mine
        self.good: dict[str, array[int]] = {}
        self.said: dict[str, array[int]] = {}
        self._claims = claims or {}
        self.damaged: set[str] = set()
        self.stopped = threading.Event()
        self._keep, self._each = keep, each
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
        # Whatever becomes of it, it has been looked at.
        self.good[pack_stem(name)], self.said[pack_stem(name)] = array(MARK), array(CLAIM)
        try:
            with self.store.backend.open(name) as ranges:
                self._pack(self.store.pack_reader(name, ranges), report)
        except ObjectMissing:
            # It went since it was listed. If anything needs it, that is told there.
            report.packs -= 1
        except StoreError as error:
            self._doubt(error)
            report.problems.append(error.message)
            self.damaged.add(pack_stem(name))
        report.packs += 1
        # Table of contents, and what could not be followed.
        self.tally.add(max(0, self.sizes.get(name, 0) - (report.stored - before)))

    def holds(self, identity: bytes, place: Place | None, report: Report, claimed: int = BARE) -> bool:
        """Whether a good record of this id lies there, and is what is claimed of it. A pack that came since is looked
        at now, and so is what a collection has moved since into one that was looked at in part."""
        if place is None:
            return False
        wanted = mark(identity, place.offset)
        if place.pack not in self.good:
            if self.mine is not None and not self.mine(place.pack):
                return True
            self.look(pack_name(place.pack), report)
        elif self.wanted and place.pack in self.wanted and _at(self.wanted[place.pack], wanted) < 0:
            del self.wanted[place.pack]
            self.look(pack_name(place.pack), report)
        at = _at(self.good[place.pack], wanted)
        return at >= 0 and agree(self.said[place.pack][at], claimed)

    def contradicts(self, identity: bytes, place: Place, claimed: int) -> bool:
        """Whether a good record of this id lies there that is something else than what is claimed of it."""
        at = _at(self.good.get(place.pack, array(MARK)), mark(identity, place.offset))
        return at >= 0 and not agree(self.said[place.pack][at], claimed)

    def complete(self) -> bool:
        """Whether every record that was wanted is a good one, and what is claimed of it."""
        for name, marks in (self.wanted or {}).items():
            said = dict(zip(self.good.get(name, ()), self.said.get(name, ())))
            claims = self._claims.get(name) or repeat(BARE)
            if not all(one in said and agree(said[one], claimed) for one, claimed in zip(marks, claims)):
                return False
        return True

    def take_over(self, other: Scan) -> None:
        """What another look has found, at other wanted records."""
        for name, marks in other.good.items():
            pairs = zip((*self.good.get(name, ()), *marks), (*self.said.get(name, ()), *other.said[name]))
            self.good[name], self.said[name] = aligned(pairs)
        for name, marks in (other.wanted or {}).items():
            if self.wanted is not None:
                self.wanted[name] = array(MARK, sorted((*self.wanted.get(name, ()), *marks)))
        self.damaged |= other.damaged

    def _pack(self, pack: PackReader, report: Report) -> None:
        pack.expect_ends()
        pack.check_header(bytes.fromhex(self.store.id))
        name, deep = pack_stem(pack.name), self.deep
        try:
            entries = pack.entries()
        except ObjectMissing:
            raise
        except StoreError as error:
            self._doubt(error)
            # Nothing vouches for the header any more: only decoding shows whether the records can be had.
            report.problems.append(error.message)
            self.damaged.add(name)
            pack.expect_all()
            entries, deep = list(pack.survivors()), True
        if self.wanted is not None and name in self.wanted:
            wanted = set(self.wanted[name])
            entries = [entry for entry in entries if mark(entry.id, entry.offset) in wanted]
        pack.expect((entry.offset, entry.stored) for entry in entries)
        good, said = [], array(CLAIM)
        for entry, proof in self._proofs(pack, entries, deep):
            report.records += 1
            report.stored += entry.span
            self.tally.add(entry.span)
            try:
                said.append(self._record(pack, entry, report, deep, proof))
                good.append(entry)
            except ObjectMissing:
                # A collection has removed it since; of what was good in it nothing is there any more.
                raise
            except StoreError as error:
                self._doubt(error)
                report.damaged(entry.id, error.message)
                self.damaged.add(name)
        report.stored += HEADER.size
        self.tally.add(HEADER.size)
        with self._guard:
            self.good[name], self.said[name] = array(MARK, (mark(one.id, one.offset) for one in good)), said
            if self._keep is not None:
                self._keep(name, good)

    def _doubt(self, error: StoreError) -> None:
        if passing(error):
            raise error

    def _proofs(self, pack: PackReader, entries: Sequence[Entry], deep: bool) -> Iterator[tuple[Entry, bytes | None]]:
        """What the place's own machine proves need not come here, unless somebody wants the bytes."""
        if self._each is None and self.store.identity.plain_checks:
            return pack.proofs(entries, deep)
        return zip(entries, repeat(None))

    def _record(self, pack: PackReader, entry: Entry, report: Report, deep: bool, proof: bytes | None) -> int:
        """What it says of itself; in an encrypted store nothing unless it is decoded."""
        if proof is not None and (not deep or (proof == entry.id and proof.startswith(entry.check))):
            report.proven += entry.length if deep else 0
            return claim(entry.check, entry.length)
        record = pack.raw(entry.offset, entry.stored)
        if not deep:
            return claim(entry.check, entry.length) if self.store.vault is None else BARE
        data, check = pack.expand(record, entry.offset, entry.length, entry.id)
        if self.store.identity.check(data) != check:
            raise pack.damaged(f"chunk {entry.id.hex()} has other bytes than its check says")
        if entry.check != (check if self.store.vault is None else NO_CHECK):
            raise pack.damaged(f"the table of contents has another check for chunk {entry.id.hex()}")
        if self.store.identity.of(data) != entry.id:
            raise pack.damaged(f"chunk {entry.id.hex()} has other bytes than its id says")
        report.proven += len(data)
        if self._each is not None:
            self._each(entry, data)
        return claim(check, len(data))


def aligned(pairs: Iterable[tuple[int, int]]) -> tuple[array[int], array[int]]:
    """Marks, ascending, and the claims that belong to them."""
    ordered = sorted(pairs)
    return array(MARK, (one for one, _claim in ordered)), array(CLAIM, (one for _mark, one in ordered))


def _at(marks: array[int], wanted: int) -> int:
    """Its number, or -1."""
    at = bisect_left(marks, wanted)
    return at if at < len(marks) and marks[at] == wanted else -1
