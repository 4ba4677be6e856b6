# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A link that outlives its connection: what was asked and not answered is asked again over the next one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Generic, Protocol, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import (
    AuthenticationFailed,
    BadEndpoint,
    HostKeyMismatch,
    ProgramMissing,
    SshError,
    UnknownHostKey,
    UnsafeFolder,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.diskerrors import FileChanged, GaveUp
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import RemoteFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import (
    AgentLost,
    AgentNotStarted,
    AgentSilent,
    TransferError,
)

T = TypeVar("T")

LOST = (AgentLost, AgentSilent)
# An agent that did not start was not heard: its connection may have been cut then, too.
NOT_BACK = (*LOST, AgentNotStarted, SshError)
# Nothing that another attempt mends, and failed logins lock an account.
FOR_GOOD = (AuthenticationFailed, BadEndpoint, HostKeyMismatch, ProgramMissing, UnknownHostKey, UnsafeFolder)
_TOGETHER = 8
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Before each attempt to come back, while nothing is answered in between."""

_CLOSE_SECONDS = 0.5

Place = tuple[int, int, int]
"""What is read: number of a file here (negative: zeros), offset, length."""
Handles = dict[int, RemoteFile]


class Starter(Protocol):
    """How a link begins and how it ends for good."""

    host: str
    packs: bool
    """Whether bytes can be packed there."""

    def start(self) -> Any:
        """A new link."""

    def again(self) -> Any:
        """A new link in the place of one that was lost."""
        return self.start()

    def end(self, link: Any) -> None:
        """Ends it, proven: nothing of it holds a file on the host open any more. May be called again."""

    def end_all(self, links: Sequence[Any]) -> None:
        """As `end`, of several; whatever becomes of any, and the first error is raised."""
        together([partial(self.end, link) for link in links])

    def release(self, link: Any) -> None:
        """As `end`, of one that is as it should be: it may be kept, with every file closed, for the next `start`."""
        self.end(link)


@dataclass(frozen=True)
class Watched:
    """A file that every link has open. What is writable changes its time, as we write it, and stays the same file."""

    path: str
    size: int
    mtime_ns: int
    writable: bool = False
    inode: int = 0


class Files:
    """The files that the lines of one disk have open, under one number on all of them."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.open: dict[int, Watched] = {}
        self._next = 0

    def add(self, watched: Watched) -> int:
        with self.guard:
            self._next += 1
            self.open[self._next] = watched
            return self._next

    def remove(self, number: int) -> None:
        with self.guard:
            self.open.pop(number, None)

    def all(self) -> dict[int, Watched]:
        with self.guard:
            return dict(self.open)


class Owed(Generic[T]):
    """An answer that is owed, whichever link brings it. `send` makes the request; it may be called again."""

    def __init__(self, line: Line, send: Callable[[Any, Handles], Any]) -> None:
        self.line = line
        self.send = send
        self.pending: Any = None
        self.turn = 0
        line.enter(self)

    def result(self) -> T:
        return self.line.settle(self, lambda pending: pending.result())


class OwedBytes(Owed[None]):
    """Fetched pieces. What has arrived is not asked for again."""

    def __init__(self, line: Line, count: int, send: Callable[[Any, Handles, int], Any]) -> None:
        self._count = count
        self._done = 0
        super().__init__(line, lambda link, handles: send(link, handles, self._done))

    def chunks(self) -> Iterator[memoryview]:
        """The pieces in order, once. Each view is good until the next one is asked for."""
        turn, pending = self.line.current(self)
        arriving: Iterator[memoryview] = pending.chunks()
        while self._done < self._count:
            try:
                view = next(arriving, None)
                if view is None:
                    raise RuntimeError("fewer pieces came than were asked for")
            except LOST as error:
                self.line.renew(turn, error)
                turn, pending = self.line.current(self)
                arriving = pending.chunks()
                continue
            except BaseException:
                self.line.leave(self)
                raise
            self._done += 1
            self.line.progressed()
            yield view
        self.line.leave(self)

    def drop(self) -> None:
        """Nobody wants the rest any more."""
        self.line.leave(self)
        with contextlib.suppress(TransferError):
            self.pending.drop()


