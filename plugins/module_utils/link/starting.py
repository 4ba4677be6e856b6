# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting a work on the target of a link, and asking how it goes: from its source, by the link's key and no other.

The id makes all of it safe to repeat: a start whose answer was lost is asked for again by the same id, and joins.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter, WaitTimeout
from ansible_collections.stowage.esxi.plugins.module_utils.link import errors
from ansible_collections.stowage.esxi.plugins.module_utils.link.run import CONNECT_SECONDS, ssh_command
from ansible_collections.stowage.esxi.plugins.module_utils.link.wanted import Link
from ansible_collections.stowage.esxi.plugins.module_utils.link.works import ID, TOLD_BYTES, VALUE
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import CommandTimeout
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.local import LocalSession
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

T = TypeVar("T")

STATES = ("none", "unknown", "running", "ended", "lost")
ASK_SECONDS = 60.0
# What no second try mends, and what would lock an account out if it were tried again and again.
_FOR_GOOD = ("Permission denied", "verification failed", "IDENTIFICATION", "not accessible")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Status:
    """What the target says of a work. ``rc`` is that of its playbook; ``busy``: another one kept it from starting."""

    state: str
    id: str = ""
    rc: int | None = None
    started: str = ""
    ended: str = ""
    reason: str = ""
    busy: bool = False

    @property
    def outcome(self) -> str:
        if self.state == "ended":
            return "succeeded" if self.rc == 0 else "failed"
        return self.state


def parse(text: str) -> tuple[Status, list[str]]:
    """A status, and the lines of the output behind it. ``ValueError`` for what the forced command does not print."""
    head, _blank, output = text.partition("\n\n")
    values = dict(line.partition(" ")[::2] for line in head.split("\n") if line)
    state, rc = values.get("state", ""), values.get("rc")
    if state not in STATES or (state == "ended") != (rc is not None and rc.isdigit()):
        raise ValueError(f"not the status of a work: {quoting.shorten(text)!r}")
    status = Status(
        state=state,
        id=values.get("id", ""),
        rc=int(rc) if rc is not None else None,
        started=values.get("started", ""),
        ended=values.get("ended", ""),
        reason=values.get("reason", ""),
        busy="busy" in values,
    )
    return status, [_CONTROL.sub("?", line) for line in output.split("\n")] if output.strip() else []


def words_of(work_id: str, variables: Mapping[str, Any]) -> list[str]:
    """The words of a start. ``BadLink`` for what the forced command would refuse anyway, before anything is asked."""
    words = ["stowage-work", "start", work_id]
    for name, value in sorted(variables.items()):
        if isinstance(value, (Mapping, list, tuple)) or value is None:
            text = "\n"
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII) or not VALUE.fullmatch(text):
            raise errors.BadWork(
                reason=f"extra_vars.{name} is {value!r}",
                way_out="Give texts of letters, digits and _.,:@/+=-; anything else is fixed in the link's restriction",
            )
        words.append(f"{name}={text}")
    return words


def new_id(clock: Clock) -> str:
    """In the form of a run's id, which it becomes."""
    return f"{clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


class Starter:
    """Asks the target of ``link``. A cut is borne for ``patience`` seconds; what is refused is told at once."""

    def __init__(
        self,
        link: Link,
        key_file: str,
        session: Session | None = None,
        clock: Clock | None = None,
        patience: float = 600.0,
    ) -> None:
        self.link, self.key_file, self.patience = link, key_file, patience
        self.session: Session = session or LocalSession()
        self.clock: Clock = clock or SystemClock()
        self._cut_since: float | None = None

    def ask(self, words: Sequence[str]) -> tuple[Status, list[str]]:
        """One question. ``WorkCut`` where no answer came, ``WorkRefused`` where the key may not do that."""
        link = self.link
        keep = ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
        command = ssh_command(link, self.key_file, f"{self.key_file}.known_hosts")
        at = command.index("-p")
        where = {"source": link.source, "target": link.target, "user": link.user, "address": link.address}
        try:
            result = self.session.run(
                [*command[:at], *keep, *command[at:], " ".join(words)], timeout_seconds=ASK_SECONDS + CONNECT_SECONDS
            )
        except CommandTimeout as error:
            raise errors.WorkCut(**where, reason=error.message) from error
        said = quoting.shorten(result.stderr.strip() or result.output, 400)
        if result.rc == 255:
            kind = errors.WorkUnreachable if any(one in said for one in _FOR_GOOD) else errors.WorkCut
            raise kind(**where, reason=said)
        if result.rc != 0:
            raise errors.WorkRefused(**where, reason=said)
        try:
            return parse(result.stdout)
        except ValueError as error:
            raise errors.WorkRefused(**where, reason=str(error)) from error

    def patiently(self, words: Sequence[str]) -> Status | None:
        """The status; None while the link is cut, and WorkUnreachable when that has lasted too long."""
        try:
            status = self.ask(words)[0]
        except errors.WorkCut as error:
            now = self.clock.monotonic()
            self._cut_since = now if self._cut_since is None else self._cut_since
            if now - self._cut_since >= self.patience:
                raise errors.WorkUnreachable(**error.data) from error
            return None
        self._cut_since = None
        return status

    def _until(self, probe: Callable[[], T | None], seconds: float, pause: float, what: str) -> T:
        return Waiter(seconds, min(2.0, pause), pause, clock=self.clock).until(probe, what)

    def surely(self, words: Sequence[str]) -> Status:
        return self._until(lambda: self.patiently(words), self.patience + ASK_SECONDS, 10.0, "an answer")

    def ended(self, work_id: str, seconds: float, pause: float) -> Status:
        """When the work does not run any more. ``WorkStillRunning`` when the time is up; nothing ends it."""

        def probe() -> Status | None:
            status = self.patiently(["stowage-work", "status", work_id])
            return None if status is None or status.state == "running" else status

        try:
            return self._until(probe, seconds, pause, "the work")
        except WaitTimeout as error:
            raise errors.WorkStillRunning(id=work_id, target=self.link.target, seconds=seconds) from error


