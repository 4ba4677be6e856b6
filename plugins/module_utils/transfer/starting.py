# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the agent gets to the hypervisor: its source, and the command that reads it from standard input."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass

READY = b"\nSTOWAGE READY\n"

# Told to the interpreter on its command line. It never goes on with what stands behind the source on its input: in the
# interactive way that would be run as Python.
BOOTSTRAP = """\
import os, sys
sys.path[:] = [p for p in sys.path if p]
try:
    if sys.argv[0] != "-c":
        os.write(1, b"\\nSTOWAGE READY\\n")
    n, b = int(sys.argv[1]), b""
    while len(b) < n:
        d = os.read(0, n - len(b))
        if not d:
            os._exit(3)
        b += d
    if b[:1] == b"x":
        import zlib
        b = zlib.decompress(b)
    exec(compile(b, "agent", "exec"), {"__name__": "__main__"})
except BaseException:
    import traceback
    traceback.print_exc()
finally:
    os._exit(5)
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python of the host that was seen to work. ``way``: how it takes a program, ``command`` (-c) or ``stdin``."""

    path: str
    version: tuple[int, int, int]
    way: str = "command"
    zlib: bool = True

    def argv(self, token: str, lease_seconds: int) -> list[str]:
        """The command: nobody's environment or site folder counts, and no compiled file is left on the host."""
        words = [self.path, "-E", "-s", "-B"]
        # Only the interactive way runs a line before the input has ended. Its prompts go to standard error.
        # One line, with the mark at its head: process lists are read line by line.
        program = f"'{token}'; {_one_line()}"
        words += ["-c", program] if self.way == "command" else ["-q", "-i", "-"]
        return [*words, str(len(self.program())), token, str(lease_seconds)]

    def program(self) -> bytes:
        """The agent as it is sent to it: packed where it can unpack, as a slow line needs seconds for all of it."""
        return _packed(source()) if self.zlib else source()

    def __str__(self) -> str:
        return f"{self.path} ({'.'.join(map(str, self.version))})"


def mark(token: str) -> str:
    """The word that shows in the hypervisor's process list for the agent with this token."""
    return f"stowage-agent-{token}"


def source() -> bytes:
    """The agent. The loader knows it also inside the zip file that Ansible makes of a module."""
    # What only looks for agents that were left does not carry it.
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent

    loader = agent.__spec__.loader if agent.__spec__ is not None else None
    text = loader.get_source(agent.__name__) if loader is not None and hasattr(loader, "get_source") else None
    if text is None:
        raise RuntimeError("the source of the agent is not where this was installed")
    return str(text).encode("utf-8")


@functools.lru_cache(maxsize=1)
def _packed(text: bytes) -> bytes:
    # A stream of zlib begins with an "x" (its first byte is 0x78), and the agent's source does not.
    return zlib.compress(text, 9)


def line() -> bytes:
    """What is typed to an interpreter that takes its program on standard input."""
    return _one_line().encode("ascii") + b"\n"


def _one_line() -> str:
    return f"exec({ascii(BOOTSTRAP)})"
