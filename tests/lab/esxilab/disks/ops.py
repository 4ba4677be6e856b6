# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vmkfstools and the hypervisor do with whole disks."""

from __future__ import annotations

import os
from collections.abc import Callable

from . import copying
from .chain import Resolve, open_chain, read_chain
from .descriptor import (
    SECTOR,
    Descriptor,
    ExtentLine,
    base_descriptor,
    child_descriptor,
    read_descriptor,
)
from .errors import DiskError, FileExists, FileLocked, InvalidArgument, from_os_error
from .extent import ABSENT, create_file
from .flat import FlatExtent, create_flat, grow_flat
from .hosted import MAX_EXTENT_SECTORS, create_hosted
from .sesparse import create_sesparse
from .vmfssparse import create_vmfssparse

FORMATS = ("zeroedthick", "thin", "eagerzeroedthick", "2gbsparse", "sesparse")
Progress = Callable[[int], None]


def stem_of(desc_path: str) -> str:
    """`…/web.vmdk` → `…/web`."""
    return desc_path[: -len(".vmdk")] if desc_path.endswith(".vmdk") else desc_path


def create_disk(
    desc_path: str,
    size: int,
    fmt: str = "thin",
    adapter: str = "lsilogic",
    hw: str = "14",
    *,
    release: str = "7.0",
    preallocate: bool = True,
    tools_version: str | None = None,
    progress: Progress | None = None,
) -> Descriptor:
    """A new empty disk: the descriptor and its extents.

    `preallocate=False` makes thick formats take no room, as on an NFS datastore without VAAI. `tools_version` adds
    the lines that a guest with VMware Tools leaves in the descriptor.
    """
    if fmt not in FORMATS:
        raise InvalidArgument(desc_path, f"disk format {fmt!r}; known are {', '.join(FORMATS)}")
    if size <= 0 or size % SECTOR:
        raise InvalidArgument(desc_path, f"{size} bytes is not a positive multiple of {SECTOR}")
    if os.path.lexists(desc_path):
        raise FileExists(desc_path)
    stem, sectors = stem_of(desc_path), size // SECTOR
    name = os.path.basename(stem)
    if fmt == "2gbsparse":
        create_type = "twoGbMaxExtentSparse"
        starts = range(0, sectors, MAX_EXTENT_SECTORS)
        lines = [
            ExtentLine("RW", min(MAX_EXTENT_SECTORS, sectors - start), "SPARSE", f"{name}-s{number:03d}.vmdk")
            for number, start in enumerate(starts, 1)
        ]
    elif fmt == "sesparse":
        create_type = "seSparse"
        lines = [ExtentLine("RW", sectors, "SESPARSE", f"{name}-sesparse.vmdk")]
    else:
        create_type = "vmfs"
        lines = [ExtentLine("RW", sectors, "VMFS", f"{name}-flat.vmdk")]
    descriptor = base_descriptor(
        desc_path,
        sectors,
        extents=lines,
        create_type=create_type,
        adapter=adapter,
        hw=hw,
        release=release,
        tools_version=tools_version,
    )
    if fmt == "thin":
        descriptor.ddb["ddb.thinProvisioned"] = "1"
    for line in lines:
        if os.path.lexists(descriptor.beside(line.file)):
            raise FileExists(descriptor.beside(line.file))
    # The descriptor first: a command that dies leaves a descriptor with an unfinished extent, the nastiest rest.
    descriptor.write()
    for line in lines:
        if fmt == "2gbsparse":
            create_hosted(descriptor.beside(line.file), line.sectors)
        elif fmt == "sesparse":
            create_sesparse(descriptor.beside(line.file), line.sectors)
        else:
            allocate = preallocate and fmt != "thin"
            eager = preallocate and fmt == "eagerzeroedthick"
            create_flat(descriptor.beside(line.file), size, allocate=allocate, zero=eager, progress=progress)
    if progress:
        progress(100)
    return descriptor


