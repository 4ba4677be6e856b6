# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""restore: disks and files of a restore point, to new files or over what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_seconds
from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import OK
from ansible_collections.stowage.esxi.plugins.module_utils.cli.looking import point_arguments
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session, threads
from ansible_collections.stowage.esxi.plugins.module_utils.store import find, forms, restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import TargetFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap, Point, StoredFile
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.tree import disk_name, safe_names

_ENDINGS = {"raw": "raw", "qcow2": "qcow2"}


def _arguments(parser: Any) -> None:
    point_arguments(parser)
    parser.add_argument("--to", metavar="FOLDER", help="all disks and files, into this folder; it is made if need be")
    parser.add_argument("--disk", metavar="KEY=PATH", action="append", default=[], help="this disk, to this place")
    parser.add_argument("--file", metavar="NAME=PATH", action="append", default=[], help="this file, to this place")
    parser.add_argument("--form", choices=forms.FORMS, default="raw", help="what disks become (raw)")
    parser.add_argument(
        "--in-place", action="store_true", help="write only what differs, into images or devices that are there"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--paranoid", action="store_true", help="prove every chunk by its hash, not by its check alone")
    parser.add_argument("--threads", type=threads, default=0, metavar="N", help="0: one more than there are processors")


def _run(session: Session) -> int:
    args = session.args
    wanted_disks = session.assignments(args.disk, "--disk")
    wanted_files = session.assignments(args.file, "--file")
    if bool(args.to) == bool(wanted_disks or wanted_files):
        raise session.usage("say what goes where: --to for all of it, or --disk and --file")
    if args.in_place and args.overwrite:
        raise session.usage("--in-place and --overwrite cannot both be meant")
    if args.form != "raw" and (args.in_place or args.overwrite):
        raise session.usage(f"a disk of the form {args.form} is always a new one: no --in-place, no --overwrite")
    with session.open() as store:
        point = find.point(store, args.point, args.machine)
        if args.to:
            disks, files = _all(point, args.to, args.form)
        else:
            disks = [(find.disk(point, key), path) for key, path in wanted_disks.items()]
            files = [(find.file(point, name), path) for name, path in wanted_files.items()]
        _refuse_taken(session, [path for _disk, path in disks], [path for _file, path in files])
        begun = session.console.clock.monotonic()
        done = [_disk(session, store, disk, path) for disk, path in disks]
        for file, path in files:
            forms.to_file(store, file, path, replace=args.overwrite)
        seconds = session.console.clock.monotonic() - begun
        document = {
            "point": point.point,
            "disks": done,
            "files": [{"name": file.name, "path": path, "bytes": file.size} for file, path in files],
            "seconds": round(seconds, 3),
        }
        session.console.result(document, _lines(document, seconds))
    return OK


def _all(point: Point, folder: str, form: str) -> tuple[list[tuple[DiskMap, str]], list[tuple[StoredFile, str]]]:
    """Names from a store become names of files only when they can be nothing else."""
    names = safe_names(
        [disk_name(disk.key, _ENDINGS.get(form, "vmdk")) for disk in point.disks] + [file.name for file in point.files]
    )
    paths = [os.path.join(folder, name) for name in names]
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise TargetFailed(path=folder, reason=error.strerror or str(error)) from error
    count = len(point.disks)
    return list(zip(point.disks, paths[:count])), list(zip(point.files, paths[count:]))


def _refuse_taken(session: Session, disks: list[str], files: list[str]) -> None:
    """Before anything is written: half a restore over half of what was there helps nobody."""
    places = {os.path.realpath(path) for path in [*disks, *files]}
    if len(places) < len(disks) + len(files):
        raise session.usage("two disks or files would go to one place")
    for path in files if session.args.in_place else [*disks, *files]:
        if os.path.exists(path) and not os.path.isfile(path):
            raise TargetFailed(path=path, reason="it is there, and no file (--in-place writes into a device)")
        if os.path.lexists(path) and not session.args.overwrite:
            raise TargetFailed(path=path, reason="it is there already (--overwrite replaces it)")


def _disk(session: Session, store: Store, disk: DiskMap, path: str) -> dict[str, Any]:
    args = session.args
    with session.console.progress("restore", disk.key) as tally:
        if args.in_place:
            told = restore.to_file(
                store,
                disk,
                path,
                in_place=True,
                paranoid=args.paranoid,
                threads=args.threads,
                tally=tally,
            )
        else:
            adapter = "ide" if disk.key.startswith("ide") else "lsilogic"
            told = forms.to_disk(
                store,
                disk,
                path,
                args.form,
                adapter=adapter,
                paranoid=args.paranoid,
                threads=args.threads,
                tally=tally,
                replace=args.overwrite,
            )
    return {"key": disk.key, "path": path, "bytes": disk.size, "told": vars(told)}


def _lines(document: dict[str, Any], seconds: float) -> Iterator[str]:
    rows = [
        [disk["key"], text.size(disk["bytes"]), text.size(disk["told"]["written"]), disk["path"]]
        for disk in document["disks"]
    ]
    rows += [
        [file["name"], text.size(file["bytes"]), text.size(file["bytes"]), file["path"]] for file in document["files"]
    ]
    yield from text.table(["RESTORED", "SIZE", "WRITTEN", "TO"], rows, right=(1, 2))
    yield f"from {document['point']} in {format_seconds(seconds)}"


COMMANDS = (Command("restore", "restore disks and files", _arguments, _run),)
