# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever stands in a store's files: an error in words, bounded memory, nothing written but the target."""

from __future__ import annotations

import collections
import functools
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import crypto, points, registry, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.codec import Codec
from ansible_collections.stowage.esxi.plugins.module_utils.store.crypto import WrongKey
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutating import Change, random_changes, within_room

from . import fuzzing
from .benches import local
from .fuzzing import MemoryBackend, altered, changed_json, outcomes

pytest.importorskip("zstandard")
KINDS = ("plain", "encrypted")
changes = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 20) - 1)), min_size=1, max_size=3
)
quick = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


class Base:
    """A valid store, and what it takes to use it."""

    def __init__(self, folder: Path, secret: str | None) -> None:
        folder.mkdir()
        self.folder, self.secret = folder, secret
        self.objects = fuzzing.objects(folder, secret)
        self.store = Store.open(MemoryBackend(dict(self.objects)), secret)
        self.names = sorted(name for name in self.objects if name not in ("README.txt", "reader.py"))
        self.points = self.store.points()
        self.known = [bytes(32), *self.store.index().segments[0].ids()]
        self.target = folder / "target"

    def some(self, prefix: str, chance: int) -> str:
        found = [name for name in self.names if name.startswith(prefix)]
        return found[chance % len(found)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Base]]:
    folder = tmp_path_factory.mktemp("fuzz")
    before, crypto.SCRYPT["n"] = crypto.SCRYPT["n"], 1 << 8
    yield {kind: Base(folder / kind, fuzzing.SECRET if kind == "encrypted" else None) for kind in KINDS}
    crypto.SCRYPT["n"] = before


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with within_room():
        yield


# One input each: a base, a number that chooses a file, changes, and whether their author made the checksums right.


def fuzz_text(base: Base, number: int, how: list[Change], hostile: bool) -> str:
    name = [name for name in base.names if name.endswith(".json")][number % 5]
    data = altered(name, base.objects[name], how, hostile)
    return outcomes(lambda: textfile.parse(data, name, "memory") and None)


def fuzz_manifest(base: Base, number: int, how: list[Change], hostile: bool) -> str:
    name = base.some("points/", number)
    plain = base.store.unseal(base.objects[name], name)
    data = altered(name, plain, how, hostile)
    # Of one who has the key, or of one who has not.
    with_key = base.secret and number & 1
    data = base.store.seal(data) if with_key else altered(name, base.objects[name], how, hostile)
    return outcomes(lambda: points.parse(base.store.unseal(data, name), name, "memory") and None)


def fuzz_index(base: Base, number: int, how: list[Change], hostile: bool) -> str:
    name = base.some("index/", number)
    data = altered(name, base.objects[name], how, hostile)
    return outcomes(lambda: fuzzing.use_segment(data, base.known))


def fuzz_pack(base: Base, number: int, how: list[Change], hostile: bool) -> str:
    name = base.some("packs/", number)
    data = altered(name, base.objects[name], how, hostile)
    return outcomes(lambda: fuzzing.use_pack(data, base.store))


def fuzz_registry(base: Base, number: int, how: list[Change], hostile: bool) -> str:
    names = [name for name in base.names if name.split("/")[0] in ("writers", "gc")]
    name = names[number % len(names)]
    backend = MemoryBackend({**base.objects, name: altered(name, base.objects[name], how, hostile)})
    return outcomes(lambda: fuzzing.use_registry(backend))


def fuzz_opening(base: Base, number: int, how: list[Change], hostile: bool) -> str:
    names = [name for name in base.names if name.split("/")[0] in ("config.json", "keys", "settings")]
    name = names[number % len(names)]
    backend = MemoryBackend({**base.objects, name: altered(name, base.objects[name], how, hostile)})
    return outcomes(lambda: Store.open(backend, base.secret) and None)


def fuzz_store(base: Base, number: int, how: list[Change], hostile: bool) -> str:
    name = base.names[number % len(base.names)]
    backend = MemoryBackend({**base.objects, name: altered(name, base.objects[name], how, hostile)})
    try:
        return outcomes(lambda: fuzzing.use_store(backend, base.secret, base.target))
    finally:
        left = set(os.listdir(base.folder)) - {"disk0", "disk1", "root"}
        assert not left, (name, left)


def fuzz_reader(base: Base, number: int, how: list[Change], hostile: bool) -> str:
    root = base.folder / "root"
    if not root.exists():
        for name, data in base.objects.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    name = base.names[number % len(base.names)]
    (root / name).write_bytes(altered(name, base.objects[name], how, hostile))
    try:
        fuzzing.use_reader(root, base.secret, base.points[number % 2].point, base.target)
    finally:
        (root / name).write_bytes(base.objects[name])
    assert not set(os.listdir(base.folder)) - {"disk0", "disk1", "root"}
    return "fine"


