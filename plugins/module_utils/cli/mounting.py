# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mount: a restore point as a folder of read-only files."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.cli import fuse, text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import OK
from ansible_collections.stowage.esxi.plugins.module_utils.cli.looking import point_arguments
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session
from ansible_collections.stowage.esxi.plugins.module_utils.store import find, folder
from ansible_collections.stowage.esxi.plugins.module_utils.store.image import Reader


def _arguments(parser: Any) -> None:
    point_arguments(parser)
    parser.add_argument("folder", metavar="FOLDER", help="an empty folder; the command ends when it is unmounted")
    parser.add_argument("--cache-mib", type=int, default=64, metavar="MIB", help="room for decoded chunks (64)")
    parser.add_argument("--allow-other", action="store_true", help="other users of this machine may read it, too")


def _run(session: Session) -> int:
    args = session.args
    if args.cache_mib < 0:
        raise session.usage("--cache-mib is not below 0")
    with session.open() as store:
        point = find.point(store, args.point, args.machine)
        reader = Reader(store, args.cache_mib << 20)
        shown = folder.Folder(reader, point)
        path = os.path.abspath(args.folder)
        unmount = fuse.way_out(path)
        document = {"point": point.point, "folder": path, "files": sorted(shown.names()), "unmount": unmount}
        lines = [f"mounted {point.point} at {text.printable(path)}", *map(text.printable, document["files"])]
        lines.append(f"to unmount it: {text.printable(unmount)}, or interrupt this command")
        fuse.serve(shown, path, args.allow_other, lambda: session.console.result(document, lines))
        session.console.note(f"unmounted {text.printable(path)}")
        reader.close()
    return OK


COMMANDS = (Command("mount", "show a restore point as read-only files", _arguments, _run),)
