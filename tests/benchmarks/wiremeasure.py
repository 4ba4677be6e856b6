# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A transfer, measured on both of its sides: CPU seconds of each kind of process, memory of the agent and of the tree.

`measure.run` sees what descends from the command and was waited for by it. An ssh master that left its parent, and all
that runs in the lab's host, it does not see: a thread beside it does, by looking into /proc.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import measure
from measure import Cost

SAMPLE_SECONDS = 0.05
AGENT = b"stowage-agent-"
_SUBREAPER = 36
_TICK = os.sysconf("SC_CLK_TCK")


def adopt_orphans() -> None:
    """From here on, what descends from this process stays below it."""
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Sides:
    """What was seen beside `Cost`. CPU seconds by kind of process; MiB."""

    cpu: dict[str, float] = field(default_factory=dict)
    agent: float = 0.0
    """The largest VmHWM of an agent."""
    agent_anonymous: float = 0.0
    """The most that one agent had as RssAnon."""
    here: float = 0.0
    """RssAnon + RssShmem of all of ours on this side together."""

    @property
    def total(self) -> float:
        return sum(self.cpu.values())

    def words(self) -> str:
        return " ".join(f"{kind} {seconds:.2f}" for kind, seconds in sorted(self.cpu.items()) if seconds >= 0.01)


@dataclass(frozen=True)
class Measured:
    cost: Cost
    sides: Sides

    @property
    def wall(self) -> float:
        return self.cost.wall


def run(argv: Sequence[str], host: int, env: Mapping[str, str] | None = None, good: Sequence[int] = (0,)) -> Measured:
    """`host`: the process id of the lab's host; whatever shares its mounts is the far side."""
    with _Look(host) as look:
        cost = measure.run(argv, env, good)
    return Measured(cost, look.sides)


@dataclass
class _Process:
    kind: str
    seconds: float


class _Look:
    def __init__(self, host: int) -> None:
        self.sides = Sides()
        self._mounts = os.readlink(f"/proc/{host}/ns/mnt")
        self._me = os.getpid()
        self._before = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._seen: dict[int, _Process] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Look:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        for one in self._seen.values():
            self.sides.cpu[one.kind] = self.sides.cpu.get(one.kind, 0.0) + one.seconds
        for pid in self._seen:
            try:
                if self._seen[pid].kind != "host":
                    os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        parents: dict[int, int] = {}
        spent: dict[int, tuple[str, float]] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) in self._before:
                continue
            try:
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except OSError:
                continue
            begin, end = text.index("("), text.rindex(")")
            words = text[end + 2 :].split()
            parents[int(name)] = int(words[1])
            spent[int(name)] = text[begin + 1 : end], (int(words[11]) + int(words[12])) / _TICK
        here = 0.0
        for pid, (name, seconds) in spent.items():
            kind = self._kind(pid, name, parents)
            if kind is None:
                continue
            known = self._seen.get(pid)
            if known is None or known.kind != kind:
                # A fork that became something else takes what it had with it.
                self._seen[pid] = _Process(kind, seconds)
            known = self._seen[pid]
            known.seconds = max(known.seconds, seconds)
            if kind == "agent":
                self.sides.agent = max(self.sides.agent, _status(pid, "VmHWM"))
                self.sides.agent_anonymous = max(self.sides.agent_anonymous, _status(pid, "RssAnon"))
            elif kind in ("here", "ssh"):
                here += _status(pid, "RssAnon", "RssShmem")
        self.sides.here = max(self.sides.here, here)

    def _kind(self, pid: int, name: str, parents: Mapping[int, int]) -> str | None:
        try:
            far = os.readlink(f"/proc/{pid}/ns/mnt") == self._mounts
            if far and AGENT in Path(f"/proc/{pid}/cmdline").read_bytes():
                return "agent"
        except OSError:
            return self._seen[pid].kind if pid in self._seen else None
        if far:
            return "sshd" if name.startswith("sshd") else "host"
        while pid in parents:
            pid = parents[pid]
        if pid != self._me:
            return None
        return "ssh" if name == "ssh" else "here"


def _status(pid: int, *words: str) -> float:
    """MiB."""
    total = 0.0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            word, _colon, rest = line.partition(":")
            if word in words:
                total += int(rest.split()[0]) / 1024
    except OSError:
        pass
    return total
