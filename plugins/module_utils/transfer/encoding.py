# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent is asked about, and what it answers, as bytes and as values."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Union

from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent

_REQUEST_BYTES = 1 << 18


@dataclass(frozen=True)
class RemoteFile:
    """A file that the agent holds open. ``real`` is its path without symbolic links."""

    number: int
    path: str
    size: int
    mtime_ns: int
    allocated: int
    device: int
    inode: int
    real: str


@dataclass(frozen=True)
class Ranges:
    """Where data is, up to ``until``. ``proven``: the file system's word about holes was found plausible."""

    proven: bool
    until: int
    parts: list[tuple[int, int]]


Segment = tuple[Union[RemoteFile, None], int, int]
Piece = Sequence[Segment]


def file_of(number: int, path: str, answer: bytes) -> RemoteFile:
    words = json.loads(answer)
    return RemoteFile(
        number=number,
        path=path,
        size=whole(words["size"]),
        mtime_ns=int(words["mtime_ns"]),
        allocated=whole(words["allocated"]),
        device=int(words["device"]),
        inode=int(words["inode"]),
        real=str(words["real"]),
    )


def printable(text: str) -> str:
    """The end of it, for a message: a host's words must not steer the terminal that shows them."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[-600:])


def whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is no size")
    return value


def ranges_of(answer: bytes, begin: int, end: int) -> Ranges:
    proven, until = struct.unpack_from(">BQ", answer)
    parts: list[Any] = list(struct.iter_unpack(">QQ", answer[9:]))
    place = begin
    for first, last in parts:
        if not place <= first < last <= end:
            raise ValueError(f"the part {first} to {last} lies outside, or before the last one")
        place = last
    if not begin < until <= max(end, begin + 1) or place > until:
        raise ValueError(f"it tells up to {until} of {begin} to {end}")
    return Ranges(bool(proven), until, parts)


def encoded(pieces: Sequence[Piece]) -> bytes:
    words = [agent.COUNT.pack(len(pieces))]
    for piece in pieces:
        words.append(agent.COUNT.pack(len(piece)))
        for file, offset, length in piece:
            words.append(agent.SEGMENT.pack(agent.NO_FILE if file is None else file.number, offset, length))
    return b"".join(words)


def parts_of(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """The pieces in parts that fit a request each."""
    part: list[Piece] = []
    size = 0
    for piece in pieces:
        length = agent.COUNT.size + agent.SEGMENT.size * len(piece)
        if part and (size + length > _REQUEST_BYTES or len(part) >= agent.MAX_PIECES):
            yield part
            part, size = [], 0
        part.append(piece)
        size += length
    if part:
        yield part


def described(pieces: Sequence[Piece]) -> str:
    for piece in pieces:
        for file, offset, _length in piece:
            if file is not None:
                return f"{file.path} from byte {offset}"
    return "zeros"
