# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a store as an agent keeps them, in every interpreter of this machine: names, limits, and records."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent, starting
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import AgentLies, FileRefused
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import Proof, StoreLink

from .conftest import PYTHONS, interpreter, local_pipe

MIB = 1 << 20
TOKEN = "0123456789abcdef"


def begin(found: Any) -> StoreLink:
    made = interpreter(found)
    pipe = local_pipe(made.argv(starting.mark("test"), 60))
    link = StoreLink(pipe, "here", stall_seconds=20.0)
    link.greet(made)
    return link


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda found: found.text)
def agents(request: pytest.FixtureRequest) -> Iterator[StoreLink]:
    link = begin(request.param)
    yield link
    link.close()


@pytest.fixture
def link(agents: StoreLink, tmp_path: Path) -> StoreLink:
    """With an empty folder of its own."""
    folder = agents.root(str(tmp_path / "store")).result()
    assert (folder.real, folder.there, folder.above) == (str(tmp_path / "store"), False, True)
    return agents


def refused(pending: Any) -> int:
    with pytest.raises(FileRefused) as caught:
        pending.result()
    return caught.value.errno


def names(folder: Path) -> list[str]:
    return sorted(os.path.join(above, name) for above, below, files in os.walk(folder) for name in [*below, *files])


def test_small_files_come_and_go_and_a_name_is_given_once(link: StoreLink, tmp_path: Path) -> None:
    link.put("a/b/one.json", TOKEN, b"first").result()
    assert refused(link.put("a/b/one.json", TOKEN, b"second")) == errno.EEXIST
    assert link.get("a/b/one.json", 100).result() == b"first"
    assert refused(link.get("a/b/one.json", 4)) == errno.EFBIG
    assert refused(link.get("a/b", 4)) == errno.EINVAL
    assert refused(link.get("a/none", 4)) == errno.ENOENT
    link.put("a/empty", TOKEN, b"").result()
    assert link.get("a/empty", 10).result() == b""
    found = [(one.name, one.size) for one in link.listing("a").result()]
    assert (
        sorted(found)
        == [("a/b/one.json", 5), ("a/empty", 0)]
        == sorted((one.name, one.size) for one in link.listing().result())
    )
    assert link.listing("none").result() == []
    link.remove("a/b/one.json").result()
    link.remove("a/b/one.json").result()
    assert names(tmp_path / "store") == [str(tmp_path / "store" / name) for name in ("a", "a/b", "a/empty")]
    assert os.stat(tmp_path / "store/a/empty").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//x", "", ".", "a/ b", "a\nb", "x" * 256, "a/\0"])
def test_no_name_leads_out_of_the_folder(link: StoreLink, tmp_path: Path, name: str) -> None:
    calls = [
        link.put(name, TOKEN, b"x"),
        link.get(name, 10),
        link.look(name),
        link.remove(name),
        link.temp("x", name, TOKEN, 0)[1],
    ]
    assert {refused(call) for call in calls} == {errno.EACCES}
    assert not (tmp_path / "x").exists() and not (tmp_path / "store").exists()


def test_a_link_below_the_folder_is_not_followed_out_of_it(link: StoreLink, tmp_path: Path) -> None:
    link.put("a/one", TOKEN, b"1").result()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").write_bytes(b"secret")
    os.symlink(tmp_path / "elsewhere", tmp_path / "store" / "b")
    for call in (link.put("b/x", TOKEN, b"x"), link.get("b/theirs", 10), link.remove("b/theirs")):
        assert refused(call) == errno.EACCES
    assert sorted(one.name for one in link.listing().result()) == ["a/one", "b"]
    assert names(tmp_path / "elsewhere") == [str(tmp_path / "elsewhere" / "theirs")]


def test_without_a_folder_nothing_is_made(agents: StoreLink, tmp_path: Path) -> None:
    fresh = begin(PYTHONS[-1])
    try:
        assert refused(fresh.put("a", TOKEN, b"x")) == errno.EPERM
        assert refused(fresh.root("/")) == errno.EINVAL
        assert refused(fresh.listing()) == errno.EPERM
    finally:
        fresh.close()


