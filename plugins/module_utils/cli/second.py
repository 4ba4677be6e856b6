# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""copy, repair: with a second store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import DAMAGE, OK
from ansible_collections.stowage.esxi.plugins.module_utils.cli.keeping import gc_lines, observe_argument
from ansible_collections.stowage.esxi.plugins.module_utils.cli.pruning import machine_argument
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session, threads
from ansible_collections.stowage.esxi.plugins.module_utils.store import chores, copy, find, repair


def _other_arguments(parser: Any) -> None:
    group = parser.add_argument_group("options of the second store")
    group.add_argument("--other-passphrase-file", metavar="PATH", help="its passphrase or recovery key")
    group.add_argument("--other-passphrase-fd", type=int, metavar="N", help="its passphrase or recovery key")
    group.add_argument("--other-endpoint", metavar="URL", help="of its object storage")
    group.add_argument("--other-region", metavar="NAME", help="of its object storage")


# -- copy ----------------------------------------------------------------------------------------------------------


def _copy_arguments(parser: Any) -> None:
    parser.add_argument(
        "target", metavar="TARGET", help="the store to copy to; it must be there, with the same chunk size"
    )
    machine_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be copied, and change nothing")
    parser.add_argument("--threads", type=threads, default=0, metavar="N", help="0: one for each processor")
    _other_arguments(parser)


def _copy(session: Session) -> int:
    args = session.args
    with session.open() as store, session.open_other(args.target) as target:
        machines = args.machine or None
        with session.console.progress("copy", "") as tally:
            report = copy.run(store, target, machines=machines, threads=args.threads, check=args.dry_run, tally=tally)
        document = {"store": store.name, "target": target.name, "dry_run": args.dry_run, **chores.copied(report)}
        session.console.result(document, _copy_lines(report, args.dry_run))
    return DAMAGE if report.failed or report.unreadable else OK


def _copy_lines(report: copy.Report, dry_run: bool) -> Iterator[str]:
    rows = [
        [old.point, text.machine(old.machine_name, old.machine_id), new.point if new is not None else ""]
        for old, new in report.copied
    ]
    if rows:
        yield from text.table(["POINT", "MACHINE", "COPY"], rows)
    done = "would be copied" if dry_run else f"copied, {text.size(report.told.stored)} stored"
    copied = f"{text.count(len(report.copied), 'restore point')} {done}" if report.copied else "nothing to copy"
    yield f"{copied}; {len(report.there)} there already"
    for point, reason in report.failed:
        yield f"NOT COPIED: {point.machine_name!r} {point.point}: {text.printable(reason)}"
    for reason in report.unreadable:
        yield f"NOT COPIED: {text.printable(reason)}"


# -- repair --------------------------------------------------------------------------------------------------------


def _repair_arguments(parser: Any) -> None:
    parser.add_argument(
        "--from", dest="other", metavar="STORE", help="a second store that has copies: bring back what is lost"
    )
    parser.add_argument("--deep", action="store_true", help="prove every record by its hash, not by its checksum alone")
    parser.add_argument(
        "--remove-lost", action="store_true", help="remove restore points that cannot be restored whole; held ones stay"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what is damaged, and change nothing")
    parser.add_argument("--threads", type=threads, default=0, metavar="N", help="0: one for each processor")
    observe_argument(parser)
    _other_arguments(parser)


def _repair(session: Session) -> int:
    args = session.args
    with session.open() as store, ExitStack() as stack:
        other = stack.enter_context(session.open_other(args.other)) if args.other else None
        with session.console.progress("repair", "deep" if args.deep else "") as tally:
            report = repair.run(
                store,
                other=other,
                remove=args.remove_lost,
                check=args.dry_run,
                deep=args.deep,
                threads=args.threads,
                observe_seconds=args.observe_seconds,
                tally=tally,
            )
        document = {"store": store.name, "dry_run": args.dry_run, **chores.repaired(report)}
        session.console.result(document, _repair_lines(report, args.dry_run))
    found = report.bad_records or report.damaged_packs or report.mended
    return DAMAGE if report.lost or (args.dry_run and found) else OK


def _repair_lines(report: repair.Report, dry_run: bool) -> Iterator[str]:
    yield f"{text.count(report.records, 'record')} in {text.count(report.packs, 'pack')}, {report.bad_records} damaged"
    yield from text.told("DAMAGED", [f"packs/{name[:2]}/{name}.pack" for name in report.damaged_packs])
    done = "would be removed" if dry_run else "removed"
    yield from text.told("DAMAGED", [f"{name} {done}" for name in report.mended])
    if report.replaced:
        yield f"the index was made anew, in place of {text.count(len(report.replaced), 'file')}"
    if report.healed:
        done = "would be brought back" if dry_run else "brought back"
        yield f"{text.count(report.healed, 'record')} {done} from the second store"
    yield from text.told("LOST", [f"{name}: {find.few(words, 20)}" for name, words in sorted(report.lost.items())])
    for name in report.removed:
        yield f"removed {name}"
    yield from text.told("PROBLEM", report.problems)
    if report.collected is not None:
        yield from gc_lines(report.collected, dry_run)
    then = " then" if dry_run and report.healed else ""
    whole = f"every restore point can be restored{then}"
    yield whole if not report.lost else f"NOT EVERYTHING CAN BE RESTORED{then.upper()}"


COMMANDS = (
    Command("copy", "copy restore points to a second store", _copy_arguments, _copy),
    Command(
        "repair", "make the index anew, leave out what is damaged, heal from a second store", _repair_arguments, _repair
    ),
)
