# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON lines over unix sockets: requests to the lab's daemon and the frames of its answers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _short_path(path: str) -> Iterator[str]:
    """The same socket under a name that always fits into the 108 bytes of a unix address."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{os.path.basename(path)}"
    finally:
        os.close(descriptor)


def listen(path: str) -> socket.socket:
    """A listening unix socket at path, replacing what a dead daemon left there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short_path(path) as name:
        server.bind(name)
    server.listen(128)
    return server


def peer_pid(connection: socket.socket) -> int:
    """The pid of the process at the other end, as this process's pid namespace numbers it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", raw)[0])


class Channel:
    """One connection: values in, values out, one JSON line each."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = connection.makefile("rb")

    def send(self, value: Any) -> None:
        # Lone surrogates stand for bytes that are no UTF-8; JSON's ASCII form carries them unharmed.
        self.connection.sendall(json.dumps(value).encode("ascii") + b"\n")

    def receive(self) -> Any:
        """The next value; EOFError when the other side is gone."""
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the other side closed the connection")
        return json.loads(line)

    def call(self, request: Any) -> Any:
        self.send(request)
        return self.receive()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._reader.close()
            self.connection.close()


def connect(path: str) -> Channel:
    """A channel to the daemon's socket at path."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_path(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return Channel(connection)
