# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of authorized_keys: which of them is ours, and how they are changed while all others stay byte for byte."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

MARK = "stowage-link:"
KEY_TYPES = (
    "ssh-rsa",
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
)
# sshd takes no longer line; older releases have half of it.
LONGEST_LINE = 8000


@dataclass(frozen=True)
class PublicKey:
    kind: str
    base64: str

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(base64.b64decode(self.base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")

    @property
    def bits(self) -> int | None:
        """The length of an RSA key's modulus; ``None`` for the other types."""
        if self.kind != "ssh-rsa":
            return None
        data, at, parts = base64.b64decode(self.base64), 0, []
        while at + 4 <= len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            parts.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        return int.from_bytes(parts[2], "big").bit_length() if len(parts) == 3 else None

    def __str__(self) -> str:
        return f"{self.fingerprint} ({self.kind})"


def parse_public(text: str) -> PublicKey | None:
    """The key of a .pub file, or of what ``ssh-keygen -y`` prints."""
    words = text.split()
    return _key(words[0], words[1]) if len(words) > 1 else None


def _key(kind: str, text: str) -> PublicKey | None:
    if kind not in KEY_TYPES:
        return None
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    name = kind.encode("ascii")
    # The type stands in the blob again: a line that says otherwise is no key.
    if blob[: 4 + len(name)] != len(name).to_bytes(4, "big") + name:
        return None
    return PublicKey(kind, text)


@dataclass(frozen=True)
class Mark:
    """The comment that says whose line it is. Nothing but a whole comment of this form makes a line ours."""

    name: str
    source: str
    target: str

    def __str__(self) -> str:
        return f"{MARK}{self.name}:{self.source}:{self.target}"


@dataclass(frozen=True)
class Entry:
    """One line with a key: ``options`` as they are written, without the blank after them."""

    options: str
    key: PublicKey
    comment: str

    @property
    def line(self) -> str:
        return f"{self.options} {self.key.kind} {self.key.base64} {self.comment}".lstrip(" ")


_OURS = re.compile(re.escape(MARK) + r"([^\s:]+):([^\s:]+):([^\s:]+)")


def parse_line(line: str) -> Entry | None:
    """As sshd reads it: options end at the first blank outside of quotes. ``None`` for what holds no key."""
    text = line.strip(" \t\r\n")
    if not text or text.startswith("#"):
        return None
    options = ""
    if re.split(r"[ \t]", text, maxsplit=1)[0] not in KEY_TYPES:
        end = _end_of_options(text)
        if end is None:
            return None
        options, text = text[:end], text[end:].lstrip(" \t")
    words = re.split(r"[ \t]+", text, maxsplit=2)
    key = _key(words[0], words[1]) if len(words) > 1 else None
    return Entry(options, key, words[2] if len(words) > 2 else "") if key is not None else None


def _end_of_options(text: str) -> int | None:
    quoted = False
    at = 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] == '"':
            at += 2
            continue
        if text[at] == '"':
            quoted = not quoted
        elif text[at] in " \t" and not quoted:
            return at
        at += 1
    return None


def mark_of(entry: Entry) -> Mark | None:
    match = _OURS.fullmatch(entry.comment)
    return Mark(*match.groups()) if match else None


def ours(text: str, mark: Mark) -> list[Entry]:
    """The lines of one link, in their order."""
    return [entry for entry in _entries(text) if mark_of(entry) == mark]


def all_marks(text: str) -> list[Mark]:
    """Every link that has a line here."""
    marks = [mark_of(entry) for entry in _entries(text)]
    return sorted({mark for mark in marks if mark is not None}, key=str)


def with_key(text: str, key: PublicKey) -> list[Entry]:
    """Lines that hold this key under whatever comment: sshd takes the first one that fits."""
    return [entry for entry in _entries(text) if entry.key == key]


def edit(text: str, mark: Mark, wanted: Sequence[Entry]) -> str:
    """The file with exactly these lines for the link. Every other line stays as it is, its line end included.

    New lines take the place of the first old one, so that a file does not change its order at each rotation.
    """
    kept: list[str] = []
    place: int | None = None
    for line in _lines(text):
        entry = parse_line(line)
        if entry is not None and mark_of(entry) == mark:
            place = len(kept) if place is None else place
        else:
            kept.append(line)
    place = len(kept) if place is None else place
    if wanted and place and not kept[place - 1].endswith("\n"):
        # Without it, our line would become a part of a stranger's.
        kept[place - 1] += "\n"
    return "".join([*kept[:place], *(entry.line + "\n" for entry in wanted), *kept[place:]])


def _entries(text: str) -> list[Entry]:
    return [entry for entry in map(parse_line, _lines(text)) if entry is not None]


def _lines(text: str) -> list[str]:
    # Not splitlines(): to sshd a form feed or a Unicode line separator ends no line.
    pieces = text.split("\n")
    lines = [piece + "\n" for piece in pieces[:-1]]
    return lines + [pieces[-1]] if pieces[-1] else lines
