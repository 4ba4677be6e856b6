# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real borg, told what to do and listened to; the stream that it is fed; the reading that fills the stream."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs import borgerrors, borgkeeping, errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borgkeeping import keep
from ansible_collections.stowage.esxi.plugins.module_utils.programs.inorder import SLOT_BYTES, InOrder
from ansible_collections.stowage.esxi.plugins.module_utils.programs.tarstream import END, small_file, sparse_file

SECRET = "correct horse"


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BORG_BASE_DIR", str(tmp_path / "base"))


def watched(tmp_path: Path) -> str:
    """A borg that writes down what of it others can see, and then is the real one."""
    program = tmp_path / "watched"
    program.write_text(f'#!/bin/sh\ncat /proc/$$/cmdline /proc/$$/environ >>{tmp_path}/seen\nexec borg "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_a_repository_is_made_checked_and_opened_and_nobody_sees_the_passphrase(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "deep" / "repository"), SECRET, watched(tmp_path))
    with pytest.raises(borgerrors.NoRepository, match="backup_store_create"):
        raise_hinted(repository)
    assert keep(repository, None, "data", True).made and not (tmp_path / "deep").exists()
    kept = keep(repository, None, "none", False)
    assert (kept.made, kept.archives) == (True, ()) and "repokey-blake2" in kept.actions[0]
    kept = keep(repository, "none", "data", False)
    assert (kept.made, kept.actions) == (False, ("checked 0 archives, all data read",))
    seen = (tmp_path / "seen").read_bytes()
    assert b"BORG_PASSPHRASE_FD=" in seen and SECRET.encode() not in seen and SECRET not in repr(repository)
    with pytest.raises(borgerrors.WrongPassphrase):
        Repository(repository.location, "wrong").archives()
    with pytest.raises(borgerrors.WrongPassphrase):
        Repository(repository.location).archives()


def test_of_many_that_make_it_at_once_one_does_and_for_the_others_it_is_there(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "repository"), SECRET)
    with ThreadPoolExecutor(4) as threads:
        kept = list(threads.map(lambda _number: keep(repository, None, "none", False), range(4)))
    assert sorted(one.made for one in kept) == [False] * 3 + [True]
    assert sorted(len(one.actions) for one in kept) == [0] * 3 + [1]


