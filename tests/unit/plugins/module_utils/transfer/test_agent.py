# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent answers, in every interpreter of this machine: each request, and each error by the file's name."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent, errors, starting
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import RemoteFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink

from .conftest import PYTHONS, interpreter, local_agent, local_pipe

MIB = 1 << 20
Start = Callable[..., AgentLink]


def content(length: int, seed: int = 5) -> bytes:
    return random.Random(seed).randbytes(length)


@pytest.fixture
def disk(tmp_path: Path) -> tuple[str, bytes]:
    """5 MiB and some: data, a hole, written zeros, data; its name is not text."""
    path = tmp_path / "a b'$(c)\udcff-flat.vmdk"
    whole = content(2 * MIB) + bytes(MIB) + bytes(MIB) + content(MIB + 777, 6)
    with open(path, "wb") as file:
        file.write(whole[: 2 * MIB])
        file.seek(3 * MIB)
        file.write(whole[3 * MIB :])
    return str(path), whole


def sha(data: bytes) -> bytes | None:
    return hashlib.sha256(data).digest() if any(data) else None


def test_a_file_is_opened_and_told_of(every: AgentLink, disk: tuple[str, bytes]) -> None:
    path, whole = disk
    file = every.open(path).result()
    facts = os.stat(path)
    assert (file.path, file.size, file.mtime_ns) == (path, len(whole), facts.st_mtime_ns)
    assert (file.allocated, file.inode, file.device) == (facts.st_blocks * 512, facts.st_ino, facts.st_dev)
    link = path + ".link"
    os.symlink(path, link)
    assert every.open(link).result().real == os.path.realpath(path)
    with open(path, "ab") as more:
        more.write(b"x")
    assert every.stat(file).result().size == len(whole) + 1


def test_bytes_come_as_they_are(every: AgentLink, disk: tuple[str, bytes]) -> None:
    path, whole = disk
    file = every.open(path).result()
    for offset, length in ((0, 1), (MIB - 1, 2), (0, len(whole)), (len(whole) - 777, 777), (2 * MIB - 9, MIB + 18)):
        assert every.read(file, offset, length).result() == whole[offset : offset + length]
    buffer = bytearray(3 * MIB)
    every.load(file, memoryview(buffer), 12345)
    assert buffer == whole[12345 : 12345 + 3 * MIB]


@pytest.mark.parametrize("level", [0, 1, 9])
def test_pieces_of_many_segments_are_hashed_and_fetched_alike(
    every: AgentLink, disk: tuple[str, bytes], level: int, tmp_path: Path
) -> None:
    path, whole = disk
    other = content(9000, 7) + b"text " * 100_000
    (tmp_path / "other").write_bytes(other)
    first, second = every.open(path).result(), every.open(str(tmp_path / "other")).result()
    sources: dict[int, tuple[RemoteFile, bytes]] = {0: (first, whole), 1: (second, other)}
    chance = random.Random(level)
    pieces, wanted = [], []
    for _ in range(40):
        piece: list[tuple[Any, int, int]] = []
        data = b""
        for _ in range(chance.choice((1, 1, 2, 9))):
            length = chance.choice((1, 512, 4096, 65536, MIB, MIB + 3))
            which = chance.randrange(3)
            if which == 2:
                piece.append((None, 0, length))
                data += bytes(length)
                continue
            file, text = sources[which]
            length = min(length, len(text))
            offset = chance.randrange(len(text) - length + 1)
            piece.append((file, offset, length))
            data += text[offset : offset + length]
        pieces.append(piece)
        wanted.append(data)
    hashes, fetched = every.hash(pieces), every.fetch(pieces, level=level)
    assert hashes.result() == [sha(data) for data in wanted]
    assert [bytes(view) for view in fetched.chunks()] == wanted


def test_zeros_do_not_travel_and_text_travels_packed(start: Start, tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(8 * MIB))
    (tmp_path / "text").write_bytes(b"the same again " * 400_000)
    link = start()
    zeros, text = (link.open(str(tmp_path / name)).result() for name in ("zeros", "text"))
    before = link.received_bytes
    assert [any(view) for view in link.fetch([[(zeros, 0, 8 * MIB)], [(None, 0, 16 * MIB)]]).chunks()] == [False] * 2
    assert link.received_bytes - before < 1000
    before = link.received_bytes
    (view,) = [bytes(view) for view in link.fetch([[(text, 0, 5 * MIB)]], level=1).chunks()]
    assert view == (b"the same again " * 400_000)[: 5 * MIB]
    assert link.received_bytes - before < MIB


