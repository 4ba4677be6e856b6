# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is too large for memory waits in files without names: their pages are the kernel's, not ours."""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import SpoolFailed


@contextlib.contextmanager
def opened() -> Iterator[IO[bytes]]:
    """One to fill; `SpoolFailed`, also for what is written to it."""
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        raise SpoolFailed(folder=tempfile.gettempdir(), reason=error.strerror or str(error)) from error


def mapped(file: IO[bytes]) -> Any:
    """What was written to it, for reading; it stays when the file is closed."""
    file.flush()
    return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if file.tell() else b""
