# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual disk: a chain of descriptors and the extents under them, read and written as one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .descriptor import SECTOR, Descriptor, ExtentLine, read_descriptor
from .errors import DiskError, FileMissing, InvalidArgument, NotADisk, ParentModified
from .extent import ABSENT, ZERO, Extent, Segment, pread_into
from .flat import FlatExtent
from .hosted import HostedExtent
from .sesparse import SeSparseExtent
from .vmfssparse import VmfsSparseExtent

MAX_DEPTH = 32
Resolve = Callable[[str], str]


@dataclass
class Link:
    """One descriptor of the chain and its open extents, as (first byte, extent)."""

    descriptor: Descriptor
    extents: list[tuple[int, Extent]]

    @property
    def path(self) -> str:
        return self.descriptor.path

    @property
    def extent_paths(self) -> list[str]:
        return [extent.path for _, extent in self.extents]

    @property
    def capacity(self) -> int:
        return self.descriptor.capacity

    def parts(self, offset: int, length: int) -> Iterator[tuple[int, Extent, int, int]]:
        """(first byte of the extent, extent, offset in it, length) for a range."""
        for start, extent in self.extents:
            begin, end = max(offset, start), min(offset + length, start + extent.capacity)
            if begin < end:
                yield start, extent, begin - start, end - begin

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        for start, extent, inside, size in self.parts(offset, length):
            if start == 0:
                yield from extent.segments(inside, size)
            else:
                for piece in extent.segments(inside, size):
                    yield piece._replace(start=piece.start + start)
        end = offset + length
        if end > self.capacity:
            begin = max(offset, self.capacity)
            yield Segment(begin, end - begin, ZERO, -1)


