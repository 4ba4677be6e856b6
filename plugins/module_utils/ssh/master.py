# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared connection: one authenticated OpenSSH master per endpoint, for all processes of this user."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import askpass, diagnose, hostkeys, options, runtime
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Address, Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import BadEndpoint, HostBusy, SshError

# A refused password is not sent again by anybody for so long: twenty modules of one play would lock the account.
REFUSED_SECONDS = 60

# For a login after the key exchange, which the connect timeout covers.
_LOGIN_SECONDS = 30
_MOST_WORDS = 1 << 20


class Master:
    """One master of one endpoint. Slots above 0 exist for hosts whose sessions per connection are used up."""

    def __init__(self, endpoint: Endpoint, program: str, slot: int | str = 0) -> None:
        self.endpoint = endpoint
        self.program = program
        # Everything that decides who talks to whom is in the name, secrets included (it is keyed): a connection is
        # never shared with somebody who could not have made it.
        self._name = runtime.name_of("master", [getattr(endpoint, field) for field in _IDENTITY], slot)
        self._folder = runtime.folder()
        self.socket = os.path.join(self._folder, self._name)
        self.refused = f"{self.socket}.refused"

    def ensure(self) -> str:
        """The path of a living control socket; connects if there is none. Exactly one process connects."""
        if self.alive():
            return self.socket
        limit = 2.0 * (self.endpoint.connect_timeout_seconds + _LOGIN_SECONDS)
        lock = runtime.lock_file(f"{self.socket}.lock", limit, SystemClock())
        if lock is None:
            raise HostBusy(host=self.endpoint.host, port=self.endpoint.port, seconds=limit)
        try:
            if not self.alive():
                self.start()
        finally:
            os.close(lock)
        return self.socket

    def alive(self) -> bool:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            probe.settimeout(5)
            try:
                probe.connect(self.socket)
            except OSError:
                return False
            return True

    def stop(self) -> None:
        """Ends the shared connection for everybody."""
        subprocess.run(  # pylint: disable=ansible-bad-function  # no AnsibleModule in this room
            [self.program, "-F", "none", "-S", self.socket, "-O", "exit", "--", self.endpoint.host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )

    def start(self) -> None:
        """Connects, unguarded: see ``ensure``."""
        self._refuse_to_repeat()
        if self.endpoint.host_key_policy == "accept_new":
            hostkeys.make_room_for(hostkeys.known_hosts_files(self.endpoint.known_hosts_file)[0])
        if self.endpoint.use_agent and "SSH_AUTH_SOCK" not in os.environ:
            raise diagnose.no_agent(self.endpoint)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        with _key_file(self.endpoint, self._folder) as key_file:
            method = None if self.endpoint.password is None else "keyboard-interactive"
            # Each of these can be the reason for one more try, and none of them costs a failed login.
            legacy = refetched = False
            while True:
                text, jump_text, asked = self._connect(key_file, method, legacy)
                if text is None:
                    return
                found = diagnose.read(text)
                jump_found = diagnose.read(jump_text) if jump_text.strip() else None
                kinds = {found.kind} | ({jump_found.kind} if jump_found else set())
                if "legacy-only" in kinds and not legacy:
                    legacy = True
                    continue
                wrong_key = bool(kinds & {"host-key-unknown", "host-key-changed"})
                if wrong_key and self.endpoint.host_key_policy == "pinned" and not refetched:
                    refetched = True
                    self._forget_pins()
                    continue
                if (
                    found.kind == "denied"
                    and method == "keyboard-interactive"
                    and not asked
                    and "password" in found.methods
                    and "keyboard-interactive" not in found.methods
                ):
                    method = "password"
                    continue
                raise self._error(found, jump_found, asked)

    def _connect(self, key_file: str | None, method: str | None, legacy: bool) -> tuple[str | None, str, bool]:
        """One try. The words of ssh (``None`` when it worked), those of the way through the jump host, asked or not."""
        endpoint = self.endpoint
        with _log(self._folder) as jump_log:
            through = self.through_jump(key_file, jump_log, legacy)
            pin = self._pin_file(endpoint.address, through, jump=False)
            words = [self.program, *options.basic(endpoint), *through, *options.host_keys(endpoint, pin)]
            words += options.authentication(endpoint, key_file, method)
            words += options.LEGACY if legacy else []
            words += ["-M", "-N", "-S", self.socket.replace("%", "%%")]
            words += ["-o", f"ControlPersist={options.PERSIST_SECONDS}", *options.target(endpoint)]
            if method is None and endpoint.passphrase is None:
                rc, text = run_ssh(words, endpoint, {})
                asked = False
            else:
                password = endpoint.password if method is not None else None
                with askpass.offer(password=password, passphrase=endpoint.passphrase) as answers:
                    rc, text = run_ssh(words, endpoint, answers.environment)
                    asked = answers.asked("password")
            return (None if rc == 0 else text), _read(jump_log), asked

    def through_jump(self, key_file: str | None, log: str, legacy: bool = False) -> list[str]:
        jump = self.endpoint.jump_address
        if jump is None:
            return []
        pin = options.host_keys(self.endpoint, self._pin_file(jump, [], jump=True))
        return options.proxy(self.program, self.endpoint, jump, key_file, pin + (options.LEGACY if legacy else []), log)

    # Pinned host keys

    def _pins(self, *, jump: bool) -> tuple[str, ...]:
        return self.endpoint.jump_host_key_fingerprints if jump else self.endpoint.host_key_fingerprints

    def _pin_path(self, address: Address, *, jump: bool) -> str:
        return os.path.join(
            self._folder, runtime.name_of("pin", address.host, address.port, self._pins(jump=jump)) + ".pin"
        )

    def _pin_file(self, address: Address, through: list[str], *, jump: bool) -> str | None:
        """A known_hosts file with the key that a pinned fingerprint was proven for; it is fetched if need be."""
        if self.endpoint.host_key_policy != "pinned":
            return None
        path = self._pin_path(address, jump=jump)
        if os.path.exists(path):
            return path
        offered: list[hostkeys.HostKey] = []
        for family in (None, *hostkeys.FAMILIES):
            key = self.offered_key(address, through, family)
            if key is None:
                continue
            if hostkeys.is_pinned(key, self._pins(jump=jump)):
                durable.write_text(path, key.line(address))
                return path
            if key not in offered:
                offered.append(key)
        raise hostkeys.mismatch(address, " and ".join(map(str, offered)), " or ".join(self._pins(jump=jump)), jump=jump)

    def _forget_pins(self) -> None:
        for address, jump in ((self.endpoint.address, False), (self.endpoint.jump_address, True)):
            if address is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._pin_path(address, jump=jump))

    def offered_key(self, address: Address, through: list[str], family: str | None = None) -> hostkeys.HostKey | None:
        """The key that the machine shows; no login is tried. ``None``: it has none of that family."""
        with _log(self._folder) as store:
            words = [self.program, *options.basic(self.endpoint), *through, *options.any_host_key(store)]
            if family is not None:
                words += ["-o", f"HostKeyAlgorithms={family}"]
            else:
                words += options.LEGACY[:2]
            user = address.user or self.endpoint.user
            dummy, text = run_ssh(
                [*words, "-l", user, "-p", str(address.port), "--", address.host, "true"], self.endpoint, {}
            )
            keys = hostkeys.parse_known_hosts(_read(store))
        if keys:
            return keys[0]
        if family is not None and "no matching host key type" in text:
            return None
        found = diagnose.read(text)
        raise diagnose.unreachable(address, found.reason)

    # Errors

    def _error(self, found: diagnose.Diagnosis, jump_found: diagnose.Diagnosis | None, asked: bool) -> SshError:
        endpoint = self.endpoint
        jump = endpoint.jump_address
        if jump is not None and jump_found is not None:
            if jump_found.kind == "forwarding":
                return diagnose.unreachable(
                    endpoint.address, f"the jump host {jump} lets nothing through ({jump_found.reason})"
                )
            if jump_found.kind != "other":
                return self._error_at(jump, jump_found, jump=True)
        error = self._error_at(endpoint.address, found, jump=False)
        if found.kind == "denied" and asked:
            self._remember_refusal(found.reason)
        return error

    def _error_at(self, address: Address, found: diagnose.Diagnosis, *, jump: bool) -> SshError:
        endpoint = self.endpoint
        if found.kind == "denied":
            return diagnose.authentication_failed(endpoint, address, found.reason, via_jump=jump)
        if found.kind.startswith("host-key"):
            offered = None
            # The refusal itself does not show the key, and the operator must be able to compare it.
            with contextlib.suppress(SshError), _log(self._folder) as log:
                offered = self.offered_key(address, [] if jump else self.through_jump(endpoint.private_key_file, log))
            files = hostkeys.known_hosts_files(endpoint.known_hosts_file)
            where = " and ".join(files[:1] if endpoint.known_hosts_file else [files[0], files[2]])
            if found.kind == "host-key-unknown":
                return hostkeys.unknown(address, offered, where, jump=jump)
            return hostkeys.mismatch(
                address,
                str(found.offered or offered or "another key"),
                " or ".join(self._pins(jump=jump)) or f"the key of that host in {where}",
                jump=jump,
            )
        if found.kind in ("unreachable", "forwarding", "legacy-only"):
            return diagnose.unreachable(address, found.reason)
        return SshError(host=address.host, port=address.port, reason=found.reason)

    def _remember_refusal(self, reason: str) -> None:
        durable.write_json(self.refused, {"at": time.time(), "reason": reason}, sync=False)

    def _refuse_to_repeat(self) -> None:
        if self.endpoint.password is None:
            return
        try:
            refused = durable.read_json(self.refused)
            age = time.time() - refused["at"]
        except (OSError, StowageError, TypeError, KeyError):
            # It is not written durably: what a power cut left of it proves nothing.
            return
        if 0 <= age < REFUSED_SECONDS:
            raise diagnose.authentication_failed(
                self.endpoint,
                self.endpoint.address,
                f"{refused['reason']} {age:.0f} seconds ago; the same password is not sent again within "
                f"{REFUSED_SECONDS} seconds",
            )


