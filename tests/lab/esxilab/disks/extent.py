# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every kind of extent file offers: where its bytes are, and writing."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .errors import from_os_error

ABSENT = -1  # not in this file: ask the parent
ZERO = -2  # reads as zeros

Below = Callable[[int, int], bytes]


class Segment(NamedTuple):
    """A piece of a disk: `place` is the offset in the file, or ABSENT, or ZERO."""

    start: int
    length: int
    place: int
    fd: int


class Extent(ABC):
    """One open extent file. `start` offsets count from the beginning of this extent."""

    def __init__(self, path: str, capacity: int, writable: bool) -> None:
        self.path = path
        self.capacity = capacity
        self.writable = writable
        try:
            self.fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error(error, path) from error

    @abstractmethod
    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """The pieces that make up the range, in order and without gaps."""

    @abstractmethod
    def write(self, offset: int, data: memoryview, below: Below) -> None:
        """Write; `below(offset, length)` gives what the parents hold there."""

    def pwrite(self, data: bytes | memoryview, place: int) -> None:
        """Write all of it; what the kernel refuses becomes a DiskError."""
        view = memoryview(data)
        try:
            while len(view):
                done = os.pwrite(self.fd, view, place)
                view = view[done:]
                place += done
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def flush(self) -> None:
        """Bring the file's own book-keeping up to date; a format without any has nothing to do."""
        return

    def finish(self) -> None:
        """What a clean close adds to `flush`: the marks that say so."""
        self.flush()

    def close(self, clean: bool = True) -> None:
        """Close the file; not `clean` leaves it as a dying host would."""
        if self.fd >= 0:
            try:
                if clean and self.writable:
                    self.finish()
            finally:
                os.close(self.fd)
                self.fd = -1


def pread_into(fd: int, view: memoryview, place: int, path: str = "") -> None:
    """Fill the view from the file; what lies behind the file's end stays as it is."""
    try:
        while len(view):
            done = os.preadv(fd, [view], place)
            if done == 0:
                return
            view = view[done:]
            place += done
    except OSError as error:
        raise from_os_error(error, path) from error


def create_file(path: str) -> None:
    """A new empty file with the mode ESXi gives to disks; an existing one is an error."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        os.close(fd)
    except OSError as error:
        raise from_os_error(error, path) from error