TARGETS: dict[str, tuple[Callable[[Base, int, list[Change], bool], str], int]] = {
    "text": (fuzz_text, 10),
    "manifest": (fuzz_manifest, 10),
    "index": (fuzz_index, 10),
    "pack": (fuzz_pack, 10),
    "registry": (fuzz_registry, 10),
    "opening": (fuzz_opening, 5),
    "store": (fuzz_store, 1),
    "reader": (fuzz_reader, 2),
}
"""And how many of its inputs go to one of the slowest."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_any_change_is_told_in_words(
    bases: dict[str, Base], kind: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: collections.Counter[str] = collections.Counter()

    @quick
    @given(number=st.integers(0, 1000), how=changes, hostile=st.booleans())
    def run(number: int, how: list[Change], hostile: bool) -> None:
        seen[TARGETS[target][0](bases[kind], number, how, hostile)] += 1

    run()
    assert target == "reader" or len(seen) > 1, seen


@pytest.mark.soak
def test_a_million_changes_are_told_in_words(bases: dict[str, Base], capsys: pytest.CaptureFixture[str]) -> None:
    """STOWAGE_FUZZ_INPUTS sets another number, STOWAGE_FUZZ_SEED another beginning."""
    wanted = int(os.environ.get("STOWAGE_FUZZ_INPUTS", "1000000"))
    first = int(os.environ.get("STOWAGE_FUZZ_SEED", "1"))
    weights = [weight for _call, weight in TARGETS.values()]
    seen: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    for seed in range(first, first + wanted):
        chance = random.Random(seed)
        (name,) = chance.choices(list(TARGETS), weights)
        base, number = bases[chance.choice(KINDS)], chance.randrange(1000)
        how, hostile = random_changes(chance), chance.random() < 0.6
        try:
            seen[f"{name}: {TARGETS[name][0](base, number, how, hostile)}"] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}, target {name}") from error
        if seed % 20_000 == 0:
            with capsys.disabled():
                print(f"{seed - first + 1} inputs in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    with capsys.disabled():
        print(dict(seen), file=sys.stderr)


# -- by name -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 5, 1 << 20])
@pytest.mark.parametrize("claimed", [1 << 32, 1 << 60, 7])
def test_a_frame_that_claims_to_be_large_gets_no_room(length: int, claimed: int) -> None:
    codec = Codec()
    frame = struct.pack("<IBQ", 0xFD2FB528, 0xE0, claimed) + b"\x01\x00\x00"
    with pytest.raises(Damaged, match="a frame that is not of the"):
        codec.expand(1, frame, length, "x", "memory")


@functools.lru_cache(None)
def _bomb() -> bytes:
    """A stream of 900 MiB of zeros."""
    engine = zlib.compressobj(1)
    return b"".join(engine.compress(bytes(1 << 20)) for _turn in range(900)) + engine.flush()


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_a_stream_that_is_larger_than_it_says_gets_no_room(length: int) -> None:
    with pytest.raises(Damaged, match=f"{length + 1} bytes where {length} are due"):
        Codec().expand(2, _bomb(), length, "x", "memory")


@pytest.mark.parametrize("field", ["stored", "length"])
def test_a_record_that_claims_four_gib_is_refused(bases: dict[str, Base], field: str, tmp_path: Path) -> None:
    """In its own head, in the table of contents and in the index, all checksums right."""
    base = bases["plain"]
    changed: dict[str, bytes] = dict(base.objects)
    at = {"length": (8, 56, 12), "stored": (12, 52, 8)}[field]
    for name, data in base.objects.items():
        out = bytearray(data)
        if name.startswith("packs/"):
            entries = struct.unpack_from("<I", out, len(out) - 40)[0]
            table = len(out) - 48 - 64 * entries
            struct.pack_into("<I", out, 64 + at[0], (1 << 32) - 1)
            struct.pack_into("<I", out, table + at[1], (1 << 32) - 1)
            changed[name] = fuzzing.proven_pack(bytes(out))
        elif name.startswith("index/"):
            bits, packs, count = struct.unpack_from("<HIQ", out, 10)
            places = 64 + 4 * ((1 << bits) + 1) + 32 * count
            for number in range(count):
                struct.pack_into("<I", out, places + 16 * number + at[2], (1 << 32) - 1)
            changed[name] = fuzzing.proven_index(bytes(out))
    seen = outcomes(lambda: fuzzing.use_store(MemoryBackend(changed), None, tmp_path / "out"))
    assert seen in ("fine", "store-damaged") and not list(tmp_path.iterdir())
    first = next(data for name, data in base.objects.items() if name.startswith("packs/"))[64 + 16 : 64 + 48]
    with pytest.raises(Damaged):
        Store.open(MemoryBackend(changed)).read_record(first)


HOSTILE = ["../../outside", "/tmp/outside", "points/../../outside", "points/x", "", None, 5, ["x"]]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_registration_makes_nobody_write_elsewhere(root: Path, plain: Store, value: Any) -> None:
    """Whoever gives a dead writer up creates and deletes the names that it registered."""
    from ansible_collections.stowage.esxi.plugins.module_utils.store import collect
    from fakeclock import FakeClock

    good = "points/" + "0" * 32 + "/20260101T000000.000000Z-aaaaaa.json"
    for number, entry in enumerate(({"writer": "aa", "point": value}, {"writer": value, "point": good})):
        if number == 0 and value is None:
            continue  # that is a keeper's
        plain.backend.create(f"writers/aa{'' if number == 0 else 'b'}.json", textfile.render(entry))
        with pytest.raises(Damaged, match="no registration of a writer"):
            collect.run(Store.open(local(root), clock=FakeClock()))
        (root / f"writers/aa{'' if number == 0 else 'b'}.json").unlink()
    assert [path.name for path in root.parent.iterdir()] == ["store"]


@pytest.mark.parametrize("value", ["../../../victim", "x/../../../victim", 5, "victim", {"a": 1}])
def test_an_announcement_makes_nobody_delete_elsewhere(root: Path, plain: Store, value: Any) -> None:
    from ansible_collections.stowage.esxi.plugins.module_utils.store import collect
    from fakeclock import FakeClock

    for name in ("victim.pack", "victim"):
        (root.parent / name).write_text("mine")
    plain.backend.create("gc/00000001.json", textfile.render({"packs": [value]}))
    plain.backend.create("gc/00000001-waits.json", textfile.render({"writers": []}))
    with pytest.raises(Damaged, match="no list of packs"):
        collect.run(Store.open(local(root), clock=FakeClock()))
    assert (root.parent / "victim.pack").read_text() == (root.parent / "victim").read_text() == "mine"


@pytest.mark.folder
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//b", ".hidden", "a/.tmp-x", "a\0b", "", "a b"])
def test_a_name_that_no_object_has_is_refused_by_the_folder(root: Path, name: str) -> None:
    backend = local(root)
    for call in (backend.read, backend.open, backend.map, backend.delete, backend.upload):
        with pytest.raises(Damaged, match="no name of an object"):
            call(name)


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", "..", ".", "", "a\0b"])
def test_a_file_beside_a_disk_has_a_plain_name(bases: dict[str, Base], name: str) -> None:
    with pytest.raises(ValueError, match="no name of a file"):
        points.StoredFile(name, 5, None)
    data = base_manifest(bases["plain"], lambda value: value["files"][0].update(name=name))
    with pytest.raises(Damaged, match="does not hold what a manifest must"):
        points.parse(data, bases["plain"].points[0].object_name, "memory")


def base_manifest(base: Base, change: Callable[[Any], None]) -> bytes:
    import json

    value = json.loads(base.objects[base.points[0].object_name].split(b"\n")[0])
    change(value)
    return textfile.render(value)


def test_a_map_of_the_same_page_over_and_over_fits_into_memory(bases: dict[str, Base], tmp_path: Path) -> None:
    """A manifest of a few megabytes that speaks of 64 million chunks: nothing is asked for at once."""
    base = bases["plain"]
    page = base.points[0].disks[0].pages[0]
    count = 60_000

    def change(value: Any) -> None:
        value["disks"][0].update(
            bytes=count * 1024 * value["disks"][0]["chunk_bytes"], pages=[page and page.hex()] * count
        )

    name = base.points[0].object_name
    store = Store.open(MemoryBackend({**base.objects, name: base_manifest(base, change)}))
    point = store.read_point(name)
    assert point is not None and point.disks[0].slots == count * 1024
    with pytest.raises(Damaged, match=r"144 bytes|bytes, not \d+"):
        store.page(point.disks[0], 0)


def test_costs_of_a_key_are_bounded(bases: dict[str, Base]) -> None:
    base = bases["encrypted"]
    slot = textfile.parse(base.objects["keys/first.json"], "keys/first.json", "memory")
    for cost in ({"n": 1 << 30}, {"r": 1 << 20}, {"p": 1 << 20}, {"n": -1}, {"n": "x"}, {"n": 1e300}):
        backend = MemoryBackend({**base.objects, "keys/first.json": textfile.render({**slot, **cost})})
        with pytest.raises(WrongKey):
            Store.open(backend, base.secret)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the program zstd is not on this machine")
def test_the_reader_does_without_the_library(root: Path, plain: Store, tmp_path: Path) -> None:
    from .benches import back_up, image

    disk = image(tmp_path / "disk", [1, 2, 0, 3])
    point, _told = back_up(plain, disk)
    code = (
        "import runpy, sys; sys.modules['zstandard'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [sys.executable, "-I", "-c", code, str(root / "reader.py"), str(root), point.point, "scsi0:0"]
    subprocess.run([*words, str(tmp_path / "out")], check=True)
    assert (tmp_path / "out").read_bytes() == disk.read_bytes()


def test_the_reader_ends_with_words(root: Path, plain: Store, tmp_path: Path) -> None:
    (root / "config.json").write_bytes(changed_json((root / "config.json").read_bytes(), [(0, 0, 0)]))
    words = [sys.executable, "-I", str(root / "reader.py"), str(root)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("reader.py: this store") and "Traceback" not in done.stderr


def test_what_the_registry_gives_is_checked_by_itself() -> None:
    backend = MemoryBackend({"gc/00000001.json": textfile.render({"packs": "aa-1"})})
    with pytest.raises(Damaged):
        registry.condemned(backend)