def test_a_file_in_pieces_has_its_name_when_it_is_whole_and_goes_on_where_it_was(
    link: StoreLink, tmp_path: Path
) -> None:
    data = random.Random(3).randbytes(3 * MIB + 5)
    file, opening = link.temp("p", "packs/aa/x.pack", TOKEN, 0)
    link.write(file, 0, data).result()
    assert link.listing().result() == []
    (hidden,) = link.listing(hidden=True).result()
    assert (hidden.name, hidden.size, hidden.folder) == (f"packs/aa/.tmp-{TOKEN}", len(data), False)
    inode = opening.result().inode
    link.shut(file).result()
    # What counts of it is less than what is there.
    file, opening = link.temp("p", "packs/aa/x.pack", TOKEN, MIB)
    assert (opening.result().size, opening.result().inode) == (MIB, inode)
    link.write(file, MIB, b"tail").result()
    link.name(file, "packs/aa/x.pack", TOKEN).result()
    link.named(file)
    assert (tmp_path / "store/packs/aa/x.pack").read_bytes() == data[:MIB] + b"tail"
    assert link.look("packs/aa/x.pack").result() == (MIB + 4, inode)
    assert len(list((tmp_path / "store/packs/aa").iterdir())) == 1
    # Of one that is gone, or has lost something, nothing can go on.
    assert refused(link.temp("p", "packs/aa/x.pack", TOKEN, MIB)[1]) == errno.ENOENT
    (tmp_path / f"store/packs/aa/.tmp-{TOKEN}").write_bytes(b"123")
    assert refused(link.temp("p", "packs/aa/x.pack", TOKEN, 4)[1]) == errno.ENODATA


def test_a_claim_of_a_dead_one_is_broken_and_he_never_gets_the_name(link: StoreLink, tmp_path: Path) -> None:
    """He stopped with his file in the folder that claims the name, right before the rename."""
    link.put("a/other", TOKEN, b"1").result()
    claim = tmp_path / "store/a/.tmp-claim-one"
    claim.mkdir()
    (claim / ".tmp-ffff").write_bytes(b"his")
    assert refused(link.put("a/one", TOKEN, b"mine")) == errno.EBUSY
    assert [one.folder for one in link.listing(hidden=True).result()] == [True]
    link.put("a/one", TOKEN, b"mine", breaks=True).result()
    assert link.get("a/one", 10).result() == b"mine"
    with pytest.raises(FileNotFoundError):
        os.rename(claim / ".tmp-ffff", tmp_path / "store/a/one")
    # One that died behind the rename keeps nobody from hearing that the name is taken, and goes with a tidying.
    claim.mkdir()
    assert refused(link.put("a/one", TOKEN, b"again")) == errno.EEXIST
    link.remove("a/.tmp-claim-one").result()
    assert sorted(path.name for path in (tmp_path / "store/a").iterdir()) == ["one", "other"]


def test_what_is_under_way_is_touched_and_what_is_shut_is_not(tmp_path: Path) -> None:
    link = begin(PYTHONS[-1])
    try:
        link.root(str(tmp_path / "store")).result()
        file, opening = link.temp("p", "packs/x", TOKEN, 0)
        opening.result()
        path = tmp_path / f"store/packs/.tmp-{TOKEN}"
        end = time.monotonic() + 3 * agent.TOUCH_SECONDS
        os.utime(path, (1, 1))
        while path.stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.2)
        assert path.stat().st_mtime > 2
        link.shut(file).result()
        os.utime(path, (1, 1))
        link.ping().result()
        assert path.stat().st_mtime < 2
    finally:
        link.close()


def record_at(data: bytes, place: int) -> tuple[bytes, bytes, bytes]:
    """Head, what it holds, and the sum of a record, by the words of docs/store-format.md."""
    (stored,) = struct.unpack_from("<I", data, place + 12)
    return data[place : place + 64], data[place + 64 : place + 64 + stored], data[place + 64 + stored :][:16]


