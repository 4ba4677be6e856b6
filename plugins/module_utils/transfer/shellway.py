# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same reading as ``AgentLink``'s by the host's plain commands, for hosts without a Python 3. Slower, still right.

A shell at the other end of a pipe runs one command after the other, each when its answer is asked for. Every answer
ends with a line that bears a word nobody can guess, so that an error is never taken for bytes of a file. A file is
opened anew for every read. Where the host can hash, hashes are made there; else the bytes travel, and are hashed here.
Holes cannot be told, and nothing can be written.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, Generic, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import SshError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import Connection, Pipe, open_pipe
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import ending
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import Piece, Ranges, RemoteFile, printable
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import (
    AgentLies,
    AgentLost,
    AgentNotStarted,
    AgentSilent,
    FileRefused,
    NoWay,
    TransferError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import STALL_SECONDS

T = TypeVar("T")

_BLOCK = 1 << 20
_SECTOR = 512
# What one dd sends: pieces that follow each other in a file share it, and what nobody has taken yet is kept in memory
# when something else is asked for in between.
_RUN_BYTES = 16 << 20
_MAX_WORDS = 1 << 16
# Pieces of one question: its text and its answer stay small, and a host at 10 MB/s answers within the stall time.
_PIECES = 32
_HASH_BYTES = 64 << 20
_END_SECONDS = 30

# $1 the word that ends the answer. Words end up on one line, after the bytes if there are any.
_FUNCTIONS = r"""
stowage_end() { printf '\n%s %s\n' "$1" "$(printf '%s' "$2" | tr '\n\r' '  ')"; }
stowage_dd() { dd if="$2" bs="$3" skip="$4" count="$5" 2>&1 >&3; }
stowage_read() { said=$(stowage_dd "$@" 3>&4); stowage_end "$1" "$said"; }
stowage_open() {
    if [ -e "$2" ] && ! [ -f "$2" ]; then stowage_end "$1" "dd: can't open: Invalid argument"; return; fi
    said=$(dd if="$2" bs=512 count=1 2>&1 >/dev/null) || { stowage_end "$1" "$said"; return; }
    real=$(readlink -f "$2" 2>/dev/null)
    if [ -z "$real" ]; then
        # Where nothing follows a link, one is not read: it may lead anywhere.
        if [ -L "$2" ]; then stowage_end "$1" "dd: can't open: Invalid argument"; return; fi
        real=$(cd -P "${2%/*}/" 2>/dev/null && pwd -P) || real=${2%/*}
        real=$real/${2##*/}
    fi
    stowage_end "$1" "facts $(stat -L -c '%s %Y %b %B %d %i' "$2") $real"
}
exec 4>&1
"""

_RECORDS = re.compile(r"(\d{1,18})\+(\d{1,18}) records in")
_HASH = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_BY_WORDS = {os.strerror(code): code for code in sorted(errno.errorcode, reverse=True)}


class Answer(Generic[T]):
    """An answer that is worked out when it is asked for, once; as ``link.Pending``."""

    def __init__(self, act: Callable[[], T]) -> None:
        self._act: Callable[[], T] | None = act
        self._value: T | None = None

    def result(self) -> T:
        if self._act is not None:
            self._value, self._act = self._act(), None
        return self._value  # type: ignore[return-value]


@dataclass(frozen=True)
class _Cut:
    """How dd is asked for a range: blocks of ``block`` bytes, and what is thrown away at the front."""

    block: int
    skip: int
    count: int
    front: int
    length: int

    @classmethod
    def of(cls, file: RemoteFile, offset: int, length: int) -> _Cut:
        block = _common(offset, length)
        if block < _SECTOR:
            begin = offset - offset % _SECTOR
            # Small enough that little more is read than was asked for.
            block = min(_common(begin, 0), max(_SECTOR, 1 << (length.bit_length() - 1)))
        begin = offset - offset % block
        count = -(-(offset + length - begin) // block)
        return cls(block, begin // block, count, offset - begin, min(count * block, file.size - begin))


def _common(offset: int, length: int) -> int:
    """The largest power of two up to a block that divides both."""
    both = offset | length | _BLOCK
    return both & -both


class _Stream:
    """The bytes of one dd, as they come."""

    def __init__(self, link: ShellLink, file: RemoteFile, offset: int, length: int) -> None:
        self._link = link
        self._file = file
        self._token = secrets.token_hex(12)
        cut = _Cut.of(file, offset, length)
        self._total = self._left = cut.length
        self._held = bytearray()
        self.complete = False
        link.tell(f"stowage_read {self._token} {_word(file.path)} {cut.block} {cut.skip} {cut.count} </dev/null\n")
        if cut.front:
            self.into(memoryview(bytearray(cut.front)))

    def into(self, view: memoryview) -> None:
        """The next bytes."""
        with self._link.turn:
            done = 0
            while done < len(view):
                if not self._held:
                    self._more()
                count = min(len(view) - done, len(self._held))
                view[done : done + count] = self._held[:count]
                del self._held[:count]
                done += count

    def keep(self) -> None:
        """Takes the rest out of the way of the next answer."""
        while not self.complete:
            self._more()

    def _more(self) -> None:
        if self._left:
            data = self._link.some(self._left)
            early = self._link.early(data, self._token)
            if early is not None:
                words = self._link.words(self._token)
                self.complete = True
                got = self._total - self._left + early
                raise self._link.refused(self._file.path, "read", words, f"it ended after {got} of {self._total} bytes")
            self._link.taken(len(data))
            self._held += data
            self._left -= len(data)
        if not self._left and not self.complete:
            words = self._link.words(self._token)
            self.complete = True
            if not _RECORDS.search(words):
                raise self._link.refused(self._file.path, "read", words, "dd did not tell how it ended")


class ShellFetched:
    """Bytes that were asked for, piece by piece; as ``link.JoinedFetch``."""

    def __init__(self, link: ShellLink, pieces: Sequence[Piece]) -> None:
        self._link = link
        self._pieces = pieces
        self._longest = max((sum(segment[2] for segment in piece) for piece in pieces), default=0)

    def chunks(self, buffer: bytearray | None = None) -> Iterator[memoryview]:
        """The pieces in order, once. Each view is good until the next one is asked for."""
        whole = memoryview(buffer if buffer is not None else bytearray(self._longest))
        runs = self._runs()
        stream: _Stream | None = None
        left = 0
        for piece in self._pieces:
            at = 0
            for file, _offset, length in piece:
                end = at + length
                if file is None:
                    whole[at:end] = bytes(length)
                    at = end
                while at < end:
                    if stream is None or not left:
                        run = next(runs, None)
                        if run is None:
                            # Not reached: the runs hold exactly what the pieces do.
                            return
                        left = run[2]
                        stream = self._link.stream(*run)
                    count = min(left, end - at)
                    stream.into(whole[at : at + count])
                    at += count
                    left -= count
            yield whole[:at]

    def drop(self) -> None:
        """Nobody wants the rest any more: it was not asked for yet."""
        self._pieces = ()

    def _runs(self) -> Iterator[tuple[RemoteFile, int, int]]:
        """What follows each other in a file, together."""
        run: tuple[RemoteFile, int, int] | None = None
        for piece in self._pieces:
            for file, offset, length in piece:
                if file is None:
                    continue
                if run is not None and run[0] == file and run[1] + run[2] == offset and run[2] + length <= _RUN_BYTES:
                    run = (file, run[1], run[2] + length)
                    continue
                if run is not None:
                    yield run
                run = (file, offset, length)
        if run is not None:
            yield run


class ShellLink:
    """See the head of this file. The methods are those of ``AgentLink``."""

    def __init__(
        self, pipe: Pipe, host: str, *, token: str = "", digest: str | None = None, stall_seconds: float = STALL_SECONDS
    ) -> None:
        self.host = host
        self.token = token
        self.stall_seconds = stall_seconds
        self.received_bytes = 0
        self.pid = 0
        self.turn = threading.RLock()
        self._digest = digest
        self._pipe = pipe
        self._buffer = b""
        self._scratch = memoryview(bytearray(1 << 18))
        self._deadline = 0.0
        self._stream: _Stream | None = None
        self._broken: TransferError | None = None
        self._closed = False

    @classmethod
    def start(
        cls,
        session: Session,
        digest: str | None,
        *,
        stall_seconds: float = STALL_SECONDS,
        connection: Connection | None = None,
    ) -> ShellLink:
        """Runs a shell on the session's host over a connection of its own. ``digest`` is the probe's."""
        token = f"stowage-shell-{secrets.token_hex(8)}"
        pipe = open_pipe(session, ["sh", "-s", "--", token], connection)
        link = cls(pipe, session.endpoint.host, token=token, digest=digest, stall_seconds=stall_seconds)
        try:
            link.greet()
        except BaseException:
            link.abandon()
            raise
        return link

    def greet(self) -> None:
        """Tells the shell its functions and takes its number."""
        token = secrets.token_hex(12)
        try:
            words = self._ask(_FUNCTIONS + f'stowage_end {token} "pid $$"\n', token)
        except (AgentLost, AgentLies) as error:
            self._broken = AgentNotStarted(host=self.host, interpreter="sh", reason=error.data["reason"])
            raise self._broken from error
        kind, _blank, number = words.partition(" ")
        if kind != "pid" or not re.fullmatch("[0-9]{1,10}", number) or int(number) < 2:
            raise self._break(AgentLies(host=self.host, reason=f"its shell began with {printable(words)}"))
        self.pid = int(number)

    # Requests

    def open(self, path: str, *, writable: bool = False) -> Answer[RemoteFile]:
        if writable:
            raise NoWay(host=self.host, reason="with plain commands nothing can be written into a file's middle")

        def act() -> RemoteFile:
            return self._look(path, "opened")

        return Answer(act)

    def shut(self, file: RemoteFile) -> Answer[None]:
        """Nothing is open between two reads."""
        return Answer(lambda: None)

    def stat(self, file: RemoteFile) -> Answer[RemoteFile]:
        """The file as it is now."""
        return Answer(lambda: self._look(file.path, "looked at"))

    def ranges(self, file: RemoteFile, begin: int, end: int) -> Answer[Ranges]:
        end = max(begin, min(end, file.size))
        return Answer(lambda: Ranges(False, end, [(begin, end)] if begin < end else []))

    def data_ranges(self, file: RemoteFile, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """All of it may be data."""
        yield from self.ranges(file, begin, end).result().parts

    def read(self, file: RemoteFile, offset: int, length: int) -> Answer[bytes]:
        """These bytes; less than asked for is an error."""

        def act() -> bytes:
            whole = bytearray(length)
            self.load(file, memoryview(whole), offset)
            return bytes(whole)

        return Answer(act)

    def load(self, file: RemoteFile, view: memoryview, offset: int) -> None:
        """Fills ``view`` from the file."""
        done = 0
        while done < len(view):
            count = min(_RUN_BYTES, len(view) - done)
            self.stream(file, offset + done, count).into(view[done : done + count])
            done += count

    def hash(self, pieces: Sequence[Piece]) -> Answer[list[bytes | None]]:
        """Plain SHA-256 of each piece; ``None`` for one of nothing but zeros."""
        return Answer(lambda: self._hashes(list(pieces)))

    def fetch(self, pieces: Sequence[Piece], *, level: int = 0) -> ShellFetched:
        """The bytes of each piece; never packed."""
        if any(sum(segment[2] for segment in piece) <= 0 for piece in pieces):
            raise ValueError("a piece to fetch has at least one byte")
        return ShellFetched(self, pieces)

    def ping(self) -> Answer[None]:
        token = secrets.token_hex(12)
        return Answer(lambda: self._nothing(self._ask(f"stowage_end {token} here\n", token)))

    @staticmethod
    def _nothing(words: str) -> None:
        return None

    def _look(self, path: str, done: str) -> RemoteFile:
        token = secrets.token_hex(12)
        words = self._ask(f"stowage_open {token} {_word(path)} </dev/null\n", token)
        kind, _blank, rest = words.partition(" ")
        parts = rest.split(" ", 6)
        if kind != "facts":
            raise self.refused(path, done, words, "the host does not say why")
        try:
            size, mtime, blocks, unit, device, inode = (int(part) for part in parts[:6])
            if not 0 <= size < 1 << 62:
                raise ValueError(f"{size} is no size")
        except ValueError as error:
            raise self._break(
                AgentLies(host=self.host, reason=f"stat of {path} cannot be understood ({error})")
            ) from error
        real = parts[6] if len(parts) > 6 and parts[6] else path
        return RemoteFile(0, path, size, mtime * 1_000_000_000, blocks * unit, device, inode, real)

    # Hashes

    def _hashes(self, pieces: list[Piece]) -> list[bytes | None]:
        found: list[bytes | None] = []
        batch: list[Piece] = []
        size = 0
        for piece in pieces:
            length = sum(segment[2] for segment in piece)
            if self._digest is None or not _whole_sectors(piece):
                found += self._by_host(batch)
                batch, size = [], 0
                found.append(self._here(piece))
                continue
            batch.append(piece)
            size += length
            if len(batch) >= _PIECES or size >= _HASH_BYTES or sum(map(len, batch)) > 256:
                found += self._by_host(batch)
                batch, size = [], 0
        return found + self._by_host(batch)

    def _here(self, piece: Piece) -> bytes | None:
        if not any(file is not None for file, _offset, _length in piece):
            return None
        made = hashlib.sha256()
        length = 0
        for file, offset, count in piece:
            length += count
            for place in range(0, count, _BLOCK):
                part = bytearray(min(_BLOCK, count - place))
                if file is not None:
                    self.load(file, memoryview(part), offset + place)
                made.update(part)
        return None if made.digest() == _of_zeros(length) else made.digest()

    def _by_host(self, pieces: Sequence[Piece]) -> list[bytes | None]:
        asked = []
        text = ""
        for piece in pieces:
            if not any(file is not None for file, _offset, _length in piece):
                continue
            token = secrets.token_hex(12)
            reads = []
            for file, offset, length in piece:
                block = _common(offset, length)
                source = "/dev/zero" if file is None else _word(file.path)
                reads.append(f"dd if={source} bs={block} skip={offset // block} count={length // block}")
            text += f"said=$( {{ {{ {'; '.join(reads)}; }} 2>&3 | {self._digest}; }} 3>&1 </dev/null )\n"
            text += f'stowage_end {token} "$said"\n'
            asked.append((piece, token))
        with self.turn:
            if asked:
                self._start(text)
            told = {id(piece): self._hash_of(piece, self.words(token)) for piece, token in asked}
        return [told.get(id(piece)) for piece in pieces]

    def _hash_of(self, piece: Piece, words: str) -> bytes | None:
        counts = [(int(whole), int(part)) for whole, part in _RECORDS.findall(words)]
        wanted = [(length // _common(offset, length), 0) for _file, offset, length in piece]
        found = _HASH.search(words)
        if counts != wanted or found is None:
            file = next(file for file, _offset, _length in piece if file is not None)
            raise self.refused(file.path, "read", words, "it is shorter than what was asked for, or a read failed")
        made = bytes.fromhex(found.group())
        return None if made == _of_zeros(sum(segment[2] for segment in piece)) else made

    # The stream

    def stream(self, file: RemoteFile, offset: int, length: int) -> _Stream:
        """A range of a file, to be taken from it."""
        if offset + length > file.size:
            raise self._no_such_place(file, offset, length)
        with self.turn:
            self._stream = _Stream(self, file, offset, length)
            return self._stream

    def _no_such_place(self, file: RemoteFile, offset: int, length: int) -> FileRefused:
        reason = f"it ends at byte {file.size}, and {length} bytes from {offset} were asked for"
        return FileRefused(
            host=self.host, path=file.path, done="read", errno=errno.ENODATA, name="ENODATA", reason=reason
        )

    def _ask(self, text: str, token: str) -> str:
        with self.turn:
            self._start(text)
            return self.words(token)

    def _start(self, text: str) -> None:
        """Sends commands, once the answer before them is out of the way."""
        with self.turn:
            stream, self._stream = self._stream, None
            if stream is not None:
                stream.keep()
            self.tell(text)

    def tell(self, text: str) -> None:
        """Sends commands."""
        with self.turn:
            if self._stream is not None and not self._stream.complete:
                stream, self._stream = self._stream, None
                stream.keep()
            if self._broken is not None:
                raise self._broken
            try:
                self._pipe.write(text.encode("utf-8", "surrogateescape"), self.stall_seconds)
            except TimeoutError:
                raise self._break(
                    AgentSilent(host=self.host, seconds=self.stall_seconds, what="it takes no more commands")
                ) from None
            except SshError as error:
                raise self._break(AgentLost(host=self.host, reason=self._why(error.data.get("reason", "")))) from error

    def some(self, limit: int) -> bytes:
        """What is there of the stream, at least one byte; it stays until it is ``taken``."""
        if not self._buffer:
            self._deadline = time.monotonic() + self.stall_seconds
            self._read()
        return self._buffer[:limit]

    def taken(self, count: int) -> None:
        self._buffer = self._buffer[count:]

    def early(self, data: bytes, token: str) -> int | None:
        """Where in the data the line begins that ends the answer, or None."""
        mark = b"\n" + token.encode("ascii")
        place = data.find(mark)
        if place < 0:
            # It may begin in these bytes and end in the next.
            for size in range(min(len(mark) - 1, len(data)), 0, -1):
                if data.endswith(mark[:size]):
                    break
            else:
                return None
            at = len(data) - size
            self._deadline = time.monotonic() + self.stall_seconds
            while len(self._buffer) < at + len(mark):
                # The stream's own bytes may look like that: then they simply go on.
                if not mark.startswith(self._buffer[at : at + len(mark)]):
                    return None
                self._read()
            if self._buffer[at : at + len(mark)] != mark:
                return None
            place = at
        self.taken(place)
        return place

    def words(self, token: str) -> str:
        """The line that ends an answer."""
        mark = b"\n" + token.encode("ascii") + b" "
        self._deadline = time.monotonic() + self.stall_seconds
        while True:
            end = self._buffer.find(b"\n", 1)
            if not mark.startswith(self._buffer[: len(mark)]) and not self._buffer.startswith(mark):
                shown = printable(self._buffer[:200].decode("utf-8", "backslashreplace"))
                raise self._break(AgentLies(host=self.host, reason=f"at the end of an answer stands {shown!r}"))
            if end > 0:
                line = self._buffer[len(mark) : end]
                self.taken(end + 1)
                return line.decode("utf-8", "surrogateescape").strip()
            if len(self._buffer) > _MAX_WORDS:
                raise self._break(AgentLies(host=self.host, reason="the end of an answer has no end"))
            self._read()

    def _read(self) -> None:
        if self._broken is not None:
            raise self._broken
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            count = self._pipe.readinto(self._scratch, left)
        except TimeoutError:
            raise self._break(
                AgentSilent(host=self.host, seconds=self.stall_seconds, what="a command of the shell")
            ) from None
        if count == 0:
            raise self._break(AgentLost(host=self.host, reason=self._why("the shell's output ended")))
        self.received_bytes += count
        self._buffer += bytes(self._scratch[:count])

    def refused(self, path: str, done: str, words: str, reason: str) -> FileRefused:
        """What dd said about a file, as an error."""
        code, said = next(((code, text) for text, code in _BY_WORDS.items() if f": {text}" in words), (errno.EIO, ""))
        return FileRefused(
            host=self.host,
            path=path,
            done=done,
            errno=code,
            name=errno.errorcode[code],
            reason=said or f"{reason} ({printable(words)})",
        )

    def _break(self, error: TransferError) -> TransferError:
        self._broken = self._broken or error
        return self._broken

    def _why(self, reason: str) -> str:
        said = self._pipe.said()
        return printable(f"{reason} ({said})" if said and said not in reason else reason)

    # The end

    def close(self, session: Session | None = None) -> None:
        """Ends the shell. With the control ``session``, its process is proven gone, or ``AgentStays`` is raised."""
        if self._closed:
            return
        self.abandon()
        if session is not None:
            self.prove(session)

    def prove(self, session: Session) -> None:
        """That the shell's process is gone, also where its connection was lost; else ``AgentStays``."""
        if self.pid:
            # Never killed: what it runs would live on, and the shell's own end proves that there is nothing any more.
            ending.prove_gone(session, [(self.pid, self.token)], seconds=_END_SECONDS, kill_after=_END_SECONDS)

    def abandon(self) -> None:
        """Ends the connection; nothing is proven."""
        self._closed = True
        if self._broken is not None or not self.turn.acquire(timeout=0.2):
            self._pipe.cut()
        else:
            self.turn.release()
        self._broken = self._broken or AgentLost(host=self.host, reason="the link was closed")
        with self.turn, contextlib.suppress(SshError):
            self._pipe.close()

    def __enter__(self) -> ShellLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _word(path: str) -> str:
    """A path as a word of a command: a leading dash is no option."""
    return quoting.quote(path if path.startswith("/") else "./" + path)


def _whole_sectors(piece: Piece) -> bool:
    return all(_common(offset, length) >= _SECTOR for _file, offset, length in piece)


@functools.lru_cache(maxsize=64)
def _of_zeros(length: int) -> bytes:
    made = hashlib.sha256()
    for place in range(0, length, _BLOCK):
        made.update(bytes(min(_BLOCK, length - place)))
    return made.digest()
