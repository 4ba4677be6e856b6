# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only place that quotes for the remote shell."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Linux and VMkernel take one argument of at most 128 KiB, and the login shell gets the whole command as one.
LONGEST_COMMAND = 100_000

_PLAIN = re.compile(r"[A-Za-z0-9_./:-]+", re.ASCII)
_RESERVED = frozenset(
    ("case", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in", "select", "then", "time")
    + ("until", "while")
)


def quote(word: str) -> str:
    """One word that the shell hands over unchanged, whatever is in it. A NUL cannot be handed over at all."""
    if "\0" in word:
        raise ValueError("a NUL byte cannot be part of a command")
    if _PLAIN.fullmatch(word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def join(argv: Sequence[str]) -> str:
    """The command line that runs ``argv``: never an assignment, a reserved word, or an expansion."""
    if isinstance(argv, str):
        raise TypeError("a command is a list of words, not one text")
    if not argv:
        raise ValueError("an empty command")
    first = quote(argv[0])
    if argv[0] in _RESERVED:
        first = f"'{argv[0]}'"
    line = " ".join([first, *(quote(word) for word in argv[1:])])
    if len(line.encode("utf-8", "surrogateescape")) > LONGEST_COMMAND:
        raise ValueError("the command is too long for a command line; send its data on standard input")
    return line


def shorten(line: str, limit: int = 200) -> str:
    """A command as it may stand in a message."""
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
