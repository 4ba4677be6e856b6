# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks that the benchmarks work on: made once, kept outside the tree.

`full` are two disks of 8 GiB with an ext4 file system and a Debian system of about 2 GiB on each, made by debootstrap,
and their second day, on which packages came and went and logs and a database grew. `small` are the same shape made
from random bytes and words, in a second: good to try a benchmark with, not to judge by. `own` is one disk with programs
of this machine itself, where no mirror can be reached: real content, but not the same on every machine.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

GIB = 1 << 30
PACKAGES = {
    "web": "nginx,python3,build-essential,linux-image-amd64,git,vim,default-jre-headless",
    "db": "postgresql,python3,build-essential,linux-image-amd64,git,clang,default-jre-headless",
}
#: Bytes that the second day adds to each disk.
GROWTH = 150 << 20
#: Folders of this machine whose files `own` takes, in the order of their names, and how much of each.
OWN = {"usr/bin": 150 << 20, "usr/lib": 450 << 20, "usr/share/doc": 20 << 20, "usr/share": 80 << 20}
OWN_GROWTH = 12 << 20


def names(folder: Path, day: int) -> list[str]:
    return [str(folder / f"{name}-{day}.raw") for name in PACKAGES]


def make(folder: Path, small: bool) -> None:
    """All disks that are not there yet. Needs root, and for the full set debootstrap and a Debian mirror."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, packages) in enumerate(PACKAGES.items()):
        first, second = folder / f"{name}-1.raw", folder / f"{name}-2.raw"
        if not first.exists():
            _whole(first, lambda path, number=number, packages=packages: _first(path, packages, small, number))
        if not second.exists():
            _whole(second, lambda path, first=first, number=number: _second(first, path, small, number))
    size = 64 << 20 if small else 2 * GIB
    if not (folder / "random.raw").exists():
        _whole(folder / "random.raw", lambda path: _random(path, size))
    if not (folder / "sparse.raw").exists():
        _whole(folder / "sparse.raw", lambda path: _sparse(path, GIB if small else 64 * GIB))


def _whole(path: Path, maker) -> None:  # type: ignore[no-untyped-def]
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    maker(temporary)
    temporary.rename(path)


def _first(path: Path, packages: str, small: bool, number: int) -> None:
    if small:
        _words(path, 256 << 20, 48 << 20, number)
        return
    _truncate(path, 8 * GIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    with _Mounted(path) as root:
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", "stable", str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _second(first: Path, path: Path, small: bool, number: int) -> None:
    subprocess.run(["cp", "--sparse=always", first, path], check=True)
    chance = random.Random(number)
    if small:
        with open(path, "r+b") as file:
            for _turn in range(12):
                file.seek(chance.randrange(0, 48 << 20))
                file.write(chance.randbytes(70_000))
        return
    with _Mounted(path) as root:
        _update(root, chance, GROWTH)


def _update(root: Path, chance: random.Random, growth: int) -> None:
    """Some programs are replaced, some files go; a log grows by lines, a database in pages all over its file."""
    programs = sorted(one for one in (root / "usr/bin").iterdir() if one.is_file() and not one.is_symlink())
    for program in chance.sample(programs, len(programs) // 10):
        data = program.read_bytes()
        program.unlink()
        program.write_bytes(data[:4096] + chance.randbytes(64) + data[4160:])
    shutil.rmtree(root / "usr/share/doc")
    with open(root / "var/log/messages", "w", encoding="ascii") as log:
        for line in range(growth // 3 // 90):
            process = chance.randrange(30000)
            log.write(f"Nov 26 10:{line % 60:02d}:01 host daemon[{process}]: session {line} opened for user www-data\n")
    table = root / "var/lib/table"
    with open(table, "wb") as file:
        for _page in range(2 * growth // 3 // 8192):
            file.write(chance.randbytes(2048) + bytes(2048) + chance.randbytes(1024) * 4)


def own(folder: Path) -> list[str]:
    """A disk of 2 GiB with about 700 MiB of this machine's own files, and its second day. Made once; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    first, second = folder / "own-1.raw", folder / "own-2.raw"
    if not first.exists():
        _whole(first, _system)
    if not second.exists():
        _whole(second, lambda path: _own_second(first, path))
    return [str(first), str(second)]


def _system(path: Path) -> None:
    _truncate(path, 2 * GIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    with _Mounted(path) as root:
        for name in ("var/log", "var/lib", "usr/share/doc"):
            (root / name).mkdir(parents=True)
        for name, most in OWN.items():
            left = most
            for source in sorted(one for one in Path("/", name).rglob("*") if one.is_file() and not one.is_symlink()):
                size = source.stat().st_size
                if size > left:
                    continue
                left -= size
                target = root / source.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def _own_second(first: Path, path: Path) -> None:
    subprocess.run(["cp", "--sparse=always", first, path], check=True)
    with _Mounted(path) as root:
        _update(root, random.Random(1), OWN_GROWTH)


def _words(path: Path, size: int, filled: int, seed: int) -> None:
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randrange(4, 40)) for _word in range(3000)]
    _truncate(path, size)
    with open(path, "r+b") as file:
        while file.tell() < filled:
            file.write(b"".join(chance.choices(words, k=5000)))


def _random(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        for _part in range(0, size, 16 << 20):
            file.write(os.urandom(16 << 20))


def _sparse(path: Path, size: int) -> None:
    _truncate(path, size)
    chance = random.Random(7)
    with open(path, "r+b") as file:
        for _part in range(64):
            file.seek(chance.randrange(0, size // 4096) * 4096)
            file.write(chance.randbytes(4096))


def _truncate(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


class _Mounted:
    """A disk's file system, mounted for the time of a block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.with_suffix(".mnt")

    def __enter__(self) -> Path:
        self._at.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "loop", self._path, self._at], check=True)
        return self._at

    def __exit__(self, *_error: object) -> None:
        subprocess.run(["umount", self._at], check=True)
        self._at.rmdir()
