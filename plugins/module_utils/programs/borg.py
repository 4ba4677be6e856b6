# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program borg of this machine: started, listened to, its failures told in words.

The passphrase goes through a pipe that only its process inherits: it is on no command line and in no environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ansible_collections.stowage.esxi.plugins.module_utils.programs import borgerrors as errors

LOCK_SECONDS = 600
ENCRYPTIONS = (
    "repokey",
    "repokey-blake2",
    "keyfile",
    "keyfile-blake2",
    "authenticated",
    "authenticated-blake2",
    "none",
)
_LEAST = (1, 2)
_POLL_SECONDS = 0.1
_END_SECONDS = 30
_SECRETS = ("BORG_PASSPHRASE", "BORG_PASSCOMMAND", "BORG_PASSPHRASE_FD", "BORG_NEW_PASSPHRASE")
# By the ids that borg gives its messages.
_KINDS: dict[str, type[errors.BorgFailed]] = {
    "Repository.DoesNotExist": errors.NoRepository,
    "Repository.InvalidRepository": errors.NoRepository,
    "Repository.PathPermissionDenied": errors.NoRepository,
    "ConnectionClosedWithHint": errors.NoRepository,
    "ConnectionClosed": errors.NoRepository,
    "PassphraseWrong": errors.WrongPassphrase,
    "PasswordRetriesExceeded": errors.WrongPassphrase,
    "LockTimeout": errors.RepositoryLocked,
    "LockFailed": errors.RepositoryLocked,
    "LockErrorT": errors.RepositoryLocked,
}


def _nothing() -> None:
    """Nobody asks whether it may go on."""


@dataclass(frozen=True)
class Archive:
    name: str
    comment: str


@dataclass(frozen=True)
class Repository:
    """Where it is (a path here, or `ssh://`), and what opens it."""

    location: str
    passphrase: str | None = field(default=None, repr=False)
    program: str = "borg"
    rsh: str = ""

    def named(self, archive: str) -> str:
        return f"{self.location}::{archive}"

    def start(
        self, words: Sequence[str], *, feeds: bool = False, streams: bool = False, lock_seconds: int = LOCK_SECONDS
    ) -> Running:
        """`feeds`: its standard input is ours to write; `streams`: its output is ours to read as it comes."""
        argv = [self.program, "--log-json", "--lock-wait", str(lock_seconds), *words]
        with contextlib.ExitStack() as stack:
            said, told = (stack.enter_context(tempfile.TemporaryFile()) for _output in range(2))
            with self._secret() as (handles, environment):
                try:
                    process = subprocess.Popen(  # pylint: disable=ansible-bad-function,consider-using-with  # no AnsibleModule in this room
                        argv,
                        stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
                        stdout=subprocess.PIPE if streams else said,
                        stderr=told,
                        env=environment,
                        pass_fds=handles,
                        # Without a terminal it asks nobody.
                        start_new_session=True,
                    )
                except OSError as error:
                    raise errors.BorgMissing(reason=f"{self.program}: {error.strerror or error}") from error
            return Running(self, words, process, said, told, stack.pop_all())

    @contextlib.contextmanager
    def _secret(self) -> Any:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "no"}
        # One that should be encrypted and is not would be somebody else's.
        environment["BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"] = "no" if self.passphrase else "yes"
        environment["BORG_RSH"] = self.rsh or os.environ.get("BORG_RSH") or "ssh -o BatchMode=yes"
        if self.passphrase is None and any(environment.get(name) for name in _SECRETS):
            yield (), environment
            return
        for name in _SECRETS:
            environment.pop(name, None)
        read, write = os.pipe()
        try:
            with os.fdopen(write, "wb") as pipe:
                pipe.write((self.passphrase or "").encode("utf-8", "surrogateescape") + b"\n")
            environment["BORG_PASSPHRASE_FD"] = str(read)
            yield (read,), environment
        finally:
            os.close(read)

    def run(
        self, words: Sequence[str], alive: Callable[[], None] = _nothing, lock_seconds: int = LOCK_SECONDS
    ) -> bytes:
        """What it prints; raises what has failed."""
        with self.start(words, lock_seconds=lock_seconds) as running:
            return running.wait(alive)

    def look(self, words: Sequence[str]) -> bytes:
        """What only reads need not wait for a writer; where one has just tidied up, it does."""
        try:
            return self.run([*words, "--bypass-lock"])
        except (errors.NoRepository, errors.WrongPassphrase, errors.BorgMissing):
            raise
        except errors.BorgFailed:
            return self.run(words)

    # -- what is asked for --------------------------------------------------------------------------------------

    def must_serve(self) -> None:
        """BorgMissing for a borg that is not there, or too old to read a tar archive."""
        words = self.run(["--version"]).decode("utf-8", "replace").split()
        numbers = (words[-1] if words else "").split(".")[:2]
        if not all(number.isdigit() for number in numbers) or tuple(map(int, numbers)) < _LEAST:
            least = ".".join(map(str, _LEAST))
            raise errors.BorgMissing(
                reason=f"{self.program} is {' '.join(words) or 'of no version'}, not {least} or later"
            )
        if int(numbers[0]) > 1:
            raise errors.BorgMissing(
                reason=f"{self.program} is {' '.join(words)}: the commands of borg 1 are spoken here"
            )

    def archives(self) -> list[Archive]:
        """In the order in which they were made."""
        said = json.loads(self.look(["list", "--json", "--format", "{comment}", self.location]))
        return [Archive(str(one["name"]), str(one.get("comment") or "")) for one in said["archives"]]

    def sizes(self, archive: str) -> dict[str, int]:
        """What is in an archive, by name."""
        lines = self.look(["list", "--json-lines", "--format", "{size}{path}", self.named(archive)]).splitlines()
        return {str(one["path"]): int(one["size"]) for one in map(json.loads, lines)}

    def text(self, archive: str, name: str) -> bytes:
        """A small file."""
        return self.look(["extract", "--stdout", self.named(archive), _member(name)])

    def stream(self, archive: str, name: str) -> Running:
        """A large file, to be read from `output`; holes are zeros. On the worst day nobody waits for a backup to end:
        only who compacts meanwhile makes this fail."""
        return self.start(["extract", "--stdout", "--bypass-lock", self.named(archive), _member(name)], streams=True)

    def make(self, encryption: str) -> None:
        self.run(["init", "--encryption", encryption, "--make-parent-dirs", self.location])

    def remove(self, archives: Sequence[str], lock_seconds: int = LOCK_SECONDS, compact: bool = True) -> None:
        """These archives, and the room that they took, which is gone when it is next compacted."""
        first, *rest = archives
        self.run(["delete", self.named(first), *rest], lock_seconds=lock_seconds)
        if compact:
            self.run(["compact", self.location], lock_seconds=lock_seconds)


