# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk to be read: where it has data, and its bytes."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import SourceFailed


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
        place = 0
        while place < self.size:
            try:
                begin = os.lseek(self._handle, place, os.SEEK_DATA)
                end = os.lseek(self._handle, begin, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                # A block device, or a file system that cannot tell.
                yield place, self.size - place
                return
            yield begin, end - begin
            place = end

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
