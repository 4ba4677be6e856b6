# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunks that go from a disk into a file of a store on the same host: only what they became is told here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import RemoteFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import FileRefused
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.pending import Pending
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import LOST, Handles, Line, Owed
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import Kept


class PackFile:
    """A file under way on the host, of which `size` bytes count: what a lane was told of, and took. One lane at a time
    appends to it; what an agent wrote that was cut off is written again, at the same place and by the same requests."""

    def __init__(
        self,
        host: str,
        root: str,
        path: str,
        name: str,
        token: str,
        size: int,
        told: Callable[[FileRefused], Exception] = lambda error: error,
    ) -> None:
        """`told`: what the file's owner makes of what is wrong with it."""
        self.host, self.path, self.size = host, path, size
        self._told = told
        self._root, self._name, self._token = root, name, token
        self._link: Any = None
        self._file: RemoteFile | None = None
        self._opening: Pending[RemoteFile] | None = None

    def on(self, link: Any) -> RemoteFile:
        """The file on this link, where it is opened if it is not; the answer is not waited for."""
        if self._file is None or self._link is not link:
            if link.rooted != self._root:
                link.root(self._root)
            self._link = link
            self._file, self._opening = link.temp(self.path, self._name, self._token, self.size)
        return self._file

    def refused(self, error: FileRefused) -> Exception:
        """What to raise: what is about this file is its owner's, and all else the disk's."""
        if self._opening is not None:
            try:
                self._opening.result()
            except FileRefused as cause:
                return self._told(cause)
        return self._told(error) if error.data.get("path") == self.path else error

    def shut(self, line: Line) -> None:
        """Closed, or its agent is gone."""
        link, file = self._link, self._file
        self._link = self._file = self._opening = None
        if file is not None and link is line.link:
            with contextlib.suppress(*LOST):
                link.shut(file).result()


def _send(pack: PackFile, pieces: Callable[[Handles], Any], level: int, link: Any, handles: Handles) -> Any:
    return link.keep_chunks(pack.on(link), pieces(handles), level)


class Keeping:
    """Records that are on their way into a file."""

    def __init__(self, line: Line, pack: PackFile, requests: Sequence[tuple[Callable[[Handles], Any], int]]) -> None:
        """`requests`: for each part, what makes the pieces of a link's files, and the level of zlib."""
        self._pack = pack
        self._owed: list[Owed[list[Kept]]] = []
        line.carefully()
        for pieces, level in requests:
            self._owed.append(line.ask(partial(_send, pack, pieces, level)))

    def parts(self) -> Iterator[list[Kept]]:
        """In the order of the pieces. What was told counts from then on."""
        for owed in self._owed:
            try:
                found = owed.result()
            except FileRefused as error:
                raise self._pack.refused(error) from error
            self._pack.size += sum(agent.RECORD.size + one.stored + agent.SUM for one in found)
            yield found
