# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many may do a thing at the same time, across forks, jobs and controllers: locked files on the backup server.

A limit is a folder of ``limits_dir`` with the files ``0``, ``1``… one for each slot, and ``queue`` with a numbered file
for each one that waits. A slot, and a place in the queue, is held by whoever has the lock of its file. The kernel gives
it back when the holder dies, however it dies. Whoever looks or takes holds ``turn`` for that moment.

Only a process that copies holds a slot, never a job between two of its tasks: with few forks, or a linear strategy, the
tasks of those who wait would keep the holder's next task from ever beginning.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter

MOST_SLOTS = 1000
# The order in which everybody takes them: first what few share, so that nobody holds what many wait for while he waits
# for something else. "repository" is borg's own turn.
KINDS = ("host", "datastore", "store", "link", "", "repository")
# Who is next looks so often: a slot must not lie idle.
_NEXT_SECONDS = 0.5
_TURN_TRIES, _TURN_SECONDS = 50, 0.02


class BadLimit(StowageError):
    id = "limit-bad"
    template = "The limit {name!r} cannot be used: {reason}"
    hint = "A limit has a name or a kind, and between 1 and 1000 slots, and each appears once"
    exit_code = 50


class LimitBusy(StowageError):
    id = "limit-busy"
    template = (
        "All {slots} slots of the limit {name!r} were taken for {seconds:g} seconds, by {holders}; "
        "{ahead} waited before this one"
    )
    hint = (
        "Start fewer jobs at a time, give the limit more slots (backup_limits, restore_limits), or wait longer: "
        "limits_timeout of the module, backup_limits_timeout or restore_limits_timeout of the role"
    )
    exit_code = 51


class LimitFolder(StowageError):
    id = "limit-folder"
    template = "The limits cannot be kept in {folder}: {reason}"
    hint = (
        "Name a folder that the user of the task may write to, on a local file system: limits_dir of the module, "
        "backup_limits_dir or restore_limits_dir of the role"
    )
    exit_code = 50


@dataclass(frozen=True)
class Limit:
    """``name`` says within its ``kind`` which one it is; ``title`` is that for people, where it is no word for them."""

    name: str
    slots: int
    kind: str = ""
    title: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        name = self.title or self.name
        return f"{self.kind} {name}" if self.kind else name


@dataclass(frozen=True)
class Waiting:
    """What is waited for: who has the slots now, and how many get one before us."""

    limit: Limit
    holders: tuple[str, ...]
    ahead: int

    def __str__(self) -> str:
        words = f"waits for a slot of {self.limit.label}: {len(self.holders)} of {self.limit.slots} taken"
        words += f" ({'; '.join(self.holders)})" if self.holders else ""
        return words + (f", {self.ahead} before it" if self.ahead else "")


def folder_of(limits_dir: str, name: str, kind: str = "") -> str:
    """Any name becomes one folder: what a file name cannot hold is percent-encoded."""
    # quote() keeps the dot, and "." and ".." are not names of our own. It encodes "@", which so keeps the kinds apart.
    encoded = urllib.parse.quote(name, safe="", errors="surrogateescape").replace(".", "%2E")
    if len(encoded) > 200:
        encoded = f"{encoded[:100]}@{hashlib.sha256(encoded.encode('ascii')).hexdigest()[:32]}"
    return os.path.join(limits_dir, f"{kind}@{encoded}" if kind else encoded)


