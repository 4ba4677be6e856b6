# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire in front of every machine's sshd: a TCP proxy that can be slow, capped, refused or cut.

It runs as a process of its own, so that bulk data does not contend with the daemon for one interpreter, and takes
orders as JSON lines on its stdin: {"listen": name, "address", "port", "target_port"}, {"rules": name, ...},
{"cut": name, "mode"}, {"heal": name}, {"close": name}, {"open": name}, {"stats": true}. Each order is answered by one
line on stdout. Of each connection that has ended one JSON line goes to the log that is its argument.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import queue
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

from esxilab.processes import die_with_parent

PIECE = 128 * 1024
# Pieces that a wire with latency holds on their way.
IN_FLIGHT = 256


@dataclass
class Rules:
    """What a machine's wire does; all zero is a good wire."""

    latency_ms: float = 0.0
    bytes_per_second: int = 0  # of each connection and direction
    cut_after_bytes: int = 0  # of each connection, both directions together
    cut_total_bytes: int = 0  # of all connections together, from when the rule was made; then all break, once
    cut_mode: str = "reset"
    stalled: bool = False  # new connections are accepted and then hear nothing


class Bucket:
    """Spends bytes at a rate."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def wait(self, amount: int, rate: int) -> None:
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + amount / rate
        if self._free_at > now:
            time.sleep(self._free_at - now)


class Wire:
    """One connection through the proxy."""

    def __init__(self, outside: socket.socket, inside: socket.socket, front: Front) -> None:
        self.outside = outside
        self.inside = inside
        self._front = front
        self.carried = 0
        self.opened = time.time()
        self.flow = threading.Event()
        self.flow.set()
        self.closed = False

    def start(self) -> None:
        for source, sink in ((self.outside, self.inside), (self.inside, self.outside)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        bucket = Bucket()
        late: queue.Queue[tuple[float, bytes]] | None = None
        try:
            while True:
                rate = self._front.rules.bytes_per_second
                data = source.recv(PIECE if not rate else max(1024, min(PIECE, rate // 20)))
                self.flow.wait()
                rules = self._front.rules
                if rules.bytes_per_second and data:
                    bucket.wait(len(data), rules.bytes_per_second)
                if rules.latency_ms and late is None:
                    late = queue.Queue(IN_FLIGHT)
                    threading.Thread(target=self._deliver_late, args=(late, sink), daemon=True).start()
                if late is not None:
                    # Half of a round trip each way; what is under way does not hold up what follows it.
                    late.put((time.monotonic() + rules.latency_ms / 2000.0, data))
                else:
                    self._deliver(data, sink)
                if not data:
                    break
        except OSError:
            self.cut("reset")
            if late is not None:
                late.put((0.0, b""))
        if late is None:
            self._front.pump_ended(self)

    def _deliver(self, data: bytes, sink: socket.socket) -> None:
        self.flow.wait()
        if not data:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
            return
        sink.sendall(data)
        self.carried += len(data)
        self._front.count(len(data))
        rules = self._front.rules
        if rules.cut_after_bytes and self.carried >= rules.cut_after_bytes:
            self.cut(rules.cut_mode)

    def _deliver_late(self, late: queue.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        broken = False
        while True:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not broken:
                try:
                    self._deliver(data, sink)
                except OSError:
                    # Go on taking, so that the other thread never waits for room; its socket is dead, too, by now.
                    broken = True
                    self.cut("reset")
            if not data:
                break
        self._front.pump_ended(self)

    def cut(self, mode: str) -> None:
        if mode == "blackhole":
            self.flow.clear()
            return
        self.closed = True
        for end in (self.outside, self.inside):
            with contextlib.suppress(OSError):
                # Linger of zero: the peer gets a reset, not an orderly end. The shutdown wakes the other pump.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                if end is self.inside:
                    end.shutdown(socket.SHUT_RDWR)
        for end in (self.outside, self.inside):
            _abort(end)
        self.flow.set()


def _abort(end: socket.socket) -> None:
    """Reset a connection although another thread may be blocked in it (a plain close would wait for that thread)."""
    with contextlib.suppress(OSError):
        # Connecting to nowhere dissolves a TCP association at once: the peer gets RST, local readers get an error.
        address = struct.pack("=H14x", socket.AF_UNSPEC)
        ctypes.CDLL(None, use_errno=True).connect(end.fileno(), address, len(address))


class Front:
    """One machine's address and port, and the connections through it."""

    def __init__(self, name: str, address: str, port: int, target_port: int, log: IO[str]) -> None:
        self.name = name
        self._log = log
        self.address = address
        self.port = port
        self.target_port = target_port
        self.rules = Rules()
        self.accepted = 0
        self.carried = 0
        self._left = 0
        self._wires: dict[Wire, int] = {}
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None

    def open(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, self.port))
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                outside, peer = listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._connect, args=(outside, peer[0]), daemon=True).start()

    def _connect(self, outside: socket.socket, source: str) -> None:
        inside = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for end in (outside, inside):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with contextlib.suppress(OSError):
                # The sshd logs, and limits by, the address that the client really has.
                inside.bind((source, 0))
            inside.connect((self.address, self.target_port))
        except OSError:
            outside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            outside.close()
            inside.close()
            return
        wire = Wire(outside, inside, self)
        with self._lock:
            self._wires[wire] = 2
        if self.rules.stalled:
            wire.flow.clear()
        wire.start()

    def pump_ended(self, wire: Wire) -> None:
        with self._lock:
            left = self._wires.get(wire, 0) - 1
            if left > 0:
                self._wires[wire] = left
                return
            ended = self._wires.pop(wire, None) is not None
            if ended:
                line = {"machine": self.name, "opened": wire.opened, "closed": time.time(), "carried": wire.carried}
                # One write a line, so that those of several machines do not mix.
                self._log.write(json.dumps(line) + "\n")
        for end in (wire.outside, wire.inside):
            with contextlib.suppress(OSError):
                end.close()

    def wires(self) -> list[Wire]:
        with self._lock:
            return list(self._wires)

    def cut(self, mode: str) -> int:
        wires = self.wires()
        for wire in wires:
            wire.cut(mode)
        return len(wires)

    def rule(self, rules: Rules) -> None:
        with self._lock:
            self.rules, self._left = rules, rules.cut_total_bytes

    def count(self, size: int) -> None:
        """So many bytes more were carried."""
        with self._lock:
            self.carried += size
            due = 0 < self._left <= size
            self._left = max(0, self._left - size)
        if due:
            self.cut(self.rules.cut_mode)

    def heal(self) -> None:
        """Let held-back connections flow again, as after a broken cable was put right."""
        for wire in self.wires():
            wire.flow.set()


