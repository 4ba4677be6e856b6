# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program rsync of this machine: one file at a time, here or over the SSH connection of a session.

Each file is written in place, from what is there already (a half copy, a clone of the former image) or from a former
file named as the base. rsync itself compares both ends' checksum of the whole file before it is content.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from ansible_collections.stowage.esxi.plugins.module_utils.programs import rsyncerrors as errors
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.openssh import OpenSshSession
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

PROGRAM = "rsync"
LEAST = (3, 1, 3)
# Either end gives up when it hears nothing for so long: a process that reads a disk must not outlive its other end.
TIMEOUT_SECONDS = 60
#: What a copy may be tried again after: the connection broke, or the other end went away.
BROKEN = frozenset({10, 12, 30, 35, 255})
# What takes less room than this as zeros is not worth writing half of a clone anew.
_LET_GO = 64 << 20
_END_SECONDS = 20
_PID = re.compile(rb"^stowage-rsync (\d+)\r?$", re.MULTILINE)
_PROGRESS = re.compile(rb"^ *(\d+) +\d+%")
_STATS = {
    "literal": re.compile(rb"^Literal data: (\d+)", re.MULTILINE),
    "matched": re.compile(rb"^Matched data: (\d+)", re.MULTILINE),
    "sent": re.compile(rb"^Total bytes sent: (\d+)", re.MULTILINE),
    "received": re.compile(rb"^Total bytes received: (\d+)", re.MULTILINE),
}


@dataclass(frozen=True)
class File:
    """One end of a copy: a path here, or on the machine of a session. `program` is the rsync there."""

    path: str
    session: OpenSshSession | None = None
    program: str = PROGRAM

    @property
    def words(self) -> str:
        """As rsync takes it. What is here is never taken for a place on a server: its path is absolute."""
        if self.session is None:
            return self.path
        host = self.session.endpoint.host
        return f"{self.session.endpoint.user}@{f'[{host}]' if ':' in host else host}:{self.path}"


@dataclass(frozen=True)
class Copied:
    """What a copy cost. `literal` bytes of the file travelled, `matched` were there; `wire` is all that went to and
    fro."""

    literal: int
    matched: int
    wire: int


@dataclass(frozen=True)
class Wish:
    """`former`: a folder of the receiving machine with a file of the same name to begin from, where none is there.

    `sparse`: zeros become holes. Of what is there already, rsync then writes anew each block that begins or ends with
    zeros, so that half of a clone is its own afterwards.
    """

    whole_file: bool = False
    former: str = ""
    bandwidth_limit: int = 0
    sparse: bool = True


