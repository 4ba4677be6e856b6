# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a folder of this machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend, Ranges, Upload
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    Damaged,
    ObjectExists,
    ObjectMissing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_object_name

TEMPORARY = ".tmp-"
_LOOKS = 16
_CLAIM_SECONDS = 60
# What a device or a file system says of what it has lost.
_LOST = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA)


class LocalRanges(Ranges):
    def __init__(self, backend: LocalBackend, name: str, handle: int) -> None:
        self._backend, self._name, self._handle = backend, name, handle
        self._size = os.fstat(handle).st_size

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        data = b""
        # No room is made for what is not there.
        if offset + length <= self.size:
            with self._backend.told(self._name, "read"):
                data = os.pread(self._handle, length, offset)
        if len(data) != length:
            raise Damaged(name=self._name, store=self._backend.name, reason=f"it ends before byte {offset + length}")
        return data

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class LocalUpload(Upload):
    def __init__(self, backend: LocalBackend, name: str) -> None:
        self._backend, self._name = backend, name
        self._path = backend.path(name)
        folder = os.path.dirname(self._path)
        with backend.told(name, "written"):
            backend.make_folder(folder)
            # A tidying that opens the file before we hold it takes it for a dead writer's: then another one.
            self._handle = -1
            while self._handle < 0:
                self._temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(8)}")
                self._handle = self._held()

    def _held(self) -> int:
        """The new file, or -1 when it is gone again. Held for as long as we live: what is not held is a dead one's."""
        # For reading too: NFSv4 gives no shared lock to who cannot read.
        handle = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if os.path.lexists(self._temporary):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return -1

    def append(self, parts: Sequence[Any]) -> None:
        with self._backend.told(self._name, "written"):
            wanted = sum(map(len, parts))
            written = os.writev(self._handle, parts)
            if written != wanted:
                rest = memoryview(b"".join(parts))[written:]
                while rest:
                    rest = rest[os.write(self._handle, rest) :]

    def commit(self) -> None:
        with self._backend.told(self._name, "written"):
            os.fsync(self._handle)
            self._backend.give_name(self._temporary, self._path, self._name)
            os.close(self._handle)
            self._handle = -1

    def abort(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)


class LocalBackend(Backend):
    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.name = self.root

    def path(self, name: str) -> str:
        if not is_object_name(name):
            raise Damaged(name=repr(name)[:200], store=self.name, reason="it is no name of an object of a store")
        return os.path.join(self.root, *name.split("/"))

    @contextlib.contextmanager
    def told(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(name=name, store=self.name) from error
        except OSError as error:
            failed = BackendFailed(name=name, store=self.name, done=done, reason=error.strerror or str(error))
            failed.lasting = error.errno in _LOST
            raise failed from error

    def _handle(self, name: str) -> int:
        """For reading. Nobody waits for the other end of a pipe that a stranger has put there."""
        handle = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise Damaged(name=name, store=self.name, reason="it is no file")
        return handle

    def read(self, name: str, limit: int = 1 << 26) -> bytes:
        with self.told(name, "read"), open(self._handle(name), "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Damaged(name=name, store=self.name, reason=f"it is larger than {limit} bytes")
        return data

    def open(self, name: str) -> Ranges:
        with self.told(name, "read"):
            return LocalRanges(self, name, self._handle(name))

    def map(self, name: str) -> Any:
        with self.told(name, "read"), open(self._handle(name), "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def create(self, name: str, data: bytes) -> None:
        upload = self.upload(name)
        try:
            upload.append([data])
            upload.commit()
        except BaseException:
            upload.abort()
            raise

    def upload(self, name: str) -> Upload:
        return LocalUpload(self, name)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self.told(prefix, "listed"):
            yield from self._walk(prefix.rstrip("/"))

    def _walk(self, name: str) -> Iterator[tuple[str, int]]:
        """What vanishes between two looks at it may have a successor that came after the first: then all is looked at
        once more."""
        for _look in range(_LOOKS):
            folders, files, whole = [], [], True
            try:
                entries = list(os.scandir(os.path.join(self.root, name)))
            except FileNotFoundError:
                return
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                full = f"{name}/{entry.name}" if name else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(full)
                    continue
                try:
                    files.append((full, entry.stat(follow_symlinks=False).st_size))
                except FileNotFoundError:
                    whole = False
            if whole:
                break
        yield from files
        for folder in folders:
            yield from self._walk(folder)

    def delete(self, name: str) -> None:
        path = self.path(name)
        with self.told(name, "deleted"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            durable.sync_folder(os.path.dirname(path))

    def tidy(self) -> None:
        for folder, _folders, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY):
                    self._remove_if_dead(os.path.join(folder, name))

    def _remove_if_dead(self, path: str) -> None:
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(handle)

    def same_place(self, other: Backend) -> bool:
        try:
            return isinstance(other, LocalBackend) and os.path.samefile(self.root, other.root)
        except OSError:
            return False

    def room(self) -> tuple[int, int] | None:
        with self.told("its file system", "looked at"):
            found = os.statvfs(self.root)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def check(self) -> None:
        """A new store's folder is made; the one above it must be there."""
        above = os.path.dirname(os.path.abspath(self.root))
        if not os.path.isdir(above):
            reason = f"the folder {above} is not there; make it first, then the store"
            raise BackendFailed(name=self.root, store=self.name, done="made", reason=reason)

    def make_folder(self, folder: str) -> None:
        """With all above it, durably: a synced file in a folder that a power cut forgets is lost."""
        if os.path.isdir(folder):
            return
        above = os.path.dirname(folder)
        if len(above) >= len(self.root):
            self.make_folder(above)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        durable.sync_folder(above)

    def give_name(self, temporary: str, path: str, name: str) -> None:
        """Link, so that a taken name is never replaced; where the file system has no links, by a name of its own."""
        try:
            os.link(temporary, path)
        except FileExistsError as error:
            raise ObjectExists(name=name, store=self.name) from error
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            self._rename_alone(temporary, path, name)
        else:
            os.unlink(temporary)
        durable.sync_folder(os.path.dirname(path))

    def _rename_alone(self, temporary: str, path: str, name: str) -> None:
        """mkdir has one winner everywhere: whoever makes the folder may rename into place. The file goes by way of that
        folder: of one who was taken for dead, and is not, it is not where he looks for it any more."""
        claim = f"{os.path.dirname(path)}/{TEMPORARY}claim-{os.path.basename(path)}"
        try:
            try:
                os.mkdir(claim)
            except FileExistsError:
                if os.path.lexists(path) or not self._break(claim, temporary):
                    raise
                os.mkdir(claim)
        except FileExistsError as error:
            raise ObjectExists(name=name, store=self.name) from error
        held = os.path.join(claim, os.path.basename(temporary))
        try:
            os.rename(temporary, held)
            try:
                if os.path.lexists(path):
                    raise ObjectExists(name=name, store=self.name)
                os.rename(held, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(held, temporary)
                raise
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(claim)

    def _break(self, claim: str, temporary: str) -> bool:
        """A claim lasts for a moment. One that is older, by the file system's own clock, is a dead one's."""
        try:
            os.utime(temporary)
            if os.stat(temporary).st_mtime - os.stat(claim).st_mtime < _CLAIM_SECONDS:
                return False
            broken = f"{os.path.dirname(claim)}/{TEMPORARY}broken-{secrets.token_hex(8)}"
            os.rename(claim, broken)
        except FileNotFoundError:
            # Its owner has ended, or somebody else has broken it.
            return True
        for name in os.listdir(broken):
            os.unlink(os.path.join(broken, name))
        os.rmdir(broken)
        return True
