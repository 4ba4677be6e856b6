# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passphrases: from a file, an open file descriptor, the environment, or asked for. Never on the command line."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import NotReadable, Usage

VARIABLE = "STOWAGE_PASSPHRASE"
NEW_VARIABLE = "STOWAGE_NEW_PASSPHRASE"
OTHER_VARIABLE = "STOWAGE_OTHER_PASSPHRASE"
_MOST = 1 << 16


@dataclass(frozen=True)
class Secret:
    """Where one passphrase comes from. Its first line counts, without the newline."""

    what: str
    variable: str
    path: str | None = None
    descriptor: int | None = None
    option: str = "--passphrase"

    @property
    def ways(self) -> str:
        """How it can be given, for whoever has not."""
        return f"by {self.option}-file PATH, by {self.option}-fd N, in {self.variable}, or at a terminal"

    def given(self) -> str | None:
        """What was given without asking anybody; None when nothing was."""
        if self.path is not None:
            return self._from(self.path, self.path)
        if self.descriptor is not None:
            return self._from(self.descriptor, f"file descriptor {self.descriptor}")
        return os.environ.get(self.variable)

    def asked(self, twice: bool = False) -> str | None:
        """From the person at the terminal; None where there is none."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        typed = getpass.getpass(f"{self.what}: ", sys.stderr)
        if twice and getpass.getpass(f"{self.what}, again: ", sys.stderr) != typed:
            raise Usage(reason=f"{self.what}: the two that were typed differ", program="stowage")
        return typed

    def needed(self, twice: bool = False) -> str:
        secret = self.given()
        if secret is None:
            secret = self.asked(twice)
        if not secret:
            reason = f"{self.what} is needed: give it {self.ways}"
            raise Usage(reason=reason, program="stowage")
        return secret

    def _from(self, place: str | int, name: str) -> str:
        try:
            with open(place, "rb") as file:
                data = file.read(_MOST)
        except (OSError, ValueError) as error:
            raise NotReadable(path=name, reason=getattr(error, "strerror", None) or str(error)) from error
        return data.partition(b"\n")[0].rstrip(b"\r").decode("utf-8", "surrogateescape")
