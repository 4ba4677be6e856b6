# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks come back in every form, judged by qemu-img; a failure leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, forms, restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    ConverterMissing,
    Damaged,
    TargetFailed,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import open_disk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.compose import flat_base
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import parse_descriptor
from esxilab import disks

from .benches import CHUNK, back_up, image, restored

JUDGED = {"raw": "raw", "vmdk": "vmdk", "vmdk-sparse": "vmdk", "vmdk-stream": "vmdk", "qcow2": "qcow2"}


@pytest.fixture
def point(plain: Store, tmp_path: Path) -> Point:
    return back_up(plain, image(tmp_path / "disk", [1, 0, 2, 2, *[0] * 30, 3], 35 * CHUNK - 5 * 512))[0]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def judge(form: str, path: Path, raw: Path) -> None:
    words = ["qemu-img", "compare", "-f", JUDGED[form], "-F", "raw", str(path), str(raw)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout, done.stderr)


@pytest.mark.parametrize("form", forms.FORMS)
def test_a_disk_comes_back_in_every_form(plain: Store, point: Point, out: Path, tmp_path: Path, form: str) -> None:
    target = out / "web 01.vmdk"
    told = forms.to_disk(plain, point.disks[0], str(target), form, threads=2, paranoid=True)
    assert told.written == 4 * CHUNK - 5 * 512
    judge(form, target, tmp_path / "disk")
    names = {"web 01.vmdk", "web 01-flat.vmdk"} if form == "vmdk" else {"web 01.vmdk"}
    assert set(os.listdir(out)) == names
    assert sum(path.stat().st_blocks for path in out.iterdir()) * 512 < 10 * CHUNK
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in out.iterdir())
    if form == "vmdk-sparse":
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", str(target)]))
        assert info["format-specific"]["data"]["create-type"] == "monolithicSparse"
        assert b"RW " in target.read_bytes() and b'SPARSE "web 01.vmdk"' in target.read_bytes()
    if form != "qcow2":
        source = open_disk(str(target))
        room = bytearray(source.size)
        source.read_into(memoryview(room), 0)
        source.close()
        assert room == (tmp_path / "disk").read_bytes()


@pytest.mark.parametrize("form", [form for form in forms.FORMS if form != "raw"])
def test_a_disk_without_whole_sectors_gets_zeros(plain: Store, out: Path, tmp_path: Path, form: str) -> None:
    disk = image(tmp_path / "odd", [1, 2], CHUNK + 700)
    point, _told = back_up(plain, disk)
    forms.to_disk(plain, point.disks[0], str(out / "d.vmdk"), form)
    with open(disk, "r+b") as file:
        file.truncate(CHUNK + 1024)
    judge(form, out / "d.vmdk", disk)


def test_a_hypervisor_takes_the_disk_and_makes_deltas_on_it(
    plain: Store, point: Point, out: Path, tmp_path: Path
) -> None:
    forms.to_disk(plain, point.disks[0], str(out / "web.vmdk"), "vmdk")
    disks.create_delta(str(out / "web.vmdk"), str(out / "web-000001.vmdk"), "sesparse")
    with disks.open_chain(str(out / "web-000001.vmdk"), writable=True) as disk:
        assert disk.read(0, disk.capacity) == (tmp_path / "disk").read_bytes()
        disk.write(CHUNK, b"guest".ljust(512))
    source = open_disk(str(out / "web-000001.vmdk"))
    room = bytearray(source.size)
    source.read_into(memoryview(room), 0)
    second, _told = backup.run(plain, "vm-2", "web", [backup.DiskInput("scsi0:0", source)], threads=2)
    source.close()
    wanted = bytearray((tmp_path / "disk").read_bytes())
    wanted[CHUNK : CHUNK + 512] = b"guest".ljust(512)
    assert room == wanted == restored(plain, second, tmp_path)


def test_the_descriptor_is_what_a_host_takes() -> None:
    text = flat_base("web-flat.vmdk", 80 << 30).render()
    base = parse_descriptor(text, "web.vmdk")
    assert (base.kind, base.is_delta, base.thin, base.capacity_bytes) == ("flat", False, True, 80 << 30)
    assert base.ddb["ddb.longContentID"].endswith(base.cid) and base.ddb["ddb.geometry.cylinders"] == "10443"
    assert base.uuid is not None and len(base.uuid) == 47 and base.uuid.startswith("60 00 c2 9")
    assert flat_base("x", 512).cid != flat_base("x", 512).cid
    with pytest.raises(ValueError, match="lsilogic"):
        flat_base("x", 512, "nvme")


