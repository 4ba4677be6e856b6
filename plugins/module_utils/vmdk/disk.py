# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual disk, its whole chain read as one, wherever its files are."""

from __future__ import annotations

import heapq
import posixpath
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk import cowd, hosted, sesparse
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import Link, read_chain
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import Extent as Line
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import NotADescriptor
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.extents import (
    ABSENT,
    SECTOR,
    ZERO,
    Extent,
    FlatExtent,
    ZeroExtent,
)
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable, PathOutside, unusable
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.files import Files, NoRegularFile
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.tables import Kept, SparseExtent

# ESXi's largest disk has 62 TB.
MOST_BYTES = 64 << 40
_SPARSE: dict[str, type[SparseExtent]] = {
    "SPARSE": hosted.HostedExtent,
    "VMFSSPARSE": cowd.CowdExtent,
    "SESPARSE": sesparse.SeSparseExtent,
}
# Hardly a descriptor is longer.
_HEAD = 4096
_MAPPINGS = ("rdm-virtual", "rdm-physical")


def read_descriptor(files: Files, path: str) -> tuple[str, bool]:
    """The text of a descriptor, and whether it stands in front of the only extent. May raise OSError."""
    try:
        file = files.open(path, follow=True)
    except NoRegularFile as error:
        raise NotADescriptor(path=path, reason=error.strerror) from error
    try:
        data = file.read(0, min(file.size, _HEAD))
        within = hosted.embedded_descriptor(data, file.size)
        if within is not None:
            data = file.read(*within).partition(b"\0")[0]
        elif data[:4] in (hosted.MAGIC, cowd.MAGIC) or data[:8] == sesparse.MAGIC:
            raise NotADescriptor(path=path, reason="it is one extent of a disk, without a descriptor in it")
        elif file.size > hosted.MOST_DESCRIPTOR_BYTES:
            raise NotADescriptor(path=path, reason="it is far too large")
        else:
            data += file.read(len(data), file.size - len(data))
    finally:
        file.close()
    # Some programs fill the rest of the sector.
    return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), within is not None


class Part(NamedTuple):
    """A piece of a disk: where it lies in an extent that begins at byte `start` of the disk; zeros without one."""

    offset: int
    length: int
    place: int
    start: int = 0
    extent: Extent | None = None


class ChainDisk:
    """Serves several threads. `roots`: the folders that the disk's descriptors may lead into, without links."""

    def __init__(self, files: Files, path: str, roots: Sequence[str]) -> None:
        self.path = path
        self._files = files
        self._roots = tuple(roots)
        self._kept = Kept()
        self._levels: list[tuple[list[int], list[Extent]]] = []
        self._embedded: set[str] = set()
        try:
            chain = read_chain(self._text, path, lambda parent: self._inside(path, parent))
        except OSError as error:
            raise unusable(path, error) from error
        self.size = chain.capacity_bytes
        self.links = chain.paths
        try:
            for link in chain.links:
                self._open(link)
        except BaseException:
            self._shut()
            raise

    def _text(self, path: str) -> str:
        text, embedded = read_descriptor(self._files, path)
        if embedded:
            self._embedded.add(path)
        return text

    def _inside(self, path: str, named: str) -> str:
        try:
            real = self._files.real(named)
        except ValueError as error:
            raise PathOutside(path=path, named=named) from error
        if not any(real.startswith(root.rstrip("/") + "/") for root in self._roots):
            raise PathOutside(path=path, named=named)
        return real

    def _open(self, link: Link) -> None:
        descriptor = link.descriptor
        if descriptor.kind in _MAPPINGS:
            raise ExtentUnusable(path=link.path, reason="a raw device mapping: its bytes are not in files")
        if descriptor.capacity_bytes > MOST_BYTES:
            raise NotADescriptor(path=link.path, reason=f"a disk of {descriptor.capacity_bytes} bytes is too large")
        starts: list[int] = []
        extents: list[Extent] = []
        self._levels.append((starts, extents))
        if link.path in self._embedded and [line.kind for line in descriptor.extents] != ["SPARSE"]:
            raise NotADescriptor(path=link.path, reason="it is in a sparse extent, and names other ones")
        start = 0
        for line in descriptor.extents:
            if line.sectors:
                starts.append(start)
                extents.append(self._extent(link, line))
                start += line.sectors * SECTOR

    def _extent(self, link: Link, line: Line) -> Extent:
        size = line.sectors * SECTOR
        if line.kind == "ZERO":
            return ZeroExtent(size)
        if line.access == "NOACCESS" or line.file is None or line.kind not in ("VMFS", "FLAT", *_SPARSE):
            raise ExtentUnusable(path=link.path, reason=f"an extent {line.access} {line.kind} cannot be read")
        if link.path in self._embedded:
            # The name in it is not looked at: the file may have been renamed.
            path = self._files.real(link.path)
        else:
            path = self._inside(link.path, posixpath.join(posixpath.dirname(link.path), line.file))
        try:
            file = self._files.open(path)
        except OSError as error:
            raise unusable(path, error) from error
        if line.kind in _SPARSE:
            return _SPARSE[line.kind](file, size, self._kept)
        return FlatExtent(file, size, (line.offset or 0) * SECTOR)

    # -- reading -------------------------------------------------------------------------------------------------

    def parts(self, offset: int, length: int, level: int = 0) -> Iterator[Part]:
        """What makes up the range, in order and without gaps, as the links from this one on have it."""
        end = offset + length
        starts, extents = self._levels[level]
        at = bisect_right(starts, offset) - 1
        while 0 <= at < len(starts) and offset < end:
            start, extent = starts[at], extents[at]
            until = min(end, start + extent.size)
            if offset < until:
                for begin, size, place in extent.pieces(offset - start, until - offset):
                    if place >= 0:
                        yield Part(begin + start, size, place, start, extent)
                    elif place == ABSENT and level + 1 < len(self._levels):
                        yield from self.parts(begin + start, size, level + 1)
                    else:
                        yield Part(begin + start, size, ZERO)
                offset = until
            at += 1
        if offset < end:
            # A parent may be smaller than its child.
            yield Part(offset, end - offset, ZERO)

    def allocated(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of everything that is not known to be zero, ascending, without overlap."""
        return _joined((part.offset, part.length) for part in self.parts(0, self.size) if part.extent is not None)

    def above(self, link: str) -> Iterator[tuple[int, int]]:
        """(offset, length) of all that the links above this one say of the disk, ascending, without overlap.

        So nothing else differs from the disk as that link has it. What was emptied there counts, too. `ValueError`
        where there is no such link.
        """
        depth = self.links.index(link)
        if any(self._length(level) != self.size for level in range(depth + 1)):
            # One that is shorter says that there is nothing behind its end.
            return iter([(0, self.size)])
        return _joined(heapq.merge(*(self._said(level) for level in range(depth))))

    def _length(self, level: int) -> int:
        starts, extents = self._levels[level]
        return starts[-1] + extents[-1].size if starts else 0

    def _said(self, level: int) -> Iterator[tuple[int, int]]:
        for start, extent in zip(*self._levels[level]):
            for begin, size, place in extent.pieces(0, extent.size):
                if place != ABSENT:
                    yield begin + start, size

    def _shut(self) -> None:
        for _starts, extents in self._levels:
            for extent in extents:
                extent.close()

    def close(self) -> None:
        self._shut()


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ascending ranges, those that touch or overlap as one."""
    begin = until = 0
    for offset, length in ranges:
        if offset > until:
            if until > begin:
                yield begin, until - begin
            begin = offset
        until = max(until, offset + length)
    if until > begin:
        yield begin, until - begin
