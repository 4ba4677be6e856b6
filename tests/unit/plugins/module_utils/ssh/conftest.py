# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real sshd on a loopback address, as strict as ESXi's: started and ended by the test that wants it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
PASSWORD = "corréct 'horse\" $(battery) %h staple"
NO_SSHD = not os.path.exists(SSHD)
# A password login needs PAM with a passwd and a shadow file of our own: a mount namespace, made by root.
NO_PAM = NO_SSHD or os.geteuid() != 0 or shutil.which("bwrap") is None

PAM = """auth required pam_unix.so nodelay
account required pam_permit.so
session required pam_permit.so
"""


class Sshd:
    """One server. ``log`` holds what it says about logins."""

    def __init__(self, folder: Path, address: str, extra: str, password: bool) -> None:
        self.folder = folder
        self.address = address
        self.password = password
        self.user = "root" if password else getpass.getuser()
        with socket.socket() as probe:
            probe.bind((address, 0))
            self.port = probe.getsockname()[1]
        for kind in ("rsa", "ecdsa", "ed25519"):
            self._keygen(kind, folder / f"host_{kind}")
        self._keygen("ecdsa", folder / "user_key")
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        # The shell's start files of whoever runs the tests say and do things of their own.
        home = folder / "home"
        home.mkdir()
        self.log_path = folder / "log"
        (folder / "sshd_config").write_text(
            f"""ListenAddress {address}:{self.port}
HostKey {folder}/host_rsa
HostKey {folder}/host_ecdsa
HostKey {folder}/host_ed25519
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM {"yes" if password else "no"}
PermitRootLogin yes
PasswordAuthentication no
LogLevel VERBOSE
SetEnv HOME={home}
{extra}
"""
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def user_key(self) -> str:
        return str(self.folder / "user_key")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def public(self, kind: str) -> str:
        return " ".join((self.folder / f"host_{kind}.pub").read_text().split()[:2])

    def fingerprint(self, kind: str) -> str:
        words = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(self.folder / f"host_{kind}.pub")],
            capture_output=True,
            text=True,
            check=True,
        )
        return words.stdout.split()[1]

    def known_hosts(self, kind: str = "ecdsa") -> str:
        path = self.folder / f"known_hosts_{kind}"
        path.write_text(f"[{self.address}]:{self.port} {self.public(kind)}\n")
        return str(path)

    def start(self) -> None:
        words = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        if self.password:
            words = [*self._namespace(), *words]
        elif os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        before = self.log.count("Server listening") if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(200):
            if self._process.poll() is not None:
                raise AssertionError(f"sshd ended: {self.log}")
            if self.log.count("Server listening") > before:
                return
            time.sleep(0.05)
        raise AssertionError(f"sshd does not listen: {self.log}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def cut(self) -> None:
        """Ends the server's side of all connections, as a power cut would (the kernel tells the client)."""
        assert self._process is not None
        for pid in _descendants(self._process.pid):
            name = Path(f"/proc/{pid}/cmdline").read_bytes() if Path(f"/proc/{pid}").exists() else b""
            if name.startswith(b"sshd: ") and b"listener" not in name:
                os.kill(pid, 9)

    def _keygen(self, kind: str, path: Path) -> None:
        bits = ["-b", "3072"] if kind == "rsa" else []
        subprocess.run(["ssh-keygen", "-q", "-t", kind, *bits, "-N", "", "-C", "", "-f", str(path)], check=True)

    def _namespace(self) -> list[str]:
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD.encode(), capture_output=True, check=True
        ).stdout.decode()
        (self.folder / "passwd").write_text(
            f"root:x:0:0::{self.folder}:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        )
        (self.folder / "shadow").write_text(f"root:{hashed.strip()}:19000:0:99999:7:::\nsshd:!:19000::::::\n")
        (self.folder / "pam").write_text(PAM)
        binds = [("passwd", "/etc/passwd"), ("shadow", "/etc/shadow"), ("pam", "/etc/pam.d/sshd")]
        words = ["bwrap", "--die-with-parent", "--bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc"]
        for name, place in binds:
            words += ["--ro-bind", str(self.folder / name), place]
        return [*words, "--tmpfs", "/run", "--dir", "/run/sshd"]


def _descendants(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == pid:
                found += [int(entry.name), *_descendants(int(entry.name))]
    return found


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every test has its own shared connections, and ends them."""
    import tempfile

    folder = tempfile.mkdtemp(prefix="sw-", dir="/tmp")
    monkeypatch.setenv("STOWAGE_RUNTIME_DIR", folder)
    yield folder
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not os.path.isfile(path) and not os.path.isdir(path):
            subprocess.run(["ssh", "-F", "none", "-S", path, "-O", "exit", "x"], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def make_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    if NO_SSHD:
        pytest.skip("no sshd on this machine")
    servers: list[Sshd] = []

    def make(address: str = "127.0.0.31", extra: str = "", password: bool = False) -> Sshd:
        if password and NO_PAM:
            pytest.skip("a password login needs root, bwrap and PAM")
        servers.append(Sshd(tmp_path_factory.mktemp("sshd"), address, extra, password))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def sshd(make_sshd: Callable[..., Sshd]) -> Sshd:
    """Key logins only."""
    return make_sshd()


@pytest.fixture(scope="session")
def password_sshd(make_sshd: Callable[..., Sshd]) -> Sshd:
    """ESXi's way: keyboard-interactive through PAM, never the method "password"."""
    return make_sshd("127.0.0.32", "KbdInteractiveAuthentication yes\nMaxSessions 10", password=True)


@pytest.fixture(scope="session")
def password() -> str:
    return PASSWORD
