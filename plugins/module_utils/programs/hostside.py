# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talks to one watchdog on a hypervisor, over as many connections as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors, watchdog
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import CopyTask, Note
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import (
    CommandTimeout,
    ConnectionLost,
    HostUnreachable,
)

CUT = (ConnectionLost, CommandTimeout, HostUnreachable)
RETRY_SECONDS = 2.0
# Above the linger of a question: a busy host is slow to start a shell, and a cut is noticed by the ssh client itself.
ANSWER_SECONDS = 20.0
# Below the linger and that: the answer must come while it is waited for.
KEEP_SECONDS = 15


@dataclass(frozen=True)
class Seen:
    """What one look at a task found: its fate (``-``, ``run``, ``exists`` or a status) and its output so far."""

    fate: str
    log: str

    @property
    def ended(self) -> bool:
        return self.fate not in ("-", "run")


class HostSide:
    """One copy on the host: ``start``, ``look`` until each task has ended, then one of ``keep`` and ``stop``."""

    def __init__(
        self,
        host: Host,
        task: CopyTask,
        *,
        clock: Clock,
        alive: Callable[[], None],
        note: Note,
        window_seconds: int = 60,
        linger_seconds: int = 3,
    ) -> None:
        self.host = host
        self.task = task
        self.clock = clock
        self.alive = alive
        self.note = note
        self.window = window_seconds
        self.linger = linger_seconds
        self.pid: int | None = None
        self._heard = clock.monotonic()

    def start(self) -> None:
        """Makes the work folder, starts the watchdog, and lets it begin once its pid stands in the journal."""
        lines = [("file", file.source, file.target) for file in self.task.files]
        lines += [(disk.format, disk.source, disk.target) for disk in self.task.disks]
        self.note("temp", path=self.task.work_dir, token=self.task.token)
        for kind, _source, target in lines:
            self.note("temp", path=target, kind="file" if kind == "file" else "disk")
        args = [
            watchdog.mark(self.task.token),
            self.task.work_dir,
            str(self.window),
            self.task.datastore,
            str(len(lines)),
            *self.task.folders,
        ]
        text = watchdog.launch_text(self.task.token, lines)
        self._heard = self.clock.monotonic()
        said = self._launched(text, args)
        word, _blank, rest = said.partition(" ")
        if word != "pid" or not rest.isdigit():
            raise errors.NotStarted(host=self.host.name, target=self._target, reason=said or "the host said nothing")
        self.pid = int(rest)
        self.note("process", pid=self.pid, token=watchdog.mark(self.task.token), work=self.task.work_dir)
        self._heard = self.clock.monotonic()
        if self._ask(watchdog.OPEN_GATE, [self.task.work_dir]).strip() != "open":
            raise errors.HostGaveUp(host=self.host.name, window=self.window)

    def _launched(self, text: str, args: Sequence[str]) -> str:
        """What the launch said. A lost answer is asked for again: nothing is ever launched twice."""
        try:
            answer = self.host.session.script(text, args, timeout_seconds=self.linger + ANSWER_SECONDS)
        except CUT as error:
            if isinstance(error, CommandTimeout):
                self._reconnect()
            for _turn in range(5):
                self.clock.sleep(RETRY_SECONDS)
                found = self._ask(watchdog.FIND, [self.task.work_dir]).strip()
                if found.startswith("pid ") and found != "pid -":
                    return found
            raise
        return " ".join((answer.stdout + " " + answer.stderr).split())

    def look(self, number: int) -> Seen:
        """The state of task ``number`` (from 1), after at most ``linger`` seconds of waiting for its end."""
        answer = self._ask(watchdog.POLL, [self.task.work_dir, str(self.linger), str(number), self.task.lease])
        head, _newline, log = answer.partition("\n")
        words = head.split()
        if len(words) != 3 or words[0] == "ending":
            raise errors.HostGaveUp(host=self.host.name, window=self.window)
        guard, held, fate = words
        if held == "lost":
            raise errors.CallerGone(reason=f"the job no longer holds its lock ({self.task.lease} is gone)")
        if guard == "dead":
            raise errors.WatchdogDied(host=self.host.name)
        return Seen(fate, log)

    def tell(self, text: str, *args: str) -> str:
        """The answer to a short script about the copy, with the same patience."""
        return self._ask(text, args)

    def keep(self) -> None:
        """Ends the watch; what was copied stays. Raises HostGaveUp when the host had decided otherwise before."""
        answer = self._ask(watchdog.DECIDE, [self.task.work_dir, "keep", str(KEEP_SECONDS)]).strip()
        if answer == "lost":
            raise errors.HostGaveUp(host=self.host.name, window=self.window)
        if answer == "decided":
            # The watchdog died in between, after its last clone: nobody is left to take the work folder away.
            self.host.session.script('rm -rf "$1"', [self.task.work_dir])

    def stop(self) -> str | None:
        """Ends the copy and removes what it made. Returns what could not be done, or None."""
        last = "the host did not answer"
        for attempt in range(3):
            if attempt:
                self.clock.sleep(RETRY_SECONDS)
            try:
                if self._stopped():
                    return None
                last = "the host still works on it"
            except StowageError as error:
                last = error.message
        return f"{last}; the host removes {self.task.work_dir} and what it made by itself within {self.window} seconds"

    def _stopped(self) -> bool:
        session = self.host.session
        args = [self.task.work_dir, "stop", "40"]
        if session.script(watchdog.DECIDE, args, timeout_seconds=60).stdout.strip() == "gone":
            return True
        answer = session.script(
            watchdog.CLEAR, [self.task.work_dir, watchdog.mark(self.task.token)], timeout_seconds=360
        )
        return answer.stdout.strip() in ("gone", "cleared")

    @property
    def _target(self) -> str:
        targets = [disk.target for disk in self.task.disks] or [file.target for file in self.task.files]
        return targets[0] if len(targets) == 1 else self.task.work_dir.rpartition("/")[0]

    def _ask(self, text: str, args: Sequence[str]) -> str:
        """The answer to one short script, over new connections for as long as the host waits for our beat."""
        while True:
            self.alive()
            try:
                result = self.host.session.script(text, args, timeout_seconds=self.linger + ANSWER_SECONDS)
            except CUT as error:
                if self.clock.monotonic() - self._heard > self.window:
                    raise errors.ConnectionGone(
                        host=self.host.name, window=self.window, reason=error.message
                    ) from error
                if isinstance(error, CommandTimeout):
                    self._reconnect()
                self.clock.sleep(RETRY_SECONDS)
                continue
            self._heard = self.clock.monotonic()
            return result.stdout

    def _reconnect(self) -> None:
        """A connection that carries nothing any more looks alive for a long time: ask for another one."""
        disconnect = getattr(self.host.session, "disconnect", None)
        if disconnect is not None:
            with contextlib.suppress(Exception):
                disconnect()
