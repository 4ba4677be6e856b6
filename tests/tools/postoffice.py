# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real mail server on loopback, which keeps what it gets, and a certificate for it."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ADDRESS = "127.0.0.1"


class Post:
    """The server: what it took, who logged in. It knows no user `nobody@example.com`."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.taken: list[tuple[list[str], EmailMessage]] = []
        self.accounts: list[tuple[bytes, bytes]] = []
        self._running: list[Controller] = []

    def start(self, **options: Any) -> int:
        """Begins to listen; returns the port."""
        with socket.socket() as probe:
            probe.bind((ADDRESS, 0))
            port: int = probe.getsockname()[1]
        made = Controller(self, hostname=ADDRESS, port=port, authenticator=self._log_in, **options)
        made.start()
        self._running.append(made)
        return port

    def stop(self) -> None:
        while self._running:
            self._running.pop().stop()

    def _log_in(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.accounts.append((data.login, data.password))
        return AuthResult(success=data.password == self.password.encode(), handled=False)

    # The names are aiosmtpd's.
    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        if address == "nobody@example.com":
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        # On the wire each line ends with CRLF.
        found = message_from_bytes(envelope.content.replace(b"\r\n", b"\n"), policy=policy.default)
        assert isinstance(found, EmailMessage)
        self.taken.append((list(envelope.rcpt_tos), found))
        return "250 OK"


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """One for the loopback address that trusts itself, and the server's side of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain, kind = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return folder / "certificate.pem", context