@pytest.mark.parametrize("level", [0, 1, 9])
def test_chunks_become_records_at_the_end_of_a_pack(link: StoreLink, tmp_path: Path, level: int) -> None:
    disk = random.Random(level).randbytes(2 * MIB + 77) + b"text " * 300_000
    (tmp_path / "disk").write_bytes(disk)
    source = link.open(str(tmp_path / "disk")).result()
    file, _opening = link.temp("p", "packs/x", TOKEN, 0)
    link.write(file, 0, b"header").result()
    link.shut(file).result()
    file, opening = link.temp("p", "packs/x", TOKEN, 6)
    opening.result()
    pieces: list[Any] = [
        [(source, 0, MIB)],
        [(source, MIB, 10), (None, 0, 90), (source, 2 * MIB, 77)],
        [(source, 2 * MIB + 77, 1_200_000)],
    ]
    wanted = [disk[:MIB], disk[MIB : MIB + 10] + bytes(90) + disk[2 * MIB :][:77], disk[2 * MIB + 77 :][:1_200_000]]
    before = link.received_bytes
    kept = link.keep_chunks(file, pieces, level).result()
    assert link.received_bytes - before < 200
    data = (tmp_path / f"store/packs/.tmp-{TOKEN}").read_bytes()
    place = 6
    for one, chunk in zip(kept, wanted):
        head, payload, total = record_at(data, place)
        digest = hashlib.sha256(chunk).digest()
        codec = 2 if level and len(zlib.compress(chunk, level)) < len(chunk) else 0
        assert head == struct.pack(
            "<4sBBHII32s16s", b"SREC", codec, 0, 0, len(chunk), len(payload), digest, digest[:16]
        )
        assert (zlib.decompress(payload) if codec else payload) == chunk
        assert total == hashlib.sha256(head + payload).digest()[:16]
        assert (one.hash, one.codec, one.stored) == (digest, codec, len(payload))
        place += 80 + len(payload)
    assert place == len(data)
    link.shut(source).result()
    link.shut(file).result()


