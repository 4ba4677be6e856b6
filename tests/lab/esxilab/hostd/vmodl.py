# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text that vim-cmd prints for an API value, in the dialect of the release.

Two dialects are known from transcripts:

* classic (4.x to 6.0): every object starts with ``dynamicType = <unset>,`` and every field ends in a comma;
* modern (6.5 on): commas between fields only, each followed by one blank; a fault's ``msg`` follows its last
  field without a comma before it.

An empty optional array prints nothing at all, and the comma of the field before it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

INDENT = "   "


class _Marker:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


#: An optional scalar that has no value: printed as <unset>.
UNSET = _Marker("UNSET")
#: An optional array without members: nothing is printed, but the comma before it stays.
NOTHING = _Marker("NOTHING")


@dataclass(frozen=True)
class Ref:
    """A managed object, printed as 'vim.Type:id'."""

    target: str


@dataclass(frozen=True)
class Null:
    """An object field that holds no object."""

    type: str


@dataclass(frozen=True)
class Obj:
    type: str
    fields: Sequence[tuple[str, Any]] = ()


@dataclass(frozen=True)
class Arr:
    type: str
    items: Sequence[Any] = ()


@dataclass(frozen=True)
class FaultObj:
    """A fault: like an object, with the message after the declared fields."""

    type: str
    msg: str
    fields: Sequence[tuple[str, Any]] = field(default_factory=tuple)


class Printer:
    """Renders values in one dialect."""

    def __init__(self, classic: bool = False) -> None:
        self.classic = classic

    def text(self, value: Any) -> str:
        """The value with its final line feed, as the command prints it."""
        return "".join(line + "\n" for line in self._lines(value, 0))

    def _lines(self, value: Any, level: int) -> list[str]:
        if isinstance(value, FaultObj):
            return self._fault(value, level)
        if isinstance(value, Obj):
            return self._object(value, level)
        if isinstance(value, Arr):
            return self._array(value, level)
        return [scalar(value)]

    def _object(self, obj: Obj, level: int) -> list[str]:
        fields = list(obj.fields)
        if self.classic:
            fields.insert(0, ("dynamicType", UNSET))
        return [f"({obj.type}) {{", *self._fields(fields, level), INDENT * level + "}"]

    def _fault(self, fault: FaultObj, level: int) -> list[str]:
        cause = ("faultCause", Null("vmodl.MethodFault"))
        if self.classic:
            fields = [("dynamicType", UNSET), cause, *fault.fields, ("msg", fault.msg)]
            return [f"({fault.type}) {{", *self._fields(fields, level), INDENT * level + "}"]
        lines = self._fields([cause, ("faultMessage", UNSET), *fault.fields], level)
        lines.append(f'{INDENT * (level + 1)}msg = "{fault.msg}"')
        return [f"({fault.type}) {{", *lines, INDENT * level + "}"]

    def _fields(self, fields: Sequence[tuple[str, Any]], level: int) -> list[str]:
        lines: list[str] = []
        pad = INDENT * (level + 1)
        last = len(fields) - 1
        for number, (name, value) in enumerate(fields):
            if value is NOTHING:
                continue
            inner = self._lines(value, level + 1)
            inner[0] = f"{pad}{name} = {inner[0]}"
            if self.classic:
                inner[-1] += ","
            elif number != last:
                inner[-1] += ", "
            lines.extend(inner)
        return lines

    def _array(self, array: Arr, level: int) -> list[str]:
        if not array.items:
            return [f"({array.type}) []"]
        lines = [f"({array.type}) ["]
        pad = INDENT * (level + 1)
        last = len(array.items) - 1
        for number, item in enumerate(array.items):
            inner = self._lines(item, level + 1)
            inner[0] = pad + inner[0]
            # The lists of references in the transcripts have no comma after the last one, in either dialect.
            if number != last:
                inner[-1] += "," if self.classic or isinstance(item, Ref) else ", "
            elif self.classic and isinstance(item, Obj):
                inner[-1] += ","
            lines.extend(inner)
        lines.append(INDENT * level + "]")
        return lines


def scalar(value: Any) -> str:
    """A single value as it stands behind the equals sign."""
    if value is UNSET or value is None:
        return "<unset>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Ref):
        return f"'{value.target}'"
    if isinstance(value, Null):
        return f"({value.type}) null"
    # Inner quotes are not escaped: a reader of these dumps has to live with that.
    return f'"{value}"'
