# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket with a folder beside it that always holds the same objects, as files.

The store works on the bucket alone. A test looks at the files as it does at those of a local store; what it changes,
deletes or adds among them is changed in the bucket before the store's next request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend, Ranges, Upload
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.s3 import S3Backend

_State = dict[str, tuple[int, int, int]]

_make: Callable[[], S3Backend] | None = None
_places: dict[str, Mirrored] = {}


def use(make: Callable[[], S3Backend] | None) -> None:
    """From here on every store's place is in a bucket, a new one by `make`; None: in its folder alone."""
    global _make
    _make = make
    _places.clear()


def place(root: Path) -> Mirrored | None:
    """The one of this folder, where buckets are in use."""
    if _make is None:
        return None
    if str(root) not in _places:
        _places[str(root)] = Mirrored(_make(), root)
    return _places[str(root)]


class Mirrored(Backend):
    """All stores of one folder share one object of this: it knows what a test has done, and what the stores did."""

    def __init__(self, bucket: S3Backend, root: Path) -> None:
        self.bucket, self.root = bucket, str(root)
        self.name = bucket.name
        self._known: _State = {}
        self._guard = threading.RLock()

    # -- the folder ------------------------------------------------------------------------------------------------

    def _files(self) -> _State:
        found = {}
        for folder, _folders, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                status = os.stat(path)
                found[os.path.relpath(path, self.root)] = (status.st_mtime_ns, status.st_size, status.st_ino)
        return found

    def follow(self) -> None:
        """What a test has done to the files is done to the objects."""
        with self._guard:
            files = self._files()
            for name in self._known.keys() - files.keys():
                self.bucket.delete(name)
            for name, state in files.items():
                if self._known.get(name) != state:
                    data = Path(self.root, name).read_bytes()
                    self.bucket._client.put_object(**self.bucket._key(name), Body=data)
            self._known = files

    def _write(self, name: str, data: bytes) -> None:
        path = Path(self.root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        status = path.stat()
        self._known[name] = (status.st_mtime_ns, status.st_size, status.st_ino)

    def wrote(self, name: str, data: bytes) -> None:
        with self._guard:
            self._write(name, data)

    # -- the backend -----------------------------------------------------------------------------------------------

    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        self.follow()
        return self.bucket.read(name, limit)

    def get(self, name: str, offset: int, length: int) -> bytes:
        self.follow()
        return self.bucket.get(name, offset, length)

    def open(self, name: str) -> Ranges:
        self.follow()
        return self.bucket.open(name)

    def map(self, name: str) -> Any:
        self.follow()
        return self.bucket.map(name)

    def create(self, name: str, data: bytes) -> None:
        with self._guard:
            self.follow()
            self.bucket.create(name, data)
            self._write(name, data)

    def upload(self, name: str) -> Upload:
        self.follow()
        return _Upload(self, name)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self.follow()
        return self.bucket.list(prefix)

    def delete(self, name: str) -> None:
        with self._guard:
            self.follow()
            self.bucket.delete(name)
            Path(self.root, name).unlink(missing_ok=True)
            self._known.pop(name, None)

    def tidy(self) -> None:
        self.bucket.tidy()

    def check(self) -> None:
        self.bucket.check()


class _Upload(Upload):
    def __init__(self, mirror: Mirrored, name: str) -> None:
        self._mirror, self._name = mirror, name
        self._upload = mirror.bucket.upload(name)
        self._data = bytearray()

    def append(self, parts: Sequence[Any]) -> None:
        for part in parts:
            self._data += part
        self._upload.append(parts)

    def commit(self) -> None:
        with self._mirror._guard:
            self._mirror.follow()
            self._upload.commit()
            self._mirror.wrote(self._name, bytes(self._data))

    def abort(self) -> None:
        self._upload.abort()