class VirtualDisk:
    """The merged view of a chain, top link first. Writes go to the top link.

    Safe for several threads. The first write after opening gives the top link a new content ID, as ESXi does.
    """

    def __init__(self, links: list[Link], writable: bool) -> None:
        self.links = links
        self.writable = writable
        self._lock = threading.RLock()
        self._content_id_is_new = False

    @property
    def path(self) -> str:
        return self.links[0].path

    @property
    def descriptor(self) -> Descriptor:
        return self.links[0].descriptor

    @property
    def capacity(self) -> int:
        return self.links[0].capacity

    def segments(self, offset: int, length: int, level: int = 0) -> Iterator[Segment]:
        """Where the bytes of a range are: pieces in order, each DATA in some file or ZERO."""
        last = len(self.links) - 1
        for piece in self.links[level].segments(offset, length):
            if piece.place != ABSENT:
                yield piece
            elif level < last:
                yield from self.segments(piece.start, piece.length, level + 1)
            else:
                yield piece._replace(place=ZERO)

    def allocated(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of everything that is not known to be zero, neighbours joined."""
        begin = end = 0
        for piece in self.segments(0, self.capacity):
            if piece.place < 0:
                continue
            if piece.start != end:
                if end > begin:
                    yield begin, end - begin
                begin = piece.start
            end = piece.start + piece.length
        if end > begin:
            yield begin, end - begin

    def read_into(self, view: memoryview, offset: int, level: int = 0) -> None:
        """Fill the view, zeros included."""
        with self._lock:
            for piece in self.segments(offset, len(view), level):
                target = view[piece.start - offset : piece.start - offset + piece.length]
                if piece.place == ZERO:
                    target[:] = bytes(len(target))
                else:
                    pread_into(piece.fd, target, piece.place, self.path)

    def read(self, offset: int, length: int) -> bytes:
        return self._read_level(offset, length, 0)

    def _read_level(self, offset: int, length: int, level: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.capacity:
            raise InvalidArgument(self.path, f"bytes {offset}+{length} of a disk of {self.capacity}")
        buffer = bytearray(length)
        if length and level < len(self.links):
            self.read_into(memoryview(buffer), offset, level)
        return bytes(buffer)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        if not self.writable:
            raise InvalidArgument(self.path, "the disk is open for reading only")
        if offset < 0 or offset + len(data) > self.capacity:
            raise InvalidArgument(self.path, f"bytes {offset}+{len(data)} of a disk of {self.capacity}")
        view = memoryview(data)
        with self._lock:
            if not self._content_id_is_new:
                self.descriptor.new_content_id()
                self.descriptor.write()
                self._content_id_is_new = True
            for start, extent, inside, size in self.links[0].parts(offset, len(data)):
                begin = start + inside - offset
                extent.write(inside, view[begin : begin + size], _shifted(self, start))

    @contextlib.contextmanager
    def held(self) -> Iterator[Descriptor]:
        """The top link's descriptor, with no write of its own in between."""
        with self._lock:
            yield self.descriptor

    def keep_content_id(self) -> None:
        """Let writes not change the content ID: for whoever sets it himself."""
        self._content_id_is_new = True

    def flush(self) -> None:
        with self._lock:
            for _, extent in self.links[0].extents:
                if extent.writable:
                    extent.flush()

    def close(self, clean: bool = True) -> None:
        """Close all files; not `clean` leaves the top link's file as a host's crash does (marked dirty)."""
        failure: DiskError | None = None
        with self._lock:
            for link in self.links:
                for _, extent in link.extents:
                    try:
                        extent.close(clean)
                    except DiskError as error:
                        failure = failure or error
        if failure:
            raise failure

    def __enter__(self) -> VirtualDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shifted(disk: VirtualDisk, start: int) -> Callable[[int, int], bytes]:
    def below(offset: int, length: int) -> bytes:
        return disk._read_level(offset + start, length, 1)

    return below


def open_extent(line: ExtentLine, descriptor: Descriptor, writable: bool, resolve: Resolve | None = None) -> Extent:
    path = descriptor.beside(line.file, resolve)
    size = line.sectors * SECTOR
    if descriptor.create_type == "vmfsPassthroughRawDeviceMap":
        raise NotADisk(descriptor.path, "a physical raw device mapping cannot be read through a file")
    if line.kind in ("VMFS", "FLAT", "VMFSRDM"):
        return FlatExtent(path, size, writable, (line.offset or 0) * SECTOR)
    kinds: dict[str, Callable[[str, int, bool], Extent]] = {
        "VMFSSPARSE": VmfsSparseExtent,
        "SESPARSE": SeSparseExtent,
        "SPARSE": HostedExtent,
    }
    sparse = kinds.get(line.kind)
    if sparse is None:
        raise NotADisk(descriptor.path, f"extent kind {line.kind} cannot be read through a file")
    return sparse(path, size, writable)


def read_chain(desc_path: str, resolve: Resolve | None = None, check: bool = True) -> list[Descriptor]:
    """The descriptors of a chain, top first; a broken chain is an error unless `check` is off."""
    found: list[Descriptor] = []
    path = desc_path
    while True:
        descriptor = read_descriptor(path)
        if check and found and found[-1].parent_cid != descriptor.cid:
            raise ParentModified(found[-1].path, f"parentCID {found[-1].parent_cid}, {path} has CID {descriptor.cid}")
        found.append(descriptor)
        if not descriptor.is_child:
            return found
        if descriptor.parent_hint is None:
            raise FileMissing(path, "a child without parentFileNameHint")
        if len(found) > MAX_DEPTH:
            raise InvalidArgument(desc_path, f"more than {MAX_DEPTH} links")
        path = descriptor.beside(descriptor.parent_hint, resolve)
        if any(os.path.abspath(path) == os.path.abspath(link.path) for link in found):
            raise InvalidArgument(desc_path, f"the chain comes back to {path}")


def open_chain(
    desc_path: str, writable: bool = False, *, resolve: Resolve | None = None, check: bool = True
) -> VirtualDisk:
    """Open a disk with all its parents; only the top link is opened for writing.

    `resolve` translates absolute paths found in descriptors (`/vmfs/volumes/…`) to paths here. `check=False` opens
    a chain whose content IDs do not match.
    """
    links: list[Link] = []
    try:
        for descriptor in read_chain(desc_path, resolve, check):
            link = Link(descriptor, [])
            start = 0
            may_write = writable and not links
            links.append(link)
            for line in descriptor.extents:
                extent = open_extent(line, descriptor, may_write and line.access == "RW", resolve)
                link.extents.append((start, extent))
                start += extent.capacity
    except DiskError:
        for link in links:
            for _, extent in link.extents:
                extent.close(clean=False)
        raise
    return VirtualDisk(links, writable)
