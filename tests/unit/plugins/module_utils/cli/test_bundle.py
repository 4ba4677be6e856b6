# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line as one file works alone, holds nothing that it does not import, and is the same everywhere."""

from __future__ import annotations

import ast
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.cli import bundle
from benches import CHUNK, image

ROOT = Path(__file__).resolve().parents[5]


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """An empty folder with the one file in it."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / bundle.NAME).write_bytes(bundle.build())
    return tmp_path / "alone"


def call(alone: Path, *words: object, flags: tuple[str, ...] = ("-I",)) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, *flags, bundle.NAME, *map(str, words)]
    return subprocess.run(
        argv, cwd=alone, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=120
    )


def test_it_alone_makes_a_store_lists_and_restores(alone: Path, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1, 0, 2])
    store = tmp_path / "store"
    assert call(alone, "create", store, "--chunk-size", "64KiB").returncode == 0
    assert call(alone, "backup", store, "--machine", "m", "--disk", f"scsi0:0={disk}").returncode == 0
    # The copy in the store is the same program, and does the rest.
    assert (store / bundle.NAME).read_bytes() == (alone / bundle.NAME).read_bytes()
    (alone / bundle.NAME).unlink()
    (alone / bundle.NAME).write_bytes((store / bundle.NAME).read_bytes())
    listed = call(alone, "list", store)
    assert listed.returncode == 0 and listed.stdout.endswith("1 restore point\n")
    assert call(alone, "restore", store, "latest", "--to", "out").returncode == 0
    assert (alone / "out" / "scsi0-0.raw").read_bytes() == disk.read_bytes()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    target = tmp_path / "dist" / "x.pyz"
    for zone in ("UTC", "Asia/Tokyo"):
        words = [sys.executable, str(ROOT / "tests" / "tools" / "make_cli.py"), str(target)]
        subprocess.run(
            words, check=True, env={**os.environ, "TZ": zone, "PYTHONHASHSEED": zone[:1] == "U" and "1" or "2"}
        )
        assert target.read_bytes() == bundle.build()
    assert os.access(target, os.X_OK) and target.read_bytes().startswith(b"#!/usr/bin/env python3\n")


def test_nothing_is_in_it_but_what_it_imports() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle.build())) as archive:
        names = archive.namelist()
        texts = {name: archive.read(name).decode() for name in names}
    assert names == sorted(names)
    rooms = {name.split("/")[5] for name in names if name.count("/") > 5}
    assert {"base", "cli", "store"} <= rooms <= {"base", "cli", "store", "vmdk"}
    ours = set()
    for text in texts.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ansible_collections."):
                ours |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    unneeded = {
        name
        for name in names
        if name != "__main__.py" and not name.endswith("/__init__.py") and name[:-3].replace("/", ".") not in ours
    }
    assert unneeded == set()


def test_missing_libraries_are_named(alone: Path) -> None:
    found = call(alone, "list", "nowhere", flags=("-I", "-S"))
    assert found.returncode == 4
    assert "needs the Python libraries xxhash zstandard" in found.stderr and "-m pip install xxhash" in found.stderr
    assert call(alone, "--help", flags=("-I", "-S")).returncode == 0


def test_an_old_python_is_told_in_words(alone: Path) -> None:
    old = sorted((Path.home() / ".pyenv" / "versions").glob("3.[678].*/bin/python"))
    if not old:
        pytest.skip("no Python older than 3.9 here")
    found = subprocess.run([str(old[-1]), "-I", bundle.NAME], cwd=alone, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and "needs Python 3.9 or newer" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_backup_that_is_ended_by_a_signal_leaves_no_point_and_no_writer(
    alone: Path, tmp_path: Path, number: signal.Signals
) -> None:
    store = tmp_path / "store"
    assert (
        call(
            alone, "create", store, "--chunk-size", "64KiB", "--pack-size", "1MiB", "--codec", "zlib", "--level", 9
        ).returncode
        == 0
    )
    (tmp_path / "disk").write_bytes(os.urandom(CHUNK * 700))
    words = [
        # Whoever runs the tests in the background has them ignore an interrupt, and their children too.
        "env",
        "--default-signal=INT",
        sys.executable,
        "-I",
        bundle.NAME,
        "backup",
        str(store),
        "--machine",
        "m",
        "--disk",
        f"a={tmp_path / 'disk'}",
    ]
    process = subprocess.Popen(words, cwd=alone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(store.rglob("*.pack")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "interrupted" in err
    assert list(store.glob("points/*/*")) == [] and list(store.glob("writers/*")) == []
    assert list(store.rglob("*.pack")) == []


def test_a_reader_that_has_enough_is_no_traceback(alone: Path, tmp_path: Path) -> None:
    assert call(alone, "create", tmp_path / "store").returncode == 0
    words = f"{sys.executable} -I {bundle.NAME} --help | true; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", words], cwd=alone, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in found.stderr and "Exception ignored" not in found.stderr
