# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image of a disk that comes to be in a file, begun from the one of the restore point before.

The former image is only ever read. Where the file system can, the new one begins as a clone that shares its blocks
(reflink); where it cannot, the new one is the same file under a second name (hard link) for as long as nothing differs,
and a file of its own from the first difference on. A half copy of an earlier try is gone on with.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import ImageFailed

#: What is compared and written as one. Smaller ones would make more pieces of a clone's file than they save room.
BLOCK_BYTES = 64 << 10
READ_BYTES = 1 << 20
_BLANK = bytes(READ_BYTES)
_FICLONE = 0x40049409
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
# The file system cannot, or not between these two; anything else is an error of its own.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EMLINK)

Piece = tuple[int, int]


def clone(source: int, target: int) -> bool:
    """Makes the target share the blocks of the source; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def punched(handle: int, offset: int, length: int) -> bool:
    """A hole where there was something; False where the file system knows none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.fallocate(handle, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0)


def punch(handle: int, offset: int, length: int) -> None:
    """A hole where there was something; zeros where the file system knows no holes."""
    if punched(handle, offset, length):
        return
    while length:
        done = os.pwrite(handle, _BLANK[: min(length, READ_BYTES)], offset)
        offset, length = offset + done, length - done


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """What the file system refuses is an error of ours."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror or error}"
        raise ImageFailed(path=path, reason=reason, errno=error.errno) from error


def made_one(path: str, former: str, check: Callable[[], None]) -> bool:
    """Where two images hold the same, the new one becomes the same file as the former."""
    with open(path, "rb") as new, open(former, "rb") as old:
        while True:
            check()
            data = new.read(READ_BYTES)
            if data != old.read(READ_BYTES):
                return False
            if not data:
                break
    beside = f"{path}.same"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    try:
        os.link(former, beside, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    os.replace(beside, path)
    return True


def dig(path: str, check: Callable[[], None]) -> None:
    """Blocks of zeros become holes; others stay shared with whatever image shares them. Nothing is written.

    Until the first one that cannot be made a hole: on such a file system none can.
    """
    with open(path, "r+b") as file:
        handle = file.fileno()
        for begin, end in zeros_in(handle, check):
            if not punched(handle, begin, end - begin):
                return


def zeros_in(handle: int, check: Callable[[], None]) -> Iterator[Piece]:
    """(begin, end) of runs of whole blocks of zeros in what is no hole, each read once."""
    run: Piece | None = None
    size, done = os.fstat(handle).st_size, 0
    for begin, end in data_in(handle, 0, size):
        for at in range(max(done, begin - begin % READ_BYTES), end, READ_BYTES):
            check()
            data = os.pread(handle, READ_BYTES, at)
            done = at + READ_BYTES
            for first in range(0, len(data), BLOCK_BYTES):
                block = data[first : first + BLOCK_BYTES]
                if not _BLANK.startswith(block):
                    continue
                if run is not None and run[1] == at + first:
                    run = run[0], at + first + len(block)
                    continue
                if run is not None:
                    yield run
                run = at + first, at + first + len(block)
    if run is not None:
        yield run


def seal(path: str) -> None:
    """On the disk, and to be read only."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(handle, 0o400)
        os.fsync(handle)
    finally:
        os.close(handle)


def data_in(handle: int, begin: int, end: int) -> Iterator[Piece]:
    """(begin, end) of what is no hole between two offsets."""
    while begin < end:
        try:
            data = min(end, os.lseek(handle, begin, os.SEEK_DATA))
            until = min(end, os.lseek(handle, data, os.SEEK_HOLE)) if data < end else end
        except OSError as error:
            data, until = (end, end) if error.errno == errno.ENXIO else (begin, end)
        if until > data:
            yield data, until
        begin = until


