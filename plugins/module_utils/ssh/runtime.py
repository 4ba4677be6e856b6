# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The private folder where processes of one user meet: control sockets, locks, pinned keys."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import UnsafeFolder

# The path of a Unix socket ends at 107 bytes; ssh adds 17 to the name while it makes one, we add 24.
_LONGEST_FOLDER = 60


def folder() -> str:
    """The folder, made 0700 and checked to be ours alone at every call.

    ``STOWAGE_RUNTIME_DIR`` names another. XDG_RUNTIME_DIR is not used: it vanishes with the login session that
    Ansible opened, and with it the connection that the next task wants to share.
    """
    path = os.environ.get("STOWAGE_RUNTIME_DIR") or _default()
    if len(os.fsencode(path)) > _LONGEST_FOLDER:
        raise UnsafeFolder(path=path, reason=f"its path is longer than {_LONGEST_FOLDER} bytes, too long for a socket")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        state = os.lstat(path)
    except OSError as error:
        raise UnsafeFolder(path=path, reason=error.strerror or str(error)) from error
    if not stat.S_ISDIR(state.st_mode):
        raise UnsafeFolder(path=path, reason="it is not a folder")
    if state.st_uid != os.geteuid():
        raise UnsafeFolder(path=path, reason=f"it belongs to user id {state.st_uid}, not to {os.geteuid()}")
    if stat.S_IMODE(state.st_mode) & 0o077:
        raise UnsafeFolder(path=path, reason=f"others may enter it (mode {stat.S_IMODE(state.st_mode):04o})")
    return path


def _default() -> str:
    # Only root can make names in /run, so nobody can be there first.
    if os.geteuid() == 0 and os.access("/run", os.W_OK):
        return "/run/stowage"
    return f"/tmp/stowage-{os.geteuid()}"


def name_of(*parts: Any) -> str:
    """A short name for what ``parts`` say. Keyed, because names stand in process lists and parts hold secrets."""
    text = json.dumps(parts, sort_keys=True).encode("utf-8", "surrogateescape")
    return hmac.new(_key(), text, hashlib.sha256).hexdigest()[:20]


def _key() -> bytes:
    path = os.path.join(folder(), "key")
    for _attempt in range(5):
        with contextlib.suppress(FileNotFoundError):
            with open(path, "rb") as file:
                key = file.read()
            if len(key) == 32:
                return key
            os.unlink(path)
        temporary = f"{path}.{secrets.token_hex(8)}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, secrets.token_bytes(32))
        finally:
            os.close(handle)
        # link, not rename: the first one wins, and everybody reads the same key.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        os.unlink(temporary)
    raise UnsafeFolder(path=path, reason="its key file keeps changing")


def lock_file(path: str, timeout_seconds: float, clock: Clock) -> int | None:
    """An open, exclusively locked file: close it to let go. ``None`` when it could not be had in time."""
    deadline = clock.monotonic() + timeout_seconds
    pause = 0.02
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
        except BaseException:
            os.close(handle)
            raise
        else:
            # A cleaner of /tmp may have removed the name between open and flock.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(handle).st_ino:
                    os.utime(handle)
                    return handle
            os.close(handle)
            continue
        if clock.monotonic() >= deadline:
            return None
        clock.sleep(pause)
        pause = min(pause * 1.5, 0.5)
