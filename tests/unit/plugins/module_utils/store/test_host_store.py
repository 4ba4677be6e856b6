# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a folder of the disks' own machine: chunks go from disk to pack there, and all else is as in any store."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostbackend import HostBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    backup,
    collect,
    copy,
    prune,
    unfinished,
    verify,
    wish,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    BadKeys,
    BadSettings,
    ObjectExists,
    SourceLied,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import SHA256, XXH3
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent, starting
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import StoreLink
from benches import CHUNK, back_up, by_hand, chunk, edited, image, new_store, restored, sound
from fakeclock import FakeClock
from hosted import Here, HostDisk, host_backend

pytestmark = pytest.mark.folder


@pytest.fixture
def host() -> Here:
    return Here()


@pytest.fixture
def store(root: Path, host: Here) -> Iterator[Store]:
    made = new_store(host_backend(root, host=host), codec="zlib")
    yield made
    made.close()


def feed(store: Store, host: Here, *disks: Path, machine: str = "vm-1", **more: Any) -> tuple[Point, backup.Told]:
    inputs = [backup.DiskInput(f"scsi0:{n}", HostDisk(path, host)) for n, path in enumerate(disks)]
    more.setdefault("threads", 2)
    facts = {"hypervisor": "here"}
    return backup.run(store, machine, f"name of {machine}", inputs, {"a.vmx": b"x"}, facts=facts, **more)


def opened_by_linux(root: Path, folder: Path) -> Store:
    """The folder copied, and opened as any other."""
    shutil.copytree(root, folder)
    return Store.open(LocalBackend(str(folder)))


def test_chunks_go_from_disk_to_pack_there_and_only_small_things_over_the_wire(
    store: Store, root: Path, host: Here, tmp_path: Path
) -> None:
    seeds = [*range(1, 300), 0, 0, 7, 8, *range(300, 400)]
    disk = image(tmp_path / "disk", seeds, len(seeds) * CHUNK - 1000)
    before = host.traffic()
    point, told = feed(store, host, disk)
    crossed = host.traffic() - before
    stored = sum(size for _name, size in store.packs())
    assert told.sent == 0 and told.new == sum(len(chunk(seed)) for seed in set(seeds) - {0}) - 1000
    assert told.zero == 2 * CHUNK and told.known == 2 * CHUNK and told.new // 3 < stored < told.new
    # Requests, hashes, records told of, maps, index, tables of contents: less than 400 bytes for each chunk.
    assert crossed < 400 * len(seeds) + 20_000 < stored // 50
    assert point.facts == {"hypervisor": "here"}
    # Of what is there already nothing is packed again, and of what has changed only that.
    edited(disk, disk.stat().st_size, [(40 * CHUNK, CHUNK, 0x41), (90 * CHUNK + 5, 1, 0x42)])
    again, told = feed(store, host, disk, parent=point)
    assert (told.new, told.sent, told.zero) == (2 * CHUNK, 0, 2 * CHUNK)
    copied = opened_by_linux(root, tmp_path / "copied")
    for opened in (store, copied):
        assert restored(opened, again, tmp_path) == disk.read_bytes()
    assert by_hand(tmp_path / "copied", again, tmp_path) == disk.read_bytes()
    # Proven on this side by what was read, and there without that.
    here = sound(copied)
    before = host.traffic()
    there = sound(store)
    # The end of each pack, 64 KiB, is looked at for its table of contents.
    assert host.traffic() - before < 400 * len(seeds) + there.packs * 70_000 < stored // 5
    assert (there.records, there.proven, there.stored) == (here.records, here.proven, here.stored)
    # What is done to the copy is done as to any store.
    other, told = back_up(copied, image(tmp_path / "other", [1, 2, 999]), machine="vm-2")
    assert (told.known, told.new) == (2 * CHUNK, CHUNK)
    assert restored(copied, other, tmp_path) == (tmp_path / "other").read_bytes()
    sound(copied)


def test_packs_are_few_and_as_large_as_they_are_set(root: Path, host: Here, tmp_path: Path) -> None:
    store = new_store(host_backend(root, host=host), codec="none", pack_bytes=20 * CHUNK)
    disk, more = image(tmp_path / "disk", list(range(1, 101))), image(tmp_path / "more", list(range(200, 240)))
    point, _told = feed(store, host, disk, more)
    sizes = [size for _name, size in store.packs()]
    # The small things have one, and each thread one that is not full.
    assert 140 // 21 <= len(sizes) <= 140 // 20 + 3
    assert sum(size >= 19 * CHUNK for size in sizes) >= len(sizes) - 4 and max(sizes) <= 38 * CHUNK
    assert restored(store, point, tmp_path, "scsi0:1") == more.read_bytes()
    sound(store)
    store.close()


