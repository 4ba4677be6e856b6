# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Binds a folder of this machine into the mount namespace of a running one, or takes it out again.

usage: python -m esxilab.mounting PID mount SOURCE TARGET
       python -m esxilab.mounting PID unmount TARGET

A machine's root has no program for it and does not see the lab's folders: the source is opened out here as a detached
mount, which is then moved to its place in there.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_OPEN_TREE, _MOVE_MOUNT = 428, 429  # the same numbers on every architecture
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_CLONE_NEWNS = 0x20000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _enter(pid: int) -> None:
    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    _checked(_libc.setns(descriptor, _CLONE_NEWNS), f"cannot enter the mount namespace of {pid}")
    os.close(descriptor)


def mount(pid: int, source: str, target: str) -> None:
    tree = _checked(_libc.syscall(_OPEN_TREE, _AT_FDCWD, source.encode(), _OPEN_TREE_CLONE), f"cannot open {source}")
    _enter(pid)
    moved = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)
    _checked(moved, f"cannot mount on {target}")


def unmount(pid: int, target: str) -> None:
    _enter(pid)
    _checked(_libc.umount2(target.encode(), 0), f"cannot unmount {target}")


def run(pid: int, *words: str) -> None:
    """Do it in a process of its own: a process with threads may not change its mount namespace."""
    package = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "esxilab.mounting", str(pid), *words],
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(done.returncode, done.stderr.strip() or f"mounting {' '.join(words)} failed")


if __name__ == "__main__":
    try:
        if sys.argv[2] == "mount":
            mount(int(sys.argv[1]), sys.argv[3], sys.argv[4])
        else:
            unmount(int(sys.argv[1]), sys.argv[3])
    except OSError as error:
        sys.exit(str(error))
