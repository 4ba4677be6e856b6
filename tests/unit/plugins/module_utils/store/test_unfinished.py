# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a backup had stored when it was cut or killed is not sent again, and is nobody's to lose."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    collect,
    points,
    registry,
    repair,
    textfile,
    unfinished,
    verify,
    writer,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import QuotaReached, SourceLied
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import Piece
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from fakeclock import FakeClock

from .benches import CHUNK, back_up, image, local, new_store, restored, sound
from .hashing import HashedFile, feed
from .test_collect import Interleaved, prove_all


@pytest.fixture(params=["sha256", "encrypted"])
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("zstandard")
    return str(request.param)


class Cut(HashedFile):
    """Its connections end after so many chunks."""

    left = 10

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        for data in super().chunks(pieces):
            with self._guard:
                self.left -= 1
            if self.left < 0:
                raise ConnectionResetError("cut")
            yield data


def cut(store: Store, disk: Path, left: int = 10, **more: Any) -> None:
    source = Cut(disk)
    source.left = left
    with pytest.raises(ConnectionResetError):
        feed(store, source, **more)


def left(store: Store, folder: str = unfinished.FOLDER) -> list[str]:
    return sorted(name for name, _size in store.backend.list(folder))


def collected(again: Callable[[], Store]) -> Store:
    """After two collections: what the first one announces the second removes, if nobody writes."""
    for _turn in range(2):
        opened = again()
        opened.clock = FakeClock()
        report = collect.run(opened)
        assert report.stopped is None
    return again()


