# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are hashed where they lie: only what the store may say that it lacks is fetched; lies get nowhere."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, changes, collect, prefixes
from ansible_collections.stowage.esxi.plugins.module_utils.store import feed as feeding
from ansible_collections.stowage.esxi.plugins.module_utils.store import known as known_chunks
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    HashUnfit,
    SourceFailed,
    SourceLied,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import Hash, Piece, RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from hypothesis import given, settings

from .benches import CHUNK, back_up, by_hand, chunk, edited, image, local, new_store, restored, sound
from .hashing import HashedFile, feed
from .test_changes import disks_that_change


@pytest.fixture(params=["sha256", "encrypted"])
def kind(request: pytest.FixtureRequest) -> str:
    """Those that a hypervisor can feed."""
    pytest.importorskip("zstandard")
    return str(request.param)


def nothing_is_left(store: Store, but: Sequence[str] = ()) -> None:
    for folder in ("packs/", "index/", "points/", "writers/", "beats/", "unfinished/"):
        assert bool(list(store.backend.list(folder))) == (folder in but), folder


# -- what goes over the wire -------------------------------------------------------------------------------------------


def test_a_hashed_disk_is_stored_as_if_it_were_read_here(store: Store, root: Path, tmp_path: Path, secret: Any) -> None:
    disk = image(tmp_path / "disk", [1, 0, 2, 1, *[0] * 40, 3, 1], 46 * CHUNK - 1000)
    source = HashedFile(disk)
    point, told = feed(store, source)
    assert restored(store, point, tmp_path) == disk.read_bytes()
    assert told.read == 5 * CHUNK - 1000 and told.new == told.sent == source.fetched_bytes == 4 * CHUNK - 1000
    # The same chunks have the same names, whoever has hashed them.
    local_point, local_told = back_up(store, disk, machine="here")
    assert local_point.disks == point.disks and local_told.new == 0
    sound(store)
    if (root / "reader.py").exists():
        assert by_hand(root, point, tmp_path, secret=secret) == disk.read_bytes()


def test_of_the_next_backup_only_what_is_new_leaves_the_host(store: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [*range(1, 60), 0, 0])
    first, _told = feed(store, HashedFile(disk))
    # One anew, one from elsewhere on the disk, one where none was, one that is gone.
    image(disk, [*range(1, 57), 99, 3, 0, 5, 0])
    source = HashedFile(disk)
    second, told = feed(store, source, parent=first)
    assert restored(store, second, tmp_path) == disk.read_bytes()
    assert source.fetched == [(56 * CHUNK, CHUNK)]
    assert told == backup.Told(59 * CHUNK, 0, 56 * CHUNK, 2 * CHUNK, CHUNK, told.stored, CHUNK)
    # Without its parent it is known all the same: the restore points of its host have it.
    source = HashedFile(disk)
    third, told = feed(store, source, machine="another name")
    assert source.fetched == [] and told.known == told.read == 59 * CHUNK and third.disks == second.disks
    sound(store)


def test_what_is_on_a_disk_twice_is_fetched_once_and_zeros_never(store: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [7] * 70)
    with open(disk, "r+b") as file:
        file.seek(3 * CHUNK)
        file.write(bytes(2 * CHUNK))
    source = HashedFile(disk)
    point, told = feed(store, source, threads=1)
    assert source.fetched == [(0, CHUNK)] and told.zero == 2 * CHUNK and told.known == 67 * CHUNK
    assert restored(store, point, tmp_path) == disk.read_bytes()


class TogetherFile(HashedFile):
    """Two connections: none begins before the other, and no byte comes before both have told their hashes."""

    def __init__(self, path: Path, fails: bool = False) -> None:
        super().__init__(path)
        self._begun, self._hashed, self._fails = threading.Barrier(2), threading.Barrier(2), fails

    @contextlib.contextmanager
    def lane(self) -> Iterator[Any]:
        with super().lane() as line:
            self._begun.wait(60)
            yield line

    def hashes(self, pieces: Sequence[Piece]) -> Sequence[Hash]:
        found = super().hashes(pieces)
        self._hashed.wait(60)
        return found

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        # Until the other thread has asked, too, or waits for this one.
        time.sleep(0.3)
        if self._fails:
            raise SourceFailed(path=self.path, reason="it broke")
        yield from super().chunks(pieces)


