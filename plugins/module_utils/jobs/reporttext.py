# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report in words: plain text for a terminal and for a mail."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.report import Alarm, Line, Report, level_words

_HEAD = ("host", "VM", "last good point", "age", "how", "stored", "new", "took", "proven")
# A name is data: what would move a cursor or begin a line of its own is shown as a mark.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def shown(text: object) -> str:
    return _CONTROL.sub("\ufffd", str(text))


def subject(report: Report) -> str:
    """One line that says whether anybody has to get up."""
    count = len([line for line in report.lines if line.state not in ("ignored", "gone")])
    if report.green:
        return f"Backups: all {count} VMs have a fresh, proven restore point"
    return f"Backups: {len(report.alarms)} alarm(s), {count} VMs on {len(report.hosts)} hosts"


def text(report: Report) -> str:
    lines = [f"{subject(report)} ({report.at})", ""]
    if report.alarms:
        lines += ["ALARMS", *(f"  {_alarm(alarm)}" for alarm in report.alarms), ""]
    rows = [_HEAD, *(_row(line) for line in report.lines if line.state != "gone")]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    lines += _section(
        "FAILED ATTEMPTS SINCE THE LAST GOOD POINT", [_failed(line) for line in report.lines if line.failures]
    )
    lines += _section("SNAPSHOTS OF OURS, AND WHAT IS LEFT", [one for line in report.lines for one in _left(line)])
    silent = [f"{shown(host)}: {shown(reason)}" for host, reason in report.silent.items()]
    lines += _section("HOSTS THAT DID NOT ANSWER", silent)
    gone = [f"{shown(line.host)}  {shown(line.vm)}: {_last(line)}" for line in report.lines if line.state == "gone"]
    lines += _section("ON NO HOST ANY MORE", gone)
    lines += ["", "What proven means:"]
    levels = sorted({line.proof["level"] for line in report.lines if line.proof})
    lines += [f"  {level}: {level_words(level)}" for level in levels]
    lines.append("  copy: each copy was read back before it became a restore point, as backup_verify says")
    return "\n".join(lines) + "\n"


def _alarm(alarm: Alarm) -> str:
    where = "  ".join(shown(word) for word in (alarm.host, alarm.vm) if word)
    return f"{where}: {shown(alarm.text)}" if where else shown(alarm.text)


def _row(line: Line) -> tuple[str, ...]:
    last = line.last or {}
    state = {"ignored": " (needs none)"}.get(line.state, "")
    return (
        shown(line.host),
        shown(line.vm) + state,
        str(last.get("at") or "-"),
        f"{line.age_hours:g} h" if line.age_hours is not None else "-",
        str(last.get("effective_how") or "-"),
        _bytes(last.get("bytes")),
        _bytes(last.get("bytes_new")),
        f"{last['seconds']:.0f} s" if last.get("seconds") is not None else "-",
        _proof(line),
    )


def _proof(line: Line) -> str:
    if line.proof:
        return f"{line.proof['at'][:10]} {line.proof['level']}"
    return "copy" if (line.last or {}).get("proven") else "-"


def _bytes(count: object) -> str:
    return format_bytes(count) if isinstance(count, int) else "-"


def _last(line: Line) -> str:
    return f"last good point {line.last['at']} {shown(line.last['restore_point'])}" if line.last else "no restore point"


def _failed(line: Line) -> str:
    return f"{shown(line.host)}  {shown(line.vm)}: {line.failures}, the last with: {shown(line.last_error)}"


def _left(line: Line) -> list[str]:
    where = f"{shown(line.host)}  {shown(line.vm)}"
    found = [f"{where}: {shown(text)}" for text in line.left]
    if line.reference:
        kept = line.reference
        limits = kept.get("limits") or {}
        found.insert(
            0,
            f"{where}: snapshot {shown(kept.get('snapshot'))} is the reference of the next backup, since "
            f"{shown(kept.get('created_at'))}, for {limits.get('max_age_hours')} h at most",
        )
    return found


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []
