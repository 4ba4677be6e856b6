# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a disk on a host: what the readers of descriptors and grain tables ask for goes over one line."""

from __future__ import annotations

import errno
import posixpath
import threading
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import RemoteFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import FileRefused
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import Handles, Line, OwedBytes
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import PathOutside, unusable
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.files import File, Files, NoRegularFile
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.tables import Kept

SECTOR = 512
WINDOW = 64 << 30
"""Where a file has data is asked for in windows of this size, and kept by them."""
_MOST_RANGES = 1 << 16
_MAP_BYTES = 8 << 20
_EXPECTED_BYTES = 16 << 20
"""Of what was asked for ahead: a chain of 32 deltas, with 16 tables of each."""


class HostFiles(Files):
    """`roots`: the folders, without links, that everything must lie in. `opening` is called before each extent,
    and raises what speaks against going on: a disk may have thousands."""

    def __init__(self, line: Line, path: str, roots: Sequence[str], opening: Callable[[], None] = lambda: None) -> None:
        self.line = line
        self._opening = opening
        self._top = path
        self._roots = tuple(root.rstrip("/") + "/" for root in roots)
        self.maps = Kept(_MAP_BYTES)
        self.bytes = 0
        self.seconds = 0.0
        self._guard = threading.Lock()
        self._expected: OrderedDict[tuple[HostFile, int, int], OwedBytes] = OrderedDict()
        self._expected_bytes = 0
        self.turn = threading.Lock()
        """One reading at a time: a shell knows no other way, and the answers of an agent come one after the other."""

    def open(self, path: str, follow: bool = False) -> HostFile:
        if not follow:
            self._opening()
        return self.take(path, probed=not follow)

    def take(self, path: str, *, writable: bool = False, probed: bool = False) -> HostFile:
        began = time.monotonic()
        try:
            number, file = self.line.open(path, writable)
        except FileRefused as error:
            if error.errno == errno.EINVAL:
                raise NoRegularFile(path) from error
            raise OSError(error.errno, str(error.data.get("reason") or error.message), path) from error
        opened = HostFile(self, number, file)
        try:
            if not file.real.startswith(self._roots):
                raise PathOutside(path=self._top, named=path)
            if probed and file.size:
                # That it opens does not mean that it can be read: some hosts refuse only that.
                opened.read(0, min(SECTOR, file.size))
        except BaseException:
            opened.close()
            raise
        finally:
            self.spent(began)
        return opened

    def real(self, path: str) -> str:
        if "\0" in path:
            raise ValueError("a path with a NUL in it")
        # Where the links in it lead is looked at when it is opened.
        return posixpath.normpath(path)

    def expected(self, file: HostFile, place: int, length: int) -> OwedBytes | None:
        """What was asked for ahead, once."""
        with self._guard:
            asked = self._expected.pop((file, place, length), None)
            self._expected_bytes -= length if asked is not None else 0
            return asked

    def expect(self, file: HostFile, place: int, length: int) -> None:
        with self._guard:
            if (file, place, length) in self._expected:
                return
        asked = file.asked(place, length)
        dropped = []
        with self._guard:
            if (file, place, length) in self._expected:
                # Another thread was first.
                dropped.append(asked)
            else:
                self._expected[file, place, length] = asked
                self._expected_bytes += length
            while self._expected_bytes > _EXPECTED_BYTES:
                (_file, _place, size), old = self._expected.popitem(last=False)
                self._expected_bytes -= size
                dropped.append(old)
        for old in dropped:
            old.drop()

    def spent(self, began: float, count: int = 0) -> None:
        with self._guard:
            self.seconds += time.monotonic() - began
            self.bytes += count


class HostFile(File):
    far = True

    def __init__(self, files: HostFiles, number: int, file: RemoteFile) -> None:
        self.path, self.size = file.path, file.size
        self.number = number
        self.allocated = file.allocated
        self._files = files

    def load(self, view: memoryview, place: int) -> None:
        if not view:
            return
        began = time.monotonic()
        try:
            with self._files.turn:
                asked = self._files.expected(self, place, len(view)) or self.asked(place, len(view))
                for part in asked.chunks():
                    view[:] = part
        except FileRefused as error:
            if error.errno == errno.ENODATA:
                self.cut(place)
            raise unusable(self.path, OSError(error.errno, str(error.data.get("reason")))) from error
        finally:
            self._files.spent(began, len(view))

    def asked(self, place: int, length: int) -> OwedBytes:
        return OwedBytes(
            self._files.line,
            1,
            lambda link, handles, done: link.fetch([[(handles[self.number], place, length)]]),
        )

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        for place, length in ranges:
            if place >= 0 and place + length <= self.size:
                self._files.expect(self, place, length)

    def data_ranges(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        while begin < end:
            number = begin // WINDOW
            begins, ends = self._files.maps.get((id(self), "map", number), partial(self._window, number))
            until = min(end, (number + 1) * WINDOW)
            at = max(0, bisect_right(begins, begin) - 1)
            while at < len(begins) and begins[at] < until:
                first, last = max(begin, begins[at]), min(until, ends[at])
                if first < last:
                    yield first, last
                at += 1
            begin = until

    def _window(self, number: int) -> tuple[tuple[array[int], array[int]], int]:
        place, end = number * WINDOW, min(self.size, (number + 1) * WINDOW)
        begins, ends = array("q"), array("q")
        gap = 0
        began = time.monotonic()
        while place < end:
            asked = self._files.line.ask(partial(self._mapped, place, end))
            try:
                answer = asked.result()
            except FileRefused as error:
                raise unusable(self.path, OSError(error.errno, str(error.data.get("reason")))) from error
            for first, last in answer.parts:
                if begins and first - ends[-1] <= gap:
                    ends[-1] = last
                else:
                    begins.append(first)
                    ends.append(last)
            while len(begins) > _MOST_RANGES:
                gap = max(4096, 2 * gap)
                begins, ends = _closed(begins, ends, gap)
            place = answer.until
        self._files.spent(began, 16 * len(begins))
        return (begins, ends), 16 * len(begins) + 200

    def _mapped(self, place: int, end: int, link: Any, handles: Handles) -> Any:
        return link.ranges(handles[self.number], place, end)

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            self._files.line.shut(number)


def _closed(begins: array[int], ends: array[int], gap: int) -> tuple[array[int], array[int]]:
    """The same without holes up to this length: they are read then, which is not wrong, only slower."""
    fewer, tails = array("q"), array("q")
    for first, last in zip(begins, ends):
        if fewer and first - tails[-1] <= gap:
            tails[-1] = last
        else:
            fewer.append(first)
            tails.append(last)
    return fewer, tails
