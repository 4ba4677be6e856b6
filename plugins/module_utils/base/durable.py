# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that writes a local file durably: whole or not at all, and on the disk when it returns."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import Any, Union

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError

PathLike = Union[str, "os.PathLike[str]"]


class NotJson(StowageError):
    id = "file-not-json"
    template = "{path} is not valid JSON: {reason}"
    hint = "The file was changed or cut by something else; move it aside and look at it"
    exit_code = 3


def write_bytes(path: PathLike, value: bytes, mode: int = 0o600, *, sync: bool = True) -> None:
    """Replaces ``path`` by ``value``: temporary file in the same folder, fsync, rename, fsync of the folder.

    ``sync=False`` keeps it atomic for readers but leaves the disk to the kernel (progress, not promises).
    """
    target = os.fspath(path)
    folder = os.path.dirname(target) or "."
    handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)[:40]}.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(value)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if sync:
        sync_folder(folder)


def write_text(path: PathLike, value: str, mode: int = 0o600, *, sync: bool = True) -> None:
    write_bytes(path, value.encode("utf-8", "surrogateescape"), mode, sync=sync)


def write_json(path: PathLike, value: Any, mode: int = 0o600, *, sync: bool = True) -> None:
    # ASCII escapes: names that are not valid UTF-8 (surrogates) survive the trip.
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n", mode, sync=sync)


def read_json(path: PathLike) -> Any:
    """The value in ``path``; ``OSError`` as it comes, ``NotJson`` for anything that is not JSON."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return json.loads(data)
    except ValueError as error:
        raise NotJson(path=os.fspath(path), reason=str(error)) from error


def sync_folder(folder: PathLike) -> None:
    """Makes renames and new names in the folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
