# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions over the ssh program and its shared connection."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import options, quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import CommandTimeout, ConnectionLost, SshError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.master import Master, environment
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session, too_long

# One connection carries ten sessions on ESXi. Four connections are forty commands at a time: more is a defect.
_SLOTS = 4
_READ = 1 << 16


class OpenSshSession(Session):
    """Each call is an ``ssh`` that rides on the endpoint's master; the first one, of any process, connects it."""

    def __init__(self, endpoint: Endpoint, program: str) -> None:
        super().__init__(endpoint)
        self.program = program
        self._masters = [Master(endpoint, program, slot) for slot in range(_SLOTS)]
        self._slot = 0

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        line = quoting.join(argv)
        # ssh answers 255 for its own troubles, and so may a command: the true rc comes on stderr behind a word that
        # nobody can guess. The parentheses keep builtins such as exit from skipping it.
        token = secrets.token_hex(8)
        command = f"({line}); echo {token}:$? >&2"
        vanished = 0
        while True:
            socket = self._masters[self._slot].ensure()
            stdout, stderr = self._client(socket, command, stdin, timeout_seconds, line)
            matches = list(re.finditer(rb"%s:([0-9]+)\r?\n" % token.encode("ascii"), stderr))
            if matches:
                last = matches[-1]
                stderr = stderr[: last.start()] + stderr[last.end() :]
                return Result(tuple(argv), int(last.group(1)), _text(stdout), _text(stderr))
            words = _text(stderr)
            if not never_started(words):
                raise self._lost(line, words)
            if "refused by peer" in words and self._slot + 1 < _SLOTS:
                self._slot += 1
                continue
            vanished += 1
            if vanished > 2 or "refused by peer" in words:
                raise SshError(
                    host=self.endpoint.host,
                    port=self.endpoint.port,
                    reason="the shared connection takes no more sessions, or ends as soon as it is made: "
                    + quoting.shorten(words, 300),
                )

    def connect(self) -> None:
        """Makes the shared connection where there is none."""
        self._masters[self._slot].ensure()

    def client_words(self) -> list[str]:
        """An ssh command that rides on the shared connection, for a program that puts the target and what is to be run
        there behind it. The connection is made where there is none."""
        socket = self._masters[self._slot].ensure()
        words = options.client(self.program, self.endpoint, socket)
        return [*words[: -len(options.target(self.endpoint))], "-p", str(self.endpoint.port)]

    def close(self) -> None:
        """Nothing to do: the connection belongs to all processes, and ends by itself when nobody uses it."""

    def disconnect(self) -> None:
        """Ends the shared connection now, for every process that uses it."""
        for master in self._masters:
            if master.alive():
                master.stop()

    def _client(
        self, socket: str, command: str, stdin: bytes | None, timeout_seconds: float, line: str
    ) -> tuple[bytes, bytes]:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # no AnsibleModule in this room
            [*options.client(self.program, self.endpoint, socket), command],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment(self.endpoint),
            start_new_session=True,
        )
        try:
            return self._exchange(process, stdin or b"", time.monotonic() + timeout_seconds, line)
        except TimeoutError:
            raise CommandTimeout(
                host=self.endpoint.host,
                port=self.endpoint.port,
                command=quoting.shorten(line),
                seconds=timeout_seconds,
            ) from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            # Not read to their end: the master holds the other ends for as long as the command runs on the host.
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _exchange(
        self, process: subprocess.Popen[bytes], stdin: bytes, deadline: float, line: str
    ) -> tuple[bytes, bytes]:
        """Feeds and reads all three streams until both outputs have ended, and the client with them."""
        found = {process.stdout: bytearray(), process.stderr: bytearray()}
        rest = memoryview(stdin)
        with selectors.DefaultSelector() as ready:
            for stream in found:
                if stream is not None:
                    ready.register(stream, selectors.EVENT_READ)
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
                ready.register(process.stdin, selectors.EVENT_WRITE)
            while ready.get_map():
                left = deadline - time.monotonic()
                # A command that prints for ever has a limit, too.
                if left <= 0:
                    raise TimeoutError
                for key, _events in ready.select(left):
                    if key.fileobj is process.stdin:
                        rest = _fed(key.fd, rest)
                        if not rest:
                            ready.unregister(key.fileobj)
                            with contextlib.suppress(OSError):
                                process.stdin.close()
                        continue
                    data = os.read(key.fd, _READ)
                    if not data:
                        ready.unregister(key.fileobj)
                    found[key.fileobj] += data  # type: ignore[index]
                if sum(map(len, found.values())) > self.most_bytes:
                    raise too_long(self.endpoint, line, self.most_bytes)
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        return bytes(found[process.stdout]), bytes(found[process.stderr])

    def _lost(self, line: str, words: str) -> ConnectionLost:
        lines = [text.strip() for text in words.splitlines() if text.strip() and options.NO_MASTER not in text]
        return ConnectionLost(
            host=self.endpoint.host,
            port=self.endpoint.port,
            command=quoting.shorten(line),
            reason=lines[-1] if lines else "it ended without an exit status",
        )


def never_started(words: str) -> bool:
    """Whether ssh's words prove that the command was not even asked for, so that it may be asked for again.

    A master that dies between the request and its answer leaves that open, and leaves its own words.
    """
    if options.NO_MASTER not in words:
        return False
    doubts = [line for line in words.splitlines() if line.startswith("mux_client")]
    return all("refused by peer" in line or "hello_exchange" in line for line in doubts)


def _fed(handle: int, data: memoryview) -> memoryview:
    """What is still to be written; nothing where nobody reads it any more."""
    try:
        return data[os.write(handle, data[:_READ]) :] if data else data
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
