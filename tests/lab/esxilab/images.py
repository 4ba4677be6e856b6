# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of a lab guest's disk: a partition table, an ext4 file system with known files, a ring for the guest.

Partition 1 is ext4, made by mkfs.ext4 from a folder of files that follow from the seed of the template; its file
`identity` differs from disk to disk. Partition 2 is the ring (see guestcheck.py). With `fill`, partition 3 holds that
many bytes of data, so that a copy has something to carry.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from .disks import Descriptor, create_disk, read_descriptor
from .disks.errors import from_os_error

MIB = 1 << 20
MIN_SIZE = 64 * MIB
RING = 4 * MIB
FILES = 24
_IDENTITY = b"STOWAGE-LAB-IDENTITY\n".ljust(4096, b".")
_RING_TYPE_GPT = "5704A6E0-5249-4E47-8000-000000000000"
_RING_TYPE_MBR = "da"
_FS_UUID = "5704a6e0-0000-4000-8000-000000000001"
_lock = threading.Lock()
_own_cache: str | None = None


class ImageError(Exception):
    """A template could not be made."""


def make_disk_image(
    path: str,
    size: int,
    seed: int | str,
    *,
    table: str = "gpt",
    ring: int = RING,
    fill: int = 0,
    cache: str | None = None,
    grows: bool = False,
) -> None:
    """Put a guest's content into the raw file at `path`, new or existing (a thin or thick flat extent).

    `grows` leaves the ring a hole that the guest fills as it writes. Templates are kept in the folder `cache` (else in
    a temporary one of this process), one per size and layout.
    Only data is copied; holes stay holes.
    """
    if size < MIN_SIZE:
        raise ImageError(f"{path}: a guest's disk needs {MIN_SIZE // MIB} MiB at least, {size} bytes were asked for")
    template, identity_at = _template(size, table, ring, cache)
    try:
        _copy_data(template, path, size)
        with open(path, "r+b") as file:
            file.seek(identity_at)
            file.write(identity_block(seed))
            file.flush()
            if not grows:
                # A log that has been written round before: its blocks are there, and no thin disk grows under it.
                os.posix_fallocate(file.fileno(), _layout(size, ring)[1], ring)
            if fill:
                file.seek(_layout(size, ring)[2])
                _fill(file, min(fill, size - _layout(size, ring)[2] - MIB), seed)
    except OSError as error:
        raise from_os_error(error, path) from error


def make_guest_disk(
    desc_path: str,
    size: int,
    seed: int | str,
    fmt: str = "thin",
    *,
    adapter: str = "lsilogic",
    hw: str = "14",
    release: str = "7.0",
    preallocate: bool = True,
    tools_version: str | None = None,
    table: str = "gpt",
    ring: int = RING,
    fill: int = 0,
    cache: str | None = None,
    grows: bool = False,
) -> Descriptor:
    """A VMDK with a guest's content in it; its content ID is that of a disk that was written to."""
    descriptor = create_disk(
        desc_path,
        size,
        fmt,
        adapter,
        hw,
        release=release,
        preallocate=preallocate,
        tools_version=tools_version,
    )
    extent = descriptor.beside(descriptor.extents[0].file)
    make_disk_image(extent, size, seed, table=table, ring=ring, fill=fill, cache=cache, grows=grows)
    descriptor = read_descriptor(desc_path)
    descriptor.new_content_id()
    descriptor.write()
    return descriptor


def identity_block(seed: int | str) -> bytes:
    """The content of the file `identity` on the disk with this seed."""
    text = f"STOWAGE-LAB-IDENTITY\nseed={seed}\nsha256={hashlib.sha256(str(seed).encode()).hexdigest()}\n"
    return text.encode().ljust(len(_IDENTITY), b".")


def file_content(number: int) -> bytes:
    """What the file `data/NNN.bin` holds on every lab disk."""
    chooser = random.Random(f"stowage-lab-file-{number}")
    return chooser.randbytes(chooser.randrange(1, 96 << 10))


