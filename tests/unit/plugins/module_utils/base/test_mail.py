# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real mail server on loopback: what it gets, what it refuses, and what is never said over an open connection."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from ansible_collections.stowage.esxi.plugins.module_utils.base import mail
from ansible_collections.stowage.esxi.plugins.module_utils.base.mail import Mail, MailNotSent, Server
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASSWORD = "s3cret of the mail"
MAIL = Mail("stowage@example.com", ("ops@example.com", "boss@example.com"), "1 alarm", "web01: too old\n")


class Box:
    """What the server took. `refuses`: an address that it does not know."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[str], EmailMessage]] = []
        self.accounts: list[tuple[bytes, bytes]] = []
        self.refuses = "nobody@example.com"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        if address == self.refuses:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        # On the wire each line ends with CRLF.
        found = message_from_bytes(envelope.content.replace(b"\r\n", b"\n"), policy=policy.default)
        assert isinstance(found, EmailMessage)
        self.taken.append((list(envelope.rcpt_tos), found))
        return "250 OK"

    def log_in(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.accounts.append((data.login, data.password))
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def served(box: Box) -> Iterator[Callable[..., Server]]:
    """Starts the server, and says how it is reached."""
    running: list[Controller] = []

    def start(**options: Any) -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        running.append(Controller(box, hostname="127.0.0.1", port=port, authenticator=box.log_in, **options))
        running[-1].start()
        return Server("127.0.0.1", port, "none", timeout_seconds=10)

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that trusts itself, and the server's side of it."""
    folder = tmp_path_factory.mktemp("certificate")
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
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    text = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(made.public_bytes(text))
    plain = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(text, plain, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return folder / "certificate.pem", context


def test_a_mail_arrives_whole_at_each_address(served: Callable[..., Server], box: Box) -> None:
    body = "ALARMS\n  esx1  Büro \U0001f4be: zu alt\n.\nend\n"
    server = served()
    assert mail.send(server, Mail("stowage@example.com", ("a@example.com", "b@example.com"), "3 Älarme", body)) == []
    ((to, message),) = box.taken
    assert to == ["a@example.com", "b@example.com"] and message["Subject"] == "3 Älarme"
    assert message.get_content() == body and message["Auto-Submitted"] == "auto-generated"


def test_no_subject_adds_a_header_and_no_name_stops_a_mail(served: Callable[..., Server], box: Box) -> None:
    mail.send(served(), Mail("a@example.com", ("b@example.com",), "x\r\nBcc: c@example.com\n\ny", "web\udcff\n"))
    ((to, message),) = box.taken
    assert (to, message["Bcc"], message["Subject"]) == (["b@example.com"], None, "x Bcc: c@example.com y")
    assert message.get_content() == "web?\n"


def test_an_address_that_is_refused_is_told_and_with_no_other_one_it_is_an_error(
    served: Callable[..., Server], box: Box
) -> None:
    server = served()
    both = Mail(MAIL.sender, ("ops@example.com", "nobody@example.com"), "s", "b")
    assert mail.send(server, both) == ["nobody@example.com"] and len(box.taken) == 1
    with pytest.raises(MailNotSent, match="550 no such user"):
        mail.send(server, Mail(MAIL.sender, ("nobody@example.com",), "s", "b"))


def test_a_password_goes_over_an_encrypted_connection_only(
    served: Callable[..., Server], box: Box, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    path, context = certificate
    plain = served(auth_require_tls=False)
    with pytest.raises(MailNotSent, match="anybody can read"):
        mail.send(Server(plain.host, plain.port, "none", "stowage", PASSWORD), MAIL)
    assert box.accounts == []
    port = served(tls_context=context).port
    mail.send(Server("127.0.0.1", port, "starttls", "stowage", PASSWORD, str(path)), MAIL)
    assert box.accounts == [(b"stowage", PASSWORD.encode())] and len(box.taken) == 1
    with pytest.raises(MailNotSent) as caught:
        mail.send(Server("127.0.0.1", port, "starttls", "stowage", "wrong", str(path)), MAIL)
    assert "535" in caught.value.message and "wrong" not in caught.value.message
    with pytest.raises(MailNotSent, match="(?i)starttls"):
        mail.send(Server(plain.host, plain.port, "starttls"), MAIL)


def test_a_certificate_that_nobody_trusts_is_refused_unless_asked_for(
    served: Callable[..., Server], box: Box, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    port = served(tls_context=certificate[1]).port
    with pytest.raises(MailNotSent, match="(?i)certificate"):
        mail.send(Server("127.0.0.1", port, "starttls"), MAIL)
    assert box.taken == []
    mail.send(Server("127.0.0.1", port, "starttls", check=False), MAIL)
    assert len(box.taken) == 1


def test_a_server_that_is_not_there_is_named_with_the_way_out() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(MailNotSent, match=f"127.0.0.1:{port}") as caught:
        mail.send(Server("127.0.0.1", port, "none", timeout_seconds=5), MAIL)
    assert "refused" in caught.value.message and "report_mail_host" in caught.value.hint_text
    assert PASSWORD not in repr(Server("h", password=PASSWORD))


def test_addresses_are_taken_once_and_without_blanks() -> None:
    assert mail.recipients([" a@b ", "a@b", "", "c@d"]) == ("a@b", "c@d")
