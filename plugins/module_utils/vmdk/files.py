# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of a disk lie: on this machine, or on a host. Whoever reads chains and tables does not know."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NoReturn

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable


class NoRegularFile(OSError):
    """A folder, a pipe, a device."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EINVAL, "it is no regular file", path)


class File(ABC):
    """A regular file, open for reading. Serves several threads; what goes wrong is `ExtentUnusable`."""

    path: str
    size: int
    far = False
    """Each reading is a way there and back: what is needed next is worth telling (`expect`)."""

    @abstractmethod
    def load(self, view: memoryview, place: int) -> None:
        """Fills the view from this byte of the file on."""

    @abstractmethod
    def data_ranges(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of what is no hole between two offsets, ascending; all of it where nobody can tell."""

    @abstractmethod
    def close(self) -> None:
        """May be called again."""

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:  # noqa: B027  a file that is near has no use for it
        """(place, length) of what will be read soon."""

    def read(self, place: int, length: int) -> bytes:
        """Exactly these bytes. No more than the file has is ever made room for."""
        if place < 0 or place + length > self.size:
            self.bad(f"bytes {place} to {place + length} are behind its end ({self.size})")
        data = bytearray(length)
        self.load(memoryview(data), place)
        return bytes(data)

    def bad(self, reason: str) -> NoReturn:
        raise ExtentUnusable(path=self.path, reason=reason)

    def cut(self, place: int) -> NoReturn:
        self.bad(f"it ends at byte {place}, and the disk goes on: it was cut, or has become shorter")


class Files(ABC):
    """Opens them."""

    @abstractmethod
    def open(self, path: str, follow: bool = False) -> File:
        """May raise `OSError`, `NoRegularFile` among them. Without `follow` the last part of the path is no link."""

    @abstractmethod
    def real(self, path: str) -> str:
        """The path without any link in it. `ValueError` for what can be no path."""
