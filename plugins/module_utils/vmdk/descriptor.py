# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import NotADescriptor

SECTOR_BYTES = 512
NO_PARENT = "ffffffff"

_EXTENT = re.compile(r'^(RW|RDONLY|NOACCESS)\s+([0-9]{1,18})\s+([A-Z0-9]+)(?:\s+"(.*)"(?:\s+([0-9]{1,18}))?)?\s*$')
_SETTING = re.compile(r'^([A-Za-z][\w.]*)\s*=\s*(?:"(.*)"|(.*?))\s*$')

# What holds a whole disk by itself, and what only holds the difference to a parent.
_KINDS = {
    "vmfs": "flat",
    "vmfsthin": "flat",
    "monolithicflat": "flat",
    "twogbmaxextentflat": "flat",
    "vmfssparse": "vmfssparse",
    "sesparse": "sesparse",
    "vmfsrawdevicemap": "rdm-virtual",
    "vmfsrdm": "rdm-virtual",
    "vmfspassthroughrawdevicemap": "rdm-physical",
    "fulldevice": "rdm-physical",
    "twogbmaxextentsparse": "sparse",
    "monolithicsparse": "sparse",
    "streamoptimized": "stream-optimized",
}


@dataclass(frozen=True)
class Extent:
    """One extent line: `access` RW|RDONLY|NOACCESS, `kind` the keyword of the format, `file` None for ZERO."""

    access: str
    sectors: int
    kind: str
    file: str | None = None
    offset: int | None = None

    def render(self) -> str:
        text = f"{self.access} {self.sectors} {self.kind}"
        if self.file is not None:
            text += f' "{self.file}"'
        return text if self.offset is None else f"{text} {self.offset}"


@dataclass(frozen=True)
class Descriptor:
    """The text part of a virtual disk. Content ids are lower case without leading zeros removed (8 digits)."""

    version: int
    cid: str
    parent_cid: str
    create_type: str
    extents: tuple[Extent, ...]
    parent_hint: str | None = None
    ddb: Mapping[str, str] = field(default_factory=dict)
    change_track: str | None = None
    encoding: str | None = None
    native_snapshot: str | None = None

    @property
    def capacity_bytes(self) -> int:
        return sum(extent.sectors for extent in self.extents) * SECTOR_BYTES

    @property
    def kind(self) -> str:
        """flat, sparse, vmfssparse, sesparse, rdm-virtual, rdm-physical, stream-optimized, or the unknown word."""
        return _KINDS.get(self.create_type.lower(), self.create_type)

    @property
    def is_delta(self) -> bool:
        return self.parent_cid != NO_PARENT

    @property
    def thin(self) -> bool:
        return self.ddb.get("ddb.thinProvisioned") == "1"

    @property
    def uuid(self) -> str | None:
        return self.ddb.get("ddb.uuid")

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(extent.file for extent in self.extents if extent.file is not None)

    def render(self) -> str:
        lines = ["# Disk DescriptorFile", f"version={self.version}"]
        if self.encoding is not None:
            lines.append(f'encoding="{self.encoding}"')
        lines += [f"CID={self.cid}", f"parentCID={self.parent_cid}"]
        if self.native_snapshot is not None:
            lines.append(f'isNativeSnapshot="{self.native_snapshot}"')
        lines.append(f'createType="{self.create_type}"')
        if self.parent_hint is not None:
            lines.append(f'parentFileNameHint="{self.parent_hint}"')
        lines += ["", "# Extent description", *(extent.render() for extent in self.extents), ""]
        if self.change_track is not None:
            lines += ["# Change Tracking File", f'changeTrackPath="{self.change_track}"', ""]
        # Hosts write the heading with a blank at its end.
        lines += ["# The Disk Data Base ", "#DDB", "", *(f'{key} = "{self.ddb[key]}"' for key in self.ddb)]
        return "\n".join(lines) + "\n"


def parse_descriptor(text: str, path: str) -> Descriptor:
    """Read a descriptor. `path` is only named in errors. Raises NotADescriptor with the reason."""
    # qemu-img pads its own with zero bytes where the CID that it writes last is the shorter one.
    text = text.rstrip("\x00 \t\r\n")
    if "\x00" in text or not re.match(r"\s*#\s*disk descriptorfile", text, re.IGNORECASE):
        raise NotADescriptor(path=path, reason="its first line is not '# Disk DescriptorFile'")
    settings: dict[str, str] = {}
    ddb: dict[str, str] = {}
    extents: list[Extent] = []
    # Not splitlines: a file name may hold characters that Unicode calls line ends.
    for raw in text.split("\n"):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        extent = _EXTENT.match(line)
        if extent:
            access, sectors, kind, name, offset = extent.groups()
            extents.append(Extent(access, int(sectors), kind, name, None if offset is None else int(offset)))
            continue
        setting = _SETTING.match(line)
        if not setting:
            raise NotADescriptor(path=path, reason=f"this line is neither a setting nor an extent: {line[:80]!r}")
        key, quoted, bare = setting.groups()
        value = bare if quoted is None else quoted
        if key.startswith("ddb."):
            ddb[key] = value
        else:
            settings[key.lower()] = value
    for needed in ("cid", "createtype"):
        if not settings.get(needed):
            raise NotADescriptor(path=path, reason=f"it has no {needed} line")
    if not extents:
        raise NotADescriptor(path=path, reason="it names no extent")
    try:
        version = int(settings.get("version", "1"))
        cid, parent = _cid(settings["cid"]), _cid(settings.get("parentcid", NO_PARENT))
    except ValueError as error:
        raise NotADescriptor(path=path, reason=str(error)) from error
    return Descriptor(
        version=version,
        cid=cid,
        parent_cid=parent,
        create_type=settings["createtype"],
        extents=tuple(extents),
        parent_hint=settings.get("parentfilenamehint") or None,
        ddb=ddb,
        change_track=settings.get("changetrackpath") or None,
        encoding=settings.get("encoding"),
        native_snapshot=settings.get("isnativesnapshot"),
    )


def _cid(text: str) -> str:
    if not re.fullmatch("[0-9A-Fa-f]{1,8}", text):
        raise ValueError(f"{text[:80]!r} is no content id")
    return f"{int(text, 16):08x}"
