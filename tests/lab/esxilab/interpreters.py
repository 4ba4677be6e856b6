# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python of each release, or the nearest one that this machine has."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from esxilab.errors import LabError

# As seen on hosts of these releases; 9.0's is only said. 6.0 has no Python 3 at all, so nothing but a 2.7 may play it.
RELEASES = {"6.0": (2, 7), "6.7": (3, 5), "7.0": (3, 8), "8.0": (3, 8), "9.0": (3, 11)}
NONE = "none"


@dataclass(frozen=True)
class Interpreter:
    """A Python that can be bound into a machine: its executable and the folders that it needs."""

    executable: str
    version: tuple[int, int, int]
    folders: tuple[str, ...]
    stdlib: str

    @property
    def text(self) -> str:
        return ".".join(str(part) for part in self.version)


_PROBE = (
    "import sys, json, sysconfig\n"
    "print(json.dumps([list(sys.version_info[:3]), sys.prefix, getattr(sys, 'base_prefix', sys.prefix),"
    " sysconfig.get_path('stdlib')]))\n"
)


def _not_system(folder: str) -> bool:
    # What lies below /usr/lib is in every machine of the lab anyway.
    return folder not in ("/", "/usr") and not folder.startswith("/usr/lib")


@functools.cache
def probe(executable: str) -> Interpreter | None:
    """What the executable is, or None when it is no Python."""
    try:
        done = subprocess.run(
            [executable, "-E", "-s", "-c", _PROBE], capture_output=True, text=True, timeout=20, check=False, cwd="/"
        )
        version, prefix, base, stdlib = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    real = os.path.realpath(executable)
    folders = {folder for folder in (prefix, base) if _not_system(folder)}
    if base == "/usr":
        folders.add(stdlib)
    return Interpreter(
        executable if prefix != base else real,
        (version[0], version[1], version[2]),
        tuple(sorted(folders)),
        stdlib,
    )


@functools.cache
def found() -> tuple[Interpreter, ...]:
    """Every Python 2.7 and 3 of this machine: pyenv's, and those on the PATH; oldest first."""
    candidates = [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))]
    candidates += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/2.7.*/bin/python2.7"))]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if "/shims" in folder or not os.path.isdir(folder):
            continue
        for name in sorted(os.listdir(folder)):
            if re.fullmatch(r"python(3(\.[0-9]+)?|2\.7)", name):
                candidates.append(os.path.join(folder, name))
    if sys.base_prefix == sys.prefix:
        candidates.append(sys.executable)
    interpreters: dict[tuple[int, int, int], Interpreter] = {}
    for candidate in candidates:
        interpreter = probe(os.path.realpath(candidate))
        if interpreter is not None:
            interpreters.setdefault(interpreter.version, interpreter)
    return tuple(interpreters[version] for version in sorted(interpreters))


def for_release(profile: str, override: str | None = None) -> Interpreter | None:
    """The release's own Python version, else the nearest above it, else the nearest below.

    None: the host has no Python. So it is with `none` as override, and on 6.0 where this machine has no 2.7: what
    runs there must not find a Python 3.
    """
    if override == NONE:
        return None
    if override:
        interpreter = probe(override)
        if interpreter is None:
            raise LabError(f"{override!r} is not a Python that runs here; write a path, or 'none'")
        return interpreter
    wanted = RELEASES[profile]
    every = tuple(interpreter for interpreter in found() if interpreter.version[0] == wanted[0])
    if wanted[0] == 2:
        return every[-1] if every else None
    for interpreter in reversed(every):
        if interpreter.version[:2] == wanted:
            return interpreter
    above = [interpreter for interpreter in every if interpreter.version[:2] > wanted]
    if above:
        return above[0]
    if every:
        return every[-1]
    raise LabError("no Python 3 was found in ~/.pyenv/versions or on the PATH")


def own() -> Interpreter:
    """The interpreter that runs the lab, without its virtual environment."""
    executable = os.path.realpath(sys.executable)
    interpreter = probe(executable)
    if interpreter is None:
        raise LabError(f"the lab's own interpreter {executable} does not answer")
    if interpreter.version < (3, 9):
        raise LabError(f"the lab needs Python 3.9 or newer; {executable} is {interpreter.text}")
    return interpreter
