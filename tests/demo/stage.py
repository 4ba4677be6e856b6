# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage that the demo plays on: its scenes, and the closing table of what they proved."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from judge import Wrong  # noqa: E402  it lies in the folder above

BOLD, GREEN, RED, PLAIN = ("\033[1m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("",) * 4


@dataclass
class Row:
    """One line of the closing table."""

    what: str
    seconds: float
    found: str
    good: bool


@dataclass
class Stage:
    """What was proven so far."""

    rows: list[Row] = field(default_factory=list)

    @contextlib.contextmanager
    def scene(self, what: str) -> Iterator[Callable[[str], None]]:
        """One step with its line in the closing table; a failure is noted and the story goes on."""
        print(f"\n{BOLD}=== {what}{PLAIN}", flush=True)
        started = time.monotonic()
        said: list[str] = []
        try:
            yield said.append
            good = True
        except (Wrong, OSError, subprocess.SubprocessError, LookupError, ValueError) as error:
            said.append(str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}")
            good = False
        seconds = time.monotonic() - started
        self.rows.append(Row(what, seconds, "; ".join(said), good))
        colour = GREEN if good else RED
        print(f"{colour}{'proven' if good else 'WRONG'}{PLAIN} ({seconds:.1f} s): {'; '.join(said)}", flush=True)

    def closing_table(self) -> None:
        if not self.rows:
            return
        width = max(len(row.what) for row in self.rows)
        print(f"\n{BOLD}{'WHAT':{width}}  SECONDS  RESULT{PLAIN}")
        for row in self.rows:
            colour = GREEN if row.good else RED
            verdict = f"{colour}{'proven' if row.good else 'WRONG '}{PLAIN}"
            print(
                f"{row.what:{width}}  {row.seconds:7.1f}  {verdict}  {row.found.splitlines()[0] if row.found else ''}"
            )
        print(f"{'All of it':{width}}  {sum(row.seconds for row in self.rows):7.1f}")
