# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One link as it is wanted. Checked here, before any machine is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.link import errors
from ansible_collections.stowage.esxi.plugins.module_utils.link.authorized import Mark
from ansible_collections.stowage.esxi.plugins.module_utils.link.restriction import Restriction

KEY_TYPES = ("auto", "rsa", "ecdsa", "ed25519")
FIREWALL = ("open", "restore", "leave")
VERIFY = ("changed", "always", "never")
RSA_BITS = 3072

# Names stand in a comment, in a file name and in ssh's options: no blank, no colon, no slash, no percent sign.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]*", re.ASCII)


@dataclass(frozen=True)
class Link:
    """``source`` uses the key, ``target`` accepts it, for ``user``, at ``address`` as the source sees it."""

    name: str
    source: str
    target: str
    user: str
    address: str
    port: int = 22
    key_type: str = "auto"
    key_folder: str | None = None
    restriction: Restriction = field(default_factory=Restriction)
    firewall: str = "open"
    verify: str = "changed"
    rotate: bool = False
    max_age_days: int = 0

    def check(self) -> Link:
        """Raises ``BadLink`` for what cannot be meant."""
        for what, value, pattern in (
            ("name", self.name, _NAME),
            ("source_name", self.source, _NAME),
            ("target_name", self.target, _NAME),
            ("user", self.user, _NAME),
            ("address", self.address, _ADDRESS),
        ):
            if not pattern.fullmatch(value):
                raise errors.BadLink(
                    name=self.name,
                    reason=f"{what} is {value!r}",
                    way_out=f"Set {what} to letters, digits, dots, dashes and underscores (at most 63)",
                )
        if not 1 <= self.port <= 65535:
            raise errors.BadLink(
                name=self.name, reason=f"{self.port} is no port", way_out="Set address_port to 1 to 65535"
            )
        if self.key_folder is not None and not re.fullmatch(r"/[^\n\r\0\"%]*", self.key_folder):
            raise errors.BadLink(
                name=self.name,
                reason=f"{self.key_folder!r} cannot hold a key",
                way_out="Set key_folder to an absolute path without quotes and percent signs",
            )
        self.restriction.check(self.name)
        return self

    @property
    def mark(self) -> Mark:
        return Mark(self.name, self.source, self.target)

    @property
    def key_name(self) -> str:
        return key_name(self.name, self.target)

    @property
    def known_hosts_name(self) -> str:
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"


def key_name(name: str, target: str) -> str:
    """The file name of a link's key on its source: one key for each target, so that each can be renewed by itself."""
    return f"stowage-{name}@{target}"
