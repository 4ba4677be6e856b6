# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting with paramiko: the same host key policies, and one attempt per credential."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ansible_collections.stowage.esxi.plugins.module_utils.base import imports
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import diagnose, hostkeys, options, runtime
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Address, Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import BadEndpoint, SshError

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_AUTH_SECONDS = 30


@dataclass
class Login:
    """An authenticated transport, and the one to the jump host that carries it."""

    transport: Any
    below: Login | None = None

    def close(self) -> None:
        self.transport.close()
        if self.below is not None:
            self.below.close()


def library() -> Any:
    return imports.load("paramiko", purpose="an SSH connection without the program ssh")


def login(endpoint: Endpoint) -> Login:
    """Connects and logs in; every failure is one of ``ssh.errors``."""
    if endpoint.use_agent and "SSH_AUTH_SOCK" not in os.environ:
        raise diagnose.no_agent(endpoint)
    jump = endpoint.jump_address
    if jump is None:
        transport = _proven_transport(endpoint, endpoint.address, None, jump=False)
        return Login(_closing(transport, lambda: _authenticate(transport, endpoint, endpoint.address, jump=False)))
    below_transport = _proven_transport(endpoint, jump, None, jump=True)
    below = Login(_closing(below_transport, lambda: _authenticate(below_transport, endpoint, jump, jump=True)))
    try:
        transport = _proven_transport(endpoint, endpoint.address, below, jump=False)
        _closing(transport, lambda: _authenticate(transport, endpoint, endpoint.address, jump=False))
    except BaseException:
        below.close()
        raise
    return Login(transport, below)


def _closing(transport: Any, act: Any) -> Any:
    try:
        act()
    except BaseException:
        transport.close()
        raise
    return transport


# The connection and its host key


def _proven_transport(endpoint: Endpoint, address: Address, below: Login | None, *, jump: bool) -> Any:
    """A transport after the key exchange, its host key accepted by the policy; nobody is logged in yet."""
    if endpoint.host_key_policy == "pinned":
        return _pinned_transport(endpoint, address, below, jump=jump)
    store = _known_hosts(endpoint)
    known = dict(store.lookup(address.known_hosts_name) or {})
    # Ask for a key that is known, as OpenSSH does: a host has several, and any other would look unknown.
    transport = _exchange_keys(endpoint, address, below, _families_of(known) or None)
    offered = _offered(transport)
    if offered.kind in known and known[offered.kind].get_base64() == offered.base64:
        return transport
    files = hostkeys.known_hosts_files(endpoint.known_hosts_file)
    where = " and ".join(files[:1] if endpoint.known_hosts_file else [files[0], files[2]])
    if known:
        transport.close()
        raise hostkeys.mismatch(address, str(offered), f"the key of that host in {where}", jump=jump)
    if endpoint.host_key_policy != "accept_new":
        transport.close()
        raise hostkeys.unknown(address, offered, where, jump=jump)
    _closing(transport, lambda: _store(files[0], offered.line(address)))
    return transport


def _pinned_transport(endpoint: Endpoint, address: Address, below: Login | None, *, jump: bool) -> Any:
    pins = endpoint.jump_host_key_fingerprints if jump else endpoint.host_key_fingerprints
    seen: list[hostkeys.HostKey] = []
    for family in (None, *(family.split(",") for family in hostkeys.FAMILIES)):
        try:
            transport = _exchange_keys(endpoint, address, below, family)
        except _NoSuchKey:
            continue
        offered = _offered(transport)
        if hostkeys.is_pinned(offered, pins):
            return transport
        transport.close()
        if offered not in seen:
            seen.append(offered)
    raise hostkeys.mismatch(address, " and ".join(map(str, seen)), " or ".join(pins), jump=jump)


class _NoSuchKey(Exception):
    """The host has no key of the family that was asked for."""


