# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many may do a thing at the same time, across forks, jobs and controllers: locked files on the backup server.

A limit is a folder ``<limits_dir>/<name>`` with the files ``0``, ``1``… one for each slot. A slot is held by whoever
has the lock of its file. The kernel gives it back when the holder dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter

MOST_SLOTS = 1000


class BadLimit(StowageError):
    id = "limit-bad"
    template = "The limit {name!r} cannot be used: {reason}"
    hint = "A limit has a name and between 1 and 1000 slots, and each name appears once"
    exit_code = 50


class LimitBusy(StowageError):
    id = "limit-busy"
    template = "All {slots} slots of the limit {name!r} were taken for {seconds:g} seconds, by {holders}"
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
    name: str
    slots: int


def folder_of(limits_dir: str, name: str) -> str:
    """Any name becomes one folder: what a file name cannot hold is percent-encoded."""
    # quote() keeps the dot, and "." and ".." are not names of our own.
    encoded = urllib.parse.quote(name, safe="").replace(".", "%2E")
    return os.path.join(limits_dir, encoded)


def checked(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """The limits in the one order in which everybody takes them, so that no two wait for each other."""
    found: dict[str, Limit] = {}
    for limit in limits:
        if not limit.name or len(limit.name) > 80:
            raise BadLimit(name=limit.name, reason="its name must have between 1 and 80 characters")
        if not 1 <= limit.slots <= MOST_SLOTS:
            raise BadLimit(name=limit.name, reason=f"it has {limit.slots} slots")
        if limit.name in found:
            raise BadLimit(name=limit.name, reason="it is given twice")
        found[limit.name] = limit
    return tuple(found[name] for name in sorted(found))


@contextlib.contextmanager
def hold(
    limits: Iterable[Limit],
    limits_dir: str,
    waiter: Waiter,
    what: str,
    waiting: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, ...]]:
    """Holds one slot of each limit; yields the paths of the slots. ``waiting`` is told the limit that is waited for.

    Raises LimitBusy, with what the holders say that they do, when the waiter's time for all of them is over. ``what``
    is what others then read about us.
    """
    deadline = waiter.clock.monotonic() + waiter.timeout_seconds
    with contextlib.ExitStack() as held:
        paths = []
        for limit in checked(limits):
            folder = folder_of(limits_dir, limit.name)
            try:
                os.makedirs(folder, mode=0o700, exist_ok=True)
                handle, path = _wait(limit, folder, waiter, deadline, waiting)
                held.callback(os.close, handle)
                _sign(handle, what)
            except OSError as error:
                raise LimitFolder(folder=folder, reason=str(error)) from error
            paths.append(path)
        yield tuple(paths)


def holders(folder: str) -> list[str]:
    """What the present holders of a limit say that they do."""
    said = []
    for name in sorted(os.listdir(folder)):
        try:
            handle = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            said.append(_read(handle))
        finally:
            os.close(handle)
    return said


def _wait(
    limit: Limit, folder: str, waiter: Waiter, deadline: float, waiting: Callable[[str], None] | None
) -> tuple[int, str]:
    pause = waiter.interval_seconds
    while True:
        taken = _take(limit, folder)
        if taken is not None:
            return taken
        if waiting is not None:
            waiting(limit.name)
        if waiter.beat is not None:
            waiter.beat()
        left = deadline - waiter.clock.monotonic()
        if left <= 0:
            raise LimitBusy(
                name=limit.name,
                slots=limit.slots,
                seconds=waiter.timeout_seconds,
                holders="; ".join(holders(folder)) or "nobody any more",
            )
        waiter.clock.sleep(min(pause, left))
        pause = min(pause * waiter.backoff, waiter.max_interval_seconds)


def _take(limit: Limit, folder: str) -> tuple[int, str] | None:
    for number in range(limit.slots):
        path = os.path.join(folder, str(number))
        # Never inherited (O_CLOEXEC): a shared ssh connection outlives this process and must not keep the slot.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle, path
        except BlockingIOError:
            os.close(handle)
    return None


def _sign(handle: int, what: str) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "what": what}).encode("ascii"), 0)


def _read(handle: int) -> str:
    try:
        value = json.loads(os.pread(handle, 4096, 0))
        return f"{value['what']} (pid {value['pid']})"
    except (ValueError, KeyError, TypeError):
        return "somebody who is just beginning"