def create_rdm(
    desc_path: str, size: int, *, physical: bool, adapter: str = "lsilogic", hw: str = "14", release: str = "7.0"
) -> Descriptor:
    """A raw device mapping: the pointer file has the length of the device and no blocks."""
    stem, sectors = stem_of(desc_path), size // SECTOR
    suffix = "rdmp" if physical else "rdm"
    line = ExtentLine("RW", sectors, "VMFSRDM", f"{os.path.basename(stem)}-{suffix}.vmdk")
    create_type = "vmfsPassthroughRawDeviceMap" if physical else "vmfsRawDeviceMap"
    if os.path.lexists(desc_path):
        raise FileExists(desc_path)
    descriptor = base_descriptor(
        desc_path, sectors, extents=[line], create_type=create_type, adapter=adapter, hw=hw, release=release
    )
    descriptor.write()
    create_flat(descriptor.beside(line.file), size, allocate=False)
    return descriptor


def create_delta(
    parent_desc: str,
    child_desc: str,
    kind: str = "vmfssparse",
    *,
    release: str = "7.0",
    hint: str | None = None,
    extent_folder: str | None = None,
    resolve: Resolve | None = None,
) -> Descriptor:
    """An empty delta on top of a disk. Its parentFileNameHint is the parent's name, its path when elsewhere.

    With `extent_folder`, an absolute path that `resolve` may translate, its extent lies there and is named by path.
    """
    if kind not in ("vmfssparse", "sesparse"):
        raise InvalidArgument(child_desc, f"delta kind {kind!r}; known are vmfssparse, sesparse")
    parent = read_descriptor(parent_desc)
    if os.path.lexists(child_desc):
        raise FileExists(child_desc)
    hint = hint or hint_for(parent_desc, child_desc)
    suffix = "sesparse" if kind == "sesparse" else "delta"
    extent_name = f"{os.path.basename(stem_of(child_desc))}-{suffix}.vmdk"
    if extent_folder:
        extent_name = os.path.join(extent_folder, extent_name)
    child = child_descriptor(child_desc, parent, kind, extent_name, hint, release)
    extent_path = child.beside(extent_name, resolve)
    if kind == "sesparse":
        create_sesparse(extent_path, parent.sectors)
    else:
        create_vmfssparse(extent_path, parent.sectors, hint)
    try:
        child.write()
    except DiskError:
        os.unlink(extent_path)
        raise
    return child


def reparent(child_desc: str, parent_desc: str, *, hint: str | None = None) -> Descriptor:
    """Hang a delta under another parent, after what lay between them was merged into that parent."""
    child, parent = read_descriptor(child_desc), read_descriptor(parent_desc)
    child.parent_cid = parent.cid
    child.parent_hint = hint or hint_for(parent_desc, child_desc)
    child.write()
    return child


def hint_for(parent_desc: str, child_desc: str) -> str:
    """The parent's name where both lie in one folder, else its path."""
    same = os.path.realpath(os.path.dirname(parent_desc)) == os.path.realpath(os.path.dirname(child_desc))
    return os.path.basename(parent_desc) if same else parent_desc


def merge_delta(
    child_desc: str,
    *,
    resolve: Resolve | None = None,
    held: Callable[[str], bool] | None = None,
    progress: Progress | None = None,
    rate: copying.Rate = None,
) -> None:
    """Write everything the delta holds into its parent, which then carries the delta's content ID.

    The delta's files stay; the caller deletes them (`delete`) once nothing names them. `held(path)` says whether a
    reader has an extent of the parent open: then nothing is changed and FileLocked names the extent. A DiskFull part
    way leaves a parent that is still right under its delta, so the merge can be run again.
    """
    chain = read_chain(child_desc, resolve)
    if len(chain) < 2:
        raise InvalidArgument(child_desc, "not a child disk: nothing to consolidate into")
    child, parent = chain[0], chain[1]
    for line in parent.extents:
        path = parent.beside(line.file, resolve)
        if held and held(path):
            raise FileLocked(path, "another process reads it")
    with (
        open_chain(child_desc, resolve=resolve) as source,
        open_chain(parent.path, writable=True, resolve=resolve) as target,
    ):
        # The parent's content ID changes only at the very end, with the child's, so that the pair stays a chain.
        target.keep_content_id()
        pieces = [p for p in source.links[0].segments(0, source.capacity) if p.place != ABSENT]
        copying.copy_pieces(source, target, ((p.start, p.length) for p in pieces), progress=progress, rate=rate)
    if child.cid != parent.cid:
        parent.cid = child.cid
        if "ddb.longContentID" in child.ddb:
            parent.ddb["ddb.longContentID"] = child.ddb["ddb.longContentID"]
        parent.write()


