# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points: the manifest of one machine at one time, and the maps of its disks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import CHECK_BYTES, ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_point_id

FOLDER = "points/"
SLOT_BYTES = ID_BYTES + CHECK_BYTES
PAGE_SLOTS = 1024
NOTHING = bytes(ID_BYTES)
FORMAT = 1
# Bytes of the largest chunk and of the largest file beside a disk.
LONGEST_RECORD = 1 << 26
_LARGEST_DISK = 1 << 50


@dataclass(frozen=True)
class DiskMap:
    """A disk of a restore point. `pages` are ids of map pages, None for one that is all zeros."""

    key: str
    size: int
    chunk_bytes: int
    pages: tuple[bytes | None, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return -(-self.size // self.chunk_bytes)

    def slots_of(self, page: int) -> int:
        return min(PAGE_SLOTS, self.slots - page * PAGE_SLOTS)

    def length_of(self, slot: int) -> int:
        """Bytes of one chunk: the last one of a disk may be shorter."""
        return min(self.chunk_bytes, self.size - slot * self.chunk_bytes)


@dataclass(frozen=True)
class StoredFile:
    """A small file beside the disks; `id` is that of its record, None when it is empty."""

    name: str
    size: int
    id: bytes | None

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name or "\0" in self.name:
            raise ValueError(f"{self.name!r} is no name of a file beside a disk")
        if not 0 <= self.size <= LONGEST_RECORD:
            raise ValueError(f"{self.name!r} has {self.size} bytes: no small file")


@dataclass(frozen=True)
class Point:
    """One machine at one time."""

    point: str
    machine_id: str
    machine_name: str
    created_at: str
    writer: str
    disks: tuple[DiskMap, ...]
    files: tuple[StoredFile, ...] = ()
    parent: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def object_name(self) -> str:
        return object_name(self.machine_id, self.point)

    def disk(self, key: str) -> DiskMap | None:
        return next((disk for disk in self.disks if disk.key == key), None)

    def render(self) -> bytes:
        value = {
            "format": FORMAT,
            "point": self.point,
            "machine": {"id": self.machine_id, "name": self.machine_name},
            "created_at": self.created_at,
            "writer": self.writer,
            "parent": self.parent,
            "disks": [
                {
                    "key": disk.key,
                    "bytes": disk.size,
                    "chunk_bytes": disk.chunk_bytes,
                    "pages": [page.hex() if page else None for page in disk.pages],
                    "facts": dict(disk.facts),
                }
                for disk in self.disks
            ],
            "files": [
                {"name": file.name, "id": file.id.hex() if file.id else None, "bytes": file.size} for file in self.files
            ],
            "facts": dict(self.facts),
        }
        return textfile.render(value)


def folder_of(machine_id: str) -> str:
    """The folder of a machine's points. Its id is whatever the hypervisor says: only a hash of it is a name."""
    return f"{FOLDER}{hashlib.sha256(machine_id.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}/"


def object_name(machine_id: str, point: str) -> str:
    return f"{folder_of(machine_id)}{point}.json"


def parse(data: bytes, name: str, store: str) -> Point:
    """The point in a manifest. Everything in it is checked: it may be a stranger's."""

    def wrong(reason: str) -> Damaged:
        return Damaged(name=name, store=store, reason=reason)

    value = textfile.parse(data, name, store)
    try:
        if value["format"] != FORMAT:
            raise wrong(f"format {str(value['format'])[:40]!r} is not known")
        point = Point(
            point=_text(value["point"]),
            machine_id=_text(value["machine"]["id"]),
            machine_name=_text(value["machine"]["name"]),
            created_at=_text(value["created_at"]),
            writer=_text(value["writer"]),
            parent=None if value["parent"] is None else _text(value["parent"]),
            disks=tuple(_disk(entry) for entry in value["disks"]),
            files=tuple(_file(entry) for entry in value["files"]),
            facts=dict(value["facts"]),
        )
        mine = is_point_id(point.point) and point.object_name == name
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong(f"it does not hold what a manifest must: {error!r:.300}") from error
    if not mine:
        raise wrong("it is the manifest of another point")
    return point


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _number(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no number from 0 to {most}")
    return value


def _id(value: Any) -> bytes | None:
    if value is None:
        return None
    raw = bytes.fromhex(_text(value))
    if len(raw) != ID_BYTES:
        raise ValueError(f"{value!r} is no id")
    return raw


def _disk(entry: Any) -> DiskMap:
    size, chunk = _number(entry["bytes"], _LARGEST_DISK), _number(entry["chunk_bytes"], LONGEST_RECORD)
    if chunk < 4096 or chunk & (chunk - 1):
        raise ValueError(f"chunks of {chunk} bytes")
    disk = DiskMap(_text(entry["key"]), size, chunk, tuple(map(_id, entry["pages"])), dict(entry["facts"]))
    if len(disk.pages) != -(-disk.slots // PAGE_SLOTS):
        raise ValueError(f"{len(disk.pages)} pages for a disk of {size} bytes")
    return disk


def _file(entry: Any) -> StoredFile:
    return StoredFile(_text(entry["name"]), _number(entry["bytes"], LONGEST_RECORD), _id(entry["id"]))


def slots(page: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, id and check of every slot of a page that is not all zeros."""
    for number in range(len(page) // SLOT_BYTES):
        at = number * SLOT_BYTES
        identity = page[at : at + ID_BYTES]
        if identity != NOTHING:
            yield number, identity, page[at + ID_BYTES : at + SLOT_BYTES]
