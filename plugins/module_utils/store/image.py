# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk of a restore point for reads at any place, without restoring it. What is decoded is kept, within a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import NOTHING, PAGE_SLOTS, SLOT_BYTES, DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name

CACHE_BYTES = 64 << 20
_OPEN_PACKS = 16


class _Loading:
    """A chunk that one thread decodes and others wait for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.data: bytes | None = None
        self.error: BaseException | None = None


class _Open:
    """A pack that is open, and how many threads read from it."""

    def __init__(self, reader: PackReader) -> None:
        self.reader = reader
        self.users = 0
        self.wanted = True


class Reader:
    """Proven chunks and map pages of one store, for any number of disks and threads.

    Holds at most `cache_bytes` of decoded bytes, beside those that are in the hands of threads. A chunk that several
    threads want at once is decoded once.
    """

    def __init__(self, store: Store, cache_bytes: int = CACHE_BYTES, paranoid: bool = False) -> None:
        self.store = store
        self._paranoid = paranoid
        self.cache_bytes = cache_bytes
        self.decoded = 0
        """How many records were decoded so far."""
        self._guard = threading.Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._held = 0
        self._loading: dict[bytes, _Loading] = {}
        self._packs: OrderedDict[str, _Open] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        return self._held

    def chunk(self, identity: bytes, check: bytes, length: int) -> bytes:
        """Proven by its XXH3-128; a paranoid reader's by its id, too."""
        data = self._get(
            identity, lambda: self.store.from_any_place(identity, lambda place: self._at(place, identity, check))
        )
        if len(data) != length:
            reason = f"chunk {identity.hex()} has {len(data)} bytes, not {length}"
            raise Damaged(name=pack_name(self.store.place_of(identity).pack), store=self.store.name, reason=reason)
        return data

    def page(self, disk: DiskMap, number: int) -> bytes:
        identity = disk.pages[number]
        if identity is None:
            return bytes(disk.slots_of(number) * SLOT_BYTES)
        return self._get(identity, lambda: self.store.page(disk, number))

    def file(self, identity: bytes, size: int) -> bytes:
        """A small file beside disks, proven by its id."""
        return self._get(identity, lambda: self.store.read_record(identity, size))

    def close(self) -> None:
        with self._guard:
            for opened in self._packs.values():
                opened.wanted = False
                if not opened.users:
                    opened.reader.ranges.close()
            self._packs.clear()
            self._kept.clear()
            self._held = 0

    # -- the cache -----------------------------------------------------------------------------------------------

    def _get(self, identity: bytes, load: Callable[[], bytes]) -> bytes:
        with self._guard:
            data = self._kept.get(identity)
            if data is not None:
                self._kept.move_to_end(identity)
                return data
            loading = self._loading.get(identity)
            mine = loading is None
            if loading is None:
                loading = self._loading[identity] = _Loading()
        if not mine:
            loading.done.wait()
            if loading.data is None:
                raise loading.error or RuntimeError("a chunk was neither read nor refused")
            return loading.data
        try:
            loading.data = load()
            self._keep(identity, loading.data)
            return loading.data
        except BaseException as error:
            loading.error = error
            raise
        finally:
            with self._guard:
                del self._loading[identity]
            loading.done.set()

    def _keep(self, identity: bytes, data: bytes) -> None:
        with self._guard:
            self.decoded += 1
            self._kept[identity] = data
            self._held += len(data)
            while self._held > self.cache_bytes:
                _identity, oldest = self._kept.popitem(last=False)
                self._held -= len(oldest)

    # -- packs ---------------------------------------------------------------------------------------------------

    def _at(self, place: Place, identity: bytes, check: bytes) -> bytes:
        with self._pack(place.pack) as pack:
            record = pack.raw(place.offset, place.stored)
            data, _own = pack.expand(record, place.offset, place.length, identity)
            if self.store.identity.check(data) != check:
                raise pack.damaged(f"chunk {identity.hex()} has other bytes than the disk had")
            if self._paranoid and self.store.identity.of(data) != identity:
                raise pack.damaged(f"chunk {identity.hex()} has other bytes than its id says")
            return bytes(data)

    @contextmanager
    def _pack(self, name: str) -> Iterator[PackReader]:
        """Opening costs requests in a bucket, and the table of contents in an encrypted store: a few stay open."""
        with self._guard:
            opened = self._packs.get(name)
            if opened is not None:
                self._packs.move_to_end(name)
                opened.users += 1
        if opened is None:
            opened = self._opened(name, _Open(self.store.pack(name)))
        try:
            yield opened.reader
        finally:
            with self._guard:
                opened.users -= 1
                last = not opened.users and not opened.wanted
            if last:
                opened.reader.ranges.close()

    def _opened(self, name: str, fresh: _Open) -> _Open:
        going = []
        with self._guard:
            fresh.users = 1
            if name in self._packs:
                # Another thread was as fast: ours is closed after its one use.
                fresh.wanted = False
                return fresh
            self._packs[name] = fresh
            while len(self._packs) > _OPEN_PACKS:
                _name, oldest = self._packs.popitem(last=False)
                oldest.wanted = False
                if not oldest.users:
                    going.append(oldest)
        for one in going:
            one.reader.ranges.close()
        return fresh


class DiskImage:
    """One disk, raw. Serves several threads."""

    def __init__(self, reader: Reader, disk: DiskMap) -> None:
        self.disk = disk
        self.size = disk.size
        self._reader = reader

    def pread(self, length: int, offset: int) -> bytes:
        """The bytes there, fewer at the end of the disk and none behind it."""
        if offset < 0 or length < 0:
            raise ValueError("neither an offset nor a length is below zero")
        end = min(self.size, offset + length)
        if offset >= end:
            return b""
        parts = []
        grid = self.disk.chunk_bytes
        for slot in range(offset // grid, (end - 1) // grid + 1):
            begin, stop = max(offset - slot * grid, 0), min(end - slot * grid, grid)
            data = self.chunk(slot)
            parts.append(bytes(stop - begin) if data is None else data[begin:stop])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunk(self, slot: int) -> bytes | None:
        """One chunk; None when it is all zeros."""
        page = self._reader.page(self.disk, slot // PAGE_SLOTS)
        at = slot % PAGE_SLOTS * SLOT_BYTES
        identity = page[at : at + ID_BYTES]
        if identity == NOTHING:
            return None
        return self._reader.chunk(identity, page[at + ID_BYTES : at + SLOT_BYTES], self.disk.length_of(slot))
