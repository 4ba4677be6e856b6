# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The independent reader says what was given wrong and what to do, and can be read in one sitting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import reader
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import SECRET, back_up, image, local, new_store

pytestmark = pytest.mark.folder


def run(*words: object, without: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`without`: a library that this machine is to lack."""
    code = (
        f"import runpy, sys; sys.modules.update({{name: None for name in {without.split()!r}}});"
        f"sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    program = [sys.executable, "-I", "-c", code, reader.__file__, *map(str, words)]
    where = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(program, env=where, capture_output=True, text=True, check=False)


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1 and done.stderr.startswith("reader.py: ") and "Traceback" not in done.stderr, done
    return done.stderr


@pytest.fixture
def made(plain: Store, root: Path, tmp_path: Path) -> tuple[Path, str]:
    return root, back_up(plain, image(tmp_path / "disk", [1, 0, 2]))[0].point


def test_it_is_short() -> None:
    assert len(Path(reader.__file__).read_text().splitlines()) <= 201


def test_what_was_given_wrong_is_named(made: tuple[Path, str], tmp_path: Path) -> None:
    root, point = made
    (tmp_path / "there").write_bytes(b"mine")
    for words, text in (
        ([tmp_path], f"{tmp_path} is no store: it has no config.json. Give the store's own folder"),
        ([tmp_path / "nowhere"], "is no store"),
        ([root, "1999"], "there is no restore point 1999: give the whole id of one that reader.py lists"),
        (
            [root, point, "scsi0:0"],
            "STORE POINT DISK-OR-FILE TARGET; these were 3 words",
        ),
        ([root, point, "ide0:0", tmp_path / "new"], "has no disk and no file ide0:0; it has: a.vmx, scsi0:0"),
        ([root, point, "scsi0:0", tmp_path / "there"], f"{tmp_path / 'there'} is there already"),
        ([root, point, "scsi0:0", tmp_path / "no" / "new"], "No such file or directory"),
    ):
        assert text in said(run(*words)), words
    assert (tmp_path / "there").read_bytes() == b"mine" and not (tmp_path / "new").exists()
    shown = run(root, point)
    assert (shown.returncode, shown.stdout) == (0, "a.vmx 16 bytes\nscsi0:0 196608 bytes\n")
    assert run(root).stdout == f"{point} name of vm-1\n" and "list the restore points" in run().stdout


def test_of_a_chunk_that_lies_in_two_packs_the_whole_one_is_taken(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path
) -> None:
    disk = image(tmp_path / "disk", [1, 0, 2])
    back_up(store, disk)
    old = [path for path in (root / "packs").rglob("*.pack")]
    (root / "index").rename(root / "index.away")
    (root / "index").mkdir()
    # It does not know of the first one's chunks, and writes them again.
    point, _told = back_up(again(), disk)
    new = [path for path in (root / "packs").rglob("*.pack") if path not in old]
    secret = {"STOWAGE_PASSPHRASE": SECRET} if store.vault is not None else {}
    for number, paths in enumerate((old, new)):
        kept = {path: path.read_bytes() for path in paths}
        for path, data in kept.items():
            path.write_bytes(data[:64] + bytes(4096) + data[4160:])
        target = tmp_path / f"out{number}"
        assert run(root, point.point, "scsi0:0", target, **secret).returncode == 0
        assert target.read_bytes() == disk.read_bytes()
        for path, data in kept.items():
            path.write_bytes(data)


def test_what_is_missing_on_this_machine_is_named(made: tuple[Path, str], tmp_path: Path) -> None:
    root, point = made
    found = run(root, point, "scsi0:0", tmp_path / "out", without="zstandard", PATH="")
    assert "install the Python library zstandard, or the program zstd" in said(found)
    locked = new_store(local(tmp_path / "locked"), SECRET)
    back_up(locked, tmp_path / "disk")
    assert "put its passphrase or recovery key into STOWAGE_PASSPHRASE" in said(run(tmp_path / "locked"))
    assert "no key in keys/ opens" in said(run(tmp_path / "locked", STOWAGE_PASSPHRASE="wrong"))
    bare = run(tmp_path / "locked", STOWAGE_PASSPHRASE=SECRET, without="cryptography")
    assert "install the Python library cryptography" in said(bare)


def test_one_damaged_file_takes_no_other_with_it(
    plain: Store, root: Path, made: tuple[Path, str], tmp_path: Path
) -> None:
    _root, point = made
    other = back_up(plain, image(tmp_path / "other", [5, 6]), machine="vm-2")[0]
    manifest = root / other.object_name
    manifest.write_bytes(b"x" + manifest.read_bytes())
    listed = run(root)
    assert (listed.returncode, listed.stdout) == (0, f"{point} name of vm-1\n")
    assert f"{manifest} cannot be read, it is left out" in listed.stderr
    assert run(root, point, "scsi0:0", tmp_path / "out").returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "disk").read_bytes()


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_damaged_chunk_is_named_with_its_pack(tmp_path: Path, secret: str | None) -> None:
    store = new_store(local(tmp_path / "s"), secret)
    point = back_up(store, image(tmp_path / "disk", [1]))[0]
    place = store.place_of(store.identity.of((tmp_path / "disk").read_bytes()))
    (pack,) = (tmp_path / "s").rglob(f"{place.pack}.pack")
    data = bytearray(pack.read_bytes())
    data[place.offset + 999] ^= 1
    pack.write_bytes(data)
    words = (tmp_path / "s", point.point, "scsi0:0", tmp_path / "out")
    assert f" in {pack} is damaged; another restore point" in said(run(*words, STOWAGE_PASSPHRASE=secret or ""))