def _exchange_keys(endpoint: Endpoint, address: Address, below: Login | None, families: list[str] | None) -> Any:
    paramiko = library()
    stream = _stream(endpoint, address, below)
    transport = None
    try:
        transport = paramiko.Transport(stream)
        transport.banner_timeout = transport.handshake_timeout = float(endpoint.connect_timeout_seconds)
        options = transport.get_security_options()
        options.ciphers = tuple(name for name in _CIPHERS if name in options.ciphers)
        if families is not None:
            wanted = tuple(name for name in options.key_types if name in families)
            if not wanted:
                raise _NoSuchKey
            options.key_types = wanted
        transport.start_client(timeout=float(endpoint.connect_timeout_seconds))
        # It returns without a word when the time is up.
        if not transport.initial_kex_done:
            raise TimeoutError(f"no answer within {endpoint.connect_timeout_seconds} seconds")
        return transport
    except BaseException as error:
        (transport or stream).close()
        if isinstance(error, paramiko.SSHException) and families is not None and _is_no_match(error):
            raise _NoSuchKey from None
        if isinstance(error, (paramiko.SSHException, OSError, EOFError)):
            raise diagnose.unreachable(address, str(error) or type(error).__name__) from error
        raise


def _is_no_match(error: Exception) -> bool:
    return "host key" in str(error).lower() or "incompatible ssh peer" in str(error).lower()


def _stream(endpoint: Endpoint, address: Address, below: Login | None) -> Any:
    limit = float(endpoint.connect_timeout_seconds)
    if below is None:
        try:
            return socket.create_connection((address.host, address.port), timeout=limit)
        except OSError as error:
            raise diagnose.unreachable(
                address, f"{address.host}: {getattr(error, 'strerror', None) or error or 'no answer in time'}"
            ) from error
    try:
        return below.transport.open_channel(
            "direct-tcpip", (address.host, address.port), ("127.0.0.1", 0), timeout=limit
        )
    except (library().SSHException, OSError, EOFError) as error:
        raise diagnose.unreachable(
            address, f"the jump host {endpoint.jump_address} lets nothing through ({error})"
        ) from error


def _offered(transport: Any) -> hostkeys.HostKey:
    key = transport.get_remote_server_key()
    return hostkeys.HostKey(key.get_name(), key.get_base64())


def _families_of(known: dict[str, Any]) -> list[str]:
    kinds = list(known)
    return kinds + (["rsa-sha2-512", "rsa-sha2-256"] if "ssh-rsa" in kinds else [])


def _known_hosts(endpoint: Endpoint) -> Any:
    store = library().HostKeys()
    for path in hostkeys.known_hosts_files(endpoint.known_hosts_file):
        with contextlib.suppress(FileNotFoundError):
            store.load(path)
    return store


def _store(path: str, line: str) -> None:
    hostkeys.make_room_for(path)
    lock = runtime.lock_file(os.path.join(runtime.folder(), "known_hosts.lock"), 30, SystemClock())
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
    finally:
        if lock is not None:
            os.close(lock)


# The login


def _authenticate(transport: Any, endpoint: Endpoint, address: Address, *, jump: bool) -> None:
    paramiko = library()
    user = address.user or endpoint.user
    transport.auth_timeout = float(_AUTH_SECONDS)
    methods: list[str] = []
    try:
        # "none" costs no attempt, and its refusal lists the methods: no credential is sent the wrong way.
        transport.auth_none(user)
        return
    except paramiko.BadAuthenticationType as refusal:
        methods = list(refusal.allowed_types)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise diagnose.unreachable(address, str(error) or type(error).__name__) from error
    reason = f"Permission denied ({','.join(methods)})"
    try:
        for key in _keys(endpoint, jump=jump) if "publickey" in methods else []:
            with contextlib.suppress(paramiko.AuthenticationException):
                transport.auth_publickey(user, key)
            if transport.is_authenticated():
                return
        if endpoint.password is not None and not jump:
            if "keyboard-interactive" in methods:
                transport.auth_interactive(user, _answer_once(endpoint.password))
            elif "password" in methods:
                transport.auth_password(user, endpoint.password, fallback=False)
            if transport.is_authenticated():
                return
    except paramiko.AuthenticationException as error:
        reason = f"{reason}: {error}"
    except (paramiko.SSHException, OSError, EOFError) as error:
        reason = f"{reason}: {str(error) or type(error).__name__}"
    raise diagnose.authentication_failed(endpoint, address, reason, via_jump=jump)


