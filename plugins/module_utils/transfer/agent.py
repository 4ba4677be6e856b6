# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent: runs on the hypervisor, in the host's own Python, read from standard input.

One self-contained source: standard library only, grammar of Python 3.5, no epoll, no multiprocessing, under 64 MiB of
memory, nothing written to the host's file system but what WRITE is asked for. Its other side is ``link.py``, which
takes the numbers of the protocol from here.

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

OPEN, CLOSE, STAT, RANGES, HASH, FETCH, WRITE, SYNC, PING, BYE, BEAT = range(1, 12)
DONE, DATA, FAILED = 128, 129, 130
ZLIB, ZEROS = 1, 2

SEGMENT = struct.Struct(">HQI")  # file, offset, length
COUNT = struct.Struct(">I")
NO_FILE = 0xFFFF
RANGE_REQUEST = struct.Struct(">HQQ")
WRITE_HEAD = struct.Struct(">HQI")  # file, offset, length of the data once it is decoded
FETCH_HEAD = struct.Struct(">B")  # level of zlib, 0: raw
PACKED_HEAD = struct.Struct(">I")  # in front of packed bytes: microseconds that the packing took

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
    def __init__(self, path, writable):
        self.path = path
        # A pipe or a device would hold the worker in open() or read() for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused(errno.EINVAL, "it is not an ordinary file", path)
        # Plain seek, read and write: what newer calls do on VMkernel is not known.
        self.file = io.FileIO(path, "r+" if writable else "r")
        self.handle = self.file.fileno()
        self.limit = None

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


class Agent(object):
    def __init__(self):
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
            BYE: lambda flags, number, body: b"",
        }
        while True:
            with self.arrived:
                while not self.requests:
                    self.arrived.wait()
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
