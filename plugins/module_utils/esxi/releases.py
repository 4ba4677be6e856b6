# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs by release and cannot be asked of the host."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_esxcli import Version

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


def hardware_version_max(version: Version) -> int | None:
    if version.numbers[:2] == (6, 7) and version.build is not None and int(version.build) >= _BUILD_67U2:
        return 15
    if version.numbers[0] > 9:
        return None
    return next((hardware for numbers, hardware in _HARDWARE if version.numbers >= numbers), None)
