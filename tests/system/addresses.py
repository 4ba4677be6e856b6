# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of loopback addresses for labs: each of them once, in this process and in all others of this machine."""

from __future__ import annotations

import itertools
import os
import socket

#: First and last second byte: 127.100.0.0 to 127.199.249.0, apart from what people choose by hand and the demo uses.
FIRST, LAST = 100, 199
THIRD = 250

_claims: list[socket.socket] = []


def free_base_address() -> str:
    """The lowest address of 256 that no other test of this machine was given.

    A claim is an abstract socket of the range's name: only one process can hold it, and it ends with the process.
    """
    ranges = (LAST - FIRST + 1) * THIRD
    for turn in itertools.islice(itertools.count(os.getpid()), ranges):
        second, third = divmod(turn % ranges, THIRD)
        address = f"127.{FIRST + second}.{third}.0"
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0stowage-lab-{address}")
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return address
    raise RuntimeError("all ranges of loopback addresses are taken by tests")
