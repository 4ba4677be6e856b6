# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read must be what was planned."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.programs import dedup, errors, watching
from ansible_collections.stowage.esxi.plugins.module_utils.programs.ladder import Reading
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import AgentStays
from fakeclock import FakeClock

MIB = 1 << 20


class Grown:
    """A disk of a host, of another size than when it was looked at, and all of it zeros."""

    path, size, throttle, renewals = "/vmfs/volumes/ds/web01/web01.vmdk", 3 * MIB, None, 0

    def allocated(self) -> Any:
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


def reach_of(**more: Any) -> Any:
    settings: dict[str, Any] = {
        "host": SimpleNamespace(name="esx1"),
        "clock": SystemClock(),
        "stall_seconds": 60.0,
        "minimum_rate": 0,
        "stepwise": False,
        "connections": 1,
        "alive": lambda: None,
        "progress": lambda progress: None,
        "all_read": lambda: None,
    }
    return SimpleNamespace(**{**settings, **more})


SOURCE = Source("scsi0:0", Grown.path, Grown.size, MIB)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is opened; whatever is put into the list is raised when it is closed."""
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)
    parts: Any = (Grown(), SimpleNamespace(way="direct", proof=""), SimpleNamespace(method="agent"))
    errors_at_the_end: list[Any] = []

    @contextlib.contextmanager
    def open_all(*_words: Any) -> Iterator[Any]:
        yield [dedup.OpenDisk(SOURCE, *parts)]
        for error in errors_at_the_end:
            raise error

    monkeypatch.setattr(dedup, "opened_disks", open_all)
    yield errors_at_the_end


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store.create(LocalBackend(str(tmp_path / "store")))) as made:
        yield made


def feeding_of(before_commit: Any = lambda point, fed: {}) -> dedup.Feeding:
    return dedup.Feeding("id-1", "web01", [SOURCE], {"a.vmx": b"x"}, {}, before_commit)


@pytest.mark.usefixtures("opened")
def test_signs_of_life_go_on_while_it_is_proven_that_the_source_held_still(store: Store) -> None:
    """A proof may take longer than a lease lasts: hostd is slow, and asked again."""
    signs, clock = threading.Semaphore(0), FakeClock()

    def proof(_point: str, _fed: Any) -> dict[str, Any]:
        while signs.acquire(blocking=False):
            pass
        for _sign in range(10):
            clock.advance(100)
            assert signs.acquire(timeout=60), "nobody gave a sign of life"
        return {"proof": "held"}

    fed = dedup.feed(store, feeding_of(proof), reach_of(alive=signs.release, stall_seconds=60.0, clock=clock))
    assert store.points() == [fed.point] and fed.point.facts["proof"] == "held"


@pytest.mark.usefixtures("opened")
def test_who_looks_on_and_fails_while_it_is_proven_prevents_the_point(store: Store) -> None:
    gone = threading.Event()

    def look() -> None:
        if gone.is_set():
            raise StowageError(reason="the lock is lost")

    def proof(_point: str, _fed: Any) -> dict[str, Any]:
        gone.set()
        time.sleep(0.3)
        return {}

    with pytest.raises(StowageError, match="the lock is lost"):
        dedup.feed(store, feeding_of(proof), reach_of(alive=look))
    assert store.points() == []


@pytest.mark.usefixtures("opened")
def test_a_host_that_goes_while_the_point_is_committed_does_not_unmake_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, looks, create = threading.Event(), threading.Semaphore(0), store.backend.create

    def look() -> None:
        looks.release()
        if gone.is_set():
            raise StowageError(reason="hostd is gone")

    def slow(name: str, data: bytes) -> None:
        if name.startswith("points/"):
            gone.set()
            for _look in range(200):
                assert looks.acquire(timeout=10)
                if not looks._value:
                    break
            time.sleep(0.2)
        create(name, data)

    monkeypatch.setattr(store.backend, "create", slow)
    fed = dedup.feed(store, feeding_of(), reach_of(alive=look))
    assert store.points() == [fed.point] and gone.is_set() and fed.left == ""


def test_the_disks_are_closed_and_the_turn_is_given_on_before_it_is_proven(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof moves nothing over the wire; who waits for a slot need not wait for it, nor for the commit."""
    happened: list[str] = []
    parts: Any = (Grown(), SimpleNamespace(way="direct", proof=""), SimpleNamespace(method="agent"))

    @contextlib.contextmanager
    def open_all(*_words: Any) -> Iterator[Any]:
        yield [dedup.OpenDisk(SOURCE, *parts)]
        happened.append("closed")

    def proof(_point: str, _fed: Any) -> dict[str, Any]:
        happened.append("proven")
        assert store.points() == []
        return {}

    monkeypatch.setattr(dedup, "opened_disks", open_all)
    dedup.feed(store, feeding_of(proof), reach_of(all_read=lambda: happened.append("turn given on")))
    assert happened == ["closed", "turn given on", "proven"]


def test_what_stays_on_the_host_when_all_is_read_is_told_with_the_point(store: Store, opened: list[Any]) -> None:
    opened.append(AgentStays(host="esx1", pid=42, token="stowage-agent-x", seconds=10))
    fed = dedup.feed(store, feeding_of(), reach_of())
    assert store.points() == [fed.point] and "42" in fed.left and "esx1" in fed.left

    def refuse(_point: str, _fed: Any) -> dict[str, Any]:
        raise StowageError(reason="it has not held still")

    with pytest.raises(StowageError, match="not held still") as told:
        dedup.feed(store, feeding_of(refuse), reach_of())
    assert "42" in told.value.data["left"]
    assert store.points() == [fed.point]


def test_a_disk_that_has_another_size_by_now_makes_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("scsi0:0", Grown.path, 2 * MIB, MIB)
    parts: Any = (Grown(), SimpleNamespace(way="direct", proof=""), SimpleNamespace(method="agent"))
    one = dedup.OpenDisk(source, *parts)
    monkeypatch.setattr(dedup, "opened_disks", lambda *_: contextlib.nullcontext([one]))
    reach = reach_of()
    feeding = dedup.Feeding("id-1", "web01", [source], {}, {}, lambda point, fed: {})
    with contextlib.closing(Store.create(LocalBackend(str(tmp_path / "store")))) as store:
        with pytest.raises(errors.DiskNotCopyable, match="scsi0:0 of VM 'web01'.*2097152 bytes, and .* has 3145728"):
            dedup.feed(store, feeding, reach)
        assert store.points() == []


def test_of_a_clone_no_more_is_told_than_is_proven_of_the_clone() -> None:
    way: Any = SimpleNamespace(method="agent")
    proof = "the same 3145728 bytes, 100 of them occupied, its source 200; not compared: its source is locked"
    read = [Reading("direct", Grown.path), Reading("clone", "/vmfs/volumes/bk/x.vmdk", "busy", "bk", 3.0, proof)]
    disk: Any = Grown()
    direct, clone = (dedup.OpenDisk(SOURCE, disk, one, way) for one in read)
    assert direct.verified(dedup.HERE) == dedup.VERIFIED
    told = clone.verified(dedup.THERE)
    assert told.startswith("of a clone that the host has made, every chunk") and dedup.THERE in told and proof in told
    assert clone.notes[0] == "read from a clone on bk: busy"