@pytest.mark.parametrize("form", forms.FORMS)
def test_nothing_is_replaced(plain: Store, point: Point, out: Path, form: str) -> None:
    (out / "d.vmdk").write_text("mine")
    with pytest.raises(TargetFailed, match=r"d\.vmdk is there already; nothing is replaced"):
        forms.to_disk(plain, point.disks[0], str(out / "d.vmdk"), form)
    if form == "vmdk":
        os.rename(out / "d.vmdk", out / "d-flat.vmdk")
        with pytest.raises(TargetFailed, match=r"d-flat\.vmdk is there already"):
            forms.to_disk(plain, point.disks[0], str(out / "d.vmdk"), form)
    assert [path.read_text() for path in out.iterdir()] == ["mine"]


def test_without_the_program_it_is_told_before_anything_is_written(plain: Store, point: Point, out: Path) -> None:
    with pytest.raises(ConverterMissing, match="the program no-such-program is not on this machine") as caught:
        forms.to_disk(plain, point.disks[0], str(out / "d"), "qcow2", program="no-such-program")
    assert "qemu-utils" in caught.value.hint_text and not list(out.iterdir())
    forms.to_disk(plain, point.disks[0], str(out / "d"), "vmdk", program="no-such-program")


@pytest.mark.parametrize("form", forms.FORMS)
def test_a_damaged_store_leaves_nothing_at_the_target(
    plain: Store, point: Point, root: Path, out: Path, form: str
) -> None:
    for pack in root.rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[200] ^= 1
        pack.write_bytes(data)
    with pytest.raises((Damaged, BackendFailed)):
        forms.to_disk(plain, point.disks[0], str(out / "d.vmdk"), form)
    assert not list(out.iterdir())


def test_a_converter_that_fails_is_quoted_and_leaves_nothing(plain: Store, point: Point, out: Path) -> None:
    program = out.parent / "broken"
    program.write_text("#!/bin/sh\necho 'write failed: No space left on device' >&2\n: > \"$9\"\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(TargetFailed, match=r"write failed: No space left on device \(it needs up to \d+ bytes there"):
        forms.to_disk(plain, point.disks[0], str(out / "d"), "vmdk-sparse", program=str(program))
    assert not list(out.iterdir())


@pytest.mark.parametrize("form", ["vmdk", "vmdk-sparse", "qcow2"])
def test_too_little_room_is_told_with_what_is_needed(
    plain: Store, point: Point, volume: Callable[[int], Path], form: str
) -> None:
    small = volume(64)
    with pytest.raises(TargetFailed, match=r"it needs (up to \d+|\d+) bytes there.* and \d+ bytes are free"):
        forms.to_disk(plain, point.disks[0], str(small / "d.vmdk"), form)
    assert not list(small.iterdir())


def test_room_that_ends_during_the_conversion(plain: Store, point: Point, volume: Callable[[int], Path]) -> None:
    """Enough for the raw image, not for the result beside it."""
    small = volume(5 * 64 + 8)
    with pytest.raises(TargetFailed, match="qemu-img said: .*No space left"):
        forms.to_disk(plain, point.disks[0], str(small / "d.vmdk"), "vmdk-sparse")
    assert not list(small.iterdir())


def test_a_failing_rename_takes_its_first_half_back(
    plain: Store, point: Point, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def fail(source: str, target: str) -> None:
        if target.endswith("/d.vmdk"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(TargetFailed, match="Input/output error"):
        forms.to_disk(plain, point.disks[0], str(out / "d.vmdk"), "vmdk")
    assert not list(out.iterdir())


def test_what_a_killed_restore_left_goes_with_the_next_and_two_at_once_are_told(
    plain: Store, point: Point, root: Path, out: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\n: > "$9"\nexec sleep 60\n')
    slow.chmod(0o755)
    code = (
        "from ansible_collections.stowage.esxi.plugins.module_utils.store import forms, store\n"
        "from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend\n"
        f"opened = store.Store.open(LocalBackend({str(root)!r}))\n"
        "disk = opened.points()[0].disks[0]\n"
        f"forms.to_disk(opened, disk, {str(out / 'd')!r}, 'vmdk-sparse', program={str(slow)!r})\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        shop = out / ".d.stowage-restore"
        deadline = time.monotonic() + 60
        while not (shop / "d").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (shop / "d").exists()
        with pytest.raises(TargetFailed, match="another restore is writing it"):
            forms.to_disk(plain, point.disks[0], str(out / "d"), "qcow2")
        assert (shop / ".raw").exists()
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
    forms.to_disk(plain, point.disks[0], str(out / "d"), "qcow2")
    judge("qcow2", out / "d", tmp_path / "disk")
    assert os.listdir(out) == ["d"]


def test_forms_and_raw_images_are_one_restore(plain: Store, point: Point, out: Path) -> None:
    forms.to_disk(plain, point.disks[0], str(out / "a"))
    restore.to_file(plain, point.disks[0], str(out / "b"))
    assert (out / "a").read_bytes() == (out / "b").read_bytes()
    with pytest.raises(ValueError, match="qcow2"):
        forms.to_disk(plain, point.disks[0], str(out / "c"), "vhdx")
