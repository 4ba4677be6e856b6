# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent that also keeps the files of a store in one folder of its host, and packs records into them.

As in `link`: every call sends its request and returns what is owed. Names are paths below the folder of `root`, which
must be set first; the agent refuses every other one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, NamedTuple, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import (
    Piece,
    RemoteFile,
    encoded,
    file_of,
    whole,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import SYNC_SECONDS, AgentLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.pending import Pending

T = TypeVar("T")

# Of 130000 files, as many as some file systems have at most, with the longest names of a store.
MOST_LISTED_BYTES = 64 << 20
_MAX_FACTS = 1 << 16


@dataclass(frozen=True)
class Folder:
    """The folder of a store, without links; whether it is there, and the one above it."""

    real: str
    there: bool
    above: bool


class Listed(NamedTuple):
    """A file below the folder. `time_ns` is that of its last change."""

    name: str
    size: int
    time_ns: int
    folder: bool


class Kept(NamedTuple):
    """What became of a chunk: SHA-256 of its bytes, codec and bytes of the record that it is now."""

    hash: bytes
    codec: int
    stored: int


class Proof(NamedTuple):
    """A record whose sum is right: its head and, where it was asked for, the SHA-256 of what it holds."""

    head: bytes
    hash: bytes


class _Streamed(Pending[T]):
    """An answer in several frames."""

    _kind = agent.DATA

    def __init__(self, link: AgentLink, what: str, done: str, parse: Callable[[bytes], T], most: int) -> None:
        super().__init__(link, what, done, parse, agent.STEP)
        self._most = most
        self._parts: list[bytes] = []

    def take(self, flags: int, length: int) -> None:
        self._most -= length
        if flags not in (0, agent.MORE) or (flags and length != agent.STEP) or self._most < 0:
            raise self._link.lie(f"{length} bytes, marked {flags}, came about {self.what}")
        body = self._link.body(length)
        if flags:
            self._parts.append(body)
            return
        whole, self._parts = b"".join([*self._parts, body]), []
        try:
            self._value = self._parse(whole)
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise self._link.lie(f"the answer about {self.what} cannot be understood ({error})") from error
        self.complete = True


class StoreLink(AgentLink):
    """See the head of this file."""

    rooted = ""
    """The folder that was set."""

    def root(self, path: str) -> Pending[Folder]:
        """From here on, names are of files below this folder."""

        def parse(answer: bytes) -> Folder:
            words = json.loads(answer)
            return Folder(str(words["real"]), bool(words["there"]), bool(words["above"]))

        self.rooted = path
        return self._ask(agent.ROOT, _bytes(path), Pending(self, path, "used", parse, _MAX_FACTS))

    def listing(self, prefix: str = "", *, hidden: bool = False) -> Pending[list[Listed]]:
        """Every file whose name begins with `prefix` and a slash; with `hidden` what is under way, and nothing else."""

        def parse(answer: bytes) -> list[Listed]:
            return _listed(answer, f"{prefix}/" if prefix else "")

        asked = _Streamed(self, prefix or self.rooted, "listed", parse, MOST_LISTED_BYTES)
        return self._ask(agent.LIST, _bytes(prefix), asked, flags=agent.HIDDEN if hidden else 0)

    def get(self, name: str, most: int) -> Pending[bytes]:
        """A whole file; `EFBIG` when it has more bytes."""
        asked = _Streamed(self, name, "read", bytes, most)
        return self._ask(agent.GET, agent.GET_HEAD.pack(most) + _bytes(name), asked)

    def put(self, name: str, token: str, data: bytes, *, breaks: bool = False) -> Pending[None]:
        """A new file of at most `agent.SMALL` bytes, durable; `EEXIST` when the name is taken, `EBUSY` when somebody is
        about to take it. `breaks` his claim, for he may be dead: then he never gets it."""
        words = _bytes(name)
        head = agent.PUT_HEAD.pack(_bytes(token), len(words)) + words
        return self._ask(agent.PUT, head, self._slow(name, "written"), data, agent.BREAK if breaks else 0)

    def temp(self, path: str, name: str, token: str, size: int) -> tuple[RemoteFile, Pending[RemoteFile]]:
        """A file under way, which is to be called `name`: a new one, or one of which `size` bytes count. `path` is what
        it is called in messages. The file may be written to before the answer has come."""
        with self._sending:
            number = next(number for number in range(agent.NO_FILE) if number not in self._files)
            self._files[number] = path
        asked = Pending(self, path, "opened", lambda answer: file_of(number, path, answer), _MAX_FACTS)
        asked.failed = lambda: self._forget(number)
        body = agent.TEMP_HEAD.pack(number, size, _bytes(token)) + _bytes(name)
        return RemoteFile(number, path, size, 0, 0, 0, 0, path), self._ask(agent.TEMP, body, asked)

    def name(self, file: RemoteFile, name: str, token: str, *, breaks: bool = False) -> Pending[None]:
        """All of it is durable, under its name; errors as of `put`. It is closed then."""
        asked = self._slow(name, "written")
        head = agent.NAME_HEAD.pack(file.number, _bytes(token)) + _bytes(name)
        return self._ask(agent.NAME, head, asked, flags=agent.BREAK if breaks else 0)

    def named(self, file: RemoteFile) -> None:
        """It has its name, and its number is free."""
        self._forget(file.number)

    def look(self, name: str) -> Pending[tuple[int, int]]:
        """Size and inode of a file."""

        def parse(answer: bytes) -> tuple[int, int]:
            words = json.loads(answer)
            return whole(words["size"]), int(words["inode"])

        return self._ask(agent.LOOK, _bytes(name), Pending(self, name, "looked at", parse, _MAX_FACTS))

    def remove(self, name: str) -> Pending[None]:
        """It is gone, durably; also when it was not there."""
        return self._ask(agent.REMOVE, _bytes(name), self._slow(name, "deleted"))

    def keep_chunks(self, file: RemoteFile, pieces: Sequence[Piece], level: int) -> Pending[list[Kept]]:
        """Chunks of disks, each as a record of a pack at the end of a file under way; `level` of zlib, 0: raw."""

        def parse(answer: bytes) -> list[Kept]:
            found = [Kept(*fields) for fields in agent.KEPT.iter_unpack(answer)]
            lengths = [sum(segment[2] for segment in piece) for piece in pieces]
            if len(found) != len(pieces) or any(one.stored > length for one, length in zip(found, lengths)):
                raise ValueError(f"{len(found)} records, or longer ones than there can be, for {len(pieces)} chunks")
            return found

        asked = Pending(self, file.path, "written", parse, agent.KEPT.size * len(pieces))
        asked.patience = max(SYNC_SECONDS, self.stall_seconds)
        return self._ask(agent.KEEP, agent.KEEP_HEAD.pack(file.number, level) + encoded(pieces), asked)

    def prove_records(
        self, file: RemoteFile, records: Sequence[tuple[int, int, int]], *, deep: bool = False
    ) -> Pending[list[Proof | None]]:
        """Of each record (offset, bytes of what it holds, and before compression) its proof; None where there is none,
        which need not mean that it is wrong."""

        def parse(answer: bytes) -> list[Proof | None]:
            found = [Proof(head, digest) if good else None for good, head, digest in agent.PROVEN.iter_unpack(answer)]
            if len(found) != len(records):
                raise ValueError(f"{len(found)} proofs for {len(records)} records")
            return found

        asked = Pending(self, file.path, "proven", parse, agent.PROVEN.size * len(records))
        body = struct.pack(">H", file.number) + b"".join(agent.PROOF.pack(*record) for record in records)
        return self._ask(agent.PROVE, body, asked, flags=agent.DEEP if deep else 0)

    def unpack(
        self, file: RemoteFile, pack: RemoteFile, records: Sequence[tuple[int, int, int, Sequence[int]]]
    ) -> Pending[list[bytes | None]]:
        """Writes what each record of a pack holds (offset, bytes of what it holds, and before compression) to places of
        a file: its SHA-256, or None where the agent could not get it out, and has written nothing."""

        def parse(answer: bytes) -> list[bytes | None]:
            if len(answer) != 33 * len(records):
                raise ValueError(f"{len(answer)} bytes for {len(records)} records")
            return [answer[at + 1 : at + 33] if answer[at] else None for at in range(0, len(answer), 33)]

        parts = [agent.UNPACK_HEAD.pack(file.number, pack.number)]
        for offset, stored, length, places in records:
            parts.append(agent.UNPACKED.pack(offset, stored, length, len(places)))
            parts += [agent.PLACE.pack(place) for place in places]
        asked = Pending(self, file.path, "written", parse, 33 * len(records))
        asked.patience = max(SYNC_SECONDS, self.stall_seconds)
        return self._ask(agent.UNPACK, b"".join(parts), asked)

    def _slow(self, what: str, done: str) -> Pending[None]:
        """What is durable only when the storage says so."""
        asked = self._plain(what, done)
        asked.patience = max(SYNC_SECONDS, self.stall_seconds)
        return asked


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _listed(answer: bytes, prefix: str) -> list[Listed]:
    found = []
    place = 0
    while place < len(answer):
        size, time_ns, folder, length = agent.LISTED.unpack_from(answer, place)
        place += agent.LISTED.size + length
        name = answer[place - length : place].decode("utf-8", "surrogateescape")
        if place > len(answer) or not length or not name.startswith(prefix):
            raise ValueError(f"{name[:100]!r} is none of what was asked for")
        found.append(Listed(name, size, time_ns, bool(folder)))
    return found