def test_a_new_store_there_is_one_that_a_hypervisor_can_fill(root: Path) -> None:
    backend = host_backend(root)
    for no, error in ((wish.Wish(passphrase="x"), BadKeys), (wish.Wish(hash_name="blake3"), BadSettings)):
        with pytest.raises(error, match="hypervisor"):
            wish.plan(backend, no, None)
    decided = wish.plan(backend, wish.Wish(settings={"level": 3}), wish.look(backend, wish.Wish()))
    store, _paper = wish.run(backend, wish.Wish(), decided, None, {})
    assert store.identity.check_name == SHA256
    assert (store.settings["codec"], store.settings["level"], store.settings["pack_bytes"]) == ("zlib", 3, 256 << 20)
    assert decided.after["settings"] == dict(sorted(store.settings.items()))
    opened = Store.open(LocalBackend(str(root)))
    assert (opened.config["check"], opened.identity.check(b"x")) == (SHA256, hashlib.sha256(b"x").digest()[:16])
    backend.close()


@pytest.mark.soak
def test_a_store_with_other_sums_is_fed_by_this_side(root: Path, host: Here, tmp_path: Path) -> None:
    """As one that was made on Linux, and copied there."""
    new_store(LocalBackend(str(root)))
    store = Store.open(host_backend(root, host=host))
    assert store.identity.check_name == XXH3
    disk = image(tmp_path / "disk", [1, 2, 0, 3])
    point, told = feed(store, host, disk)
    assert told.sent == told.new == 3 * CHUNK
    assert restored(store, point, tmp_path) == disk.read_bytes()
    sound(store)
    store.close()


def test_pruned_and_collected_there(store: Store, host: Here, tmp_path: Path) -> None:
    first, _told = feed(store, host, image(tmp_path / "one", list(range(1, 60))))
    second, _told = feed(store, host, image(tmp_path / "two", [1, *range(100, 160)]))
    store.backend.delete(first.object_name)
    report = collect.run(store, observe_seconds=0)
    assert report.announced + report.removed and not report.problems
    collect.run(store, observe_seconds=0)
    assert restored(store, second, tmp_path) == (tmp_path / "two").read_bytes()
    told = prune.run(store, prune.keep_of({"last": 1}, 1), min_verified=0, check=True, observe_seconds=0)
    assert [one.point.point for one in told.decisions] == [second.point]
    sound(store)


@pytest.mark.soak
def test_copied_into_a_store_of_a_backup_server_and_back(store: Store, host: Here, tmp_path: Path, root: Path) -> None:
    disk = image(tmp_path / "disk", list(range(1, 30)))
    point, _told = feed(store, host, disk)
    other = new_store(LocalBackend(str(tmp_path / "other")))
    report = copy.run(store, other)
    ((old, new),) = report.copied
    assert old == point and new is not None and restored(other, new, tmp_path) == disk.read_bytes()
    (tmp_path / "third").mkdir()
    third = new_store(host_backend(tmp_path / "third" / "s", host=host), codec="zlib")
    ((_old, back),) = copy.run(other, third).copied
    assert back is not None and restored(third, back, tmp_path) == disk.read_bytes()
    sound(third)
    third.close()


def kill_after(monkeypatch: pytest.MonkeyPatch, count: int, times: int = 1) -> list[int]:
    """An agent dies in the middle of its work: after so many requests to pack chunks were sent."""
    asked, killed = [0], list[int]()
    keep = StoreLink.keep_chunks

    def dies(link: StoreLink, *words: Any) -> Any:
        answer = keep(link, *words)
        asked[0] += 1
        if asked[0] >= count and len(killed) < times:
            killed.append(link.pid)
            os.kill(link.pid, signal.SIGKILL)
        return answer

    monkeypatch.setattr(StoreLink, "keep_chunks", dies)
    return killed


