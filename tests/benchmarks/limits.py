# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine allows: the bare acts of each row, on the bytes of the disks, by all cores, and nothing around them.

Each act (read, check, hash, compress, expand, write) is measured alone; the limit of a row is the sum of what it cannot
do without. Acts of a core add up; a device that is slower than the cores together is the limit instead.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import blake3
import xxhash
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from measure import data_extents

CHUNK = 1 << 20
THREADS = len(os.sched_getaffinity(0))
ZEROS = bytes(CHUNK)


@dataclass
class Act:
    """Seconds of wall with all cores, for so many bytes."""

    seconds: float = 0.0
    amount: int = 0

    def of(self, amount: int) -> float:
        return self.seconds * amount / self.amount if self.amount else 0.0


@dataclass
class Limits:
    """Measured on some disks: the acts, and how many bytes there are of what kind."""

    read: Act = field(default_factory=Act)
    check: Act = field(default_factory=Act)
    sha256: Act = field(default_factory=Act)
    blake3: Act = field(default_factory=Act)
    pack: Act = field(default_factory=Act)
    pack_fast: Act = field(default_factory=Act)
    expand: Act = field(default_factory=Act)
    cipher: Act = field(default_factory=Act)
    write: Act = field(default_factory=Act)
    data: int = 0
    """Bytes that are no holes."""
    filled: int = 0
    """Bytes in chunks that are not all zeros."""
    unique: int = 0
    stored: int = 0
    """Unique bytes after compression."""

    def backup(self, fast: bool = False, encrypted: bool = False) -> float:
        """A first backup of these disks, in seconds."""
        hashed = self.blake3 if fast else self.sha256
        packed = self.pack_fast if fast else self.pack
        bare = self.look(self.data) + hashed.of(self.filled) + packed.of(self.unique) + self.write.of(self.stored)
        return bare + (self.cipher.of(self.stored) if encrypted else 0.0)

    def look(self, amount: int) -> float:
        """So many bytes read, and their checks made."""
        return self.read.of(amount) + self.check.of(amount)

    def restore(self, paranoid: bool = False) -> float:
        """All unique records read and expanded, all data checked and written to a new file."""
        return self._decoded() + self.write.of(self.filled) + (self.sha256.of(self.unique) if paranoid else 0.0)

    def verify(self) -> float:
        """All unique records read, expanded and hashed."""
        return self._decoded() + self.sha256.of(self.unique)

    def _decoded(self) -> float:
        return self.look(self.stored) + self.expand.of(self.unique) + self.check.of(self.unique)


def of(paths: Sequence[str], work: Path, only: Sequence[Sequence[int]] | None = None) -> Limits:
    """Measure with these disks; `only`: of each disk the offsets of the chunks that count, if not all."""
    found = Limits()
    chunks = [
        (path, offset)
        for number, path in enumerate(paths)
        for offset in (_grid(path) if only is None else only[number])
    ]
    found.data = len(chunks) * CHUNK
    found.read = _timed(chunks, lambda _handle, _view: None)
    seen: dict[bytes, tuple[str, int]] = {}
    filled: list[tuple[str, int]] = []

    def name(key: tuple[str, int], view: memoryview) -> None:
        if not ZEROS.startswith(view):
            filled.append(key)
            seen.setdefault(hashlib.sha256(view).digest(), key)

    _timed(chunks, name)
    filled.sort()
    unique = sorted(seen.values())
    found.filled, found.unique = len(filled) * CHUNK, len(unique) * CHUNK
    found.check = _less(_timed(filled, lambda _key, view: xxhash.xxh3_128(view)), found.read)
    found.sha256 = _less(_timed(filled, lambda _key, view: hashlib.sha256(view)), found.read)
    found.blake3 = _less(_timed(filled, _blake3), found.read)
    sizes: list[int] = []
    found.pack = _less(_timed(unique, _packing(1, lambda packed: sizes.append(len(packed)))), found.read)
    found.stored = sum(sizes)
    found.pack_fast = _less(_timed(unique, _packing(-1, lambda _packed: None)), found.read)
    found.expand = _expanding(unique)
    found.cipher = _less(_timed(filled, _sealing), found.read)
    found.write = _writing(unique, work / "limit.raw")
    return found


