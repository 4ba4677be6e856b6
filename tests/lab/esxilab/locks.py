# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMFS file locks that hold for every program, made with fanotify permission events.

A locked file's inode carries a mark; each `open` of it, by whatever program in whatever namespace, waits for an answer
from the thread here and gets EBUSY or goes on. The lab's own process is exempt, and so are processes with a grant.

What this cannot do: `unlink`, `rename` and `truncate(2)` by path are no opens and are not stopped. In mode 2 a writing
open is told from a reading one by the system call that the opener is waiting in (`/proc/<tid>/syscall`); where that
cannot be read (io_uring, a foreign architecture) the open counts as a reading one. The process that holds the table
must not itself start programs from a guarded file system: a `vfork` that keeps the interpreter's lock until the exec
is answered would wait for a thread that waits for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import select
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_FAN_CLOEXEC = 0x1
_FAN_CLASS_PRE_CONTENT = 0x8
_FAN_UNLIMITED_QUEUE = 0x10
_FAN_UNLIMITED_MARKS = 0x20
_FAN_REPORT_TID = 0x100
_FAN_OPEN_PERM = 0x10000
_FAN_OPEN_EXEC_PERM = 0x40000
_FAN_MARK_ADD = 0x1
_FAN_MARK_REMOVE = 0x2
_FAN_MARK_FILESYSTEM = 0x100
_FAN_ALLOW = 0x1
_FAN_DENY = 0x2
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")
_ANSWER = struct.Struct("=iI")

# System call numbers: {number: index of the argument with the open flags}; -1 means that it always writes.
_OPEN_CALLS = {
    "x86_64": {2: 1, 257: 2, 85: -1},
    "aarch64": {56: 2},
}
_OPENAT2 = 437
_libc = ctypes.CDLL(None, use_errno=True)

Key = tuple[int, int]
GuardTest = Callable[[int], bool]


class LocksUnavailable(Exception):
    """The kernel gives no permission events to this process."""


@dataclass(frozen=True)
class Lock:
    """One lock: `mode` as vmkfstools -D shows it, 1 exclusive, 2 shared for reading; `owners` are hosts."""

    path: str
    mode: int
    readable: bool
    owners: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        return self.owners[0] if self.owners else ""


