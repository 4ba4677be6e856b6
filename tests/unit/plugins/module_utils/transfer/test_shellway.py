# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading by plain commands: the same answers as the agent's, in the shells of this machine."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import ProcessPipe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import errors
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.shellway import ShellLink

from .conftest import local_pipe

MIB = 1 << 20
SHELLS = [words for words in (["sh"], ["busybox", "sh"]) if shutil.which(words[0])]
DIGESTS = ["sha256sum", "openssl dgst -sha256", None]


@pytest.fixture(params=SHELLS, ids=lambda words: words[0])
def words(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


@pytest.fixture(params=DIGESTS, ids=lambda digest: str(digest).partition(" ")[0])
def link(request: pytest.FixtureRequest, words: list[str]) -> Iterator[ShellLink]:
    if request.param and not shutil.which(request.param.split()[0]):
        pytest.skip(f"no {request.param} on this machine")
    made = ShellLink(local_pipe([*words, "-s", "--", "mark"]), "here", digest=request.param, stall_seconds=20)
    made.greet()
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> tuple[str, bytes]:
    whole = random.Random(3).randbytes(3 * MIB) + bytes(2 * MIB) + b"\n" * MIB + random.Random(4).randbytes(12345)
    path = tmp_path / "-a b'$(c)\n*\udcff.vmdk"
    path.write_bytes(whole)
    return str(path), whole


def sha(data: bytes) -> bytes | None:
    return hashlib.sha256(data).digest() if any(data) else None


def test_a_file_is_told_of_as_by_the_agent(
    link: ShellLink, disk: tuple[str, bytes], start: Callable[..., AgentLink], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.vmdk"
    plain.write_bytes(b"x" * 5000)
    os.symlink(plain, tmp_path / "link.vmdk")
    agent = start()
    for path in (disk[0], str(plain), str(tmp_path / "link.vmdk")):
        here, there = link.open(path).result(), agent.open(path).result()
        assert (here.path, here.size, here.allocated, here.inode) == (path, there.size, there.allocated, there.inode)
        assert here.mtime_ns == there.mtime_ns // 10**9 * 10**9
        # A line's end in a name is not told in one line.
        assert here.real == there.real or "\n" in path


def test_bytes_come_as_they_are_at_any_place(link: ShellLink, disk: tuple[str, bytes]) -> None:
    path, whole = disk
    file = link.open(path).result()
    chance = random.Random(8)
    places = [(0, 1), (0, len(whole)), (len(whole) - 1, 1), (MIB - 1, 2), (4096, MIB), (512, 512), (65536, 4 * MIB)]
    for _ in range(40):
        offset = chance.randrange(len(whole))
        places.append((offset, min(len(whole) - offset, chance.choice((1, 512, 5000, MIB)))))
    for offset, length in places:
        assert link.read(file, offset, length).result() == whole[offset : offset + length], (offset, length)


def test_pieces_are_hashed_and_fetched_as_by_the_agent(
    link: ShellLink, disk: tuple[str, bytes], start: Callable[..., AgentLink]
) -> None:
    path, whole = disk
    agent = start()
    mine, others = link.open(path).result(), agent.open(path).result()
    chance = random.Random(9)
    pieces: list[list[tuple[bool, int, int]]] = [[(True, place * MIB, MIB)] for place in range(6)]
    for _ in range(60):
        piece = []
        for _ in range(chance.choice((1, 1, 3))):
            unit = chance.choice((512, 4096, 65536)) if chance.random() < 0.9 else 1
            length = unit * chance.randrange(1, 9)
            piece.append((chance.random() < 0.7, unit * chance.randrange(0, (len(whole) - length) // unit + 1), length))
        pieces.append(piece)
    data = [b"".join(whole[at : at + size] if real else bytes(size) for real, at, size in piece) for piece in pieces]
    asked = [[(mine if real else None, at, size) for real, at, size in piece] for piece in pieces]
    assert link.hash(asked).result() == [sha(one) for one in data]
    assert [bytes(view) for view in link.fetch(asked).chunks()] == data
    theirs = [[(others if real else None, at, size) for real, at, size in piece] for piece in pieces]
    assert agent.hash(theirs).result() == [sha(one) for one in data]


def test_something_else_may_be_asked_for_between_two_chunks(link: ShellLink, disk: tuple[str, bytes]) -> None:
    path, whole = disk
    file = link.open(path).result()
    views = link.fetch([[(file, place, 65536)] for place in range(0, 5 * MIB, 65536)]).chunks()
    for place in range(0, 5 * MIB, 65536):
        assert bytes(next(views)) == whole[place : place + 65536]
        if place % (10 * 65536) == 0:
            assert link.hash([[(file, 0, 512)]]).result() == [sha(whole[:512])]
            assert link.read(file, 7, 3).result() == whole[7:10]
    half = link.fetch([[(file, 0, MIB)], [(file, MIB, MIB)]]).chunks()
    next(half)
    half.close()  # type: ignore[attr-defined]
    link.ping().result()


def test_holes_are_not_told(link: ShellLink, disk: tuple[str, bytes]) -> None:
    file = link.open(disk[0]).result()
    assert list(link.data_ranges(file, 5, file.size + 9)) == [(5, file.size)]
    assert list(link.data_ranges(file, file.size, file.size + 9)) == []


def test_errors_name_the_file_and_its_trouble(link: ShellLink, disk: tuple[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(errors.FileRefused, match=r"missing on here cannot be opened: No such file.*ENOENT"):
        link.open(str(tmp_path / "missing")).result()
    for path in (str(tmp_path), "/dev/zero"):
        with pytest.raises(errors.FileRefused, match="EINVAL"):
            link.open(path).result()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(errors.FileRefused, match="EINVAL"):
        link.open(str(tmp_path / "fifo")).result()
    with pytest.raises(errors.NoWay):
        link.open(disk[0], writable=True)
    file = link.open(disk[0]).result()
    with pytest.raises(errors.FileRefused, match="ends at byte"):
        link.read(file, file.size - 5, 10).result()
    link.ping().result()


def test_a_file_that_has_become_shorter_or_unreadable_is_an_error_and_never_bytes(
    link: ShellLink, disk: tuple[str, bytes], tmp_path: Path
) -> None:
    path, whole = disk
    file = link.open(path).result()
    os.truncate(path, 2 * MIB + 5)
    for length in (MIB, 3 * MIB):
        with pytest.raises(errors.FileRefused):
            link.read(file, 2 * MIB, length).result()
        with pytest.raises(errors.FileRefused):
            link.hash([[(file, 2 * MIB, length)]]).result()
    assert link.read(file, 0, MIB).result() == whole[:MIB]
    os.unlink(path)
    with pytest.raises(errors.FileRefused, match="ENOENT"):
        link.read(file, 0, 512).result()
    with pytest.raises(errors.FileRefused, match="ENOENT"):
        link.hash([[(file, 0, 512)]]).result()
    link.ping().result()


PEER = """
import os, re, sys, time
def ask(function=None):
    text = b""
    while not re.search(rb"stowage_(end|read|open) ([0-9a-f]{24})", text):
        more = os.read(0, 65536)
        if not more:
            os._exit(0)
        text += more
    return re.findall(rb"stowage_(?:end|read|open) ([0-9a-f]{24})", text)[-1]
def put(data):
    while data:
        data = data[os.write(1, data):]
put(b"\\n" + ask() + b" pid 4242\\n")
put(b"\\n" + ask() + b" facts 9000000 1 1 512 1 1 /disk\\n")
token = ask()
"""


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("time.sleep(60)", errors.AgentSilent, "1.5 seconds"),
        ("sys.stderr.write('Killed'); sys.exit(1)", errors.AgentLost, "Killed"),
        ("\nwhile True: put(b'x' * 65536)", errors.AgentLies, "at the end of an answer"),
        ("put(b'x' * 8000000); put(b'\\n' + token + b' ' + b'x' * 200000)", errors.AgentLies, "has no end"),
        ("put(b'x' * 8000000); put(b'\\n' + token[:9] + b'\\n')", errors.AgentLies, "at the end of an answer"),
        ("put(b'x' * 1000 + b'\\n' + token + b' dd: /disk: Input/output error\\n')", errors.FileRefused, "EIO"),
        ("put(b'x' * 8000000 + b'\\n' + token + b' Input/output error\\n')", errors.FileRefused, "did not tell"),
        ("put(b'x' * 1000)", errors.AgentSilent, "1.5"),
    ],
    ids=["silence", "end", "endless", "endless-words", "other-word", "short", "no-count", "half"],
)
def test_a_host_that_answers_wrongly(code: str, kind: type[errors.TransferError], said: str) -> None:
    link = ShellLink(local_pipe([sys.executable, "-c", PEER + code + "\ntime.sleep(60)"]), "esx1", stall_seconds=20)
    try:
        link.greet()
        file = link.open("/disk").result()
        link.stall_seconds = 1.5
        begun = time.monotonic()
        with pytest.raises(kind, match=said) as caught:
            link.read(file, 0, 8000000).result()
        assert time.monotonic() - begun < 6
        assert link.received_bytes < 9 * MIB
        assert "esx1" in str(caught.value)
    finally:
        link.abandon()


def test_a_number_that_is_none_is_told() -> None:
    code = "import re, sys\nfor line in sys.stdin:\n    found = re.match(r'stowage_end ([0-9a-f]{24}) ', line)\n"
    code += "    if found: print('\\n' + found.group(1) + ' pid ' + '9' * 5000, flush=True)\n"
    link = ShellLink(local_pipe([sys.executable, "-c", code]), "esx1", stall_seconds=20)
    try:
        with pytest.raises(errors.AgentLies, match="its shell began with"):
            link.greet()
    finally:
        link.abandon()


class Slow(ProcessPipe):
    """Gives a few bytes at a time, so that every word is cut somewhere."""

    step = 1

    def readinto(self, view: memoryview, timeout_seconds: float) -> int:
        return super().readinto(view[: self.step], timeout_seconds)


@pytest.mark.parametrize("step", [1, 7, 26])
def test_answers_that_come_in_small_pieces_are_the_same(step: int, tmp_path: Path) -> None:
    whole = (b"\n" + b"abcdef0123456789" * 3 + b"\n\n") * 40
    (tmp_path / "file").write_bytes(whole)
    pipe = Slow(["sh", "-s", "--", "mark"], "sh", "here", 0, {"PATH": os.environ["PATH"]})
    pipe.step = step
    link = ShellLink(pipe, "here", stall_seconds=20)
    link.greet()
    file = link.open(str(tmp_path / "file")).result()
    assert link.read(file, 0, len(whole)).result() == whole
    os.truncate(tmp_path / "file", 1000)
    with pytest.raises(errors.FileRefused, match="1000 of"):
        link.read(file, 0, len(whole)).result()
    assert link.read(file, 100, 50).result() == whole[100:150]
    link.close()


def arguments(value: Any) -> Any:
    import inspect

    return list(inspect.signature(value).parameters)


@pytest.mark.parametrize(
    "name", ["open", "shut", "stat", "ranges", "data_ranges", "read", "load", "hash", "fetch", "close"]
)
def test_its_methods_are_those_of_the_agents_link(name: str) -> None:
    assert arguments(getattr(ShellLink, name)) == arguments(getattr(AgentLink, name))


def test_a_host_that_cannot_follow_links_tells_where_the_folder_is_and_reads_no_link(tmp_path: Path) -> None:
    """As 6.0 would be without readlink: a datastore's name is a link to its UUID."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("dd", "stat", "tr"):
        os.symlink(shutil.which(name) or name, tools / name)
    (tmp_path / "5704a6e0").mkdir()
    os.symlink(tmp_path / "5704a6e0", tmp_path / "datastore1")
    (tmp_path / "5704a6e0" / "web 01-flat.vmdk").write_bytes(b"x" * 5000)
    os.symlink("/etc/passwd", tmp_path / "5704a6e0" / "link-flat.vmdk")
    pipe = ProcessPipe([shutil.which("sh") or "sh", "-s", "--", "mark"], "sh", "here", 0, {"PATH": str(tools)})
    link = ShellLink(pipe, "here", stall_seconds=20)
    try:
        link.greet()
        file = link.open(str(tmp_path / "datastore1" / "web 01-flat.vmdk")).result()
        assert file.real == str(tmp_path / "5704a6e0" / "web 01-flat.vmdk")
        assert link.read(file, 0, 5000).result() == b"x" * 5000
        with pytest.raises(errors.FileRefused, match="link-flat.vmdk"):
            link.open(str(tmp_path / "datastore1" / "link-flat.vmdk")).result()
    finally:
        link.close()
