# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""prune, hold, release, holds: which restore points stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import RULES
from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import DAMAGE, OK
from ansible_collections.stowage.esxi.plugins.module_utils.cli.keeping import gc_lines, observe_argument
from ansible_collections.stowage.esxi.plugins.module_utils.cli.looking import point_arguments
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session, size
from ansible_collections.stowage.esxi.plugins.module_utils.store import chores, find, holds, prune

# -- prune ---------------------------------------------------------------------------------------------------------


def _prune_arguments(parser: Any) -> None:
    for name in RULES:
        words = "restore points not older than so many days" if name == "within_days" else f"so many {name} ones"
        parser.add_argument(f"--keep-{name.replace('_', '-')}", type=number, metavar="N", help=f"keep {words}")
    parser.add_argument("--keep-min", type=number, default=1, metavar="N", help="never fewer of a machine (1)")
    parser.add_argument(
        "--min-verified", type=number, default=1, metavar="N", help="never fewer that verify has found good (1)"
    )
    parser.add_argument("--room", type=size, metavar="SIZE", help="the oldest go, too, until the store takes no more")
    machine_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would go and why, and change nothing")
    observe_argument(parser)


def machine_argument(parser: Any) -> None:
    parser.add_argument(
        "--machine", metavar="ID-OR-NAME", action="append", default=[], help="only restore points of this machine"
    )


def number(word: str) -> int:
    """For argparse."""
    found = int(word)
    if found < 0:
        raise ValueError(word)
    return found


def _prune(session: Session) -> int:
    args = session.args
    given = {name: getattr(args, f"keep_{name}") for name in RULES}
    given = {name: number for name, number in given.items() if number is not None}
    if not given and args.room is None:
        raise session.usage("no rule was given: say with --keep-... which restore points stay, or with --room")
    keep = prune.keep_of(given, args.keep_min)
    with session.open() as store:
        report = prune.run(
            store,
            keep,
            machines=args.machine or None,
            min_verified=args.min_verified,
            room=args.room,
            check=args.dry_run,
            observe_seconds=args.observe_seconds,
        )
        document = {"store": store.name, "dry_run": args.dry_run, **chores.pruned(report)}
        session.console.result(document, _prune_lines(session, report))
    return DAMAGE if report.collected is not None and report.collected.problems else OK


def _prune_lines(session: Session, report: prune.Report) -> Iterator[str]:
    now = session.console.clock.now()
    rows = [
        [
            one.point.point,
            text.machine(one.point.machine_name, one.point.machine_id),
            text.moment(one.point.created_at, now),
            "keep" if one.keep else "REMOVE",
            ", ".join(one.reasons),
        ]
        for one in report.decisions
    ]
    yield from text.table(["POINT", "MACHINE", "MADE", "", "WHY"], rows)
    done = "would be removed" if session.args.dry_run else "removed"
    count = text.count(len(report.removed), "restore point")
    yield f"{count} {done}" if report.removed else "no restore point to remove"
    for name in report.held:
        yield f"{name} was held meanwhile, and stays"
    if report.over_bytes:
        yield f"the store still takes {text.size(report.over_bytes)} too much: nothing more may go"
    if report.collected is not None:
        yield from gc_lines(report.collected, session.args.dry_run)


# -- holds ---------------------------------------------------------------------------------------------------------


def _hold_arguments(parser: Any) -> None:
    point_arguments(parser)
    parser.add_argument("--as", dest="hold", metavar="NAME", required=True, help="name of the hold")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why it stays, for whoever wants to remove it")


def _hold(session: Session) -> int:
    args = session.args
    with session.open() as store:
        point = find.point(store, args.point, args.machine)
        changed = holds.hold(store, point, args.hold, args.reason)
        said = "is held" if changed else "was held already"
        document = {"changed": changed, "point": point.point, "hold": args.hold}
        session.console.result(document, [f"{point.point} {said} as {text.printable(args.hold)}"])
    return OK


def _release_arguments(parser: Any) -> None:
    point_arguments(parser)
    parser.add_argument("--as", dest="hold", metavar="NAME", required=True, help="name of the hold")


def _release(session: Session) -> int:
    args = session.args
    with session.open() as store:
        point = find.point(store, args.point, args.machine)
        holds.release(store, point, args.hold)
        left = [one.name for one in holds.listed(store, point)]
        words = f"still held as {', '.join(left)}" if left else "not held any more"
        session.console.result({"point": point.point, "holds": left}, [f"{point.point} is {text.printable(words)}"])
    return OK


def _holds(session: Session) -> int:
    with session.open() as store:
        there = holds.listed(store)
        now = session.console.clock.now()
        names = {point.machine_id: point.machine_name for point in find.all_points(store)[0]}
        rows = [
            [
                one.point,
                text.machine(names.get(one.machine_id, one.machine_id), one.machine_id),
                one.name,
                text.moment(one.created_at, now),
                one.reason,
            ]
            for one in there
        ]
        document = {
            "store": store.name,
            "holds": [{one.name: getattr(hold, one.name) for one in fields(hold)} for hold in there],
        }
        session.console.result(document, text.table(["POINT", "MACHINE", "HOLD", "MADE", "REASON"], rows))
    return OK


COMMANDS = (
    Command(
        "prune", "remove the restore points that no rule keeps, then what only they needed", _prune_arguments, _prune
    ),
    Command("hold", "let no prune remove a restore point", _hold_arguments, _hold),
    Command("release", "take a hold away", _release_arguments, _release),
    Command("holds", "list the holds", lambda parser: None, _holds),
)
