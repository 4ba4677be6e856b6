# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a disk on this machine."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.files import File, Files, NoRegularFile


class LocalFile(File):
    def __init__(self, path: str, follow: bool) -> None:
        self.path = path
        # A name in a descriptor is a stranger's word: no link is followed, and no pipe waited for.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        self._handle = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
        try:
            status = os.fstat(self._handle)
            if not stat.S_ISREG(status.st_mode):
                raise NoRegularFile(path)
            self.size = status.st_size
        except BaseException:
            self.close()
            raise

    def load(self, view: memoryview, place: int) -> None:
        try:
            while view:
                got = os.preadv(self._handle, [view], place)
                if got == 0:
                    self.cut(place)
                view, place = view[got:], place + got
        except OSError as error:
            raise ExtentUnusable(path=self.path, reason=error.strerror or str(error)) from error

    def data_ranges(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        while begin < end:
            try:
                data = min(end, os.lseek(self._handle, begin, os.SEEK_DATA))
                until = min(end, os.lseek(self._handle, data, os.SEEK_HOLE)) if data < end else end
            except OSError as error:
                # Nothing but a hole to its end; or a file system that cannot tell.
                data, until = (end, end) if error.errno == errno.ENXIO else (begin, end)
            if until > data:
                yield data, until
            begin = until

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class LocalFiles(Files):
    def open(self, path: str, follow: bool = False) -> LocalFile:
        return LocalFile(path, follow)

    def real(self, path: str) -> str:
        return os.path.realpath(path)