def test_an_agent_that_dies_is_replaced_and_what_it_had_not_told_is_packed_again(
    store: Store, root: Path, host: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = image(tmp_path / "disk", list(range(1, 200)))
    killed = kill_after(monkeypatch, 5, times=3)
    point, told = feed(store, host, disk)
    assert len(killed) == 3 and told.new == 199 * CHUNK
    assert restored(store, point, tmp_path) == disk.read_bytes()
    report = sound(store)
    # 199 chunks, a page, a file: each once.
    assert report.records == 201
    assert not [name for name in os.listdir(root / "packs") if name.startswith(".")]


def test_a_machine_that_is_gone_takes_no_earlier_point_with_it_and_what_it_told_is_not_packed_again(
    store: Store, root: Path, host: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image(tmp_path / "first", list(range(1, 40)))
    point, _told = feed(store, host, first)
    disk = image(tmp_path / "disk", list(range(100, 300)))
    with monkeypatch.context() as patched:
        killed = kill_after(patched, 8)

        def gone(_here: Here) -> StoreLink:
            raise BackendFailed(name="x", store="x", done="reached", reason="the host is off")

        start = Here.start
        patched.setattr(Here, "start", lambda here: start(here) if not killed else gone(here))
        with pytest.raises(BackendFailed, match="host is off"):
            feed(store, host, disk)
    copied = opened_by_linux(root, tmp_path / "copied")
    assert [one.point for one in copied.points()] == [point.point]
    assert restored(copied, point, tmp_path) == first.read_bytes()
    again = Store.open(host_backend(root, host=host))
    found = collect.Report()
    collect.give_up_dead(again, 0, found)
    made, told = feed(again, host, disk)
    assert restored(again, made, tmp_path) == disk.read_bytes()
    assert told.known + told.new == 200 * CHUNK
    sound(again)
    again.close()


def test_bytes_that_change_under_the_hand_make_no_point(
    store: Store, host: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = image(tmp_path / "disk", list(range(1, 60)))
    keep = StoreLink.keep_chunks
    changed = threading.Event()

    def late(link: StoreLink, *words: Any) -> Any:
        if not changed.is_set():
            changed.set()
            edited(disk, disk.stat().st_size, [(offset * CHUNK, 1, 0x55) for offset in range(60)])
        return keep(link, *words)

    monkeypatch.setattr(StoreLink, "keep_chunks", late)
    with pytest.raises(SourceLied, match="came with other content"):
        feed(store, host, disk)
    assert store.points() == []
    monkeypatch.undo()
    point, _told = feed(store, host, disk)
    assert restored(store, point, tmp_path) == disk.read_bytes()
    sound(store)


def test_a_full_datastore_is_told_and_leaves_nothing_but_the_points_that_were(
    volume: Callable[[int], Path], host: Here, tmp_path: Path
) -> None:
    small = volume(3000)
    store = new_store(host_backend(small / "store", host=host), codec="zlib")
    point, _told = feed(store, host, image(tmp_path / "first", list(range(1, 10))))
    with pytest.raises(BackendFailed, match="No space left on device"):
        feed(store, host, image(tmp_path / "disk", list(range(100, 300))))
    left = [str(path) for path in (small / "store").rglob(".tmp-*")]
    assert left == [] and [one.point for one in store.points()] == [point.point]
    assert restored(store, point, tmp_path) == (tmp_path / "first").read_bytes()
    sound(store)
    store.close()


def test_one_flipped_bit_is_found_there_and_told_as_here(store: Store, root: Path, host: Here, tmp_path: Path) -> None:
    feed(store, host, image(tmp_path / "disk", list(range(1, 20))))
    identity = hashlib.sha256(chunk(7)).digest()
    place = store.place_of(identity)
    (pack,) = (root / "packs").rglob(f"{place.pack}.pack")
    data = bytearray(pack.read_bytes())
    data[place.offset + 100] ^= 4
    pack.write_bytes(data)
    for deep in (False, True):
        there, here = (verify.run(one, deep=deep) for one in (store, Store.open(LocalBackend(str(root)))))
        assert not there.ok and there.hit == here.hit != []
        assert {one: words.replace(store.name, str(root)) for one, words in there.bad.items()} == here.bad
        assert list(here.bad) == [identity]


def test_what_an_unfinished_backup_has_packed_is_proven_where_it_lies(
    store: Store, host: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = image(tmp_path / "disk", list(range(1, 200)))

    def no(_point: str) -> None:
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError):
        feed(store, host, disk, before_commit=no)
    (word,) = [one for _name, one in unfinished.words(store)]
    assert isinstance(word, unfinished.Word) and word.packs
    before = host.traffic()
    point, told = feed(store, host, disk)
    assert (told.new, told.sent, told.known) == (0, 0, 199 * CHUNK)
    assert host.traffic() - before < 600 * 199 + 40_000
    assert restored(store, point, tmp_path) == disk.read_bytes()
    sound(store)


def test_a_small_object_whose_answer_was_lost_is_no_stranger_to_itself(
    root: Path, host: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = host_backend(root, host=host)
    put = StoreLink.put

    def lost(link: StoreLink, *words: Any, **more: Any) -> Any:
        asked = put(link, *words, **more)
        if len(host.links) == 1:
            # It is done there, and its answer does not come here.
            asked.result()
            os.kill(link.pid, signal.SIGKILL)
            return link.ping()
        return asked

    monkeypatch.setattr(StoreLink, "put", lost)
    backend.create("points/x", b"mine")
    assert len(host.links) == 2 and backend.read("points/x") == b"mine"
    with pytest.raises(ObjectExists):
        backend.create("points/x", b"another's")
    backend.close()


def test_an_upload_goes_on_over_a_new_link_and_is_no_stranger_to_itself(
    root: Path, host: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = host_backend(root, host=host)
    upload = backend.upload("packs/aa/x.pack")
    parts = [bytes([number]) * 300_000 for number in range(5)]
    for number, part in enumerate(parts):
        upload.append([part[:1], part[1:]])
        if number in (1, 3):
            os.kill(host.links[-1].pid, signal.SIGKILL)
    name = AgentLink._ask
    lost: list[int] = []

    def ask(link: AgentLink, kind: int, *words: Any, **more: Any) -> Any:
        asked = name(link, kind, *words, **more)
        if kind == agent.NAME and not lost:
            asked.result()
            lost.append(link.pid)
            os.kill(link.pid, signal.SIGKILL)
            return name(link, agent.PING, b"", link._plain("x", "asked"))
        return asked

    monkeypatch.setattr(AgentLink, "_ask", ask)
    upload.commit()
    assert lost and (root / "packs/aa/x.pack").read_bytes() == b"".join(parts)
    assert os.listdir(root / "packs/aa") == ["x.pack"]
    backend.close()


def test_a_claim_whose_maker_died_is_waited_for_and_broken(root: Path) -> None:
    clock = FakeClock()
    backend = host_backend(root, clock)
    backend.create("turns/1", b"1")
    (root / "turns/.tmp-claim-2").mkdir()
    backend.create("turns/2", b"2")
    assert backend.read("turns/2") == b"2" and 4 < sum(clock.slept) < 6
    assert sorted(os.listdir(root / "turns")) == ["1", "2"]
    backend.close()


def test_tidying_takes_what_the_dead_left_and_nothing_of_the_living(
    root: Path, host: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waits(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            time.sleep(1.5)

    source = starting.source()
    hasty = source.replace(b"TOUCH_SECONDS = 5", b"TOUCH_SECONDS = 0.3")
    assert hasty != source
    monkeypatch.setattr(starting, "source", lambda: hasty)

    clock = Waits()
    backend = host_backend(root, clock, host)
    backend.tidy()
    assert clock.slept == []
    dead, living = backend.upload("packs/aa/dead.pack"), backend.upload("packs/aa/living.pack")
    dead.append([b"x"])
    living.append([b"y"])
    # A lane of a disk may fill it, and has nothing to write for a long while.
    lent = backend.upload("packs/aa/lent.pack")
    lent.append([b"zz"])
    lent.lend()
    claim = root / "turns" / ".tmp-claim-7"
    claim.mkdir(parents=True)
    (claim / ".tmp-ffff").write_bytes(b"his")
    # Its agent is told of it no more.
    link = host.links[-1]
    link.shut(dead._file).result()  # type: ignore[attr-defined]
    backend.tidy()
    assert len(clock.slept) == 1 and len(os.listdir(root / "packs/aa")) == 2 and not claim.exists()
    living.commit()
    lent.commit()
    assert sorted(backend.list("packs/")) == [("packs/aa/lent.pack", 2), ("packs/aa/living.pack", 1)]
    backend.close()


def test_a_folder_that_is_none_of_a_datastore_is_refused(root: Path, host: Here, tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    os.symlink(root, tmp_path / "roots" / "out")
    for path in (str(root), str(tmp_path / "roots" / "out"), str(tmp_path / "roots")):
        backend = HostBackend(host, path, roots=(str(tmp_path / "roots"),))
        with pytest.raises(BackendFailed, match="no folder on a datastore"):
            backend.read("config.json")
        backend.close()
    backend = HostBackend(host, str(tmp_path / "roots" / "no" / "store"), roots=(str(tmp_path / "roots"),))
    with pytest.raises(BackendFailed, match="is not there; make it first"):
        Store.create(backend)
    backend.close()
