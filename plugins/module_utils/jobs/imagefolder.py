# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore point's folder of this machine while it comes to be: half copies, images of the one before, its name.

`<backup point>/<slug>-<hash of the VM's identity>/<YYYYMMDDTHHMMSSZ>/`, built in a sibling `.partial-<time>-<job>`, as
on a datastore (`point`).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import PointExists
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint
from ansible_collections.stowage.esxi.plugins.module_utils.programs import intoimages
from ansible_collections.stowage.esxi.plugins.module_utils.programs.imagefile import told


def half_copies(folder: str, job: str) -> list[str]:
    """The folders that jobs of the same machine have begun and not ended, newest first. Whoever holds its lock knows
    that nobody fills them."""
    own = re.compile(rf"\.partial-\d{{8}}T\d{{6}}Z-.+{re.escape(job[-len('-b000000000000') :])}")
    try:
        found = sorted((name for name in os.listdir(folder) if own.fullmatch(name)), reverse=True)
    except FileNotFoundError:
        return []
    return [os.path.join(folder, name) for name in found]


def prepare(partial: str, job: str, keys: Sequence[str]) -> str:
    """Makes the folder, out of the newest half copy where there is one; of that only images of these disks stay.
    Returns the half copy's name, or nothing."""
    folder = os.path.dirname(partial)
    with told(partial):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        newest, *older = half_copies(folder, job) or [""]
        for path in older:
            shutil.rmtree(path)
        if not newest:
            os.mkdir(partial, 0o700)
            durable.sync_folder(folder)
            return ""
        os.rename(newest, partial)
        images = {intoimages.flat_name(key) for key in keys}
        for name in os.listdir(partial):
            path = os.path.join(partial, name)
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(path)
            elif name not in images or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                # A file with a second name belongs to a restore point, too.
                os.unlink(path)
            else:
                os.chmod(path, 0o600)
    return os.path.basename(newest)


def former_images(point: RestorePoint | None, folder: str) -> dict[str, str]:
    """The images of a restore point in its folder, by disk."""
    if point is None:
        return {}
    found = {disk.key: os.path.join(folder, intoimages.flat_name(disk.key)) for disk in point.disks}
    return {key: path for key, path in found.items() if os.path.isfile(path) and not os.path.islink(path)}


def put_files(partial: str, files: Mapping[str, bytes]) -> None:
    with told(partial):
        for name, data in files.items():
            durable.write_bytes(os.path.join(partial, name), data)


def small_files(partial: str, keys: Sequence[str]) -> dict[str, bytes]:
    """The descriptors of these disks."""
    found = {}
    with told(partial):
        for key in keys:
            name = intoimages.descriptor_name(key)
            with open(os.path.join(partial, name), "rb") as file:
                found[name] = file.read()
    return found


def keep_only(folder: str, time: str) -> None:
    """Of the restore points in a stage the newest is enough: the next one begins from it."""
    with told(folder):
        for name in os.listdir(folder):
            if names.is_point_name(name) and name != time:
                shutil.rmtree(os.path.join(folder, name))


def commit(partial: str, final: str, manifest: str) -> None:
    """The manifest last, then the name: from then on it is a restore point."""
    with told(final):
        durable.write_text(os.path.join(partial, names.MANIFEST), manifest)
        if os.path.lexists(final):
            raise PointExists(path=final)
        os.rename(partial, final)
        durable.sync_folder(os.path.dirname(final))


def drop(partial: str) -> None:
    """What is not gone on with. The folder of its machine goes with it where nothing else is in it."""
    shutil.rmtree(partial, ignore_errors=True)
    try:
        os.rmdir(os.path.dirname(partial))
    except OSError:
        return
