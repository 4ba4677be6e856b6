# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real mail server on loopback: what it gets, what it refuses, and what is never said over an open connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base import mail
from ansible_collections.stowage.esxi.plugins.module_utils.base.mail import Mail, MailNotSent, Server
from postoffice import ADDRESS, Post, certificate

PASSWORD = "s3cret of the mail"
MAIL = Mail("stowage@example.com", ("ops@example.com", "boss@example.com"), "1 alarm", "web01: too old\n")


@pytest.fixture
def post() -> Iterator[Post]:
    made = Post(PASSWORD)
    yield made
    made.stop()


def plain(post: Post) -> Server:
    return Server(ADDRESS, post.start(auth_require_tls=False), "none", timeout_seconds=10)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    return certificate(tmp_path_factory.mktemp("certificate"))


def test_a_mail_arrives_whole_at_each_address(post: Post) -> None:
    body = "ALARMS\n  esx1  Büro \U0001f4be: zu alt\n.\nend\n"
    server = plain(post)
    assert mail.send(server, Mail("stowage@example.com", ("a@example.com", "b@example.com"), "3 Älarme", body)) == []
    ((to, message),) = post.taken
    assert to == ["a@example.com", "b@example.com"] and message["Subject"] == "3 Älarme"
    assert message.get_content() == body and message["Auto-Submitted"] == "auto-generated"


def test_no_subject_adds_a_header_and_no_name_stops_a_mail(post: Post) -> None:
    mail.send(plain(post), Mail("a@example.com", ("b@example.com",), "x\r\nBcc: c@example.com\n\ny", "web\udcff\n"))
    ((to, message),) = post.taken
    assert (to, message["Bcc"], message["Subject"]) == (["b@example.com"], None, "x Bcc: c@example.com y")
    assert message.get_content() == "web?\n"


def test_an_address_that_is_refused_is_told_and_with_no_other_one_it_is_an_error(post: Post) -> None:
    server = plain(post)
    both = Mail(MAIL.sender, ("ops@example.com", "nobody@example.com"), "s", "b")
    assert mail.send(server, both) == ["nobody@example.com"] and len(post.taken) == 1
    with pytest.raises(MailNotSent, match="550 no such user"):
        mail.send(server, Mail(MAIL.sender, ("nobody@example.com",), "s", "b"))


def test_a_password_goes_over_an_encrypted_connection_only(post: Post, trusted: tuple[Path, ssl.SSLContext]) -> None:
    path, context = trusted
    server = plain(post)
    with pytest.raises(MailNotSent, match="anybody can read"):
        mail.send(Server(server.host, server.port, "none", "stowage", PASSWORD), MAIL)
    assert post.accounts == []
    port = post.start(tls_context=context)
    mail.send(Server(ADDRESS, port, "starttls", "stowage", PASSWORD, str(path)), MAIL)
    assert post.accounts == [(b"stowage", PASSWORD.encode())] and len(post.taken) == 1
    with pytest.raises(MailNotSent) as caught:
        mail.send(Server(ADDRESS, port, "starttls", "stowage", "wrong", str(path)), MAIL)
    assert "535" in caught.value.message and "wrong" not in caught.value.message
    with pytest.raises(MailNotSent, match="(?i)starttls"):
        mail.send(Server(server.host, server.port, "starttls"), MAIL)


def test_a_certificate_that_nobody_trusts_is_refused_unless_asked_for(
    post: Post, trusted: tuple[Path, ssl.SSLContext]
) -> None:
    port = post.start(tls_context=trusted[1])
    with pytest.raises(MailNotSent, match="(?i)certificate"):
        mail.send(Server(ADDRESS, port, "starttls"), MAIL)
    assert post.taken == []
    mail.send(Server(ADDRESS, port, "starttls", check=False), MAIL)
    assert len(post.taken) == 1


def test_a_server_that_is_not_there_is_named_with_the_way_out() -> None:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port = probe.getsockname()[1]
    with pytest.raises(MailNotSent, match=f"{ADDRESS}:{port}") as caught:
        mail.send(Server(ADDRESS, port, "none", timeout_seconds=5), MAIL)
    assert "refused" in caught.value.message and "report_mail_host" in caught.value.hint_text
    assert PASSWORD not in repr(Server("h", password=PASSWORD))


def test_addresses_are_taken_once_and_without_blanks() -> None:
    assert mail.recipients([" a@b ", "a@b", "", "c@d"]) == ("a@b", "c@d")
