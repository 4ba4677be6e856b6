# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam of a module that loads much code: as `ansible`, and what is compiled is kept for the next process.

zipimport keeps nothing: half of the time that such a module needs to start. Kept code is taken only for the very source
and the very Python that it was made from (as the checked files of PEP 552 are).
"""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from types import CodeType, ModuleType

from ansible_collections.stowage.esxi.plugins.module_utils.base.ansible import fail
from ansible_collections.stowage.esxi.plugins.module_utils.base.zipped import Importer, compile_once

__all__ = ["fail"]

DIGEST = 32
FOLDERS = (".cache", "stowage", "bytecode")


class Kept:
    """Compiled code below a home, a file for each name: a digest of what it was made from and of it, and the code.

    Every folder below the home must be this user's, writable by nobody else and no link. They are opened one in the
    other each time, so that what was looked at is what is used; where that cannot be, nothing is kept or taken.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.tail = f".{sys.implementation.cache_tag}.{sys.flags.optimize}"

    def code(self, name: str, filename: str, source: bytes) -> CodeType:
        """`filename` is what a traceback says: one that is the same in each payload."""
        made_from = importlib.util.MAGIC_NUMBER + filename.encode() + b"\0" + source
        name += self.tail
        data = self._read(name)
        # What a power cut or two writers left must not reach marshal, which believes everything.
        if data[:DIGEST] == sha256(made_from + data[DIGEST:]).digest():
            found: CodeType = marshal.loads(data[DIGEST:])
            return found
        found = compile(source, filename, "exec", dont_inherit=True)
        data = marshal.dumps(found)
        self._write(name, sha256(made_from + data).digest() + data)
        return found

    def _read(self, name: str) -> bytes:
        try:
            with self._folder(make=False) as folder, open(self._opened(name, os.O_RDONLY, folder), "rb") as file:
                return file.read()
        except OSError:
            return b""

    def _write(self, name: str, data: bytes) -> None:
        """The name of the half file is always the same, so that a killed process leaves one at most."""
        part = f"{name}.part"
        with contextlib.suppress(OSError), self._folder(make=True) as folder:
            with open(self._opened(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, folder), "wb") as file:
                file.write(data)
            os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)

    @staticmethod
    def _opened(name: str, flags: int, folder: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=folder)

    @contextlib.contextmanager
    def _folder(self, make: bool) -> Iterator[int]:
        at = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in FOLDERS:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=at)
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = inner
                found = os.fstat(at)
                if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    raise PermissionError(f"{name}: others can write it")
            yield at
        finally:
            os.close(at)


def own_home() -> str | None:
    """The home of the user that this process is, not of the one that the environment may still name after `sudo`."""
    try:
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_dir
    except (ImportError, KeyError):
        return None


class Keeping(Importer):
    """Takes what was kept, and keeps what it compiles."""

    kept: Kept

    def get_code(self, fullname: str) -> CodeType:
        inside = self.inside(fullname)
        with contextlib.suppress(OSError):
            # An OSError: it is there as compiled code only.
            return self.kept.code(fullname, inside, self.get_data(f"{self.archive}/{inside}"))
        return super().get_code(fullname)

    if sys.version_info < (3, 10):
        # Its zipimport loads by a way of its own, which asks nobody for the code.
        def create_module(self, spec: object) -> None:
            return None

        def exec_module(self, module: ModuleType) -> None:
            exec(self.get_code(module.__name__), module.__dict__)  # pylint: disable=exec-used


def keep() -> None:
    """From now on, in this process, where the user has a home."""
    home = None if sys.dont_write_bytecode else own_home()
    if home:
        Keeping.kept = Kept(home)
        compile_once(Keeping)


# Every such module imports this file before all others of ours that are large.
keep()