def sparsely(begun: str, occupied: int, held: int) -> bool:
    """Whether a copy of `held` bytes to an image that occupies so many already, of which it was begun, makes holes.

    Over a clone it does not: the room is that of what differs. Where much was let go of, its zeros would be more.
    """
    return begun in ("new", "former") or occupied > held + max(held // 8, _LET_GO)


def over(session: Session) -> OpenSshSession:
    """rsync needs the ssh program: it starts it by itself."""
    if not isinstance(session, OpenSshSession):
        raise errors.RsyncMissing(
            where="here", reason="it goes over the program ssh, and there is none, or backend=paramiko was asked for"
        )
    return session


def must_serve(session: Session | None = None, program: str = PROGRAM) -> str:
    """The version of the rsync here or there; RsyncMissing where none can be used, with the machine's own words."""
    where = session.endpoint.host if session is not None else "here"
    if session is not None:
        answer = session.run([program, "--version"])
        rc, text = answer.rc, answer.output
    else:
        try:
            found = subprocess.run(  # pylint: disable=ansible-bad-function  # no AnsibleModule in this room
                [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60
            )
        except OSError as error:
            raise errors.RsyncMissing(where=where, reason=f"{program}: {error.strerror or error}") from error
        rc, text = found.returncode, " ".join((found.stderr + found.stdout).decode("utf-8", "replace").split())
    version = re.search(r"version v?(\d+)\.(\d+)\.(\d+)", text)
    if rc != 0 or version is None:
        denied = "not permitted" in text.lower() or "permission denied" in text.lower()
        why = " (a host with execInstalledOnly runs only what a VIB has installed)" if denied else ""
        raise errors.RsyncMissing(where=where, reason=f"{program}: {quoting.shorten(text, 300)}{why}")
    if tuple(map(int, version.groups())) < LEAST:
        least = ".".join(map(str, LEAST))
        raise errors.RsyncMissing(
            where=where, reason=f"{program} is {'.'.join(version.groups())}, not {least} or later"
        )
    return ".".join(version.groups())


def _read_by(pid: int) -> int:
    """Bytes that the rsync processes of this tree have read so far, of files and of the line (proc(5): `io`)."""
    count, left = 0, [pid]
    while left:
        one = left.pop()
        with contextlib.suppress(OSError, ValueError, IndexError):
            place = f"/proc/{one}"
            with open(f"{place}/task/{one}/children", encoding="ascii") as file:
                left += map(int, file.read().split())
            with open(f"{place}/comm", encoding="utf-8", errors="replace") as file:
                ours = file.read().strip() == PROGRAM
            if ours:
                with open(f"{place}/io", encoding="ascii") as file:
                    count += int(file.readline().split()[1])
    return count


class Rsync:
    """One copy. `done` bytes of the file are dealt with; `end` may be called by another thread."""

    def __init__(self, source: File, target: File) -> None:
        self.source, self.target = source, target
        self.done = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def copy(self, wish: Wish, started: Callable[[int], None] = lambda pid: None) -> Copied:
        """Until it is over. `started` is told of the number of the process at the other end."""
        words = ["--inplace", "--ignore-times", "--partial", "--no-human-readable"]
        if wish.sparse:
            words.append("--sparse")
        # Its progress at once, and not when a buffer is full.
        words += ["--outbuf=N", "--info=progress2,stats2", "--whole-file" if wish.whole_file else "--no-whole-file"]
        if wish.former and not wish.whole_file:
            words.append(f"--copy-dest={wish.former}")
        if wish.bandwidth_limit:
            words.append(f"--bwlimit={max(1, wish.bandwidth_limit >> 10)}")
        said = self._run(words, started)
        found = {name: pattern.search(said) for name, pattern in _STATS.items()}
        numbers = {name: int(match.group(1)) for name, match in found.items() if match is not None}
        if len(numbers) != len(_STATS):
            raise self._failed(0, b"it does not tell what it has done")
        return Copied(numbers["literal"], numbers["matched"], numbers["sent"] + numbers["received"])

    @property
    def moved(self) -> int:
        """Grows as long as something happens: before a byte is dealt with, all of the old file is read for its sums."""
        return self.done + (_read_by(self._process.pid) if self._process is not None else 0)

    def differs(self, started: Callable[[int], None] = lambda pid: None, quiet_seconds: int = TIMEOUT_SECONDS) -> str:
        """Why the two are not the same, both read anew from begin to end; nothing where they are. `quiet_seconds`: who
        makes a file's checksum says nothing to the other end, which takes that for a dead line after this."""
        said = self._run(["--checksum", "--dry-run", "--itemize-changes"], started, quiet_seconds)
        return said.decode("utf-8", "replace").strip()

    def end(self) -> None:
        self._ended = True
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

    def _run(self, words: Sequence[str], started: Callable[[int], None], quiet_seconds: int = TIMEOUT_SECONDS) -> bytes:
        far = next((one for one in (self.source, self.target) if one.session is not None), None)
        argv = [PROGRAM, *words]
        if far is not None and far.session is not None:
            # The number of its process comes before all else; what follows is rsync's own.
            path = f'echo "stowage-rsync $$" >&2; exec {quoting.quote(far.program)}'
            argv += ["--secluded-args", f"--timeout={quiet_seconds}", f"--rsync-path={path}"]
            argv += ["-e", rsh(far.session.client_words())]
        argv += ["--", self.source.words, self.target.words]
        with tempfile.TemporaryFile() as told:
            try:
                self._process = subprocess.Popen(  # pylint: disable=ansible-bad-function,consider-using-with
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=told,
                    cwd="/",
                    env={**os.environ, "LC_ALL": "C", "RSYNC_PROTECT_ARGS": "0"},
                    start_new_session=True,
                )
            except OSError as error:
                raise errors.RsyncMissing(where="here", reason=f"{PROGRAM}: {error.strerror or error}") from error
            try:
                said = self._listen(self._process, told, started)
                rc = self._process.wait()
            finally:
                self._over()
            told.seek(0)
            errors_said = told.read()
        if rc != 0 or self._ended:
            raise self._failed(rc, errors_said)
        return said

    def _listen(self, process: subprocess.Popen[bytes], told: IO[bytes], started: Callable[[int], None]) -> bytes:
        """What it prints beside its progress."""
        if process.stdout is None:
            raise ValueError("it was started without its output")
        rest, kept, known = b"", b"", False
        while True:
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not known:
                found = _PID.search(os.pread(told.fileno(), 1 << 12, 0))
                if found:
                    known = True
                    started(int(found.group(1)))
            if not data:
                return kept + rest
            *lines, rest = re.split(rb"[\r\n]", rest + data)
            kept += b"".join(line + b"\n" for line in lines if not _PROGRESS.match(line))
            # What is told of its progress is ended by the next such line.
            for progress in filter(None, map(_PROGRESS.match, (*lines, rest))):
                self.done = int(progress.group(1))

    def _over(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self.end()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def _failed(self, rc: int, said: bytes) -> errors.RsyncFailed:
        lines = [line for line in _PID.sub(b"", said).decode("utf-8", "replace").splitlines() if line.strip()]
        return errors.RsyncFailed(
            source=self.source.words,
            target=self.target.words,
            rc=rc,
            output=quoting.shorten(" ".join(" ".join(lines).split()), 500) or "it said nothing",
            ended=self._ended,
        )


def rsh(words: Sequence[str]) -> str:
    """A command as rsync takes it: cut at blanks outside of quotes; a quote in quotes is doubled."""
    return " ".join(
        f'"{word.replace(chr(34), chr(34) * 2)}"' if re.search(r"[\s'\"]", word) else word for word in words
    )
