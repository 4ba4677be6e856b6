# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What names of objects look like. What is read in a store may be a stranger's, and becomes a part of paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

_PART = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")
_PACK = re.compile(r"[0-9a-z]+-[0-9]+")
_WRITER = re.compile(r"[0-9a-z]+")
_POINT_ID = "[0-9]{8}T[0-9]{6}[.][0-9]{6}Z-[0-9a-f]{6}"
_POINT = re.compile(f"points/[0-9a-f]{{32}}/{_POINT_ID}[.]json")


def is_object_name(text: str) -> bool:
    """Parts of `[A-Za-z0-9._~-]` between slashes, none of which begins with a dot."""
    return all(map(_PART.fullmatch, text.split("/")))


def is_pack_name(text: object) -> bool:
    return isinstance(text, str) and _PACK.fullmatch(text) is not None


def is_writer_id(text: object) -> bool:
    return isinstance(text, str) and _WRITER.fullmatch(text) is not None


def is_point_name(text: object) -> bool:
    """The name of a restore point's object."""
    return isinstance(text, str) and _POINT.fullmatch(text) is not None


def is_point_id(text: object) -> bool:
    if not isinstance(text, str) or re.fullmatch(_POINT_ID, text) is None:
        return False
    try:
        # Keeping goes by the time in it.
        datetime.strptime(text.partition("-")[0], "%Y%m%dT%H%M%S.%fZ")
    except ValueError:
        return False
    return True


def is_number(text: str) -> bool:
    """Of a file that is one of several that follow each other: `00000007`."""
    return text.isascii() and text.isdecimal()


def names_in(value: object, wanted: Callable[[object], bool]) -> frozenset[str] | None:
    """A list of such names; None when it is anything else."""
    return frozenset(value) if isinstance(value, list) and all(map(wanted, value)) else None