@dataclass(frozen=True)
class Wish:
    """``state`` is finished, started or status; ``join`` whether another one that runs will do."""

    state: str
    id: str = ""
    variables: Mapping[str, Any] | None = None
    join: bool = False
    timeout: float = 86400.0
    poll: float = 15.0


def manage(starter: Starter, wish: Wish, *, check_mode: bool = False) -> tuple[dict[str, Any], StowageError | None]:
    """What the module returns, and what it fails with: a work that failed, was lost, or could not be begun."""
    asked = ["stowage-work", "status", *([wish.id] if wish.id else [])]
    start = words_of(wish.id or new_id(starter.clock), wish.variables or {})
    if wish.state == "status":
        # A question: whatever the answer is, it was answered.
        return _result(starter, starter.surely(asked), False)[0], None
    known = starter.surely(asked) if wish.id else Status("unknown")
    there = known.state not in ("none", "unknown")
    if check_mode:
        last = known if there else starter.surely(asked[:2])
        busy = not there and last.state == "running"
        error = _busy(starter, last) if busy and not wish.join else None
        status = last if there or busy else Status("unknown", wish.id)
        return _view(status, not there and not busy, [], joined=there or (busy and wish.join)), error
    status = known if there else starter.surely(start)
    if status.busy and status.id != start[2]:
        if not wish.join:
            return _view(status, False, []), _busy(starter, status)
        there = True
    if wish.state == "finished" and status.state == "running":
        try:
            status = starter.ended(status.id, wish.timeout, wish.poll)
        except (errors.WorkStillRunning, errors.WorkUnreachable) as error:
            return _view(status, not there, [], joined=there), error
    return _result(starter, status, not there, joined=there)


def _busy(starter: Starter, status: Status) -> StowageError:
    return errors.WorkBusy(target=starter.link.target, id=status.id, started=status.started)


def _result(
    starter: Starter, status: Status, changed: bool, joined: bool = False
) -> tuple[dict[str, Any], StowageError | None]:
    """With the output of a work that is over."""
    output: list[str] = []
    if status.state in ("ended", "lost"):
        try:
            output = starter.ask(["stowage-work", "output", status.id])[1]
        except errors.WorkCut:
            output = ["(the link was cut before the output could be read; ask for it again)"]
    words = {"id": status.id, "target": starter.link.target}
    error: StowageError | None = None
    if status.state == "lost":
        error = errors.WorkLost(**words, reason=status.reason)
    elif status.outcome == "failed":
        last = next((line for line in reversed(output) if line.strip()), "it printed nothing")
        error = errors.WorkFailed(**words, rc=status.rc, last=quoting.shorten(last))
    return _view(status, changed, output, joined=joined), error


def _view(status: Status, changed: bool, output: list[str], joined: bool = False) -> dict[str, Any]:
    return {
        "changed": changed,
        "joined": joined,
        "work": {
            "id": status.id,
            "outcome": status.outcome,
            "rc": status.rc,
            "started": status.started or None,
            "ended": status.ended or None,
            "reason": status.reason,
        },
        "output": output,
        "output_cut": sum(len(line.encode("utf-8", "surrogateescape")) + 1 for line in output) >= TOLD_BYTES,
    }


def perform(params: Mapping[str, Any], *, check_mode: bool) -> tuple[dict[str, Any], StowageError | None]:
    """From a module's parameters: where the key lies, who is asked, what is wanted."""
    link = Link(
        name=params["link"],
        source=params.get("source_name") or "localhost",
        target=params["target"],
        user=params["user"],
        address=params.get("address") or params["target"],
        port=params["address_port"],
        key_folder=params.get("key_folder"),
    ).check()
    if params.get("id") and not ID.fullmatch(params["id"]):
        raise errors.BadWork(reason=f"id is {params['id']!r}", way_out="Use letters, digits, dots, dashes, underscores")
    session = LocalSession()
    folder = link.key_folder or os.path.join(os.path.expanduser(f"~{session.endpoint.user}"), ".ssh")
    key_file = os.path.join(folder, link.key_name)
    for path in (key_file, f"{key_file}.known_hosts"):
        if not os.path.exists(path):
            raise errors.WorkNotLinked(link=link.name, target=link.target, path=path)
    wish = Wish(
        state=params["state"],
        id=params.get("id") or "",
        variables=params.get("extra_vars") or {},
        join=params["if_running"] == "join",
        timeout=params["timeout"],
        poll=params["poll"],
    )
    return manage(Starter(link, key_file, session, patience=params["cut_timeout"]), wish, check_mode=check_mode)
