# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a folder on a datastore of a hypervisor: the agent there keeps its files, the engine is here.

The files are those of a store in any folder: copied to another machine, it is opened there as one. Two links: what is
written piece by piece, and synced, does not hold up what is asked for meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import posixpath
import secrets
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Callable, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostupload import HostUpload
from ansible_collections.stowage.esxi.plugins.module_utils.store import spool
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend, Ranges, Upload
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.windowed import WindowedRanges
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    Damaged,
    ObjectExists,
    ObjectMissing,
    StoreError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_object_name
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import RemoteFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import FileRefused
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import (
    Files,
    Handles,
    Line,
    OwedBytes,
    Starter,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import Folder, StoreLink

T = TypeVar("T")

VOLUMES = "/vmfs/volumes"
# Twice the longest time that a cut link takes to come back: what nobody touched meanwhile is a dead one's.
DEAD_SECONDS = 120.0
# Whoever claims a name has it in an instant, unless he died in it.
CLAIM_SECONDS = 5.0
_CLAIM_PAUSE = 0.25
_PIECE = 4 << 20
# What a device or a file system says of what it has lost.
_LOST = (errno.EIO, errno.EBADMSG, errno.ENODATA)
_MISSING = (errno.ENOENT, errno.ENOTDIR)


class HostRanges(WindowedRanges):
    # Of what one link carries for several threads.
    window = 4 << 20

    def __init__(self, backend: HostBackend, name: str, number: int, file: RemoteFile) -> None:
        super().__init__(name, backend.name)
        self._backend, self._number, self._file = backend, number, file

    @property
    def size(self) -> int:
        return self._file.size

    def fetch(self, offset: int, length: int) -> bytes:
        # No room is made for what is not there.
        length = min(length, max(0, self.size - offset))
        return self._backend.fetch(self._name, self._number, offset, length) if length else b""

    def proofs(self, records: Sequence[tuple[int, int, int]], deep: bool) -> Sequence[tuple[bytes, bytes] | None]:
        with self._backend.told(self._name, "read"):
            proofs = self._backend.line.ask(
                lambda link, handles: link.prove_records(handles[self._number], records, deep=deep)
            ).result()
        return [None if proof is None else (proof.head, proof.hash) for proof in proofs]

    def close(self) -> None:
        super().close()
        number, self._number = self._number, -1
        if number >= 0:
            with self._backend.told(self._name, "closed"):
                self._backend.line.shut(number)


class ServerRanges(HostRanges):
    def proofs(self, records: Sequence[tuple[int, int, int]], deep: bool) -> Sequence[tuple[bytes, bytes] | None]:
        """What is looked at comes here: the sums of such a store are others than a host's Python can make."""
        return [None] * len(records)


class HostBackend(Backend):
    """`roots`: the folders, without links, below which a store may lie."""

    keeps_chunks = True
    ranges = HostRanges

    def __init__(
        self,
        starter: Starter,
        path: str,
        *,
        name: str | None = None,
        roots: Sequence[str] = (VOLUMES,),
        clock: Clock | None = None,
    ) -> None:
        """Nothing is connected before it is used."""
        self.host, self.path = starter.host, posixpath.normpath(path)
        self.name = name or f"{self.path} on {self.host}"
        self.clock: Clock = clock or SystemClock()
        self._starter, self._roots = starter, tuple(root.rstrip("/") + "/" for root in roots)
        self._guard = threading.Lock()
        self._lines: dict[bool, Line] = {}
        self._folder: Folder | None = None

    # -- links ---------------------------------------------------------------------------------------------------

    @property
    def line(self) -> Line:
        """For all but uploads; its links know the folder."""
        self.folder  # noqa: B018  it is looked at first
        return self._line(False)

    @property
    def folder(self) -> Folder:
        if self._folder is None:
            with self.told(self.path, "used"):
                self._folder = self._line(False).run(self.rooted)
        return self._folder

    def _line(self, uploads: bool) -> Line:
        with self._guard:
            if uploads not in self._lines:
                self._lines[uploads] = Line(self._starter, Files(), self.clock, careful=uploads)
            return self._lines[uploads]

    def rooted(self, link: StoreLink) -> Folder:
        """Sets the folder of a link, and proves that it is one that a store may lie in."""
        found = link.root(self.path).result()
        if not any(found.real.startswith(root) and found.real != root.rstrip("/") for root in self._roots):
            reason = f"it leads to {found.real}, which is no folder on a datastore"
            raise BackendFailed(name=self.path, store=self.name, done="used", reason=reason)
        return found

    def run(self, name: str, done: str, act: Callable[[StoreLink], T], uploads: bool = False) -> T:
        """What `act` makes of a link that knows the folder; once more with the next one where that is lost."""

        def rooted(link: StoreLink) -> T:
            if not link.rooted:
                self.rooted(link)
            return act(link)

        with self.told(name, done):
            return self._line(uploads).run(rooted)

    @contextlib.contextmanager
    def told(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except FileRefused as error:
            if error.errno in _MISSING:
                raise ObjectMissing(name=name, store=self.name) from error
            if error.errno == errno.EEXIST:
                raise ObjectExists(name=name, store=self.name) from error
            reason = str(error.data.get("reason") or error.message)
            failed = BackendFailed(name=name, store=self.name, done=done, reason=reason)
            failed.lasting = error.errno in _LOST
            raise failed from error
        except StowageError as error:
            raise BackendFailed(name=name, store=self.name, done=done, reason=error.message) from error

    def checked(self, name: str) -> str:
        if not is_object_name(name):
            raise Damaged(name=repr(name)[:200], store=self.name, reason="it is no name of an object of a store")
        return name

    def path_of(self, name: str) -> str:
        return posixpath.join(self.folder.real, *self.checked(name).split("/"))

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        self.checked(name)
        try:
            return self.run(name, "read", lambda link: link.get(name, limit).result())
        except BackendFailed as error:
            cause = error.__cause__
            if isinstance(cause, FileRefused) and cause.errno == errno.EFBIG:
                raise Damaged(name=name, store=self.name, reason=f"it is larger than {limit} bytes") from error
            if isinstance(cause, FileRefused) and cause.errno == errno.EINVAL:
                raise Damaged(name=name, store=self.name, reason="it is no file") from error
            raise

    def open(self, name: str) -> Ranges:
        path = self.path_of(name)
        with self.told(name, "read"):
            number, file = self.line.open(path)
            if file.real != path:
                self.line.shut(number)
                raise Damaged(name=name, store=self.name, reason=f"it leads to {file.real}")
        return self.ranges(self, name, number, file)

    def fetch(self, name: str, number: int, offset: int, length: int) -> bytes:
        def send(link: StoreLink, handles: Handles, _done: int) -> Any:
            return link.fetch([[(handles[number], offset, length)]])

        with self.told(name, "read"):
            return b"".join(bytes(view) for view in OwedBytes(self.line, 1, send).chunks())

    def map(self, name: str) -> Any:
        with self.open(name) as ranges, spool.opened() as file:
            for at in range(0, ranges.size, _PIECE):
                file.write(ranges.read(at, min(_PIECE, ranges.size - at)))
            return spool.mapped(file)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        wanted = prefix.rstrip("/")
        for one in self.run(prefix, "listed", lambda link: link.listing(wanted).result()):
            yield one.name, one.size

    # -- writing -------------------------------------------------------------------------------------------------

    def create(self, name: str, data: bytes) -> None:
        self.checked(name)
        if len(data) <= agent.SMALL:
            self._put(name, data)
            return
        upload = self.upload(name)
        try:
            upload.append([data])
            upload.commit()
        except BaseException:
            upload.abort()
            raise

    def _put(self, name: str, data: bytes) -> None:
        token, asked = secrets.token_hex(8), 0

        def act(link: StoreLink, breaks: bool) -> None:
            nonlocal asked
            asked += 1
            link.put(name, token, data, breaks=breaks).result()

        try:
            self.claimed(name, act)
        except ObjectExists:
            # One whose answer was lost is sent again, and meets itself.
            if asked < 2 or self.read(name, len(data)) != data:
                raise

    def claimed(self, name: str, act: Callable[..., None], uploads: bool = False) -> None:
        """Gives something its name. Waits for whoever is about to have that; one who does not get there is dead."""
        end = self.clock.monotonic() + CLAIM_SECONDS
        while True:
            breaks = self.clock.monotonic() >= end
            try:
                self.run(name, "written", partial(act, breaks=breaks), uploads)
                return
            except BackendFailed as error:
                cause = error.__cause__
                if breaks or not isinstance(cause, FileRefused) or cause.errno != errno.EBUSY:
                    raise
            self.clock.sleep(_CLAIM_PAUSE)

    def upload(self, name: str) -> Upload:
        return HostUpload(self, self.checked(name))

    def delete(self, name: str) -> None:
        self._removed(self.checked(name))

    def _removed(self, name: str) -> None:
        self.run(name, "deleted", lambda link: link.remove(name).result())

    def tidy(self) -> None:
        """What is under way is touched by whoever has it open. Two looks by our own clock: no two machines' clocks are
        compared."""
        first = self._under_way()
        if not first:
            return
        self.clock.sleep(DEAD_SECONDS)
        for name, seen in self._under_way().items():
            if first.get(name) == seen:
                self._removed(name)

    def _under_way(self) -> dict[str, tuple[int, int]]:
        found = self.run(self.path, "listed", lambda link: link.listing(hidden=True).result())
        return {one.name: (one.size, one.time_ns) for one in found}

    def same_place(self, other: Backend) -> bool:
        """A datastore has one name on every host that has it."""
        return isinstance(other, HostBackend) and self.folder.real == other.folder.real

    def check(self) -> None:
        """A new store's folder is made; the one above it must be there."""
        if not self.folder.there and not self.folder.above:
            above = posixpath.dirname(self.folder.real)
            reason = f"the folder {above} is not there; make it first, then the store"
            raise BackendFailed(name=self.path, store=self.name, done="made", reason=reason)
        name = f"check/{secrets.token_hex(8)}"
        self.create(name, b"1")
        try:
            self.create(name, b"2")
        except ObjectExists:
            return
        finally:
            self.delete(name)
        raise BackendFailed(name=name, store=self.name, done="created once", reason="it was given twice")

    def close(self) -> None:
        with self._guard:
            lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            # They hold no disk open, and end by themselves.
            with contextlib.suppress(StowageError):
                line.close()


class ServerBackend(HostBackend):
    """A folder of a Linux server. The disks are elsewhere: what is packed is packed here, and comes as a whole. The
    store is as any other; it may be encrypted."""

    keeps_chunks = False
    ranges = ServerRanges

    def __init__(self, starter: Starter, path: str, *, name: str, server: str, clock: Clock | None = None) -> None:
        super().__init__(starter, path, name=name, roots=("/",), clock=clock)
        self.server = server

    def same_place(self, other: Backend) -> bool:
        return (
            isinstance(other, ServerBackend) and self.server == other.server and self.folder.real == other.folder.real
        )
