# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flat extents: the bytes of the disk, one to one, with holes where a thin disk has nothing."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator

from .errors import from_os_error
from .extent import ZERO, Below, Extent, Segment, create_file

ZEROS = bytes(4 << 20)
_FALLOC_KEEP_SIZE = 1
_FALLOC_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)


class FlatExtent(Extent):
    """A flat file, its holes found by SEEK_DATA."""

    def __init__(self, path: str, capacity: int, writable: bool, file_offset: int = 0) -> None:
        super().__init__(path, capacity, writable)
        self.file_offset = file_offset

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        shift = self.file_offset
        position, end = offset + shift, offset + length + shift
        while position < end:
            try:
                data = min(end, os.lseek(self.fd, position, os.SEEK_DATA))
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise from_os_error(error, self.path) from error
                data = end
            if data > position:
                yield Segment(position - shift, data - position, ZERO, self.fd)
            if data >= end:
                return
            hole = min(end, os.lseek(self.fd, data, os.SEEK_HOLE))
            yield Segment(data - shift, hole - data, data, self.fd)
            position = hole

    def write(self, offset: int, data: memoryview, below: Below) -> None:
        self.pwrite(data, offset + self.file_offset)

    def punch(self, offset: int, length: int) -> None:
        """Give the room of a range back."""
        answer = _libc.fallocate(
            self.fd,
            _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE,
            ctypes.c_long(offset + self.file_offset),
            ctypes.c_long(length),
        )
        if answer != 0:
            code = ctypes.get_errno()
            raise from_os_error(OSError(code, os.strerror(code)), self.path)


def create_flat(
    path: str, size: int, *, allocate: bool, zero: bool = False, progress: Callable[[int], None] | None = None
) -> None:
    """A flat file: thin unless `allocate`; `zero` also writes every byte."""
    create_file(path)
    try:
        with open(path, "r+b", buffering=0) as file:
            if allocate and size:
                os.posix_fallocate(file.fileno(), 0, size)
            os.ftruncate(file.fileno(), size)
            if zero:
                done = 0
                while done < size:
                    done += os.pwrite(file.fileno(), ZEROS[: min(len(ZEROS), size - done)], done)
                    if progress:
                        progress(done * 100 // size)
    except OSError as error:
        raise from_os_error(error, path) from error


def grow_flat(path: str, size: int, *, allocate: bool, zero: bool = False) -> None:
    """Make a flat file longer."""
    try:
        with open(path, "r+b", buffering=0) as file:
            old = os.fstat(file.fileno()).st_size
            if allocate:
                os.posix_fallocate(file.fileno(), old, size - old)
            os.ftruncate(file.fileno(), size)
            while zero and old < size:
                old += os.pwrite(file.fileno(), ZEROS[: min(len(ZEROS), size - old)], old)
    except OSError as error:
        raise from_os_error(error, path) from error
