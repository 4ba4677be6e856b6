# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gc."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import DAMAGE, OK
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session, seconds
from ansible_collections.stowage.esxi.plugins.module_utils.store import chores, collect


def _gc_arguments(parser: Any) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and change nothing")
    observe_argument(parser)


def _observed(word: str) -> float:
    """For argparse."""
    return collect.patience(seconds(word))


def observe_argument(parser: Any) -> None:
    parser.add_argument(
        "--observe-seconds",
        type=_observed,
        default=collect.OBSERVE_SECONDS,
        metavar="S",
        help=f"how long a writer without a sign of life is waited for ({collect.OBSERVE_SECONDS:.0f}); at least "
        f"{collect.LEAST_SECONDS:.0f}, for one that lives shows it every few seconds",
    )


def _gc(session: Session) -> int:
    args = session.args
    with session.open() as store:
        with session.console.progress("gc", "") as tally:
            report = collect.run(store, observe_seconds=args.observe_seconds, check=args.dry_run, tally=tally)
        document = {"store": store.name, "dry_run": args.dry_run, **chores.collected(report)}
        session.console.result(document, gc_lines(report, args.dry_run))
    return DAMAGE if report.problems else OK


def gc_lines(report: collect.Report, dry_run: bool) -> Iterator[str]:
    going = report.announced if dry_run else report.removed
    size, would = text.size(report.freed_bytes), "would be " if dry_run else ""
    yield f"{text.count(len(going), 'pack')} {would}removed, {size} {would}freed" if going else "no pack to remove"
    if report.announced and not dry_run:
        yield f"{text.count(len(report.announced), 'pack')} announced, to go when the writers at work have ended"
    if report.rescued:
        yield f"{text.count(len(report.rescued), 'pack')} needed again, kept"
    if report.repacked:
        anew = "would be written anew" if dry_run else f"written anew, as {text.size(report.written_bytes)}"
        yield f"{text.count(len(report.repacked), 'pack')} needed in part {anew}"
    if report.merged:
        yield f"{text.count(len(report.merged), 'index file')} {'would be merged' if dry_run else 'merged'}"
    if report.stopped:
        yield f"not through: {text.printable(report.stopped)}"
    yield from text.told("PROBLEM", report.problems)
    for writer in report.given_up:
        yield f"writer {writer} showed no life and was given up"
    for writer in report.waiting_for:
        yield f"writer {writer} is at work"


COMMANDS = (Command("gc", "remove what no restore point needs", _gc_arguments, _gc),)