def _layout(size: int, ring: int) -> tuple[int, int, int]:
    """Bytes: size of partition 1 (it starts at 1 MiB), start of the ring, start of partition 3."""
    first = min(64 * MIB, (size - ring - 3 * MIB) // MIB * MIB)
    return first, MIB + first, MIB + first + ring


def _template(size: int, table: str, ring: int, cache: str | None) -> tuple[str, int]:
    """Path of a template and where its identity block lies."""
    if table not in ("gpt", "mbr"):
        raise ImageError(f"partition table {table!r}; known are gpt, mbr")
    if ring < 2 * 4096 or ring % 4096 or _layout(size, ring)[0] < 16 * MIB:
        raise ImageError(f"a ring of {ring} bytes does not fit a disk of {size}")
    with _lock:
        folder = cache or _temporary_cache()
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{table}-{size}-{ring}.raw")
        if not os.path.exists(path):
            with tempfile.TemporaryDirectory(dir=folder) as work:
                temp = os.path.join(work, "disk.raw")
                _build(temp, size, table, ring, Path(work))
                os.replace(temp, path)
        note = path + ".identity"
        if not os.path.exists(note):
            Path(note).write_text(str(_find(path, _IDENTITY)), encoding="ascii")
        return path, int(Path(note).read_text(encoding="ascii"))


def _temporary_cache() -> str:
    global _own_cache
    if _own_cache is None:
        import atexit

        _own_cache = tempfile.mkdtemp(prefix="stowage-lab-templates-")
        atexit.register(shutil.rmtree, _own_cache, True)
    return _own_cache


def _build(path: str, size: int, table: str, ring: int, work: Path) -> None:
    first, ring_at, third = _layout(size, ring)
    with open(path, "xb") as file:
        file.truncate(size)
    kind = _RING_TYPE_GPT if table == "gpt" else _RING_TYPE_MBR
    script = [
        "label: gpt" if table == "gpt" else "label: dos",
        "label-id: " + ("5704A6E0-0000-4000-8000-000000000000" if table == "gpt" else "0x5704a6e0"),
        f"start={MIB // 512}, size={first // 512}, type=linux",
        f"start={ring_at // 512}, size={ring // 512}, type={kind}",
    ]
    rest = size - third - MIB
    if rest >= MIB:
        script.append(f"start={third // 512}, size={rest // MIB * MIB // 512}, type={kind}")
    if table == "gpt":
        script[2:] = [f"{line}, uuid=5704A6E0-0000-4000-8000-{n:012d}" for n, line in enumerate(script[2:], 1)]
    _run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path], "\n".join(script) + "\n")
    tree = work / "tree"
    _write_tree(tree)
    system = str(work / "ext4.raw")
    with open(system, "xb") as file:
        file.truncate(first)
    _run(
        ["mkfs.ext4", "-q", "-F", "-L", "lab", "-U", _FS_UUID, "-b", "4096", "-m", "0", "-N", "256"]
        + ["-E", f"hash_seed={_FS_UUID},lazy_itable_init=1,root_owner=0:0", "-J", "size=4", "-d", str(tree), system]
    )
    # mkfs takes over the files' change times, which nobody can set: with them no two templates would be equal.
    inodes = [2, *range(12, 12 + sum(1 for _ in tree.rglob("*")))]
    _run(["debugfs", "-w", "-f", "-", system], "".join(f"sif <{number}> ctime @1600000000\n" for number in inodes))
    _copy_data(system, path, first, at=MIB)


def _write_tree(tree: Path) -> None:
    (tree / "data").mkdir(parents=True)
    sums = []
    for number in range(FILES):
        content = file_content(number)
        (tree / "data" / f"{number:03d}.bin").write_bytes(content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  data/{number:03d}.bin\n")
    (tree / "SHA256SUMS").write_text("".join(sums), encoding="ascii")
    (tree / "identity").write_bytes(_IDENTITY)
    for path in [*tree.rglob("*"), tree]:
        os.utime(path, (1_600_000_000, 1_600_000_000))


def _run(command: list[str], text: str = "") -> None:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "E2FSPROGS_FAKE_TIME": "1600000000",
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError as error:
        raise ImageError(f"{command[0]} is missing; install e2fsprogs and fdisk") from error
    if done.returncode != 0:
        raise ImageError(f"{command[0]} failed with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")


def _find(path: str, needle: bytes) -> int:
    """The block of the file that is exactly `needle`; the template has it once."""
    found = []
    with open(path, "rb") as file:
        for begin, end in data_ranges(file.fileno(), os.path.getsize(path)):
            for at in range(begin // 4096 * 4096, end, 4096):
                if os.pread(file.fileno(), 4096, at) == needle:
                    found.append(at)
    if len(found) != 1:
        raise ImageError(f"{path}: {len(found)} identity blocks in a template, one expected")
    return found[0]


def data_ranges(fd: int, size: int) -> list[tuple[int, int]]:
    """(begin, end) of what is not a hole."""
    ranges, position = [], 0
    while position < size:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        ranges.append((begin, min(end, size)))
        position = end
    return ranges


def _copy_data(source: str, target: str, size: int, at: int = 0) -> None:
    zeros = bytes(64 << 10)
    with open(source, "rb") as reader, open(target, "r+b" if os.path.exists(target) else "xb", buffering=0) as writer:
        if os.fstat(writer.fileno()).st_size < at + size:
            os.ftruncate(writer.fileno(), at + size)
        for begin, end in data_ranges(reader.fileno(), size):
            for start in range(begin, end, len(zeros)):
                block = os.pread(reader.fileno(), min(len(zeros), end - start), start)
                if block != zeros[: len(block)]:
                    view = memoryview(block)
                    while view:
                        done = os.pwrite(writer.fileno(), view, at + start + len(block) - len(view))
                        view = view[done:]


def _fill(file: object, size: int, seed: int | str) -> None:
    chooser = random.Random(f"stowage-lab-fill-{seed}")
    write = file.write  # type: ignore[attr-defined]
    while size > 0:
        write(chooser.randbytes(min(MIB, size)))
        size -= MIB
