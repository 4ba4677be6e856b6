# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the words of the ssh program to one of our errors. Pure: text in, error out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Address, Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import (
    AuthenticationFailed,
    BadEndpoint,
    HostUnreachable,
    SshError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.options import agent_for_jump

_DENIED = re.compile(r"Permission denied \(([a-z0-9,@.-]*)\)")
_TOO_MANY = re.compile(r"Too many authentication failures|Received disconnect .*authentication")
_UNKNOWN_KEY = re.compile(r"No \S+ host key is known for|Host key verification failed")
_CHANGED_KEY = re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|has changed and you have requested strict checking")
_OFFERED = re.compile(r"key sent by the remote host is\s+(SHA256:[A-Za-z0-9+/=]+)")
_LEGACY = re.compile(
    r"no matching host key type found\. Their offer: \S*ssh-rsa|no mutual signature (?:algorithm|supported)"
)
_FORWARDING = re.compile(r"(?:stdio forwarding failed|open failed: [^\r\n]*)", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"(?:Could not resolve hostname|Connection refused|Connection timed out|Operation timed out|No route to host"
    r"|Network is unreachable|Host is unreachable|Connection reset|Connection closed|kex_exchange_identification"
    r"|banner exchange|Connection to \S+ timed out|Not allowed at this time|Unable to negotiate|Broken pipe"
    r"|Can't assign requested address|Name or service not known)",
    re.IGNORECASE,
)
_NOISE = re.compile(r"^(?:Warning: Permanently added|\*\* |debug\d:|@{5})")


@dataclass(frozen=True)
class Diagnosis:
    """What the program's words mean. ``methods`` are those the server would have taken."""

    kind: str  # host-key-unknown | host-key-changed | denied | legacy-only | forwarding | unreachable | other
    reason: str
    methods: tuple[str, ...] = ()
    offered: str | None = None


def read(stderr: str) -> Diagnosis:
    """The first cause that the words give, the most specific first."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not _NOISE.match(line.strip())]
    last = lines[-1] if lines else "ssh ended without a word"
    if _CHANGED_KEY.search(stderr):
        match = _OFFERED.search(stderr)
        return Diagnosis("host-key-changed", last, offered=match.group(1) if match else None)
    if _UNKNOWN_KEY.search(stderr):
        return Diagnosis("host-key-unknown", last)
    if _LEGACY.search(stderr):
        return Diagnosis("legacy-only", last)
    denied = _DENIED.search(stderr)
    if denied or _TOO_MANY.search(stderr):
        methods = tuple(denied.group(1).split(",")) if denied else ()
        loading = [line for line in lines if line.startswith(("Load key", "Bad permissions", "sign_and_send_pubkey"))]
        return Diagnosis("denied", "; ".join([*loading, denied.group(0) if denied else last]), methods=methods)
    if _FORWARDING.search(stderr):
        return Diagnosis("forwarding", " ".join(_FORWARDING.findall(stderr)))
    for line in reversed(lines):
        if _UNREACHABLE.search(line):
            return Diagnosis("unreachable", line)
    return Diagnosis("other", last)


def authentication_failed(endpoint: Endpoint, address: Address, reason: str, *, via_jump: bool = False) -> SshError:
    """The error for a refused login, with the way out that fits what was tried."""
    user = address.user or endpoint.user
    tried = what_is_tried(endpoint, jump=via_jump)
    if via_jump:
        way_out = (
            "The jump host gets the private key of the hypervisor's settings and the default keys of the user that "
            "runs this module, on the machine where it runs; where the settings have no private key, also the keys of "
            "the agent that SSH_AUTH_SOCK names there (from the controller: ForwardAgent in the "
            "ansible_ssh_common_args of that machine). Let one of them in there"
        )
    elif endpoint.password is not None:
        way_out = (
            "Check ansible_password of this host. ESXi locks an account for 15 minutes after five failures, and "
            "refuses even the right password in that time"
        )
    elif endpoint.private_key or endpoint.private_key_file:
        way_out = (
            f"Check that the public key stands in /etc/ssh/keys-{user}/authorized_keys of the hypervisor and that the "
            "passphrase is right; in FIPS mode ESXi refuses Ed25519 keys (use RSA with 3072 bits)"
        )
    else:
        way_out = (
            "Set ansible_password or ansible_ssh_private_key_file for this host, or let the default key of the user "
            f"that runs this module in (/etc/ssh/keys-{user}/authorized_keys on the hypervisor)"
        )
    return AuthenticationFailed(
        host=address.host, port=address.port, user=user, tried=tried, reason=reason, way_out=way_out
    )


def what_is_tried(endpoint: Endpoint, *, jump: bool = False) -> str:
    """The credentials in words, never in letters."""
    ways = []
    if endpoint.private_key_file:
        ways.append(f"the key in {endpoint.private_key_file}")
    elif endpoint.private_key:
        ways.append("the given key")
    if agent_for_jump(endpoint) if jump else endpoint.use_agent:
        ways.append("the keys of the agent")
    if jump:
        ways.append("the default keys of this user")
    if endpoint.password is not None and not jump:
        ways.append("the given password")
    return " and ".join(ways) or "the default keys of this user"


def no_agent(endpoint: Endpoint) -> SshError:
    return BadEndpoint(
        host=endpoint.host,
        reason="the keys of an ssh-agent are asked for, but SSH_AUTH_SOCK names none where this module runs",
        way_out=(
            "Allow agent forwarding to that machine (ForwardAgent in its ansible_ssh_common_args), or give a key. A "
            "connection that Ansible has kept open since before (ControlPersist) does not have it yet"
        ),
    )


def unreachable(address: Address, reason: str) -> SshError:
    return HostUnreachable(host=address.host, port=address.port, reason=reason)
