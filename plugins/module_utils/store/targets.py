# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk to be written: a file or block device here, or one that is far away and tells hashes of what it holds."""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Optional, Protocol, Union

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import TargetFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import Asked, Piece, data_extents

# Whether a SHA-256 is that of certain bytes.
IsTheirs = Optional[Callable[[bytes], bool]]


class HashedTargetLane(Protocol):
    """One connection. Serves one thread, which takes the answers in the order in which it has asked."""

    @abstractmethod
    def write(self, view: memoryview, offset: int, is_theirs: IsTheirs = None) -> None:
        """All of the view. It is free again when this returns; the bytes may still be under way until the target's
        `sync`, which then tells what has failed. Where the caller can tell the hash of these bytes from another, the
        lane need not make it."""

    @abstractmethod
    def ask(self, pieces: Sequence[Piece]) -> Asked:
        """The hashes of what is there, as of a `HashedSource`. Returns at once; nothing is written before the answers
        to all that was asked for were taken."""


class PackedRecord(NamedTuple):
    """A record of a pack, as `index.Place` has it, and where in the disk what it holds is to lie."""

    offset: int
    stored: int
    length: int
    places: Sequence[int]


class UnpackingLane(HashedTargetLane, Protocol):
    """Of a machine on which the store's packs lie, too: what is in them need not come here first."""

    @abstractmethod
    def unpack(self, pack: str, records: Sequence[PackedRecord]) -> Asked:
        """Each record is written to its places; `pack` is a name of the store's backend. The hashes are of what was
        written; none where that could not be done there."""


class LocalLane:
    """Writes to an open file, and reads what is in it."""

    def __init__(self, path: str, handle: int) -> None:
        self._path, self._handle = path, handle

    def write(self, view: memoryview, offset: int) -> None:
        try:
            while view:
                done = os.pwrite(self._handle, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise TargetFailed(path=self._path, reason=error.strerror or str(error)) from error

    def read_into(self, view: memoryview, offset: int) -> None:
        try:
            got = os.preadv(self._handle, [view], offset)
        except OSError as error:
            raise TargetFailed(path=self._path, reason=error.strerror or str(error)) from error
        if got != len(view):
            raise TargetFailed(path=self._path, reason="it ends too early")

    def advise(self, pieces: Iterable[Piece]) -> None:
        """The first time the device begins to write what lies there, while the next is decoded: the sync at the end
        finds little left. The second time, when that is done, its pages can be used for what comes: a disk that nobody
        reads here drives nothing out of the cache, and takes no memory that has to be found first."""
        with contextlib.suppress(OSError):
            for offset, length in pieces:
                os.posix_fadvise(self._handle, offset, length, os.POSIX_FADV_DONTNEED)


TargetLane = Union[LocalLane, HashedTargetLane]


class DiskTarget(Protocol):
    """An open disk of the right size. Whatever has these members is one."""

    path: str
    size: int

    @abstractmethod
    def lane(self) -> AbstractContextManager[TargetLane]:
        """For one thread, to the end of the block."""

    @abstractmethod
    def data_ranges(self, begin: int, end: int) -> Iterator[Piece]:
        """What between two offsets is not known to be zeros, ascending, without overlap."""

    @abstractmethod
    def sync(self) -> None:
        """All that was written is durable when this returns; what of it has failed is raised."""


class LocalTarget:
    """An open file or block device. Holes in it are known zeros, and not read."""

    def __init__(self, path: str, flags: int) -> None:
        self.path = path
        try:
            self._handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
            try:
                self.size = os.lseek(self._handle, 0, os.SEEK_END)
            except BaseException:
                os.close(self._handle)
                raise
        except OSError as error:
            raise TargetFailed(path=path, reason=error.strerror or str(error)) from error

    def resize(self, size: int) -> None:
        os.ftruncate(self._handle, size)
        self.size = size

    @contextlib.contextmanager
    def lane(self) -> Iterator[LocalLane]:
        yield LocalLane(self.path, self._handle)

    def data_ranges(self, begin: int, end: int) -> Iterator[Piece]:
        return data_extents(self._handle, begin, end)

    def sync(self) -> None:
        os.fsync(self._handle)

    def __enter__(self) -> LocalTarget:
        return self

    def __exit__(self, *words: Any) -> None:
        os.close(self._handle)
