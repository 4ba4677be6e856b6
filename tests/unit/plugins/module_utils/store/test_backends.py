# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of a backend, held against each of them."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.s3 import S3Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    Damaged,
    ObjectExists,
    ObjectMissing,
)
from fakeclock import FakeClock

from .benches import s3
from .hosted import host_backend


@pytest.fixture(params=["local", "host", pytest.param("s3", marks=pytest.mark.xdist_group("s3"))])
def backend(request: pytest.FixtureRequest, root: Path) -> Iterator[Backend]:
    made: Backend
    if request.param == "local":
        made = LocalBackend(str(root))
    elif request.param == "host":
        made = host_backend(root)
    else:
        made = s3(request.getfixturevalue("s3_server"))
    yield made
    made.close()


@pytest.fixture
def folder(root: Path) -> LocalBackend:
    return LocalBackend(str(root))


def test_what_was_created_is_read_whole_and_in_part(backend: Backend) -> None:
    backend.create("a/b/c.json", b"0123456789")
    assert backend.read("a/b/c.json") == b"0123456789"
    with backend.open("a/b/c.json") as ranges:
        assert (ranges.size, bytes(ranges.read(3, 4))) == (10, b"3456")
        with pytest.raises(Damaged, match="ends before byte 12"):
            ranges.read(8, 4)
    assert bytes(backend.map("a/b/c.json")[2:4]) == b"23"