def checked(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """The limits in the one order in which everybody takes them, so that no two wait for each other."""
    found: dict[tuple[int, str], Limit] = {}
    for limit in limits:
        if not limit.name or len(limit.name) > 80 and not limit.kind:
            raise BadLimit(name=limit.label, reason="its name must have between 1 and 80 characters")
        if limit.kind not in KINDS:
            raise BadLimit(name=limit.label, reason=f"{limit.kind!r} is no kind of limit")
        if not 1 <= limit.slots <= MOST_SLOTS:
            raise BadLimit(name=limit.label, reason=f"it has {limit.slots} slots")
        key = (KINDS.index(limit.kind), limit.name)
        if key in found:
            raise BadLimit(name=limit.label, reason="it is given twice")
        found[key] = limit
    return tuple(found[key] for key in sorted(found))


@contextlib.contextmanager
def hold(
    limits: Iterable[Limit],
    limits_dir: str,
    waiter: Waiter,
    what: str,
    waiting: Callable[[Waiting], None] | None = None,
) -> Iterator[tuple[str, ...]]:
    """Holds one slot of each limit; yields the paths of the slots. ``waiting`` is told what is waited for.

    Slots are given in the order of asking. Raises LimitBusy, with what the holders say that they do, when the waiter's
    time for all of them is over. ``what`` is what others then read about us.
    """
    deadline = waiter.clock.monotonic() + waiter.timeout_seconds
    with contextlib.ExitStack() as held:
        paths = []
        for limit in checked(limits):
            folder = folder_of(limits_dir, limit.name, limit.kind)
            try:
                os.makedirs(os.path.join(folder, "queue"), mode=0o700, exist_ok=True)
                handle, path = _wait(limit, folder, waiter, deadline, waiting)
                held.callback(os.close, handle)
                _sign(handle, what)
            except OSError as error:
                raise LimitFolder(folder=folder, reason=str(error)) from error
            paths.append(path)
        yield tuple(paths)


def _wait(
    limit: Limit,
    folder: str,
    waiter: Waiter,
    deadline: float,
    waiting: Callable[[Waiting], None] | None,
) -> tuple[int, str]:
    pause = waiter.interval_seconds
    seen = Waiting(limit, (), 0)
    with _Queue(folder) as queue:
        while True:
            with _turn(folder, waiter) as mine:
                if mine:
                    taken, names = _slots(folder)
                    seen = Waiting(limit, tuple(names.values()), queue.ahead())
                    if len(taken) + seen.ahead < limit.slots:
                        return _take(folder, taken)
                    queue.enter()
            if waiting is not None:
                waiting(seen)
            if waiter.beat is not None:
                waiter.beat()
            left = deadline - waiter.clock.monotonic()
            if left <= 0:
                raise LimitBusy(
                    name=limit.label,
                    slots=limit.slots,
                    seconds=waiter.timeout_seconds,
                    holders="; ".join(seen.holders) or "nobody any more",
                    ahead=seen.ahead,
                )
            near = seen.ahead < limit.slots
            waiter.clock.sleep(min(_NEXT_SECONDS if near else pause, left))
            pause = min(pause * waiter.backoff, waiter.max_interval_seconds)


@contextlib.contextmanager
def _turn(folder: str, waiter: Waiter) -> Iterator[bool]:
    """Whether we are the one who looks now. Others look for a moment only; one that was stopped there is waited for."""
    handle = _open(os.path.join(folder, "turn"))
    try:
        for attempt in range(_TURN_TRIES):
            if _locked(handle, fcntl.LOCK_EX):
                yield True
                return
            if attempt + 1 < _TURN_TRIES:
                waiter.clock.sleep(_TURN_SECONDS)
        yield False
    finally:
        os.close(handle)


class _Queue:
    """Our place among those who wait for a limit; given up at the end, and by the kernel when we die."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(folder, "queue")
        self._path = ""
        self._handle = -1

    def __enter__(self) -> _Queue:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path:
            # First the name: without its lock it would be a dead one's, and harmless.
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(self._handle)

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self._folder) if name.isdigit())

    def enter(self) -> None:
        """At the end of the queue; once. Within a turn."""
        if self._path:
            return
        names = self._names()
        path = os.path.join(self._folder, f"{int(names[-1]) + 1 if names else 1:012d}")
        handle = _open(path)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._path, self._handle = path, handle

    def ahead(self) -> int:
        """How many living ones came before us; the dead are put away. Within a turn."""
        count = 0
        for name in self._names():
            path = os.path.join(self._folder, name)
            if path == self._path:
                break
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if _locked(handle, fcntl.LOCK_SH):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                else:
                    count += 1
            finally:
                os.close(handle)
        return count


def _slots(folder: str) -> tuple[set[int], dict[int, str]]:
    """The slots that are held, and what their holders say that they do. Within a turn.

    All count, whatever number of slots their holders went by: a limit is never exceeded for who goes by less.
    """
    said: dict[int, str] = {}
    for number in sorted(int(name) for name in os.listdir(folder) if name.isdigit()):
        handle = os.open(os.path.join(folder, str(number)), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not _locked(handle, fcntl.LOCK_SH):
                said[number] = _read(handle)
        finally:
            os.close(handle)
    return set(said), said


def _take(folder: str, taken: set[int]) -> tuple[int, str]:
    number = next(number for number in range(len(taken) + 1) if number not in taken)
    path = os.path.join(folder, str(number))
    handle = _open(path)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle, path


def _open(path: str) -> int:
    # Never inherited (O_CLOEXEC): a shared ssh connection outlives this process and must not keep the slot.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _sign(handle: int, what: str) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "what": what}).encode("ascii"), 0)


def _read(handle: int) -> str:
    try:
        value = json.loads(os.pread(handle, 4096, 0))
        return f"{value['what']} (pid {value['pid']})"
    except (ValueError, KeyError, TypeError):
        return "somebody who is just beginning"