class ImageFile:
    """`path` becomes the image, of `size` bytes. What the disk holds is given in ascending order: `put` and `hole`.

    `begun` says what it was begun from: `half copy`, `reflink`, `former` or `new`. `written` counts the bytes that were
    written. At the end of the block it is closed; what is not finished stays as it is.
    """

    def __init__(self, path: str, size: int, former: str | None = None) -> None:
        self.path, self.size = path, size
        self.written = 0
        self._former = self._handle = -1
        self._former_path = former
        try:
            self.begun = self._begin(former)
        except OSError as error:
            self._close()
            raise self._failed(error) from error

    def _begin(self, former: str | None) -> str:
        if self._goes_on():
            return "half copy"
        if former is None:
            self._make()
            return "new"
        self._former = os.open(former, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        found = os.fstat(self._former)
        if not stat.S_ISREG(found.st_mode) or found.st_size != self.size:
            os.close(self._former)
            self._former = -1
            self._make()
            return "new"
        self._make()
        if clone(self._former, self._handle):
            os.close(self._former)
            self._former = -1
            return "reflink"
        # Nothing differs yet: there is no file of its own.
        os.close(self._handle)
        self._handle = -1
        os.unlink(self.path)
        return "former"

    def _goes_on(self) -> bool:
        """A file under a second name belongs to a restore point, too, and is never written to."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size != self.size:
            os.unlink(self.path)
            return False
        os.chmod(self.path, 0o600)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return True

    def _make(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._handle = os.open(self.path, flags, 0o600)
        os.ftruncate(self._handle, self.size)

    # -- what the disk holds -------------------------------------------------------------------------------------

    def put(self, data: bytes, offset: int) -> None:
        try:
            if self._handle < 0:
                if os.pread(self._former, len(data), offset) == data:
                    return
                self._apart(offset)
            if self.begun in ("half copy", "reflink"):
                there = os.pread(self._handle, len(data), offset)
                if there == data:
                    return
            else:
                there = _BLANK[: len(data)]
            view = memoryview(data)
            for begin in range(0, len(data), BLOCK_BYTES):
                end = min(len(data), begin + BLOCK_BYTES)
                if there[begin:end] != view[begin:end]:
                    self._write(view[begin:end], offset + begin)
        except OSError as error:
            raise self._failed(error) from error

    def hole(self, offset: int, length: int) -> None:
        """The disk holds nothing there."""
        end = offset + length
        try:
            if self._handle < 0:
                if not any(self._holds(self._former, *piece) for piece in data_in(self._former, offset, end)):
                    return
                self._apart(offset)
            if self.begun in ("half copy", "reflink"):
                for begin, until in list(data_in(self._handle, offset, end)):
                    self.written += self._holds(self._handle, begin, until)
                    punch(self._handle, begin, until - begin)
        except OSError as error:
            raise self._failed(error) from error

    def _holds(self, handle: int, begin: int, end: int) -> int:
        """How much of it is not zeros, in whole blocks."""
        found = 0
        for at in range(begin, end, BLOCK_BYTES):
            data = os.pread(handle, min(BLOCK_BYTES, end - at), at)
            found += len(data) if data != _BLANK[: len(data)] else 0
        return found

    def _apart(self, until: int) -> None:
        """The first difference: a file of its own, with all that was the same so far."""
        self._make()
        for begin, end in data_in(self._former, 0, until):
            for at in range(begin, end, READ_BYTES):
                data = os.pread(self._former, min(READ_BYTES, end - at), at)
                if data != _BLANK[: len(data)]:
                    self._write(memoryview(data), at)

    def _write(self, view: memoryview, offset: int) -> None:
        while view:
            done = os.pwrite(self._handle, view, offset)
            view, offset = view[done:], offset + done
            self.written += done

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All of it is on the disk when this returns. Who uses an image by hand is kept from changing it."""
        try:
            if self._handle < 0 and not self._linked():
                self._apart(self.size)
            if self._handle >= 0:
                os.fchmod(self._handle, 0o400)
                os.fsync(self._handle)
        except OSError as error:
            raise self._failed(error) from error

    def _linked(self) -> bool:
        try:
            os.link(self._former_path or "", self.path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            return False
        return True

    def differs(self, ranges: Sequence[Piece], digest: bytes, check: Callable[[], None]) -> str:
        """Why what the file holds is not what the disk held: `ranges` (offset, length) hash to `digest`, the rest is
        zeros. Read from the device, as far as the kernel lets go of what it has in memory."""
        found, at = hashlib.sha256(), 0
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset, length in [*ranges, (self.size, 0)]:
                for begin, end in data_in(handle, at, offset):
                    for place in range(begin, end, READ_BYTES):
                        check()
                        data = os.pread(handle, min(READ_BYTES, end - place), place)
                        if data != _BLANK[: len(data)]:
                            return f"there is something at byte {place}, where the disk holds nothing"
                for place in range(offset, offset + length, READ_BYTES):
                    check()
                    found.update(os.pread(handle, min(READ_BYTES, offset + length - place), place))
                at = offset + length
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(handle)
        return "" if found.digest() == digest else "its bytes are not those that were read"

    def _failed(self, error: OSError) -> ImageFailed:
        return ImageFailed(path=self.path, reason=error.strerror or str(error), errno=error.errno)

    def _close(self) -> None:
        for handle in (self._handle, self._former):
            if handle >= 0:
                with contextlib.suppress(OSError):
                    os.close(handle)
        self._handle = self._former = -1

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
