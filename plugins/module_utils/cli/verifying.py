# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""verify: all of a store, or a part of it."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterator
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_seconds
from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import DAMAGE, OK
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session, threads
from ansible_collections.stowage.esxi.plugins.module_utils.store import part, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadSlice
from ansible_collections.stowage.esxi.plugins.module_utils.store.part import Chosen, Part, Slice
from ansible_collections.stowage.esxi.plugins.module_utils.store.report import Report
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def _slice(word: str) -> Slice:
    """For argparse."""
    try:
        return Slice.parse(word)
    except BadSlice as error:
        raise ArgumentTypeError(error.message) from None


def _arguments(parser: Any) -> None:
    parser.add_argument(
        "points",
        metavar="POINT",
        nargs="*",
        help="only what these restore points need: ids, their beginnings, or: latest",
    )
    parser.add_argument("--slice", type=_slice, metavar="K/N", help="only the packs of the K-th of N slices")
    parser.add_argument(
        "--newest", action="store_true", help="only what the newest restore point of each machine needs"
    )
    parser.add_argument(
        "--machine",
        metavar="ID-OR-NAME",
        action="append",
        default=[],
        help="the machine that POINT is of, or one that --newest is of",
    )
    parser.add_argument("--deep", action="store_true", help="decode every record and prove it by its hash")
    parser.add_argument("--threads", type=threads, default=0, metavar="N", help="0: one for each processor")


def _run(session: Session) -> int:
    args = session.args
    if bool(args.points) + bool(args.newest) + bool(args.slice) > 1:
        raise session.usage("--slice, --newest and restore points cannot be meant together")
    if args.machine and not (args.points or args.newest):
        raise session.usage("--machine says of which machine a restore point or --newest is; neither was given")
    if args.points and len(args.machine) > 1:
        raise session.usage("restore points are of one --machine; several are for --newest")
    with session.open() as store:
        chosen = _part(store, args)
        begun = session.console.clock.monotonic()
        with session.console.progress("verify", "deep" if args.deep else "") as tally:
            report = verify.run(store, part=chosen, deep=args.deep, threads=args.threads, tally=tally)
        seconds = session.console.clock.monotonic() - begun
        document = {
            "store": store.name,
            "deep": args.deep,
            "looked_at": part.shown(chosen),
            **report.shown(),
            "seconds": round(seconds, 3),
        }
        session.console.result(document, _lines(report, chosen, args.deep, seconds))
    return OK if report.ok else DAMAGE


def _part(store: Store, args: Any) -> Part | None:
    if args.newest:
        return part.newest(store, args.machine or None)
    if args.points:
        return part.named(store, args.points, args.machine[0] if args.machine else None)
    found: Slice | None = args.slice
    return found


def _lines(report: Report, chosen: Part | None, deep: bool, seconds: float) -> Iterator[str]:
    if isinstance(chosen, Slice):
        yield f"slice {chosen.number} of {chosen.count}; the others were not looked at"
    if isinstance(chosen, Chosen):
        for point in chosen.points:
            bad = "DAMAGED" if point.object_name in report.bad_points else "removed meanwhile"
            word = "good" if point.object_name in report.good_points else bad
            yield f"{point.point} {text.printable(point.machine_name)}: {word}"
    proven = f", {text.size(report.proven)} proven by their hash" if deep else ""
    yield (
        f"{text.count(report.records, 'record')} in {text.count(report.packs, 'pack')}, {text.size(report.stored)}"
        f" read{proven}, in {format_seconds(seconds)}"
    )
    yield from text.told("DAMAGED", [*report.problems, *report.reasons], len(report.problems) + len(report.bad))
    yield from text.told("HIT", report.hit)
    if report.unrecorded is not None:
        yield f"the store could not keep what was found: {text.printable(report.unrecorded)}"
    yield "no damage found" if report.ok else "DAMAGE FOUND; next: repair, with --from where there is a second store"


COMMANDS = (Command("verify", "look at records, index files and restore points: all, or a part", _arguments, _run),)