def clone(
    src_desc: str,
    dst_desc: str,
    fmt: str = "zeroedthick",
    progress: Progress | None = None,
    *,
    resolve: Resolve | None = None,
    rate: copying.Rate = None,
    preallocate: bool = True,
    release: str = "7.0",
    adapter: str | None = None,
) -> Descriptor:
    """Copy the merged view of a chain into a new disk without a parent.

    New CID, uuid and longContentID; the adapter type is the source's unless one is given.
    On an error the unfinished target stays; the caller decides.
    """
    with open_chain(src_desc, resolve=resolve) as source:
        base = source.links[-1].descriptor
        target = create_disk(
            dst_desc,
            source.capacity,
            fmt,
            adapter or base.ddb.get("ddb.adapterType", "lsilogic"),
            base.ddb.get("ddb.virtualHWVersion", "14"),
            release=release,
            preallocate=preallocate and fmt != "eagerzeroedthick",
        )
        # The filter's mark stays with what is copied as ciphertext.
        for key in ("ddb.toolsInstallType", "ddb.toolsVersion", "ddb.iofilters"):
            if key in base.ddb:
                target.ddb[key] = base.ddb[key]
        target.new_content_id()
        target.write()
        eager = preallocate and fmt == "eagerzeroedthick"
        with open_chain(dst_desc, writable=True) as disk:
            disk.keep_content_id()
            pieces = [(0, source.capacity)] if eager else source.allocated()
            copying.copy_pieces(
                source, disk, pieces, progress=progress, rate=rate, skip_zeros=not eager, total=source.capacity
            )
    if progress:
        progress(100)
    return target


def files_of(descriptor: Descriptor, resolve: Resolve | None = None) -> list[str]:
    """The descriptor, its extents and its change-tracking file."""
    paths = [descriptor.path, *(descriptor.beside(line.file, resolve) for line in descriptor.extents)]
    if descriptor.change_track:
        paths.append(descriptor.beside(descriptor.change_track, resolve))
    return paths


def delete(desc_path: str, *, resolve: Resolve | None = None) -> None:
    """Remove one disk or one delta: descriptor, extents, change-tracking file. Parents stay."""
    descriptor = read_descriptor(desc_path)
    for path in reversed(files_of(descriptor, resolve)):
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise from_os_error(error, path) from error


def rename(old_desc: str, new_desc: str, *, resolve: Resolve | None = None) -> Descriptor:
    """Rename descriptor and extents, and fix the extent lines. What names the old descriptor is not followed."""
    descriptor = read_descriptor(old_desc)
    old, new = os.path.basename(stem_of(old_desc)), os.path.basename(stem_of(new_desc))
    moves: list[tuple[str, str]] = []
    folder = os.path.dirname(new_desc) or "."
    for line in descriptor.extents:
        if not os.path.basename(line.file).startswith(old):
            continue
        name = new + os.path.basename(line.file)[len(old) :]
        moves.append((descriptor.beside(line.file, resolve), os.path.join(folder, name)))
        line.file = name
    for target in [new_desc, *(target for _, target in moves)]:
        if os.path.lexists(target):
            raise FileExists(target)
    try:
        for source, target in moves:
            os.rename(source, target)
    except OSError as error:
        raise from_os_error(error, old_desc) from error
    descriptor.path = new_desc
    descriptor.write()
    os.unlink(old_desc)
    return descriptor


def grow(
    desc_path: str, size: int, *, fmt: str | None = None, preallocate: bool = True, progress: Progress | None = None
) -> Descriptor:
    """Make a flat disk larger; smaller is refused, so is a disk that is a child."""
    descriptor = read_descriptor(desc_path)
    if descriptor.is_child or len(descriptor.extents) != 1 or descriptor.extents[0].kind != "VMFS":
        raise InvalidArgument(desc_path, "only a flat disk without a parent can grow")
    if size <= descriptor.capacity or size % SECTOR:
        raise InvalidArgument(desc_path, f"{size} bytes; the disk has {descriptor.capacity}")
    allocate = preallocate and not descriptor.is_thin
    zero = allocate and fmt == "eagerzeroedthick"
    grow_flat(descriptor.beside(descriptor.extents[0].file), size, allocate=allocate, zero=zero)
    descriptor.extents[0].sectors = size // SECTOR
    grown = base_descriptor(
        desc_path,
        descriptor.sectors,
        extents=[],
        create_type="vmfs",
        adapter=descriptor.ddb.get("ddb.adapterType", "lsilogic"),
        hw="14",
        release="7.0",
    )
    for key in ("cylinders", "heads", "sectors"):
        descriptor.ddb[f"ddb.geometry.{key}"] = grown.ddb[f"ddb.geometry.{key}"]
    descriptor.write()
    if progress:
        progress(100)
    return descriptor


