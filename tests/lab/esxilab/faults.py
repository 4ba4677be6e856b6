# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of a machine and of its network; those of its management daemon are handed on to hostd."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from esxilab.errors import LabError
from esxilab.topology import Machine, parse_size

NETWORK = {
    "cut": "the open connections break now: mode=reset|blackhole; new=true: new ones hear nothing, too;"
    " after_bytes=N: not now, but each connection once it has carried N bytes;"
    " total_bytes=N: not now, but all at once, and only once, when together they have carried N bytes",
    "refuse": "new connections are refused",
    "latency": "each round trip takes ms=N more",
    "cap": "each connection carries at most bytes_per_second=N (or 20M) in each direction",
}
#: What befalls the machine itself, from outside of its management daemon.
MACHINE = {
    "locked_out": "somebody else has just failed too many password logins; it ends after seconds=900 or by clear",
    "login_refused": "every login is refused, whatever it shows, until clear",
    "reader": "a process in the machine opens path=FILE as soon as it can, and keeps it open",
}
REFUSE = "account requisite pam_deny.so\n"
# Names and sentences: what looks like a number there is none.
TEXT_ARGUMENTS = frozenset({"vm", "name", "datastore", "text", "op", "mode", "tool", "when", "path"})


class Wires(Protocol):
    """What the proxy process is to the faults."""

    def order(self, **order: Any) -> dict[str, Any]: ...


def parse_arguments(words: list[str]) -> dict[str, Any]:
    """k=v words; numbers and true/false as such, everything else is text."""
    found: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            raise LabError(f"{word!r}: fault arguments are written as key=value")
        found[key] = text
    return found


def typed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as the faults want them: numbers, true and false, and sizes such as 20M as what they say."""
    return {key: value if key in TEXT_ARGUMENTS else _typed(value) for key, value in arguments.items()}


def _typed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except ValueError:
        return parse_size(value) if re.fullmatch(r"[0-9.]+[KMGT]", value) else value
    return read if isinstance(read, (int, float)) else value


class MachineFaults:
    """Faults that a machine's own files and processes play."""

    def __init__(self, machine: Machine, root: Path, enter: Callable[[str], list[str]]) -> None:
        self._machine = machine
        self._tally = root / "var/run/faillock/root"
        self._pam = root / "etc/pam.d/sshd"
        self._enter = enter
        self._readers: list[subprocess.Popen[bytes]] = []
        self.set: dict[str, dict[str, Any]] = {}

    def fault(self, kind: str, arguments: dict[str, Any]) -> None:
        rest = dict(arguments)
        if kind == "locked_out":
            self._lock_out(float(rest.pop("seconds", self._machine.switches["lockout_seconds"])))
        elif kind == "login_refused":
            text = self._pam.read_text(encoding="ascii")
            if REFUSE not in text:
                self._pam.write_text(REFUSE + text, encoding="ascii")
        else:
            path = rest.pop("path", "")
            if not path:
                raise LabError(f"reader needs to know what it reads: {MACHINE[kind]}")
            script = 'while ! (exec 9<"$1" && exec sleep 86400) 2>/dev/null; do sleep 0.1; done'
            argv = self._enter(shlex.join(["sh", "-c", script, "reader", str(path)]))
            self._readers.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True))
        if rest:
            raise LabError(f"{kind} does not know {', '.join(rest)}: {MACHINE[kind]}")
        self.set[kind] = dict(arguments)

    def _lock_out(self, seconds: float) -> None:
        """What pam_faillock writes down of failed logins: one record of 64 bytes for each."""
        switches = self._machine.switches
        then = int(time.time() - float(switches["lockout_seconds"]) + seconds)
        record = struct.pack("<52sHHQ", b"192.0.2.66", 0, 0x1 | 0x2, then)
        self._tally.parent.mkdir(parents=True, exist_ok=True)
        self._tally.write_bytes(record * int(switches["lockout_failures"]))
        self._tally.chmod(0o600)

    def clear(self, kind: str | None = None) -> None:
        for name in [kind] if kind else list(MACHINE):
            if self.set.pop(name, None) is None:
                continue
            if name == "locked_out":
                self._tally.unlink(missing_ok=True)
            elif name == "login_refused":
                text = self._pam.read_text(encoding="ascii")
                self._pam.write_text(text.replace(REFUSE, ""), encoding="ascii")
            else:
                self._end_readers()

    def _end_readers(self) -> None:
        for process in self._readers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._readers.clear()

    def rebooted(self) -> None:
        """Nothing of a process outlives its machine."""
        self._end_readers()
        self.set.pop("reader", None)


class Network:
    """The state of one machine's wire, and the orders to the proxy that bring it about."""

    def __init__(self, machine: Machine, wires: Wires) -> None:
        self._name = machine.name
        self._wires = wires
        self._base = {
            "latency_ms": machine.switches["latency_ms"],
            "bytes_per_second": parse_size(machine.switches["bytes_per_second"]),
        }
        self._rules: dict[str, Any] = {}
        self.set: dict[str, dict[str, Any]] = {}

    def apply(self) -> None:
        self._wires.order(rules=self._name, **{**self._base, **self._rules})

    def fault(self, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Set one fault; the answer says what it met."""
        answer: dict[str, Any] = {}
        rest = dict(arguments)
        if kind == "cut":
            answer = self._cut(rest)
        elif kind == "refuse":
            self._wires.order(close=self._name)
        elif kind == "latency":
            self._rules["latency_ms"] = float(rest.pop("ms", 100))
            self.apply()
        else:
            self._rules["bytes_per_second"] = parse_size(rest.pop("bytes_per_second", "20M"))
            self.apply()
        if rest:
            raise LabError(f"{kind} does not know {', '.join(rest)}: {NETWORK[kind]}")
        self.set[kind] = dict(arguments)
        return answer

    def _cut(self, rest: dict[str, Any]) -> dict[str, Any]:
        mode = str(rest.pop("mode", "reset"))
        if mode not in ("reset", "blackhole"):
            raise LabError(f"cut has the modes reset and blackhole, not {mode!r}")
        after, total = parse_size(rest.pop("after_bytes", 0)), parse_size(rest.pop("total_bytes", 0))
        self._rules.update(stalled=bool(rest.pop("new", False)))
        if after or total:
            self._rules.update(cut_after_bytes=after, cut_total_bytes=total, cut_mode=mode)
        self.apply()
        return {} if after or total else self._wires.order(cut=self._name, mode=mode)

    def clear(self, kind: str | None = None, listening: bool = True) -> None:
        """A good wire again, or all faults but one kind stay."""
        kinds = [kind] if kind else list(NETWORK)
        for name in kinds:
            self.set.pop(name, None)
            for key in {
                "cut": ("stalled", "cut_after_bytes", "cut_total_bytes", "cut_mode"),
                "latency": ("latency_ms",),
                "cap": ("bytes_per_second",),
            }.get(name, ()):
                self._rules.pop(key, None)
        self.apply()
        if "cut" in kinds:
            self._wires.order(heal=self._name)
        if "refuse" in kinds and listening:
            self._wires.order(open=self._name)
