# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Valid files, changed at will: by accident (checksums are then wrong) and by a writer who makes them right again."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    backup,
    collect,
    names,
    pack,
    reader,
    registry,
    restore,
    textfile,
    verify,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend, Ranges, Upload
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectExists, ObjectMissing
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import record_check
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import HEADER as INDEX_HEADER
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Segment
from ansible_collections.stowage.esxi.plugins.module_utils.store.part import newest
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from fakeclock import FakeClock
from mutating import Change, changed

from .benches import CHUNK, image

SECRET = "fuzz"


class MemoryRanges(Ranges):
    size = 0

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name, self.size = data, name, len(data)

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > self.size:
            raise Damaged(name=self._name, store="memory", reason=f"it ends before byte {offset + length}")
        return self._data[offset : offset + length]

    def close(self) -> None:
        pass


class MemoryUpload(Upload):
    def __init__(self, backend: MemoryBackend, name: str) -> None:
        self._backend, self._name, self._parts = backend, name, bytearray()

    def append(self, parts: Sequence[Any]) -> None:
        for part in parts:
            self._parts += part

    def commit(self) -> None:
        self._backend.create(self._name, bytes(self._parts))

    def abort(self) -> None:
        pass


class MemoryBackend(Backend):
    """Objects in a dictionary. A name that no object may have is a defect of whoever asks for it."""

    name = "memory"

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        if self._own(name) not in self.objects:
            raise ObjectMissing(name=name, store=self.name)
        if len(self.objects[name]) > limit:
            raise Damaged(name=name, store=self.name, reason="it is too large")
        return self.objects[name]

    def _own(self, name: str) -> str:
        assert names.is_object_name(name), name
        return name

    def open(self, name: str) -> Ranges:
        return MemoryRanges(self.read(name, 1 << 40), name)

    def map(self, name: str) -> bytes:
        return self.read(name, 1 << 40)

    def create(self, name: str, data: bytes) -> None:
        if self._own(name) in self.objects:
            raise ObjectExists(name=name, store=self.name)
        self.objects[name] = data

    def upload(self, name: str) -> Upload:
        return MemoryUpload(self, self._own(name))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield from [(name, len(data)) for name, data in self.objects.items() if name.startswith(prefix)]

    def delete(self, name: str) -> None:
        self.objects.pop(self._own(name), None)

    def tidy(self) -> None:
        pass


def objects(folder: Path, secret: str | None = None) -> dict[str, bytes]:
    """A small store with everything in it: two points, a file, a writer under way, an announcement, settings."""
    backend = MemoryBackend({})
    store = Store.create(backend, chunk_bytes=CHUNK, passphrase=secret, settings={"pack_bytes": 1 << 18})
    parent = None
    for number, seeds in enumerate(([1, 0, 2], [1, 3, 2, 0])):
        disk = RawDisk(str(image(folder / f"disk{number}", seeds)))
        inputs = [backup.DiskInput("scsi0:0", disk)]
        parent, _told = backup.run(
            store, "vm-1", "web 01", inputs, {"a.vmx": b"x" * 99}, threads=1, parent=parent, facts={"hw": [14, None]}
        )
        disk.close()
    registration = {"writer": "0123456789abcdef", "point": parent.object_name[:-11] + "aaaaaa.json"}
    backend.create("writers/0123456789abcdef.json", textfile.render(registration))
    backend.create("gc/00000001.json", textfile.render({"packs": ["0123456789abcdef-000009"]}))
    backend.create("gc/00000001-waits.json", textfile.render({"writers": ["0123456789abcdef"]}))
    return backend.objects


# -- changes -----------------------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    1 << 31,
    1 << 63,
    10**30,
    "",
    ".",
    "../../../../tmp/stowage-fuzz-outside",
    "/tmp/stowage-fuzz-outside",
    "a\0b",
    "\ud800",
    "\udc80",
    "x" * 5000,
    "00" * 32,
    "11" * 31,
    [],
    {},
    [None],
    [[[[]]]],
    {"a": {"b": []}},
    ["../../x", "../y"],
    ["0123456789abcdef-000001"],
)


def changed_json(data: bytes, changes: Sequence[Change]) -> bytes:
    """One line of JSON with some of its nodes replaced, removed or doubled; its checksum is right."""
    value = json.loads(data.split(b"\n")[0])
    for kind, where, number in changes:
        nodes = list(_nodes(value))
        holder, key = nodes[where % len(nodes)]
        new = copy.deepcopy(_VALUES[number % len(_VALUES)])
        if kind % 4 == 0:
            del holder[key]
        elif kind % 4 == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif kind % 4 == 2 and isinstance(holder[key], int):
            holder[key] += number % 5 - 2
        else:
            holder[key] = new
        if not value:
            break
    body = json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
    if changes and changes[0][1] % 61 == 0:
        body = b"[" * 100_000 + b"\n" if changes[0][2] & 1 else body.replace(b"null", b"9" * 6000)
    return proven_text(body)


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _nodes(value[key])


