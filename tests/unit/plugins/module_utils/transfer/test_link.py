# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A link trusts its other side with nothing: whatever comes, or does not, it ends in a clear error, soon and small."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import ProcessPipe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent, errors, starting
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import link as transfer_link
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import RemoteFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink

from .conftest import PYTHONS, interpreter, local_pipe

MIB = 1 << 20
STALL = 1.5
Start = Callable[..., AgentLink]

# A peer that starts like the agent, knows its numbers, and then does what the test wants.
PEER = """
import json, os, sys, time, zlib
def take(count):
    data = b""
    while len(data) < count:
        more = os.read(0, count - len(data))
        if not more:
            os._exit(0)
        data += more
    return data
def put(data):
    while data:
        data = data[os.write(1, data):]
source = {"__name__": "agent"}
exec(zlib.decompress(take(int(sys.argv[1]))), source)
FRAME, MARK = source["FRAME"], source["MARK"]
OPEN, DONE, DATA, FAILED, ZLIB, ZEROS = (source[n] for n in ("OPEN", "DONE", "DATA", "FAILED", "ZLIB", "ZEROS"))
def frame(kind, flags, number, body=b"", length=None):
    return FRAME.pack(MARK, kind, flags, number, len(body) if length is None else length) + body
def request():
    mark, kind, flags, number, length = FRAME.unpack(take(FRAME.size))
    return kind, number, take(length)
def greet():
    put(source["greeting"]("peer"))
def opened(size=1 << 30):
    greet()
    kind, number, body = request()
    put(frame(DONE, 0, number, json.dumps({"size": size, "mtime_ns": 1, "allocated": 0, "device": 1, "inode": 1,
                                           "real": "/disk"}).encode()))
    return request()
"""


def peer(code: str) -> ProcessPipe:
    return local_pipe([sys.executable, "-c", PEER + code, str(len(interpreter(PYTHONS[-1]).program()))])


def rss() -> int:
    (kib,) = [
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmRSS:")
    ]
    return kib * 1024


