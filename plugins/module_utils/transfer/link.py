# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One agent at the other end of one pipe, from this side.

::

    link = AgentLink.start(session, interpreter)             # interpreter: of probe.probe(session)
    file = link.open("/vmfs/volumes/…-flat.vmdk").result()   # RemoteFile: path, size, mtime_ns, allocated, real
    link.data_ranges(file, begin, end)                       # iterator of (begin, end); unproven holes count as data
    link.read(file, offset, length).result()                 # bytes; link.load(file, view, offset) fills a buffer
    link.hash(pieces).result()                               # [sha256 | None for zeros], one for each piece
    for view in link.fetch(pieces, level=0).chunks(): …      # each is good until the next one is asked for
    link.write(file, offset, data, level=0).result()      # link.write_zeros(file, offset, length), link.sync(file)
    link.stat(file).result(), link.shut(file).result(), link.ping().result()
    link.close(session)                                      # the agent's process is proven gone

``pieces`` is a sequence of pieces, a piece a sequence of segments ``(RemoteFile | None, offset, length)``; ``None``
stands for zeros. Every request is sent when it is made and gives a ``Pending``; answers come in the order of the
requests. ``result()`` takes what comes before out of the way: small answers are kept; what was fetched is kept up to
``window_bytes`` in all, so fetched chunks are best consumed in order. Nothing is read from the pipe but in ``result()``
and ``chunks()``. Calls from several threads are safe, and take turns.

