# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A login that is made while something else is found out about the host."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import SshError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import Connection, connect
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import FOR_GOOD


class Ahead:
    """One connection: who takes it ends it, and what nobody has taken ends with `drop`."""

    def __init__(self, session: Session) -> None:
        self._guard = threading.Lock()
        executor = ThreadPoolExecutor(1, thread_name_prefix="login")  # pylint: disable=consider-using-with
        self._coming: Future[Connection | None] | None = executor.submit(connect, session, behind_shared=True)
        executor.shutdown(wait=False)

    def take(self) -> Connection | None:
        """Once; None where there is none (any more), or where it is to be tried again."""
        with self._guard:
            coming, self._coming = self._coming, None
        if coming is None:
            return None
        try:
            connection = coming.result()
        except FOR_GOOD:
            raise
        except SshError:
            # Tried once more, and this time its error is told.
            return None
        if connection is not None and not connection.usable:
            connection.stop()
            return None
        return connection

    def drop(self) -> None:
        # Whatever keeps it from being put away is no news beside what has ended the block.
        with contextlib.suppress(StowageError, OSError):
            connection = self.take()
            if connection is not None:
                connection.stop()