_IDENTITY = (
    "host",
    "port",
    "user",
    "password",
    "private_key_file",
    "private_key",
    "passphrase",
    "jump",
    "host_key_policy",
    "host_key_fingerprints",
    "jump_host_key_fingerprints",
    "known_hosts_file",
    "use_agent",
)


def environment(endpoint: Endpoint) -> dict[str, str]:
    """What ssh gets to see: a master outlives its task, so nothing of the task's environment stays with it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR") if name in os.environ}
    kept["LC_ALL"] = "C"
    if options.agent_for_jump(endpoint) and "SSH_AUTH_SOCK" in os.environ:
        kept["SSH_AUTH_SOCK"] = os.environ["SSH_AUTH_SOCK"]
    return kept


def run_ssh(words: list[str], endpoint: Endpoint, extra: dict[str, str]) -> tuple[int, str]:
    """Runs ssh to its end, in a session of its own; its exit code and its words. Never longer than login may take.

    Its words go to a file: a master that stays in the background would keep a pipe open.
    """
    limit = endpoint.connect_timeout_seconds * (2 if endpoint.jump else 1) + _LOGIN_SECONDS
    with tempfile.TemporaryFile() as words_file:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # no AnsibleModule in this room
            words,
            stdin=subprocess.DEVNULL,
            stdout=words_file,
            stderr=words_file,
            cwd="/",
            env={**environment(endpoint), **extra},
            start_new_session=True,
        )
        try:
            rc = process.wait(limit)
        except BaseException as error:
            # The proxy command belongs to the same group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return 255, f"Connection timed out: no login within {limit} seconds"
        return rc, _tail(words_file)


@contextlib.contextmanager
def _key_file(endpoint: Endpoint, folder: str) -> Iterator[str | None]:
    """The private key as a file: the named one, or the given text for as long as the connection is made."""
    if endpoint.private_key_file is not None:
        path = os.path.expanduser(endpoint.private_key_file)
        if not os.access(path, os.R_OK):
            raise BadEndpoint(
                host=endpoint.host,
                reason=f"the private key file {path} cannot be read on the machine where this module runs",
                way_out="Name a file of that machine, or give the key through ansible_ssh_private_key_file",
            )
        yield path
        return
    if endpoint.private_key is None:
        yield None
        return
    path = os.path.join(folder, f"key-{secrets.token_hex(8)}")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii", errors="replace") as file:
            file.write(endpoint.private_key.strip() + "\n")
        yield path
    finally:
        os.unlink(path)


@contextlib.contextmanager
def _log(folder: str) -> Iterator[str]:
    """An empty file for the words, or the keys, that ssh writes to a name."""
    handle, path = tempfile.mkstemp(prefix="log-", dir=folder)
    os.close(handle)
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return _tail(file)


def _tail(file: IO[bytes]) -> str:
    """The end of what ssh said, where its own words are: before it a server may have sent a banner of any length."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MOST_WORDS))
    return file.read(_MOST_WORDS).decode("utf-8", "replace")
