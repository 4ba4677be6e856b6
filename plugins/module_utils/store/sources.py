# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk to be read: where it has data, and its bytes; or its chunks' hashes first, where its bytes are far away."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Optional, Protocol

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import SourceFailed
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.localdisk import LocalDisk, is_vmdk


class DiskSource(ABC):
    """Serves several threads."""

    path: str
    size: int

    @abstractmethod
    def allocated(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of everything that is not known to be zero, ascending, without overlap."""

    @abstractmethod
    def read_into(self, view: memoryview, offset: int) -> None:
        """Fills the view; `SourceFailed` when that cannot be."""

    @abstractmethod
    def close(self) -> None:
        """Frees what it holds."""


Piece = tuple[int, int]
"""Offset and length on a disk."""
Hash = Optional[bytes]
"""The plain SHA-256 of a piece, without any store's key; None for one that is all zeros."""


class Asked(Protocol):
    """Hashes that were asked for."""

    @abstractmethod
    def hashes(self) -> Sequence[Hash]:
        """One for each piece, in order. Waits for them."""


class Fetched(Protocol):
    """Bytes that were asked for."""

    @abstractmethod
    def chunks(self) -> Iterator[bytes | memoryview]:
        """Those of each piece, in order. Each is looked at before the next one is taken: they may share their room."""


class HashedLane(Protocol):
    """One connection. Serves one thread, which takes the answers in the order in which it has asked.

    Both calls return at once: several of them are under way."""

    @abstractmethod
    def ask(self, pieces: Sequence[Piece]) -> Asked:
        """The hashes of these pieces."""

    @abstractmethod
    def fetch(self, pieces: Sequence[Piece]) -> Fetched:
        """Their bytes."""


class KeptRecord(Protocol):
    """What became of a piece: its SHA-256, and codec and length of what the record of it holds."""

    @property
    def hash(self) -> bytes: ...

    @property
    def codec(self) -> int: ...

    @property
    def stored(self) -> int: ...


class Kept(Protocol):
    """Pieces that were to be kept."""

    @abstractmethod
    def parts(self) -> Iterator[Sequence[KeptRecord]]:
        """What became of each piece, in order, in as many parts as it comes in. Waits for them."""


class KeepingLane(HashedLane, Protocol):
    """A lane of a disk that lies on the machine of the store: its chunks need not come here."""

    @abstractmethod
    def keep(self, pieces: Sequence[Piece], pack: Any, level: int) -> Kept:
        """These pieces become records at the end of a pack that was lent (`Upload.lend`), in order, packed with this
        level of zlib or, with 0, not at all. Returns at once."""

    @abstractmethod
    def done(self, pack: Any) -> None:
        """Nothing more comes for it from here. Waits until that is so."""


class HashedSource(Protocol):
    """A disk whose bytes are hashed where they lie, and sent only where somebody lacks them. What it says is believed
    by nobody: see `feed`. Whatever has these members is one."""

    path: str
    size: int

    @abstractmethod
    def allocated(self) -> Iterator[Piece]:
        """Everything that is not known to be zero, ascending, without overlap."""

    @abstractmethod
    def lane(self) -> AbstractContextManager[HashedLane]:
        """A connection of its own, for one thread, to the end of the block."""


def data_extents(handle: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is no hole between two offsets of a file; all of it where nobody can tell."""
    while begin < end:
        try:
            data = os.lseek(handle, begin, os.SEEK_DATA)
            hole = os.lseek(handle, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                # A block device, or a file system that cannot tell.
                yield begin, end - begin
            return
        if data < end:
            yield data, min(hole, end) - data
        begin = hole


class RawDisk(DiskSource):
    """A raw image, a flat extent, or a block device."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.lseek(self._handle, 0, os.SEEK_END)
        except OSError as error:
            raise SourceFailed(path=path, reason=error.strerror or str(error)) from error

    def allocated(self) -> Iterator[tuple[int, int]]:
        return data_extents(self._handle, 0, self.size)

    def read_into(self, view: memoryview, offset: int) -> None:
        try:
            while view:
                got = os.preadv(self._handle, [view], offset)
                if got == 0:
                    raise SourceFailed(path=self.path, reason=f"it ends at byte {offset}: it has become shorter")
                view, offset = view[got:], offset + got
        except OSError as error:
            raise SourceFailed(path=self.path, reason=error.strerror or str(error)) from error

    def close(self) -> None:
        os.close(self._handle)


class VmdkDisk(DiskSource):
    """A VMDK: its descriptor, its extents, and its parents down to the base. Opening it may raise `VmdkError`."""

    def __init__(self, path: str, allowed: Sequence[str] = ()) -> None:
        self.path = path
        self._disk = LocalDisk(path, allowed)
        self.size = self._disk.size

    def allocated(self) -> Iterator[tuple[int, int]]:
        try:
            yield from self._disk.allocated()
        except ExtentUnusable as error:
            raise SourceFailed(path=self.path, reason=error.message) from error

    def read_into(self, view: memoryview, offset: int) -> None:
        try:
            self._disk.read_into(view, offset)
        except ExtentUnusable as error:
            raise SourceFailed(path=self.path, reason=error.message) from error

    def close(self) -> None:
        self._disk.close()


def open_disk(path: str, form: str | None = None, allowed: Sequence[str] = ()) -> DiskSource:
    """The disk in a file or block device. `form`: `raw` or `vmdk`; without one the content tells, never the name.

    Whoever knows the form says it: the beginning of a raw disk is what its guest wrote. `allowed` are folders, besides
    its own, that a VMDK may lead into.
    """
    if form not in (None, "raw", "vmdk"):
        raise ValueError(f"unknown form of a disk {form!r}: raw or vmdk")
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise SourceFailed(path=path, reason="it is neither a regular file nor a block device")
        vmdk = form == "vmdk" or (form is None and is_vmdk(path))
    except (OSError, ValueError) as error:
        raise SourceFailed(path=path, reason=getattr(error, "strerror", None) or str(error)) from error
    return VmdkDisk(path, allowed) if vmdk else RawDisk(path)