def test_what_one_connection_is_about_to_bring_another_does_not_ask_for(store: Store, tmp_path: Path) -> None:
    # Two spans, and at the end of both of them a chunk of its own.
    disk = image(tmp_path / "disk", [*[7] * 15, 1, *[7] * 15, 2])
    source = TogetherFile(disk)
    point, told = feed(store, source, threads=2)
    assert source.lines == 2 and len(source.fetched) == 3
    assert told.sent == told.new == 3 * CHUNK and told.known == 29 * CHUNK
    assert restored(store, point, tmp_path) == disk.read_bytes()
    sound(store)


def test_who_waits_for_a_connection_that_breaks_is_told_what_it_broke_of(store: Store, tmp_path: Path) -> None:
    source = TogetherFile(image(tmp_path / "disk", [7] * 32), fails=True)
    with pytest.raises(SourceFailed, match="it broke"):
        feed(store, source, threads=2)
    assert len(source.fetched) == 1


def test_hashes_are_asked_for_before_bytes_are_taken(plain: Store, tmp_path: Path) -> None:
    source = HashedFile(image(tmp_path / "disk", list(range(1, 200))))
    feed(plain, source, threads=1)
    assert source.most_due == 4 and source.lines == 1


def test_spans_that_have_waited_for_a_chunk_take_nothing_from_those_that_are_asked_for_ahead(
    plain: Store, tmp_path: Path
) -> None:
    class Behind(HashedFile):
        def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
            if pieces[0][0] == 80 * CHUNK:
                self.most_due = 0
            yield from super().chunks(pieces)

    # Four spans of one chunk, then twelve of their own.
    disk = image(tmp_path / "disk", [7] * 64 + list(range(1, 193)))
    source = Behind(disk)
    point, _told = feed(plain, source, threads=1)
    assert source.most_due == 4
    assert restored(plain, point, tmp_path) == disk.read_bytes()


def test_each_thread_has_a_connection_and_each_disk_its_own(plain: Store, tmp_path: Path) -> None:
    disks = [image(tmp_path / f"disk{n}", list(range(n * 100 + 1, n * 100 + 80))) for n in range(3)]
    sources = [HashedFile(disk) for disk in disks]
    point, _told = feed(plain, *sources, threads=3)
    for n, disk in enumerate(disks):
        assert restored(plain, point, tmp_path, f"scsi0:{n}") == disk.read_bytes()
        assert 1 <= sources[n].lines <= 3


def test_disks_of_both_kinds_go_into_one_point(plain: Store, tmp_path: Path) -> None:
    far, near = (image(tmp_path / name, [1, 2, seed] * 20) for name, seed in (("far", 3), ("near", 4)))
    source = RawDisk(str(near))
    inputs = [backup.DiskInput("scsi0:0", HashedFile(far)), backup.DiskInput("scsi0:1", source)]
    point, _told = backup.run(plain, "vm-1", "one", inputs, threads=2)
    source.close()
    assert restored(plain, point, tmp_path, "scsi0:0") == far.read_bytes()
    assert restored(plain, point, tmp_path, "scsi0:1") == near.read_bytes()