def check_chain(desc_path: str, *, resolve: Resolve | None = None) -> list[Descriptor]:
    """The links of a consistent chain with every extent there and readable; else the error that says what is wrong."""
    chain = read_chain(desc_path, resolve)
    for descriptor in chain:
        for line in descriptor.extents:
            path = descriptor.beside(line.file, resolve)
            try:
                os.stat(path)
            except OSError as error:
                raise from_os_error(error, path) from error
    return chain


def punch_zero(desc_path: str, *, progress: Progress | None = None) -> int:
    """Give back the room of zeroed blocks of a flat disk (1 MiB blocks, as VMFS has them); returns bytes given back."""
    freed = 0
    with open_chain(desc_path, writable=True) as disk:
        extent = disk.links[0].extents[0][1]
        if not isinstance(extent, FlatExtent) or disk.descriptor.is_child:
            raise InvalidArgument(desc_path, "only a flat disk without a parent can be punched")
        block = 1 << 20
        for start in range(0, disk.capacity, block):
            length = min(block, disk.capacity - start)
            if disk.read(start, length) == bytes(length):
                extent.punch(start, length)
                freed += length
            if progress:
                progress((start + length) * 100 // disk.capacity)
    return freed


def inflate(desc_path: str, *, zero: bool = False, progress: Progress | None = None) -> Descriptor:
    """Turn a thin disk into a thick one (`-j`), or a zeroedthick one into an eagerly zeroed one (`-k`): keeps data."""
    descriptor = read_descriptor(desc_path)
    with open_chain(desc_path, writable=True) as disk:
        disk.keep_content_id()
        extent = disk.links[0].extents[0][1]
        if not isinstance(extent, FlatExtent) or descriptor.is_child:
            raise InvalidArgument(desc_path, "only a flat disk without a parent can be inflated")
        holes = [p for p in extent.segments(0, disk.capacity) if p.place < 0]
        try:
            os.posix_fallocate(extent.fd, 0, disk.capacity)
        except OSError as error:
            raise from_os_error(error, extent.path) from error
        for hole in holes if zero else []:
            for start in range(hole.start, hole.start + hole.length, 1 << 20):
                disk.write(start, bytes(min(1 << 20, hole.start + hole.length - start)))
                if progress:
                    progress(start * 100 // disk.capacity)
    if descriptor.ddb.pop("ddb.thinProvisioned", None):
        descriptor.write()
    if progress:
        progress(100)
    return descriptor


def create_change_track(desc_path: str) -> str:
    """Turn change tracking on in a descriptor (version 3) and make its `-ctk.vmdk`; returns that file's path."""
    descriptor = read_descriptor(desc_path)
    name = os.path.basename(stem_of(desc_path)) + "-ctk.vmdk"
    path = descriptor.beside(name)
    create_file(path)
    with open(path, "r+b") as file:
        # Only the head of this format is public: magic, version 1, 0, 0x200.
        file.write(bytes.fromhex("a27219f6") + (1).to_bytes(4, "little") + bytes(4) + (0x200).to_bytes(4, "little"))
        file.truncate(SECTOR + descriptor.capacity // (64 << 10) // 8)
    descriptor.version, descriptor.change_track = 3, name
    descriptor.write()
    return path


__all__ = [
    "FORMATS",
    "check_chain",
    "clone",
    "create_change_track",
    "create_delta",
    "create_disk",
    "create_rdm",
    "delete",
    "files_of",
    "grow",
    "inflate",
    "merge_delta",
    "punch_zero",
    "rename",
    "reparent",
    "stem_of",
]
