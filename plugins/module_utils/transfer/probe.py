# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host can do: which Python runs there and how it takes a program, and which plain commands there are.

Everything is tried out; nothing is concluded from a release. Whether holes can be told is proven file by file, by the
agent itself.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import NoWay
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.starting import Interpreter

METHODS = ("auto", "agent", "shell")
OLDEST = (3, 5)
PROBE_SECONDS = 90.0

PLACES = ("/bin/python3", "/usr/bin/python3", "/usr/local/bin/python3", "/bin/python", "/usr/bin/python")

# Of "abc".
_RIGHT = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

# Grammar of every Python that may be there. It does what the agent needs, and says what it finds.
_TRY = """
import os, sys
sys.path[:] = [p for p in sys.path if p]
def tell(packs, made):
    sys.stdout.write("STOWAGE %r" % ((tuple(sys.version_info[:3]), packs, made),) + chr(10))
    sys.stdout.flush()
    os._exit(0)
if sys.version_info < (3, 5):
    tell(False, "")
try:
    import threading, select, struct, hashlib, json, io
    import zlib
except ImportError:
    zlib = None
made = []
thread = threading.Thread(target=lambda: made.append(hashlib.sha256(b"abc").hexdigest()))
thread.start()
thread.join()
select.select([], [], [], 0)
io.FileIO
tell(zlib is not None, made[0])
"""

# $1 the program, $2 the same as one line for standard input, $3 the hash that one that works tells, then the places to
# look at. One paragraph an answer.
_LOOK = r"""
try=$1 line=$2 right=$3
shift 3
for python in "$@"; do
    [ -x "$python" ] || continue
    echo "python $python"
    said=$("$python" -E -s -B -c "$try" 2>&1 | tail -n 5 | tr '\n\r' '  ')
    echo "command $said"
    # One that works is enough: to start each of them takes longer than all else here.
    case "$said" in *STOWAGE*"$right"*) break ;; esac
    echo "stdin $(printf '%s\n' "$line" | "$python" -E -s -B -q -i - 2>&1 | tail -n 5 | tr '\n\r' '  ')"
done
for tool in "sha256sum" "openssl dgst -sha256"; do
    echo "digest $tool: $(printf abc | $tool 2>&1 | tr '\n\r' '  ')"
done
echo "dd $(printf abcdef | dd bs=1 skip=2 count=3 2>/dev/null)"
"""


@dataclass(frozen=True)
class Way:
    """How the files of a host are read, and everything that was tried to find that out."""

    method: str  # agent | shell
    interpreter: Interpreter | None = None
    digest: str | None = None
    tried: tuple[str, ...] = field(default=())

    def describe(self) -> str:
        """For a record or a message."""
        if self.interpreter is not None and self.method == "agent":
            how = "with -c" if self.interpreter.way == "command" else "from standard input"
            return f"agent in {self.interpreter}, its program taken {how}"
        return f"plain commands, hashes by {self.digest or 'nobody: every byte travels'}" + (
            f" ({'; '.join(self.tried)})" if self.tried else ""
        )


def probe(session: Session, method: str = "auto") -> Way:
    """The best way there is, or the one that is asked for; ``NoWay`` says why there is none."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}")
    line = f"exec({ascii(_TRY)})"
    answer = session.script(_LOOK, [_TRY, line, _RIGHT, *PLACES], timeout_seconds=PROBE_SECONDS)
    interpreter, digest, dd, tried = read(answer.stdout)
    host = session.endpoint.host
    if interpreter is not None and method != "shell":
        return Way("agent", interpreter, digest, tuple(tried))
    if method == "agent":
        raise NoWay(host=host, reason="; ".join(tried) or f"there is no Python 3 ({', '.join(PLACES)})")
    if not dd:
        raise NoWay(host=host, reason="; ".join([*tried, f"dd does not work ({quoting.shorten(answer.output)})"]))
    return Way("shell", None, digest, tuple(tried))


def read(text: str) -> tuple[Interpreter | None, str | None, bool, list[str]]:
    """The first interpreter that will do, the tool that hashes, whether dd works, and why others will not do. Pure."""
    found: Interpreter | None = None
    digest: str | None = None
    dd = False
    tried: list[str] = []
    python = ""
    for row in text.splitlines():
        word, _blank, rest = row.partition(" ")
        if word == "python":
            python = rest
        elif word in ("command", "stdin"):
            candidate, why = _interpreter(python, word, rest)
            found = found or candidate
            if why:
                tried.append(why)
        elif word == "digest":
            tool, _colon, said = rest.partition(": ")
            if digest is None and _RIGHT in said.split():
                digest = tool
        elif word == "dd":
            dd = rest.strip() == "cde"
    return found, digest, dd, tried


def _interpreter(path: str, way: str, said: str) -> tuple[Interpreter | None, str | None]:
    how = f"{path} {'-c' if way == 'command' else 'on standard input'}"
    _before, mark, answer = said.partition("STOWAGE ")
    try:
        # What follows on the line is the prompt of an interactive interpreter.
        end = answer.index(")", answer.index(")") + 1) + 1
        version, packs, made = ast.literal_eval(answer[:end])
        major, minor, micro = (int(number) for number in version)
    except (ValueError, SyntaxError, TypeError):
        return None, f"{how} fails: {quoting.shorten(said) or 'it says nothing'}"
    if not mark or (major, minor) < OLDEST:
        return None, f"{how} is Python {major}.{minor}.{micro}, and 3.5 is needed"
    if made != _RIGHT:
        return None, f"{how} computes a wrong SHA-256"
    return Interpreter(path, (major, minor, micro), way, bool(packs)), None
