# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import objectstore
import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import crypto
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

# The lab's disk code shares nothing with ours: it judges what we write.
for place in (str(Path(__file__).resolve().parents[4] / "lab"), str(Path(__file__).parent)):
    if place not in sys.path:
        sys.path.insert(0, place)

import benches  # noqa: E402  they lie beside this file
import mirrored  # noqa: E402


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("folder") and config.getoption("--store-place", default="folder") != "folder":
            item.add_marker(
                pytest.mark.skip(
                    reason="of a store in a folder: its file system, its processes, or a backend made from it"
                )
            )


@pytest.fixture(autouse=True)
def place(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where stores of tests are made; see `--store-place`."""
    if request.config.getoption("--store-place") == "bucket":
        endpoint = request.getfixturevalue("s3_server")
        mirrored.use(lambda: benches.s3(endpoint))
        yield
        mirrored.use(None)
    else:
        yield


@pytest.fixture(params=["sha256", "blake3", "encrypted"])
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("zstandard")
    if request.param == "blake3":
        pytest.importorskip("blake3")
    return str(request.param)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real object storage on loopback addresses; its endpoint."""
    with objectstore.serving(tmp_path_factory.mktemp("s3"), benches.BUCKET) as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase costs 32 MiB and a moment at every opening; not in tests that open hundreds of times."""
    monkeypatch.setitem(crypto.SCRYPT, "n", 1 << 8)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts this machine's power. That everything is synced in time is proven by what was asked for: see
    test_power_cut, which notes every call before it comes here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def secret(kind: str) -> str | None:
    return benches.SECRET if kind == "encrypted" else None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def store(kind: str, secret: str | None, root: Path) -> Store:
    return benches.new_store(benches.local(root), secret, "blake3" if kind == "blake3" else "sha256")


@pytest.fixture
def plain(root: Path) -> Store:
    pytest.importorskip("zstandard")
    return benches.new_store(benches.local(root))


@pytest.fixture
def again(root: Path, secret: str | None) -> Callable[[], Store]:
    """The same store, opened as a new process would."""
    return lambda: Store.open(benches.local(root), secret)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes small real file systems: tmpfs mounts of a given size in KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mounted: list[Path] = []

    def make(kibibytes: int) -> Path:
        folder = tmp_path / f"volume{len(mounted)}"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "stowage-test", folder], check=True)
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)
