# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of read-only files, shown through the kernel's FUSE."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import stat
from collections.abc import Callable
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import imports
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import MountFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.folder import Entry, Folder

_BLOCK = 512


class Operations:
    """What libfuse asks. Its threads are several; a path has one part, for there is one folder."""

    # Times are given as whole nanoseconds.
    use_ns = True

    def __init__(self, folder: Folder, mounted: Callable[[], None] | None = None) -> None:
        """`mounted` is called when it can be read."""
        self._folder, self._mounted = folder, mounted
        self.served = False
        self.trouble: Exception | None = None
        self._stamps = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), int(folder.made_at * 10**9))
        self._owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}

    def init(self, path: str) -> None:
        self.served = True
        try:
            if self._mounted is not None:
                self._mounted()
        except Exception as error:
            # It can be read all the same; libfuse knows no exceptions.
            self.trouble = error

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2, **self._owner, **self._stamps}
        entry = self._entry(path)
        return {
            "st_mode": stat.S_IFREG | 0o444,
            "st_nlink": 1,
            "st_size": entry.size,
            "st_blocks": -(-entry.size // _BLOCK),
            "st_blksize": 1 << 20,
            **self._owner,
            **self._stamps,
        }

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *self._folder.names()]

    def open(self, path: str, flags: int) -> int:
        self._entry(path)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        try:
            return self._entry(path).pread(size, offset)
        except StowageError as error:
            # The kernel has no words for it; verify has.
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error

    def _entry(self, path: str) -> Entry:
        entry = self._folder.get(path[1:])
        if entry is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return entry


def way_out(path: str) -> str:
    """The command that unmounts it."""
    program = "umount" if os.geteuid() == 0 else "fusermount3 -u" if shutil.which("fusermount3") else "fusermount -u"
    return f"{program} {shlex.quote(path)}"


def serve(folder: Folder, path: str, allow_other: bool = False, mounted: Callable[[], None] | None = None) -> None:
    """Returns when it is unmounted, or the process interrupted or terminated; `MountFailed`. `mounted` is called when
    it can be read; what that raises is raised at the end."""
    try:
        mfusepy = imports.load("mfusepy", purpose="mounting a restore point")
    except OSError as error:
        raise MountFailed(path=path, reason=f"libfuse is not there ({error})") from error
    if not os.path.isdir(path) or os.listdir(path):
        raise MountFailed(path=path, reason="it is no empty folder")
    operations = Operations(folder, mounted)
    # libfuse ends well on these signals, but only where nobody else has a handler.
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        mfusepy.FUSE(
            operations,
            path,
            foreground=True,
            ro=True,
            allow_other=allow_other,
            fsname="stowage",
            subtype="stowage",
            # What a restore point holds never changes.
            kernel_cache=True,
        )
    except RuntimeError as error:
        # An end by a signal is told the same way.
        if not operations.served:
            reason = f"libfuse refused it (code {error}); its own words stand above"
            raise MountFailed(path=path, reason=reason) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    if operations.trouble is not None:
        raise operations.trouble
