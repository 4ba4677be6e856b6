# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One writer of a store: its registration, its packs, and the commit of one restore point.

Any number of writers work at the same time, without a lock. What decides between a writer and whoever gives it up is
the one name of its restore point: both create it, and exactly one of them can.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.store import index as indexes
from ansible_collections.stowage.esxi.plugins.module_utils.store import points, registry, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    Damaged,
    ObjectExists,
    SourceFailed,
    SourceLied,
    StoreError,
    WriterRevoked,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index, Place, Segment
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import (
    CHUNK,
    LONGEST_PACK,
    MOST_RECORDS,
    Entry,
    PackWriter,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.quota import Quota
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name, pack_stem
from ansible_collections.stowage.esxi.plugins.module_utils.store.unfinished import Teller

BEAT_SECONDS = 10.0
# Of a writer that goes step by step: what is durable before anything more is asked for.
PIECE_BYTES = 16 << 20


def _packs(segment: Segment) -> list[str]:
    try:
        return segment.packs
    except Damaged:
        # Nothing is found in it either.
        return []


class Registered:
    """Registered from its making to its end. `lane()` gives each thread a pack of its own to fill."""

    def __init__(self, store: Store, point: str | None, stepwise: bool = False) -> None:
        self.store, self.stepwise = store, stepwise
        self.id = secrets.token_hex(8)
        self.created_at = iso(store.clock.now())
        self._packs = 0
        self._guard = threading.Lock()
        self._sealing = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealed: list[Future[None]] = []
        self._lanes: list[Lane] = []
        self._common: CommonLane | None = None
        registration = {"writer": self.id, "point": point, "created_at": self.created_at}
        # In this order; see registry.
        store.backend.create(self._object, textfile.render(registration))
        # From the first moment: an index may take minutes to come, and what is silent is taken for dead.
        self._heart = _Heart(self)
        try:
            self.index = self._index()
        except BaseException:
            self._heart.stop()
            store.backend.delete(self._object)
            raise
        self.stored_bytes = 0
        self.published = False
        self.shared_packs: set[str] = set()
        """Packs that others may lean on already."""
        self.entries: dict[str, list[Entry]] = {}

    @property
    def _object(self) -> str:
        return f"{registry.WRITERS}{self.id}.json"

    def _index(self) -> Index:
        without = registry.condemned(self.store.backend)
        index = Index(self.store.index(fresh=True).segments)
        # An index that is older than what it speaks of (a copy put back) names packs that are gone.
        there = {pack_stem(name) for name, _size in self.store.packs()}
        named = frozenset(pack for segment in index.segments for pack in _packs(segment))
        index.without = without | (named - there)
        return index

    # -- packs ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lane(self) -> Iterator[Lane]:
        """For one thread. Its last pack is sealed at the end of the block; where few files are better, with those of
        all threads at the end of the work."""
        if self.store.backend.keeps_chunks:
            with self._guard:
                self._common = self._common or CommonLane(self)
                if self._common not in self._lanes:
                    self._lanes.append(self._common)
            yield self._common
            return
        lane = Lane(self)
        with self._guard:
            self._lanes.append(lane)
        yield lane
        lane.flush()

    def join(self, lane: Lane) -> None:
        """One more, whose packs go the way of all others."""
        with self._guard:
            self._lanes.append(lane)

    def open_pack(self) -> PackWriter:
        with self._guard:
            self._packs += 1
            name = f"{self.id}-{self._packs:06d}"
        upload = self.store.backend.upload(pack_name(name))
        try:
            return PackWriter(
                name,
                upload,
                bytes.fromhex(self.store.id),
                self.store.codec,
                self.store.vault,
                self.store.identity.record_check,
            )
        except BaseException:
            upload.abort()
            raise

    def seal(self, pack: PackWriter) -> None:
        """In the background: syncing a pack takes as long as filling one."""
        with self._guard:
            self.entries[pack.name] = pack.entries
            self.stored_bytes += pack.size
            sealed = self._sealing.submit(self._commit, pack)
            self._sealed.append(sealed)
            waiting = [one for one in self._sealed if not one.done()]
        if self.stepwise:
            sealed.result()
        # Not more than a few at a time: what is not synced yet is memory of somebody's.
        elif len(waiting) > 3:
            waiting[0].result()

    def _commit(self, pack: PackWriter) -> None:
        try:
            pack.commit()
        except BaseException:
            pack.abort()
            raise
        self.whole(pack.name)

    def whole(self, pack: str) -> None:
        """Told of every pack that is durable, in the thread that has made it so."""

    def claim(self, identity: bytes) -> bool:
        """True for exactly one of the threads that bring the same new chunk."""
        mine = Place("", 0, 0, 0)
        return self.index.added.setdefault(identity, mine) is mine

    # -- the end -------------------------------------------------------------------------------------------------

    def take(self, count: int) -> None:
        """Asked for every record that is written: so many bytes more of the store's room."""

    def settle(self) -> Iterator[tuple[bytes, Place]]:
        """Waits until all packs are durable; then where each record of them lies."""
        if self._common is not None:
            self._common.flush()
        for one in self._sealed:
            one.result()
        self._sealing.shutdown()
        for name, entries in self.entries.items():
            for entry in entries:
                yield entry.id, Place(name, entry.offset, entry.stored, entry.length)

    def abort(self) -> None:
        """Nothing of it stays; what was in the index for a moment, or told, may be leant on, and is left to a
        collection."""
        self._sealing.shutdown()
        for lane in self._lanes:
            lane.abort()
        if not self.published:
            for name in self.entries.keys() - self.shared_packs:
                self.store.backend.delete(pack_name(name))
        self.unregister()

    def unregister(self) -> None:
        self._heart.stop()
        self.store.backend.delete(self._object)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.abort()


class Writer(Registered):
    """The writer of one restore point, to its `commit` or `abort`."""

    def __init__(
        self, store: Store, machine_id: str, machine_name: str, like: Point | None = None, stepwise: bool = False
    ) -> None:
        """`like`: a restore point of another store, whose copy this is to be; it has its time. `stepwise`: a full pack
        is durable before its thread goes on."""
        self.machine_id, self.machine_name = machine_id, machine_name
        moment = like.point.partition("-")[0] if like else store.clock.now().strftime("%Y%m%dT%H%M%S.%fZ")
        self.point = f"{moment}-{secrets.token_hex(3)}"
        super().__init__(store, points.object_name(machine_id, self.point), stepwise)
        if like is not None:
            self.created_at = like.created_at
        self._quota = Quota(store, self.id)
        self._places: list[tuple[bytes, Place]] | None = None
        self._adopted: dict[bytes, Place] = {}
        self._teller: Teller | None = None

    def __enter__(self) -> Writer:
        return self

    def take(self, count: int) -> None:
        self._quota.take(count)

    def tell_of(self, facts: Mapping[str, Any]) -> None:
        """What is stored is told from now on, for a backup of the same scope that may come after one that is cut."""
        self._teller = Teller(self.store, self.id, self.machine_id, facts)
        self.shared_packs = self._teller.told

    def whole(self, pack: str) -> None:
        if self._teller is not None:
            self._teller.whole(pack, self.stepwise)

    def adopt(self, identity: bytes, place: Place) -> None:
        """A chunk of a writer that came to no end: it is in our index, too."""
        there = self.index.added.setdefault(identity, place)
        # One without a pack is ours, and about to be written.
        if there.pack:
            self._adopted[identity] = there

    def make_durable(self) -> list[tuple[bytes, Place]]:
        """Waits until all packs are, and nothing else is there; then where each record of them lies."""
        if self._places is None:
            self._places = [*self.settle(), *self._adopted.items()]
        return self._places

    def commit(self, point: Point) -> None:
        """Packs, then index, then manifest; the restore point exists when this returns."""
        places = self.make_durable()
        try:
            if places:
                self.published = True
                self.store.backend.create(registry.index_name(self.id), indexes.build(places))
            self.store.backend.create(point.object_name, self.store.seal(point.render()))
        except ObjectExists as error:
            raise WriterRevoked(point=self.point) from error
        if self._teller is not None:
            self._teller.withdraw()
        # The point is there. A registration that stays is that of a silent writer, whom a collection gives up in vain.
        with contextlib.suppress(StoreError):
            self.unregister()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if self._teller is not None and kind is not None and not _of_store(error):
                self._leave(self._teller)
        finally:
            super().__exit__(kind, error, trace)

    def _leave(self, teller: Teller) -> None:
        """Whatever was cut, it was not the store: what has come is made durable, and told."""
        for lane in self._lanes:
            with contextlib.suppress(StoreError):
                lane.leave()
        for one in self._sealed:
            with contextlib.suppress(StoreError):
                one.result()
        teller.tell()


def _of_store(error: BaseException) -> bool:
    return isinstance(error, StoreError) and not isinstance(error, (SourceFailed, SourceLied))


class _Heart:
    """Shows that the writer lives, to a collection that waits for him."""

    def __init__(self, writer: Registered) -> None:
        self._writer = writer
        self._ended = threading.Event()
        self._number = 0
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A beat that cannot be written costs at most this restore point.
            with contextlib.suppress(StoreError):
                self._number += 1
                self._writer.store.backend.create(self._name(self._number), b"")
                self._writer.store.backend.delete(self._name(self._number - 1))

    def _name(self, number: int) -> str:
        return f"{registry.BEATS}{self._writer.id}-{number}"

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._number:
            self._writer.store.backend.delete(self._name(self._number))


class Lane:
    """The packs of one thread, one after the other."""

    def __init__(self, writer: Registered) -> None:
        self._writer = writer
        self._pack: PackWriter | None = None
        self._limit = min(writer.store.settings["pack_bytes"], PIECE_BYTES if writer.stepwise else LONGEST_PACK)
        # A record was written in part, or there was no room for it: this pack is not to be made whole.
        self._broken = False

    def add(self, identity: bytes, check: bytes, data: Any, kind: int = CHUNK) -> Entry:
        with self._whole():
            return self._added(self._open().add(identity, check, data, kind))

    def add_packed(self, identity: bytes, check: bytes, codec: int, payload: Any, length: int, kind: int) -> Entry:
        """A record whose bytes are compressed already."""
        with self._whole():
            return self._added(self._open().add_packed(identity, check, codec, payload, length, kind))

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    def _open(self) -> PackWriter:
        if self._pack is None:
            self._pack = self._writer.open_pack()
        return self._pack

    def _added(self, entry: Entry) -> Entry:
        pack = self._pack
        if pack is None:
            raise ValueError("a record was added to no pack")
        self._writer.take(entry.span)
        self._writer.index.added[entry.id] = Place(pack.name, entry.offset, entry.stored, entry.length)
        if pack.size >= self._limit or len(pack.entries) >= MOST_RECORDS:
            self.flush()
        return entry

    def flush(self) -> None:
        if self._pack is not None:
            pack, self._pack = self._pack, None
            self._writer.seal(pack)

    def leave(self) -> None:
        """What is whole in it stays."""
        if self._broken:
            self.abort()
        else:
            self.flush()

    def abort(self) -> None:
        if self._pack is not None:
            self._pack.abort()
            self._pack = None


class CommonLane(Lane):
    """One pack for all threads: where a file costs more than a moment's waiting."""

    def __init__(self, writer: Registered) -> None:
        super().__init__(writer)
        self._turn = threading.RLock()

    def add(self, identity: bytes, check: bytes, data: Any, kind: int = CHUNK) -> Entry:
        with self._turn:
            return super().add(identity, check, data, kind)

    def add_packed(self, identity: bytes, check: bytes, codec: int, payload: Any, length: int, kind: int) -> Entry:
        with self._turn:
            return super().add_packed(identity, check, codec, payload, length, kind)

    def flush(self) -> None:
        with self._turn:
            super().flush()
