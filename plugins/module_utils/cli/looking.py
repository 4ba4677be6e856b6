# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""list, show, stats: nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import DAMAGE, OK
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session
from ansible_collections.stowage.esxi.plugins.module_utils.store import bounds, describe, find, stats
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point


def point_arguments(parser: Any) -> None:
    parser.add_argument(
        "point", metavar="POINT", help="id of a restore point, its beginning where that is enough, or: latest"
    )
    parser.add_argument(
        "--machine", metavar="ID-OR-NAME", help="the machine it is of; for latest, where there are several"
    )


def _list_arguments(parser: Any) -> None:
    parser.add_argument("--machine", metavar="ID-OR-NAME", help="only restore points of this machine")


def _list(session: Session) -> int:
    with session.open() as store:
        found, problems = find.all_points(store, session.args.machine)
        shown = describe.all_points(store, found, problems)
        document = bounds.bounded({"store": store.name, "points": shown, "problems": problems}, "problems")
        session.console.result(document, _list_lines(session, found, shown, problems))
    return DAMAGE if problems else OK


def _list_lines(
    session: Session, found: list[Point], shown: list[dict[str, Any]], problems: list[str]
) -> Iterator[str]:
    now = session.console.clock.now()
    rows = [
        [
            one.point,
            text.machine(one.machine_name, one.machine_id),
            text.moment(one.created_at, now),
            str(len(one.disks)),
            text.size(sum(disk.size for disk in one.disks)),
            ", ".join(_notes(told)),
        ]
        for one, told in zip(found, shown)
    ]
    yield from text.table(["POINT", "MACHINE", "MADE", "DISKS", "SIZE", ""], rows, right=(3, 4))
    yield text.count(len(found), "restore point")
    yield from text.told("PROBLEM", problems)


def _notes(told: dict[str, Any]) -> Iterator[str]:
    if told["holds"]:
        yield "held"
    if told["verified"] is not None:
        proven = "proven" if told["verified"]["deep"] else "verified"
        yield proven if told["verified"]["good"] else "DAMAGED"


def _show(session: Session) -> int:
    with session.open() as store:
        point = find.point(store, session.args.point, session.args.machine)
        session.console.result({"store": store.name, **describe.point(point)}, _show_lines(session, point))
    return OK


def _show_lines(session: Session, point: Point) -> Iterator[str]:
    rows = [
        ("restore point", point.point),
        ("machine", text.machine(point.machine_name, point.machine_id)),
        ("made", text.moment(point.created_at, session.console.clock.now())),
        ("parent", point.parent or "none"),
    ]
    yield from text.pairs(rows)
    disks = [[disk.key, text.size(disk.size), f"{disk.size} bytes"] for disk in point.disks]
    files = [[file.name, text.size(file.size), f"{file.size} bytes"] for file in point.files]
    yield ""
    yield from text.table(["DISK", "SIZE", ""], disks, right=(1, 2))
    if files:
        yield ""
        yield from text.table(["FILE", "SIZE", ""], files, right=(1, 2))


def _stats(session: Session) -> int:
    with session.open() as store:
        found = stats.gather(store)
        document = {"store": describe.store(store), "stats": bounds.bounded(found.as_dict(), "problems")}
        session.console.result(document, _stats_lines(found))
    return DAMAGE if found.problems else OK


def _stats_lines(found: stats.Stats) -> Iterator[str]:
    rows = [
        ("machines", str(found.machines)),
        ("restore points", str(found.points)),
        ("disks in them", f"{found.disks}, {text.size(found.logical_bytes)}"),
        ("without zeros", text.size(found.data_bytes)),
        ("each chunk once", f"{text.size(found.unique_bytes)} in {text.count(found.chunks, 'chunk')}"),
        ("dedup ratio", _ratio(found.dedup_ratio)),
        ("compression ratio", _ratio(found.compression_ratio)),
        ("stored", f"{text.size(found.stored_bytes)} in {text.count(found.packs, 'pack')}"),
        ("index", text.size(found.index_bytes)),
        ("dead", text.size(found.dead_bytes)),
        ("writers at work", str(found.writers)),
    ]
    yield from text.pairs(rows)
    yield from text.told("PROBLEM", found.problems)


def _ratio(value: float | None) -> str:
    return f"{value:.2f} : 1" if value is not None else "none yet"


COMMANDS = (
    Command("list", "list the restore points", _list_arguments, _list),
    Command("show", "show the disks and files of a restore point", point_arguments, _show),
    Command("stats", "count what the store holds and what that costs", lambda parser: None, _stats),
)