@settings(max_examples=25, deadline=None)
@given(**disks_that_change)
def test_with_a_map_of_changes_it_is_the_full_backup(
    seeds: list[int],
    cut: int,
    edits: list[tuple[int, int, int]],
    grow: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("map")
    (folder / "store").mkdir()
    store = new_store(local(folder / "store"))
    size = len(seeds) * CHUNK - cut
    disk = image(folder / "disk", seeds, size)
    first, _told = feed(store, HashedFile(disk))
    before, size = size, max(1, size + grow)
    areas = edited(disk, size, edits)
    source = HashedFile(disk)
    second, told = feed(store, source, parent=first, changed=areas)
    touched = changes.Slots(areas, CHUNK)
    asked = [at // CHUNK for at, _length in source.asked]
    # A chunk that reaches behind the end that one of both had is another one.
    assert all(slot in touched or (slot + 1) * CHUNK > min(before, size) for slot in asked)
    full, _told = back_up(store, disk, machine="full")
    assert second.disks == full.disks and restored(store, second, folder) == disk.read_bytes()
    sound(store)
    shutil.rmtree(folder)


# -- lies --------------------------------------------------------------------------------------------------------------


class WrongBytes(HashedFile):
    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        for piece in pieces:
            yield bytes(piece[1])


class Short(HashedFile):
    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        for piece in pieces:
            yield self.read(piece)[:-1]


class Long(HashedFile):
    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        for piece in pieces:
            yield self.read(piece) + b"\0"


class TooMany(HashedFile):
    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        yield from super().chunks(pieces)
        yield self.read(pieces[-1])


class TooFew(HashedFile):
    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        yield from super().chunks(pieces[:-1])


class FewHashes(HashedFile):
    def hashes(self, pieces: Sequence[Piece]) -> Sequence[Hash]:
        return super().hashes(pieces[:-1])


class CutHashes(HashedFile):
    def hashes(self, pieces: Sequence[Piece]) -> Sequence[Hash]:
        return [one and one[:-1] for one in super().hashes(pieces)]


@pytest.mark.parametrize(
    ("liar", "words"),
    [
        (WrongBytes, "the 65536 bytes at 0 came with other content than their hash"),
        (Short, "65535 bytes came for the 65536 bytes at 0"),
        (Long, "65537 bytes came for the 65536 bytes at 0"),
        (TooMany, "more came than the 2 chunks"),
        (TooFew, "the bytes at 131072 were asked for and did not come"),
        (FewHashes, "1 hashes came for 2 chunks"),
        (CutHashes, "what came for a hash has 31 bytes"),
    ],
)
def test_a_lie_costs_the_backup_and_is_named(store: Store, tmp_path: Path, liar: type[HashedFile], words: str) -> None:
    source = liar(image(tmp_path / "disk", [1, 0, 2]))
    with pytest.raises(SourceLied, match=words) as caught:
        feed(store, source)
    assert caught.value.message.startswith(f"{source.path} is not backed up: ")
    assert store.points() == [] and not source.open


def test_a_source_that_fails_or_is_cut_ends_the_backup(plain: Store, tmp_path: Path) -> None:
    class Cut(HashedFile):
        def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
            yield self.read(pieces[0])
            raise ConnectionResetError("cut")

    source = Cut(image(tmp_path / "disk", list(range(1, 100))))
    with pytest.raises(ConnectionResetError):
        feed(plain, source)
    assert plain.points() == [] and not source.open

    class Unplugged(HashedFile):
        def allocated(self) -> Iterator[Piece]:
            yield (0, CHUNK)
            raise SourceFailed(path=self.path, reason="unplugged")

    with pytest.raises(SourceFailed, match="unplugged"):
        feed(plain, Unplugged(tmp_path / "disk"))
    assert plain.points() == []


class Claims(HashedFile):
    """Tells the hashes of another's chunks; of their bytes it has none."""

    stolen: Sequence[int] = ()

    def hashes(self, pieces: Sequence[Piece]) -> Sequence[Hash]:
        return [hashlib.sha256(chunk(self.stolen[offset // CHUNK])).digest() for offset, _length in pieces]


def test_who_claims_what_others_have_is_asked_for_the_bytes(store: Store, tmp_path: Path) -> None:
    feed(store, HashedFile(image(tmp_path / "secret", [41, 42])), machine="secret", host="esx2")
    thief = Claims(image(tmp_path / "disk", [1, 2]))
    thief.stolen = [41, 42]
    with pytest.raises(SourceLied, match="other content"):
        feed(store, thief, host="esx1")
    assert [point.machine_id for point in store.points()] == ["secret"]


def test_within_its_scope_a_claim_gets_what_the_scope_has(store: Store, tmp_path: Path) -> None:
    """Its own host's chunks, which it has sent itself; one that nobody has is fetched, and does not come."""
    own = image(tmp_path / "own", [41, 42])
    feed(store, HashedFile(own), machine="own")
    claims = Claims(image(tmp_path / "disk", [1, 2]))
    claims.stolen = [42, 41]
    point, told = feed(store, claims)
    assert told.known == 2 * CHUNK and claims.fetched == []
    assert restored(store, point, tmp_path) == chunk(42) + chunk(41)
    claims.stolen = [42, 43]
    with pytest.raises(SourceLied):
        feed(store, claims)


def test_a_hash_of_what_has_another_length_is_a_lie(store: Store, tmp_path: Path) -> None:
    """Of a chunk that is known, that the parent has there, or that comes."""
    disk = image(tmp_path / "disk", [5, 6], CHUNK + 1000)
    first, _told = feed(store, HashedFile(disk))

    class Repeats(HashedFile):
        told: Any = None

        def hashes(self, pieces: Sequence[Piece]) -> Sequence[Hash]:
            return [hashlib.sha256(self.told).digest() for _piece in pieces]

    liar = Repeats(disk)
    # The end of the disk, told for all of it; a whole chunk, told for the end; what is known nowhere.
    for told in (chunk(6)[:1000], chunk(5), chunk(7)):
        for parent in (first, None):
            liar.told = told
            with pytest.raises(SourceLied, match=r"the hash told for the \d+ bytes at \d+ is that of \d+ bytes"):
                feed(store, liar, parent=parent, threads=1)
    grown = tmp_path / "disk"
    with open(grown, "r+b") as file:
        file.truncate(2 * CHUNK)
    liar = Repeats(grown)
    liar.told = chunk(6)[:1000]
    with pytest.raises(SourceLied, match="the hash told for the 65536 bytes at 0 is that of 1000 bytes"):
        feed(store, liar, parent=first, threads=1)


def test_who_says_zeros_where_data_is_has_zeros_in_his_own_point(store: Store, tmp_path: Path) -> None:
    class Denies(HashedFile):
        def hash(self, piece: Piece) -> Hash:
            return None if piece[0] else super().hash(piece)

    disk = image(tmp_path / "disk", [1, 2])
    other, _told = feed(store, HashedFile(disk))
    point, told = feed(store, Denies(disk), machine="denies", parent=other)
    assert told.zero == CHUNK and restored(store, point, tmp_path) == chunk(1) + bytes(CHUNK)
    assert restored(store, other, tmp_path) == disk.read_bytes()


def test_who_claims_data_where_zeros_are_stores_none(store: Store, tmp_path: Path) -> None:
    class Claims(HashedFile):
        def hash(self, piece: Piece) -> Hash:
            return hashlib.sha256(self.read(piece)).digest()

    disk = tmp_path / "disk"
    disk.write_bytes(bytes(3 * CHUNK + 100))
    source = Claims(disk)
    point, told = feed(store, source)
    assert told.zero == told.read == 3 * CHUNK + 100 and source.fetched == []
    assert point.disks[0].pages == (None,)


def test_a_store_of_another_hash_refuses_and_says_so(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("blake3")
    store = new_store(local(root), hash_name="blake3")
    with pytest.raises(HashUnfit, match=r"disk cannot go into the store .*sha256 .* blake3"):
        feed(store, HashedFile(image(tmp_path / "disk", [1])))
    nothing_is_left(store)


# -- scopes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "known"),
    [("host", {"same host"}), ("group", {"same group"}), ("store", {"same host", "same group", "neither", "none"})],
)
def test_a_chunk_is_known_within_the_scope_only(store: Store, tmp_path: Path, scope: str, known: set[str]) -> None:
    """What lies outside is fetched, as if nobody had it; and is stored once all the same."""
    machines = {
        "same host": ("esx1", "other"),
        "same group": ("esx2", "ours"),
        "neither": ("esx3", "other"),
        "none": (None, None),
    }
    seeds = {}
    for number, (name, (host, group)) in enumerate(machines.items()):
        seeds[name] = 10 * number + 1
        feed(store, HashedFile(image(tmp_path / name, [seeds[name]])), machine=name, host=host, group=group)
    disk = image(tmp_path / "disk", [*seeds.values(), 99])
    source = HashedFile(disk)
    point, told = feed(store, source, host="esx1", group="ours", scope=scope)
    places = {name: number * CHUNK for number, name in enumerate([*seeds, "new"])}
    assert {offset for offset, _length in source.fetched} == {
        offset for name, offset in places.items() if name not in known
    }
    assert told.new == CHUNK and told.known == 4 * CHUNK and told.sent == source.fetched_bytes
    assert restored(store, point, tmp_path) == disk.read_bytes()
    sound(store)


def test_a_host_without_a_name_knows_nothing(plain: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    first, _told = feed(plain, HashedFile(disk), host=None)
    for more in ({"machine": "another"}, {"parent": first}):
        source = HashedFile(disk)
        feed(plain, source, host=None, **more)
        assert source.fetched_bytes == 2 * CHUNK


def test_what_its_own_hypervisor_has_made_is_known_also_where_its_group_is_another_now(
    plain: Store, tmp_path: Path
) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    first, _told = feed(plain, HashedFile(disk), group="before")
    # Also where it has moved on the disk.
    source = HashedFile(image(tmp_path / "moved", [2, 1]))
    feed(plain, source, group="now", scope="group", parent=first)
    assert source.fetched == []


@pytest.mark.parametrize("changed", [None, []])
def test_a_machine_that_moved_to_another_host_is_sent_anew_unless_the_scope_has_it(
    plain: Store, tmp_path: Path, changed: Sequence[Piece] | None
) -> None:
    """Also where a map says that nothing has changed: who has the bytes can send them."""
    disk = image(tmp_path / "disk", [1, 2])
    first, _told = feed(plain, HashedFile(disk), host="esx1", group="ours")
    source = HashedFile(disk)
    point, told = feed(plain, source, host="esx2", parent=first, changed=changed)
    assert source.fetched_bytes == told.known == 2 * CHUNK and told.unchanged == told.new == 0
    assert (point.parent, restored(plain, point, tmp_path)) == (first.point, disk.read_bytes())
    source = HashedFile(disk)
    feed(plain, source, host="esx3", group="ours", scope="group", parent=first, changed=changed)
    assert source.fetched == []


@pytest.mark.parametrize("changed", [None, []])
def test_who_claims_to_be_anothers_machine_is_told_nothing_of_it(
    store: Store, tmp_path: Path, changed: Sequence[Piece] | None
) -> None:
    """A machine's id is what a hypervisor says: it proves nothing of whose chunks these are."""
    secret, _told = feed(store, HashedFile(image(tmp_path / "secret", [41, 42])), machine="vm-1", host="esx2")
    thief = Claims(image(tmp_path / "disk", [1, 2]))
    for stolen in ([41, 42], [42, 41]):
        thief.stolen = stolen
        with pytest.raises(SourceLied, match="other content"):
            feed(store, thief, machine="vm-1", host="esx1", parent=secret, changed=changed)
    assert [point.point for point in store.points()] == [secret.point]


def test_an_unknown_scope_is_refused(plain: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="world"):
        feed(plain, HashedFile(image(tmp_path / "disk", [1])), scope="world")
    nothing_is_left(plain)


def test_a_chunk_of_a_damaged_map_is_fetched_again(plain: Store, root: Path, tmp_path: Path) -> None:
    """What is not proven is not known, and what is lost comes back."""
    disk = image(tmp_path / "disk", [1, 2, 3])
    feed(plain, HashedFile(disk))
    for name, _size in list(plain.packs()):
        plain.backend.delete(name)
    opened = Store.open(local(root))
    source = HashedFile(disk)
    point, _told = feed(opened, source, machine="again")
    assert source.fetched_bytes == 3 * CHUNK
    assert restored(Store.open(local(root)), point, tmp_path) == disk.read_bytes()


def test_above_the_bound_the_newest_restore_points_are_known(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (image(tmp_path / name, seeds) for name, seeds in (("old", [1, 2]), ("new", [3, 4])))
    feed(plain, HashedFile(old), machine="old")
    feed(plain, HashedFile(new), machine="new")
    for bound in ("pages", "chunks"):
        if bound == "pages":
            monkeypatch.setattr(known_chunks, "MOST_PAGES", 1)
        else:
            monkeypatch.setattr(prefixes.Prefixes, "full", True)
        for disk, fetched in ((new, 0), (old, 2)):
            source = HashedFile(disk)
            feed(plain, source, machine="third")
            assert source.fetched_bytes == fetched * CHUNK
            plain.backend.delete(plain.points("third")[0].object_name)
        monkeypatch.undo()


def test_after_more_fresh_chunks_than_are_kept_one_is_fetched_again(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "MOST_FRESH", 8)
    disk = image(tmp_path / "disk", [1, *range(2, 150), 1])
    source = HashedFile(disk)
    point, told = feed(plain, source, threads=1)
    assert told.sent == 150 * CHUNK and told.new == 149 * CHUNK and told.known == CHUNK
    assert restored(plain, point, tmp_path) == disk.read_bytes()


# -- a large disk ------------------------------------------------------------------------------------------------------

HUGE = """
import hashlib, sys
from contextlib import contextmanager
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

CHUNK, EVERY = int(sys.argv[2]), int(sys.argv[3])


def data(offset, length):
    number = offset // CHUNK
    return number.to_bytes(8, "big") * (length // 8) if number % EVERY == 0 else bytes(length)


class Answer:
    def __init__(self, pieces):
        self.pieces = pieces

    def hashes(self):
        return [
            hashlib.sha256(data(*piece)).digest() if piece[0] // CHUNK % EVERY == 0 else None for piece in self.pieces
        ]

    def chunks(self):
        return (data(*piece) for piece in self.pieces)


class Line:
    ask = fetch = staticmethod(Answer)


class Huge:
    path, size = "huge", 2 << 40

    def allocated(self):
        return ((offset, CHUNK) for offset in range(0, self.size, CHUNK))

    @contextmanager
    def lane(self):
        yield Line()


def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":")) >> 10


store = Store.create(LocalBackend(sys.argv[1]), chunk_bytes=CHUNK)
begun = memory("VmRSS")
parent = None
for changed in (None, None, [(1 << 40, 1 << 30)]):
    disk = backup.DiskInput("scsi0:0", Huge(), changed)
    parent, told = backup.run(store, "m", "m", [disk], parent=parent, threads=4, facts={"hypervisor": "esx1"})
    print(told.read, told.new, told.unchanged, told.sent)
print(begun, memory("VmHWM"))
"""


@pytest.mark.folder
@pytest.mark.parametrize("bits", [24, pytest.param(20, marks=pytest.mark.soak)])
def test_a_disk_of_two_tebibytes_takes_little_memory(root: Path, bits: int) -> None:
    """In a process of its own, with chunks of 16 MiB and of one."""
    chunk_bytes, every = 1 << bits, 1 << (36 - bits)
    words = [sys.executable, "-c", HUGE, str(root), str(chunk_bytes), str(every)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    *told, memory = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    # Number 0 is zeros, though it says that it has data.
    new = ((2 << 40) // (chunk_bytes * every) - 1) * chunk_bytes
    assert told[0] == [2 << 40, new, 0, new]
    assert told[1] == [2 << 40, 0, new, 0]
    # What was zeros is not looked at again, either. There is one chunk in what may have changed.
    assert told[2] == [1 << 30, 0, (2 << 40) - (1 << 30) + chunk_bytes, 0]
    print("memory before and at its peak, MiB:", memory)
    assert memory[1] - memory[0] < 100 + 4 * (chunk_bytes >> 20)


# -- before the commit -------------------------------------------------------------------------------------------------


def test_before_the_commit_all_packs_are_there_and_no_index(plain: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    seen = []

    def look(_point: str) -> dict[str, Any]:
        seen.append({name: len(list(plain.backend.list(f"{name}/"))) for name in ("packs", "index", "points")})
        return {"proof": "held"}

    for source in ("hashed", "local"):
        if source == "hashed":
            point, _told = feed(plain, HashedFile(disk), before_commit=look)
            assert seen[0]["packs"] >= 1 and seen[0]["index"] == seen[0]["points"] == 0
            assert point.facts == {"hypervisor": "esx1", "proof": "held"}
        else:
            point, _told = back_up(plain, disk, before_commit=look)
            assert point.facts == {"proof": "held"}
        assert plain.point("vm-1", point.point).facts == point.facts
    assert len(seen) == 2


def test_what_cannot_be_put_away_after_the_commit_does_not_unmake_the_point(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise BackendFailed(name=name, store=plain.name, done="deleted", reason="the network is down")

    disk = image(tmp_path / "disk", [1, 2])
    with monkeypatch.context() as patched:
        patched.setattr(plain.backend, "delete", refuse)
        point, _told = feed(plain, HashedFile(disk))
    assert plain.points() == [point] and restored(plain, point, tmp_path) == disk.read_bytes()
    assert list(plain.backend.list("writers/"))
    # It is taken for a writer that has died, and given up in vain.
    collect.run(plain, observe_seconds=0.1)
    assert not list(plain.backend.list("writers/")) and plain.points() == [point]
    assert restored(plain, point, tmp_path) == disk.read_bytes()


def test_what_is_raised_before_the_commit_leaves_nothing(plain: Store, tmp_path: Path) -> None:
    def refuse(_point: str) -> None:
        raise RuntimeError("the source is gone")

    disk = image(tmp_path / "disk", [1, 2])
    with pytest.raises(RuntimeError, match="the source is gone"):
        back_up(plain, disk, before_commit=refuse)
    nothing_is_left(plain)
    # What has come from far away need not come again.
    with pytest.raises(RuntimeError, match="the source is gone"):
        feed(plain, HashedFile(disk), before_commit=refuse)
    nothing_is_left(plain, but=("packs/", "unfinished/"))
    source = HashedFile(disk)
    point, _told = feed(plain, source, before_commit=lambda _point: None)
    assert source.fetched == []
    assert restored(plain, point, tmp_path) == disk.read_bytes()
