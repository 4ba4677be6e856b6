# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of the command line: its arguments, the store they name, and where its words go."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Callable, NamedTuple

from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.console import Console
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import Usage
from ansible_collections.stowage.esxi.plugins.module_utils.cli.secret import (
    NEW_VARIABLE,
    OTHER_VARIABLE,
    VARIABLE,
    Secret,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.crypto import KeyNeeded
from ansible_collections.stowage.esxi.plugins.module_utils.store.location import S3Access, backend_at
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_MOST_THREADS = 256
_MOST_SECONDS = 1_000_000


class Session:
    def __init__(self, args: Namespace, console: Console) -> None:
        self.args, self.console = args, console

    @property
    def secret(self) -> Secret:
        return Secret("Passphrase of the store", VARIABLE, self.args.passphrase_file, self.args.passphrase_fd)

    @property
    def new_secret(self) -> Secret:
        args = self.args
        given = args.new_passphrase_file, args.new_passphrase_fd
        return Secret("New passphrase", NEW_VARIABLE, *given, "--new-passphrase")

    def backend(self) -> Backend:
        return backend_at(self.args.store, S3Access(self.args.endpoint, self.args.region))

    @contextmanager
    def open(self) -> Iterator[Store]:
        """The store; a person is asked for its passphrase only where it has one and none was given."""
        with closing(_opened(self.backend(), self.secret)) as store:
            for reason in store.settings_problems.values():
                self.console.warn(f"{reason}; the settings before it are used; repair removes it")
            yield store

    @contextmanager
    def open_other(self, location: str) -> Iterator[Store]:
        """The second store of a command that has two."""
        args = self.args
        given = args.other_passphrase_file, args.other_passphrase_fd
        secret = Secret("Passphrase of the second store", OTHER_VARIABLE, *given, "--other-passphrase")
        backend = backend_at(location, S3Access(args.other_endpoint, args.other_region))
        with closing(_opened(backend, secret)) as store:
            yield store

    def usage(self, reason: str) -> Usage:
        return Usage(reason=reason, program=f"stowage {self.args.command}")

    def assignments(self, words: list[str], what: str) -> dict[str, str]:
        """`KEY=VALUE` words, each key once; the first `=` divides."""
        found: dict[str, str] = {}
        for word in words:
            key, sign, value = word.partition("=")
            if not sign or not key or not value:
                raise self.usage(f"{what} {word!r} is not of the form NAME=PATH")
            if key in found:
                raise self.usage(f"{what} {key!r} was given twice")
            found[key] = value
        return found


def _opened(backend: Backend, secret: Secret) -> Store:
    given = secret.given()
    try:
        return Store.open(backend, given)
    except KeyNeeded as error:
        typed = secret.asked()
        if typed is None:
            raise KeyNeeded(store=backend.name, ways=secret.ways) from error
        return Store.open(backend, typed)


def size(word: str) -> int:
    """For argparse."""
    try:
        return text.parse_size(word)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def threads(word: str) -> int:
    """For argparse."""
    found = int(word)
    if not 0 <= found <= _MOST_THREADS:
        raise ArgumentTypeError(f"{word} is no number of threads from 0 to {_MOST_THREADS}")
    return found


def seconds(word: str) -> float:
    """For argparse."""
    found = float(word)
    if not 0 <= found <= _MOST_SECONDS:
        raise ArgumentTypeError(f"{word} is no number of seconds from 0 to {_MOST_SECONDS}")
    return found


class Command(NamedTuple):
    """One subcommand: what it is for, the arguments it adds to a parser, and what it does; the exit code."""

    name: str
    summary: str
    arguments: Callable[[Any], None]
    run: Callable[[Session], int]