def test_holes_are_told_where_the_file_system_can(every: AgentLink, disk: tuple[str, bytes], tmp_path: Path) -> None:
    path, whole = disk
    file = every.open(path).result()
    parts = list(every.data_ranges(file, 0, file.size))
    assert parts == [(0, 2 * MIB), (3 * MIB, len(whole))]
    assert list(every.data_ranges(file, MIB, 3 * MIB + 5)) == [(MIB, 2 * MIB), (3 * MIB, 3 * MIB + 5)]
    assert list(every.data_ranges(file, 2 * MIB, 3 * MIB)) == []
    assert list(every.data_ranges(file, file.size, file.size + MIB)) == []
    assert every.ranges(file, 0, file.size).result().proven
    empty = tmp_path / "hole"
    empty.touch()
    os.truncate(empty, 40 * MIB)
    assert list(every.data_ranges(every.open(str(empty)).result(), 0, 40 * MIB)) == []


def test_a_file_in_more_parts_than_an_answer_tells_is_asked_about_again(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "parts"
    count = agent.MAX_RANGES + 100
    with open(path, "wb") as file:
        for number in range(count):
            os.pwrite(file.fileno(), b"x", number * 16384)
    os.truncate(path, count * 16384)
    link = start()
    parts = list(link.data_ranges(link.open(str(path)).result(), 0, count * 16384))
    assert [begin for begin, _end in parts] == [number * 16384 for number in range(count)]


class Lying:
    """A file whose lseek tells what a kernel without SEEK_DATA, or with a bad one, might tell."""

    def __init__(self, answers: Callable[[int, int], int]) -> None:
        self.answers = answers

    def lseek(self, handle: int, place: int, how: int) -> int:
        return os.lseek(handle, place, how) if how < 3 else self.answers(place, how)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _refuse(place: int, how: int) -> int:
    raise OSError(errno.EINVAL, "Invalid argument")


def _one_hole(begin: int, end: int) -> Callable[[int, int], int]:
    """Tells of one hole that may be none."""

    def answer(place: int, how: int) -> int:
        inside = begin <= place < end
        if how == agent.SEEK_DATA:
            return end if inside else place
        return place if inside else begin if place < begin else 6 * MIB

    return answer


@pytest.mark.parametrize(
    "answers",
    [
        _refuse,
        lambda place, how: place,  # taken for SEEK_SET
        lambda place, how: 0,
        lambda place, how: place + 4096,
        lambda place, how: 1 << 50,
        _one_hole(MIB, 2 * MIB),  # there is data, and the places that are looked at show it
        _one_hole(4096, 2 * MIB),
    ],
    ids=["refused", "as-set", "nil", "ever-on", "beyond", "denied-data", "denied-much"],
)
def test_word_about_holes_that_is_not_plausible_is_not_believed(
    answers: Callable[[int, int], int], disk: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in this process, since no file system here lies: the agent's own code over a lying lseek."""
    path, whole = disk
    monkeypatch.setattr(agent, "os", Lying(answers))
    worker = agent.Agent()
    worker.files[1] = agent.Opened(os.fsencode(path), False)
    answer = worker.ranges(0, 1, agent.RANGE_REQUEST.pack(1, 0, len(whole)))
    worker.files[1].file.close()
    assert answer[0] == 0
    assert answer[9:] == (0).to_bytes(8, "big") + len(whole).to_bytes(8, "big")


def test_what_is_written_is_there_and_durable(every: AgentLink, tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.write_bytes(b"old" * MIB)
    file = every.open(str(path), writable=True).result()
    data, text = content(2 * MIB + 5), b"packed " * 300_000
    asked = [
        every.write(file, 10, data),
        every.write(file, 3 * MIB, text, level=1),
        every.write_zeros(file, 100, 50),
        every.sync(file),
    ]
    for one in asked:
        one.result()
    wanted = bytearray(b"old" * MIB)
    wanted[10 : 10 + len(data)] = data
    wanted[3 * MIB : 3 * MIB + len(text)] = text
    wanted[100:150] = bytes(50)
    assert path.read_bytes() == wanted


@pytest.mark.parametrize(
    ("make", "code", "word"),
    [
        (lambda folder: folder / "missing", errno.ENOENT, "No such file"),
        (lambda folder: folder, errno.EINVAL, "not an ordinary file"),
        (lambda folder: Path("/dev/zero"), errno.EINVAL, "not an ordinary file"),
        (lambda folder: os.mkfifo(folder / "fifo") or folder / "fifo", errno.EINVAL, "not an ordinary file"),
    ],
    ids=["missing", "folder", "device", "fifo"],
)
def test_what_cannot_be_opened_is_an_error_that_names_it(
    every: AgentLink, tmp_path: Path, make: Callable[[Path], Path], code: int, word: str
) -> None:
    path = str(make(tmp_path))
    with pytest.raises(errors.FileRefused, match=word) as caught:
        every.open(path).result()
    assert (caught.value.errno, caught.value.data["path"], caught.value.data["host"]) == (code, path, "here")
    assert path in str(caught.value)
    every.ping().result()


def test_a_running_program_is_busy_for_whoever_writes(every: AgentLink, tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    running = subprocess.Popen([str(program), "60"])
    try:
        with pytest.raises(errors.FileRefused, match="ETXTBSY") as caught:
            every.open(str(program), writable=True).result()
        assert caught.value.busy
    finally:
        running.kill()
        running.wait()


def test_a_file_that_is_shorter_than_asked_for_is_an_error_at_its_end(
    every: AgentLink, disk: tuple[str, bytes]
) -> None:
    path, whole = disk
    file = every.open(path).result()
    beyond = [[(file, 0, MIB)], [(file, len(whole) - 10, 20)]]
    for asked in (every.hash(beyond), every.read(file, len(whole) - 10, 20)):
        with pytest.raises(errors.FileRefused, match=f"ends at byte {len(whole)}") as caught:
            asked.result()
        assert caught.value.data["path"] == path
    # The first piece still comes, then the error in place of the second; what was asked for after that is answered.
    views = every.fetch(beyond).chunks()
    later = every.hash([[(file, 0, 512)]])
    assert bytes(next(views)) == whole[:MIB]
    with pytest.raises(errors.FileRefused, match="ends at byte"):
        next(views)
    assert later.result() == [sha(whole[:512])]


def test_a_read_that_fails_is_an_error_that_names_the_file(every: AgentLink) -> None:
    # The first page of a process's memory is a place of an ordinary file that answers EIO.
    file = every.open("/proc/self/mem").result()
    for asked in (every.hash([[(file, 0, 4096)]]), every.read(file, 0, 4096)):
        with pytest.raises(errors.FileRefused, match="/proc/self/mem.*EIO"):
            asked.result()


def test_a_write_that_fails_is_an_error_and_the_others_go_on(every: AgentLink, tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.touch()
    file = every.open(str(path), writable=True).result()
    before, bad, after = (every.write(file, place, b"data") for place in (0, (1 << 63) - 2, 8))
    before.result()
    after.result()
    with pytest.raises(errors.FileRefused, match="target.*written"):
        bad.result()
    reading = every.open(str(path)).result()
    with pytest.raises(errors.FileRefused, match="EBADF"):
        every.write(reading, 0, b"x").result()


def test_a_closed_file_is_no_longer_there_and_its_number_is_used_again(
    every: AgentLink, disk: tuple[str, bytes]
) -> None:
    path, whole = disk
    file = every.open(path).result()

    def held() -> list[str]:
        folder = f"/proc/{every.pid}/fd"
        return [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]

    assert path in held()
    every.shut(file).result()
    assert path not in held()
    with pytest.raises(errors.FileRefused, match="not open"):
        every.hash([[(file, 0, 1)]]).result()
    assert every.open(path).result().number == file.number


def test_a_failed_open_gives_its_number_back(start: Start, tmp_path: Path) -> None:
    link = start()
    for _ in range(3):
        with pytest.raises(errors.FileRefused):
            link.open(str(tmp_path / "missing")).result()
    (tmp_path / "there").touch()
    assert link.open(str(tmp_path / "there")).result().number == 0


@pytest.mark.parametrize("found", PYTHONS, ids=lambda found: found.text)
@pytest.mark.parametrize(("way", "zlib"), [("stdin", True), ("stdin", False), ("command", False)])
def test_it_also_starts_where_its_program_comes_on_standard_input_or_is_not_packed(
    found: Any, way: str, zlib: bool, start: Start, disk: tuple[str, bytes]
) -> None:
    link = start(found, way, zlib=zlib)
    path, whole = disk
    assert link.read(link.open(path).result(), 5, 500).result() == whole[5:505]


def test_memory_stays_under_64_mib_with_all_that_the_window_allows_under_way(every: AgentLink, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content(16 * MIB))
    target = tmp_path / "target"
    target.touch()
    file, out = every.open(str(path)).result(), every.open(str(target), writable=True).result()
    data = content(MIB)
    small = [(file, number * 512, 512) for number in range(4000)]
    asked: list[Any] = [every.hash([small] * 4) for _ in range(3)]
    fetched = every.fetch([[(file, 0, 16 * MIB)]], level=1)
    asked += [every.write(out, number * MIB, data) for number in range(6)]
    asked += [every.hash([[(file, 0, 512)]] * 1000) for _ in range(20)]
    asked += [every.ping() for _ in range(800)]
    time.sleep(0.5)
    for _view in fetched.chunks():
        pass
    for one in asked:
        one.result()
    status = Path(f"/proc/{every.pid}/status").read_text(encoding="ascii")
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    assert peak < 64 * 1024, f"{peak} KiB"


def ended(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def busy(link: AgentLink, path: str) -> None:
    """Hundreds of MiB are owed and nobody reads: worker and writer are stuck in the middle."""
    file = link.open(path).result()
    for _ in range(30):
        link.fetch([[(file, 0, 5 * MIB)]] * 4)
        link.hash([[(file, 0, 5 * MIB)]] * 8)
    time.sleep(0.3)


@pytest.mark.parametrize("found", PYTHONS, ids=lambda found: found.text)
def test_it_ends_at_once_with_its_input_whatever_it_is_doing(found: Any, start: Start, disk: tuple[str, bytes]) -> None:
    link = start(found)
    busy(link, disk[0])
    link._pipe._in.close()  # type: ignore[attr-defined]
    assert ended(link.pid, 2)


CLIENT = """
import sys, time
sys.path[:0] = {path!r}
from {package}.conftest import PYTHONS, local_agent
link = local_agent(PYTHONS[{index}])
file = link.open({disk!r}).result()
asked = [link.fetch([[(file, 0, 5 << 20)]] * 4) for _ in range(30)]
print(link.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_when_the_process_of_the_other_side_is_killed(disk: tuple[str, bytes], number: int) -> None:
    package = __package__ or "transfer"
    code = CLIENT.format(path=sys.path, package=package, index=-1, disk=disk[0])
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    time.sleep(0.3)
    client.send_signal(number)
    client.wait(10)
    client.stdout.close()
    assert ended(pid, 2)


def test_it_ends_when_nothing_is_heard_for_the_time_of_its_lease(tmp_path: Path) -> None:
    made = interpreter(PYTHONS[-1])
    pipe = local_pipe(made.argv(starting.mark("test"), 1))
    link = AgentLink(pipe, "here", stall_seconds=20, lease_seconds=3600)
    link.greet(made)
    try:
        assert not ended(link.pid, 0.5)
        assert ended(link.pid, 3)
        with pytest.raises(errors.AgentLost, match="nothing was heard"):
            link.ping().result()
    finally:
        link.abandon()


def test_a_link_that_only_waits_is_heard(tmp_path: Path) -> None:
    link = local_agent(PYTHONS[-1], lease=2)
    time.sleep(5)
    link.ping().result()
    link.close()
    assert ended(link.pid, 1)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        agent.FRAME.pack(agent.MARK, agent.HASH, 0, 1, agent.MAX_BODY + 1),
        agent.FRAME.pack(agent.MARK, agent.PING, 0, 1, 0)[:7],
    ],
    ids=["garbage", "too-long", "cut"],
)
def test_what_is_no_request_ends_it(start: Start, request_bytes: bytes) -> None:
    link = start()
    link._pipe.write(request_bytes, 5)
    link._pipe._in.close()  # type: ignore[attr-defined]
    assert ended(link.pid, 2)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (99, b""),
        (agent.HASH, b"\xff\xff\xff\xff"),
        (agent.HASH, b"\x00\x00\x00\x01\x00\x00\xff\xff"),
        (agent.FETCH, b""),
        (agent.CLOSE, b""),
        (agent.WRITE, b"\x00" * 14),
        (agent.OPEN, b"\x00"),
        (agent.RANGES, b"\x00" * 5),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_the_next_one_is_answered(
    start: Start, kind: int, body: bytes
) -> None:
    link = start()
    asked = link._ask(kind, body, link._plain("nonsense", "done"))
    with pytest.raises(errors.FileRefused, match="nonsense"):
        asked.result()
    link.ping().result()


def test_packed_data_that_unpacks_to_more_than_it_says_is_not_written(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.touch()
    link = start()
    file = link.open(str(path), writable=True).result()
    head = agent.WRITE_HEAD.pack(file.number, 0, 100)
    asked = link._write(file, head, zlib.compress(bytes(50 * MIB)), agent.ZLIB)
    with pytest.raises(errors.FileRefused, match="101 bytes came to be written, not 100"):
        asked.result()
    assert path.stat().st_size == 0
