# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks out of a store in the form that whoever boots them takes: raw, VMDK, qcow2."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.store import points, restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import ConverterMissing, TargetFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap, StoredFile
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.compose import flat_base

_SECTOR = 512
# What qemu-img is asked for. `raw` and `vmdk` (a descriptor and its flat file, as a hypervisor has it) need no program.
_CONVERTED = {
    "vmdk-sparse": ["-O", "vmdk", "-o", "subformat=monolithicSparse"],
    "vmdk-stream": ["-O", "vmdk", "-o", "subformat=streamOptimized"],
    "qcow2": ["-O", "qcow2"],
}
FORMS = ("raw", "vmdk", *_CONVERTED)


def to_disk(
    store: Store,
    disk: DiskMap,
    path: str,
    form: str = "raw",
    *,
    adapter: str = "lsilogic",
    program: str = "qemu-img",
    paranoid: bool = False,
    threads: int = 0,
    tally: Tally | None = None,
    replace: bool = False,
) -> restore.Told:
    """A new disk in one of the `FORMS`; with `vmdk`, `path` is the descriptor and `…-flat.vmdk` lies beside it.

    It appears under its name when it is whole and on the disk; nothing stays of a failure, and nothing is replaced but
    by a raw image, with `replace`. A conversion needs a raw image beside the target for a while. All but `raw` have
    whole sectors: zeros are added.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}: one of {', '.join(FORMS)}")
    path = os.path.abspath(path)
    name = os.path.basename(path)
    if form in _CONVERTED and shutil.which(program) is None:
        raise ConverterMissing(path=path, form=form, program=program)
    flat = (name[: -len(".vmdk")] if name.lower().endswith(".vmdk") else name) + "-flat.vmdk"
    names = [flat, name] if form == "vmdk" else [name]
    if not replace:
        _free(path, names)
    needed = _needed(store, disk)
    with _shop(path) as shop:
        _room(path, shop, needed, form)
        # A name of its own: the target's may be as long as a name can be.
        first = os.path.join(shop, ".raw")
        if tally is not None:
            tally.expect(tally.done + needed)
        told = restore.to_file(store, disk, first, paranoid=paranoid, threads=threads, tally=tally)
        if form != "raw":
            with _told(path):
                os.truncate(first, -(-disk.size // _SECTOR) * _SECTOR)
        if form == "vmdk":
            text = flat_base(flat, disk.size, adapter).render()
            with _told(path):
                durable.write_text(os.path.join(shop, name), text)
        if form in _CONVERTED:
            _convert(program, form, first, os.path.join(shop, name), path, needed)
        else:
            with _told(path):
                os.rename(first, os.path.join(shop, names[0]))
        _appear(shop, path, names, replace)
    return told


def to_file(store: Store, file: StoredFile, path: str, replace: bool = False) -> None:
    """A small file, as whole and as new as a disk."""
    data = store.read_record(file.id, file.size) if file.id is not None else b""
    path = os.path.abspath(path)
    name = os.path.basename(path)
    if not replace:
        _free(path, [name])
    with _shop(path) as shop:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with _told(path), open(os.open(os.path.join(shop, name), flags, 0o600), "wb") as target:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        _appear(shop, path, [name], replace)


def _needed(store: Store, disk: DiskMap) -> int:
    """Bytes of the chunks that are not zeros."""
    return sum(
        disk.length_of(first + slot) for first, page in store.pages(disk) for slot, _id, _check in points.slots(page)
    )


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TargetFailed(path=path, reason=error.strerror or str(error)) from error


def _free(path: str, names: list[str]) -> None:
    for name in names:
        if os.path.lexists(os.path.join(os.path.dirname(path), name)):
            raise TargetFailed(path=path, reason=f"{name} is there already; nothing is replaced")


@contextlib.contextmanager
def _shop(path: str) -> Iterator[str]:
    """A folder beside the target, ours alone while we live. What a killed restore left in it goes."""
    short = os.fsdecode(os.fsencode(os.path.basename(path))[:200])
    shop = os.path.join(os.path.dirname(path), f".{short}.stowage-restore")
    with _told(path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(shop, 0o700)
        handle = os.open(shop, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TargetFailed(path=path, reason="another restore is writing it") from error
        try:
            with _told(path):
                for name in os.listdir(shop):
                    os.unlink(os.path.join(shop, name))
            yield shop
        finally:
            shutil.rmtree(shop, ignore_errors=True)
    finally:
        os.close(handle)


def _room(path: str, shop: str, needed: int, form: str) -> None:
    with _told(path):
        status = os.statvfs(shop)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise TargetFailed(path=path, reason=f"{_words(form, needed)}, and {free} bytes are free")


def _words(form: str, needed: int) -> str:
    if form in _CONVERTED:
        return f"it needs up to {2 * needed} bytes there ({needed} for a while, for the raw image)"
    return f"it needs {needed} bytes there"


def _convert(program: str, form: str, raw: str, target: str, path: str, needed: int) -> None:
    words = [program, "convert", "-f", "raw", *_CONVERTED[form], raw, target]
    with _told(path):
        # There is no module here to run it: the store is used without Ansible, too.
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    if done.returncode:
        said = done.stderr.strip()[-500:] or f"exit code {done.returncode}"
        raise TargetFailed(path=path, reason=f"{program} said: {said} ({_words(form, needed)})")
    with _told(path):
        handle = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(handle, 0o600)
            os.fsync(handle)
        finally:
            os.close(handle)


def _appear(shop: str, path: str, names: list[str], replace: bool) -> None:
    """The last name is the one by which the disk exists."""
    folder = os.path.dirname(path)
    moved: list[str] = []
    try:
        if not replace:
            _free(path, names)
        with _told(path):
            for name in names:
                os.rename(os.path.join(shop, name), os.path.join(folder, name))
                moved.append(os.path.join(folder, name))
            durable.sync_folder(folder)
    except BaseException:
        for name in [] if replace else moved:
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise
