# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one interface to a shell on another machine, whatever carries it."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import (
    AnswerTooLong,
    RemoteCommandFailed,
    RemoteFileError,
)

# Of both streams. The longest answer of an honest host, a thousand manifests at once, stays far below.
MOST_BYTES = 64 << 20

# The size check is the point: a connection cut in the middle looks like the end of the data to cat.
_WRITE = (
    'cat > "$1" && [ "$(wc -c < "$1")" -eq "$3" ] && mv -f "$1" "$2" || '
    '{ rm -f "$1"; echo "the file could not be written as a whole" >&2; exit 1; }'
)


@dataclass(frozen=True)
class Result:
    """How a remote command ended. Text is UTF-8; bytes that are not come through as surrogates and back."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.rc == 0

    @property
    def command(self) -> str:
        return quoting.shorten(quoting.join(self.argv))

    @property
    def output(self) -> str:
        """What the command said, its errors first: for messages."""
        return " ".join((self.stderr + "\n" + self.stdout).split()) or "(it printed nothing)"


class Session(ABC):
    """A way to run commands on one machine. Each call is on its own: no state is kept on the other side.

    Every call raises the errors of ``ssh.errors`` for what the connection does, never for what the command returns.
    A call that raised ``ConnectionLost``, ``CommandTimeout`` or ``AnswerTooLong`` may have run on the other side, in
    whole or in part. No answer takes more memory than ``most_bytes``: the other side may print for ever.
    """

    most_bytes = MOST_BYTES

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @abstractmethod
    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        """Runs ``argv`` (quoted here) with ``stdin``, or nothing, on standard input. Never raises for rc != 0."""

    @abstractmethod
    def close(self) -> None:
        """Frees what this session holds. A connection shared with other processes stays for them."""

    def script(self, text: str, args: Sequence[str] = (), *, timeout_seconds: float = 60.0) -> Result:
        """Runs a shell script that travels on standard input; ``args`` are its ``$1``, ``$2``…

        The shell has read the whole text before the first command starts: a cut connection never runs half a script.
        Its commands read nothing from standard input. Nothing of the text is on a command line.
        """
        body = "{\n" + text + "\n} </dev/null\n"
        return self.run(
            ["sh", "-s", "--", *args], stdin=body.encode("utf-8", "surrogateescape"), timeout_seconds=timeout_seconds
        )

    def check(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        """Like ``run``, but an rc other than 0 is ``RemoteCommandFailed``."""
        result = self.run(argv, stdin=stdin, timeout_seconds=timeout_seconds)
        if result.rc != 0:
            raise RemoteCommandFailed(
                host=self.endpoint.host,
                port=self.endpoint.port,
                rc=result.rc,
                command=result.command,
                output=quoting.shorten(result.output, 500),
            )
        return result

    def read_text(self, path: str) -> str:
        """The file, unchanged; ``RemoteFileError`` with the other side's words if it cannot be read."""
        result = self.run(["cat", _file(path)])
        if result.rc != 0:
            raise RemoteFileError(
                host=self.endpoint.host, port=self.endpoint.port, path=path, done="read", reason=result.output
            )
        return result.stdout

    def write_text(self, path: str, text: str) -> None:
        """Replaces the file as a whole: a temporary file beside it, checked for its size, then ``mv``."""
        data = text.encode("utf-8", "surrogateescape")
        folder, slash, name = _file(path).rpartition("/")
        temporary = f"{folder}{slash}.{name[:60]}.{secrets.token_hex(4)}.tmp"
        result = self.run(["sh", "-c", _WRITE, "sh", temporary, _file(path), str(len(data))], stdin=data)
        if result.rc != 0:
            raise RemoteFileError(
                host=self.endpoint.host, port=self.endpoint.port, path=path, done="written", reason=result.output
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def too_long(endpoint: Endpoint, line: str, limit: int) -> AnswerTooLong:
    """What a session raises that has read more than it will keep."""
    return AnswerTooLong(host=endpoint.host, port=endpoint.port, command=quoting.shorten(line), limit=limit)


def open_session(endpoint: Endpoint) -> Session:
    """A session over OpenSSH's shared connection where there is an ssh program, else over paramiko.

    Nothing is connected yet: the first call does, and raises what stands in the way.
    """
    from ansible_collections.stowage.esxi.plugins.module_utils.ssh import backend

    return backend.choose(endpoint)


def _file(path: str) -> str:
    # A name with a leading dash is data, not an option.
    return path if not path.startswith("-") else "./" + path
