# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a backup point lies that is no datastore: a folder of this machine, or `[user@]server:port:/path`."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace

from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import BadPlace

FORM = "[user@]server:port:/path, an IPv6 address in square brackets"

_REMOTE = re.compile(
    r"(?:(?P<user>[^@/\s]+)@)?(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[^:@/\[\]\s]+)):(?P<port>\d*):(?P<path>.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Spot:
    """A folder or a file; without `server` it is one of this machine. `str()` is the one way in which it is written."""

    path: str
    server: str = ""
    port: int = 22
    user: str = ""

    @property
    def is_here(self) -> bool:
        return not self.server

    @property
    def where(self) -> str:
        """The machine, as it stands before the path."""
        if self.is_here:
            return ""
        server = f"[{self.server}]" if ":" in self.server else self.server
        return f"{self.user}@{server}:{self.port}:" if self.user else f"{server}:{self.port}:"

    def at(self, path: str) -> Spot:
        """Another path of the same machine."""
        return replace(self, path=path)

    def __str__(self) -> str:
        return f"{self.where}{self.path}"

    @property
    def as_url(self) -> str:
        """`ssh://[user@]server:port/path`, as other programs know it; the path alone where it is here."""
        if self.is_here:
            return self.path
        server = f"[{self.server}]" if ":" in self.server else self.server
        return f"ssh://{self.user + '@' if self.user else ''}{server}:{self.port}{self.path}"


def is_remote(text: str) -> bool:
    """Whether it has the form `[user@]server:port:path`; a path of this machine begins with a slash."""
    return not text.startswith("/") and "://" not in text and _REMOTE.fullmatch(text) is not None


def parse(text: str) -> Spot:
    """BadPlace says what is wrong with it."""

    def bad(reason: str) -> BadPlace:
        return BadPlace(place=text, reason=reason, form=FORM)

    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise bad("it holds a control character")
    found = None if text.startswith("/") else _REMOTE.fullmatch(text)
    if found is None and not text.startswith("/"):
        raise bad("it is neither an absolute path nor a place on a server")
    path = text if found is None else found["path"]
    if not path.startswith("/"):
        raise bad("its path is not absolute")
    if ".." in path.split("/"):
        raise bad("there is '..' in its path")
    path = "/" + posixpath.normpath(path).strip("/")
    if path == "/":
        raise bad("it is no folder of its own")
    if found is None:
        return Spot(path)
    server, port = found["six"] or found["name"], int(found["port"] or 22)
    if server.startswith("-") or (found["user"] or "").startswith("-"):
        raise bad("a name in it begins with a dash")
    if not 1 <= port <= 65535:
        raise bad(f"{port} is no port")
    return Spot(path, server, port, found["user"] or "")


def located(text: str) -> str:
    """As a program that knows `ssh://` wants it; what is no place on a server stays as it is."""
    return parse(text).as_url if is_remote(text) else text
