# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk of a host, its whole chain read as one: hashed there, and fetched from there, by several lanes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import Connection
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import ending
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.ahead import Ahead
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.codec import PACKED, CodecChoice
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.diskerrors import NotInFiles
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.hostfiles import HostFile, HostFiles
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.lanes import Lane
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import STALL_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import Way
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.shellway import ShellLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import (
    FOR_GOOD,
    NOT_BACK,
    Files,
    Line,
    Place,
    Starter,
    ended,
    together,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import StoreLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.throttle import Throttle
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.disk import ChainDisk
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.extents import FileExtent

VOLUMES = ("/vmfs/volumes",)
ZEROS = -1

Note = Callable[..., None]
"""Writes to the job's journal: `note(event, **data)`."""


class OnHost(Starter):
    """Links to one host in the way that `probe` found. `note` is told of each process before it opens a file. The first
    one is made over the connection that was begun `ahead`."""

    def __init__(
        self,
        session: Session,
        way: Way,
        note: Note | None = None,
        stall_seconds: float = STALL_SECONDS,
        ahead: Ahead | None = None,
    ) -> None:
        self.session, self.way = session, way
        self.host = session.endpoint.host
        self.packs = way.method == "agent" and way.interpreter is not None and way.interpreter.zlib
        self._note = note
        self._stall = stall_seconds
        self._ahead = ahead

    def start(self) -> Any:
        connection = self._ahead.take() if self._ahead is not None else None
        if connection is not None:
            try:
                return self._begin(connection)
            except FOR_GOOD:
                raise
            except NOT_BACK:
                # It may have been lost while it waited, and nobody has noticed.
                pass
        return self._begin(None)

    def _begin(self, connection: Connection | None) -> Any:
        link: StoreLink | ShellLink
        if self.way.interpreter is not None and self.way.method == "agent":
            link = StoreLink.start(self.session, self.way.interpreter, stall_seconds=self._stall, connection=connection)
        else:
            link = ShellLink.start(self.session, self.way.digest, stall_seconds=self._stall, connection=connection)
        try:
            if self._note is not None:
                self._note("process", pid=link.pid, token=link.token)
        except BaseException:
            # Nobody could end it by the journal: it does not stay.
            link.abandon()
            raise
        return link

    def end(self, link: Any) -> None:
        link.close()
        # One whose connection was lost may not know it: it holds the disk open until it does.
        link.prove(self.session)

    def end_all(self, links: Sequence[Any]) -> None:
        agents = [link for link in links if isinstance(link, StoreLink)]
        others = [link for link in links if not isinstance(link, StoreLink)]
        try:
            together([*(link.close for link in agents), *(partial(self.end, link) for link in others)])
        finally:
            # One question for all of them.
            ending.prove_gone(self.session, [(link.pid, link.token) for link in agents if link.pid])


class RemoteDisk(ChainDisk):
    """Opens every file of the chain and reads a little of each: `ExtentBusy` or `ExtentUnusable` names what cannot be.

    Serves several threads; each lane serves one. `roots`: the folders that the chain may lead into. `opening` is called
    before each extent is opened, and raises what speaks against going on.
    """

    def __init__(
        self,
        starter: Starter,
        path: str,
        *,
        roots: Sequence[str] = VOLUMES,
        opening: Callable[[], None] = lambda: None,
        bandwidth_limit: int = 0,
        level: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._starter, self._clock = starter, clock
        self._opened = Files()
        self._lanes: set[Lane] = set()
        self._guard = threading.Lock()
        self.throttle = Throttle(bandwidth_limit, clock)
        self.codec = CodecChoice(starter.packs, level, bandwidth_limit, first=PACKED)
        self._line = Line(starter, self._opened, clock)
        files = HostFiles(self._line, path, roots, opening)
        self._host_files = files
        try:
            super().__init__(files, path, ["/"])
            for extent in self.extents():
                if extent.packed:
                    raise NotInFiles(host=starter.host, path=extent.path)
        except BaseException as error:
            ended(self._line.close, error)
            raise

    def extents(self) -> Iterator[FileExtent]:
        for _starts, extents in self._levels:
            for extent in extents:
                if isinstance(extent, FileExtent):
                    yield extent

    @property
    def allocated_bytes(self) -> int:
        """What the extents occupy on their datastores: at most so much is to be read."""
        files = [extent.file for extent in self.extents()]
        return sum(file.allocated for file in files if isinstance(file, HostFile))

    @property
    def metadata(self) -> dict[str, float]:
        """What opening the chain and reading its tables and maps has cost so far."""
        return {"bytes": self._host_files.bytes, "seconds": round(self._host_files.seconds, 3)}

    @property
    def renewals(self) -> int:
        """How often a lost connection was replaced."""
        with self._guard:
            return self._line.turn + sum(lane.line.turn for lane in self._lanes)

    def segments(self, offset: int, length: int) -> list[Place]:
        """Where a range lies, in order: number of a file (ZEROS: nowhere), offset there, length."""
        found: list[Place] = []
        for part in self.parts(offset, length):
            number = ZEROS if part.extent is None else part.extent.file.number  # type: ignore[attr-defined]
            place = 0 if part.extent is None else part.place
            if found:
                last, begin, size = found[-1]
                if last == number and (number == ZEROS or begin + size == place):
                    found[-1] = last, begin, size + part.length
                    continue
            found.append((number, place, part.length))
        return found

    def nothing(self, offset: int, length: int) -> bool:
        """Whether all of it is known to be zeros."""
        return all(part.extent is None for part in self.parts(offset, length))

    def lane(self) -> Lane:
        """A connection of its own, to be closed (`with`)."""
        line = Line(self._starter, self._opened, self._clock, patient=True)
        lane = Lane(self, line, self.codec, self.throttle, self._clock)
        with self._guard:
            self._lanes.add(lane)
        return lane

    def close(self) -> None:
        """Returns when nothing of ours holds a file of the disk open any more, or raises why that is not so."""
        with self._guard:
            lines = [*(lane.line for lane in self._lanes), self._line]
        together([line.close for line in lines])

    def __enter__(self) -> RemoteDisk:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        ended(self.close, error)
