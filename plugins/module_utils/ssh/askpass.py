# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hands a password to the ssh program: not on a command line, not in an environment, not on a disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import runtime
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import UnsafeFolder

# ssh runs this with its prompt as the argument. Each pipe is renamed before it is read, so that a secret is given
# once: a second question (wrong password, expired password) gets no answer instead of a second failed login.
# Only ssh's own question for a passphrase gets the passphrase; a server's questions are prefixed "(user@host) ".
HELPER = """#!/bin/sh
case "$1" in
  "Enter passphrase for"*) kind=passphrase ;;
  *) kind=password ;;
esac
[ -n "$STOWAGE_ASKPASS" ] && mv "$STOWAGE_ASKPASS/$kind" "$STOWAGE_ASKPASS/$kind.asked" 2>/dev/null || exit 1
IFS= read -r secret < "$STOWAGE_ASKPASS/$kind.asked" || exit 1
printf '%s\\n' "$secret"
"""


class Askpass:
    """The environment for ssh, and whether a secret was asked for."""

    def __init__(self, folder: str, helper: str) -> None:
        self._folder = folder
        self.environment = {
            "SSH_ASKPASS": helper,
            "SSH_ASKPASS_REQUIRE": "force",
            # Before OpenSSH 8.4 askpass is used when there is no terminal and a display is named.
            "DISPLAY": "none:0",
            "STOWAGE_ASKPASS": folder,
        }

    def asked(self, kind: str) -> bool:
        return os.path.exists(os.path.join(self._folder, f"{kind}.asked"))


@contextlib.contextmanager
def offer(*, password: str | None, passphrase: str | None) -> Iterator[Askpass]:
    """Offers the secrets while the block runs; afterwards nothing of them is left.

    A secret waits in the buffer of a named pipe that only this user can open: in memory, never in a file.
    """
    folder = tempfile.mkdtemp(prefix="ask-", dir=runtime.folder())
    pipes = []
    try:
        for kind, secret in (("password", password), ("passphrase", passphrase)):
            if secret is None:
                continue
            path = os.path.join(folder, kind)
            os.mkfifo(path, 0o600)
            # Open for both ends: neither this side nor the helper ever blocks on the other.
            pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            pipes.append(pipe)
            os.write(pipe, secret.encode("utf-8", "surrogateescape") + b"\n")
        yield Askpass(folder, _helper())
    finally:
        for pipe in pipes:
            os.close(pipe)
        shutil.rmtree(folder, ignore_errors=True)


def _helper() -> str:
    """The helper's path, on a file system that lets programs run: /run and /tmp are often mounted noexec."""
    home_cache = os.path.join(os.path.expanduser("~"), ".cache", "stowage")
    for place in (runtime.folder(), home_cache, f"/var/tmp/stowage-{os.geteuid()}", f"/dev/shm/stowage-{os.geteuid()}"):
        with contextlib.suppress(OSError):
            os.makedirs(place, mode=0o700, exist_ok=True)
            state = os.lstat(place)
            if state.st_uid != os.geteuid() or state.st_mode & 0o022:
                continue
            path = os.path.join(place, "askpass")
            if not _is_helper(path):
                temporary = f"{path}.{secrets.token_hex(8)}"
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
                with os.fdopen(handle, "w", encoding="ascii") as file:
                    file.write(HELPER)
                os.replace(temporary, path)
            # access() answers no on a noexec mount.
            if os.access(path, os.X_OK):
                return path
    raise UnsafeFolder(
        path=runtime.folder(), reason="no folder of this user lets programs run, which ssh needs to ask for a password"
    )


def _is_helper(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return file.read() == HELPER
    except (OSError, UnicodeDecodeError):
        return False
