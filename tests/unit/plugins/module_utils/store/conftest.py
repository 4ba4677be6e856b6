# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores of every kind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import crypto
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

# The lab's disk code shares nothing with ours: it judges what we write.
for place in (str(Path(__file__).resolve().parents[4] / "lab"), str(Path(__file__).parent)):
    if place not in sys.path:
        sys.path.insert(0, place)

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
    folder = tmp_path_factory.mktemp("s3")
    keys = {"accessKey": benches.S3_KEYS[0], "secretKey": benches.S3_KEYS[1]}
    identity = {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    ports = dict(zip(("s3", "master", "volume", "filer"), free_ports(4)))
    words = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    words += ["-s3", f"-s3.config={folder / 's3.json'}", "-volume.max=30", "-master.volumeSizeLimitMB=128"]
    words += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    words += [f"-{name}.port={port}" for name, port in ports.items()]
    words += [f"-{name}.port.grpc={port}" for name, port in zip(("master", "volume", "filer", "s3"), free_ports(4))]
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                benches.s3_client(endpoint).create_bucket(Bucket=benches.BUCKET)
                break
            except Exception as error:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise AssertionError((folder / "log").read_text(encoding="utf-8")[-3000:]) from error
                time.sleep(0.5)
        yield endpoint
    finally:
        # It takes its time to leave in good order, and nothing of it is needed any more.
        server.kill()
        server.wait(30)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return [int(port) for port in ports]


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
