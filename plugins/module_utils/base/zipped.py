# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is imported out of a zip file, as a module's payload is one, is compiled once, and kept for the next process.

zipimport compiles a file to tell its name, and again to run it, and keeps nothing: half of the time that a large module
needs to start. The kept code lies in a folder that nobody but its user can write, and is taken only for the very source
and the very Python that it was made from (as the checked files of PEP 552 are).
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import stat
import sys
from hashlib import sha256
from types import CodeType
from zipimport import zipimporter

DIGEST = 32


class Importer(zipimporter):
    """Tells names by what lies in the zip file."""

    kept: Kept | None = None

    def get_filename(self, fullname: str) -> str:
        return f"{self.archive}/{self._inside(fullname)}"

    def get_code(self, fullname: str) -> CodeType | None:
        if self.kept is None:
            return super().get_code(fullname)
        inside = self._inside(fullname)
        return self.kept.code(fullname, inside, self.get_data(f"{self.archive}/{inside}"))

    def _inside(self, fullname: str) -> str:
        tail = "/__init__.py" if self.is_package(fullname) else ".py"
        return f"{self.prefix}{fullname.rpartition('.')[2]}{tail}"


class Kept:
    """Compiled code in a folder, one file for each name: a digest of what it was made from, one of it, the code."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.tail = f".{sys.implementation.cache_tag}.{sys.flags.optimize}"

    def code(self, name: str, filename: str, source: bytes) -> CodeType:
        """`filename` is what a traceback says: one that is the same in each payload."""
        made_from = sha256(importlib.util.MAGIC_NUMBER + filename.encode() + b"\0" + source).digest()
        path = os.path.join(self.folder, name + self.tail)
        found = self._read(path, made_from)
        if found is None:
            found = compile(source, filename, "exec", dont_inherit=True)
            self._write(path, made_from, marshal.dumps(found))
        return found

    def _read(self, path: str, made_from: bytes) -> CodeType | None:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            return None
        # What a power cut or two writers left must not reach marshal, which believes everything.
        if data[:DIGEST] != made_from or data[DIGEST : 2 * DIGEST] != sha256(data[2 * DIGEST :]).digest():
            return None
        found = marshal.loads(data[2 * DIGEST :])
        return found if isinstance(found, CodeType) else None

    def _write(self, path: str, made_from: bytes, data: bytes) -> None:
        """If it can be. The name of the half file is always the same, so that a killed process leaves one at most."""
        part = f"{path}.part"
        try:
            with open(part, "wb") as file:
                file.write(made_from + sha256(data).digest() + data)
            os.replace(part, path)
        except OSError:
            return


def own_folder() -> str | None:
    """Where this user's compiled code is kept, made where it is missing; None where there is no safe place for it."""
    if sys.dont_write_bytecode or not hasattr(os, "geteuid"):
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(home, "stowage", "bytecode")
    if not os.path.isabs(folder):
        return None
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return None
    # With `become` or `sudo` the home may be another user's.
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return folder if ours else None


def compile_once() -> None:
    """From now on, in this process; nothing happens to what does not run out of a zip file itself."""
    if not isinstance(globals().get("__loader__"), zipimporter):
        return
    folder = own_folder()
    Importer.kept = Kept(folder) if folder else None
    sys.path_hooks[:] = [Importer if hook is zipimporter else hook for hook in sys.path_hooks]
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter) and not isinstance(finder, Importer):
            del sys.path_importer_cache[path]