def test_what_had_come_is_not_sent_again(store: Store, again: Callable[[], Store], tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", list(range(1, 101)), 100 * CHUNK - 500)
    for sent in (10, 30):
        cut(store, disk, sent)
        assert store.points() == [] and not left(store, "index/") and not left(store, "writers/")
    source = HashedFile(disk)
    opened = again()
    point, told = feed(opened, source)
    # Of each cut, a chunk for each connection may have been on its way.
    assert 60 * CHUNK - 500 <= source.fetched_bytes == told.sent <= 64 * CHUNK
    assert told.known + told.new == told.read == 100 * CHUNK - 500
    assert restored(again(), point, tmp_path) == disk.read_bytes()
    assert not left(store)
    sound(again())
    opened = collected(again)
    assert restored(opened, point, tmp_path) == disk.read_bytes()
    sound(opened)


def test_it_is_told_to_its_own_scope_only(store: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", list(range(1, 21)))
    cut(store, disk, 12, host="esx1", group="ours", threads=1)
    for host, group, scope, least, most in (
        ("esx2", "ours", "host", 20, 20),
        (None, None, "host", 20, 20),
        ("esx2", "ours", "group", 8, 9),
        ("esx1", None, "host", 8, 9),
    ):
        source = HashedFile(disk)
        point, _told = feed(store, source, machine=f"{host} {group}", host=host, group=group, scope=scope)
        assert least * CHUNK <= source.fetched_bytes <= most * CHUNK
        assert restored(store, point, tmp_path) == disk.read_bytes()
        # What was fetched outside of the scope lies in the index now: it is nobody else's yet.
        store.backend.delete(point.object_name)
    sound(store)


def test_a_collection_removes_what_nobody_came_for(store: Store, again: Callable[[], Store], tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", list(range(1, 21)))
    cut(store, disk)
    assert left(store, "packs/") and len(left(store)) == 1
    opened = collected(again)
    assert not left(opened, "packs/") and not left(opened)
    source = HashedFile(disk)
    point, _told = feed(opened, source)
    assert source.fetched_bytes == 20 * CHUNK and restored(opened, point, tmp_path) == disk.read_bytes()


def test_a_lie_keeps_what_was_proven_before_it(plain: Store, tmp_path: Path) -> None:
    class Liar(Cut):
        def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
            try:
                yield from super().chunks(pieces)
            except ConnectionResetError:
                yield bytes(CHUNK)

    disk = image(tmp_path / "disk", list(range(1, 21)))
    with pytest.raises(SourceLied):
        feed(plain, Liar(disk), threads=1)
    source = HashedFile(disk)
    feed(plain, source)
    assert source.fetched_bytes == 10 * CHUNK


def test_a_local_disk_leaves_nothing(plain: Store, tmp_path: Path) -> None:
    def refuse(_point: str) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        back_up(plain, image(tmp_path / "disk", [1, 2]), before_commit=refuse)
    assert not left(plain) and not left(plain, "packs/")


def test_at_the_quota_its_room_is_given_back(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told in time stays for a collection; without a word all of it goes at once."""
    store = new_store(local(root), quota_bytes=16 * CHUNK, reserve_bytes=4 * CHUNK)
    disk = image(tmp_path / "disk", list(range(1, 60)))
    with pytest.raises(QuotaReached):
        feed(store, HashedFile(disk))
    assert not left(store, "packs/") and not left(store)
    monkeypatch.setattr(unfinished, "TELL_SECONDS", 0.0)
    store.settings["pack_bytes"] = 3 * CHUNK
    with pytest.raises(QuotaReached):
        feed(store, HashedFile(disk))
    assert left(store, "packs/") and len(left(store)) == 1
    opened = collected(lambda: Store.open(local(root)))
    assert not left(opened, "packs/") and not left(opened)


def test_a_backup_that_ends_well_leaves_no_word(plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "TELL_SECONDS", 0.0)
    seen = []
    plain.settings["pack_bytes"] = 3 * CHUNK
    disk = image(tmp_path / "disk", list(range(1, 60)))
    feed(plain, HashedFile(disk), before_commit=lambda _point: seen.append(len(left(plain))))
    assert seen == [1] and not left(plain)


def test_damaged_words_and_packs_are_told_and_lean_on_nothing(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path
) -> None:
    disk = image(tmp_path / "disk", list(range(1, 21)))
    cut(store, disk)
    sound(store)
    # One bit of each pack: its chunk is sent again, the others not.
    count = 0
    for name in left(store, "packs/"):
        data = bytearray(store.backend.read(name))
        data[200] ^= 1
        store.backend.delete(name)
        store.backend.create(name, bytes(data))
        count += 1
    source = HashedFile(disk)
    point, _told = feed(again(), source, machine="another")
    assert (10 + count) * CHUNK <= source.fetched_bytes <= (12 + count) * CHUNK
    assert restored(again(), point, tmp_path) == disk.read_bytes()
    # One bit of the word.
    (word,) = left(store)
    data = bytearray(store.backend.read(word))
    data[len(data) // 2] ^= 1
    store.backend.delete(word)
    store.backend.create(word, bytes(data))
    report = verify.run(again(), threads=1)
    assert any(word in problem for problem in report.problems)
    source = HashedFile(image(tmp_path / "other", [1, 2, 99]))
    feed(again(), source, machine="third", host="esx7")
    assert source.fetched_bytes == 3 * CHUNK
    collected(again)
    assert not left(store)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"machine": "m", "facts": {"hypervisor": "esx1"}, "packs": ["../../etc-1"]},
        {"machine": "m", "facts": {"hypervisor": "esx1"}, "packs": "abc-000001"},
        {"machine": 5, "facts": {"hypervisor": "esx1"}, "packs": []},
        {"machine": "m", "facts": [], "packs": []},
    ],
)
def test_a_strangers_word_is_named_and_stops_nothing(plain: Store, root: Path, tmp_path: Path, value: Any) -> None:
    name = f"{unfinished.FOLDER}{'ab' * 8}-000001.json"
    plain.backend.create(name, textfile.render(value))
    report = verify.run(plain, threads=1)
    assert any(name in problem for problem in report.problems)
    disk = image(tmp_path / "disk", [1, 2])
    point, told = feed(plain, HashedFile(disk))
    assert told.new == 2 * CHUNK and restored(plain, point, tmp_path) == disk.read_bytes()
    collect.run(Store.open(local(root), clock=FakeClock()))
    assert not left(plain)
    sound(plain)


def test_while_its_writer_lives_others_may_lean_on_what_it_has_told(
    plain: Store, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither its end, nor a collection, nor a repair takes it away."""
    monkeypatch.setattr(unfinished, "TELL_SECONDS", 0.0)
    plain.settings["pack_bytes"] = 3 * CHUNK
    disk = image(tmp_path / "disk", list(range(1, 41)))
    made: list[Any] = []

    def meanwhile(_point: str) -> None:
        opened = Store.open(local(root))
        source = HashedFile(disk)
        point, _told = feed(opened, source, machine="meanwhile")
        # All but what lies in the last word's successor.
        assert source.fetched_bytes < 10 * CHUNK
        made.append(point)
        opened.clock = FakeClock()
        assert repair.run(Store.open(local(root), clock=FakeClock())).lost == {}
        assert restored(Store.open(local(root)), point, tmp_path) == disk.read_bytes()
        raise RuntimeError("over")

    with pytest.raises((RuntimeError, writer.WriterRevoked)):
        feed(plain, HashedFile(disk), before_commit=meanwhile)
    for _turn in range(2):
        collect.run(Store.open(local(root), clock=FakeClock()))
    opened = Store.open(local(root))
    assert restored(opened, made[0], tmp_path) == disk.read_bytes()
    sound(opened)


def killed(root: Path, disk: Path, secret: str | None, stepwise: bool) -> None:
    """A process that backs up until it is killed: its source gives a chunk now and then."""

    class Slow(HashedFile):
        def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
            for data in super().chunks(pieces):
                time.sleep(0.01)
                yield data

    store = Store.open(local(root), secret)
    if stepwise:
        writer.PIECE_BYTES = 3 * CHUNK
    else:
        unfinished.TELL_SECONDS = 0.0
        store.settings["pack_bytes"] = 3 * CHUNK
    feed(store, Slow(disk), stepwise=stepwise)


class Durable(LocalBackend):
    """Knows of each pack when it is durable."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.whole: set[str] = set()

    def upload(self, name: str) -> Any:
        upload = super().upload(name)
        commit = upload.commit

        def committed() -> None:
            # A disk that takes its time.
            time.sleep(0.02)
            commit()
            self.whole.add(name)

        upload.commit = committed  # type: ignore[method-assign]
        return upload


def test_step_by_step_nothing_is_asked_for_before_what_came_is_durable_and_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PIECE_BYTES", 16 * CHUNK)
    new_store(local(root), codec="none")
    backend = Durable(str(root))
    store = Store.open(backend)
    behind: list[int] = []

    class Looking(HashedFile):
        """Looks at each question how much has come that would not outlive a power cut."""

        def hashes(self, pieces: Sequence[Piece]) -> Sequence[Any]:
            words = [word for _name, word in unfinished.words(store)]
            told = set().union(*(word.packs for word in words if isinstance(word, unfinished.Word)))
            behind.append(len(self.fetched) - 16 * min(len(told), len(backend.whole)))
            return super().hashes(pieces)

    disk = image(tmp_path / "disk", list(range(1, 161)))
    source = Looking(disk)
    feed(store, source, threads=1, stepwise=True)
    assert source.most_due == 1 and len(behind) == 10 and max(behind) <= 16
    ahead = HashedFile(image(tmp_path / "other", list(range(201, 361))))
    feed(store, ahead, threads=1)
    assert ahead.most_due > 1


@pytest.mark.folder
@pytest.mark.parametrize("stepwise", [False, True], ids=["async", "sync"])
def test_what_a_killed_backup_had_stored_is_not_sent_again(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path, secret: str | None, stepwise: bool
) -> None:
    disk = image(tmp_path / "disk", list(range(1, 301)))
    process = multiprocessing.get_context("fork").Process(target=killed, args=(root, disk, secret, stepwise))
    process.start()
    deadline = time.monotonic() + 60
    while len(left(store, "packs/")) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert len(left(store, "writers/")) == 1 and store.points() == []
    source = HashedFile(disk)
    point, told = feed(again(), source)
    # Two packs that were not whole, one that was not told of yet.
    whole = 20 * 4
    assert source.fetched_bytes <= (300 - whole + 4 * 4) * CHUNK and told.known >= (whole - 4 * 4) * CHUNK
    opened = collected(again)
    assert restored(opened, point, tmp_path) == disk.read_bytes()
    sound(opened)
    assert len(left(opened)) == 1
    # The next one of the machine clears the word away, now that its writer was given up.
    image(disk, list(range(2, 302)))
    feed(opened, HashedFile(disk), parent=point)
    assert not left(opened)


# -- whoever meets whom, at any moment ---------------------------------------------------------------------------------


class Beating(LocalBackend):
    """Every look at the signs of life finds a new one, but for one writer."""

    def __init__(self, root: str, dead: str) -> None:
        super().__init__(root)
        self.dead = dead
        self.looks = 0

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        if prefix == registry.BEATS:
            self.looks += 1
            for one in registry.registrations(LocalBackend(self.root)):
                if one.id != self.dead:
                    yield f"{registry.BEATS}{one.id}-{self.looks}", 0
            return
        yield from super().list(prefix)


def scene(folder: Path, registered: bool) -> tuple[Path, str]:
    """A store with a point that stays, and what a writer has left that was cut, or killed: then it is registered."""
    folder.mkdir()
    (folder / "store").mkdir()
    store = new_store(local(folder / "store"))
    back_up(store, image(folder / "stays", [8, 9]), machine="stays")
    cut(store, image(folder / "new", [1, 2, 3, 5]), 3, machine="new", threads=1)
    dead = left(store)[0].partition("/")[2].partition("-")[0]
    if registered:
        point = points.object_name("new", "20261126T150000.000000Z-1f0c2a")
        store.backend.create(f"{registry.WRITERS}{dead}.json", textfile.render({"writer": dead, "point": point}))
    return folder / "store", dead


every = pytest.mark.parametrize(
    ("registered", "step"),
    [
        (False, 7),
        (True, 7),
        pytest.param(False, 1, marks=pytest.mark.soak),
        pytest.param(True, 1, marks=pytest.mark.soak),
    ],
)


@pytest.mark.folder
@every
def test_a_backup_that_takes_over_at_any_moment_of_a_collection_restores(
    tmp_path: Path, registered: bool, step: int
) -> None:
    moment, done, sent = 0, False, set()
    while not done:
        moment += step
        folder = tmp_path / str(moment)
        root, dead = scene(folder, registered)

        def act(root: Path = root, folder: Path = folder) -> None:
            source = HashedFile(folder / "new")
            feed(Store.open(local(root)), source, machine="new", threads=1)
            sent.add(len(source.fetched))

        backend = Interleaved(str(root), moment, act)
        for _turn in range(2):
            collect.run(Store.open(backend, clock=FakeClock()))
        done = backend.calls < moment
        if done:
            act()
        for _turn in range(2):
            collect.run(Store.open(local(root), clock=FakeClock()))
        prove_all(root, folder, {"stays": folder / "stays", "new": folder / "new"})
    # Before it was announced it was there, and afterwards it was not.
    assert moment > 20 and sent == {1, 4}


@pytest.mark.folder
@every
@pytest.mark.parametrize("work", ["collect", "repair"])
def test_a_collection_or_repair_at_any_moment_of_a_backup_that_takes_over_takes_nothing_from_it(
    tmp_path: Path, registered: bool, step: int, work: str
) -> None:
    moment, done, sent = 0, False, set()
    while not done:
        moment += step
        folder = tmp_path / str(moment)
        root, dead = scene(folder, registered)

        def act(root: Path = root, dead: str = dead) -> None:
            opened = Store.open(Beating(str(root), dead), clock=FakeClock())
            for _turn in range(2):
                if work == "collect":
                    collect.run(opened)
                else:
                    assert repair.run(opened).lost == {}

        backend = Interleaved(str(root), moment, act)
        source = HashedFile(folder / "new")
        feed(Store.open(backend), source, machine="new", threads=1)
        sent.add(len(source.fetched))
        done = backend.calls < moment
        act()
        prove_all(root, folder, {"stays": folder / "stays", "new": folder / "new"})
    assert moment > 10 and 1 in sent


@pytest.mark.folder
@every
def test_a_backup_that_takes_over_and_is_given_up_hurts_nobody(tmp_path: Path, registered: bool, step: int) -> None:
    moment, done, revoked = 0, False, 0
    while not done:
        moment += step
        folder = tmp_path / str(moment)
        root, _dead = scene(folder, registered)

        def act(root: Path = root) -> None:
            for _turn in range(2):
                collect.run(Store.open(local(root), clock=FakeClock()))

        backend = Interleaved(str(root), moment, act)
        wanted = {"stays": folder / "stays", "new": folder / "new"}
        try:
            feed(Store.open(backend), HashedFile(folder / "new"), machine="new", threads=1)
        except writer.WriterRevoked:
            revoked += 1
            del wanted["new"]
        done = backend.calls < moment
        prove_all(root, folder, wanted)
        feed(Store.open(local(root)), HashedFile(folder / "new"), machine="new")
        for _turn in range(2):
            collect.run(Store.open(local(root), clock=FakeClock()))
        store = Store.open(local(root))
        sound(store)
        for point in store.points():
            assert restored(store, point, folder) == (folder / point.machine_id).read_bytes()
    assert revoked