def test_a_listing_has_what_was_replaced_or_its_successor(
    folder: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when index files become one: the new one comes, then the old ones go, in the middle of the listing."""
    folder.create("index/old", b"12")
    folder.create("index/stays", b"1")
    scandir, looks = os.scandir, []

    def slow(path: str) -> list[os.DirEntry[str]]:
        with scandir(path) as entries:
            found = list(entries)
        looks.append(path)
        if len(looks) == 1:
            folder.create("index/new", b"123")
            folder.delete("index/old")
        return found

    monkeypatch.setattr(os, "scandir", slow)
    assert sorted(folder.list("index/")) == [("index/new", 3), ("index/stays", 1)]
    assert len(looks) == 2


def test_a_name_is_given_once(backend: Backend) -> None:
    backend.create("one", b"first")
    with pytest.raises(ObjectExists, match="one"):
        backend.create("one", b"second")
    assert backend.read("one") == b"first"


def test_of_many_that_create_one_name_exactly_one_does(backend: Backend) -> None:
    won: list[int] = []
    gate = threading.Barrier(8)

    def run(number: int) -> None:
        gate.wait()
        try:
            backend.create("points/x", bytes([number]) * 1000)
            won.append(number)
        except ObjectExists:
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and backend.read("points/x") == bytes(won) * 1000


def test_an_upload_is_there_when_it_is_committed_and_not_before(backend: Backend) -> None:
    upload = backend.upload("packs/aa/x.pack")
    upload.append([b"abc", memoryview(b"def")])
    assert list(backend.list("packs/")) == []
    with pytest.raises(ObjectMissing):
        backend.open("packs/aa/x.pack").read(0, 1)
    upload.append([b"ghi"])
    upload.commit()
    upload.abort()
    assert backend.read("packs/aa/x.pack") == b"abcdefghi"
    assert list(backend.list("packs/")) == [("packs/aa/x.pack", 9)]


def test_an_aborted_upload_leaves_nothing(folder: LocalBackend, root: Path) -> None:
    upload = folder.upload("packs/aa/x.pack")
    upload.append([b"abc"])
    upload.abort()
    assert not [name for _folder, _folders, names in os.walk(root) for name in names]


def test_what_is_not_there_is_missing_and_deleting_it_is_no_error(backend: Backend) -> None:
    for call in (backend.read, lambda name: backend.open(name).read(0, 1), backend.map):
        with pytest.raises(ObjectMissing, match="no/such"):
            call("no/such")
    backend.delete("no/such")
    assert list(backend.list("no/")) == []


def test_deleted_is_gone(backend: Backend) -> None:
    backend.create("a/x", b"1")
    backend.create("a/y", b"2")
    backend.delete("a/x")
    assert [name for name, _size in backend.list("a/")] == ["a/y"]


def test_an_object_larger_than_allowed_is_refused(backend: Backend) -> None:
    backend.create("large", bytes(2000))
    with pytest.raises(Damaged, match="larger than 1000"):
        backend.read("large", 1000)


def test_a_full_disk_is_told_by_its_name_and_leaves_nothing(
    folder: LocalBackend, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(BackendFailed, match=r"a/x could not be written: No space left on device"):
        folder.create("a/x", b"1")
    monkeypatch.undo()
    assert not [name for _folder, _folders, names in os.walk(root) for name in names]


@pytest.mark.xdist_group("s3")
def test_expected_neighbours_are_fetched_together(s3_server: str) -> None:
    bucket = s3(s3_server)
    data = bytes(range(256)) * (1 << 12)
    bucket.create("packs/one", data)
    asked: list[tuple[int, int]] = []
    get = bucket.get

    def counted(name: str, offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return get(name, offset, length)

    bucket.get = counted  # type: ignore[method-assign]
    records = [(1000, 5000), (6000, 3000), (9500, 500), (700_000, 10_000)]
    with bucket.open("packs/one") as ranges:
        ranges.expect(records)
        for offset, length in records:
            assert bytes(ranges.read(offset, length)) == data[offset : offset + length]
        assert bytes(ranges.read(20_000, 5)) == data[20_000:20_005]
    assert asked == [(1000, 9000), (700_000, 10_000), (20_000, 5)]


@pytest.mark.xdist_group("s3")
def test_an_expectation_beyond_the_end_costs_only_what_is_missing(s3_server: str) -> None:
    bucket = s3(s3_server)
    bucket.create("packs/two", b"0123456789")
    with bucket.open("packs/two") as ranges:
        ranges.expect([(0, 4), (4, 4), (8, 4)])
        assert bytes(ranges.read(4, 4)) == b"4567"
        with pytest.raises(Damaged, match="ends before byte 12"):
            ranges.read(8, 4)


@pytest.mark.xdist_group("s3")
def test_a_bucket_that_gives_a_name_twice_is_refused(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = s3(s3_server)
    careless.check()
    put = careless._client.put_object
    monkeypatch.setattr(careless._client, "put_object", lambda IfNoneMatch, **more: put(**more))
    with pytest.raises(BackendFailed, match="ignores If-None-Match"):
        careless.check()


@pytest.mark.xdist_group("s3")
def test_a_put_whose_answer_was_lost_is_no_stranger_to_itself(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = s3(s3_server)
    put = backend._client.put_object

    def twice(**words: Any) -> Any:
        put(**words)
        return put(**words)

    monkeypatch.setattr(backend._client, "put_object", twice)
    backend.create("points/x", b"mine")
    assert backend.read("points/x") == b"mine"
    with pytest.raises(ObjectExists):
        backend.create("points/x", b"another's")


def test_tidying_takes_what_the_dead_left_and_nothing_of_the_living(root: Path, folder: LocalBackend) -> None:
    code = (
        "import os, signal\n"
        "from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend\n"
        f"LocalBackend({str(root)!r}).upload('packs/aa/dead.pack').append([b'x'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    living = folder.upload("packs/aa/living.pack")
    living.append([b"y"])
    assert len(os.listdir(root / "packs/aa")) == 2
    folder.tidy()
    assert len(os.listdir(root / "packs/aa")) == 1
    living.commit()
    folder.tidy()
    assert list(folder.list("packs/")) == [("packs/aa/living.pack", 1)]


def test_an_upload_that_is_tidied_away_at_its_birth_begins_again(
    root: Path, folder: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, tidied = fcntl.flock, []

    def late(handle: int, how: int) -> None:
        if how == fcntl.LOCK_SH and not tidied:
            tidied.append(handle)
            folder.tidy()
            assert not os.listdir(root / "packs/aa")
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    upload = folder.upload("packs/aa/x.pack")
    upload.append([b"x"])
    upload.commit()
    assert tidied and folder.read("packs/aa/x.pack") == b"x"


def test_where_there_are_no_links_a_dead_claim_to_a_name_is_broken_and_a_living_one_is_not(
    root: Path, folder: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_old: str, _new: str) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", none)
    folder.create("turns/1.json", b"1")
    claim = root / "turns" / ".tmp-claim-2.json"
    claim.mkdir()
    (claim / ".tmp-dead").write_bytes(b"half a name")
    with pytest.raises(ObjectExists):
        folder.create("turns/2.json", b"2")
    os.utime(claim, (time.time() - 100, time.time() - 100))
    folder.create("turns/2.json", b"2")
    assert folder.read("turns/2.json") == b"2" and sorted(os.listdir(root / "turns")) == ["1.json", "2.json"]
    with pytest.raises(ObjectExists):
        folder.create("turns/2.json", b"3")
    # Its owner was not dead: his file is not where he looks for it, and he has not got the name.
    rename = os.rename

    def late(old: str, new: str) -> None:
        if new.endswith("turns/3.json"):
            rename(os.path.dirname(old), root / "turns" / ".tmp-broken-x")
        rename(old, new)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(ObjectMissing):
        folder.create("turns/3.json", b"3")
    assert not (root / "turns" / "3.json").exists()


@pytest.mark.parametrize("wrong", ["endpoint", "region", "profile"])
def test_a_bucket_that_cannot_be_asked_is_told(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    pytest.importorskip("boto3")
    if wrong == "profile":
        monkeypatch.setenv("AWS_PROFILE", "nobody-has-this")
    more = {"endpoint": {"endpoint": "no address"}, "region": {"region": "a region/"}, "profile": {}}[wrong]
    with pytest.raises(BackendFailed, match="could not be reached: "):
        S3Backend("bucket", "x", **more)


def test_an_encrypted_line_that_breaks_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    from urllib3.exceptions import SSLError

    backend = S3Backend("bucket", endpoint="http://127.0.0.1:1", access_key="a", secret_key="b", clock=FakeClock())
    asked = []

    class Body(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if len(asked) < 3:
                raise SSLError("bad record mac")
            return super().read(size)

    def answer(**words: object) -> dict[str, object]:
        asked.append(words)
        return {"Body": Body(b"data"), "ContentLength": 4}

    monkeypatch.setattr(backend._client, "get_object", answer)
    assert backend.read("a/x") == b"data" and len(asked) == 3
