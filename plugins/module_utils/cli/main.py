# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the store: subcommands, common options, and how a run ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

from ansible_collections.stowage.esxi.plugins.module_utils.base import imports
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.cli import commands
from ansible_collections.stowage.esxi.plugins.module_utils.cli.console import Console
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import (
    FAILED,
    INTERRUPTED,
    Interrupted,
    LibrariesMissing,
    Usage,
    exit_code,
)
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Session

LIBRARIES = ("xxhash", "zstandard")


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """A list of words may go on behind an option. Not every version of argparse sees that by itself."""
        found, rest = super().parse_known_args(args, namespace)
        if getattr(found, "points", None) is not None:
            found.points += [word for word in rest if not word.startswith("-")]
            rest = [word for word in rest if word.startswith("-")]
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise Usage(reason=message, program=self.prog)


def parser(word: str = "") -> argparse.ArgumentParser:
    """For the command that the word names, or for all of them."""
    top = _Parser(
        prog="stowage",
        description="Backs up, lists, proves and restores disks of virtual machines in a dedup store.",
        epilog="STORE is the path of a store's folder, or s3://bucket/prefix. Exit codes: docs/command-line.md.",
        allow_abbrev=False,
    )
    names = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in commands.of(word):
        one = names.add_parser(command.name, help=command.summary, description=command.summary, allow_abbrev=False)
        one.add_argument("store", metavar="STORE", help="path of the store's folder, or s3://bucket/prefix")
        command.arguments(one)
        _common(one)
        one.set_defaults(run=command.run)
    return top


def _common(one: argparse.ArgumentParser) -> None:
    group = one.add_argument_group("options of every command")
    group.add_argument("--json", action="store_true", help="one JSON document on standard output; errors as JSON, too")
    group.add_argument("--quiet", action="store_true", help="no progress on a terminal")
    group.add_argument("--passphrase-file", metavar="PATH", help="passphrase or recovery key, the first line of a file")
    group.add_argument("--passphrase-fd", type=int, metavar="N", help="the same from an open file descriptor")
    group.add_argument("--endpoint", metavar="URL", help="of the object storage; else what AWS_ENDPOINT_URL says")
    group.add_argument("--region", metavar="NAME", help="of the object storage; else what AWS_REGION says")


def main(words: Sequence[str], out: TextIO, err: TextIO) -> int:
    """One run; its exit code."""
    console = Console(out, err, as_json="--json" in words)
    try:
        missing = [name for name in LIBRARIES if not imports.available(name)]
        args = parser(words[0] if words else "").parse_args(list(words))
        if missing:
            raise LibrariesMissing(names=" ".join(missing), python=sys.executable)
        console = Console(out, err, args.json, args.quiet)
        code: int = args.run(Session(args, console))
        return code
    except StowageError as error:
        console.error(error)
        return exit_code(error)
    except SystemExit as end:
        # argparse, after --help.
        return int(end.code or 0)
    except KeyboardInterrupt:
        console.error(Interrupted())
        return INTERRUPTED


def _end(_number: int, _frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def run() -> int:
    """The process: also a terminated one gives its half work up in good order."""
    signal.signal(signal.SIGTERM, _end)
    try:
        code = main(sys.argv[1:], sys.stdout, sys.stderr)
    except BrokenPipeError:
        # Whoever read the output has read enough.
        code = FAILED
    except Exception:
        traceback.print_exc()
        code = FAILED
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or FAILED
    return code


if __name__ == "__main__":
    raise SystemExit(run())
