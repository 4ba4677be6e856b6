# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# str, int, float, bool, None (null or <unset>), list, Dump
Value = Any

_FIELD = re.compile(r"^( *)(\w+) = (.*)$")
_OPEN = re.compile(r"^\(([\w.:\[\]]+)\) ([{\[])$")
_EMPTY = re.compile(r"^\(([\w.:\[\]]+)\) (?:\[\]|\{\})$")
_NULL = re.compile(r"^\(([\w.:\[\]]+)\) null$")
_TOP = re.compile(r"^ *\(([\w.:\[\]]+)\) (?:[{\[]|\[\]|\{\}|null)[, ]*$")
_NUMBER = re.compile(r"^-?\d+$")
_FLOAT = re.compile(r"^-?\d+\.\d+(?:[eE][-+]?\d+)?$")


class VmodlError(ValueError):
    """The text is no dump that any known release prints."""


@dataclass(frozen=True)
class Dump:
    """One object of a dump: its type and its fields."""

    type: str
    fields: Mapping[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The type without its namespace: `vim.fault.NotFound` -> `NotFound`."""
        return self.type.rsplit(".", 1)[-1]

    def get(self, path: str, default: Value = None) -> Value:
        """The value at a dotted path; what is unset, null or not there is the default."""
        value: Value = self
        for part in path.split("."):
            value = value.fields.get(part) if isinstance(value, Dump) else None
        return default if value is None else value

    def text(self, path: str) -> str:
        value = self.get(path)
        return value if isinstance(value, str) else ""

    def items(self, path: str) -> list[Value]:
        value = self.get(path)
        return value if isinstance(value, list) else []


def find_dumps(text: str) -> Iterator[Value]:
    """Every dump in the text, in order; lines around them (`Listsummary:`, `Powering on VM:`) are passed over."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        if _TOP.match(lines[at].rstrip("\r")):
            reader = _Reader(lines, at)
            yield reader.value(lines[at].strip(), _indent(lines[at]))
            at = reader.at
        else:
            at += 1


def parse_dump(text: str) -> Value:
    """The first dump of the text. Raises VmodlError when there is none or it is cut."""
    for value in find_dumps(text):
        return value
    raise VmodlError("no object dump in the answer")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


class _Reader:
    """Walks the lines. `at` is the next line that is not read yet.

    Strings are printed raw: quotes inside are not escaped and newlines are real. So a string ends only where the
    line ends in a quote AND the next line is one that the surrounding object can have, at its own indent. Text that
    imitates that can only add fields behind itself: of two equal keys the first is kept.
    """

    def __init__(self, lines: list[str], at: int) -> None:
        self.lines = [line.rstrip("\r") for line in lines]
        self.at = at

    def value(self, head: str, indent: int) -> Value:
        """The value that begins with `head` on the current line, which belongs to a line of this indent."""
        if head.startswith('"'):
            return self._string(head, indent)
        self.at += 1
        head = head.rstrip(" ,")
        if _NULL.match(head) or head in ("<unset>", "null", ""):
            return None
        empty = _EMPTY.match(head)
        if empty:
            return [] if head.endswith("[]") else Dump(empty.group(1))
        opened = _OPEN.match(head)
        if opened:
            kind, bracket = opened.groups()
            return self._object(kind, indent) if bracket == "{" else self._array(indent)
        if head in ("true", "false"):
            return head == "true"
        if _NUMBER.match(head):
            return int(head)
        if _FLOAT.match(head):
            return float(head)
        if len(head) >= 2 and head[0] == head[-1] == "'":
            return head[1:-1]
        return head

    def _object(self, kind: str, indent: int) -> Dump:
        fields: dict[str, Value] = {}
        while True:
            line = self._line(f"object {kind}")
            if line.strip(" ,") == "}" and _indent(line) <= indent:
                self.at += 1
                return Dump(kind, fields)
            match = _FIELD.match(line)
            if not match:
                # Blank lines, and values of a kind nobody has met, are passed over rather than guessed at.
                self.at += 1
                continue
            value = self.value(match.group(3).strip(), len(match.group(1)))
            fields.setdefault(match.group(2), value)

    def _array(self, indent: int) -> list[Value]:
        items: list[Value] = []
        while True:
            line = self._line("array")
            if line.strip(" ,") == "]" and _indent(line) <= indent:
                self.at += 1
                return items
            if not line.strip():
                self.at += 1
                continue
            items.append(self.value(line.strip(), _indent(line)))

    def _line(self, inside: str) -> str:
        if self.at >= len(self.lines):
            raise VmodlError(f"the answer ends inside of an {inside}")
        return self.lines[self.at]

    def _string(self, head: str, indent: int) -> str:
        parts: list[str] = []
        piece = head[1:]
        while True:
            end = piece.rstrip(" ,")
            self.at += 1
            if end.endswith('"') and self._structural(indent):
                return "\n".join([*parts, end[:-1]])
            parts.append(piece)
            if self.at >= len(self.lines):
                raise VmodlError("the answer ends inside of a string")
            piece = self.lines[self.at]

    def _structural(self, indent: int) -> bool:
        """Whether the line at hand can follow a value that stands at this indent."""
        if self.at >= len(self.lines):
            return True
        line = self.lines[self.at]
        if line.strip(" ,") in ("}", "]"):
            return _indent(line) < indent
        if _indent(line) != indent:
            return False
        rest = line.strip()
        return bool(_FIELD.match(line)) or rest.startswith('"') or bool(_TOP.match(line))
