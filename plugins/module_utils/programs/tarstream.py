# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tar archive as a stream, a disk in it as a sparse file: its holes are named, not sent."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import Literal

END = bytes(2 * tarfile.BLOCKSIZE)
_MODE = 0o600


def _header(name: str, size: int, mtime: int, form: Literal[0, 1, 2], kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode, member.type = size, mtime, _MODE, kind
    return member.tobuf(form, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def small_file(name: str, data: bytes, mtime: int) -> bytes:
    """All of a member."""
    return _header(name, len(data), mtime, tarfile.GNU_FORMAT) + data + padding(len(data))


def sparse_file(name: str, size: int, ranges: Sequence[tuple[int, int]], mtime: int) -> tuple[bytes, bytes]:
    """What stands before the bytes of the ranges, and after them: GNU's sparse format 1.0.

    The member's own size stands in its header as GNU writes large ones. In a `size` record of the extended header,
    readers take it for the size of the whole file.
    """
    lines = [str(len(ranges)), *(str(number) for one in ranges for number in one)]
    table = "".join(f"{line}\n" for line in lines).encode("ascii")
    table += padding(len(table))
    records = b"".join(
        _record(f"GNU.sparse.{key}", value)
        for key, value in (("major", "1"), ("minor", "0"), ("name", name), ("realsize", str(size)))
    )
    held = len(table) + sum(length for _offset, length in ranges)
    before = _header("stowage/sparse", len(records), mtime, tarfile.USTAR_FORMAT, tarfile.XHDTYPE)
    before += records + padding(len(records)) + _header(name, held, mtime, tarfile.GNU_FORMAT) + table
    return before, padding(held)


def _record(key: str, value: str) -> bytes:
    """`LENGTH KEY=VALUE`, where the length counts itself."""
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode("ascii") + rest