class LockTable:
    """The locks of one lab. Needs CAP_SYS_ADMIN in the first user namespace."""

    def __init__(self) -> None:
        self.busy_errno = True  # whether a denied open fails with EBUSY; else with EPERM
        self._mutex = threading.Lock()
        self._locks: dict[Key, Lock] = {}
        self._keys: dict[str, Key] = {}
        self._grants: dict[tuple[int, int], set[Key]] = {}
        self._guards: dict[int, tuple[str, GuardTest | None]] = {}
        self._exempt = {os.getpid()}
        self._probe: Key | None = None
        self._closed = False
        self._reports_tid = True
        flags = _FAN_CLOEXEC | _FAN_CLASS_PRE_CONTENT | _FAN_UNLIMITED_QUEUE | _FAN_UNLIMITED_MARKS
        event_flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_LARGEFILE", 0)
        self._fd = _libc.fanotify_init(flags | _FAN_REPORT_TID, event_flags)
        if self._fd < 0 and ctypes.get_errno() == errno.EINVAL:
            self._reports_tid = False
            self._fd = _libc.fanotify_init(flags, event_flags)
        if self._fd < 0:
            code = ctypes.get_errno()
            raise LocksUnavailable(
                f"fanotify_init: {os.strerror(code)}; file locks need root (CAP_SYS_ADMIN) and a kernel with "
                "CONFIG_FANOTIFY_ACCESS_PERMISSIONS"
            )
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="locks", daemon=True)
        self._thread.start()
        try:
            self._try_busy()
        except BaseException:
            self.close()
            raise

    @property
    def status(self) -> str:
        if self._closed:
            return "closed"
        answer = "EBUSY" if self.busy_errno else "EPERM, since this kernel refuses a deny errno"
        return f"fanotify: a locked file answers {answer}; {len(self._locks)} locks, {len(self._guards)} exec guards"

    # Locks

    def lock(self, path: str, mode: int = 1, readable: bool = False, owner: str = "") -> None:
        """Lock a file, or change the lock that the same owner has.

        Another owner's exclusive lock, or an exclusive one on top of another's shared one, is an OSError with EBUSY.
        Several owners may share mode 2. Opens that exist already are not touched: ask `holders` first.
        """
        if mode not in (1, 2):
            raise ValueError(f"lock mode {mode}; known are 1 (exclusive) and 2 (shared)")
        key = _key(os.stat(path))
        with self._mutex:
            before = self._locks.get(key)
            known = before is not None
            others = tuple(name for name in before.owners if name != owner) if before else ()
            if before and others and 1 in (mode, before.mode):
                raise OSError(errno.EBUSY, f"locked in mode {before.mode} by {', '.join(others)}", path)
            self._locks[key] = Lock(path, mode, readable and mode == 2, (*others, owner))
            self._keys[os.path.abspath(path)] = key
        if not known:
            try:
                self._mark(_FAN_MARK_ADD, _FAN_OPEN_PERM, path)
            except OSError:
                with self._mutex:
                    del self._locks[key], self._keys[os.path.abspath(path)]
                raise

    def unlock(self, path: str, owner: str | None = None) -> None:
        """Release: one owner's share, without `owner` the whole lock. Unknown or vanished files are fine."""
        with self._mutex:
            key = self._keys.get(os.path.abspath(path))
            if key is None:
                return
            before = self._locks[key]
            rest = tuple(name for name in before.owners if owner is not None and name != owner)
            if rest:
                self._locks[key] = Lock(before.path, before.mode, before.readable, rest)
                return
            del self._keys[os.path.abspath(path)], self._locks[key]
        # Where the path now names another file, the mark went away with the old one.
        with contextlib.suppress(OSError):
            if _key(os.stat(path)) == key:
                self._mark(_FAN_MARK_REMOVE, _FAN_OPEN_PERM, path)

    def moved(self, old: str, new: str) -> None:
        """A locked file was renamed: the lock stays on it and is known by the new path."""
        with self._mutex:
            key = self._keys.pop(os.path.abspath(old), None)
            if key is not None:
                self._keys[os.path.abspath(new)] = key
                found = self._locks[key]
                self._locks[key] = Lock(new, found.mode, found.readable, found.owners)

    def state(self, path: str) -> Lock | None:
        """The lock of a file."""
        try:
            key = _key(os.stat(path))
        except OSError:
            return None
        with self._mutex:
            return self._locks.get(key)

    def locks(self) -> list[Lock]:
        with self._mutex:
            return list(self._locks.values())

    # Who may pass

    def exempt(self, pid: int) -> None:
        """Let a process of the lab itself (and its threads) open everything."""
        with self._mutex:
            self._exempt.add(pid)

    def grant(self, pid: int, paths: Iterable[str]) -> None:
        """Let one process open these files until it exits."""
        started = start_time(pid)
        if started is None:
            raise ProcessLookupError(errno.ESRCH, f"no process {pid}")
        keys = {_key(os.stat(path)) for path in paths}
        with self._mutex:
            for holder in [h for h in self._grants if start_time(h[0]) != h[1]]:
                del self._grants[holder]
            self._grants.setdefault((pid, started), set()).update(keys)

    def revoke(self, pid: int) -> None:
        with self._mutex:
            for holder in [h for h in self._grants if h[0] == pid]:
                del self._grants[holder]

    def granted(self, path: str) -> list[int]:
        """Living processes that have a grant for the file."""
        key = _key(os.stat(path))
        with self._mutex:
            found = [holder for holder, keys in self._grants.items() if key in keys]
        return [pid for pid, started in found if start_time(pid) == started]

    def holders(self, path: str, *, own: bool = False) -> list[int]:
        """Processes that have the file open now, in any namespace; this one is left out unless `own`."""
        return holders(path, skip=set() if own else {os.getpid()})

    # execInstalledOnly

    def exec_guard(self, mountpoint: str, applies: GuardTest | None = None) -> None:
        """Refuse (EPERM) to execute files of this mounted file system, in every namespace it is bound into.

        A script that starts with `#!` passes, since what is executed is its interpreter. `applies(pid)` says for
        which processes the guard holds; without it, for all but the lab's own.
        """
        info = os.stat(mountpoint)
        if info.st_dev == os.stat(os.path.join(mountpoint, "..")).st_dev:
            # The mark covers a whole file system; on the root's it would stop the machine.
            raise ValueError(f"{mountpoint} is not a mount point of its own")
        with self._mutex:
            known = info.st_dev in self._guards
            self._guards[info.st_dev] = (mountpoint, applies)
        if not known:
            self._mark(_FAN_MARK_ADD | _FAN_MARK_FILESYSTEM, _FAN_OPEN_EXEC_PERM, mountpoint)

    def exec_unguard(self, mountpoint: str) -> None:
        with self._mutex:
            found = [device for device, guard in self._guards.items() if guard[0] == mountpoint]
            for device in found:
                del self._guards[device]
        if found:
            with contextlib.suppress(OSError):
                self._mark(_FAN_MARK_REMOVE | _FAN_MARK_FILESYSTEM, _FAN_OPEN_EXEC_PERM, mountpoint)

    def close(self) -> None:
        """End all locks; opens that wait go on."""
        if self._closed:
            return
        self._closed = True
        os.write(self._wake_write, b"x")
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def __enter__(self) -> LockTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The kernel's side

    def _mark(self, flags: int, mask: int, path: str) -> None:
        done = _libc.fanotify_mark(
            self._fd, ctypes.c_uint(flags), ctypes.c_uint64(mask), ctypes.c_int(_AT_FDCWD), os.fsencode(path)
        )
        if done != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"fanotify_mark: {os.strerror(code)}", path)

    def _try_busy(self) -> None:
        """Learn on a file of our own whether the kernel takes an errno with a denial."""
        with tempfile.NamedTemporaryFile(prefix="stowage-lab-lock-") as file:
            self._probe = _key(os.stat(file.name))
            self._mark(_FAN_MARK_ADD, _FAN_OPEN_PERM, file.name)
            try:
                os.close(os.open(file.name, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.EPERM):
                    raise LocksUnavailable(f"a denied open failed with {error.strerror}") from error
                self.busy_errno = error.errno == errno.EBUSY
            else:
                raise LocksUnavailable("a denied open went through; this kernel ignores permission events here")
            finally:
                self._probe = None

    def _serve(self) -> None:
        try:
            self._answer_events()
        finally:
            # Closing lets every waiting open go on, so that nothing hangs when nobody answers any more.
            os.close(self._fd)

    def _answer_events(self) -> None:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while not self._closed:
            poller.poll()
            if self._closed:
                return
            try:
                events = os.read(self._fd, 1 << 16)
            except OSError as error:
                if error.errno == errno.EBADF:
                    return
                # No descriptor could be made for an event: the kernel has denied that one, the next need answers.
                continue
            position = 0
            while position + _EVENT.size <= len(events):
                length, _version, _reserved, _meta, mask, fd, pid = _EVENT.unpack_from(events, position)
                position += length
                if fd >= 0:
                    self._answer(fd, mask, pid)

    def _answer(self, fd: int, mask: int, pid: int) -> None:
        try:
            try:
                response = self._decide(fd, mask, pid)
            except Exception:  # An opener must never hang, whatever went wrong here; without proof it stays out.
                response = _FAN_DENY
            if not self.busy_errno:
                response &= 0xFF
            if _libc.write(self._fd, _ANSWER.pack(fd, response), _ANSWER.size) < 0:
                code = ctypes.get_errno()
                if code == errno.EINVAL and response > 0xFF:
                    self.busy_errno = False
                    _libc.write(self._fd, _ANSWER.pack(fd, _FAN_DENY), _ANSWER.size)
        finally:
            os.close(fd)

    def _decide(self, fd: int, mask: int, pid: int) -> int:
        key = _key(os.fstat(fd))
        busy = _FAN_DENY | errno.EBUSY << 24
        if key == self._probe:
            return busy
        process = _process_of(pid) if self._reports_tid and pid not in self._exempt else pid
        with self._mutex:
            if process in self._exempt:
                return _FAN_ALLOW
            lock = self._locks.get(key)
            guard = self._guards.get(key[0]) if mask & _FAN_OPEN_EXEC_PERM else None
            grants = [started for (holder, started), keys in self._grants.items() if holder == process and key in keys]
        if guard and (guard[1] is None or guard[1](process)) and os.pread(fd, 2, 0) != b"#!":
            return _FAN_DENY
        if lock is None or (grants and start_time(process) in grants):
            return _FAN_ALLOW
        if lock.mode == 2 and lock.readable and not _opens_for_writing(pid):
            return _FAN_ALLOW
        return busy


def _key(info: os.stat_result) -> Key:
    return info.st_dev, info.st_ino


def _process_of(tid: int) -> int:
    """The process a thread belongs to."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Tgid:"):
                    return int(line[5:])
    except OSError:
        pass
    return tid


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # A zombie holds nothing open any more.
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _opens_for_writing(tid: int) -> bool:
    """Whether the open that this thread waits in asks for write access."""
    try:
        with open(f"/proc/{tid}/syscall", encoding="ascii") as file:
            words = file.read().split()
        number = int(words[0])
        if number == _OPENAT2:
            with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
                flags = struct.unpack("=Q", os.pread(memory.fileno(), 8, int(words[3], 16)))[0]
        else:
            index = _OPEN_CALLS.get(platform.machine(), {}).get(number)
            if index is None:
                return False
            if index < 0:
                return True
            flags = int(words[1 + index], 16)
    except (OSError, ValueError, IndexError, struct.error):
        return False
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)


def holders(path: str, skip: Iterable[int] = ()) -> list[int]:
    """Processes that have the file open, found through /proc."""
    key = _key(os.stat(path))
    skipped = {str(pid) for pid in skip}
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or name in skipped:
            continue
        try:
            entries = os.listdir(f"/proc/{name}/fd")
        except OSError:
            continue
        for entry in entries:
            try:
                if _key(os.stat(f"/proc/{name}/fd/{entry}")) == key:
                    found.append(int(name))
                    break
            except OSError:
                continue
    return found
