# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs: many records in one file, each readable alone, with a table of contents at the end."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Ranges, Upload
from ansible_collections.stowage.esxi.plugins.module_utils.store.codec import Codec
from ansible_collections.stowage.esxi.plugins.module_utils.store.crypto import SALT_BYTES, PackCipher, Vault
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECK_BYTES, record_check
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import LONGEST_RECORD

CHUNK, PAGE, FILE = 0, 1, 2
VERSION = 1
ENCRYPTED = 1

HEADER = struct.Struct("<8sHHI16s32s")
RECORD = struct.Struct("<4sBBHII32s16s")
ENTRY = struct.Struct("<32s16sIIIBBH")
FOOTER = struct.Struct("<8sIIQQ")
FOOTER_BYTES = FOOTER.size + CHECK_BYTES
MAGIC, RECORD_MAGIC, FOOTER_MAGIC = b"STOWPACK", b"SREC", b"STOWTOC1"
LONGEST_PACK = (1 << 32) - 1
MOST_RECORDS = 1 << 17
# Nothing that is stored is longer than what it was, but for what its codec and its encryption add.
LONGEST_PAYLOAD = LONGEST_RECORD + (1 << 20)
NO_CHECK = bytes(CHECK_BYTES)
# Of the end of a pack, what is fetched at once for its table of contents: a thousand records; and of all of it.
_TABLE = 1 << 16
_PIECE = 1 << 20
# Records that a place is asked to prove at once.
_PROOFS = 32


@dataclass(frozen=True)
class Entry:
    """One record of a pack: where it is and what it holds. Lengths in bytes."""

    id: bytes
    check: bytes
    offset: int
    stored: int
    length: int
    codec: int
    kind: int

    @property
    def span(self) -> int:
        """Bytes of the whole record in the pack."""
        return RECORD.size + self.stored + CHECK_BYTES


Check = Callable[..., bytes]
"""The sum of a record, of its pieces."""


class Packed(NamedTuple):
    """What a record holds: codec, kind, the check of the bytes before compression, and the compressed bytes."""

    codec: int
    kind: int
    check: bytes
    payload: Any


class PackWriter:
    """Fills one pack. For one thread at a time."""

    def __init__(
        self,
        name: str,
        upload: Upload,
        store_id: bytes,
        codec: Codec,
        vault: Vault | None,
        check: Check = record_check,
    ) -> None:
        self.name = name
        self._check = check
        self.entries: list[Entry] = []
        self._upload = upload
        self._codec = codec
        salt = secrets.token_bytes(SALT_BYTES) if vault else bytes(SALT_BYTES)
        self._cipher: PackCipher | None = vault.pack(salt) if vault else None
        header = HEADER.pack(MAGIC, VERSION, ENCRYPTED if vault else 0, 0, store_id, salt)
        self.size = len(header)
        self._header = header
        self._room = bytearray()
        self._failed: BaseException | None = None
        self._append([header])

    def _append(self, parts: Sequence[Any]) -> None:
        """After one that failed nobody knows what lies at the end: nothing more is put there, and it is never whole."""
        if self._failed is not None:
            raise self._failed
        try:
            self._upload.append(parts)
        except BaseException as error:
            self._failed = error
            raise

    def add(self, identity: bytes, check: bytes, data: Any, kind: int = CHUNK) -> Entry:
        codec, payload = self._codec.compress(data)
        return self.add_packed(identity, check, codec, payload, len(data), kind)

    def add_packed(self, identity: bytes, check: bytes, codec: int, payload: Any, length: int, kind: int) -> Entry:
        """A record whose bytes are compressed already (by a hypervisor, or copied from another pack)."""
        if self._cipher is None:
            head = RECORD.pack(RECORD_MAGIC, codec, kind, 0, length, len(payload), identity, check)
        else:
            stored = CHECK_BYTES + len(payload) + 16
            head = RECORD.pack(RECORD_MAGIC, codec, kind, 0, length, stored, identity, NO_CHECK)
            payload = self._cipher.seal(len(self.entries), head, self._joined(check, payload))
            check = NO_CHECK
        entry = Entry(identity, check, self.size, len(payload), length, codec, kind)
        self._append([head, payload, self._check(head, payload)])
        return self._added(entry)

    def _added(self, entry: Entry) -> Entry:
        self.entries.append(entry)
        self.size += entry.span
        return entry

    def lend(self) -> Any:
        """What somebody else appends chunks to; each is told by `kept`."""
        return self._upload.lend()

    def kept(self, identity: bytes, check: bytes, codec: int, stored: int, length: int) -> Entry:
        """A chunk that is the next record already."""
        return self._added(Entry(identity, check, self.size, stored, length, codec, CHUNK))

    def _joined(self, check: bytes, payload: Any) -> memoryview:
        """In room that is kept: as much anew for each record made 200,000 page faults of one backup."""
        end = CHECK_BYTES + len(payload)
        if len(self._room) < end:
            self._room = bytearray(max(end, 2 * len(self._room)))
        self._room[:CHECK_BYTES] = check
        self._room[CHECK_BYTES:end] = payload
        return memoryview(self._room)[:end]

    def commit(self) -> None:
        """Table of contents and footer; the pack is durable when this returns."""
        table = b"".join(
            ENTRY.pack(e.id, e.check, e.offset, e.stored, e.length, e.codec, e.kind, 0) for e in self.entries
        )
        self._append([table, footer(self._header, len(self.entries), self.size, table)])
        self._upload.commit()

    def abort(self) -> None:
        self._upload.abort()


