# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder on the backup server that keeps records and mirrors: written to and read with the way out at hand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import StateNotKept


@contextlib.contextmanager
def kept(path: str) -> Iterator[None]:
    """What the system refuses becomes StateNotKept. That something is not there is for the caller to judge."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateNotKept(path=error.filename or path, reason=error.strerror or str(error)) from error


def write(path: str, value: Mapping[str, Any]) -> None:
    """Replaces the file durably; its folder is made where it is not there, for this user alone."""
    with kept(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        durable.write_json(path, dict(value))
