# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store: created, opened, and what is in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Callable, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.store import config as checks
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    crypto,
    founding,
    keyfiles,
    points,
    registry,
    textfile,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend, Ranges
from ansible_collections.stowage.esxi.plugins.module_utils.store.codec import Codec
from ansible_collections.stowage.esxi.plugins.module_utils.store.config import DEFAULTS
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    ChunkMissing,
    Damaged,
    NoStore,
    NoSuchPoint,
    ObjectMissing,
    StoreError,
    UnknownFormat,
    passing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.founding import CONFIG, VERSION
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import SHA256, XXH3, Identity
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import EMPTY_BYTES, Index, Place, Segment
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_pack_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap, Point

T = TypeVar("T")

_ATTEMPTS = 16


class Store:
    """An open store. Reading needs no more than this; writing goes through a `Writer`."""

    def __init__(self, backend: Backend, config: dict[str, Any], vault: crypto.Vault | None, clock: Clock) -> None:
        self.backend = backend
        self.clock = clock
        self.config = config
        self.vault = vault
        self.name = backend.name
        self.id: str = config["id"]
        self.chunk_bytes: int = config["chunk_bytes"]
        seed = vault.seed if vault else int(config["seed"], 16)
        self.identity = Identity(config["hash"], seed, vault.id_key if vault else None, config.get("check", XXH3))
        self.settings_problems: dict[str, str] = {}
        """Settings that are damaged and would count, by the names of their files: those before them count instead."""
        self.renew_settings()
        self._index: Index | None = None
        self._from_packs: Index | None = None
        self._index_names: frozenset[str] | None = None
        self.index_problems: dict[str, str] = {}

    # -- opening -------------------------------------------------------------------------------------------------

    @staticmethod
    def create(
        backend: Backend,
        *,
        chunk_bytes: int = 1 << 20,
        hash_name: str = "sha256",
        passphrase: str | None = None,
        settings: dict[str, Any] | None = None,
        beside: Mapping[str, bytes] | None = None,
        clock: Clock | None = None,
    ) -> Store:
        """A new store in an empty place, or where a making was cut short; `StoreExists` where anything else is.
        `beside`: programs to lie in it."""
        clock = clock or SystemClock()
        check = SHA256 if backend.keeps_chunks else XXH3
        config, vault = founding.found(
            backend, founding.wanted(chunk_bytes, hash_name, clock, check), passphrase, settings, beside or {}
        )
        return Store(backend, config, vault, clock)

    @staticmethod
    def open(backend: Backend, secret: str | None = None, clock: Clock | None = None) -> Store:
        """An existing store; `NoStore`, `UnknownFormat`, `WrongKey` or its `KeyNeeded`, or `Damaged`."""
        try:
            config = textfile.parse(backend.read(CONFIG, 1 << 16), CONFIG, backend.name)
        except ObjectMissing as error:
            raise NoStore(store=backend.name, reason=founding.instead(backend)) from error
        if config.get("format") != "stowage-store" or config.get("version") != VERSION:
            raise UnknownFormat(store=backend.name, version=str(config.get("version"))[:40], known=VERSION)
        checks.check(config, CONFIG, backend.name)
        vault = None
        if config.get("encryption"):
            vault = _unlocked(backend, secret, config["id"])
        return Store(backend, config, vault, clock or SystemClock())

    def renew_settings(self) -> None:
        """Of a store that was opened a while ago: what counts now."""
        self.settings = self.newest_settings()
        self.codec = Codec(self.settings["codec"], self.settings["level"])

    def newest_settings(self) -> dict[str, Any]:
        """The last ones that can be had: what is stored is to be read whatever has become of them."""
        self.settings_problems = {}
        for name in sorted((name for name, _size in self.backend.list(checks.SETTINGS)), reverse=True):
            try:
                return self.settings_in(name)
            except ObjectMissing:
                continue
            except StoreError as error:
                if passing(error):
                    raise
                self.settings_problems[name] = error.message
        return dict(DEFAULTS)

    def settings_in(self, name: str) -> dict[str, Any]:
        """The settings in a file; `Damaged` when no store can have them."""
        found = {**DEFAULTS, **textfile.parse(self.backend.read(name, 1 << 16), name, self.name)}
        reason = checks.settings_problem(found)
        if reason is not None:
            raise Damaged(name=name, store=self.name, reason=reason)
        return found

    def damaged_settings(self) -> dict[str, str]:
        """Why, by name. Without the newest ones, those before them count."""
        found = {}
        for name, _size in sorted(self.backend.list(checks.SETTINGS)):
            try:
                self.settings_in(name)
            except ObjectMissing:
                continue
            except StoreError as error:
                if passing(error):
                    raise
                found[name] = error.message
        return found

    # -- objects -------------------------------------------------------------------------------------------------

    def seal(self, data: bytes) -> bytes:
        return self.vault.seal(data) if self.vault else data

    def unseal(self, data: bytes, name: str) -> bytes:
        return self.vault.open(data, name, self.name) if self.vault else data

    def index(self, fresh: bool = False) -> Index:
        """All index files, mapped. `fresh` looks for those that came since."""
        if self._index is None or fresh:
            self._index_names = self._names_of_index()
            self._index = Index(self._segments())
        return self._index

    def _names_of_index(self) -> frozenset[str]:
        """Its files never change, but come and go."""
        return frozenset(name for name, _size in self.backend.list("index/"))

    def index_moved(self) -> bool:
        """Whether index files have come or gone since it was loaded, as by a collection; then it is loaded anew."""
        if self._index_names in (None, self._names_of_index()):
            return False
        self.index(fresh=True)
        return True

    def lean_on(self, index: Index) -> None:
        """Goes by this index until it is asked for a fresh one: the files may be damaged."""
        self._index, self._index_names = index, None

    def _segments(self) -> list[Segment]:
        for _attempt in range(_ATTEMPTS):
            found, whole, self.index_problems = [], True, {}
            for name, size in self.backend.list("index/"):
                if size == EMPTY_BYTES:
                    continue
                try:
                    found.append(Segment(self.backend.map(name), name, self.name))
                except ObjectMissing:
                    # One that goes between the listing and the reading has a successor in a fresh listing.
                    whole = False
                except Damaged as error:
                    self.index_problems[name] = error.message
            if whole:
                break
        return found

    def index_from_packs(self) -> Index:
        """The index anew, from the packs' own tables of contents: what there is when an index file is damaged."""
        if self._from_packs is None:
            index = Index()
            for name, _size in self.packs():
                stem = pack_stem(name)
                with contextlib.suppress(StoreError), self.pack(stem).ranges as ranges:
                    reader = self.pack_reader(name, ranges)
                    for entry in reader.entries_or_survivors():
                        index.added.setdefault(entry.id, Place(stem, entry.offset, entry.stored, entry.length))
            self._from_packs = index
        return self._from_packs

    def packs(self) -> Iterator[tuple[str, int]]:
        """Name and size of every pack's object. What lies elsewhere than its name says is found by no index: none."""
        return ((name, size) for name, size in self.backend.list("packs/") if is_pack(name))

    def pack_reader(self, name: str, ranges: Ranges) -> PackReader:
        """A pack by the name of its object, nothing of it looked at."""
        return PackReader(name, ranges, self.name, self.codec, self.vault, self.identity.record_check)

    def pack(self, name: str) -> PackReader:
        """A pack, its header checked. The caller closes its `ranges`."""
        full = pack_name(name)
        reader = self.pack_reader(full, self.backend.open(full))
        try:
            reader.check_header(bytes.fromhex(self.id))
        except BaseException:
            reader.ranges.close()
            raise
        return reader

    # -- restore points ------------------------------------------------------------------------------------------

    def look_at_points(self, machine_id: str | None = None) -> Iterator[tuple[str, Point | StoreError]]:
        """Each restore point, or why it cannot be read, by the name of its object; one that goes meanwhile is none."""
        prefix = points.folder_of(machine_id) if machine_id is not None else points.FOLDER
        for name, _size in sorted(self.backend.list(prefix)):
            try:
                point = self.read_point(name)
            except ObjectMissing:
                continue
            except StoreError as error:
                yield name, error
                continue
            if point is not None:
                yield name, point

    def points(self, machine_id: str | None = None) -> list[Point]:
        """All restore points, or those of one machine, oldest first."""
        found = []
        for _name, point in self.look_at_points(machine_id):
            if isinstance(point, StoreError):
                raise point
            found.append(point)
        return sorted(found, key=lambda point: point.point)

    def read_point(self, name: str) -> Point | None:
        data = self.backend.read(name)
        if data == registry.revoked():
            return None
        return points.parse(self.unseal(data, name), name, self.name)

    def point(self, machine_id: str, point_id: str) -> Point:
        name = points.object_name(machine_id, point_id)
        try:
            found = self.read_point(name)
        except ObjectMissing:
            found = None
        if found is None:
            raise NoSuchPoint(store=self.name, point=point_id)
        return found

    # -- records -------------------------------------------------------------------------------------------------

    def place_of(self, identity: bytes) -> Place:
        for index in (self.index, lambda: self.index(fresh=True), self.index_from_packs):
            place = index().find(identity)
            if place is not None:
                return place
        raise ChunkMissing(chunk=identity.hex(), store=self.name)

    def other_place(self, identity: bytes, than: Place) -> Place | None:
        """Where a chunk lies by a newer index, or by the packs' own word, when what the index says has proven wrong."""
        if self.index_moved():
            self._from_packs = None
            place = self.index().find(identity)
            if place not in (None, than):
                return place
        place = self.index_from_packs().find(identity)
        return place if place != than else None

    def from_any_place(self, identity: bytes, read: Callable[[Place], T]) -> T:
        """What `read` makes of a record where the index says that it lies, or else where the packs themselves say."""
        place = self.place_of(identity)
        try:
            return read(place)
        except StoreError:
            other = self.other_place(identity, place)
            if other is None:
                raise
            return read(other)

    def read_record(self, identity: bytes, most: int = 1 << 30) -> bytes:
        """A page or a file, proven by its id."""
        return self.from_any_place(identity, lambda place: self._record_at(place, identity, most))

    def _record_at(self, place: Place, identity: bytes, most: int) -> bytes:
        if place.length > most:
            raise Damaged(name=pack_name(place.pack), store=self.name, reason=f"a record of {place.length} bytes")
        reader = self.pack(place.pack)
        with reader.ranges:
            return self.record_in(reader, place, identity)

    def record_in(self, reader: PackReader, place: Place, identity: bytes) -> bytes:
        """A record of a pack that is open, proven by its id."""
        record = reader.raw(place.offset, place.stored)
        data, _check = reader.expand(record, place.offset, place.length, identity)
        if self.identity.of(data) != identity:
            raise Damaged(name=pack_name(place.pack), store=self.name, reason=f"chunk {identity.hex()} has other bytes")
        return bytes(data)

    def page(self, disk: DiskMap, number: int) -> bytes:
        """One page of a disk's map, as long as it must be."""
        identity = disk.pages[number]
        wanted = disk.slots_of(number) * points.SLOT_BYTES
        if identity is None:
            return bytes(wanted)
        page = self.read_record(identity, wanted)
        if len(page) != wanted:
            raise Damaged(name=f"page {identity.hex()}", store=self.name, reason=f"{len(page)} bytes, not {wanted}")
        return page

    def pages(self, disk: DiskMap) -> Iterator[tuple[int, bytes]]:
        """Number of the first slot, and the page, for every page that is not all zeros."""
        for number, identity in enumerate(disk.pages):
            if identity is not None:
                yield number * points.PAGE_SLOTS, self.page(disk, number)

    def close(self) -> None:
        self.backend.close()


def _unlocked(backend: Backend, secret: str | None, store_id: str) -> crypto.Vault:
    """By any key that can be read: one that is damaged locks nobody else out."""
    entries = keyfiles.read(backend).values()
    slots = [one for one in entries if not isinstance(one, Damaged)]
    spoiled = [one for one in entries if isinstance(one, Damaged)]
    if secret is None:
        raise crypto.KeyNeeded(store=backend.name, ways="by the option passphrase")
    try:
        return crypto.unlock(slots, secret.encode("utf-8", "surrogateescape"), store_id, backend.name)
    except crypto.WrongKey:
        if spoiled:
            raise spoiled[0] from None
        raise


def pack_name(name: str) -> str:
    return f"packs/{name[:2]}/{name}.pack"


def is_pack(name: str) -> bool:
    """Whether an object lies where a pack of its name does."""
    return is_pack_name(pack_stem(name)) and name == pack_name(pack_stem(name))


def pack_stem(name: str) -> str:
    """The pack's name of an object's."""
    return name.rpartition("/")[2].partition(".")[0]