The other side may be anything. No frame is read that is longer than what was asked for, or that is not the next one
owed; an answer that does not come within ``stall_seconds``, or at less than ``SLOWEST_RATE``, ends the link; what was
sent before it has the time that it takes at that rate. A link that has failed stays failed.
"""

from __future__ import annotations

import collections
import contextlib
import json
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Callable, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import SshError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import Connection, Pipe, open_pipe
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent, ending, starting
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import (
    Piece,
    Ranges,
    RemoteFile,
    described,
    encoded,
    file_of,
    parts_of,
    printable,
    ranges_of,
    whole,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import (
    AgentLies,
    AgentLost,
    AgentNotStarted,
    AgentSilent,
    FileRefused,
    OutOfOrder,
    TransferError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.pending import (
    Fetched,
    Joined,
    JoinedFetch,
    Pending,
    ReadPiece,
)

_Own = TypeVar("_Own", bound="AgentLink")

STALL_SECONDS = 60.0
# The agent ends by itself when it hears nothing for so long: a job that is gone without a word holds no disk open.
LEASE_SECONDS = 60
# An fsync of much data on a slow datastore is silent until it is done.
SYNC_SECONDS = 600.0
WINDOW_BYTES = 64 << 20
# Who moves so many bytes a second is slow, and not silent: a frame may take longer than the stall time.
SLOWEST_RATE = 4096
_SLICE = 1 << 17

_BUFFER = 1 << 16
_LITTLE, _A_LITTLE = 1 << 17, 0.0005
_MAX_FAILURE = 1 << 15
_MAX_GREETING = 1 << 12
_MAX_FACTS = 1 << 16


class AgentLink:
    """See the head of this file."""

    def __init__(
        self,
        pipe: Pipe,
        host: str,
        *,
        token: str = "",
        stall_seconds: float = STALL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.host = host
        self.token = token
        self.stall_seconds = stall_seconds
        self.window_bytes = window_bytes
        self.kept_bytes = 0
        self.received_bytes = self.arrived_bytes = self.packed_bytes = 0
        self.packing_seconds = self.arriving_seconds = 0.0
        self.pid = 0
        self.facts: dict[str, Any] = {}
        self.turn = threading.RLock()
        self._pipe = pipe
        self._sending = threading.RLock()
        self._owed: collections.deque[Pending[Any]] = collections.deque()
        self._owed_bytes = 0
        self._count = 0
        self._files: dict[int, str] = {}
        self._buffer = memoryview(bytearray(_BUFFER))
        self._begin = self._end = 0
        self._deadline, self._patience = 0.0, stall_seconds
        self._broken: TransferError | None = None
        self._closed = threading.Event()
        self._sent_at = time.monotonic()
        self._beating = threading.Thread(target=self._beat, args=(lease_seconds / 4,), daemon=True)

    @classmethod
    def start(
        cls: type[_Own],
        session: Session,
        interpreter: starting.Interpreter,
        *,
        stall_seconds: float = STALL_SECONDS,
        lease_seconds: int = LEASE_SECONDS,
        window_bytes: int = WINDOW_BYTES,
        connection: Connection | None = None,
    ) -> _Own:
        """Runs the agent on the session's host over a connection of its own, and waits for its greeting."""
        token = starting.mark(secrets.token_hex(8))
        argv = interpreter.argv(token, lease_seconds)
        pipe = open_pipe(session, argv, connection)
        link = cls(
            pipe,
            session.endpoint.host,
            token=token,
            stall_seconds=stall_seconds,
            lease_seconds=lease_seconds,
            window_bytes=window_bytes,
        )
        try:
            link.greet(interpreter)
        except BaseException:
            link.abandon()
            raise
        return link

    def greet(self, interpreter: starting.Interpreter) -> None:
        """Sends the agent's source and takes its greeting."""
        self._patience = self.stall_seconds
        self._deadline = time.monotonic() + self._patience
        try:
            if interpreter.way == "stdin":
                self._pipe.write(starting.line(), self.stall_seconds)
                self._expect(starting.READY, interpreter)
            self._pipe.write(interpreter.program(), self.stall_seconds)
            self._expect(agent.MAGIC % agent.VERSION, interpreter)
            _mark, kind, _flags, number, length = agent.FRAME.unpack(self.body(agent.FRAME.size))
            if (kind, number) != (agent.DONE, 0) or length > _MAX_GREETING:
                raise self.lie("its greeting is none")
            self.facts = dict(json.loads(self.body(length)))
            self.pid = whole(self.facts["pid"])
            if self.pid < 2:
                # It will be asked after, and ended, by this number.
                raise ValueError(f"{self.pid} is no process id")
        except (SshError, AgentLost) as error:
            raise self._not_started(interpreter, error.data.get("reason") or error.message) from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise self.lie(f"its greeting cannot be understood ({error})") from error
        except TimeoutError as error:
            raise self._not_started(interpreter, f"it does not read its input for {self.stall_seconds:g} s") from error
        self._beating.start()

    def _not_started(self, interpreter: starting.Interpreter, reason: str) -> TransferError:
        self._broken = AgentNotStarted(host=self.host, interpreter=interpreter.path, reason=reason)
        return self._broken

    def _expect(self, words: bytes, interpreter: starting.Interpreter) -> None:
        came = bytearray()
        while len(came) < len(words):
            came += self.body(1)
            if not words.startswith(bytes(came)):
                # What the host prints first says what it is: a banner, an error, another program.
                with contextlib.suppress(TransferError):
                    self._deadline = min(self._deadline, time.monotonic() + 1)
                    while len(came) < 400:
                        came += self.body(1)
                shown = printable(" ".join(bytes(came).decode("utf-8", "backslashreplace").split()))
                said = self._pipe.said()
                raise self._not_started(
                    interpreter, f"instead of its greeting came: {shown}" + (f" ({printable(said)})" if said else "")
                )

    # Requests

    def open(self, path: str, *, writable: bool = False) -> Pending[RemoteFile]:
        with self._sending:
            number = next(number for number in range(agent.NO_FILE) if number not in self._files)
            self._files[number] = path
        body = struct.pack(">HB", number, writable) + path.encode("utf-8", "surrogateescape")

        def parse(answer: bytes) -> RemoteFile:
            return file_of(number, path, answer)

        asked = Pending(self, path, "opened", parse, _MAX_FACTS)
        asked.failed = lambda: self._forget(number)
        return self._ask(agent.OPEN, body, asked)

    def _forget(self, number: int) -> None:
        self._files.pop(number, None)

    def shut(self, file: RemoteFile) -> Pending[None]:
        """Closes the file on the host."""
        asked = self._ask(agent.CLOSE, struct.pack(">H", file.number), self._plain(file.path, "closed"))
        # Answers come in order: whoever gets the number next opens after this close.
        self._forget(file.number)
        return asked

    def stat(self, file: RemoteFile) -> Pending[RemoteFile]:
        """The file as it is now."""

        def parse(answer: bytes) -> RemoteFile:
            return file_of(file.number, file.path, answer)

        asked = Pending(self, file.path, "looked at", parse, _MAX_FACTS)
        return self._ask(agent.STAT, struct.pack(">H", file.number), asked)

    def ranges(self, file: RemoteFile, begin: int, end: int) -> Pending[Ranges]:
        """Where data is between ``begin`` and ``end``, as far as one answer tells; ``data_ranges`` asks on."""

        def parse(answer: bytes) -> Ranges:
            return ranges_of(answer, begin, min(end, max(begin, file.size)))

        asked = Pending(self, file.path, "mapped", parse, 9 + 16 * agent.MAX_RANGES)
        return self._ask(agent.RANGES, agent.RANGE_REQUEST.pack(file.number, begin, end), asked)

    def data_ranges(self, file: RemoteFile, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Parts that may hold data, in order. Between them are zeros, proven as far as that can be."""
        end = min(end, file.size)
        while begin < end:
            answer = self.ranges(file, begin, end).result()
            yield from answer.parts
            begin = answer.until

    def read(self, file: RemoteFile, offset: int, length: int) -> Pending[bytes]:
        """These bytes; less than asked for is an error."""
        return ReadPiece(self._fetch([[(file, offset, length)]], 0), length)

    def load(self, file: RemoteFile, view: memoryview, offset: int) -> None:
        """Fills ``view`` from the file."""
        if view:
            self._fetch([[(file, offset, len(view))]], 0).into(view)

    def hash(self, pieces: Sequence[Piece]) -> Joined[bytes | None]:
        """Plain SHA-256 of each piece; ``None`` for one of nothing but zeros."""
        return Joined([self._hash(part) for part in parts_of(pieces)])

    def fetch(self, pieces: Sequence[Piece], *, level: int = 0) -> JoinedFetch:
        """The bytes of each piece; ``level`` of zlib on the way, 0 for none, and where the host has no zlib."""
        longest = max((sum(segment[2] for segment in piece) for piece in pieces), default=0)
        return JoinedFetch([self._fetch(part, level) for part in parts_of(pieces)], longest)

    def write(self, file: RemoteFile, offset: int, data: bytes | memoryview, *, level: int = 0) -> Joined[None]:
        """Writes; ``result()`` waits until the host's kernel has it all. ``sync`` makes it durable."""
        view = memoryview(data)
        asked = []
        for place in range(0, len(view), agent.STEP):
            part: bytes | memoryview = view[place : place + agent.STEP]
            head = agent.WRITE_HEAD.pack(file.number, offset + place, len(part))
            flags = 0
            if level and self.facts.get("zlib"):
                packed = zlib.compress(part, level)
                if len(packed) < len(part) - len(part) // 16:
                    part, flags = packed, agent.ZLIB
            asked.append(self._write(file, head, part, flags))
        return Joined(asked)

    def write_zeros(self, file: RemoteFile, offset: int, length: int) -> Joined[None]:
        """As ``write``, of zeros that do not travel."""
        asked = []
        for place in range(0, length, agent.STEP):
            head = agent.WRITE_HEAD.pack(file.number, offset + place, min(agent.STEP, length - place))
            asked.append(self._write(file, head, b"", agent.ZEROS))
        return Joined(asked)

    def sync(self, file: RemoteFile) -> Pending[None]:
        """All that was written to the file is durable."""
        asked = self._plain(file.path, "made durable")
        asked.patience = max(SYNC_SECONDS, self.stall_seconds)
        return self._ask(agent.SYNC, struct.pack(">H", file.number), asked)

    def ping(self) -> Pending[None]:
        return self._ask(agent.PING, b"", self._plain("whether it is there", "asked"))

    def _plain(self, what: str, done: str) -> Pending[None]:
        return Pending(self, what, done, lambda body: None, 0)

    def _hash(self, pieces: Sequence[Piece]) -> Pending[list[bytes | None]]:
        def parse(answer: bytes) -> list[bytes | None]:
            if len(answer) != 33 * len(pieces):
                raise ValueError(f"{len(answer)} bytes for {len(pieces)} hashes")
            return [answer[at + 1 : at + 33] if answer[at] else None for at in range(0, len(answer), 33)]

        asked = Pending(self, described(pieces), "read", parse, 33 * len(pieces))
        return self._ask(agent.HASH, encoded(pieces), asked)

    def _fetch(self, pieces: Sequence[Piece], level: int) -> Fetched:
        lengths = [sum(segment[2] for segment in piece) for piece in pieces]
        if not lengths or min(lengths) <= 0:
            raise ValueError("a piece to fetch has at least one byte")
        body = agent.FETCH_HEAD.pack(level if self.facts.get("zlib") else 0) + encoded(pieces)
        return self._ask(agent.FETCH, body, Fetched(self, described(pieces), lengths))

    def _write(self, file: RemoteFile, head: bytes, data: bytes | memoryview, flags: int) -> Pending[list[None]]:
        asked: Pending[list[None]] = Pending(self, file.path, "written", lambda body: [None], 0)
        return self._ask(agent.WRITE, head, asked, data, flags)

    def _ask(self, kind: int, body: bytes, asked: _P, data: bytes | memoryview = b"", flags: int = 0) -> _P:
        length = asked.sent = len(body) + len(data)

        def fits() -> bool:
            return self._owed_bytes + length <= agent.WINDOW_BYTES and len(self._owed) < agent.WINDOW_REQUESTS

        while True:
            with self._sending:
                if self._broken is not None:
                    raise self._broken
                if fits():
                    self._count = asked.number = self._count % 0xFFFFFFFF + 1
                    self._owed.append(asked)
                    self._owed_bytes += length
                    self._send(agent.FRAME.pack(agent.MARK, kind, flags, asked.number, length) + body)
                    if data:
                        self._send(data)
                    return asked
            # The agent takes no more at once, so that it can always read on and notice our end. Whoever waits here
            # does not keep the beat from being sent.
            self.settle(fits)

    def _send(self, data: bytes | memoryview) -> None:
        with self._sending:
            try:
                view = memoryview(data)
                for place in range(0, len(view), _SLICE):
                    self._pipe.write(view[place : place + _SLICE], self.stall_seconds)
            except TimeoutError:
                raise self._break(
                    AgentSilent(host=self.host, seconds=self.stall_seconds, what="it takes no more requests")
                ) from None
            except SshError as error:
                raise self._break(AgentLost(host=self.host, reason=self._why(error.data.get("reason", "")))) from error
            self._sent_at = time.monotonic()

    # Answers

    def settle(self, done: Callable[[], bool]) -> None:
        """Takes answers until ``done``; whatever goes wrong with the stream ends the link and is raised."""
        with self.turn:
            while not done():
                if self._broken is not None:
                    raise self._broken
                if not self._owed:
                    raise self.lie("an answer is awaited that was never asked for")
                self._answer(self._owed[0])

    def _answer(self, asked: Pending[Any]) -> None:
        """Reads one frame, which must be the next one that is owed."""
        # What was sent may still be on its way, behind nothing else: all that came before it has been answered.
        self._patience = (asked.patience or self.stall_seconds) + asked.sent / SLOWEST_RATE
        self._deadline = time.monotonic() + self._patience
        mark, kind, flags, number, length = agent.FRAME.unpack(self.body(agent.FRAME.size))
        if mark != agent.MARK:
            raise self.lie(f"a frame begins with {mark!r}")
        if number != asked.number:
            raise self.lie(f"it answers request {number}, and {asked.number} is owed")
        if kind == agent.FAILED:
            if length > _MAX_FAILURE:
                raise self.lie(f"an error of {length} bytes")
            asked.fail(self._refusal(asked, self.body(length)))
        elif kind != asked._kind or length > asked.limit:
            raise self.lie(f"{length} bytes of kind {kind} came about {asked.what}, where up to {asked.limit} are owed")
        else:
            asked.take(flags, length)
        if asked.complete:
            self._owed.popleft()
            self._owed_bytes -= asked.sent

    def _refusal(self, asked: Pending[Any], body: bytes) -> FileRefused:
        try:
            words = json.loads(body)
            path = words["path"]
            return FileRefused(
                host=self.host,
                path=path if path in self._files.values() else asked.what,
                done=asked.done_word,
                errno=int(words["errno"]),
                name=printable(str(words["name"]))[:40],
                reason=printable(str(words["reason"])),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise self.lie(f"an error that cannot be understood ({error})") from error

    def body(self, length: int) -> bytes:
        """The next ``length`` bytes of the stream."""
        if self._end - self._begin >= length:
            self._begin += length
            return bytes(self._buffer[self._begin - length : self._begin])
        whole = bytearray(length)
        self.exactly(memoryview(whole))
        return bytes(whole)

    def exactly(self, view: memoryview) -> None:
        """Fills ``view`` from the stream: what is long goes straight there.

        What is waited for tells the pace of the wire; what was here already tells nothing of it.
        """
        done = 0
        waits, began = self._pipe.waits, time.monotonic()
        while done < len(view):
            there = self._end - self._begin
            if there:
                count = min(there, len(view) - done)
                view[done : done + count] = self._buffer[self._begin : self._begin + count]
                self._begin += count
                done += count
            elif len(view) - done >= _BUFFER:
                count = self._read(view[done:])
                done += count
                if self._pipe.waits != waits:
                    self.arrived_bytes += count
                if count < _LITTLE < len(view) - done:
                    # A fast link brings 32 KiB at a time: to wake up for each costs more than to wait a little.
                    time.sleep(_A_LITTLE)
            else:
                self._begin, self._end = 0, self._read(self._buffer)
                if self._pipe.waits != waits and len(view) >= _BUFFER:
                    self.arrived_bytes += self._end
        if len(view) >= _BUFFER and self._pipe.waits != waits:
            self.arriving_seconds += time.monotonic() - began

    def _read(self, view: memoryview) -> int:
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            count = self._pipe.readinto(view, left)
        except TimeoutError:
            what = self._owed[0].what if self._owed else "its greeting"
            raise self._break(AgentSilent(host=self.host, seconds=round(self._patience, 1), what=what)) from None
        if count == 0:
            raise self._break(AgentLost(host=self.host, reason=self._why("its output ended")))
        self.received_bytes += count
        self._deadline = min(self._deadline + count / SLOWEST_RATE, time.monotonic() + self._patience)
        return count

    def keep(self, count: int, what: str) -> None:
        """Room for what came before its turn."""
        self.kept_bytes += count
        if self.kept_bytes > self.window_bytes:
            raise self._break(
                OutOfOrder(
                    host=self.host, window=self.window_bytes, reason=f"{what} was asked for and something later is read"
                )
            )

    def lie(self, reason: str) -> TransferError:
        return self._break(AgentLies(host=self.host, reason=reason))

    def _break(self, error: TransferError) -> TransferError:
        # The first cause is the one to tell.
        self._broken = self._broken or error
        return self._broken

    def _why(self, reason: str) -> str:
        said = self._pipe.said()
        return printable(f"{reason} ({said})" if said and said not in reason else reason)

    # The end

    def forget(self) -> bool:
        """Closes every file. False where it cannot serve somebody else then: it has failed, or still owes an answer."""
        with self._sending:
            if self._broken is not None or self._owed or self._closed.is_set():
                return False
            # A connection may have ended unnoticed while nobody asked it for anything.
            try:
                for number in tuple(self._files):
                    self._ask(agent.CLOSE, struct.pack(">H", number), self._plain(f"file {number}", "closed"))
                self.ping().result()
            except TransferError:
                return False
            self._files.clear()
            return self._broken is None

    def close(self, session: Session | None = None) -> None:
        """Ends the agent. With the control ``session``, its process is proven gone, or ``AgentStays`` is raised."""
        if self._closed.is_set():
            return
        self.abandon()
        if session is not None:
            self.prove(session)

    def prove(self, session: Session) -> None:
        """That the agent's process is gone, also where its connection was lost; else ``AgentStays``."""
        if self.pid:
            ending.prove_gone(session, [(self.pid, self.token)])

    def abandon(self) -> None:
        """Ends the connection, and with it the agent; nothing is proven."""
        self._closed.set()
        if self._broken is not None:
            # Its other side is not waited for: it may be anything.
            self._pipe.cut()
        self._broken = self._broken or AgentLost(host=self.host, reason="the link was closed")
        # Nobody may be at work on descriptors that are closed: the numbers go to other files.
        free = self._sending.acquire(timeout=0.2)
        if free:
            self._sending.release()
        if not free or not self.turn.acquire(timeout=0.2):
            self._pipe.cut()
        else:
            self.turn.release()
        with self._sending, self.turn:
            self._pipe.close()

    def _beat(self, seconds: float) -> None:
        """Tells the agent that this side lives, also while nothing is asked for."""
        while not self._closed.wait(seconds / 2):
            if time.monotonic() - self._sent_at < seconds / 2:
                continue
            with self._sending:
                if self._closed.is_set() or self._broken is not None:
                    return
                # What goes wrong here is known to the link, and told by the next call.
                with contextlib.suppress(TransferError):
                    self._send(agent.FRAME.pack(agent.MARK, agent.BEAT, 0, 0, 0))

    def __enter__(self) -> AgentLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_P = TypeVar("_P", bound=Pending[Any])
