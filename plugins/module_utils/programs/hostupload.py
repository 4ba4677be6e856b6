# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A new file of a store on a hypervisor, from here or from a lane of a disk there; it outlives its link."""

from __future__ import annotations

import contextlib
import errno
import posixpath
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Upload
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import RemoteFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import FileRefused
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.packing import PackFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import StoreLink

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostbackend import HostBackend


class HostUpload(Upload):
    def __init__(self, backend: HostBackend, name: str) -> None:
        self._backend, self._name = backend, name
        self._token = secrets.token_hex(8)
        self._path = posixpath.join(
            posixpath.dirname(backend.path_of(name)), (agent.TEMPORARY + self._token.encode()).decode()
        )
        self._size = 0
        self._link: StoreLink | None = None
        self._file: RemoteFile | None = None
        self._inode: int | None = None
        self._lent: PackFile | None = None
        self._ended = False
        self._run(self._opened)

    def _run(self, act: Any) -> None:
        self._backend.run(self._name, "written", act, uploads=True)

    def _opened(self, link: StoreLink) -> RemoteFile:
        """On the link there is: what counts of it, and nothing behind that."""
        if self._file is None or self._link is not link:
            file, opening = link.temp(self._path, self._name, self._token, self._size)
            facts = opening.result()
            if self._inode is not None and facts.inode != self._inode:
                # Nothing was written to the other one yet, or it would have been opened.
                self._size = 0
            self._inode = facts.inode
            self._link, self._file = link, file
        return self._file

    def append(self, parts: Sequence[Any]) -> None:
        self._take_back()
        data = b"".join(parts)

        def act(link: StoreLink) -> None:
            file = self._opened(link)
            link.write(file, self._size, data).result()

        self._run(act)
        self._size += len(data)

    def lend(self) -> PackFile:
        # It stays open here, and is touched: a lane has it open only while it writes, and what nobody touches is taken
        # for a dead one's.
        self._run(self._opened)
        folder = self._backend.folder.real
        self._lent = PackFile(self._backend.host, folder, self._path, self._name, self._token, self._size, self._failed)
        return self._lent

    def _failed(self, error: FileRefused) -> Exception:
        try:
            with self._backend.told(self._name, "written"):
                raise error
        except StoreError as told:
            return told

    def _take_back(self) -> None:
        if self._lent is None:
            return
        self._size, self._lent = self._lent.size, None
        # What was written to it and does not count is cut off when it is opened anew.
        self._run(self._shut)
        self._link = self._file = None

    def _shut(self, link: StoreLink) -> None:
        if self._file is not None and self._link is link:
            link.shut(self._file).result()

    def commit(self) -> None:
        self._take_back()
        asked = 0

        def act(link: StoreLink, breaks: bool) -> None:
            nonlocal asked
            asked += 1
            try:
                file = self._opened(link)
                link.name(file, self._name, self._token, breaks=breaks).result()
            except FileRefused as error:
                # One whose answer was lost has its name already.
                if asked > 1 and error.errno in (errno.ENOENT, errno.EEXIST) and self._is_named(link):
                    return
                raise
            link.named(file)

        self._backend.claimed(self._name, act, uploads=True)
        self._ended = True

    def _is_named(self, link: StoreLink) -> bool:
        try:
            return link.look(self._name).result() == (self._size, self._inode)
        except FileRefused:
            return False

    def abort(self) -> None:
        """What cannot be removed has no name, and is tidied away."""
        if self._ended:
            return
        self._ended = True
        name = posixpath.join(posixpath.dirname(self._name), posixpath.basename(self._path))

        def act(link: StoreLink) -> None:
            self._shut(link)
            link.remove(name).result()

        with contextlib.suppress(StoreError):
            self._run(act)
