# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a disk, and where in their files a range lies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NoReturn

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.files import File

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
    """An extent in a file, which it closes, also when it is not what it should be."""

    packed = False
    """What lies in the file is not the disk's bytes as they are."""

    def __init__(self, file: File, size: int) -> None:
        self.file, self.size = file, size
        self.path, self.file_bytes = file.path, file.size
        try:
            self.check()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def check(self) -> None:
        """Whether the file can be what the descriptor says; reads its header."""

    def bad(self, reason: str) -> NoReturn:
        self.file.bad(reason)

    def read(self, place: int, length: int) -> bytes:
        """Exactly these bytes of the file."""
        return self.file.read(place, length)

    def fill(self, view: memoryview, offset: int, place: int) -> None:
        self.load(view, place)

    def load(self, view: memoryview, place: int) -> None:
        """Fills the view from this byte of the file on."""
        self.file.load(view, place)

    def close(self) -> None:
        self.file.close()


class FlatExtent(FileExtent):
    """The bytes of the disk as they are, from some byte of the file on."""

    def __init__(self, file: File, size: int, begin: int = 0) -> None:
        self._begin = begin
        super().__init__(file, size)

    def check(self) -> None:
        if self._begin + self.size > self.file_bytes:
            self.bad(f"it has {self.file_bytes} bytes, the disk needs {self._begin + self.size}")

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        shift = self._begin
        place, end = offset + shift, offset + length + shift
        for begin, until in self.file.data_ranges(place, end):
            if begin > place:
                yield place - shift, begin - place, ZERO
            yield begin - shift, until - begin, begin
            place = until
        if place < end:
            yield place - shift, end - place, ZERO


def fill_zeros(view: memoryview) -> None:
    for at in range(0, len(view), len(ZEROS)):
        part = view[at : at + len(ZEROS)]
        part[:] = ZEROS[: len(part)]
