# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMDK descriptor files, written as each ESXi release writes them."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import NotADisk, from_os_error

SECTOR = 512
NO_PARENT = "ffffffff"
NEVER_WRITTEN = "fffffffe"
CHILD_TYPES = ("vmfsSparse", "seSparse")

_EXTENT = re.compile(r'^(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z0-9]+)(?:\s+"(.*)"(?:\s+(\d+))?)?\s*$')
_DDB = re.compile(r'^(ddb\.\S+)\s*=\s*"(.*)"\s*$')
_FIELD = re.compile(r'^(\w+)\s*=\s*"?(.*?)"?\s*$')


@dataclass
class ExtentLine:
    """One line of the extent description."""

    access: str
    sectors: int
    kind: str
    file: str
    offset: int | None = None

    def render(self) -> str:
        text = f'{self.access} {self.sectors} {self.kind} "{self.file}"'
        return text if self.offset is None else f"{text} {self.offset}"


@dataclass
class Descriptor:
    """The content of one descriptor; `path` is where it was read from or will be written."""

    path: str
    cid: str
    parent_cid: str = NO_PARENT
    create_type: str = "vmfs"
    extents: list[ExtentLine] = field(default_factory=list)
    parent_hint: str | None = None
    ddb: dict[str, str] = field(default_factory=dict)
    version: int = 1
    encoding: str | None = "UTF-8"
    native_snapshot: str | None = None
    change_track: str | None = None

    @property
    def sectors(self) -> int:
        return sum(extent.sectors for extent in self.extents)

    @property
    def capacity(self) -> int:
        """Bytes that the guest sees."""
        return self.sectors * SECTOR

    @property
    def is_child(self) -> bool:
        return self.parent_cid != NO_PARENT

    @property
    def is_thin(self) -> bool:
        return self.ddb.get("ddb.thinProvisioned") == "1"

    def render(self) -> str:
        lines = ["# Disk DescriptorFile", f"version={self.version}"]
        if self.encoding:
            lines.append(f'encoding="{self.encoding}"')
        lines += [f"CID={self.cid}", f"parentCID={self.parent_cid}"]
        if self.native_snapshot is not None:
            lines.append(f'isNativeSnapshot="{self.native_snapshot}"')
        lines.append(f'createType="{self.create_type}"')
        if self.parent_hint is not None:
            # Children have no blank line before their extents, base disks do.
            lines.append(f'parentFileNameHint="{self.parent_hint}"')
        else:
            lines.append("")
        lines.append("# Extent description")
        lines += [extent.render() for extent in self.extents]
        lines.append("")
        if self.change_track is not None:
            lines += ["# Change Tracking File", f'changeTrackPath="{self.change_track}"', ""]
        # The blank after "Data Base" is ESXi's own.
        lines += ["# The Disk Data Base ", "#DDB", ""]
        lines += [f'{key} = "{self.ddb[key]}"' for key in sorted(self.ddb)]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Put the text in place, so that no reader ever sees half of it."""
        data = self.render().encode("utf-8")
        try:
            if os.path.exists(self.path) and os.path.getsize(self.path) == len(data):
                # A new CID keeps the length: one write in place, which needs no room on a full datastore.
                fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.pwrite(fd, data, 0)
                finally:
                    os.close(fd)
                return
            temp = f"{self.path}~{secrets.token_hex(3)}"
            try:
                fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    os.fchmod(fd, 0o600)
                    view = memoryview(data)
                    while view:
                        view = view[os.write(fd, view) :]
                finally:
                    os.close(fd)
                os.replace(temp, self.path)
            except OSError:
                if os.path.exists(temp):
                    os.unlink(temp)
                raise
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def new_content_id(self, random_hex: Callable[[int], str] = secrets.token_hex) -> None:
        """What the first write after opening does: a new CID, repeated at the end of the long one."""
        self.cid = fresh_cid(random_hex)
        long_id = self.ddb.get("ddb.longContentID", "")
        if len(long_id) == 32:
            self.ddb["ddb.longContentID"] = random_hex(12) + self.cid

    def folder(self) -> str:
        return os.path.dirname(self.path) or "."

    def beside(self, name: str, resolve: Callable[[str], str] | None = None) -> str:
        """The path of a file that the descriptor names: absolute, or relative to the descriptor's folder."""
        if os.path.isabs(name):
            return resolve(name) if resolve else name
        return os.path.join(self.folder(), name)


def fresh_cid(random_hex: Callable[[int], str] = secrets.token_hex) -> str:
    """A random content ID that is none of the reserved ones."""
    while True:
        cid = random_hex(4)
        if cid not in (NO_PARENT, NEVER_WRITTEN, "00000000"):
            return cid


