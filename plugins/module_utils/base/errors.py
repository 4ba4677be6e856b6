# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error family: every failure a user can act on is a subclass with a stable id."""

from __future__ import annotations

import string
from typing import Any, ClassVar


class _Lenient(string.Formatter):
    """Fills what is there: a forgotten field must not hide the failure that is being reported."""

    def get_value(self, key: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(key, str) and key not in kwargs:
            return f"(unknown {key})"
        return super().get_value(key, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        try:
            return str(super().format_field(value, format_spec))
        except (TypeError, ValueError):
            return str(value)


_FORMATTER = _Lenient()


class StowageError(Exception):
    """Root of all errors of the collection.

    A subclass sets ``id`` (kebab-case, never changed once released), ``template`` (what was being done, on what,
    and why it failed; filled by ``str.format`` from the data), ``hint`` (the way out; filled likewise) and
    ``exit_code`` (for command-line use). Exit codes by room: base 1-9, ssh 10-19, vmdk 20-29, esxi 30-39,
    programs 40-49, jobs 50-59, store 60-69, transfer 70-79, link 80-89.

    The data never holds a secret: it is printed, logged and recorded.
    """

    id: ClassVar[str] = "error"
    template: ClassVar[str] = "{reason}"
    hint: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1

    def __init__(self, **data: Any) -> None:
        super().__init__()
        self.data: dict[str, Any] = data

    @property
    def message(self) -> str:
        return _FORMATTER.vformat(self.template, (), self.data)

    @property
    def hint_text(self) -> str:
        return _FORMATTER.vformat(self.hint, (), self.data)

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "message": self.message, "hint": self.hint_text, "data": plain(self.data)}

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.data.items())})"


def plain(value: Any) -> Any:
    """The value as plain JSON data; what JSON does not know becomes its text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, StowageError):
        return value.as_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)
