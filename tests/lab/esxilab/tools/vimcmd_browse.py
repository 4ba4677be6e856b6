# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vim-cmd hostsvc/datastorebrowser/search: the files of a folder; of disks what their descriptor says.

The fields of a disk are those that tools read; the rest of the layout follows the API's model.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esxilab import disks
from esxilab.hostd.clock import iso
from esxilab.hostd.errors import InvalidArgument, ObjectNotFound
from esxilab.hostd.vmodl import UNSET, Arr, Obj, Ref

from .answer import Answer
from .devices import BACKINGS

if TYPE_CHECKING:
    from .vimcmd import Call

BROWSER = "vim.host.DatastoreBrowser"
KINDS = {
    ".vmx": "VmConfigInfo",
    ".log": "VmLogInfo",
    ".nvram": "VmNvramInfo",
    ".vmsd": "FileInfo",
    ".iso": "IsoImageInfo",
}
ADAPTERS = {
    "lsilogic": "VirtualLsiLogicController",
    "lsisas": "VirtualLsiLogicSASController",
    "pvscsi": "ParaVirtualSCSIController",
    "buslogic": "VirtualBusLogicController",
    "ide": "VirtualIDEController",
}


def search(call: Call) -> Answer:
    """`subfolders` is 0 or 1; the path is `[datastore] folder`."""
    inside = call.host.volumes.from_api(call.args[1])
    folder = call.host.volumes.outside(inside)
    volume = call.host.volumes.volume_of(inside)
    if folder is None or volume is None:
        raise InvalidArgument("datastorePath")
    if not folder.is_dir():
        raise ObjectNotFound()
    folders = [folder]
    if call.flag(0):
        folders += sorted(Path(top) / name for top, names, _ in os.walk(folder) for name in names)
    found = [_results(call, Ref(volume.moref), one) for one in folders]
    if call.flag(0):
        return Answer(call.printer.text(Arr(f"{BROWSER}.SearchResults", found)))
    return Answer(call.printer.text(found[0]))


def _results(call: Call, datastore: Ref, folder: Path) -> Obj:
    volumes = call.host.volumes
    names = sorted(os.listdir(folder))
    # An extent is part of its disk and is not listed by itself.
    hidden = {extent for name in names if name.endswith(".vmdk") for extent in _extents(folder / name)}
    items = [_file(folder / name) for name in names if name not in hidden]
    return Obj(
        f"{BROWSER}.SearchResults",
        [
            ("datastore", datastore),
            ("folderPath", volumes.api_path(volumes.inside_of(folder))),
            ("file", Arr(f"{BROWSER}.FileInfo", items)),
        ],
    )


def _extents(path: Path) -> list[str]:
    try:
        return [os.path.basename(line.file) for line in disks.read_descriptor(str(path)).extents]
    except disks.DiskError:
        return []


def _file(path: Path) -> Obj:
    stat = path.stat()
    changed = iso(datetime.fromtimestamp(stat.st_mtime, timezone.utc))  # noqa: UP017 - datetime.UTC needs 3.11
    size = stat.st_size
    kind = "FolderInfo" if path.is_dir() else KINDS.get(path.suffix, "FileInfo")
    more: list[tuple[str, Any]] = []
    if path.suffix == ".vmdk":
        try:
            found = disks.read_descriptor(str(path))
        except disks.DiskError:
            found = None
        if found is not None:
            kind = "VmDiskInfo"
            files = [found.beside(line.file) for line in found.extents]
            size = sum(os.stat(name).st_blocks * 512 for name in files if os.path.exists(name))
            more = _disk(found)
    head: list[tuple[str, Any]] = [
        ("path", path.name),
        ("friendlyName", UNSET),
        ("fileSize", size),
        ("modification", changed),
        ("owner", "root"),
    ]
    return Obj(f"{BROWSER}.{kind}", [*head, *more])


def _disk(found: disks.Descriptor) -> list[tuple[str, Any]]:
    backing = BACKINGS.get(found.create_type, "FlatVer2BackingInfo")
    adapter = ADAPTERS.get(found.ddb.get("ddb.adapterType", "lsilogic"), ADAPTERS["lsilogic"])
    return [
        ("diskType", f"vim.vm.device.VirtualDisk.{backing}"),
        ("capacityKb", found.capacity // 1024),
        ("hardwareVersion", int(found.ddb.get("ddb.virtualHWVersion", "4"))),
        ("controllerType", f"vim.vm.device.{adapter}"),
        ("diskExtents", Arr("string", [os.path.basename(line.file) for line in found.extents])),
        ("thin", found.is_thin),
    ]