class Proxy:
    """Takes the orders."""

    def __init__(self, log: IO[str]) -> None:
        self._fronts: dict[str, Front] = {}
        self._log = log

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        if "listen" in order:
            front = Front(order["listen"], order["address"], order["port"], order["target_port"], self._log)
            self._fronts[front.name] = front
            return {}
        if "stats" in order:
            return {
                name: {
                    "accepted": front.accepted,
                    "open": len(front.wires()),
                    "listening": front._listener is not None,
                    "carried": front.carried,
                }
                for name, front in self._fronts.items()
            }
        verb, front = next((verb, self._fronts[order[verb]]) for verb in ORDERS if verb in order)
        if verb == "open":
            front.open()
        elif verb == "close":
            front.close()
        elif verb == "cut":
            return {"connections": front.cut(order.get("mode", "reset"))}
        elif verb == "heal":
            front.heal()
        else:
            front.rule(Rules(**{key: value for key, value in order.items() if key != "rules"}))
        return {}


ORDERS = ("open", "close", "cut", "heal", "rules")


def main() -> int:
    die_with_parent()
    with open(sys.argv[1], "a", buffering=1, encoding="ascii") as log:
        proxy = Proxy(log)
        for line in sys.stdin:
            try:
                answer = proxy.order(json.loads(line))
            except (OSError, TypeError, StopIteration, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
