# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A slow line of our own: two network namespaces, a virtual cable between them that `tbf` holds to a rate, and a relay
in the second one that passes every byte on to the lab late. Nothing of it is in this machine's own network.

The bytes are counted by the kernel, on the relay's sockets: all that TCP carried for the client, SSH included.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from measure import Failed

NEAR, FAR = "10.66.0.2", "10.66.0.1"
PORT = 2222
_PIECE = 1 << 16
_UNDER_WAY = 512
# Of struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received.
_INFO_BYTES = 256
_ACKED_AT, _RECEIVED_AT = 120, 128


@dataclass
class Carried:
    """Bytes of the TCP streams, by the kernel's count."""

    to_host: int = 0
    from_host: int = 0

    @property
    def total(self) -> int:
        return self.to_host + self.from_host


class Line:
    """`with Line(rate, latency_ms, target) as line`: commands behind `line.words` see the host at FAR, PORT."""

    def __init__(self, bits_per_second: int, latency_ms: float, target: tuple[str, int]) -> None:
        self.rate = bits_per_second / 8
        self._bits, self._late = bits_per_second, latency_ms / 2000.0
        self._target = target
        self._near = self._far = 0
        self._holders: list[subprocess.Popen[bytes]] = []
        self._guard = threading.Lock()
        self._done = Carried()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    @property
    def words(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._near}/ns/net", "--"]

    def __enter__(self) -> Line:
        try:
            self._near, self._far = self._hold(), self._hold()
            self._cable()
            self._listener = self._listen()
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        if self._listener is not None:
            self._listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for holder in self._holders:
            holder.kill()
            holder.wait()

    def carried(self) -> Carried:
        """Of all connections so far, those that are open included."""
        with self._guard:
            found = Carried(self._done.to_host, self._done.from_host)
            for one in self._open:
                _add(found, one)
            return found

    def quiet(self) -> None:
        """Returns when no connection is open any more."""
        end = time.monotonic() + 30
        while self._open:
            if time.monotonic() > end:
                raise Failed("a connection through the slow line stays open")
            time.sleep(0.02)

    # -- the network ---------------------------------------------------------------------------------------------

    def _hold(self) -> int:
        """A network namespace, by a process that does nothing in it."""
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
        self._holders.append(holder)
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise Failed("no network namespace can be made: this needs root")
        return holder.pid

    def _cable(self) -> None:
        # A fast line needs a larger bucket: `tbf` fills it when the kernel comes to it.
        burst = max(32 << 10, int(self.rate / 1000))
        rate = ["tbf", "rate", f"{self._bits}bit", "burst", f"{burst}b", "latency", "100ms"]
        near = ["nsenter", f"--net=/proc/{self._near}/ns/net", "--"]
        far = ["nsenter", f"--net=/proc/{self._far}/ns/net", "--"]
        for command in (
            [*near, "ip", "link", "add", "line", "type", "veth", "peer", "name", "line", "netns", str(self._far)],
            [*near, "ip", "address", "add", f"{NEAR}/24", "dev", "line"],
            [*far, "ip", "address", "add", f"{FAR}/24", "dev", "line"],
            *([*side, "ip", "link", "set", name, "up"] for side in (near, far) for name in ("lo", "line")),
            *([*side, "tc", "qdisc", "add", "dev", "line", "root", *rate] for side in (near, far)),
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")

    def _listen(self) -> socket.socket:
        """A socket of the far namespace; the relay's other sockets are of this machine's own network."""
        made: list[socket.socket | OSError] = []

        def there() -> None:
            # A namespace is a thread's own, and ends with it.
            libc = ctypes.CDLL(None, use_errno=True)
            handle = os.open(f"/proc/{self._far}/ns/net", os.O_RDONLY)
            try:
                if libc.setns(handle, 0):
                    made.append(OSError(ctypes.get_errno(), "setns"))
                    return
                made.append(socket.create_server((FAR, PORT)))
            except OSError as error:
                made.append(error)
            finally:
                os.close(handle)

        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise Failed(f"the relay cannot listen: {made[0]}")
        return made[0]

    # -- the relay -----------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                outside, _address = listener.accept()
                inside = socket.create_connection(self._target)
            except OSError:
                return
            for one in (outside, inside):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._guard:
                self._open.add(outside)
            ends = [threading.Event(), threading.Event()]
            for number, (source, sink) in enumerate(((outside, inside), (inside, outside))):
                late: queue.Queue[tuple[float, bytes]] = queue.Queue(_UNDER_WAY)
                threading.Thread(target=self._take, args=(source, late), daemon=True).start()
                threading.Thread(target=self._give, args=(late, sink, ends[number]), daemon=True).start()
            threading.Thread(target=self._end, args=(outside, inside, ends), daemon=True).start()

    def _take(self, source: socket.socket, late: queue.Queue[tuple[float, bytes]]) -> None:
        while True:
            try:
                data = source.recv(_PIECE)
            except OSError:
                data = b""
            late.put((time.monotonic() + self._late, data))
            if not data:
                return

    def _give(self, late: queue.Queue[tuple[float, bytes]], sink: socket.socket, end: threading.Event) -> None:
        broken = False
        while True:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                elif not broken:
                    broken = True
                    sink.sendall(data)
                    broken = False
            if not data:
                end.set()
                return

    def _end(self, outside: socket.socket, inside: socket.socket, ends: list[threading.Event]) -> None:
        for one in ends:
            one.wait()
        with self._guard:
            _add(self._done, outside)
            self._open.discard(outside)
        outside.close()
        inside.close()


def _add(found: Carried, one: socket.socket) -> None:
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    acked, received = (struct.unpack_from("=Q", info, at)[0] for at in (_ACKED_AT, _RECEIVED_AT))
    # An empty stream counts one: the opening of the connection is acknowledged as a byte is.
    found.from_host += acked
    found.to_host += received


def needed() -> None:
    """Raises `Failed` where the line cannot be made."""
    for program in ("nsenter", "unshare", "ip", "tc"):
        if not any(Path(folder, program).exists() for folder in os.get_exec_path()):
            raise Failed(f"{program} is not installed: the slow line is made with it")