def footer(header: bytes, count: int, offset: int, table: bytes) -> bytes:
    head = FOOTER.pack(FOOTER_MAGIC, count, 0, offset, offset + len(table) + FOOTER_BYTES)
    return head + record_check(header, table, head)


class PackReader:
    """One pack, for reading. Serves several threads."""

    def __init__(
        self,
        name: str,
        ranges: Ranges,
        store: str,
        codec: Codec,
        vault: Vault | None,
        check: Check = record_check,
    ) -> None:
        self.name = name
        self._check = check
        self.store = store
        self.ranges = ranges
        self._codec = codec
        self._vault = vault
        self._cipher: PackCipher | None = None
        self._numbers: dict[int, int] | None = None
        self._header: bytes | None = None

    def damaged(self, reason: str) -> Damaged:
        return Damaged(name=self.name, store=self.store, reason=reason)

    def check_header(self, store_id: bytes) -> None:
        self._header = bytes(self.ranges.read(0, HEADER.size))
        magic, version, flags, _zero, owner, salt = HEADER.unpack(self._header)
        if magic != MAGIC or version != VERSION:
            raise self.damaged("it is no pack of a version that is known")
        if owner != store_id:
            raise self.damaged(f"it belongs to another store ({owner.hex()})")
        if bool(flags & ENCRYPTED) != (self._vault is not None):
            raise self.damaged("it is encrypted and the store is not, or the other way round")
        if self._vault is not None:
            self._cipher = self._vault.pack(salt)

    def entries(self) -> list[Entry]:
        """The table of contents."""
        size = self.ranges.size
        if size < HEADER.size + FOOTER_BYTES:
            raise self.damaged("it is shorter than a pack can be")
        tail = bytes(self.ranges.read(size - FOOTER_BYTES, FOOTER_BYTES))
        magic, count, _zero, offset, total = FOOTER.unpack(tail[: FOOTER.size])
        if magic != FOOTER_MAGIC or total != size or offset + count * ENTRY.size + FOOTER_BYTES != size:
            raise self.damaged("its end is missing or wrong")
        if count > MOST_RECORDS:
            raise self.damaged(f"it has {count} records, more than a pack can")
        table = bytes(self.ranges.read(offset, count * ENTRY.size))
        header = self._header or bytes(self.ranges.read(0, HEADER.size))
        if record_check(header, table, tail[: FOOTER.size]) != tail[FOOTER.size :]:
            raise self.damaged("its header or its table of contents is wrong")
        found = [Entry(*fields[:7]) for fields in ENTRY.iter_unpack(table)]
        place = HEADER.size
        for entry in found:
            if entry.offset != place:
                raise self.damaged("its table of contents contradicts itself")
            place += entry.span
        if place != offset:
            raise self.damaged("its table of contents does not cover it")
        if self._cipher is not None:
            # Whoever has read it once need not do so again to decrypt.
            self._numbers = {entry.offset: number for number, entry in enumerate(found)}
        return found

    def entries_or_survivors(self) -> list[Entry]:
        try:
            return self.entries()
        except Damaged:
            return list(self.survivors())

    def survivors(self) -> Iterator[Entry]:
        """The records of a pack whose end is lost, as far as they can be followed from the front."""
        place, size, count = HEADER.size, self.ranges.size, 0
        while place + RECORD.size + CHECK_BYTES <= size and count < MOST_RECORDS:
            magic, codec, kind, _zero, length, stored, identity, check = RECORD.unpack(
                bytes(self.ranges.read(place, RECORD.size))
            )
            entry = Entry(identity, check, place, stored, length, codec, kind)
            if magic != RECORD_MAGIC or place + entry.span > size:
                return
            yield entry
            place, count = place + entry.span, count + 1

    def expect(self, records: Iterable[tuple[int, int]]) -> None:
        """Offset and payload's length of the records that are read next, for a backend that fetches them together."""
        self.ranges.expect((offset, RECORD.size + stored + CHECK_BYTES) for offset, stored in records)

    def expect_ends(self) -> None:
        """That the header and the table of contents are read next."""
        size = self.ranges.size
        self.ranges.expect([(0, min(size, HEADER.size)), (max(0, size - _TABLE), min(size, _TABLE))])

    def expect_all(self) -> None:
        """That it is read from the front to the end."""
        size = self.ranges.size
        self.ranges.expect((at, min(_PIECE, size - at)) for at in range(0, size, _PIECE))

    def raw(self, offset: int, stored: int) -> memoryview:
        """A whole record, its own checksum proven."""
        if stored > LONGEST_PAYLOAD:
            raise self.damaged(f"the record at byte {offset} claims {stored} bytes")
        data = memoryview(self.ranges.read(offset, RECORD.size + stored + CHECK_BYTES))
        if self._check(data[:-CHECK_BYTES]) != data[-CHECK_BYTES:]:
            raise self.damaged(f"the record at byte {offset} is wrong")
        return data

    def proofs(self, entries: Sequence[Entry], deep: bool) -> Iterator[tuple[Entry, bytes | None]]:
        """Each of these chunks and pages, and what the place's own machine says of it: the SHA-256 of what it holds, or
        without `deep` nothing but that its sum is right; None where it is to be read and looked at here."""
        for at in range(0, len(entries), _PROOFS):
            some = entries[at : at + _PROOFS]
            told = self.ranges.proofs([(one.offset, one.stored, one.length) for one in some], deep)
            for entry, proof in zip(some, told):
                yield entry, self._digest(entry, proof)

    def _digest(self, entry: Entry, proof: tuple[bytes, bytes] | None) -> bytes | None:
        if proof is None:
            return None
        magic, codec, kind, _zero, length, stored, identity, check = RECORD.unpack(proof[0])
        same = (length, stored, identity, check, codec, kind) == (
            entry.length,
            entry.stored,
            entry.id,
            entry.check,
            entry.codec,
            entry.kind,
        )
        return proof[1] if same and magic == RECORD_MAGIC else None

    def expand(self, record: memoryview, offset: int, length: int, identity: bytes | None = None) -> tuple[Any, bytes]:
        """The bytes of a record and their check as it was stored. The caller compares; `length` bounds the room."""
        packed = self.packed(record, offset, length, identity)
        return self._codec.expand(packed.codec, packed.payload, length, self.name, self.store), packed.check

    def packed(self, record: memoryview, offset: int, length: int, identity: bytes | None = None) -> Packed:
        """A record as it was compressed, without its encryption."""
        magic, codec, kind, _zero, full, stored, own, check = RECORD.unpack_from(record)
        if length > LONGEST_RECORD:
            raise self.damaged(f"the record at byte {offset} claims {length} bytes")
        if magic != RECORD_MAGIC or full != length or stored != len(record) - RECORD.size - CHECK_BYTES:
            raise self.damaged(f"the record at byte {offset} is not what the index says")
        if identity is not None and own != identity:
            raise self.damaged(f"the record at byte {offset} is another chunk")
        payload = record[RECORD.size : -CHECK_BYTES]
        if self._cipher is not None:
            plain = self._cipher.open(
                self._number(offset), bytes(record[: RECORD.size]), payload, self.name, self.store
            )
            check, payload = plain[:CHECK_BYTES], memoryview(plain)[CHECK_BYTES:]
        return Packed(codec, kind, check, payload)

    def _number(self, offset: int) -> int:
        if self._numbers is None:
            self._numbers = {entry.offset: number for number, entry in enumerate(self.entries_or_survivors())}
        try:
            return self._numbers[offset]
        except KeyError:
            raise self.damaged(f"no record begins at byte {offset}") from None
