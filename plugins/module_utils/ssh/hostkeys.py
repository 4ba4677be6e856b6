# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host keys as values: fingerprints, lines of known_hosts files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Address
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import HostKeyMismatch, UnknownHostKey

# One connection shows one key. Asked for in this order when a pinned fingerprint may be of another type.
FAMILIES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521",
    "rsa-sha2-512,rsa-sha2-256,ssh-rsa",
)


@dataclass(frozen=True)
class HostKey:
    kind: str
    base64: str

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(base64.b64decode(self.base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")

    def __str__(self) -> str:
        return f"{self.fingerprint} ({self.kind})"

    def line(self, address: Address) -> str:
        return f"{address.known_hosts_name} {self.kind} {self.base64}\n"


def parse_known_hosts(text: str) -> list[HostKey]:
    """All keys of a known_hosts text, whatever host they are for. Marked lines (CA, revoked) and junk are left out."""
    keys = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3 or words[0].startswith(("#", "@")):
            continue
        try:
            base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        keys.append(HostKey(words[1], words[2]))
    return keys


def is_pinned(key: HostKey, fingerprints: Iterable[str]) -> bool:
    return key.fingerprint in {fingerprint.rstrip("=") for fingerprint in fingerprints}


def variable_for(*, jump: bool) -> str:
    return "stowage_jump_host_key_fingerprints" if jump else "stowage_host_key_fingerprints"


def unknown(address: Address, offered: HostKey | None, where: str, *, jump: bool) -> UnknownHostKey:
    return UnknownHostKey(
        host=address.host,
        port=address.port,
        where=where,
        offered=str(offered) if offered else "a key that could not be read",
        offered_fingerprint=offered.fingerprint if offered else "SHA256:…",
        fingerprints_variable=variable_for(jump=jump),
    )


def mismatch(address: Address, offered: str, expected: str, *, jump: bool) -> HostKeyMismatch:
    return HostKeyMismatch(
        host=address.host,
        port=address.port,
        offered=offered,
        expected=expected,
        fingerprints_variable=variable_for(jump=jump),
    )


def home() -> str:
    """The home folder as ssh sees it: from the user database, not from HOME."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return os.path.expanduser("~")


def known_hosts_files(named: str | None) -> list[str]:
    """The files that count under ``strict`` and ``accept_new``; the first is the one that is written to."""
    if named:
        return [os.path.expanduser(named)]
    return [
        os.path.join(home(), ".ssh", "known_hosts"),
        os.path.join(home(), ".ssh", "known_hosts2"),
        "/etc/ssh/ssh_known_hosts",
        "/etc/ssh/ssh_known_hosts2",
    ]


def make_room_for(path: str) -> None:
    """The folder that a new known_hosts file goes to: ssh makes none, and then forgets the key without failing."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
