# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A line to an HTTP server that fails on demand: it stands between a real client and a real server."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""
BROKEN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>InternalError</Code><Message>We encountered an internal error. Please try again.</Message></Error>"""
CONFLICT = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>ConditionalRequestConflict</Code><Message>The conditional request cannot succeed due to a conflicting
operation against this resource.</Message></Error>"""

_REFUSALS = {"slow-down": (503, SLOW_DOWN), "error": (500, BROKEN), "conflict": (409, CONFLICT)}

#: What can happen to any request. `lost`: the server has done it, and its answer is thrown away. To a put also a
#: `conflict`, with what another client does to that name.
FAULTS = ("slow-down", "error", "silence", "refused", "cut-upload", "cut-answer", "lost")


@dataclass
class Line:
    """`endpoint` is the client's address. `plan` says what happens to the request of this number, method and path."""

    endpoint: str
    plan: Callable[[int, str, str], str | None] = lambda _number, _method, _path: None
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path, and what happened."""
    silence_seconds: float = 5.0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> str | None:
        with self._guard:
            what = self.plan(len(self.seen), method, path)
            self.seen.append((method, path, what))
        return what


@contextlib.contextmanager
def between(server: str) -> Iterator[Line]:
    """A line to the server at this endpoint, on a loopback address."""
    target = urlsplit(server).netloc
    line = Line("")

    class Handler(_Handler):
        pass

    Handler.line, Handler.target = line, target
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    line.endpoint = f"http://127.0.0.1:{listening.server_address[1]}"
    serving = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    try:
        yield line
    finally:
        listening.shutdown()
        listening.server_close()
        serving.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    line: Line
    target: str

    def log_message(self, *words: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        # A server under pressure refuses before the body comes.
        return True

    def _pass_on(self) -> None:
        fault = self.line.fault(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "refused":
            self._hang_up()
            return
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if fault == "cut-upload":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault in _REFUSALS:
            status, text = _REFUSALS[fault]
            self._answer(status, [], text)
            return
        if fault == "silence":
            threading.Event().wait(self.line.silence_seconds)
            self._hang_up()
            return
        status, headers, data = self._ask(body)
        if fault == "lost":
            self._hang_up()
        elif fault == "cut-answer" and data:
            self._answer(status, headers, data, len(data) // 2)
            self._hang_up()
        else:
            self._answer(status, headers, data)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, only: int | None = None) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                # Of a HEAD: the object's.
                length = value
            elif name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data if only is None else data[:only])

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on
