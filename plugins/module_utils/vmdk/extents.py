# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that hold a disk's bytes, on this machine: where in them a range lies, and reading it."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NoReturn

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable

SECTOR = 512
# Places that are no offset in a file: ask the parent; zeros.
ABSENT, ZERO = -1, -2
ZEROS = bytes(1 << 20)

Piece = tuple[int, int, int]
"""Offset in the extent, length, and where it lies: an offset in the file, ABSENT, or ZERO."""


class Extent(ABC):
    """A part of a disk. Serves several threads."""

    size: int

    @abstractmethod
    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """What makes up the range, in order and without gaps."""

    @abstractmethod
    def fill(self, view: memoryview, offset: int, place: int) -> None:
        """The bytes of one piece, or of the beginning of one."""

    def close(self) -> None:  # noqa: B027  an extent without a file has nothing to do
        """Frees what it holds."""


class ZeroExtent(Extent):
    """An extent without a file."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        yield offset, length, ZERO

    def fill(self, view: memoryview, offset: int, place: int) -> None:
        fill_zeros(view)


class FileExtent(Extent):
    """An extent in a regular file."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size
        try:
            # A name in a descriptor is a stranger's word: no link is followed, and no pipe waited for.
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise ExtentUnusable(path=path, reason=error.strerror or str(error)) from error
        try:
            status = os.fstat(self._handle)
            if not stat.S_ISREG(status.st_mode):
                self.bad("it is no regular file")
            self.file_bytes = status.st_size
            self.check()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def check(self) -> None:
        """Whether the file can be what the descriptor says; reads its header."""

    def bad(self, reason: str) -> NoReturn:
        raise ExtentUnusable(path=self.path, reason=reason)

    def read(self, place: int, length: int) -> bytes:
        """Exactly these bytes of the file. No more than the file has is ever made room for."""
        if place < 0 or place + length > self.file_bytes:
            self.bad(f"bytes {place} to {place + length} are behind its end ({self.file_bytes})")
        data = bytearray(length)
        self.load(memoryview(data), place)
        return bytes(data)

    def fill(self, view: memoryview, offset: int, place: int) -> None:
        self.load(view, place)

    def load(self, view: memoryview, place: int) -> None:
        """Fills the view from this byte of the file on."""
        try:
            while view:
                got = os.preadv(self._handle, [view], place)
                if got == 0:
                    self.bad(f"it ends at byte {place}, and the disk goes on: it was cut, or has become shorter")
                view, place = view[got:], place + got
        except OSError as error:
            raise ExtentUnusable(path=self.path, reason=error.strerror or str(error)) from error

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class FlatExtent(FileExtent):
    """The bytes of the disk as they are, from some byte of the file on."""

    def __init__(self, path: str, size: int, begin: int = 0) -> None:
        self._begin = begin
        super().__init__(path, size)

    def check(self) -> None:
        if self._begin + self.size > self.file_bytes:
            self.bad(f"it has {self.file_bytes} bytes, the disk needs {self._begin + self.size}")

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        shift = self._begin
        place, end = offset + shift, offset + length + shift
        while place < end:
            try:
                begin = min(end, os.lseek(self._handle, place, os.SEEK_DATA))
                until = min(end, os.lseek(self._handle, begin, os.SEEK_HOLE)) if begin < end else end
            except OSError as error:
                # Nothing but a hole to its end; or a file system that cannot tell.
                begin, until = (end, end) if error.errno == errno.ENXIO else (place, end)
            if begin > place:
                yield place - shift, begin - place, ZERO
            if until > begin:
                yield begin - shift, until - begin, begin
            place = until


def fill_zeros(view: memoryview) -> None:
    for at in range(0, len(view), len(ZEROS)):
        part = view[at : at + len(ZEROS)]
        part[:] = ZEROS[: len(part)]
