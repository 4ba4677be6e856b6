# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The `key = "value"` files: .vmx and .vmsd."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

LINE = re.compile(r'^\s*([^\s=#][^=]*?)\s*=\s*"?(.*?)"?\s*$')


def encode(value: str) -> str:
    """`|`, quotes and control characters become `|XX`."""
    return "".join(f"|{ord(char):02X}" if char in '"|' or ord(char) < 32 else char for char in value)


def decode(value: str) -> str:
    return re.sub(r"\|([0-9A-Fa-f]{2})", lambda match: chr(int(match.group(1), 16)), value)


class DictFile:
    """An ordered dictionary whose keys compare without regard to case, kept in the order of the file."""

    def __init__(self, text: str = "") -> None:
        self._values: dict[str, tuple[str, str]] = {}
        for line in text.split("\n"):
            match = LINE.match(line)
            if match:
                self.set(match.group(1), decode(match.group(2)))

    @classmethod
    def load(cls, path: Path) -> DictFile:
        return cls(path.read_text(encoding="utf-8", errors="surrogateescape"))

    def get(self, key: str, default: str = "") -> str:
        found = self._values.get(key.lower())
        return found[1] if found else default

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key).lower()
        return value == "true" if value else default

    def number(self, key: str, default: int = 0) -> int:
        value = self.get(key)
        try:
            return int(value)
        except ValueError:
            return default

    def set(self, key: str, value: object) -> None:
        old = self._values.get(key.lower())
        self._values[key.lower()] = (old[0] if old else key, str(value))

    def drop(self, key: str) -> None:
        self._values.pop(key.lower(), None)

    def __contains__(self, key: str) -> bool:
        return key.lower() in self._values

    def items(self) -> Iterator[tuple[str, str]]:
        yield from list(self._values.values())

    def copy(self) -> DictFile:
        other = DictFile()
        other._values = dict(self._values)
        return other

    def render(self) -> str:
        return "".join(f'{key} = "{encode(value)}"\n' for key, value in self.items())

    def save(self, path: Path, mode: int) -> None:
        """Written beside and renamed: a reader sees the old or the new file, never half of one."""
        replace_text(path, self.render(), mode)


def replace_text(path: Path, text: str, mode: int) -> None:
    """Put a text in place; on a full datastore in the file's own blocks, as a small file needs no new ones there."""
    data = text.encode("utf-8", "surrogateescape")
    temporary = path.with_name(path.name + "~")
    try:
        with open(temporary, "wb") as handle:
            handle.write(data)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC or not path.exists():
            raise
        with open(path, "r+b") as handle:
            handle.write(data)
            handle.truncate(len(data))
