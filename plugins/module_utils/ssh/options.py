# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command lines of the ssh program. Pure, and free of secrets: they can be read in any process list."""

from __future__ import annotations

import os
import shlex

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Address, Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.hostkeys import home, known_hosts_files

ALIVE_INTERVAL_SECONDS = 10
ALIVE_COUNT = 3
PERSIST_SECONDS = 60

# AES-GCM first: one core carries several times more of it than of what OpenSSH would prefer. The rest is for 6.x.
_CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr"

# For hosts with SHA-1 signatures only (ESXi 6.0), and only after they have said so.
LEGACY = ["-o", "HostKeyAlgorithms=+ssh-rsa", "-o", "PubkeyAcceptedKeyTypes=+ssh-rsa"]

NO_MASTER = "stowage: the shared connection is gone"


def escape(path: str) -> str:
    """A path as the value of an option: ssh expands percent signs, and splits at blanks outside quotes."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def basic(endpoint: Endpoint) -> list[str]:
    """What holds for every connection: nobody's configuration, no question, no forwarding, no second try."""
    settings = {
        "ConnectTimeout": str(endpoint.connect_timeout_seconds),
        "ConnectionAttempts": "1",
        "NumberOfPasswordPrompts": "1",
        "ServerAliveInterval": str(ALIVE_INTERVAL_SECONDS),
        "ServerAliveCountMax": str(ALIVE_COUNT),
        "Ciphers": _CIPHERS,
        "Compression": "no",
        "IPQoS": "throughput",
        "GSSAPIAuthentication": "no",
        "HostbasedAuthentication": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "VerifyHostKeyDNS": "no",
        "HashKnownHosts": "no",
        "EscapeChar": "none",
        "RequestTTY": "no",
    }
    return ["-F", "none", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def host_keys(endpoint: Endpoint, pin_file: str | None) -> list[str]:
    """Which host keys are accepted. ``pin_file`` holds the keys that a fingerprint was proven for."""
    if endpoint.host_key_policy == "pinned":
        files, checking = [pin_file or "/dev/null"], "yes"
    else:
        files = known_hosts_files(endpoint.known_hosts_file)
        checking = "accept-new" if endpoint.host_key_policy == "accept_new" else "yes"
    return [
        "-o",
        f"StrictHostKeyChecking={checking}",
        "-o",
        "UserKnownHostsFile=" + " ".join(escape(path) for path in files),
        "-o",
        "GlobalKnownHostsFile=/dev/null",
    ]


def any_host_key(known_hosts: str) -> list[str]:
    """To see a host's key: it is written to ``known_hosts``, and no login is tried."""
    return [
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        "UserKnownHostsFile=" + escape(known_hosts),
        "-o",
        "GlobalKnownHostsFile=/dev/null",
        "-o",
        "BatchMode=yes",
        "-o",
        "PreferredAuthentications=none",
        "-o",
        "IdentityAgent=none",
    ]


def agent_for_jump(endpoint: Endpoint) -> bool:
    """Whether the jump host is offered the agent's keys: there is an agent, and no key is given that must come first.

    The hypervisor counts failed logins and gets them only where ``use_agent`` says so; a jump host does not.
    """
    no_key = endpoint.private_key is None and endpoint.private_key_file is None
    return endpoint.use_agent or (endpoint.jump is not None and no_key and bool(os.environ.get("SSH_AUTH_SOCK")))


def identity(endpoint: Endpoint, key_file: str | None, agent: bool) -> list[str]:
    """Which keys are offered: the given one and no other; else the agent's; else the user's default ones."""
    words = ["-o", "IdentityAgent=" + ("SSH_AUTH_SOCK" if agent else "none")]
    only = "no" if agent and key_file is None else "yes"
    words += ["-o", f"IdentitiesOnly={only}"]
    if key_file is not None:
        words += ["-i", key_file.replace("%", "%%")]
    return words


def authentication(endpoint: Endpoint, key_file: str | None, password_method: str | None) -> list[str]:
    """Fixed by what was given, so that no attempt is wasted: ESXi counts them."""
    methods = []
    if key_file is not None or endpoint.use_agent or password_method is None:
        methods.append("publickey")
    if password_method is not None:
        methods.append(password_method)
    asks = password_method is not None or endpoint.passphrase is not None
    words = ["-o", "PreferredAuthentications=" + ",".join(methods), "-o", "BatchMode=" + ("no" if asks else "yes")]
    for method, option in (("publickey", "PubkeyAuthentication"), ("password", "PasswordAuthentication")):
        words += ["-o", f"{option}=" + ("yes" if method in methods else "no")]
    words += ["-o", "KbdInteractiveAuthentication=" + ("yes" if "keyboard-interactive" in methods else "no")]
    return words + identity(endpoint, key_file, endpoint.use_agent)


def proxy(program: str, endpoint: Endpoint, jump: Address, key_file: str | None, pin: list[str], log: str) -> list[str]:
    """The way through a jump host.

    Not ``-J``: it passes none of our options on, so the jump host would stand under no host key policy of ours, and
    under the user's configuration. Its words go to ``log``, since a persisting master throws them away.
    """
    words = [program, *basic(endpoint), *pin, "-o", "BatchMode=yes", "-o", "PreferredAuthentications=publickey"]
    words += identity(endpoint, key_file, agent_for_jump(endpoint))
    if key_file is not None:
        # As the jump host is seen from here, the keys of this user count there too.
        for name in ("id_rsa", "id_ecdsa", "id_ed25519"):
            path = os.path.join(home(), ".ssh", name)
            if os.path.exists(path):
                words += ["-i", path.replace("%", "%%")]
    if jump.user:
        words += ["-l", jump.user]
    # Not %h: an IPv6 address needs its brackets, and nothing here is left to a second expansion.
    words += ["-p", str(jump.port), "-W", f"[{endpoint.host}]:{endpoint.port}", "--", jump.host]
    line = " ".join(shlex.quote(word) for word in words).replace("%", "%%")
    return ["-o", f"ProxyCommand={line} 2>>{shlex.quote(log).replace('%', '%%')}"]


def target(endpoint: Endpoint) -> list[str]:
    return ["-l", endpoint.user, "-p", str(endpoint.port), "--", endpoint.host]


def client(program: str, endpoint: Endpoint, socket: str) -> list[str]:
    """A command over the shared connection, and over nothing else.

    Without its master, ssh would quietly log in by itself; the proxy command that only fails keeps it from that.
    """
    return [
        program,
        "-F",
        "none",
        "-S",
        socket.replace("%", "%%"),
        "-o",
        "ControlMaster=no",
        "-o",
        # A shell of its own: ssh puts "exec" in front, and what a bare echo writes was seen to get lost.
        f"ProxyCommand=sh -c 'echo \"{NO_MASTER}\" >&2'",
        "-o",
        "BatchMode=yes",
        "-o",
        "LogLevel=ERROR",
        "-o",
        "RequestTTY=no",
        "-o",
        "EscapeChar=none",
        *target(endpoint),
    ]