class Line:
    """One link at a time. `Owed` answers may be waited for by several threads."""

    def __init__(
        self,
        starter: Starter,
        files: Files,
        clock: Clock | None = None,
        *,
        patient: bool = False,
        careful: bool = False,
    ) -> None:
        """`patient`: the host was there a moment ago; else whatever keeps the first link from it is raised at once.
        `careful`: nothing is asked again before the lost link is proven gone; see `carefully`."""
        self.host = starter.host
        self._starter = starter
        self._files = files
        self._clock: Clock = clock or SystemClock()
        self._guard = threading.RLock()
        self._owed: dict[Owed[Any], None] = {}
        self._lost: list[Any] = []
        self._failures = 0
        self._final: StowageError | None = None
        self._careful = careful
        self._handles: Handles = {}
        self.turn = 0
        self.link: Any = None
        try:
            try:
                self.link = starter.start()
                self._reopen()
            except NOT_BACK as error:
                if not patient or isinstance(error, FOR_GOOD):
                    raise
                self.renew(0, error)
        except BaseException as error:
            ended(self.close, error)
            raise

    # -- what is asked -------------------------------------------------------------------------------------------

    def open(self, path: str, writable: bool = False) -> tuple[int, RemoteFile]:
        """Opens a file on this line now, and on each link to come."""
        while True:
            turn, link = self._link()
            try:
                file: RemoteFile = link.open(path, writable=writable).result()
            except LOST as error:
                self.renew(turn, error)
                continue
            with self._guard:
                # Another thread may have made a new link meanwhile, which does not have it open.
                if turn == self.turn:
                    number = self._files.add(Watched(path, file.size, file.mtime_ns, writable, file.inode))
                    self._handles[number] = file
                    return number, file

    def shut(self, number: int) -> None:
        self._files.remove(number)
        with self._guard:
            file, link = self._handles.pop(number, None), self.link
        if file is not None and link is not None and self._final is None:
            # A link that is lost meanwhile has closed it.
            with contextlib.suppress(*LOST):
                link.shut(file)

    def ask(self, send: Callable[[Any, Handles], Any]) -> Owed[Any]:
        return Owed(self, send)

    def run(self, act: Callable[[Any], T]) -> T:
        """What `act` makes of the link; once more with the next one where that is lost on the way."""
        return self._now(act)

    def carefully(self) -> None:
        """From now on: what goes on there without us would write where the next one does."""
        self._careful = True

    def _now(self, act: Callable[[Any], T]) -> T:
        while True:
            turn, link = self._link()
            try:
                return act(link)
            except LOST as error:
                self.renew(turn, error)

    def _link(self) -> tuple[int, Any]:
        with self._guard:
            if self._final is not None:
                raise self._final
            return self.turn, self.link

    # -- used by what is owed ------------------------------------------------------------------------------------

    def enter(self, owed: Owed[Any]) -> None:
        while True:
            with self._guard:
                turn, link = self._link()
                try:
                    owed.turn, owed.pending = turn, owed.send(link, self._handles)
                    self._owed[owed] = None
                    return
                except LOST as error:
                    self.renew(turn, error)

    def current(self, owed: Owed[Any]) -> tuple[int, Any]:
        """The link that brings the answer, and what it owes."""
        with self._guard:
            return owed.turn, owed.pending

    def leave(self, owed: Owed[Any]) -> None:
        with self._guard:
            self._owed.pop(owed, None)

    def progressed(self) -> None:
        self._failures = 0

    def settle(self, owed: Owed[T], take: Callable[[Any], T]) -> T:
        while True:
            turn, pending = self.current(owed)
            try:
                value = take(pending)
            except LOST as error:
                self.renew(turn, error)
                continue
            except BaseException:
                self.leave(owed)
                raise
            self.leave(owed)
            self.progressed()
            return value

    # -- another link --------------------------------------------------------------------------------------------

    def renew(self, turn: int, cause: StowageError) -> None:
        """A new link with the same files open and the same things asked, unless another thread has made one."""
        with self._guard:
            if self._final is not None:
                raise self._final
            if turn != self.turn:
                return
            self._lose()
            try:
                self._come_back(cause)
            except StowageError as error:
                self._lose()
                self._final = error
                raise
            self._bury()

    def _come_back(self, cause: StowageError) -> None:
        while True:
            if self._failures == len(PAUSES):
                raise GaveUp(host=self.host, count=self._failures, reason=cause.message) from cause
            self._pause(PAUSES[self._failures])
            self._failures += 1
            try:
                self.link = self._starter.again()
                if self._careful:
                    self._bury(surely=True)
                self._reopen()
                for owed in tuple(self._owed):
                    owed.turn, owed.pending = self.turn + 1, owed.send(self.link, self._handles)
            except NOT_BACK as error:
                if isinstance(error, FOR_GOOD):
                    raise
                cause = error
                self._lose()
                continue
            self.turn += 1
            return

    def _pause(self, seconds: float) -> None:
        while seconds > 0 and self._final is None:
            self._clock.sleep(min(seconds, 1.0))
            seconds -= 1.0
        if self._final is not None:
            raise self._final

    def _reopen(self) -> None:
        asked = {
            number: (watched, self.link.open(watched.path, writable=watched.writable))
            for number, watched in self._files.all().items()
        }
        self._handles = {}
        for number, (watched, pending) in asked.items():
            file = pending.result()
            other = file.inode != watched.inode if watched.writable else file.mtime_ns != watched.mtime_ns
            if file.size != watched.size or other:
                raise FileChanged(
                    host=self.host,
                    path=watched.path,
                    was=f"{watched.size} bytes, time {watched.mtime_ns}, inode {watched.inode}",
                    now=f"{file.size} bytes, time {file.mtime_ns}, inode {file.inode}",
                )
            self._handles[number] = file

    def _lose(self) -> None:
        if self.link is not None:
            with contextlib.suppress(Exception):
                self.link.abandon()
            self._lost.append(self.link)
        self.link = None

    def _bury(self, surely: bool = False) -> None:
        """An agent that has not noticed that its connection is gone still holds the disk open."""
        while self._lost:
            try:
                self._starter.end(self._lost[-1])
            except StowageError:
                if surely:
                    raise
                return
            self._lost.pop()

    def close(self) -> None:
        """Every link that there was is proven gone, or the reason why not is raised. Any thread may call it: those that
        wait for an answer wait no longer."""
        # Whoever waits does not come back with a new link.
        self._final = self._final or AgentLost(host=self.host, reason="the disk was closed")
        if not self._guard.acquire(timeout=_CLOSE_SECONDS):
            link = self.link
            if link is not None:
                with contextlib.suppress(Exception):
                    link.abandon()
            self._guard.acquire()
        try:
            self._end()
        finally:
            self._guard.release()

    def _end(self) -> None:
        self._owed.clear()
        acts = [partial(self._bring_to_end, link, self._starter.end) for link in self._lost]
        if self.link is not None:
            acts.append(partial(self._bring_to_end, self.link, self._starter.release))
        self._lost, self.link = [], None
        together(acts)

    def _bring_to_end(self, link: Any, act: Callable[[Any], None]) -> None:
        try:
            act(link)
        except StowageError:
            # Whoever closes again is told again, or proves it then.
            self._lost.append(link)
            raise


def together(acts: Sequence[Callable[[], None]]) -> None:
    """All of them, several at a time, whatever becomes of any; then the first error is raised."""
    first: StowageError | None = None
    if len(acts) < 2:
        for act in acts:
            act()
        return
    with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="end") as executor:
        for one in [executor.submit(act) for act in acts]:
            try:
                one.result()
            except StowageError as error:
                first = first or error
    if first is not None:
        raise first


def ended(close: Callable[[], None], error: BaseException | None) -> None:
    """Closes at the end of a block. What has ended the block is the news; what stays behind is told with it."""
    try:
        close()
    except StowageError as left:
        if error is None:
            raise
        if isinstance(error, StowageError):
            error.data["left"] = left.message
