# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent: runs on the hypervisor, in the host's own Python, read from standard input.

One self-contained source: standard library only, grammar of Python 3.5, no epoll, no multiprocessing, under 64 MiB of
memory, nothing written to the host's file system but what WRITE is asked for, and what a store in one folder of it is
made of (see ``Root``). Its other side is ``link.py`` and ``storelink.py``, which take the numbers of the protocol from
here.

What travels, both ways, are frames: a head (``FRAME``) and a body. First comes ``MAGIC`` and the greeting. A request
has a number; its answers bear it, in the order of the requests. DONE ends an answer; FAILED (JSON: errno, name, reason,
path) stands in the place of the next frame of it. FETCH is answered by DATA frames alone, one for each step of STEP
bytes of each piece, the last step of a piece shorter; flags tell how a step is packed. A piece is a list of segments.

Three threads. The main one reads requests and never stops reading (the other side keeps to the window), so the end of
standard input ends the process at once, whatever it is doing: an open extent would block a consolidation. A worker
answers the requests in their order. A writer sends, while the worker reads and hashes the next piece.
"""

import collections
import errno
import hashlib
import io
import json
import os
import platform
import re
import select
import stat
import struct
import sys
import threading
import time

try:
    import zlib
except ImportError:
    zlib = None  # type: ignore[assignment]

VERSION = 1
MAGIC = b"\nSTOWAGE AGENT %d\n"

FRAME = struct.Struct(">2sBBII")  # mark, kind, flags, number, length of the body
MARK = b"Sw"
STEP = 1 << 20
MAX_BODY = STEP + 64
MAX_PIECES = 1024
MAX_RANGES = 4096
WINDOW_REQUESTS = 1024
WINDOW_BYTES = 8 << 20

OPEN, CLOSE, STAT, RANGES, HASH, FETCH, WRITE, SYNC, PING, BEAT = range(1, 11)
# Of a store that lies in a folder of this host.
ROOT, LIST, GET, PUT, TEMP, NAME, LOOK, REMOVE, KEEP, PROVE, UNPACK = range(32, 43)
DONE, DATA, FAILED = 128, 129, 130
ZLIB, ZEROS, MORE = 1, 2, 4

SEGMENT = struct.Struct(">HQI")  # file, offset, length
COUNT = struct.Struct(">I")
NO_FILE = 0xFFFF
RANGE_REQUEST = struct.Struct(">HQQ")
WRITE_HEAD = struct.Struct(">HQI")  # file, offset, length of the data once it is decoded
FETCH_HEAD = struct.Struct(">B")  # level of zlib, 0: raw
PACKED_HEAD = struct.Struct(">I")  # in front of packed bytes: microseconds that the packing took

# In front of names: a file under way has a token in place of its name, until it gets that.
PUT_HEAD = struct.Struct(">16sH")  # token, length of the name
TEMP_HEAD = struct.Struct(">HQ16s")  # file, bytes of it that count, token
NAME_HEAD = struct.Struct(">H16s")  # file, token
GET_HEAD = struct.Struct(">Q")  # most bytes
KEEP_HEAD = struct.Struct(">HB")  # file, level of zlib, 0: raw
LISTED = struct.Struct(">QqBH")  # size, time in ns, whether it is a folder, length of the name
KEPT = struct.Struct(">32sBI")  # SHA-256, codec, bytes
PROOF = struct.Struct(">QII")  # offset of a record, bytes of what it holds, and before compression
PROVEN = struct.Struct(">B64s32s")  # whether it was proven, its head, SHA-256 of what it holds
UNPACK_HEAD = struct.Struct(">HH")  # file that is written, pack
UNPACKED = struct.Struct(">QIIH")  # a record as in PROOF, and how many places there are; each of them is a PLACE
PLACE = struct.Struct(">Q")
BREAK, HIDDEN, DEEP = 1, 1, 1
SMALL = 1 << 19
# A record of a pack, as docs/store-format.md has it.
RECORD = struct.Struct("<4sBBHII32s16s")
RECORD_MAGIC = b"SREC"
RAW_CODEC, ZLIB_CODEC = 0, 2
SUM = 16
LONGEST_CHUNK = 16 << 20
PART = re.compile(b"[A-Za-z0-9._-]{1,255}\\Z")
TEMPORARY = b".tmp-"
CLAIM = TEMPORARY + b"claim-"
DEEPEST = 8
LOOKS = 16
TOUCH_SECONDS = 5

BUFFERS = 8
NOTHING = bytes(STEP)
SEEK_DATA, SEEK_HOLE = 3, 4
# So many places of what a file calls holes are read before they are believed.
HOLES_LOOKED_AT = 16
# A file in more parts than this is not followed to its end before it is believed; the rest counts as data then.
MAX_PARTS = 200000


class Refused(Exception):
    """What is answered in place of a result."""

    def __init__(self, number, text, path=None):
        Exception.__init__(self, text)
        self.number = number
        self.path = path


def leave(status):
    # Not sys.exit: other threads may be inside a system call, and nothing here needs tidying.
    os._exit(status)


def complain(text):
    try:
        os.write(2, ("stowage agent: " + text + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass
    leave(4)


class Opened(object):
    def __init__(self, path, writable, handle=None):
        self.path = path
        if handle is None:
            # A pipe or a device would hold the worker in open() or read() for ever.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise Refused(errno.EINVAL, "it is not an ordinary file", path)
            # Plain seek, read and write: what newer calls do on VMkernel is not known.
            self.file = io.FileIO(path, "r+" if writable else "r")
        else:
            self.file = io.FileIO(handle, "r+")
        self.handle = self.file.fileno()
        self.limit = None
        # Where the next record goes, of a file under way.
        self.end = None

    def facts(self):
        found = os.fstat(self.handle)
        return {
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "allocated": getattr(found, "st_blocks", 0) * 512,
            "device": found.st_dev,
            "inode": found.st_ino,
            "real": os.path.realpath(self.path).decode("utf-8", "surrogateescape"),
        }

    def read(self, view, offset):
        self.file.seek(offset)
        done = 0
        while done < len(view):
            count = self.file.readinto(view[done:])
            if not count:
                raise Refused(
                    errno.ENODATA,
                    "it ends at byte %d, and %d bytes from %d were asked for" % (offset + done, len(view), offset),
                    self.path,
                )
            done += count

    def write(self, data, offset):
        self.file.seek(offset)
        view = memoryview(data)
        while len(view):
            view = view[self.file.write(view) :]

    def data_from(self, place, size):
        """The next part that holds data, from place on: (begin, end), or None."""
        try:
            begin = os.lseek(self.handle, place, SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        if begin >= size:
            return None
        end = os.lseek(self.handle, begin, SEEK_HOLE)
        # A kernel that takes these for other seeks answers something that cannot be.
        if begin < place or end <= begin:
            raise OSError(errno.EINVAL, "implausible")
        return begin, min(end, size)

    def believed(self):
        """Up to where the file system's word about holes is believed: what is proven plausible in this very file."""
        if self.limit is None:
            try:
                self.limit = self._prove()
            except (OSError, Refused):
                self.limit = 0
        return self.limit

    def _prove(self):
        found = os.fstat(self.handle)
        size = found.st_size
        first = os.lseek(self.handle, 0, SEEK_HOLE)
        place = data = count = 0
        holes = []
        step = 1
        while place < size and count < MAX_PARTS:
            part = self.data_from(place, size)
            begin, end = part if part is not None else (size, size)
            if begin > place:
                if not holes and first != place:
                    return 0
                if count % step == 0:
                    holes.append((place, begin))
                if len(holes) > 2 * HOLES_LOOKED_AT:
                    # The first one stays, and every other of the rest: what is looked at lies all over the file.
                    del holes[1::2]
                    step *= 2
            elif count:
                # A hole begins where the last part ended, and now data as well.
                return 0
            data += end - begin
            count += 1
            place = end
        if not holes:
            return size if first == size else 0
        # What is allocated and no data may be room that was never written, or data that is denied: nobody can tell.
        if place >= size and getattr(found, "st_blocks", 0) * 512 - data > max(STEP, data >> 6):
            return 0
        buffer = memoryview(bytearray(4096))
        for begin, end in holes:
            for spot in (begin, begin + (end - begin) // 2, max(begin, end - 4096)):
                view = buffer[: min(4096, end - spot)]
                self.read(view, spot)
                if not NOTHING.startswith(view):
                    return 0
        return place


class Named(object):
    """What is worked on, for errors."""

    def __init__(self, path):
        self.path = path


def sync_folder(path):
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        # Where no folder can be opened there is nothing to be asked for.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EISDIR):
            raise
    finally:
        os.close(handle)


def drop(path):
    """Removes a file under way, or a claim with what is in it."""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    else:
        os.unlink(path)


class Root(object):
    """The one folder in which files are made, named and removed. No file system on a host need know hard links.

    A file is written under a token. A name is given only once: whoever makes the folder that claims the name moves the
    file into it, looks whether the name is free, and moves the file there. A claim whose maker died is broken by moving
    it away: should he live after all, his file is not where he looks for it any more.
    """

    def __init__(self, path):
        self.path = os.path.realpath(path)
        if self.path in (b"", b"/") or not self.path.startswith(b"/"):
            raise Refused(errno.EINVAL, "it is no folder that files may be made in", path)

    def place(self, name):
        """The path of a name; one that leads out of the folder is refused."""
        parts = name.split(b"/")
        folder = self.path
        for number, part in enumerate(parts):
            if part in (b".", b"..") or not PART.match(part):
                raise Refused(errno.EACCES, "it is no name of a file in " + self.shown(), name)
            if number and os.path.islink(folder):
                raise Refused(errno.EACCES, "it leads out of " + self.shown(), folder)
            folder = os.path.join(folder, part)
        return folder

    def shown(self):
        return self.path.decode("utf-8", "backslashreplace")

    def under_way(self, path, token):
        if not PART.match(token):
            raise Refused(errno.EACCES, "it has no token", path)
        return os.path.join(os.path.dirname(path), TEMPORARY + token)

    def make_folder(self, folder):
        """With all above it, durably."""
        if os.path.isdir(folder):
            return
        above = os.path.dirname(folder)
        if len(above) >= len(self.path):
            self.make_folder(above)
        try:
            os.mkdir(folder, 0o700)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        sync_folder(above)

    def give(self, temporary, path, token, breaks):
        """The file gets its name, or keeps its token."""
        folder, name = os.path.split(path)
        claim = os.path.join(folder, CLAIM + name)
        if breaks:
            self.clear(claim, token)
        try:
            os.mkdir(claim, 0o700)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            if os.path.lexists(path):
                raise Refused(errno.EEXIST, "it is there already", path) from None
            raise Refused(errno.EBUSY, "somebody else is about to give this name", path) from None
        held = os.path.join(claim, TEMPORARY + token)
        try:
            os.rename(temporary, held)
            try:
                if os.path.lexists(path):
                    raise Refused(errno.EEXIST, "it is there already", path)
                os.rename(held, path)
            except BaseException:
                os.rename(held, temporary)
                raise
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise Refused(errno.ESTALE, "its claim to the name was broken meanwhile", path) from None
            raise
        finally:
            try:
                os.rmdir(claim)
            except OSError:
                pass
        sync_folder(folder)

    def clear(self, claim, token):
        broken = os.path.join(os.path.dirname(claim), TEMPORARY + b"broken-" + token)
        try:
            os.rename(claim, broken)
            drop(broken)
        except OSError:
            # Somebody else has broken it.
            pass

    def walk(self, folder, prefix, hidden, found, depth=0):
        """Adds every file below a folder, or what is under way there. What vanishes between two looks may have a
        successor that came after the first: then all is looked at once more."""
        if depth > DEEPEST:
            return
        for _look in range(LOOKS):
            folders, files, whole = [], [], True
            try:
                names = os.listdir(folder)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    return
                raise
            for name in names:
                secret = name.startswith(b".")
                if secret and not (hidden and name.startswith(TEMPORARY)):
                    continue
                try:
                    facts = os.lstat(os.path.join(folder, name))
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        raise
                    whole = False
                    continue
                full = prefix + b"/" + name if prefix else name
                inner = stat.S_ISDIR(facts.st_mode)
                if inner and not secret:
                    folders.append((os.path.join(folder, name), full))
                elif secret == hidden:
                    files.append(LISTED.pack(facts.st_size, facts.st_mtime_ns, inner, len(full)) + full)
            if whole:
                break
        found.extend(b"".join(files))
        for path, full in folders:
            self.walk(path, full, hidden, found, depth + 1)


class Agent(object):
    def __init__(self):
        self.root = None
        self.growing = {}
        self.touched = 0
        self.room = bytearray()
        self.files = {}
        self.input = io.FileIO(0, "r", closefd=False)
        self.requests = collections.deque()
        self.arrived = threading.Condition()
        self.waiting = 0
        self.ready = collections.deque()
        self.to_send = threading.Condition()
        self.free = collections.deque(bytearray(FRAME.size + STEP) for number in range(BUFFERS))
        self.scratch = bytearray(STEP)

    # The reader

    def take(self, count, lease):
        data = bytearray(count)
        view = memoryview(data)
        done = 0
        while done < count:
            if not select.select([0], [], [], lease)[0]:
                complain("nothing was heard from the other side for %d seconds" % lease)
            got = self.input.readinto(view[done:])
            if not got:
                leave(0 if done == 0 else 3)
            done += got
        return data

    def listen(self, lease):
        while True:
            mark, kind, flags, number, length = FRAME.unpack(self.take(FRAME.size, lease))
            if mark != MARK or length > MAX_BODY:
                complain("this is no request: %r" % (mark,))
            body = self.take(length, lease)
            if kind == BEAT:
                continue
            with self.arrived:
                self.waiting += length
                self.requests.append((kind, flags, number, body))
                if len(self.requests) > WINDOW_REQUESTS or self.waiting > WINDOW_BYTES + MAX_BODY:
                    complain("more requests at once than the window allows")
                self.arrived.notify()

    # The writer

    def send(self, frame, buffer=None):
        with self.to_send:
            while len(self.ready) >= 2 * BUFFERS:
                self.to_send.wait()
            self.ready.append((frame, buffer))
            self.to_send.notify_all()

    def write_out(self):
        while True:
            with self.to_send:
                while not self.ready:
                    self.to_send.wait()
                frame, buffer = self.ready.popleft()
                self.to_send.notify_all()
            view = memoryview(frame)
            try:
                while len(view):
                    view = view[os.write(1, view) :]
            except OSError:
                leave(3)
            if buffer is not None:
                with self.to_send:
                    self.free.append(buffer)
                    self.to_send.notify_all()

    def buffer(self):
        with self.to_send:
            while not self.free:
                self.to_send.wait()
            return self.free.popleft()

    # The worker

    def work(self):
        acts = {
            OPEN: self.open,
            CLOSE: self.close,
            STAT: self.stat,
            RANGES: self.ranges,
            HASH: self.hash,
            FETCH: self.fetch,
            WRITE: self.write,
            SYNC: self.sync,
            PING: lambda flags, number, body: b"",
            ROOT: self.set_root,
            LIST: self.list,
            GET: self.get,
            PUT: self.put,
            TEMP: self.temp,
            NAME: self.name,
            LOOK: self.look,
            REMOVE: self.remove,
            KEEP: self.keep,
            PROVE: self.prove,
            UNPACK: self.unpack,
        }
        while True:
            self.touch()
            with self.arrived:
                while not self.requests:
                    self.arrived.wait(TOUCH_SECONDS if self.growing else None)
                    if self.growing and not self.requests:
                        break
                if not self.requests:
                    continue
                kind, flags, number, body = self.requests.popleft()
                self.waiting -= len(body)
            try:
                if kind not in acts:
                    raise Refused(errno.ENOSYS, "the agent knows no request of kind %d" % kind)
                answer = acts[kind](flags, number, body)
            except Refused as error:
                self.fail(number, error.number, str(error), error.path)
            except OSError as error:
                self.fail(number, error.errno or errno.EIO, error.strerror or str(error), self.path_of(kind, body))
            except MemoryError:
                self.fail(number, errno.ENOMEM, "the host gives the agent no more memory", self.path_of(kind, body))
            except Exception as error:
                text = "the agent failed: %s: %s" % (type(error).__name__, error)
                self.fail(number, errno.EPROTO, text, self.path_of(kind, body))
            else:
                if answer is not None:
                    self.send(FRAME.pack(MARK, DONE, 0, number, len(answer)) + answer)

    def path_of(self, kind, body):
        if kind == OPEN:
            return bytes(body[3:])
        return self.working.path if getattr(self, "working", None) is not None else None

    def fail(self, number, code, text, path):
        words = {
            "errno": code,
            "name": errno.errorcode.get(code, str(code)),
            "reason": text[:1000],
            "path": None if path is None else bytes(path[:4096]).decode("utf-8", "surrogateescape"),
        }
        body = json.dumps(words).encode("ascii")
        self.send(FRAME.pack(MARK, FAILED, 0, number, len(body)) + body)

    def file(self, number):
        found = self.files.get(number)
        if found is None:
            raise Refused(errno.EBADF, "file %d is not open" % number)
        self.working = found
        return found

    def open(self, flags, number, body):
        self.working = None
        (chosen,) = struct.unpack(">H", body[:2])
        if chosen in self.files:
            raise Refused(errno.EBADF, "file %d is open already" % chosen)
        opened = Opened(bytes(body[3:]), body[2] == 1)
        self.files[chosen] = opened
        return json.dumps(opened.facts()).encode("ascii")

    def close(self, flags, number, body):
        (chosen,) = struct.unpack(">H", body)
        found = self.file(chosen)
        del self.files[chosen]
        self.growing.pop(chosen, None)
        found.file.close()
        return b""

    def stat(self, flags, number, body):
        return json.dumps(self.file(struct.unpack(">H", body)[0]).facts()).encode("ascii")

    def ranges(self, flags, number, body):
        chosen, begin, end = RANGE_REQUEST.unpack(body)
        opened = self.file(chosen)
        size = os.fstat(opened.handle).st_size
        end = min(end, size)
        believed = min(end, opened.believed())
        found = []
        place = begin
        while place < end and len(found) < MAX_RANGES:
            try:
                part = opened.data_from(place, size) if place < believed else (place, end)
            except OSError:
                part = (place, end)
            if part is None or part[0] >= believed:
                part = (max(place, believed), end)
            if part[0] < end:
                found.append((part[0], min(part[1], end)))
            place = part[1]
        answer = struct.pack(">BQ", 1 if believed else 0, min(place, end))
        return answer + b"".join(struct.pack(">QQ", *part) for part in found)

    def pieces(self, body, place):
        """The pieces of a request: (length, segments) each."""
        (count,) = COUNT.unpack_from(body, place)
        place += COUNT.size
        if count > MAX_PIECES:
            raise Refused(errno.EINVAL, "more pieces than a request may have")
        for _number in range(count):
            (segments,) = COUNT.unpack_from(body, place)
            place += COUNT.size
            found = []
            length = 0
            for _part in range(segments):
                segment = SEGMENT.unpack_from(body, place)
                place += SEGMENT.size
                length += segment[2]
                found.append(segment)
            yield length, found

    def fill(self, view, segments):
        """Fills the view from the front of the segments, which it shortens; False when nothing but zeros is meant."""
        done = 0
        real = False
        while done < len(view):
            chosen, offset, length = segments[0]
            count = min(length, len(view) - done)
            part = view[done : done + count]
            if chosen == NO_FILE:
                part[:] = NOTHING[:count] if count < STEP else NOTHING
            else:
                self.file(chosen).read(part, offset)
                real = True
            if count == length:
                segments.popleft()
            else:
                segments[0] = (chosen, offset + count, length - count)
            done += count
        return real and not NOTHING.startswith(view)

    def hash(self, flags, number, body):
        answers = []
        buffer = memoryview(self.scratch)
        for length, segments in self.pieces(body, 0):
            if all(segment[0] == NO_FILE for segment in segments):
                answers.append(b"\0" * 33)
                continue
            left = collections.deque(segments)
            done = 0
            made = None
            while done < length:
                view = buffer[: min(STEP, length - done)]
                real = self.fill(view, left)
                if real and made is None:
                    made = hashlib.sha256()
                    for place in range(0, done, STEP):
                        made.update(memoryview(NOTHING)[: min(STEP, done - place)])
                if made is not None:
                    made.update(view)
                done += len(view)
            answers.append(b"\0" * 33 if made is None else b"\1" + made.digest())
        return b"".join(answers)

    def fetch(self, flags, number, body):
        (level,) = FETCH_HEAD.unpack_from(body)
        if level and zlib is None:
            raise Refused(errno.ENOSYS, "the host's Python has no zlib")
        for length, segments in self.pieces(body, FETCH_HEAD.size):
            left = collections.deque(segments)
            done = 0
            while done < length:
                count = min(STEP, length - done)
                done += count
                if left[0][0] == NO_FILE and left[0][2] >= count:
                    if left[0][2] == count:
                        left.popleft()
                    else:
                        left[0] = (NO_FILE, 0, left[0][2] - count)
                    self.send(FRAME.pack(MARK, DATA, ZEROS, number, 0))
                    continue
                buffer = self.buffer()
                whole = memoryview(buffer)
                try:
                    real = self.fill(whole[FRAME.size : FRAME.size + count], left)
                except BaseException:
                    with self.to_send:
                        self.free.append(buffer)
                    raise
                codec = 0
                size = count
                if not real:
                    codec, size = ZEROS, 0
                elif level:
                    began = time.time()
                    packed = zlib.compress(whole[FRAME.size : FRAME.size + count], level)
                    took = PACKED_HEAD.pack(min(max(int((time.time() - began) * 1e6), 0), 0xFFFFFFFF))
                    # Unpacking costs the other side something: only where it saves anything.
                    if len(packed) < count - count // 128:
                        codec, size = ZLIB, len(took) + len(packed)
                        whole[FRAME.size : FRAME.size + size] = took + packed
                FRAME.pack_into(buffer, 0, MARK, DATA, codec, number, size)
                self.send(whole[: FRAME.size + size], buffer)

    def write(self, flags, number, body):
        chosen, offset, length = WRITE_HEAD.unpack_from(body)
        opened = self.file(chosen)
        if not opened.file.writable():
            raise Refused(errno.EBADF, "it was opened to be read", opened.path)
        data = memoryview(body)[WRITE_HEAD.size :]
        if length > STEP:
            raise Refused(errno.EINVAL, "more than a request may write", opened.path)
        if flags == ZEROS:
            data = memoryview(NOTHING)[:length]
        elif flags == ZLIB:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, length + 1)
        if len(data) != length:
            raise Refused(errno.EINVAL, "%d bytes came to be written, not %d" % (len(data), length), opened.path)
        opened.write(data, offset)
        return b""

    def sync(self, flags, number, body):
        os.fsync(self.file(struct.unpack(">H", body)[0]).handle)
        return b""

    # A store in a folder

    def touch(self):
        """What nobody has touched for a while is taken for a dead one's."""
        if not self.growing or time.monotonic() - self.touched < TOUCH_SECONDS:
            return
        self.touched = time.monotonic()
        for path in list(self.growing.values()):
            try:
                os.utime(path)
            except OSError:
                # Whoever uses it next is told.
                pass

    def place(self, name):
        self.working = Named(name)
        if self.root is None:
            raise Refused(errno.EPERM, "no folder was named that files may be made in", name)
        path = self.root.place(name)
        self.working = Named(path)
        return path

    def set_root(self, flags, number, body):
        self.working = Named(bytes(body))
        self.root = Root(bytes(body))
        words = {
            "real": self.root.path.decode("utf-8", "surrogateescape"),
            "there": os.path.isdir(self.root.path),
            "above": os.path.isdir(os.path.dirname(self.root.path)),
        }
        return json.dumps(words).encode("ascii")

    def stream(self, number, data):
        place = 0
        while True:
            part = bytes(data[place : place + STEP])
            place += len(part)
            more = MORE if place < len(data) else 0
            self.send(FRAME.pack(MARK, DATA, more, number, len(part)) + part)
            if not more:
                return

    def list(self, flags, number, body):
        prefix = bytes(body)
        folder = self.place(prefix) if prefix else None
        if folder is None:
            self.place(b"x")
            folder = self.root.path
        found = bytearray()
        self.root.walk(folder, prefix, flags == HIDDEN, found)
        self.stream(number, found)

    def get(self, flags, number, body):
        (most,) = GET_HEAD.unpack_from(body)
        path = self.place(bytes(body[GET_HEAD.size :]))
        opened = Opened(path, False)
        try:
            size = os.fstat(opened.handle).st_size
            if size > most:
                raise Refused(errno.EFBIG, "it has %d bytes, and %d are the most" % (size, most), path)
            place = 0
            while True:
                part = bytearray(min(STEP, size - place))
                opened.read(memoryview(part), place)
                place += len(part)
                more = MORE if place < size else 0
                self.send(FRAME.pack(MARK, DATA, more, number, len(part)) + bytes(part))
                if not more:
                    return
        finally:
            opened.file.close()

    def made(self, path, size=0):
        """A file under way, open; of one that is there, so many bytes count."""
        handle = os.open(path, os.O_RDWR if size else os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            there = os.fstat(handle).st_size
            if there < size:
                raise Refused(errno.ENODATA, "it has %d bytes, and %d were written" % (there, size), path)
            if there > size:
                os.ftruncate(handle, size)
            opened = Opened(path, True, handle)
        except BaseException:
            os.close(handle)
            raise
        opened.end = size
        return opened

    def put(self, flags, number, body):
        token, length = PUT_HEAD.unpack_from(body)
        begin = PUT_HEAD.size + length
        path = self.place(bytes(body[PUT_HEAD.size : begin]))
        temporary = self.root.under_way(path, token)
        self.root.make_folder(os.path.dirname(path))
        opened = self.made(temporary)
        try:
            try:
                opened.write(memoryview(body)[begin:], 0)
                os.fsync(opened.handle)
            finally:
                opened.file.close()
            self.root.give(temporary, path, token, flags == BREAK)
        except BaseException:
            try:
                os.unlink(temporary)
            except OSError:
                pass
            raise
        return b""

    def temp(self, flags, number, body):
        chosen, size, token = TEMP_HEAD.unpack_from(body)
        path = self.place(bytes(body[TEMP_HEAD.size :]))
        temporary = self.root.under_way(path, token)
        if chosen in self.files:
            raise Refused(errno.EBADF, "file %d is open already" % chosen)
        if not size:
            self.root.make_folder(os.path.dirname(path))
        opened = self.made(temporary, size)
        self.files[chosen] = opened
        self.growing[chosen] = temporary
        return json.dumps(opened.facts()).encode("ascii")

    def name(self, flags, number, body):
        chosen, token = NAME_HEAD.unpack_from(body)
        path = self.place(bytes(body[NAME_HEAD.size :]))
        opened = self.file(chosen)
        os.fsync(opened.handle)
        self.root.give(opened.path, path, token, flags == BREAK)
        del self.files[chosen]
        self.growing.pop(chosen, None)
        opened.file.close()
        return b""

    def look(self, flags, number, body):
        found = os.lstat(self.place(bytes(body)))
        return json.dumps({"size": found.st_size, "inode": found.st_ino, "device": found.st_dev}).encode("ascii")

    def remove(self, flags, number, body):
        path = self.place(bytes(body))
        try:
            if os.path.basename(path).startswith(TEMPORARY):
                drop(path)
            else:
                os.unlink(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return b""
        sync_folder(os.path.dirname(path))
        return b""

    def space(self, count):
        """Room that is kept: as much anew for each chunk costs more than hashing it."""
        if len(self.room) < count:
            self.room = bytearray(count)
        return memoryview(self.room)[:count]

    def keep(self, flags, number, body):
        chosen, level = KEEP_HEAD.unpack_from(body)
        pack = self.file(chosen)
        if pack.end is None:
            raise Refused(errno.EBADF, "it is no file under way", pack.path)
        if level and zlib is None:
            level = 0
        answers = []
        for length, segments in self.pieces(body, KEEP_HEAD.size):
            if length > LONGEST_CHUNK:
                raise Refused(errno.EINVAL, "more than a chunk may have", pack.path)
            whole = self.space(RECORD.size + length + SUM)
            view = whole[RECORD.size : RECORD.size + length]
            left = collections.deque(segments)
            for place in range(0, length, STEP):
                self.fill(view[place : place + STEP], left)
            digest = hashlib.sha256(view).digest()
            codec, payload = RAW_CODEC, view
            if level:
                packed = zlib.compress(view, level)
                if len(packed) < length:
                    codec, payload = ZLIB_CODEC, packed
            head = RECORD.pack(RECORD_MAGIC, codec, 0, 0, length, len(payload), digest, digest[:SUM])
            total = hashlib.sha256(head)
            total.update(payload)
            size = RECORD.size + len(payload)
            whole[: RECORD.size] = head
            if codec != RAW_CODEC:
                whole[RECORD.size : size] = payload
            whole[size : size + SUM] = total.digest()[:SUM]
            # What fails from here on is about the pack.
            self.working = pack
            pack.write(whole[: size + SUM], pack.end)
            pack.end += size + SUM
            answers.append(KEPT.pack(digest, codec, len(payload)))
        return b"".join(answers)

    def prove(self, flags, number, body):
        opened = self.file(struct.unpack_from(">H", body)[0])
        answers = []
        for offset, stored, length in PROOF.iter_unpack(bytes(body[2:])):
            answers.append(self.proven(opened, offset, stored, length, flags == DEEP))
        return b"".join(answers)

    def proven(self, opened, offset, stored, length, deep):
        """What is not proven here is looked at by the other side."""
        nothing = PROVEN.pack(0, b"", b"")
        whole = self.record(opened, offset, stored, length)
        if whole is None:
            return nothing
        head = bytes(whole[: RECORD.size])
        if not deep:
            return PROVEN.pack(1, head, b"")
        data = self.held(whole, length)
        if data is None:
            return nothing
        return PROVEN.pack(1, head, hashlib.sha256(data).digest())

    def record(self, opened, offset, stored, length):
        """A whole record whose sum is right, or None."""
        if max(stored, length) > LONGEST_CHUNK:
            return None
        whole = self.space(RECORD.size + stored + SUM)
        try:
            for place in range(0, len(whole), STEP):
                opened.read(whole[place : place + STEP], offset + place)
        except (OSError, Refused):
            return None
        if hashlib.sha256(whole[:-SUM]).digest()[:SUM] != bytes(whole[-SUM:]):
            return None
        return whole

    def held(self, whole, length):
        """What a record holds, or None where that cannot be told here."""
        data = whole[RECORD.size : -SUM]
        codec = whole[4]
        if codec == ZLIB_CODEC and zlib is not None:
            unpacker = zlib.decompressobj()
            try:
                data = unpacker.decompress(data, length + 1)
            except zlib.error:
                return None
        elif codec != RAW_CODEC:
            return None
        return data if len(data) == length else None

    def unpack(self, flags, number, body):
        """Out of a pack into a disk beside it. What cannot be had that way comes from the other side."""
        chosen, packed = UNPACK_HEAD.unpack_from(body)
        target, pack = self.file(chosen), self.file(packed)
        answers = []
        at = UNPACK_HEAD.size
        while at < len(body):
            offset, stored, length, count = UNPACKED.unpack_from(body, at)
            at += UNPACKED.size
            whole = self.record(pack, offset, stored, length)
            data = None if whole is None else self.held(whole, length)
            # What fails from here on is about the disk.
            self.working = target
            for place in range(at, at + count * PLACE.size, PLACE.size):
                if data is not None:
                    target.write(data, PLACE.unpack_from(body, place)[0])
            at += count * PLACE.size
            answers.append(b"\0" * 33 if data is None else b"\1" + hashlib.sha256(data).digest())
        return b"".join(answers)


def greeting(token):
    words = {
        "version": VERSION,
        "pid": os.getpid(),
        "token": token,
        "python": list(sys.version_info[:3]),
        "system": platform.system(),
        "zlib": zlib is not None,
    }
    body = json.dumps(words).encode("ascii")
    return MAGIC % VERSION + FRAME.pack(MARK, DONE, 0, 0, len(body)) + body


def main(token, lease):
    agent = Agent()
    agent.send(greeting(token))
    for target in (agent.write_out, agent.work):
        thread = threading.Thread(target=target)
        thread.daemon = True
        thread.start()
    agent.listen(lease)


if __name__ == "__main__":
    main(sys.argv[-2], float(sys.argv[-1]))
