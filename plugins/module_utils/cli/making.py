# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""create, settings, backup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_seconds
from ansible_collections.stowage.esxi.plugins.module_utils.cli import bundle, text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import OK, NotReadable
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session, size, threads
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, describe, find, keys, settings
from ansible_collections.stowage.esxi.plugins.module_utils.store.changes import load as load_changes
from ansible_collections.stowage.esxi.plugins.module_utils.store.codec import NAMES
from ansible_collections.stowage.esxi.plugins.module_utils.store.config import CHUNK_SIZES
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import HASHES
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import open_disk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

_LARGEST_FILE = 64 << 20


# -- create --------------------------------------------------------------------------------------------------------


def _settings_arguments(parser: Any) -> None:
    parser.add_argument("--codec", choices=sorted(NAMES), help="how chunks are compressed (zstd)")
    parser.add_argument("--level", type=int, metavar="N", help="how hard: zstd -7 to 19 (1), zlib 1 to 9")
    parser.add_argument("--pack-size", type=size, metavar="SIZE", help="size of a pack (64MiB)")
    parser.add_argument("--quota", type=size, metavar="SIZE", help="room that the store may take; 0: no limit (0)")
    parser.add_argument(
        "--reserve", type=size, metavar="SIZE", help="of quota and file system, for collections (0: a twentieth)"
    )
    parser.add_argument(
        "--repack-percent", type=int, metavar="N", help="a pack of which less is needed is written anew (50)"
    )


