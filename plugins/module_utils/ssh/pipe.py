# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A two-way stream of bytes to one remote command, over a connection of its own.

Apart from ``session``: the modules that only control a host carry nothing of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import options, quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.master import Master, environment
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.ssh.openssh import OpenSshSession

# What a command says about itself is for messages: the end of it is kept, whatever it prints.
STDERR_BYTES = 16384
CLOSE_SECONDS = 5.0
_PIPE_BYTES = 1 << 20


class Pipe(ABC):
    """The command's input and output, for one thread that reads and one that writes; close when neither is at work.

    A wait that is over raises ``TimeoutError``; nothing is known then about how much of a write went out.
    """

    host: str
    port: int
    waits = 0
    """How often `readinto` found nothing there."""

    @abstractmethod
    def readinto(self, view: memoryview, timeout_seconds: float) -> int:
        """At least one byte into ``view``; how many. 0: the command, or the connection, has ended."""

    @abstractmethod
    def write(self, data: bytes | bytearray | memoryview, timeout_seconds: float) -> None:
        """All of ``data``; raises ``ConnectionLost`` when nobody reads it any more."""

    @abstractmethod
    def close(self) -> tuple[int | None, str]:
        """Ends the command's input and the connection. The exit status where one came in time, and ``said``."""

    @abstractmethod
    def cut(self) -> None:
        """Ends the connection at once, from any thread: who reads or writes finds the end. ``close`` is still due."""

    @abstractmethod
    def said(self) -> str:
        """The end of what came on standard error so far."""

    def read(self, count: int, timeout_seconds: float) -> bytes:
        """Up to ``count`` bytes; none at the end."""
        buffer = bytearray(count)
        return bytes(buffer[: self.readinto(memoryview(buffer), timeout_seconds)])

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ProcessPipe(Pipe):
    """A pipe to a program of this machine: in use, the ssh client."""

    def __init__(self, words: Sequence[str], what: str, host: str, port: int, env: dict[str, str]) -> None:
        self.host = host
        self.port = port
        self._what = what
        self._stderr = bytearray()
        self._process = subprocess.Popen(  # pylint: disable=ansible-bad-function,consider-using-with
            list(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=env,
            start_new_session=True,
        )
        self._in, self._out, self._err = _streams(self._process)
        self._reading = select.poll()
        for stream, event in ((self._out, select.POLLIN), (self._err, select.POLLIN)):
            os.set_blocking(stream.fileno(), False)
            self._reading.register(stream.fileno(), event)
        os.set_blocking(self._in.fileno(), False)
        self._writing = select.poll()
        self._writing.register(self._in.fileno(), select.POLLOUT)
        self._writing.register(self._err.fileno(), select.POLLIN)
        for stream in (self._in, self._out):
            # A read of one whole frame instead of sixteen; refused beyond an unprivileged user's share of memory.
            with contextlib.suppress(OSError):
                fcntl.fcntl(stream.fileno(), getattr(fcntl, "F_SETPIPE_SZ", 1031), _PIPE_BYTES)

    @property
    def pid(self) -> int:
        return self._process.pid

    def readinto(self, view: memoryview, timeout_seconds: float) -> int:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                return os.readv(self._out.fileno(), [view])
            except BlockingIOError:
                self.waits += 1
                self._wait(self._reading, deadline)

    def write(self, data: bytes | bytearray | memoryview, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._in.fileno(), view) :]
            except BlockingIOError:
                self._wait(self._writing, deadline)
            except (BrokenPipeError, ValueError) as error:
                self._gather(0.2)
                raise ConnectionLost(
                    host=self.host, port=self.port, command=self._what, reason=self.said() or "nobody reads its input"
                ) from error

    def said(self) -> str:
        self._gather(0)
        return " ".join(self._stderr.decode("utf-8", "backslashreplace").split())

    def cut(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> tuple[int | None, str]:
        if self._out.closed:
            return self._process.returncode, self.said()
        with contextlib.suppress(OSError):
            self._in.close()
        self._gather(CLOSE_SECONDS, end=True)
        rc: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            rc = self._process.wait(0.5)
        self.cut()
        self._process.wait()
        said = self.said()
        for stream in (self._out, self._err):
            with contextlib.suppress(OSError):
                stream.close()
        return rc, said

    def _wait(self, poll: select.poll, deadline: float) -> None:
        """Until the stream is ready; what comes on standard error meanwhile is taken, so that it blocks nobody."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        for handle, _event in poll.poll(left * 1000):
            if handle == self._err.fileno() and not self._gather(0):
                poll.unregister(handle)

    def _gather(self, seconds: float, *, end: bool = False) -> bool:
        """Takes what is on standard error, waiting for its end up to ``seconds``; whether more may come.

        With ``end``, what still comes on standard output is thrown away meanwhile: a command that must write its last
        words there would not end.
        """
        deadline = time.monotonic() + seconds
        waiting = {self._err, self._out} if end else {self._err}
        waiting = {stream for stream in waiting if not stream.closed}
        while waiting:
            poll = select.poll()
            for stream in waiting:
                poll.register(stream.fileno(), select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            for stream in tuple(waiting):
                try:
                    data = os.read(stream.fileno(), 65536)
                except BlockingIOError:
                    continue
                if not data:
                    waiting.discard(stream)
                elif stream is self._err:
                    self._stderr += data
                    del self._stderr[:-STDERR_BYTES]
            if time.monotonic() >= deadline:
                return self._err in waiting
        return False


def _streams(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ValueError("the program was started without its streams")
    return process.stdin, process.stdout, process.stderr


class Connection:
    """An OpenSSH connection for one pipe: logged in when this returns, and its command is not known yet."""

    def __init__(self, session: OpenSshSession) -> None:
        self.endpoint, self.program = session.endpoint, session.program
        # A master like the shared one, under a name that nobody else can know: logging in, host keys, jump host and
        # every message about them are the same. The streams are handed to it: no byte passes a second process.
        self._master = Master(self.endpoint, self.program, slot=secrets.token_hex(8))
        # A password that was refused to the shared connection is not sent by this one, and the other way round.
        self._master.refused = Master(self.endpoint, self.program).refused
        self._master.start()
        self._until = time.monotonic() + options.PERSIST_SECONDS / 2

    @property
    def usable(self) -> bool:
        """Not yet lost, and not about to end by itself because nothing rides on it."""
        return time.monotonic() < self._until and self._master.alive()

    def client(self, line: str) -> list[str]:
        return [*options.client(self.program, self.endpoint, self._master.socket), line]

    def stop(self) -> None:
        # A master that does not answer ends by itself: nothing rides on it any more.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._master.stop()


class _OverConnection(ProcessPipe):
    """Over a connection that nothing else rides on, and that ends with it."""

    def __init__(self, connection: Connection, line: str) -> None:
        self._connection, endpoint = connection, connection.endpoint
        try:
            words = connection.client(line)
            super().__init__(words, quoting.shorten(line), endpoint.host, endpoint.port, environment(endpoint))
        except BaseException:
            connection.stop()
            raise

    def cut(self) -> None:
        super().cut()
        self._connection.stop()

    def close(self) -> tuple[int | None, str]:
        try:
            rc, said = super().close()
        finally:
            self._connection.stop()
        # 255 is ssh's own, too: the connection, not the command. So is a signal that ended ssh itself.
        return (rc if rc is not None and 0 <= rc < 255 else None), said


def connect(session: Session, *, behind_shared: bool = False) -> Connection | None:
    """For a pipe whose command is not known yet; None where a login cannot be apart from the command.

    `behind_shared`: others log in at the same time, and a password that is wrong is to go out once, by the shared
    connection."""
    from ansible_collections.stowage.esxi.plugins.module_utils.ssh.openssh import OpenSshSession

    if not isinstance(session, OpenSshSession):
        return None
    if behind_shared:
        session.connect()
    return Connection(session)


def open_pipe(session: Session, argv: Sequence[str], connection: Connection | None = None) -> Pipe:
    """Runs ``argv`` where ``session`` leads, over a connection with the same settings: the one given, which is the
    pipe's from now on, or a new one. Raises what prevents it."""
    # exec: the command itself, and no shell above it, is what the connection's end meets.
    line = "exec " + quoting.join(argv)
    connection = connection or connect(session)
    if connection is not None:
        return _OverConnection(connection, line)
    from ansible_collections.stowage.esxi.plugins.module_utils.ssh.paramiko_pipe import ParamikoPipe

    return ParamikoPipe(session.endpoint, line)
