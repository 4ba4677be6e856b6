# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where to connect to, as whom, and what proves who is there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import BadEndpoint

POLICIES = ("strict", "pinned", "accept_new")
BACKENDS = ("auto", "openssh", "paramiko")

# A leading dash would be an option to ssh; anything else odd would be code to the shell of a proxy command.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*|::[A-Fa-f0-9:.]*(?:%[A-Za-z0-9_.-]+)?", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\$+-]*", re.ASCII)
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?", re.ASCII)


@dataclass(frozen=True)
class Address:
    """A machine on the network. ``str()`` is for messages."""

    host: str
    port: int = 22
    user: str | None = None

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"

    @property
    def known_hosts_name(self) -> str:
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


@dataclass(frozen=True)
class Endpoint:
    """All that a session needs. Frozen, so that it can name a shared connection; ``repr`` shows no secret.

    Without password, key and agent, the default keys of the user that runs this are tried.
    ``jump`` is ``[user@]host[:port]``, as seen from the machine where this runs; its host key stands under the same
    policy, pinned by ``jump_host_key_fingerprints``.
    """

    host: str
    port: int = 22
    user: str = "root"
    password: str | None = field(default=None, repr=False)
    private_key_file: str | None = None
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    jump: str | None = None
    host_key_policy: str = "strict"
    host_key_fingerprints: tuple[str, ...] = ()
    known_hosts_file: str | None = None
    use_agent: bool = False
    connect_timeout_seconds: int = 15
    backend: str = "auto"
    jump_host_key_fingerprints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def bad(reason: str, way_out: str) -> BadEndpoint:
            return BadEndpoint(host=self.host or "(no host)", reason=reason, way_out=way_out)

        if not self.host:
            raise bad("no host is named", "Set the option hostname, or the variable ansible_host")
        _check_address(self.address, self.host)
        if self.host_key_policy not in POLICIES:
            raise bad(f"{self.host_key_policy!r} is no host key policy", f"Use one of {', '.join(POLICIES)}")
        if self.backend not in BACKENDS:
            raise bad(f"{self.backend!r} is no backend", f"Use one of {', '.join(BACKENDS)}")
        if self.private_key and self.private_key_file:
            raise bad("a key is given both as text and as a file", "Give one of private_key and private_key_file")
        for text, name in ((self.password, "password"), (self.passphrase, "passphrase")):
            if text is not None and ("\n" in text or "\r" in text or "\0" in text):
                raise bad(f"the {name} has more than one line", f"Give the {name} without a line end")
        for fingerprint in self.host_key_fingerprints + self.jump_host_key_fingerprints:
            if not _FINGERPRINT.fullmatch(fingerprint):
                raise bad(
                    f"{fingerprint!r} is no SHA256 fingerprint",
                    "Take the text SHA256:… that ssh-keygen -l -f /etc/ssh/ssh_host_rsa_key.pub prints on that host",
                )
        if self.host_key_policy == "pinned" and not self.host_key_fingerprints:
            raise bad(
                "the host key policy is pinned, but no fingerprint is given",
                "Set the option host_key_fingerprints, or the variable stowage_host_key_fingerprints",
            )
        jump = self.jump_address
        if jump is not None:
            _check_address(jump, self.host)
            if self.host_key_policy == "pinned" and not self.jump_host_key_fingerprints:
                raise bad(
                    f"the host key policy is pinned, but no fingerprint of the jump host {jump.host} is given",
                    "Set the option jump_host_key_fingerprints, or the variable stowage_jump_host_key_fingerprints",
                )
        if self.connect_timeout_seconds < 1:
            raise bad("the connection time limit is below one second", "Set connect_timeout to 1 or more")

    @property
    def address(self) -> Address:
        return Address(self.host, self.port, self.user)

    @property
    def jump_address(self) -> Address | None:
        return parse_jump(self.jump) if self.jump else None


def parse_jump(text: str) -> Address:
    """``[user@]host[:port]``, an IPv6 address in square brackets. One jump only: OpenSSH's own list is not taken."""
    if "," in text:
        raise BadEndpoint(
            host=text, reason="more than one jump host is named", way_out="Name one jump host as [user@]host[:port]"
        )
    user, at, rest = text.strip().rpartition("@")
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", rest)
    if match is None or (at and not user):
        raise BadEndpoint(
            host=text, reason="the jump host cannot be understood", way_out="Write it as [user@]host[:port]"
        )
    return Address(match.group(1) or match.group(2), int(match.group(3) or 22), user or None)


def _check_address(address: Address, host: str) -> None:
    if not _HOST.fullmatch(address.host):
        raise BadEndpoint(
            host=host, reason=f"{address.host!r} is no host name or address", way_out="Correct the host name"
        )
    if not 1 <= address.port <= 65535:
        raise BadEndpoint(host=host, reason=f"{address.port} is no port", way_out="Set a port from 1 to 65535")
    if address.user is not None and not _USER.fullmatch(address.user):
        raise BadEndpoint(host=host, reason=f"{address.user!r} is no user name", way_out="Correct the user name")