def test_records_are_proven_where_they_lie(link: StoreLink, tmp_path: Path) -> None:
    disk = random.Random(1).randbytes(MIB) + b"text " * 200_000
    (tmp_path / "disk").write_bytes(disk)
    source = link.open(str(tmp_path / "disk")).result()
    file, _opening = link.temp("p", "packs/x", TOKEN, 0)
    kept = link.keep_chunks(file, [[(source, 0, MIB)], [(source, MIB, MIB - MIB // 2)]], 1).result()
    link.name(file, "packs/x", TOKEN).result()
    link.named(file)
    path = tmp_path / "store/packs/x"
    pack = link.open(str(path)).result()
    lengths = [MIB, MIB - MIB // 2]
    records, place = [], 0
    for one, length in zip(kept, lengths):
        records.append((place, one.stored, length))
        place += 80 + one.stored
    heads = [path.read_bytes()[offset : offset + 64] for offset, _stored, _length in records]
    deep = link.prove_records(pack, records, deep=True).result()
    assert deep == [Proof(head, one.hash) for head, one in zip(heads, kept)]
    assert link.prove_records(pack, records).result() == [Proof(head, bytes(32)) for head in heads]
    # Wrong, cut, too long, or of a codec that no host has: the other side looks at it.
    data = bytearray(path.read_bytes())
    data[records[1][0] + 70] ^= 1
    path.write_bytes(data)
    bad = [records[1], (place - 10, 4096, 4096), (0, kept[0].stored, MIB + 1), (0, 1 << 30, 1 << 30)]
    assert link.prove_records(pack, [*bad, records[0]], deep=True).result() == [None, None, None, None, deep[0]]
    (data[4],) = [1]
    data[kept[0].stored + 64 : kept[0].stored + 80] = hashlib.sha256(bytes(data[: kept[0].stored + 64])).digest()[:16]
    path.write_bytes(data)
    assert link.prove_records(pack, records[:1], deep=True).result() == [None]
    link.shut(pack).result()
    link.shut(source).result()


def test_a_full_file_system_is_told_by_the_name_of_the_pack(link: StoreLink, tmp_path: Path) -> None:
    """/dev/full stands for it: the agent's own file leads there."""
    (tmp_path / "disk").write_bytes(b"x" * MIB)
    source = link.open(str(tmp_path / "disk")).result()
    file, _opening = link.temp("p", "packs/x", TOKEN, 0)
    link.write(file, 0, b"header").result()
    link.shut(file).result()
    path = tmp_path / f"store/packs/.tmp-{TOKEN}"
    path.unlink()
    os.symlink("/dev/full", path)
    file, _opening = link.temp(str(path), "packs/x", TOKEN, 0)
    with pytest.raises(FileRefused) as caught:
        link.keep_chunks(file, [[(source, 0, MIB)]], 0).result()
    assert (caught.value.errno, caught.value.data["path"]) == (errno.ENOSPC, str(path))
    link.shut(source).result()


def test_a_listing_that_is_none_ends_the_link(link: StoreLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link.put("a/one", TOKEN, b"1").result()
    fresh = begin(PYTHONS[-1])
    try:
        fresh.root(str(tmp_path / "store")).result()
        monkeypatch.setattr(agent, "LISTED", struct.Struct(">QqBI"))
        with pytest.raises(AgentLies):
            fresh.listing("a").result()
    finally:
        fresh.close()


def test_what_records_hold_is_written_to_a_disk_beside_them(link: StoreLink, tmp_path: Path) -> None:
    chunks = [random.Random(1).randbytes(MIB), b"text " * 100_000]
    (tmp_path / "disk").write_bytes(b"".join(chunks))
    source = link.open(str(tmp_path / "disk")).result()
    file, _opening = link.temp("p", "packs/x", TOKEN, 0)
    kept = link.keep_chunks(file, [[(source, 0, MIB)], [(source, MIB, 500_000)]], 1).result()
    link.name(file, "packs/x", TOKEN).result()
    link.named(file)
    path, target = tmp_path / "store/packs/x", tmp_path / "target"
    with open(target, "wb") as made:
        made.truncate(8 * MIB)
    pack, there = link.open(str(path)).result(), link.open(str(target), writable=True).result()
    second = 80 + kept[0].stored
    raw, packed = (0, kept[0].stored, MIB, [2 * MIB]), (second, kept[1].stored, 500_000, [0, 6 * MIB, 4 * MIB])
    # Beyond the end of the pack, in the middle of a record, of another length than it has, and too long.
    bad = [(1 << 30, 10, 10, [0]), (second + 1, 900, 900, [0]), (0, MIB, MIB - 1, [0]), (0, 1 << 30, 1 << 30, [0])]
    sent, before = len(chunks[0]), link.received_bytes
    found = link.unpack(there, pack, [raw, *bad, packed]).result()
    assert link.received_bytes - before < 300 < sent
    assert found == [kept[0].hash, None, None, None, None, kept[1].hash]
    expected = bytearray(8 * MIB)
    expected[2 * MIB : 3 * MIB] = chunks[0]
    for place in packed[3]:
        expected[place : place + 500_000] = chunks[1]
    assert target.read_bytes() == expected
    # A sum that is wrong, and a codec that no host has.
    data = bytearray(path.read_bytes())
    data[second + 70] ^= 1
    data[4] = 1
    data[kept[0].stored + 64 : second] = hashlib.sha256(bytes(data[: kept[0].stored + 64])).digest()[:16]
    path.write_bytes(data)
    assert link.unpack(there, pack, [raw, packed]).result() == [None, None]
    assert target.read_bytes() == expected
    for one in (there, pack, source):
        link.shut(one).result()


def test_a_disk_that_cannot_be_written_is_named_and_not_the_pack(link: StoreLink, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x" * MIB)
    source = link.open(str(tmp_path / "disk")).result()
    file, _opening = link.temp("p", "packs/x", TOKEN, 0)
    (kept,) = link.keep_chunks(file, [[(source, 0, MIB)]], 1).result()
    link.name(file, "packs/x", TOKEN).result()
    link.named(file)
    pack = link.open(str(tmp_path / "store/packs/x")).result()
    with pytest.raises(FileRefused) as caught:
        # It was opened to be read only.
        link.unpack(source, pack, [(0, kept.stored, MIB, [0])]).result()
    assert caught.value.data["path"] == str(tmp_path / "disk")
    for one in (pack, source):
        link.shut(one).result()
