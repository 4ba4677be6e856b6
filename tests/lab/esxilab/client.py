#!/.lab/python -IS
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every simulated command of a host is: it tells the lab's daemon its name and arguments, and prints the answer.

Some commands do their work here instead, in a process of their own that can be seen and killed: a module
esxilab.tools.<name> with main(arguments, lab) takes over, and asks the daemon through `lab.call(request)`.
"""

from __future__ import annotations

# A host runs hundreds of commands in a backup, each a process of its own. What is imported here is compiled into the
# interpreter: json, socket and signal are written in Python, and cost more than starting it does.
import _json
import _signal
import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET = "/.lab/run/labd.sock"
LOCAL_TOOLS = ("vmkfstools", "ps", "df")
# On ESXi these are links to one program, too.
LINKS = {"lsof": "vmkvsitools"}


class Reading:
    """How what the daemon says is read: as json.loads does."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


read = _json.make_scanner(Reading)


def text_of(value: Any) -> str:
    """JSON of it, in ASCII."""
    if isinstance(value, str):
        return str(_json.encode_basestring_ascii(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{text_of(str(key))}: {text_of(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(text_of, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


class Lab:
    """The way to the daemon; one connection that lasts as long as this process."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: _socket.socket | None = None
        self._pending = b""

    def _line(self) -> bytes:
        assert self._socket is not None
        while b"\n" not in self._pending:
            piece = self._socket.recv(65536)
            if not piece:
                raise EOFError("the daemon closed the connection")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def send(self, request: dict[str, Any]) -> None:
        if self._socket is None:
            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            self._socket.connect(self._path)
        self._socket.sendall(text_of(request).encode("ascii") + b"\n")

    def receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = read(self._line().decode("ascii"), 0)[0]
        return answer

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request, one answer."""
        self.send(request)
        answer = self.receive()
        if "rc" in answer and "ask" in request:
            # A question has no exit status: this is the daemon saying what went wrong.
            raise OSError(str(answer.get("stderr", "")).strip())
        return answer


def write(descriptor: int, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(descriptor, data) :]


def forward(lab: Lab, tool: str, arguments: list[str]) -> int:
    """Have the daemon answer; frames are printed as they come, the one with 'rc' ends it."""
    lab.send({"tool": tool, "argv": arguments, "cwd": os.getcwd(), "path": sys.argv[0]})
    while True:
        frame = lab.receive()
        if frame.get("stdout"):
            write(1, frame["stdout"])
        if frame.get("stderr"):
            write(2, frame["stderr"])
        if frame.get("signal"):
            # A command that a fault kills dies by the signal itself, so that the shell reports it as it would.
            if frame["signal"] != _signal.SIGKILL:
                _signal.signal(frame["signal"], _signal.SIG_DFL)
            os.kill(os.getpid(), frame["signal"])
        if "rc" in frame:
            return int(frame["rc"])


def main() -> int:
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    tool = os.path.basename(sys.argv[0])
    lab = Lab()
    try:
        if tool in LOCAL_TOOLS:
            sys.path.insert(0, "/.lab")
            module = __import__("esxilab.tools." + tool, fromlist=["main"])
            return int(module.main(sys.argv[1:], lab) or 0)
        if tool in LINKS:
            return forward(lab, LINKS[tool], [tool, *sys.argv[1:]])
        return forward(lab, tool, sys.argv[1:])
    except (OSError, EOFError) as error:
        # The host is going down, or its lab is broken; a real command would hang or die here, too.
        write(2, f"{tool}: the lab's daemon does not answer: {error}\n")
        return 255


if __name__ == "__main__":
    sys.exit(main())