def _member(name: str) -> str:
    """One file, where no folder has its name. With `pf:` borg 1.2 brings it, and says that it has not found it."""
    return f"pp:{name}"


class Running:
    """A borg that runs. At the end of the block it is over, and ended where it was not."""

    def __init__(
        self,
        repository: Repository,
        words: Sequence[str],
        process: subprocess.Popen[bytes],
        said: IO[bytes],
        told: IO[bytes],
        files: contextlib.ExitStack,
    ) -> None:
        self.repository, self._words = repository, words
        self._process, self._said, self._told, self._files = process, said, told, files

    @property
    def input(self) -> IO[bytes]:
        if self._process.stdin is None:
            raise ValueError("it was started without feeds")
        return self._process.stdin

    @property
    def output(self) -> IO[bytes]:
        if self._process.stdout is None:
            raise ValueError("it was started without streams")
        return self._process.stdout

    def write(self, data: bytes) -> None:
        try:
            self.input.write(data)
        except (BrokenPipeError, ValueError) as error:
            # It has ended before it had all, and knows why.
            self.wait()
            raise self._failed("it has ended early") from error

    def wait(self, alive: Callable[[], None] = _nothing) -> bytes:
        """Its output, where that was not streamed; or raises why it has failed. More input there is none."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        while self._process.poll() is None:
            alive()
            time.sleep(_POLL_SECONDS)
        if self._process.returncode != 0:
            raise self._failed()
        self._said.seek(0)
        return self._said.read()

    def _failed(self, otherwise: str = "") -> errors.BorgFailed:
        self._told.seek(0)
        lines = self._told.read().decode("utf-8", "replace").splitlines()
        kind, words = errors.BorgFailed, []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = {"message": line}
            if not isinstance(message, Mapping) or message.get("levelname") in ("DEBUG", "INFO"):
                continue
            kind = _KINDS.get(str(message.get("msgid")), kind)
            # What it says to its developers comes in many lines.
            words += [part.strip() for part in str(message.get("message") or "").splitlines()[:1] if part.strip()]
        return kind(
            host="",
            action=self._words[0],
            repository=self.repository.location,
            rc=self._process.returncode,
            output=" ".join(words)[:600] or otherwise or "it said nothing",
        )

    def end(self) -> None:
        """An archive that is not whole does not come to be."""
        with contextlib.suppress(OSError):
            self._process.terminate()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.end()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            # Its lock stays, and the next borg sees that its owner is dead.
            self._process.kill()
            self._process.wait()
        self._files.close()