def _wanted_settings(session: Session) -> dict[str, Any]:
    args = session.args
    wanted = {
        "codec": args.codec,
        "level": args.level,
        "pack_bytes": args.pack_size,
        "quota_bytes": args.quota,
        "reserve_bytes": args.reserve,
        "repack_percent": args.repack_percent,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _create_arguments(parser: Any) -> None:
    parser.add_argument("--chunk-size", type=size, default=1 << 20, metavar="SIZE", help="forever (1MiB)")
    parser.add_argument("--hash", choices=HASHES, default=HASHES[0], help="what names a chunk, forever (sha256)")
    parser.add_argument("--encrypt", action="store_true", help="with the passphrase that is given, or asked for")
    parser.add_argument("--recovery-key", action="store_true", help="print a second key, to be kept on paper")
    _settings_arguments(parser)


def _create(session: Session) -> int:
    args = session.args
    if not args.encrypt and (args.passphrase_file is not None or args.passphrase_fd is not None):
        raise session.usage("a passphrase was given but not --encrypt")
    if args.chunk_size not in CHUNK_SIZES:
        smallest, largest = text.size(CHUNK_SIZES[0]), text.size(CHUNK_SIZES[-1])
        raise session.usage(f"--chunk-size is a power of two from {smallest} to {largest}")
    if args.recovery_key and not args.encrypt:
        raise session.usage("--recovery-key needs --encrypt")
    wanted = settings.check(_wanted_settings(session), args.store)
    backend = session.backend()
    passphrase = session.secret.needed(twice=True) if args.encrypt else None
    store = Store.create(
        backend,
        chunk_bytes=args.chunk_size,
        hash_name=args.hash,
        passphrase=passphrase,
        settings=wanted,
        beside=bundle.beside(),
    )
    with closing(store):
        document = describe.store(store)
        lines = [f"created {text.printable(store.name)}, id {store.id}"]
        if args.recovery_key:
            paper = keys.add_recovery(store)
            document = {**describe.store(store), "recovery_key": paper}
            lines += ["recovery key, shown this once; keep it where the passphrase is not:", f"  {paper}"]
        session.console.result(document, lines)
    return OK


def _settings(session: Session) -> int:
    wanted = _wanted_settings(session)
    with session.open() as store:
        changed = settings.change(store, wanted) if wanted else False
        rows = [(name, str(value)) for name, value in sorted(store.settings.items())]
        session.console.result({"changed": changed, "settings": dict(store.settings)}, text.pairs(rows))
    return OK


# -- backup --------------------------------------------------------------------------------------------------------


def _backup_arguments(parser: Any) -> None:
    parser.add_argument("--machine", metavar="ID", required=True, help="what the machine is known by, forever")
    parser.add_argument("--name", metavar="NAME", help="what it is called now (its id)")
    parser.add_argument(
        "--disk", metavar="KEY=PATH", action="append", default=[], help="a disk by its device key, such as scsi0:0"
    )
    parser.add_argument("--form", choices=("raw", "vmdk"), help="what the disks are; else their content tells")
    parser.add_argument(
        "--allow",
        metavar="FOLDER",
        action="append",
        default=[],
        help="a folder, besides its own, that the extents and parents of a VMDK may lie in",
    )
    parser.add_argument("--file", metavar="PATH", action="append", default=[], help="a small file beside the disks")
    parser.add_argument(
        "--parent",
        metavar="POINT",
        default="auto",
        help="what to compare with: a restore point, auto (the latest), none",
    )
    parser.add_argument(
        "--changes",
        metavar="KEY=PATH",
        action="append",
        default=[],
        help="JSON map of all that may differ from --parent, as the vSphere API tells it; the rest is not read",
    )
    parser.add_argument(
        "--rehash", action="store_true", help="name every chunk by its hash; trust no check of the parent's"
    )
    parser.add_argument("--threads", type=threads, default=0, metavar="N", help="0: one for each processor")


def _backup(session: Session) -> int:
    args = session.args
    disks = session.assignments(args.disk, "--disk")
    changes = session.assignments(args.changes, "--changes")
    if not args.machine:
        raise session.usage("--machine is what the machine is known by: it cannot be empty")
    if not disks and not args.file:
        raise session.usage("there is nothing to back up: give --disk or --file")
    if changes and args.parent in ("auto", "none"):
        raise session.usage("--changes says what differs from one restore point: name it with --parent")
    if set(changes) - set(disks):
        raise session.usage(f"--changes of disks that are not there: {', '.join(sorted(set(changes) - set(disks)))}")
    files = _files(session, args.file)
    with session.open() as store, ExitStack() as stack:
        parent = _parent(session, store)
        inputs = []
        for key, path in disks.items():
            source = open_disk(path, args.form, args.allow)
            stack.callback(source.close)
            changed = load_changes(changes[key], source.size) if key in changes else None
            inputs.append(backup.DiskInput(key, source, changed))
        total = sum(length for one in inputs for _at, length in one.source.allocated()) if not changes else None
        begun = session.console.clock.monotonic()
        with session.console.progress("backup", args.name or args.machine, total) as tally:
            point, told = backup.run(
                store,
                args.machine,
                args.name or args.machine,
                inputs,
                files,
                parent=parent,
                trust_check=not args.rehash,
                threads=args.threads,
                tally=tally,
            )
        seconds = session.console.clock.monotonic() - begun
        document = {**describe.point(point), "told": vars(told), "seconds": round(seconds, 3)}
        session.console.result(document, _backup_lines(point, told, seconds))
    return OK


def _backup_lines(point: Point, told: backup.Told, seconds: float) -> Iterator[str]:
    yield f"restore point {point.point}"
    rows = [
        ("read", text.size(told.read)),
        ("zeros", text.size(told.zero)),
        ("as in the parent", text.size(told.unchanged)),
        ("in the store already", text.size(told.known)),
        ("new", f"{text.size(told.new)}, stored as {text.size(told.stored)}"),
        ("time", format_seconds(seconds)),
    ]
    yield from text.pairs(rows)


def _parent(session: Session, store: Store) -> Point | None:
    wanted = session.args.parent
    if wanted == "none":
        return None
    if wanted != "auto":
        return find.point(store, wanted, session.args.machine)
    return find.latest_of(store, session.args.machine)


def _files(session: Session, paths: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in paths:
        name = os.path.basename(path)
        if name in found or not name:
            raise session.usage(f"--file {path!r}: its name is empty, or two have it")
        try:
            with open(path, "rb") as file:
                found[name] = file.read(_LARGEST_FILE + 1)
        except OSError as error:
            raise NotReadable(path=path, reason=error.strerror or str(error)) from error
        if len(found[name]) > _LARGEST_FILE:
            raise session.usage(f"--file {path!r} is larger than {text.size(_LARGEST_FILE)}: give it as a disk")
    return found


COMMANDS = (
    Command("create", "make a new store", _create_arguments, _create),
    Command("settings", "show or change the settings of a store", _settings_arguments, _settings),
    Command("backup", "make a restore point of disks and files", _backup_arguments, _backup),
)
