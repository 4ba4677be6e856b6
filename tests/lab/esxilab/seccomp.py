# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small seccomp program that makes system calls fail as they fail under VMkernel.

Real refusals by the kernel, so that they hold for every program in the host: 'select.epoll()' of the host's Python
raises what it raises on ESXi, whatever interpreter plays it.
"""

from __future__ import annotations

import errno
import os
import struct

# (audit architecture, {call: number}) by machine name; others run without the filter and say so in 'status'.
ARCHITECTURES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {"epoll_create": 213, "epoll_create1": 291, "lseek": 8, "fork": 57, "clone": 56, "clone3": 435},
    ),
    "aarch64": (0xC00000B7, {"epoll_create1": 20, "lseek": 62, "clone": 220, "clone3": 435}),
}
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET, _THIRD_ARGUMENT_OFFSET = 0, 4, 16, 32
_JUMP_ANY_BIT, _CLONE_VM = 0x45, 0x100
SEEK_DATA, SEEK_HOLE = 3, 4


def available() -> bool:
    return os.uname().machine in ARCHITECTURES


def no_fork() -> bytes:
    """The filter under which fork fails with ENOSYS, while threads and vfork, which share their memory, work."""
    architecture, numbers = ARCHITECTURES[os.uname().machine]
    refuse = (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
    ]
    # clone3 has its flags in memory, where no filter looks: without it the C library takes clone.
    for name in ("fork", "clone3"):
        if name in numbers:
            code += [(_JUMP_EQUAL, 0, 1, numbers[name]), refuse]
    code += [
        (_JUMP_EQUAL, 0, 3, numbers["clone"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_OFFSET),
        (_JUMP_ANY_BIT, 1, 0, _CLONE_VM),
        refuse,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return _packed(code)


def _packed(code: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def program(epoll_errno: int = errno.EINVAL, seek_data: bool = True) -> bytes:
    """The filter as struct sock_filter[]: epoll fails with epoll_errno (0: works), SEEK_DATA fails unless seek_data."""
    architecture, numbers = ARCHITECTURES[os.uname().machine]
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
    ]
    if epoll_errno:
        for name in ("epoll_create", "epoll_create1"):
            if name in numbers:
                code += [(_JUMP_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | epoll_errno)]
    if not seek_data:
        code += [
            (_JUMP_EQUAL, 0, 4, numbers["lseek"]),
            (_LOAD, 0, 0, _THIRD_ARGUMENT_OFFSET),
            (_JUMP_EQUAL, 1, 0, SEEK_DATA),
            (_JUMP_EQUAL, 0, 1, SEEK_HOLE),
            (_RETURN, 0, 0, _ERRNO | errno.EINVAL),
        ]
    code.append((_RETURN, 0, 0, _ALLOW))
    return _packed(code)