def proven_text(body: bytes) -> bytes:
    return body + b"xxh3-128 " + record_check(body).hex().encode() + b"\n"


def proven_pack(data: bytes) -> bytes:
    """Every checksum in a pack made right, as far as its structure can still be followed."""
    out = bytearray(data)
    if len(out) < 112:
        return data
    place = 64
    while place + 80 <= len(out) and out[place : place + 4] == b"SREC":
        (stored,) = struct.unpack_from("<I", out, place + 12)
        end = place + 64 + stored
        if end + 16 > len(out):
            break
        out[end : end + 16] = record_check(bytes(out[place:end]))
        place = end + 16
    foot = len(out) - 48
    (offset,) = struct.unpack_from("<Q", out, foot + 16)
    table = bytes(out[offset:foot]) if offset < foot else b""
    out[foot + 32 :] = record_check(bytes(out[:64]), table, bytes(out[foot : foot + 32]))
    return bytes(out)


def proven_index(data: bytes) -> bytes:
    if len(data) < INDEX_HEADER.size:
        return data
    check = record_check(data[:24], data[40:64], data[64:])
    return data[:24] + check + data[40:]


def altered(name: str, data: bytes, changes: Sequence[Change], hostile: bool) -> bytes:
    """A file after an accident, or as a hostile writer would leave it."""
    if not hostile:
        return changed(data, changes)
    if name.endswith(".json") and data[:1] == b"{":
        return changed_json(data, changes)
    if name.endswith(".pack"):
        return proven_pack(changed(data, changes))
    if name.endswith(".idx"):
        return proven_index(changed(data, changes))
    return changed(data, changes)


# -- what is done with them --------------------------------------------------------------------------------------------


def use_segment(data: bytes, known: Sequence[bytes]) -> None:
    segment = Segment(data, "index/x.idx", "memory")
    for identity in known:
        position = segment.position(identity)
        if position >= 0:
            with contextlib.suppress(Damaged):
                assert names.is_pack_name(segment.place(position).pack)
    with contextlib.suppress(Damaged):
        for _identity, _place in segment.items():
            pass
    segment.verify()


def use_pack(data: bytes, store: Store) -> None:
    one = pack.PackReader("packs/x.pack", MemoryRanges(data, "packs/x.pack"), "memory", store.codec, store.vault)
    one.check_header(bytes.fromhex(store.id))
    for entry in one.entries_or_survivors():
        with contextlib.suppress(Damaged):
            room, _check = one.expand(one.raw(entry.offset, entry.stored), entry.offset, entry.length, entry.id)
            assert len(room) == entry.length


def use_registry(backend: Backend) -> None:
    for writer in registry.registrations(backend):
        # One that has no point is a keeper.
        assert (writer.point is None or names.is_point_name(writer.point)) and names.is_writer_id(writer.id)
    assert all(map(names.is_pack_name, registry.condemned(backend)))
    registry.beats(backend)


def use_store(backend: MemoryBackend, secret: str | None, target: Path) -> None:
    """All that an operator may do with a store, each for itself."""
    store = Store.open(backend, secret, FakeClock())
    found = []
    with contextlib.suppress(StowageError):
        found = store.points()
    for point in found:
        for disk in point.disks:
            # What a manifest says of a disk's size is no room of ours.
            if disk.size > 64 * CHUNK:
                continue
            with contextlib.suppress(StowageError):
                restore.to_file(store, disk, str(target), paranoid=True, threads=1)
                assert target.stat().st_size == disk.size
                target.unlink()
        for file in point.files:
            with contextlib.suppress(StowageError):
                if file.id is not None:
                    store.read_record(file.id)
    verify.run(store, deep=True, threads=1)
    verify.run(store, part=newest(store), threads=1, record=False)
    with contextlib.suppress(StowageError):
        collect.run(store, observe_seconds=1)
    use_registry(backend)


def use_reader(root: Path, secret: str | None, point: str, target: Path) -> None:
    """The independent reader, as a program would run it. It ends with words, or has written one file."""
    os.environ["STOWAGE_PASSPHRASE"] = secret or ""
    for words in ([], [point], [point, "scsi0:0", str(target)], [point, "a.vmx", str(target)]):
        noise = io.StringIO()
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            try:
                reader.main([str(root), *words])
            except Exception as error:
                # As its last lines do.
                assert not isinstance(error, (MemoryError, AssertionError)), error
        if target.exists():
            target.unlink()


def outcomes(call: Callable[[], None]) -> str:
    """`fine` or the id of the error; any other exception is passed on."""
    try:
        call()
    except StowageError as error:
        assert error.message and len(error.message) < 2000
        return error.id
    return "fine"
