# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of a machine's network; the faults of its management daemon are handed on to hostd."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from esxilab.errors import LabError
from esxilab.topology import Machine, parse_size

NETWORK = {
    "cut": "the open connections break now: mode=reset|blackhole; new=true: new ones hear nothing, too;"
    " after_bytes=N: not now, but each connection once it has carried N bytes",
    "refuse": "new connections are refused",
    "latency": "each round trip takes ms=N more",
    "cap": "each connection carries at most bytes_per_second=N (or 20M) in each direction",
}
# Names and sentences: what looks like a number there is none.
TEXT_ARGUMENTS = frozenset({"vm", "name", "datastore", "text", "op", "mode"})


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
        after = parse_size(rest.pop("after_bytes", 0))
        self._rules.update(stalled=bool(rest.pop("new", False)))
        if after:
            self._rules.update(cut_after_bytes=after, cut_mode=mode)
        self.apply()
        return {} if after else self._wires.order(cut=self._name, mode=mode)

    def clear(self, kind: str | None = None, listening: bool = True) -> None:
        """A good wire again, or all faults but one kind stay."""
        kinds = [kind] if kind else list(NETWORK)
        for name in kinds:
            self.set.pop(name, None)
            for key in {
                "cut": ("stalled", "cut_after_bytes", "cut_mode"),
                "latency": ("latency_ms",),
                "cap": ("bytes_per_second",),
            }.get(name, ()):
                self._rules.pop(key, None)
        self.apply()
        if "cut" in kinds:
            self._wires.order(heal=self._name)
        if "refuse" in kinds and listening:
            self._wires.order(open=self._name)
