# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores of every kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import objectstore
import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import crypto
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))

import benches  # noqa: E402  it lies beside this file


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