def parse_descriptor(text: str, path: str) -> Descriptor:
    """Read a descriptor's text; anything else is `NotADisk`."""
    if not text.lstrip().startswith("# Disk DescriptorFile"):
        raise NotADisk(path, "no '# Disk DescriptorFile' line")
    found = Descriptor(path=path, cid="", create_type="", encoding=None)
    for raw in text.split("\n"):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        extent = _EXTENT.match(line)
        if extent:
            access, sectors, kind, name, offset = extent.groups()
            found.extents.append(ExtentLine(access, int(sectors), kind, name or "", int(offset) if offset else None))
            continue
        entry = _DDB.match(line)
        if entry:
            found.ddb[entry.group(1)] = entry.group(2)
            continue
        named = _FIELD.match(line)
        if named:
            _set_field(found, named.group(1), named.group(2))
    if not found.extents or not found.cid:
        raise NotADisk(path, "no extent line or no CID")
    return found


def _set_field(found: Descriptor, key: str, value: str) -> None:
    if key == "version":
        found.version = int(value)
    elif key == "CID":
        found.cid = value.lower().rjust(8, "0")
    elif key == "parentCID":
        found.parent_cid = value.lower().rjust(8, "0")
    else:
        name = {
            "encoding": "encoding",
            "isNativeSnapshot": "native_snapshot",
            "createType": "create_type",
            "parentFileNameHint": "parent_hint",
            "changeTrackPath": "change_track",
        }.get(key)
        if name:
            setattr(found, name, value)


def read_descriptor(path: str) -> Descriptor:
    try:
        with open(path, "rb") as file:
            head = file.read(65536)
    except OSError as error:
        raise from_os_error(error, path) from error
    if b"\0" in head:
        raise NotADisk(path, "binary content where a descriptor's text is expected")
    return parse_descriptor(head.decode("utf-8", "replace"), path)


def geometry(sectors: int, adapter: str) -> tuple[int, int, int]:
    """Cylinders, heads, sectors as ESXi writes them for the adapter."""
    if adapter == "ide":
        return min(16383, max(1, sectors // (16 * 63))), 16, 63
    if sectors < 1 << 21:
        return max(1, sectors // (64 * 32)), 64, 32
    return sectors // (255 * 63), 255, 63


def new_disk_uuid(random_hex: Callable[[int], str] = secrets.token_hex) -> str:
    """A disk's `ddb.uuid`, `60 00 C2 9x …` as ESXi makes them."""
    tail = random_hex(12)
    digits = "6000c29" + random_hex(1)[1] + tail
    pairs = [digits[i : i + 2] for i in range(0, 32, 2)]
    return " ".join(pairs[:8]) + "-" + " ".join(pairs[8:])


def carries_native_snapshot(release: str) -> bool:
    """Whether the release writes `isNativeSnapshot="no"` into descriptors.

    Seen on 5.x and 6.0. The recorded sizes of 6.7U3 (a delta of 296 bytes, a base of 551) only come out without it
    and with `ddb.deletable`, as in the recorded descriptor of 8.0U1.
    """
    major, _, minor = release.partition(".")
    return (int(major), int(minor.split(".")[0] or 0) if minor else 0) < (6, 7)


def base_descriptor(
    path: str,
    sectors: int,
    *,
    extents: list[ExtentLine],
    create_type: str,
    adapter: str,
    hw: str,
    release: str,
    tools_version: str | None = None,
) -> Descriptor:
    """The descriptor of a new disk without a parent, never written to."""
    extra: dict[str, str] = {} if carries_native_snapshot(release) else {"ddb.deletable": "true"}
    if tools_version:
        extra |= {"ddb.toolsInstallType": "1", "ddb.toolsVersion": tools_version}
    cylinders, heads, per_track = geometry(sectors, adapter)
    return Descriptor(
        path=path,
        cid=NEVER_WRITTEN,
        create_type=create_type,
        extents=extents,
        native_snapshot="no" if carries_native_snapshot(release) else None,
        ddb={
            "ddb.adapterType": adapter,
            "ddb.geometry.cylinders": str(cylinders),
            "ddb.geometry.heads": str(heads),
            "ddb.geometry.sectors": str(per_track),
            "ddb.longContentID": secrets.token_hex(12) + NEVER_WRITTEN,
            "ddb.uuid": new_disk_uuid(),
            "ddb.virtualHWVersion": str(hw),
        }
        | extra,
    )


def child_descriptor(path: str, parent: Descriptor, kind: str, extent_file: str, hint: str, release: str) -> Descriptor:
    """The descriptor of a fresh delta: its CID is the parent's until the first write."""
    sesparse = kind == "sesparse"
    ddb = {"ddb.longContentID": parent.ddb.get("ddb.longContentID", secrets.token_hex(12) + parent.cid)}
    if sesparse:
        ddb |= {"ddb.encoding": "UTF-8", "ddb.grain": "8"}
    return Descriptor(
        path=path,
        cid=parent.cid,
        parent_cid=parent.cid,
        create_type="seSparse" if sesparse else "vmfsSparse",
        extents=[ExtentLine("RW", parent.sectors, "SESPARSE" if sesparse else "VMFSSPARSE", extent_file)],
        parent_hint=hint,
        # The recorded seSparse descriptor has neither line; it keeps its encoding in the data base.
        encoding=None if sesparse else "UTF-8",
        native_snapshot="no" if not sesparse and carries_native_snapshot(release) else None,
        ddb=ddb,
    )
