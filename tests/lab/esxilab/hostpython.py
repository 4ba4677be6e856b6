# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's own Python lacks or refuses: hash algorithms, fork, code that is not installed.

The interpreters are those of this machine, so what ESXi's would refuse is taken away from outside: a `hashlib` of the
lab's is mounted over that of the interpreter, and a launcher stands where a host's scripts find `python`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from esxilab import seccomp
from esxilab.interpreters import Interpreter

# hashlib as it is, and then this: constructors of one name, and `new`, which is asked by name.
_HASHLIB = """

# --- of the lab ---
_lab_missing = {missing!r}
_lab_refused = {refused!r}


def _lab_refuse(name):
    def constructor(*arguments, **options):
        raise ValueError("[digital envelope routines: EVP_DigestInit_ex] disabled for FIPS")
    constructor.__name__ = name
    return constructor


def _lab_guard(ask):
    def new(name, *arguments, **options):
        plain = str(name).lower().replace("-", "_")
        if plain in _lab_missing:
            raise ValueError("unsupported hash type " + str(name))
        if plain in _lab_refused:
            raise ValueError("[digital envelope routines: EVP_DigestInit_ex] disabled for FIPS")
        return ask(name, *arguments, **options)
    return new


for _lab_name in _lab_missing:
    globals().pop(_lab_name, None)
for _lab_name in _lab_refused:
    if _lab_name in globals():
        globals()[_lab_name] = _lab_refuse(_lab_name)
new = _lab_guard(new)
__all__ = tuple(name for name in __all__ if name not in _lab_missing)
"""
# Not in the library before 3.6.
_SINCE_3_6 = ("blake2b", "blake2s", "sha3_224", "sha3_256", "sha3_384", "sha3_512", "shake_128", "shake_256")
_NOT_IN_FIPS = ("md5", "blake2b", "blake2s")

_LAUNCHER = """#!/.lab/python -IS
import ctypes, os, sys
real, fork, from_stdin = {real!r}, {fork!r}, {from_stdin!r}
words = sys.argv[1:]
takes_value = ("-c", "-m", "-W", "-X")
place = next((n for n, word in enumerate(words) if not word.startswith("-") or word in ("-", "-c", "-m")
              if n == 0 or words[n - 1] not in ("-W", "-X")), None)
script = words[place] if place is not None else "-"
asked = place is None and any(word in ("-V", "--version", "-h", "--help") for word in words)
installed = script in ("-c", "-m") or os.path.realpath(script).startswith(("/bin/", "/sbin/", "/usr/lib/"))
if not from_stdin and not asked and not installed:
    sys.stderr.write("-sh: python: Operation not permitted\\n")
    sys.exit(126)
if not fork:
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
    code = {program!r}
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(code) // 8, code)
    # No new privileges, then the filter (prctl: 38 and 22, mode 2).
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
        sys.exit("python: the lab cannot take fork away: " + os.strerror(ctypes.get_errno()))
os.execv(real, [real] + words)
"""


def hash_rules(profile: str, md5: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names that the release's hashlib does not know, names that it refuses)."""
    missing = _SINCE_3_6 if profile in ("6.0", "6.7") else ()
    return missing, tuple(name for name in (() if md5 else _NOT_IN_FIPS) if name not in missing)


def hashlib_overlay(folder: Path, interpreter: Interpreter, profile: str, md5: bool) -> tuple[Path, str] | None:
    """(file to mount, place of the interpreter's hashlib); None where it may stay as it is."""
    missing, refused = hash_rules(profile, md5)
    if not missing and not refused:
        return None
    original = Path(interpreter.stdlib) / "hashlib.py"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "hashlib.py"
    text = original.read_text(encoding="utf-8") + _HASHLIB.format(missing=missing, refused=refused)
    target.write_text(text, encoding="utf-8")
    # Compiled code that lies beside the original is told from this file by its time.
    os.utime(target, (1, 1))
    return target, str(original)


def launcher(target: Path, real: str, *, fork: bool, from_stdin: bool) -> None:
    """Put the program at `target` in front of the interpreter `real`."""
    program = b"" if fork or not seccomp.available() else seccomp.no_fork()
    target.unlink(missing_ok=True)
    text = _LAUNCHER.format(real=real, fork=fork, from_stdin=from_stdin, program=program)
    target.write_text(text, encoding="ascii")
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
