# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever stands in the files of a disk: an error in words, bounded memory, and nothing of other folders."""

from __future__ import annotations

import collections
import gc
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import parse_descriptor
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import VmdkError
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.localdisk import LocalDisk, is_vmdk
from diskbench import chain, converted, image, stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutating import Change, changed, random_changes, within_room

KINDS = ("sparse", "split", "flat", "stream", "streamed", "vmfssparse", "sesparse", "text")
SIZE = 300 * 1024
changes = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 20) - 1)), min_size=1, max_size=3
)


class Base:
    """A valid disk: its top, and the files that may be changed."""

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.top = folder / "d.vmdk"
        raw = image(folder.parent / "raw", SIZE, count=8)
        named = {"sparse": "monolithicSparse", "split": "twoGbMaxExtentSparse", "stream": "streamOptimized"}
        if kind in named:
            converted(raw, self.top, named[kind])
        elif kind in ("flat", "text"):
            converted(raw, self.top, "monolithicFlat")
        elif kind == "streamed":
            stream(self.top, raw.read_bytes())
        else:
            self.top, _expected = chain(folder, [kind], SIZE)
        # The disks themselves are what a guest wrote; the lab lets deltas grow by 16 MiB.
        self.files = {
            path: path.read_bytes()
            if kind != "vmfssparse"
            else path.read_bytes()[: 1 << 20].rstrip(b"\0") + bytes(65536)
            for path in sorted(folder.iterdir())
            if "flat" not in path.name
        }
        if kind == "text":
            self.files = {self.top: self.top.read_bytes()}
        self.names = sorted(self.files)
        for path, data in self.files.items():
            path.write_bytes(data)
        # What is changed must be right before.
        assert fuzz_disk(self, 0, []) == "fine"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copy(__file__, folder / "secret")
    return {kind: Base(folder / kind, kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with within_room():
        yield


def fuzz_disk(base: Base, number: int, how: list[Change]) -> str:
    path = base.names[number % len(base.names)]
    path.write_bytes(changed(base.files[path], how))
    try:
        is_vmdk(str(base.top))
        disk = LocalDisk(str(base.top))
    except VmdkError as error:
        return _said(error)
    finally:
        path.write_bytes(base.files[path])
    try:
        place = 0
        for offset, length in islice(disk.allocated(), 2000):
            assert offset >= place and length > 0 and offset + length <= disk.size
            place = offset + length
        room = memoryview(bytearray(min(disk.size, 128 * 1024)))
        for offset in (0, max(0, disk.size - len(room)), (number * 4096) % max(1, disk.size - len(room) + 1)):
            disk.read_into(room, offset)
    except VmdkError as error:
        return _said(error)
    finally:
        disk.close()
    return "fine"


def _said(error: VmdkError) -> str:
    assert error.message and len(error.message) < 3000
    return error.id


def fuzz_text(base: Base, number: int, how: list[Change]) -> str:
    data = changed(base.top.read_bytes().rstrip(b"\0"), how)
    try:
        found = parse_descriptor(data.decode("utf-8", "surrogateescape"), "d.vmdk")
        assert found.capacity_bytes >= 0 and parse_descriptor(found.render(), "d.vmdk").extents == found.extents
    except VmdkError as error:
        return _said(error)
    return "fine"


def target(kind: str) -> Callable[[Base, int, list[Change]], str]:
    return fuzz_text if kind == "text" else fuzz_disk


@pytest.mark.parametrize("kind", KINDS)
def test_any_change_is_told_in_words(bases: dict[str, Base], kind: str) -> None:
    seen: collections.Counter[str] = collections.Counter()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(number=st.integers(0, 1000), how=changes)
    def run(number: int, how: list[Change]) -> None:
        seen[target(kind)(bases[kind], number, how)] += 1

    # What earlier tests have left to the collector goes now, not in between.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    run()
    assert len(seen) > 1 and len(os.listdir("/proc/self/fd")) == before


@pytest.mark.soak
def test_a_million_changes_are_told_in_words(bases: dict[str, Base], capsys: pytest.CaptureFixture[str]) -> None:
    """STOWAGE_FUZZ_INPUTS sets another number, STOWAGE_FUZZ_SEED another beginning."""
    wanted = int(os.environ.get("STOWAGE_FUZZ_INPUTS", "1000000"))
    first = int(os.environ.get("STOWAGE_FUZZ_SEED", "1"))
    seen: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    for seed in range(first, first + wanted):
        chance = random.Random(seed)
        kind, number = chance.choice(KINDS), chance.randrange(1000)
        try:
            seen[f"{kind}: {target(kind)(bases[kind], number, random_changes(chance))}"] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {kind}") from error
        if seed % 20_000 == 0:
            with capsys.disabled():
                print(f"{seed - first + 1} inputs in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    with capsys.disabled():
        print(dict(seen), file=sys.stderr)