def test_what_is_no_repository_and_becomes_none_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(borgkeeping, "_MAKING_SECONDS", 0.3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").write_bytes(b"x")
    with pytest.raises(borgerrors.BorgFailed, match="already something at"):
        keep(Repository(str(tmp_path / "other")), None, "none", False)


def raise_hinted(repository: Repository) -> None:
    try:
        repository.archives()
    except borgerrors.NoRepository as error:
        raise borgerrors.NoRepository(repository=error.hint_text, output="") from error


def test_a_borg_that_is_not_there_or_too_old_is_told_with_the_way_out(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho borg 1.1.17\n")
    old.chmod(0o755)
    with pytest.raises(borgerrors.BorgMissing, match="1.1.17, not 1.2 or later"):
        Repository("/nowhere", program=str(old)).must_serve()
    with pytest.raises(borgerrors.BorgMissing, match="No such file"):
        Repository("/nowhere", program=str(tmp_path / "none")).must_serve()
    Repository("/nowhere").must_serve()


def test_what_only_reads_waits_for_no_writer_and_a_writer_says_whom_he_waited_for(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "repository"))
    repository.make("none")
    fill(repository, "one", {"a": b"1"})
    held = ["borg", "with-lock", repository.location, "sh", "-c", "echo held; read -r word"]
    environment = {**os.environ, "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            assert [one.name for one in repository.archives()] == ["one"]
            assert repository.text("one", "a") == b"1"
            with pytest.raises(borgerrors.RepositoryLocked):
                repository.remove(["one"], lock_seconds=1)
        finally:
            holder.stdin.close()
    repository.remove(["one"])
    assert repository.archives() == []


def fill(repository: Repository, name: str, files: dict[str, bytes], comment: str = "") -> None:
    with repository.start(["import-tar", "--comment", comment, repository.named(name), "-"], feeds=True) as running:
        for file, data in files.items():
            running.write(small_file(file, data, 0))
        running.write(END)
        running.wait()


def test_a_stream_that_ends_early_makes_no_archive_and_one_that_is_refused_says_why(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "repository"))
    repository.make("none")
    with repository.start(["import-tar", repository.named("cut"), "-"], feeds=True) as running:
        running.write(small_file("a", bytes(1 << 20), 0)[: 1 << 19])
        with pytest.raises(borgerrors.BorgFailed, match="import-tar"):
            running.wait()
    names = {"web $(reboot).vmx": b"x", "\u00fc" * 90: b"", "-rf": b"2"}
    fill(repository, "one", names, json.dumps({"vm": "\u00fc'\"$(x)"}))
    assert repository.sizes("one") == {name: len(data) for name, data in names.items()}
    assert repository.text("one", "-rf") == b"2"
    (archive,) = repository.archives()
    assert json.loads(archive.comment) == {"vm": "\u00fc'\"$(x)"}
    refused = pytest.raises(borgerrors.BorgFailed, match="already exists")
    with refused, repository.start(["import-tar", repository.named("one"), "-"], feeds=True) as running:
        while True:
            running.write(bytes(1 << 20))


def test_holes_are_named_and_not_sent_and_come_out_as_zeros(tmp_path: Path) -> None:
    data = os.urandom(3 * SLOT_BYTES)
    ranges = [(SLOT_BYTES, SLOT_BYTES), (5 * SLOT_BYTES, 2 * SLOT_BYTES)]
    size = 40 * SLOT_BYTES + 512
    before, after = sparse_file("scsi0-0.raw", size, ranges, 0)
    stream = before + data + after + small_file("stowage.json", b"{}", 0) + END
    assert len(stream) < len(data) + (1 << 14)
    wanted = bytearray(size)
    wanted[SLOT_BYTES : 2 * SLOT_BYTES] = data[:SLOT_BYTES]
    wanted[5 * SLOT_BYTES : 7 * SLOT_BYTES] = data[SLOT_BYTES:]
    repository = Repository(str(tmp_path / "repository"))
    repository.make("none")
    with repository.start(["import-tar", repository.named("one"), "-"], feeds=True) as running:
        running.write(stream)
        running.wait()
    assert repository.sizes("one") == {"scsi0-0.raw": size, "stowage.json": 2}
    with repository.stream("one", "scsi0-0.raw") as running:
        assert running.output.read() == bytes(wanted)
        running.wait()


def test_a_disk_that_holds_more_than_a_header_can_count_is_followed_by_the_next_member(tmp_path: Path) -> None:
    held = 9 << 30
    before, after = sparse_file("scsi0-0.raw", 20 << 30, [(1 << 30, held)], 0)
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        file.write(before)
        file.seek(held, io.SEEK_CUR)
        file.write(after + small_file("stowage.json", b"{}", 0) + END)
    with tarfile.open(path) as tar:
        found = tar.getmembers()
    assert [(one.name, one.size) for one in found] == [("scsi0-0.raw", 20 << 30), ("stowage.json", 2)]


class Disk:
    """A disk that is here, with the lanes of one that is far away."""

    path = "/vmfs/volumes/ds/web01/web01.vmdk"

    def __init__(self, data: bytes, allocated: list[tuple[int, int]], lies: int = -1) -> None:
        self.data, self.size, self._allocated, self.lies = data, len(data), allocated, lies
        self.asked: list[tuple[int, int]] = []

    def allocated(self) -> Iterator[tuple[int, int]]:
        return iter(self._allocated)

    def lane(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def fetch(self, pieces: list[tuple[int, int]]) -> Any:
        found = [memoryview(self.data)[offset : offset + length] for offset, length in pieces]
        return SimpleNamespace(chunks=lambda: iter(found))

    def ask(self, pieces: list[tuple[int, int]]) -> Any:
        self.asked += pieces
        found = [self._hash(*piece) for piece in pieces]
        return SimpleNamespace(hashes=lambda: found)

    def _hash(self, offset: int, length: int) -> bytes | None:
        data = self.data[offset : offset + length]
        if offset == self.lies:
            data = b"other"
        return hashlib.sha256(data).digest() if any(data) else None


def reading(disk: Any, verify: str, connections: int = 3) -> InOrder:
    return InOrder("esx1", disk, connections, verify, lambda: None)


@pytest.mark.parametrize(("verify", "asked"), [("none", 0), ("sample", 12), ("full", 12)])
def test_what_is_read_comes_in_order_in_whole_slots_and_the_host_is_asked(verify: str, asked: int) -> None:
    data = random.Random(1).randbytes(19 * SLOT_BYTES + 1000)
    allocated = [(5, 10), (SLOT_BYTES + 7, 2 * SLOT_BYTES), (11 * SLOT_BYTES, 8 * SLOT_BYTES + 1000)]
    disk = Disk(data, allocated)
    read = reading(disk, verify)
    assert read.ranges == ((0, 4 * SLOT_BYTES), (11 * SLOT_BYTES, 8 * SLOT_BYTES + 1000))
    got = b"".join(read.pieces())
    assert got == data[: 4 * SLOT_BYTES] + data[11 * SLOT_BYTES :]
    assert (read.done, read.held_bytes) == (len(got), len(got))
    assert read.digest.digest() == hashlib.sha256(got).digest()
    # The last, short one is the thirteenth.
    assert len(disk.asked) == (asked + 1 if asked else 0) == read.compared


def test_a_sample_of_a_large_disk_has_head_tail_and_a_slot_of_each_stretch() -> None:
    disk = Disk(bytes(200 * SLOT_BYTES), [(0, 200 * SLOT_BYTES)])
    read = reading(disk, "sample")
    for _piece in read.pieces():
        pass
    # Neighbouring stretches may meet in one slot.
    assert 32 <= read.compared <= 66 and {0, 199 * SLOT_BYTES} <= {offset for offset, _length in disk.asked}
    assert read.verified.startswith("sample of ")


def test_what_is_other_on_the_host_by_now_is_an_error() -> None:
    disk = Disk(bytes(8 * SLOT_BYTES), [(0, 8 * SLOT_BYTES)], lies=5 * SLOT_BYTES)
    with pytest.raises(errors.CopyDiffers, match=f"at {5 * SLOT_BYTES} are others"):
        list(reading(disk, "full").pieces())
    assert reading(Disk(bytes(10), []), "sample").verified == "it holds nothing"
