# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is imported out of a zip file, as a module's payload is one, is compiled once, and kept for the next process.

zipimport compiles a file to tell its name, and again to run it, and keeps nothing: half of the time that a large module
needs to start. The kept code lies in folders that nobody but its user can write, and is taken only for the very source
and the very Python that it was made from (as the checked files of PEP 552 are).
"""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import os
import stat
import sys
from collections.abc import Iterator
from hashlib import sha256
from types import CodeType, ModuleType
from zipimport import zipimporter

DIGEST = 32
FOLDERS = (".cache", "stowage", "bytecode")


class Importer(zipimporter):
    """Tells names by what lies in the zip file."""

    kept: Kept | None = None

    def get_filename(self, fullname: str) -> str:
        return f"{self.archive}/{self._inside(fullname)}"

    def get_code(self, fullname: str) -> CodeType | None:
        if self.kept is not None:
            inside = self._inside(fullname)
            with contextlib.suppress(OSError):
                # An OSError: it is there as compiled code only.
                return self.kept.code(fullname, inside, self.get_data(f"{self.archive}/{inside}"))
        return super().get_code(fullname)

    if sys.version_info < (3, 10):
        # Its zipimport loads by a way of its own, which asks nobody for the code.
        def create_module(self, spec: object) -> None:
            return None

        def exec_module(self, module: ModuleType) -> None:
            code = self.get_code(module.__name__)
            if code is not None:
                exec(code, module.__dict__)  # pylint: disable=exec-used

    def _inside(self, fullname: str) -> str:
        tail = "/__init__.py" if self.is_package(fullname) else ".py"
        return f"{self.prefix}{fullname.rpartition('.')[2]}{tail}"


class Kept:
    """Compiled code below a user's home, a file for each name: a digest of what it was made from, one of it, the code.

    The home is that of the user that the process is, whatever the environment says. Every folder below it must be that
    user's, writable by nobody else and no link; they are opened one in the other each time, so that what was looked at
    is what is used. Where that cannot be, nothing is kept and nothing is taken.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.tail = f".{sys.implementation.cache_tag}.{sys.flags.optimize}"

    def code(self, name: str, filename: str, source: bytes) -> CodeType:
        """`filename` is what a traceback says: one that is the same in each payload."""
        made_from = sha256(importlib.util.MAGIC_NUMBER + filename.encode() + b"\0" + source).digest()
        found = self._read(name + self.tail, made_from)
        if found is None:
            found = compile(source, filename, "exec", dont_inherit=True)
            self._write(name + self.tail, made_from, marshal.dumps(found))
        return found

    def _read(self, name: str, made_from: bytes) -> CodeType | None:
        try:
            with self._folder(make=False) as folder, open(self._opened(name, os.O_RDONLY, folder), "rb") as file:
                data = file.read()
        except OSError:
            return None
        # What a power cut or two writers left must not reach marshal, which believes everything.
        if data[:DIGEST] != made_from or data[DIGEST : 2 * DIGEST] != sha256(data[2 * DIGEST :]).digest():
            return None
        found = marshal.loads(data[2 * DIGEST :])
        return found if isinstance(found, CodeType) else None

    def _write(self, name: str, made_from: bytes, data: bytes) -> None:
        """If it can be. The name of the half file is always the same, so that a killed process leaves one at most."""
        part = f"{name}.part"
        with contextlib.suppress(OSError), self._folder(make=True) as folder:
            with open(self._opened(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, folder), "wb") as file:
                file.write(made_from + sha256(data).digest() + data)
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
                if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
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


def compile_once() -> None:
    """From now on, in this process; nothing happens to what does not run out of a zip file itself."""
    if not isinstance(globals().get("__loader__"), zipimporter):
        return
    home = None if sys.dont_write_bytecode else own_home()
    Importer.kept = Kept(home) if home else None
    sys.path_hooks[:] = [Importer if hook is zipimporter else hook for hook in sys.path_hooks]
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter) and not isinstance(finder, Importer):
            del sys.path_importer_cache[path]