STARTS: dict[str, tuple[str, type[errors.TransferError], str]] = {
    "ends": ("sys.exit(3)", errors.AgentNotStarted, "output ended"),
    "ends-with-words": (
        "sys.stderr.write('no such module: hashlib\\n'); sys.exit(1)",
        errors.AgentNotStarted,
        "hashlib",
    ),
    "banner": ("put(b'Welcome to this host!\\n' * 3); time.sleep(30)", errors.AgentNotStarted, "Welcome to this host!"),
    "terminal": ("put(b'\\x1b[2J\\x07evil' * 30); time.sleep(30)", errors.AgentNotStarted, r"\?\[2J\?evil"),
    "endless": ("while True: put(bytes(65536))", errors.AgentNotStarted, "instead of its greeting"),
    "silent": ("time.sleep(30)", errors.AgentSilent, "greeting"),
    "half": ("put(source['greeting']('x')[:25]); time.sleep(30)", errors.AgentSilent, "greeting"),
    "no-json": ("put(b'\\nSTOWAGE AGENT 1\\n' + frame(DONE, 0, 0, b'{'))", errors.AgentLies, "greeting"),
    "list": ("put(b'\\nSTOWAGE AGENT 1\\n' + frame(DONE, 0, 0, b'[1]'))", errors.AgentLies, "greeting"),
    "deep": ("put(b'\\nSTOWAGE AGENT 1\\n' + frame(DONE, 0, 0, b'[' * 4000))", errors.AgentLies, "greeting"),
    "long": ("put(b'\\nSTOWAGE AGENT 1\\n' + frame(DONE, 0, 0, b'', 1 << 31))", errors.AgentLies, "greeting"),
    "all": ("put(b'\\nSTOWAGE AGENT 1\\n' + frame(DONE, 0, 0, b'{\"pid\": -1}'))", errors.AgentLies, "greeting"),
    "init": ("put(b'\\nSTOWAGE AGENT 1\\n' + frame(DONE, 0, 0, b'{\"pid\": 1}'))", errors.AgentLies, "process id"),
    "other-version": ("put(b'\\nSTOWAGE AGENT 9\\n' + bytes(50)); time.sleep(30)", errors.AgentNotStarted, "AGENT 9"),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_peer_that_starts_wrongly(name: str) -> None:
    code, kind, words = STARTS[name]
    link = AgentLink(peer(code), "esx1", stall_seconds=STALL)
    begun = time.monotonic()
    try:
        with pytest.raises(kind, match=words) as caught:
            link.greet(interpreter(PYTHONS[-1]))
        assert "esx1" in str(caught.value)
        assert str(caught.value).isprintable()
    finally:
        link.abandon()
    assert time.monotonic() - begun < STALL + 8
    assert link.received_bytes < 2 * MIB


def hashes(link: AgentLink, file: RemoteFile) -> Any:
    return link.hash([[(file, 0, MIB)]] * 3).result()


def fetch(link: AgentLink, file: RemoteFile) -> Any:
    return [bytes(view) for view in link.fetch([[(file, 0, MIB + 5)], [(file, 0, 9)]], level=1).chunks()]


def ranges(link: AgentLink, file: RemoteFile) -> Any:
    return list(link.data_ranges(file, 4096, 1 << 20))


def write(link: AgentLink, file: RemoteFile) -> Any:
    return link.write(file, 0, b"data").result()


def stat(link: AgentLink, file: RemoteFile) -> Any:
    return link.stat(file).result()


RANGES = "put(frame(DONE, 0, n, b'\\0' + b''.join(x.to_bytes(8, 'big') for x in (1 << 20, {}, {}, {}, {}))))"
FACTS = (
    "put(frame(DONE, 0, n, json.dumps({{'size': {}, 'mtime_ns': 1, 'allocated': 0, 'device': 1, 'inode': 1, "
    "'real': '/disk'}}).encode()))"
)

FAILURE = "put(frame(FAILED, 0, n, json.dumps({{'errno': {}, 'name': {}, 'reason': 'r', 'path': '/disk'}}).encode()))"

# What the peer answers to the request after OPEN, whose number is n.
ANSWERS: list[tuple[str, Callable[..., Any], str, type[errors.TransferError], str]] = [
    ("silence", hashes, "time.sleep(60)", errors.AgentSilent, "1.5 seconds.*/disk from byte 0"),
    ("end", hashes, "sys.stderr.write('Killed\\n'); sys.exit(9)", errors.AgentLost, "Killed"),
    ("zeros", hashes, "\nwhile True: put(bytes(65536))", errors.AgentLies, "frame begins with"),
    ("noise", hashes, "\nwhile True: put(os.urandom(65536))", errors.AgentLies, "frame begins with"),
    ("too-long", hashes, "put(frame(DONE, 0, n, b'', 0xFFFFFFFF))", errors.AgentLies, "4294967295 bytes"),
    ("one-more", hashes, "put(frame(DONE, 0, n, bytes(100)))", errors.AgentLies, "100 bytes"),
    ("one-less", hashes, "put(frame(DONE, 0, n, bytes(98)))", errors.AgentLies, "98 bytes for 3 hashes"),
    ("other-number", hashes, "put(frame(DONE, 0, n + 1, bytes(99)))", errors.AgentLies, "answers request"),
    ("old-number", hashes, "put(frame(DONE, 0, n - 1, bytes(99)))", errors.AgentLies, "answers request"),
    ("other-kind", hashes, "put(frame(DATA, 0, n, bytes(99)))", errors.AgentLies, "kind 129"),
    ("half", hashes, "put(frame(DONE, 0, n, bytes(50), 99)); time.sleep(60)", errors.AgentSilent, "/disk"),
    (
        "drip",
        hashes,
        "\nfor b in frame(DONE, 0, n, bytes(99)): put(bytes([b])); time.sleep(0.2)",
        errors.AgentSilent,
        "/disk",
    ),
    ("cut", hashes, "put(frame(DONE, 0, n, bytes(50), 99)); sys.exit()", errors.AgentLost, "ended"),
    ("fail-text", hashes, "put(frame(FAILED, 0, n, b'no json'))", errors.AgentLies, "cannot be understood"),
    ("fail-list", hashes, "put(frame(FAILED, 0, n, b'[]'))", errors.AgentLies, "cannot be understood"),
    ("fail-deep", hashes, "put(frame(FAILED, 0, n, b'[' * 30000))", errors.AgentLies, "cannot be understood"),
    ("fail-long", hashes, "put(frame(FAILED, 0, n, b'', 1 << 20))", errors.AgentLies, "an error of"),
    ("data-short", fetch, "put(frame(DATA, 0, n, bytes(1 << 19)))", errors.AgentLies, "524288 bytes packed as 0"),
    ("data-long", fetch, "put(frame(DATA, 0, n, b'', (1 << 20) + 1))", errors.AgentLies, "1048577 bytes"),
    ("data-flags", fetch, "put(frame(DATA, 7, n, b'x'))", errors.AgentLies, "packed as 7"),
    ("zeros-body", fetch, "put(frame(DATA, ZEROS, n, b'x'))", errors.AgentLies, "packed as 2"),
    ("no-zlib", fetch, "put(frame(DATA, ZLIB, n, b'1234no zlib'))", errors.AgentLies, "unpacked"),
    (
        "bomb",
        fetch,
        "put(frame(DATA, ZLIB, n, b'1234' + zlib.compress(bytes(1 << 26), 1)))",
        errors.AgentLies,
        "another length",
    ),
    (
        "short-zlib",
        fetch,
        "put(frame(DATA, ZLIB, n, b'1234' + zlib.compress(bytes(9))))",
        errors.AgentLies,
        "another length",
    ),
    (
        "cut-zlib",
        fetch,
        "put(frame(DATA, ZLIB, n, b'1234' + zlib.compress(bytes(1 << 20))[:-2]))",
        errors.AgentLies,
        "another length",
    ),
    (
        "tail-zlib",
        fetch,
        "put(frame(DATA, ZLIB, n, b'1234' + zlib.compress(bytes(1 << 20)) + b'x'))",
        errors.AgentLies,
        "another length",
    ),
    ("data-and-silence", fetch, "put(frame(DATA, ZEROS, n)); time.sleep(60)", errors.AgentSilent, "/disk"),
    ("data-for-done", write, "put(frame(DATA, 0, n))", errors.AgentLies, "kind 129"),
    ("write-body", write, "put(frame(DONE, 0, n, b'x'))", errors.AgentLies, "up to 0"),
    ("ranges-empty", ranges, "put(frame(DONE, 0, n))", errors.AgentLies, "cannot be understood"),
    (
        "ranges-still",
        ranges,
        "put(frame(DONE, 0, n, b'\\0' + (4096).to_bytes(8, 'big')))",
        errors.AgentLies,
        "it tells up to",
    ),
    (
        "ranges-beyond",
        ranges,
        "put(frame(DONE, 0, n, b'\\0' + (1 << 40).to_bytes(8, 'big')))",
        errors.AgentLies,
        "it tells up to",
    ),
    ("ranges-back", ranges, RANGES.format(5000, 6000, 4500, 4600), errors.AgentLies, "before the last"),
    ("ranges-outside", ranges, RANGES.format(0, 100, 5000, 6000), errors.AgentLies, "lies outside"),
    (
        "ranges-odd",
        ranges,
        "put(frame(DONE, 0, n, b'\\0' + (1 << 20).to_bytes(8, 'big') + b'odd'))",
        errors.AgentLies,
        "understood",
    ),
    ("size-negative", stat, FACTS.format("-5"), errors.AgentLies, "no size"),
    ("size-text", stat, FACTS.format("'5'"), errors.AgentLies, "no size"),
    (
        "endless-time",
        stat,
        FACTS.replace("'mtime_ns': 1", "'mtime_ns': 1e999").format("5"),
        errors.AgentLies,
        "infinity",
    ),
    ("endless-errno", stat, FAILURE.format("1e999", "'E'"), errors.AgentLies, "infinity"),
    ("size-huge", stat, FACTS.format("1 << 80"), errors.AgentLies, "no size"),
]


@pytest.mark.parametrize(("name", "act", "code", "kind", "words"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_a_peer_that_answers_wrongly(
    name: str, act: Callable[..., Any], code: str, kind: type[errors.TransferError], words: str
) -> None:
    link = AgentLink(peer("kind, n, body = opened()\n" + code.strip() + "\ntime.sleep(60)"), "esx1", stall_seconds=20)
    try:
        link.greet(interpreter(PYTHONS[-1]))
        file = link.open("/disk").result()
        link.stall_seconds = STALL
        before, begun = rss(), time.monotonic()
        with pytest.raises(kind, match=words) as caught:
            act(link, file)
        assert time.monotonic() - begun < STALL + 3
        assert rss() - before < 16 * MIB
        assert link.received_bytes < 4 * MIB
        assert "esx1" in str(caught.value)
        assert caught.value.hint_text
        # What failed once stays failed, with the cause that was told first.
        with pytest.raises(kind) as again:
            link.ping().result()
        assert str(again.value) == str(caught.value)
    finally:
        link.abandon()


def test_a_peer_that_reads_nothing_is_silent_and_not_waited_for(tmp_path: Path) -> None:
    link = AgentLink(peer("opened(); time.sleep(60)"), "esx1", stall_seconds=20)
    try:
        link.greet(interpreter(PYTHONS[-1]))
        file = link.open("/disk", writable=True).result()
        link.stall_seconds = STALL
        begun = time.monotonic()
        with pytest.raises(errors.AgentSilent, match=r"no more requests|/disk"):
            for place in range(100):
                link.write(file, place * MIB, bytes(MIB))
        assert time.monotonic() - begun < STALL + 3
    finally:
        link.abandon()


@pytest.mark.parametrize(("pause", "slow"), [(0.05, True), (0.4, False)], ids=["40 kB/s", "5 kB/s"])
def test_a_frame_may_take_longer_than_the_stall_time_at_an_honest_pace(
    pause: float, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow line; a peer that lets a byte fall now and then is as good as silent."""
    monkeypatch.setattr(transfer_link, "SLOWEST_RATE", 20_000)
    drip = f"put(frame(DATA, 0, n, b'', 200000))\nfor _ in range(100): put(bytes(2000)); time.sleep({pause})"
    link = AgentLink(peer(f"kind, n, body = opened()\n{drip}\ntime.sleep(60)"), "esx1", stall_seconds=20)
    try:
        link.greet(interpreter(PYTHONS[-1]))
        file = link.open("/disk").result()
        link.stall_seconds = STALL
        begun = time.monotonic()
        with contextlib.nullcontext() if slow else pytest.raises(errors.AgentSilent):
            assert link.read(file, 0, 200_000).result() == bytes(200_000)
        seconds = time.monotonic() - begun
        assert seconds > 2 * STALL if slow else seconds < 2 * STALL
    finally:
        link.abandon()


def test_a_peer_that_reads_slowly_is_written_to_for_longer_than_the_stall_time() -> None:
    link = AgentLink(peer("opened()\nwhile True: os.read(0, 20000); time.sleep(0.1)"), "esx1", stall_seconds=20)
    try:
        link.greet(interpreter(PYTHONS[-1]))
        file = link.open("/disk", writable=True).result()
        link.stall_seconds = STALL
        begun = time.monotonic()
        for place in range(3):
            # The first one is read at once, the second one fits into what lies between.
            link.write(file, place * MIB, random.Random(place).randbytes(MIB))
        assert time.monotonic() - begun > 2 * STALL
    finally:
        link.abandon()


def test_what_was_written_is_answered_for_when_it_has_crossed_the_line() -> None:
    """A megabyte vanishes into what lies between at once; the peer has read it, slowly, long after."""
    code = (
        "greet()\nkind, n, body = request()\n"
        "put(frame(DONE, 0, n, json.dumps({'size': 1 << 30, 'mtime_ns': 1, 'allocated': 0, 'device': 1, 'inode': 1, "
        "'real': '/disk'}).encode()))\n"
        "mark, kind, flags, n, length = FRAME.unpack(take(FRAME.size))\n"
        "while length: length -= len(os.read(0, min(length, 20000))); time.sleep(0.1)\n"
        "put(frame(DONE, 0, n))\ntime.sleep(60)"
    )
    link = AgentLink(peer(code), "esx1", stall_seconds=20)
    try:
        link.greet(interpreter(PYTHONS[-1]))
        file = link.open("/disk", writable=True).result()
        link.stall_seconds = STALL
        begun = time.monotonic()
        asked = link.write(file, 0, random.Random(1).randbytes(MIB))
        assert time.monotonic() - begun < STALL
        asked.result()
        assert time.monotonic() - begun > 2 * STALL
    finally:
        link.abandon()


def test_an_error_names_only_files_that_were_opened(tmp_path: Path) -> None:
    words = "json.dumps({'errno': 5, 'name': '\\x1b[2J' * 999, 'reason': 'x\\x1b[1m', 'path': '/etc/shadow'}).encode()"
    link = AgentLink(peer(f"kind, n, body = opened()\nput(frame(FAILED, 0, n, {words}))\ntime.sleep(0.1)"), "esx1")
    try:
        link.greet(interpreter(PYTHONS[-1]))
        file = link.open("/disk").result()
        with pytest.raises(errors.FileRefused) as caught:
            hashes(link, file)
        assert "/etc/shadow" not in str(caught.value)
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()
    finally:
        link.abandon()


class Cut(ProcessPipe):
    """Ends after so many bytes in one direction, as a connection does."""

    reading: int | None = None
    writing: int | None = None
    sent = 0

    def readinto(self, view: memoryview, timeout_seconds: float) -> int:
        if self.reading is not None:
            if self.reading == 0:
                return 0
            view = view[: self.reading]
        count = super().readinto(view, timeout_seconds)
        if self.reading is not None:
            self.reading -= count
        return count

    def write(self, data: bytes | bytearray | memoryview, timeout_seconds: float) -> None:
        if self.writing is not None:
            if self.writing < len(data):
                super().write(memoryview(data)[: self.writing], timeout_seconds)
                self._in.close()
                raise ConnectionLost(host="here", port=0, command="agent", reason="cut")
            self.writing -= len(data)
        self.sent += len(data)
        super().write(data, timeout_seconds)


def story(link: AgentLink, path: str, target: str) -> list[Any]:
    file = link.open(path).result()
    out = link.open(target, writable=True).result()
    told: list[Any] = [list(link.data_ranges(file, 0, file.size))]
    asked = link.hash([[(file, place, 65536)] for place in range(0, file.size - 65536, 65536)])
    views = link.fetch([[(file, 0, 200_000)], [(None, 0, 5)], [(file, 9, 100)]], level=1)
    written = link.write(out, 0, bytes(300))
    told.append(asked.result())
    told.append([bytes(view) for view in views.chunks()])
    written.result()
    link.sync(out).result()
    link.shut(file).result()
    return told


@pytest.mark.parametrize("way", ["reading", "writing"])
def test_a_connection_that_is_cut_anywhere_is_lost_and_never_half_an_answer(way: str, tmp_path: Path) -> None:
    path, target = tmp_path / "disk", tmp_path / "target"
    path.write_bytes(random.Random(1).randbytes(400_000))
    target.touch()
    made = interpreter(PYTHONS[-1])
    argv = made.argv(starting.mark("test"), 60)
    whole: list[Any] = []
    total = 0
    # What goes out is mostly the source; what comes in mostly data: the places between frames are in both.
    chance = random.Random(way)
    for turn in range(31):
        pipe = Cut(argv, "agent", "here", 0, {"PATH": os.environ["PATH"]})
        link = AgentLink(pipe, "here", stall_seconds=10)
        if turn:
            edge = total if turn % 2 else min(total, 1500)
            first = len(made.program()) if way == "writing" else 0
            setattr(pipe, way, min(total - 1, first + chance.randrange(max(1, edge - first))))
        try:
            if not turn:
                link.greet(made)
                whole = story(link, str(path), str(target))
                total = link.received_bytes if way == "reading" else pipe.sent
                continue
            with pytest.raises((errors.AgentLost, errors.AgentNotStarted)):
                link.greet(made)
                assert story(link, str(path), str(target)) == whole
        finally:
            link.abandon()
    assert len(whole[1]) == 6


# Order, windows, and what does not fit one request


@pytest.fixture
def disk(tmp_path: Path) -> tuple[str, bytes]:
    whole = random.Random(2).randbytes(6 * MIB)
    (tmp_path / "disk").write_bytes(whole)
    return str(tmp_path / "disk"), whole


def test_answers_may_be_asked_for_in_any_order(start: Start, disk: tuple[str, bytes]) -> None:
    path, whole = disk
    link = start()
    file = link.open(path).result()
    first = link.fetch([[(file, 0, MIB)], [(None, 0, 10)], [(file, 5, 100)]])
    hashed = link.hash([[(file, 0, 512)]])
    second = link.fetch([[(file, MIB, MIB)]])
    read = link.read(file, 3, 3)
    assert read.result() == read.result() == whole[3:6]
    assert len(hashed.result()) == 1
    assert [bytes(view) for view in second.chunks()] == [whole[MIB : 2 * MIB]]
    assert link.kept_bytes == MIB + 100
    assert [bytes(view) for view in first.chunks()] == [whole[:MIB], bytes(10), whole[5:105]]
    assert link.kept_bytes == 0


def test_what_comes_too_early_is_kept_up_to_the_window_and_then_an_error(start: Start, disk: tuple[str, bytes]) -> None:
    link = start(window_bytes=4 * MIB)
    file = link.open(disk[0]).result()
    link.fetch([[(file, 0, 5 * MIB)]])
    with pytest.raises(errors.OutOfOrder, match=r"disk from byte 0.*4194304"):
        link.ping().result()


def test_what_is_dropped_is_not_kept(start: Start, disk: tuple[str, bytes]) -> None:
    link = start(window_bytes=2 * MIB)
    file = link.open(disk[0]).result()
    asked = link.fetch([[(file, 0, MIB)]] * 30)
    next(asked.chunks())
    asked.drop()
    link.ping().result()
    assert link.kept_bytes == 0


def test_more_pieces_than_a_request_may_have_are_asked_for_in_several(start: Start, disk: tuple[str, bytes]) -> None:
    path, whole = disk
    link = start()
    file = link.open(path).result()
    pieces = [[(file, number * 1024, 500), (file, number * 1024 + 500, 524)] for number in range(3000)]
    found = link.hash(pieces).result()
    assert len(found) == 3000
    assert found == link.hash([[(file, number * 1024, 1024)] for number in range(3000)]).result()
    views = link.fetch(pieces)
    assert b"".join(bytes(view) for view in views.chunks()) == whole[: 3000 * 1024]


def test_far_more_is_asked_for_than_the_agent_takes_at_once(start: Start, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    link = start()
    file = link.open(str(target), writable=True).result()
    asked: list[Any] = [link.ping() for _ in range(3 * agent.WINDOW_REQUESTS)]
    asked += [link.write(file, place * MIB, bytes([place]) * MIB) for place in range(40)]
    for one in asked:
        one.result()
    assert target.read_bytes() == b"".join(bytes([place]) * MIB for place in range(40))


def test_pieces_without_a_byte_are_no_fetch(start: Start, disk: tuple[str, bytes]) -> None:
    link = start()
    file = link.open(disk[0]).result()
    with pytest.raises(ValueError, match="at least one byte"):
        link.fetch([[(file, 0, 0)]])
    assert link.hash([]).result() == []
    assert list(link.fetch([]).chunks()) == []


def test_several_threads_share_a_link(start: Start, disk: tuple[str, bytes]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path, whole = disk
    link = start()
    file = link.open(path).result()

    def work(number: int) -> bool:
        place = number * 1000
        return all(
            link.read(file, place + turn, 70_000).result() == whole[place + turn : place + turn + 70_000]
            and link.hash([[(file, place, 100)]]).result()[0] is not None
            for turn in range(20)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_a_closed_link_says_so(start: Start, disk: tuple[str, bytes]) -> None:
    link = start()
    file = link.open(disk[0]).result()
    link.close()
    link.close()
    with pytest.raises(errors.AgentLost, match="was closed"):
        link.hash([[(file, 0, 1)]])


def test_a_link_that_is_closed_while_another_thread_waits_ends_that_wait(disk: tuple[str, bytes]) -> None:
    import threading

    link = AgentLink(peer("opened(); time.sleep(60)"), "esx1", stall_seconds=30)
    link.greet(interpreter(PYTHONS[-1]))
    file = link.open("/disk").result()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            link.hash([[(file, 0, 1)]]).result()
        except errors.TransferError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)
    begun = time.monotonic()
    link.close()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 5
    assert isinstance(caught[0], errors.AgentLost)


ANSWERED = """greet()
kind, number, body = request()
facts = {"size": 9, "mtime_ns": 1, "allocated": 0, "device": 1, "inode": 1, "real": "/disk"}
put(frame(DONE, 0, number, json.dumps(facts).encode()))
"""


@pytest.mark.parametrize("code", ["", "request()\n"], ids=["before it is told anything", "when it is to answer"])
def test_a_link_whose_connection_has_ended_unnoticed_serves_nobody_else(code: str) -> None:
    pipe = peer(ANSWERED + code + "sys.exit(0)")
    link = AgentLink(pipe, "esx1", stall_seconds=20)
    link.greet(interpreter(PYTHONS[-1]))
    assert link.open("/vmfs/volumes/a/x-flat.vmdk").result().size == 9
    if not code:
        pipe._process.wait(20)
    assert link.forget() is False
    link.close()
