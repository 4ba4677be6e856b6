# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small stores and disks for the tests of the store's room."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mirrored
import objectstore
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, restore, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.s3 import S3Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.report import Report
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

BUCKET = "stowage-tests"
CHUNK = 1 << 16
SECRET = "correct horse"


def spoiled(text: bytes) -> bytes:
    """A small file of a store with another checksum than its own."""
    return text[:-3] + (b"11\n" if text.endswith(b"00\n") else b"00\n")


def new_store(backend: Backend, passphrase: str | None = None, hash_name: str = "sha256", **settings: Any) -> Store:
    small = {"pack_bytes": 1 << 20, **settings}
    return Store.create(backend, chunk_bytes=CHUNK, hash_name=hash_name, passphrase=passphrase, settings=small)


def local(path: Path) -> Backend:
    """A place for a store whose files lie in this folder."""
    return mirrored.place(path) or LocalBackend(str(path))


def s3(endpoint: str, prefix: str = "", **more: Any) -> S3Backend:
    """A store's place in the tests' bucket; of its own, where none is given."""
    access, secret = objectstore.KEYS
    return S3Backend(
        BUCKET, prefix or secrets.token_hex(6), endpoint=endpoint, access_key=access, secret_key=secret, **more
    )


def image(path: Path, chunks: Sequence[int], size: int | None = None) -> Path:
    """A raw disk: one number a chunk. 0 is a hole, others are the seed of that chunk's bytes."""
    size = len(chunks) * CHUNK if size is None else size
    with open(path, "wb") as file:
        file.truncate(size)
        for number, seed in enumerate(chunks):
            if seed and number * CHUNK < size:
                file.seek(number * CHUNK)
                file.write(chunk(seed)[: size - number * CHUNK])
    return path


def edited(path: Path, size: int, edits: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """The disk gets this size, and each (offset, length, byte) is written as far as there is room; what was written."""
    areas = []
    with open(path, "r+b") as file:
        file.truncate(size)
        for offset, length, byte in edits:
            length = min(length, size - offset)
            if length > 0:
                file.seek(offset)
                file.write(bytes([byte]) * length)
                areas.append((offset, length))
    return areas


def chunk(seed: int) -> bytes:
    """Half of it compresses."""
    half = random.Random(seed).randbytes(CHUNK // 2)
    return half + bytes(half[:16]) * (CHUNK // 32)


def back_up(store: Store, *disks: Path, machine: str = "vm-1", **more: Any) -> tuple[Point, backup.Told]:
    sources = [RawDisk(str(path)) for path in disks]
    changed = more.pop("changed", None)
    inputs = [backup.DiskInput(f"scsi0:{n}", source, changed) for n, source in enumerate(sources)]
    try:
        return backup.run(
            store,
            machine,
            f"name of {machine}",
            inputs,
            {"a.vmx": f"displayName {machine}".encode()},
            threads=2,
            **more,
        )
    finally:
        for source in sources:
            source.close()


def restored(store: Store, point: Point, folder: Path, key: str = "scsi0:0") -> bytes:
    target = folder / f"out-{point.point}-{key.replace(':', '-')}"
    disk = point.disk(key)
    assert disk is not None
    restore.to_file(store, disk, str(target), paranoid=True, threads=2)
    data = target.read_bytes()
    target.unlink()
    return data


def by_hand(root: Path, point: Point, folder: Path, key: str = "scsi0:0", secret: str | None = None) -> bytes:
    """The same by the reader that lies in the store, as a program of its own that knows nothing of the collection."""
    target = folder / "by-hand"
    environment = {"PATH": os.environ["PATH"], **({"STOWAGE_PASSPHRASE": secret} if secret else {})}
    words = [sys.executable, "-I", str(root / "reader.py"), str(root), point.point, key, str(target)]
    subprocess.run(words, env=environment, check=True, capture_output=True)
    data = target.read_bytes()
    target.unlink()
    return data


def sound(store: Store) -> Report:
    report = verify.run(store, deep=True, threads=2)
    assert report.ok, (report.problems, report.bad, report.hit)
    return report
