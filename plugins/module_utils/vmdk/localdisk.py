# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual disk in files of this machine, its whole chain read as one."""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
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
    fill_zeros,
)
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable, PathOutside
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.tables import Kept, SparseExtent

# ESXi's largest disk has 62 TB.
MOST_BYTES = 64 << 40
_DESCRIPTOR = b"# disk descriptorfile"
_SPARSE: dict[str, type[SparseExtent]] = {
    "SPARSE": hosted.HostedExtent,
    "VMFSSPARSE": cowd.CowdExtent,
    "SESPARSE": sesparse.SeSparseExtent,
}
_MAPPINGS = ("rdm-virtual", "rdm-physical")


def is_vmdk(path: str) -> bool:
    """By content: a descriptor, or an extent of a kind that describes itself. May raise OSError."""
    with open(path, "rb", opener=_opener) as file:
        head = file.read(SECTOR)
        # No descriptor is so large, and a guest writes what it likes to the beginning of its raw disk.
        small = os.fstat(file.fileno()).st_size <= hosted.MOST_DESCRIPTOR_BYTES
    if head[:4] in (hosted.MAGIC, cowd.MAGIC) or head[:8] == sesparse.MAGIC:
        return True
    return small and head.lstrip()[: len(_DESCRIPTOR)].lower() == _DESCRIPTOR


def read_descriptor(path: str) -> tuple[str, bool]:
    """The text of a descriptor, and whether it stands in front of the only extent. May raise OSError."""
    with open(path, "rb", opener=_opener) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotADescriptor(path=path, reason="it is no regular file")
        data = file.read(SECTOR)
        within = hosted.embedded_descriptor(data, status.st_size)
        if within is not None:
            file.seek(within[0])
            data = file.read(within[1]).partition(b"\0")[0]
        elif data[:4] in (hosted.MAGIC, cowd.MAGIC) or data[:8] == sesparse.MAGIC:
            raise NotADescriptor(path=path, reason="it is one extent of a disk, without a descriptor in it")
        else:
            data += file.read(hosted.MOST_DESCRIPTOR_BYTES)
            if len(data) > hosted.MOST_DESCRIPTOR_BYTES:
                raise NotADescriptor(path=path, reason="it is far too large")
    # Some programs fill the rest of the sector.
    return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), within is not None


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)


class Part(NamedTuple):
    """A piece of a disk: where it lies in an extent that begins at byte `start` of the disk; zeros without one."""

    offset: int
    length: int
    place: int
    start: int = 0
    extent: Extent | None = None


class LocalDisk:
    """Serves several threads. `allowed`: folders, besides its own, that the disk's descriptors may lead into."""

    def __init__(self, path: str, allowed: Sequence[str] = ()) -> None:
        self.path = path
        self._roots = [os.path.realpath(folder) for folder in (os.path.dirname(path) or ".", *allowed)]
        self._kept = Kept()
        self._levels: list[tuple[list[int], list[Extent]]] = []
        self._embedded: set[str] = set()
        try:
            chain = read_chain(self._text, path, lambda parent: self._inside(path, parent))
        except OSError as error:
            raise ExtentUnusable(path=path, reason=error.strerror or str(error)) from error
        self.size = chain.capacity_bytes
        self.links = chain.paths
        try:
            for link in chain.links:
                self._open(link)
        except BaseException:
            self.close()
            raise

    def _text(self, path: str) -> str:
        text, embedded = read_descriptor(path)
        if embedded:
            self._embedded.add(path)
        return text

    def _inside(self, path: str, named: str) -> str:
        try:
            real = os.path.realpath(named)
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
            path = os.path.realpath(link.path)
        else:
            path = self._inside(link.path, os.path.join(os.path.dirname(link.path), line.file))
        if line.kind in _SPARSE:
            return _SPARSE[line.kind](path, size, self._kept)
        return FlatExtent(path, size, (line.offset or 0) * SECTOR)

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
        begin = until = 0
        for part in self.parts(0, self.size):
            if part.extent is None:
                continue
            if part.offset != until:
                if until > begin:
                    yield begin, until - begin
                begin = part.offset
            until = part.offset + part.length
        if until > begin:
            yield begin, until - begin

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fills the view; `ExtentUnusable` names the file when that cannot be."""
        for part in self.parts(offset, len(view)):
            room = view[part.offset - offset : part.offset - offset + part.length]
            if part.extent is None:
                fill_zeros(room)
            else:
                part.extent.fill(room, part.offset - part.start, part.place)

    def close(self) -> None:
        for _starts, extents in self._levels:
            for extent in extents:
                extent.close()
