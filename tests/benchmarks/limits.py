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
import measure
import xxhash
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK = 1 << 20
FAST = -1
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
    """As many bytes as are stored, to a new file and synced."""
    fill: Act = field(default_factory=Act)
    """As many bytes as one disk has."""
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
        return self._decoded() + self.fill.of(self.filled) + (self.sha256.of(self.unique) if paranoid else 0.0)

    def verify(self) -> float:
        """All unique records read, expanded and hashed."""
        return self._decoded() + self.sha256.of(self.unique)

    def _decoded(self) -> float:
        return self.look(self.stored) + self.expand.of(self.unique) + self.check.of(self.unique)


def of(paths: Sequence[str], work: Path, only: Sequence[Sequence[int]] | None = None) -> Limits:
    """Measure with these disks; `only`: of each disk the offsets of the chunks that count, if not all."""
    found = Limits()
    measure.warm(*paths)
    measure.touch_memory()
    chunks = [
        (path, offset)
        for number, path in enumerate(paths)
        for offset in (_grid(path) if only is None else only[number])
    ]
    found.data = len(chunks) * CHUNK
    found.read = _best(lambda: _timed(chunks, lambda _key, _view: None))
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
    found.check = _act(filled, lambda _key, view: xxhash.xxh3_128_digest(view), found.read)
    found.sha256 = _act(filled, lambda _key, view: hashlib.sha256(view).digest(), found.read)
    found.blake3 = _act(filled, lambda _key, view: blake3.blake3(view).digest(), found.read)
    found.cipher = _act(filled, _sealing, found.read)
    found.pack = _act(unique, _packing(1), found.read)
    found.pack_fast = _act(unique, _packing(FAST), found.read)
    found.stored = _stored(unique)
    found.expand = _expanding(unique)
    found.write = _best(lambda: _writing(work / "limit.raw", found.stored))
    if len(paths) == 1:
        found.fill = _best(lambda: _writing(work / "limit.raw", found.filled))
    return found


def _best(act: Callable[[], Act]) -> Act:
    """Of two times the shorter one: others use the machine, too."""
    return min((act() for _turn in range(2)), key=lambda one: one.seconds)


def _act(chunks: Sequence[tuple[str, int]], act: Callable[[tuple[str, int], memoryview], object], read: Act) -> Act:
    """An act without the reading that is timed with it."""
    both = _best(lambda: _timed(chunks, act))
    return Act(max(0.0, both.seconds - read.of(both.amount)), both.amount)


def _grid(path: str) -> list[int]:
    size = os.path.getsize(path)
    return sorted(
        {
            offset
            for begin, end in measure.data_extents(path)
            for offset in range(begin // CHUNK * CHUNK, min(end, size), CHUNK)
        }
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


def _sealing(key: tuple[str, int], view: memoryview) -> None:
    AESGCM(bytes(32)).encrypt(key[1].to_bytes(12, "big"), view, None)


def _packing(level: int) -> Callable[[tuple[str, int], memoryview], object]:
    own = threading.local()

    def act(_key: tuple[str, int], view: memoryview) -> object:
        if not hasattr(own, "packer"):
            own.packer = zstandard.ZstdCompressor(level=level, write_checksum=False)
        return own.packer.compress(view)

    return act


def _stored(chunks: Sequence[tuple[str, int]]) -> int:
    sizes: list[int] = []
    packing = _packing(1)
    _timed(chunks, lambda key, view: sizes.append(len(packing(key, view))))  # type: ignore[arg-type]
    return sum(sizes)


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


def _writing(path: Path, amount: int) -> Act:
    """A new file of so many bytes, each core at places of its own, and its sync."""
    room = os.urandom(CHUNK)
    measure.touch_memory()
    begin = time.perf_counter()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    work = iter(range(amount // CHUNK))

    def lane(_number: int) -> None:
        for number in work:
            os.pwrite(handle, room, number * CHUNK)

    _lanes(lane)
    os.fsync(handle)
    os.close(handle)
    seconds = time.perf_counter() - begin
    path.unlink()
    return Act(seconds, amount)
