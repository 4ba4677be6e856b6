# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mounted restore point reads as the restored one, cannot be written, and ends in good order."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base import imports
from ansible_collections.stowage.esxi.plugins.module_utils.cli.fuse import Operations
from ansible_collections.stowage.esxi.plugins.module_utils.store.folder import Folder
from ansible_collections.stowage.esxi.plugins.module_utils.store.image import Reader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import CHUNK, back_up, image, local, new_store

CLI = "ansible_collections.stowage.esxi.plugins.module_utils.cli.main"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(local(tmp_path / "store"))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return image(tmp_path / "disk", [1, 0, 2, 3, 0, 0, 4] * 6, 42 * CHUNK - 5)


@pytest.fixture
def point(store: Store, disk: Path) -> Point:
    return back_up(store, disk)[0]


def test_the_kernel_gets_what_is_there_and_an_error_for_the_rest(store: Store, point: Point, disk: Path) -> None:
    asked = Operations(Folder(Reader(store), point))
    assert asked.readdir("/", 0) == [".", "..", "scsi0-0.raw", "a.vmx"]
    assert asked.getattr("/")["st_mode"] == 0o040555
    told = asked.getattr("/scsi0-0.raw")
    assert (told["st_mode"], told["st_size"]) == (0o100444, 42 * CHUNK - 5)
    assert abs(told["st_mtime"] / 10**9 - time.time()) < 60
    assert asked.read("/scsi0-0.raw", 3 * CHUNK, CHUNK // 2, 0) == disk.read_bytes()[CHUNK // 2 :][: 3 * CHUNK]
    assert asked.read("/a.vmx", 4096, 0, 0) == b"displayName vm-1" and asked.read("/a.vmx", 4, 12, 0) == b"vm-1"
    for call, code in (
        (lambda: asked.getattr("/nothing"), errno.ENOENT),
        (lambda: asked.open("/scsi0-0.raw", os.O_RDWR), errno.EROFS),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == code


def test_a_damaged_chunk_is_an_input_output_error_and_no_more(
    store: Store, point: Point, disk: Path, tmp_path: Path
) -> None:
    place = store.place_of(store.identity.of(disk.read_bytes()[:CHUNK]))
    pack = tmp_path / "store" / "packs" / place.pack[:2] / f"{place.pack}.pack"
    data = bytearray(pack.read_bytes())
    data[place.offset + 99] ^= 1
    pack.write_bytes(data)
    asked = Operations(Folder(Reader(Store.open(local(tmp_path / "store"))), point))
    with pytest.raises(OSError) as caught:
        asked.read("/scsi0-0.raw", 10, 0, 0)
    assert caught.value.errno == errno.EIO
    assert asked.read("/scsi0-0.raw", 10, CHUNK, 0) == bytes(10)


def test_words_that_cannot_be_said_keep_nobody_from_reading(store: Store, point: Point) -> None:
    def say() -> None:
        raise BrokenPipeError

    asked = Operations(Folder(Reader(store), point), say)
    asked.init("/")
    assert asked.served and isinstance(asked.trouble, BrokenPipeError)
    assert asked.read("/a.vmx", 4, 12, 0) == b"vm-1"


def can_mount() -> str:
    """Why not."""
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        return "no /dev/fuse, or not root"
    try:
        return "" if imports.available("mfusepy") else "mfusepy is not installed"
    except OSError:
        return "libfuse is not installed"


@pytest.fixture
def mounted(tmp_path: Path, store: Store, point: Point) -> Callable[[], subprocess.Popen[str]]:
    if can_mount():
        pytest.skip(can_mount())
    (tmp_path / "m").mkdir()

    def mount() -> subprocess.Popen[str]:
        words = [sys.executable, "-m", CLI, "mount", str(tmp_path / "store"), point.point, str(tmp_path / "m")]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not os.path.ismount(tmp_path / "m"):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    return mount


def test_a_mount_reads_like_the_disk_by_many_programs_at_once(
    mounted: Callable[[], subprocess.Popen[str]], point: Point, disk: Path, tmp_path: Path
) -> None:
    process, folder = mounted(), tmp_path / "m"
    assert process.stdout is not None
    try:
        # It says so while it is mounted.
        said = [process.stdout.readline() for _line in range(4)]
        assert said[:3] == [f"mounted {point.point} at {folder}\n", "a.vmx\n", "scsi0-0.raw\n"]
        assert said[3] == f"to unmount it: umount {folder}, or interrupt this command\n"
        assert sorted(os.listdir(folder)) == ["a.vmx", "scsi0-0.raw"]
        assert (folder / "a.vmx").read_bytes() == b"displayName vm-1"
        compares = [subprocess.Popen(["cmp", str(folder / "scsi0-0.raw"), str(disk)]) for _ in range(4)]
        assert [one.wait(120) for one in compares] == [0] * 4
        if shutil.which("qemu-img"):
            subprocess.run(["qemu-img", "compare", "-f", "raw", folder / "scsi0-0.raw", disk], check=True, timeout=60)
        for attempt in (
            lambda: (folder / "new").touch(),
            lambda: os.open(folder / "a.vmx", os.O_WRONLY),
            lambda: (folder / "a.vmx").unlink(),
        ):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.EROFS
    finally:
        subprocess.run(["umount", folder], check=True)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    # libfuse may have said something of its own.
    assert err.endswith(f"unmounted {folder}\n") and "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_mount_ends_by_a_signal_in_good_order(
    mounted: Callable[[], subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = mounted()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out.startswith("mounted") and "unmounted" in err
    assert not os.path.ismount(tmp_path / "m")


def test_a_place_that_is_no_empty_folder_is_refused(
    tmp_path: Path, store: Store, point: Point, stowage: Callable[..., SimpleNamespace]
) -> None:
    if can_mount():
        pytest.skip(can_mount())
    (tmp_path / "full" / "of").mkdir(parents=True)
    for place in ("full", "none"):
        found = stowage("mount", tmp_path / "store", point.point, tmp_path / place)
        assert found.code == 5 and "no empty folder" in found.err
