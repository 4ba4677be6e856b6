# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases: how they are written, and what differs by them and cannot be asked of the host."""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = re.compile(r"^VMware ESXi? (\d+(?:\.\d+)*)(?: build-(\d+))?", re.MULTILINE)
# Newest virtual hardware by release. 9.0 is from public notes, not seen.
_HARDWARE = (
    ((9, 0, 0), 22),
    ((8, 0, 2), 21),
    ((8, 0, 0), 20),
    ((7, 0, 2), 19),
    ((7, 0, 1), 18),
    ((7, 0, 0), 17),
    ((6, 7, 0), 14),
    ((6, 5, 0), 13),
    ((6, 0, 0), 11),
    ((5, 5, 0), 10),
    ((5, 1, 0), 9),
    ((5, 0, 0), 8),
)
# 6.7 Update 2 brought hardware 15 under the same three numbers: only the build tells.
_BUILD_67U2 = 13006603


@dataclass(frozen=True)
class Version:
    """`numbers` has as many parts as the release prints: 8.0.2, or 9.0.1.0100."""

    text: str
    numbers: tuple[int, ...]
    build: str | None

    @property
    def major(self) -> int:
        return self.numbers[0]


def parse_version(text: str) -> Version | None:
    """Read `vmware -v`."""
    match = _VERSION.search(text)
    if not match:
        return None
    return Version(match.group(1), tuple(int(part) for part in match.group(1).split(".")), match.group(2))


def hardware_version_max(version: Version) -> int | None:
    if version.numbers[:2] == (6, 7) and version.build is not None and int(version.build) >= _BUILD_67U2:
        return 15
    if version.numbers[0] > 9:
        return None
    return next((hardware for numbers, hardware in _HARDWARE if version.numbers >= numbers), None)