def _grid(path: str) -> list[int]:
    size = os.path.getsize(path)
    return sorted(
        {offset for begin, end in data_extents(path) for offset in range(begin // CHUNK * CHUNK, min(end, size), CHUNK)}
    )


def _timed(chunks: Sequence[tuple[str, int]], act: Callable[[tuple[str, int], memoryview], object]) -> Act:
    """Every chunk read and acted on, by all cores."""
    handles = {path: os.open(path, os.O_RDONLY) for path in {path for path, _offset in chunks}}
    work = iter([chunks[at : at + 16] for at in range(0, len(chunks), 16)])

    def lane(_number: int) -> None:
        room = memoryview(bytearray(CHUNK))
        for span in work:
            for path, offset in span:
                got = os.preadv(handles[path], [room], offset)
                act((path, offset), room[:got])

    begin = time.perf_counter()
    _lanes(lane)
    seconds = time.perf_counter() - begin
    for handle in handles.values():
        os.close(handle)
    return Act(seconds, len(chunks) * CHUNK)


def _lanes(lane: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(THREADS) as executor:
        for one in [executor.submit(lane, number) for number in range(THREADS)]:
            one.result()


def _less(both: Act, read: Act) -> Act:
    """Without the reading that was measured with it."""
    return Act(max(0.0, both.seconds - read.of(both.amount)), both.amount)


def _blake3(_key: tuple[str, int], view: memoryview) -> None:
    blake3.blake3(view).digest()


def _sealing(key: tuple[str, int], view: memoryview) -> None:
    AESGCM(bytes(32)).encrypt(key[1].to_bytes(12, "big"), view, None)


def _packing(level: int, take: Callable[[bytes], None]) -> Callable[[tuple[str, int], memoryview], None]:
    own = threading.local()

    def act(_key: tuple[str, int], view: memoryview) -> None:
        if not hasattr(own, "packer"):
            own.packer = zstandard.ZstdCompressor(level=level, write_checksum=False)
        take(own.packer.compress(view))

    return act


def _groups(chunks: Sequence[tuple[str, int]], size: int) -> Iterator[Sequence[tuple[str, int]]]:
    return (chunks[at : at + size] for at in range(0, len(chunks), size))


def _expanding(chunks: Sequence[tuple[str, int]]) -> Act:
    """Frames of a few hundred chunks at a time, made before the clock runs."""
    total = Act()
    packer = zstandard.ZstdCompressor(level=1)
    for group in _groups(chunks, 256):
        frames = []
        for path, offset in group:
            with open(path, "rb", buffering=0) as file:
                file.seek(offset)
                frames.append(packer.compress(file.read(CHUNK)))
        work = iter(frames)

        def lane(_number: int, work: Iterator[bytes] = work) -> None:
            unpacker = zstandard.ZstdDecompressor()
            for frame in work:
                unpacker.decompress(frame, max_output_size=CHUNK)

        begin = time.perf_counter()
        _lanes(lane)
        total.seconds += time.perf_counter() - begin
        total.amount += len(frames) * CHUNK
    return total


def _writing(chunks: Sequence[tuple[str, int]], path: Path) -> Act:
    """A new file of as many bytes, each core at places of its own, and its sync."""
    room = os.urandom(CHUNK)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    work = iter(range(len(chunks)))

    def lane(_number: int) -> None:
        for number in work:
            os.pwrite(handle, room, number * CHUNK)

    begin = time.perf_counter()
    _lanes(lane)
    os.fsync(handle)
    seconds = time.perf_counter() - begin
    os.close(handle)
    path.unlink()
    return Act(seconds, len(chunks) * CHUNK)