def _answer_once(password: str) -> Any:
    given: list[bool] = []

    def answer(title: str, instructions: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
        if not prompts:
            return []
        if given or len(prompts) != 1:
            # A second question is a refusal: an answer would be a second failed login.
            raise library().AuthenticationException("the server asked for more than the password")
        given.append(True)
        return [password]

    return answer


def _keys(endpoint: Endpoint, *, jump: bool) -> list[Any]:
    """The keys to offer, in order: the given one, else the agent's, else the default ones of this user."""
    paramiko = library()
    if endpoint.private_key is not None:
        keys = [_load(endpoint, endpoint.private_key.strip() + "\n", "the given key")]
    elif endpoint.private_key_file is not None:
        path = os.path.expanduser(endpoint.private_key_file)
        try:
            with open(path, encoding="utf-8") as file:
                keys = [_load(endpoint, file.read(), f"the key in {path}")]
        except (OSError, UnicodeDecodeError) as error:
            raise BadEndpoint(
                host=endpoint.host,
                reason=f"the private key file {path} cannot be read on the machine where this module runs",
                way_out="Name a file of that machine, or give the key through ansible_ssh_private_key_file",
            ) from error
    else:
        agent = options.agent_for_jump(endpoint) if jump else endpoint.use_agent
        keys = list(paramiko.Agent().get_keys()) if agent else []
        if endpoint.password is None or jump:
            keys += _default_keys()
        return keys
    return keys + (_default_keys() if jump else [])


def _default_keys() -> list[Any]:
    keys = []
    for name in ("id_rsa", "id_ecdsa", "id_ed25519"):
        path = os.path.join(hostkeys.home(), ".ssh", name)
        # One that needs a passphrase, or is of no known type, is not for us.
        with contextlib.suppress(SshError, OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
            keys.append(_load(None, file.read(), path))
    return keys


def _load(endpoint: Endpoint | None, text: str, what: str) -> Any:
    """The key as paramiko wants it, read by the library below it.

    paramiko's own reader takes an ECDSA key without comment for an empty one whenever its length needs no padding.
    """
    paramiko = library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    passphrase = endpoint.passphrase if endpoint is not None else None
    load = serialization.load_ssh_private_key if "OPENSSH" in text else serialization.load_pem_private_key
    try:
        key = load(text.encode("utf-8"), passphrase.encode("utf-8") if passphrase is not None else None)
    except TypeError:
        # It says so when a passphrase is missing, and when one is given for a key that has none.
        if endpoint is not None and passphrase is not None:
            return _load(replace(endpoint, passphrase=None), text, what)
        return _unusable(endpoint, what, "it needs a passphrase")
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = "the passphrase is wrong, or the key is damaged" if passphrase is not None else "it is no private key"
        return _unusable(endpoint, what, f"{reason} ({type(error).__name__})")
    traditional, openssh = serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.OpenSSH
    for ours, theirs, style in (
        (paramiko.RSAKey, rsa.RSAPrivateKey, traditional),
        (paramiko.ECDSAKey, ec.EllipticCurvePrivateKey, traditional),
        (paramiko.Ed25519Key, ed25519.Ed25519PrivateKey, openssh),
    ):
        if isinstance(key, theirs):
            data = key.private_bytes(serialization.Encoding.PEM, style, serialization.NoEncryption())
            return ours.from_private_key(io.StringIO(data.decode("ascii")))
    return _unusable(endpoint, what, "keys of its type are not supported")


def _unusable(endpoint: Endpoint | None, what: str, reason: str) -> NoReturn:
    if endpoint is None:
        raise SshError(host="(any)", port=0, reason=f"{what} cannot be used: {reason}")
    raise diagnose.authentication_failed(endpoint, endpoint.address, f"{what} cannot be used: {reason}")
