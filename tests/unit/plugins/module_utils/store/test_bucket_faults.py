# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a bucket behind a line that fails: throttled, silent, cut on the way in and on the way out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpfaults
import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.s3 import S3Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BackendFailed, ObjectExists
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from httpfaults import FAULTS, Line

from . import benches

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture
def line(s3_server: str) -> Iterator[Line]:
    with httpfaults.between(s3_server) as line:
        line.silence_seconds = 0.8
        yield line


@pytest.fixture
def backend(line: Line, monkeypatch: pytest.MonkeyPatch) -> S3Backend:
    # The client waits up to 20 s between its attempts, ours up to 10 s: the order is what is tried here, not the wait.
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    return benches.s3(line.endpoint, timeout_seconds=1.0)


def once(fault: str, *methods: str) -> Any:
    """The first request of each path and method fails, its repetition does not."""
    done: set[tuple[str, str]] = set()

    def plan(_number: int, method: str, path: str) -> str | None:
        if method not in methods or (method, path) in done:
            return None
        done.add((method, path))
        return fault

    return plan


@pytest.mark.parametrize("fault", FAULTS)
def test_each_act_survives_that_its_first_request_fails(line: Line, backend: S3Backend, fault: str) -> None:
    line.plan = once(fault, "GET", "PUT", "HEAD", "DELETE")
    data = random.Random(1).randbytes(300_000)
    backend.create("a/one", data)
    with pytest.raises(ObjectExists):
        backend.create("a/one", b"another's")
    upload = backend.upload("a/two")
    upload.append([data, b"end"])
    upload.commit()
    assert backend.read("a/one") == data
    assert bytes(backend.map("a/two")[:]) == data + b"end"
    with backend.open("a/two") as ranges:
        assert ranges.size == len(data) + 3
        assert bytes(ranges.read(len(data) - 1, 4)) == data[-1:] + b"end"
    assert dict(backend.list("a/")) == {"a/one": len(data), "a/two": len(data) + 3}
    backend.delete("a/one")
    assert dict(backend.list("a/")) == {"a/two": len(data) + 3}
    assert [what for _method, _path, what in line.seen].count(fault) >= 5


@pytest.mark.parametrize("fault", FAULTS)
def test_a_line_that_never_gets_better_is_told_by_the_objects_name(
    line: Line, backend: S3Backend, fault: str, s3_server: str
) -> None:
    backend.create("x/here", bytes(range(256)) * 100)
    line.plan = lambda _number, _method, _path: fault
    with pytest.raises(BackendFailed, match="x/here"):
        backend.read("x/here")
    if fault not in ("cut-answer", "lost"):
        with pytest.raises(BackendFailed, match="x/new"):
            backend.create("x/new", b"1" * 100)
        line.plan = lambda _number, _method, _path: None
        assert dict(backend.list("x/")) == {"x/here": 25_600}


def test_a_conflict_of_two_clients_says_nothing_of_the_name_and_is_asked_again(line: Line, backend: S3Backend) -> None:
    line.plan = once("conflict", "PUT")
    backend.create("x/one", b"1" * 1000)
    upload = backend.upload("x/two")
    upload.append([b"2" * 1000])
    upload.commit()
    assert (backend.read("x/one"), backend.read("x/two")) == (b"1" * 1000, b"2" * 1000)
    with pytest.raises(ObjectExists):
        backend.create("x/one", b"another's")
    line.plan = lambda _number, method, _path: "conflict" if method == "PUT" else None
    with pytest.raises(BackendFailed, match="x/three.*conflicting"):
        backend.create("x/three", b"3")


def test_a_name_that_its_owner_gives_up_while_another_asks_for_it_was_taken(line: Line, s3_server: str) -> None:
    owner, backend = (benches.s3(endpoint, "given-up") for endpoint in (s3_server, line.endpoint))
    owner.create("x/one", b"the owner's")

    def plan(_number: int, method: str, _path: str) -> None:
        if method == "HEAD":
            owner.delete("x/one")

    line.plan = plan
    with pytest.raises(ObjectExists):
        backend.create("x/one", b"another's")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 30))])
def test_backup_restore_verify_and_collection_through_a_bad_line(
    line: Line, backend: S3Backend, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    line.plan = lambda _number, _method, _path: chance.choice(FAULTS) if chance.random() < 0.15 else None
    store = benches.new_store(backend)
    days = [[1, 2, 0, 3, 4, 5, 0, 6], [1, 7, 8, 3, 4, 9, 0, 6], [1, 7, 8, 10, 0, 9, 11, 6]]
    points = []
    for day, chunks in enumerate(days):
        disk = benches.image(tmp_path / f"day{day}.raw", chunks)
        point, _told = benches.back_up(store, disk, parent=points[-1] if points else None)
        points.append(point)
    store.backend.delete(points[0].object_name)
    collect.run(store)
    store = Store.open(backend)
    benches.sound(store)
    for day, point in list(enumerate(points))[1:]:
        assert benches.restored(store, point, tmp_path) == (tmp_path / f"day{day}.raw").read_bytes()
    assert sum(1 for _method, _path, what in line.seen if what) >= 20


def test_what_is_cut_on_its_way_is_no_restore_point(line: Line, backend: S3Backend, tmp_path: Path) -> None:
    store = benches.new_store(backend)
    disk = benches.image(tmp_path / "disk.raw", [1, 2, 3])
    first, _told = benches.back_up(store, disk)
    line.plan = lambda _number, method, path: "cut-upload" if method == "PUT" and "/packs/" in path else None
    with pytest.raises(BackendFailed, match="packs/"):
        benches.back_up(store, benches.image(tmp_path / "disk2.raw", [4, 5, 6]))
    line.plan = lambda _number, _method, _path: None
    store = Store.open(backend)
    assert [point.point for point in store.points()] == [first.point]
    benches.sound(store)
    benches.back_up(store, benches.image(tmp_path / "disk3.raw", [4, 5, 6]))
    benches.sound(store)
