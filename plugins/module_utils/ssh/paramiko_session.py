# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions over the Python library paramiko, for machines without an ssh program."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import paramiko_login, quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import CommandTimeout, ConnectionLost
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.options import ALIVE_INTERVAL_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session, too_long

_READ = 65536
# The library has waits without a limit: past the command's own, the connection is closed.
_GRACE_SECONDS = 2.0


class ParamikoSession(Session):
    """One connection of this process, made by the first call and remade by the call after a cut."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._login: paramiko_login.Login | None = None
        self._lock = threading.Lock()

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        line = quoting.join(argv)
        deadline = time.monotonic() + timeout_seconds
        channel = self._channel(line)
        with _closed_after(timeout_seconds + _GRACE_SECONDS, channel) as expired:
            try:
                # The same parentheses as over OpenSSH: one way for a command to reach the shell.
                channel.exec_command(f"({line})".encode("utf-8", "surrogateescape"))
                stdout, stderr, rc = self._exchange(channel, stdin or b"", deadline, line)
            except (paramiko_login.library().SSHException, OSError, EOFError) as error:
                if isinstance(error, TimeoutError) or expired.is_set():
                    raise CommandTimeout(
                        host=self.endpoint.host,
                        port=self.endpoint.port,
                        command=quoting.shorten(line),
                        seconds=timeout_seconds,
                    ) from None
                raise self._lost(line, str(error) or type(error).__name__) from error
            finally:
                # A dead transport raises here, and the cause is already on its way.
                with contextlib.suppress(Exception):
                    channel.close()
        if rc is None:
            raise self._lost(line, "it ended without an exit status")
        return Result(tuple(argv), rc, _text(stdout), _text(stderr))

    def close(self) -> None:
        with self._lock:
            if self._login is not None:
                self._login.close()
                self._login = None

    def _channel(self, line: str) -> Any:
        with self._lock:
            if self._login is None or not self._login.transport.is_active():
                if self._login is not None:
                    self._login.close()
                    self._login = None
                self._login = paramiko_login.login(self.endpoint)
                self._login.transport.set_keepalive(ALIVE_INTERVAL_SECONDS)
            transport = self._login.transport
        try:
            return transport.open_session(timeout=self.endpoint.connect_timeout_seconds)
        except (paramiko_login.library().SSHException, OSError, EOFError) as error:
            raise self._lost(line, str(error) or type(error).__name__) from error

    def _exchange(self, channel: Any, stdin: bytes, deadline: float, line: str) -> tuple[bytes, bytes, int | None]:
        """Feeds and reads without blocking on any one of the three streams, until the channel is closed."""
        out = bytearray()
        err = bytearray()
        # Zero makes every call answer at once; the loop below paces itself on the channel's own event.
        channel.settimeout(0.0)
        view = memoryview(stdin)
        open_stdin = True
        while True:
            moved = False
            if open_stdin and view and channel.send_ready():
                with contextlib.suppress(TimeoutError):
                    view = view[channel.send(bytes(view[:_READ])) :]
                    moved = True
            if open_stdin and not view:
                channel.shutdown_write()
                open_stdin = False
            if channel.recv_ready():
                out += channel.recv(_READ)
                moved = True
            if channel.recv_stderr_ready():
                err += channel.recv_stderr(_READ)
                moved = True
            # A command that prints for ever has a limit, too, and one that prints fast another one.
            if len(out) + len(err) > self.most_bytes:
                raise too_long(self.endpoint, line, self.most_bytes)
            if time.monotonic() >= deadline:
                raise TimeoutError
            if not moved:
                if channel.closed or (channel.eof_received and channel.exit_status_ready()):
                    if channel.recv_ready() or channel.recv_stderr_ready():
                        continue
                    break
                if not channel.get_transport().is_active():
                    return bytes(out), bytes(err), None
                # Not the exit event alone: data may come for hours before it.
                channel.status_event.wait(0.01)
                if channel.exit_status_ready():
                    time.sleep(0.002)
        rc = channel.exit_status
        return bytes(out), bytes(err), rc if rc >= 0 else None

    def _lost(self, line: str, reason: str) -> ConnectionLost:
        return ConnectionLost(
            host=self.endpoint.host, port=self.endpoint.port, command=quoting.shorten(line), reason=reason
        )


@contextlib.contextmanager
def _closed_after(seconds: float, channel: Any) -> Iterator[threading.Event]:
    """Closes the connection under a block that is still at work then, which ends all its waits; the event says so."""
    expired = threading.Event()

    def close() -> None:
        expired.set()
        channel.get_transport().close()

    timer = threading.Timer(seconds, close)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
