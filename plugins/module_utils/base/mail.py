# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One mail by SMTP: plain text, to a server that the operator names."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError

SECURITY = ("none", "starttls", "tls")
PORTS = {"none": 25, "starttls": 587, "tls": 465}
_BREAK = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


class MailNotSent(StowageError):
    id = "mail-not-sent"
    template = "The mail to {to} could not be sent by {server}: {reason}"
    hint = (
        "Correct report_mail_host, report_mail_port, report_mail_security and the account; the words above are the "
        "server's own"
    )
    exit_code = 4


@dataclass(frozen=True)
class Server:
    """`security`: `starttls` and `tls` refuse a certificate that nobody here trusts, unless `check` is false."""

    host: str
    port: int = 0
    security: str = "starttls"
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    check: bool = True
    timeout_seconds: float = 60

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port or PORTS[self.security]}"


@dataclass(frozen=True)
class Mail:
    sender: str
    to: tuple[str, ...]
    subject: str
    body: str

    def message(self) -> EmailMessage:
        """A subject is one line, whatever is in it; what UTF-8 cannot say becomes a mark."""
        made = EmailMessage()
        made["From"], made["To"] = self.sender, ", ".join(self.to)
        made["Subject"] = _BREAK.sub(" ", _utf8(self.subject))
        made["Date"], made["Message-ID"] = formatdate(localtime=False), make_msgid(domain="stowage.invalid")
        # Machines wrote it: nobody's out-of-office shall answer it.
        made["Auto-Submitted"] = "auto-generated"
        made.set_content(_utf8(self.body), charset="utf-8")
        return made


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def send(server: Server, mail: Mail) -> list[str]:
    """Sends it; returns the addresses that the server refused, of which at least one other was taken."""
    try:
        with _open(server) as connection:
            if server.username:
                connection.login(server.username, server.password)
            refused = connection.send_message(mail.message())
    except smtplib.SMTPRecipientsRefused as error:
        raise MailNotSent(to=", ".join(mail.to), server=server.name, reason=_refusals(error.recipients)) from error
    except (OSError, smtplib.SMTPException, ValueError) as error:
        # The password is no part of what smtplib says.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MailNotSent(to=", ".join(mail.to), server=server.name, reason=reason or type(error).__name__) from error
    return sorted(refused)


def _refusals(refused: dict[str, tuple[int, bytes]]) -> str:
    return "; ".join(f"{to}: {code} {text.decode('utf-8', 'replace')}" for to, (code, text) in sorted(refused.items()))


def _open(server: Server) -> smtplib.SMTP:
    port, seconds = server.port or PORTS[server.security], server.timeout_seconds
    if server.security == "tls":
        return smtplib.SMTP_SSL(server.host, port, timeout=seconds, context=_context(server))
    connection = smtplib.SMTP(server.host, port, timeout=seconds)
    try:
        if server.security == "starttls":
            connection.starttls(context=_context(server))
            connection.ehlo()
        elif server.username:
            raise smtplib.SMTPException("a password is not sent over a connection that anybody can read")
    except BaseException:
        connection.close()
        raise
    return connection


def _context(server: Server) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=server.ca_file or None)
    if not server.check:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def recipients(given: Sequence[str]) -> tuple[str, ...]:
    """The addresses without blanks and doubles, in their order."""
    return tuple(dict.fromkeys(one.strip() for one in given if one.strip()))
