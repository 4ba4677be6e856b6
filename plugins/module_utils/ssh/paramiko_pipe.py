# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pipe over the Python library paramiko, for machines without an ssh program."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import paramiko_login, quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.options import ALIVE_INTERVAL_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import CLOSE_SECONDS, STDERR_BYTES, Pipe

_WINDOW_BYTES = 4 << 20
_SLICE = 1 << 16
_TURN_SECONDS = 0.5


class ParamikoPipe(Pipe):
    """One login, one channel."""

    def __init__(self, endpoint: Endpoint, line: str) -> None:
        self.host = endpoint.host
        self.port = endpoint.port
        self._what = quoting.shorten(line)
        self._stderr = bytearray()
        self._login = paramiko_login.login(endpoint)
        try:
            self._login.transport.set_keepalive(ALIVE_INTERVAL_SECONDS)
            self._channel: Any = self._login.transport.open_session(
                window_size=_WINDOW_BYTES, timeout=endpoint.connect_timeout_seconds
            )
            self._channel.settimeout(float(endpoint.connect_timeout_seconds))
            self._channel.exec_command(line.encode("utf-8", "surrogateescape"))
            # One limit for both directions, which share it; every wait is cut into pieces of that length.
            self._channel.settimeout(_TURN_SECONDS)
        except (paramiko_login.library().SSHException, OSError, EOFError) as error:
            self._login.close()
            raise self._lost(str(error) or type(error).__name__) from error
        except BaseException:
            self._login.close()
            raise

    def readinto(self, view: memoryview, timeout_seconds: float) -> int:
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._gather()
            if not self._channel.recv_ready():
                self.waits += 1
            try:
                data = self._channel.recv(len(view))
            except (paramiko_login.library().SSHException, EOFError):
                return 0
            except OSError as error:
                if not isinstance(error, socket.timeout):
                    return 0
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                continue
            view[: len(data)] = data
            return len(data)

    def write(self, data: bytes | bytearray | memoryview, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        view = memoryview(data)
        while view:
            self._gather()
            try:
                sent = self._channel.send(bytes(view[:_SLICE]))
            except (paramiko_login.library().SSHException, EOFError) as error:
                raise self._lost(str(error)) from error
            except OSError as error:
                if not isinstance(error, socket.timeout):
                    raise self._lost(str(error)) from error
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                continue
            if sent == 0:
                raise self._lost("nobody reads its input")
            view = view[sent:]

    def cut(self) -> None:
        self._login.close()

    def said(self) -> str:
        self._gather()
        return " ".join(self._stderr.decode("utf-8", "backslashreplace").split())

    def close(self) -> tuple[int | None, str]:
        rc: int | None = None
        # A dead transport raises in every call, and there is nothing left to end then.
        with contextlib.suppress(Exception):
            self._channel.shutdown_write()
            deadline = time.monotonic() + CLOSE_SECONDS
            while not self._channel.exit_status_ready() and time.monotonic() < deadline:
                if not self._login.transport.is_active():
                    break
                while self._channel.recv_ready():
                    self._channel.recv(_SLICE)
                self._gather()
                self._channel.status_event.wait(0.02)
            self._gather()
            if self._channel.exit_status_ready() and self._channel.exit_status >= 0:
                rc = self._channel.exit_status
        self._login.close()
        return rc, self.said()

    def _gather(self) -> None:
        with contextlib.suppress(Exception):
            while self._channel.recv_stderr_ready():
                self._stderr += self._channel.recv_stderr(_SLICE)
                del self._stderr[:-STDERR_BYTES]

    def _lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(
            host=self.host, port=self.port, command=self._what, reason=reason or self.said() or "it was cut"
        )
