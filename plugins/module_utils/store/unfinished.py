# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What backups have stored that came to no end: the next one of their scope takes it over, and sends it not again.

A writer whose bytes come from far away tells the packs that it has made whole. From then on it does not delete them
itself; when nobody needs them, a collection does. Another writer may lean on their records when it lists them in its
index: the rules by which it may lean on any (see registry) hold for these.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.stowage.esxi.plugins.module_utils.store import registry, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectMissing, StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECK_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.known import GROUP, HYPERVISOR, Scope
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_number, is_pack_name, names_in
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import CHUNK, Entry, PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.prefixes import NUMBER_BITS, Prefixes
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_stem

FOLDER = "unfinished/"
# Between two words of one writer: what is sent in this time may have to be sent again.
TELL_SECONDS = 30.0
# Step by step a word is said for each pack; of so many packs a second later, of twice as many two.
MANY_PACKS = 512
MOST_CHUNKS = 2_000_000
# Packs whose tables of contents are in memory at a time.
_PACKS = 4


@dataclass(frozen=True)
class Word:
    """What one writer has told last."""

    name: str
    writer: str
    machine_id: str
    facts: Mapping[str, Any]
    packs: frozenset[str]


class Teller:
    """Of one writer: each of its words takes the place of the one before."""

    def __init__(self, store: Store, writer: str, machine_id: str, facts: Mapping[str, Any]) -> None:
        self._store, self._writer, self._machine_id = store, writer, machine_id
        self._facts = {key: facts[key] for key in (HYPERVISOR, GROUP) if key in facts}
        self._number = 0
        self._whole: list[str] = []
        self.told: set[str] = set()
        """Packs that are not ours alone any more."""
        self._last = store.clock.monotonic()

    def whole(self, pack: str, at_once: bool = False) -> None:
        """A pack that is durable."""
        self._whole.append(pack)
        # Each word has all packs: of many it is not written again for every one.
        least = min(TELL_SECONDS, len(self._whole) // MANY_PACKS) if at_once else TELL_SECONDS
        if self._store.clock.monotonic() - self._last >= least:
            self.tell()

    def tell(self) -> None:
        """Without it the next backup sends more, and nothing else is lost."""
        self._last = self._store.clock.monotonic()
        if len(self.told) == len(self._whole):
            return
        # Before it is tried: what failed may be there all the same.
        self.told.update(self._whole)
        value = {"machine": self._machine_id, "facts": self._facts, "packs": self._whole}
        with contextlib.suppress(StoreError):
            self._store.backend.create(self._name(self._number + 1), self._store.seal(textfile.render(value)))
            self._number += 1
            self._store.backend.delete(self._name(self._number - 1))

    def withdraw(self) -> None:
        """After the commit: all of it is in the index."""
        if self.told:
            with contextlib.suppress(StoreError):
                self._store.backend.delete(self._name(self._number))

    def _name(self, number: int) -> str:
        return f"{FOLDER}{self._writer}-{number:06d}.json"


def words(store: Store) -> Iterator[tuple[str, Word | StoreError]]:
    """The last one of every writer, the newest writers in no order, or why it cannot be read."""
    for writer, name in sorted(_last(store, FOLDER).items()):
        try:
            found = _read(store, writer, name)
            if found is None:
                continue
            name, data = found
            value = textfile.parse(store.unseal(data, name), name, store.name)
            packs = names_in(value.get("packs"), is_pack_name)
            machine_id, facts = value.get("machine"), value.get("facts")
            if packs is None or not isinstance(machine_id, str) or not isinstance(facts, dict):
                raise Damaged(name=name, store=store.name, reason="it is no word of an unfinished backup")
            yield name, Word(name, writer, machine_id, facts, packs)
        except StoreError as error:
            yield name, error


def _last(store: Store, prefix: str) -> dict[str, str]:
    """The name of the last word of each writer."""
    last: dict[str, str] = {}
    for name, _size in store.backend.list(prefix):
        writer, _dash, rest = name[len(FOLDER) :].partition("-")
        if is_number(rest.partition(".")[0]):
            last[writer] = max(name, last.get(writer, ""))
    return last


def _read(store: Store, writer: str, name: str) -> tuple[str, bytes] | None:
    """The last word of a writer, who may tell more meanwhile; None where it has ended."""
    while True:
        try:
            return name, store.backend.read(name)
        except ObjectMissing:
            newer = _last(store, f"{FOLDER}{writer}-").get(writer, "")
            # Each is later than the one before: this comes to an end with its writer.
            if newer <= name:
                return None
            name = newer


def packs(store: Store) -> frozenset[str]:
    """Those that their writers do not delete any more."""
    return frozenset().union(*(word.packs for _name, word in words(store) if isinstance(word, Word)))


def tidy(store: Store) -> None:
    """Words about packs that are gone go, and those that nobody can read."""
    there = None
    for name, word in words(store):
        if isinstance(word, Word):
            if there is None:
                there = {pack_stem(name) for name, _size in store.packs()}
            if word.packs & there:
                continue
        elif not isinstance(word, Damaged):
            continue
        store.backend.delete(name)


class Unfinished:
    """What is told in one scope. Read at the first question; serves several threads."""

    def __init__(
        self, store: Store, scope: Scope, without: frozenset[str], adopt: Callable[[bytes, Place], None]
    ) -> None:
        """`without`: packs that are about to go. `adopt` is told of every chunk that is taken over."""
        self._store, self._scope, self._without, self._adopt = store, scope, without, adopt
        self._guard = threading.Lock()
        self._table: Prefixes | None = None
        self._names: list[str] = []
        self._words: list[Word] = []
        self._near: OrderedDict[str, tuple[PackReader, dict[bytes, Entry]]] = OrderedDict()

    def check(self, identity: bytes, length: int) -> bytes | None:
        """The check of a chunk of this length that somebody had stored, its bytes proven; None where there is none."""
        with self._guard:
            if self._table is None:
                self._table = self._made()
            number = self._table.find(identity)
            if number is None:
                return None
            try:
                return self._proven(self._names[number], identity, length)
            except StoreError:
                # Gone, or damaged: it is sent again.
                return None

    def _proven(self, name: str, identity: bytes, length: int) -> bytes | None:
        reader, entries = self._pack(name)
        entry = entries.get(identity)
        if entry is None or entry.length != length:
            return None
        if self._store.identity.plain_checks:
            ((_entry, digest),) = reader.proofs([entry], deep=True)
            if digest == identity:
                self._adopt(identity, Place(name, entry.offset, entry.stored, entry.length))
                return digest[:CHECK_BYTES]
        record = reader.raw(entry.offset, entry.stored)
        data, _check = reader.expand(record, entry.offset, entry.length, identity)
        if self._store.identity.of(data) != identity:
            return None
        self._adopt(identity, Place(name, entry.offset, entry.stored, entry.length))
        return self._store.identity.check(data)

    def _pack(self, name: str) -> tuple[PackReader, dict[bytes, Entry]]:
        if name in self._near:
            self._near.move_to_end(name)
        else:
            reader = self._store.pack(name)
            try:
                self._near[name] = reader, {one.id: one for one in reader.entries() if one.kind == CHUNK}
            except BaseException:
                reader.ranges.close()
                raise
            if len(self._near) > _PACKS:
                self._near.popitem(last=False)[1][0].ranges.close()
        return self._near[name]

    def _made(self) -> Prefixes:
        table = Prefixes(MOST_CHUNKS)
        for _name, word in words(self._store):
            if isinstance(word, StoreError) or not self._scope.holds(word.facts):
                continue
            self._words.append(word)
            for name in sorted(word.packs - self._without):
                if table.full or len(self._names) >> NUMBER_BITS:
                    break
                try:
                    _reader, entries = self._pack(name)
                except StoreError:
                    continue
                table.add([int.from_bytes(identity[:8], "big") for identity in entries], len(self._names))
                self._names.append(name)
        table.finish()
        return table

    def close(self) -> None:
        for reader, _entries in self._near.values():
            reader.ranges.close()
        self._near.clear()

    def forget(self, machine_id: str) -> None:
        """A machine's words whose writers have ended: it has been backed up since."""
        mine = [word for word in self._words if word.machine_id == machine_id]
        if mine:
            with contextlib.suppress(StoreError):
                living = {writer.id for writer in registry.registrations(self._store.backend)}
                for word in mine:
                    if word.writer not in living:
                        self._store.backend.delete(word.name)
