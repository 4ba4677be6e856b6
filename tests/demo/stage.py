# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage that the demo plays on: a lab, playbook runs whose output is shown as it comes, and the closing table."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

from judge import Lab, Wrong  # noqa: E402  it lies in the folder above

BOLD, GREEN, RED, PLAIN = ("\033[1m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("",) * 4


@dataclass
class Row:
    """One line of the closing table."""

    what: str
    seconds: float
    found: str
    good: bool


@dataclass
class Run:
    """One playbook run that has ended."""

    rc: int
    text: str
    stats: dict[str, Any]

    def must_end_with(self, rc: int) -> Run:
        if self.rc != rc:
            raise Wrong(f"the playbook ended with {self.rc}, not with {rc}")
        return self


@dataclass
class Playing:
    """A playbook run that is under way."""

    process: subprocess.Popen[str]
    reader: threading.Thread
    lines: list[str]

    def wait(self) -> Run:
        rc = self.process.wait()
        self.reader.join(timeout=10)
        text = "".join(self.lines)
        return Run(rc, text, _custom_stats(text))

    def kill(self) -> None:
        """As a power cut takes the controller: no process of it gets to say goodbye."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(timeout=10)


def _custom_stats(text: str) -> dict[str, Any]:
    """What the run published with set_stats, as ansible-playbook prints it at the end."""
    for line in reversed(text.splitlines()):
        if line.strip().startswith("RUN: {"):
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(line.strip()[len("RUN: ") :])
                return found
    return {}


@dataclass
class Stage:
    """The lab, the controller's environment, and what was proven so far."""

    lab: Lab
    work: Path
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
            said.append(f"{type(error).__name__}: {error}" if not isinstance(error, Wrong) else str(error))
            good = False
        seconds = time.monotonic() - started
        self.rows.append(Row(what, seconds, "; ".join(said), good))
        colour = GREEN if good else RED
        print(f"{colour}{'proven' if good else 'WRONG'}{PLAIN} ({seconds:.1f} s): {'; '.join(said)}", flush=True)

    def environment(self) -> dict[str, str]:
        collections = self.work / "collections" / "ansible_collections" / "stowage"
        collections.mkdir(parents=True, exist_ok=True)
        link = collections / "esxi"
        if not link.is_symlink():
            link.symlink_to(ROOT, target_is_directory=True)
        return {
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(self.work / "collections"),
            "ANSIBLE_LOCAL_TEMP": str(self.work / "ansible"),
            "ANSIBLE_SHOW_CUSTOM_STATS": "true",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
            "ANSIBLE_FORCE_COLOR": "true" if sys.stdout.isatty() else "false",
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, playbook: str, *options: str, variables: Mapping[str, Any] | None = None) -> Playing:
        """A playbook of the collection, its output shown as it comes."""
        argv = ["ansible-playbook", "-i", str(self.lab.folder / "inventory.yml"), f"stowage.esxi.{playbook}", *options]
        argv += ["-e", json.dumps({**VARIABLES, **(variables or {})})]
        print(f"$ {shlex.join(argv)}", flush=True)
        process = subprocess.Popen(
            argv,
            env=self.environment(),
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        lines: list[str] = []

        def show() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if line.strip():
                    print(f"  | {line}", end="", flush=True)

        reader = threading.Thread(target=show, daemon=True)
        reader.start()
        return Playing(process, reader, lines)

    def play(self, playbook: str, *options: str, variables: Mapping[str, Any] | None = None) -> Run:
        playing = self.start(playbook, *options, variables=variables)
        try:
            return playing.wait()
        except BaseException:
            playing.kill()
            raise

    def closing_table(self) -> None:
        width = max(len(row.what) for row in self.rows)
        print(f"\n{BOLD}{'WHAT':{width}}  SECONDS  RESULT{PLAIN}")
        for row in self.rows:
            colour = GREEN if row.good else RED
            verdict = f"{colour}{'proven' if row.good else 'WRONG '}{PLAIN}"
            print(f"{row.what:{width}}  {row.seconds:7.1f}  {verdict}  {row.found}")
        print(f"{'All of it':{width}}  {sum(row.seconds for row in self.rows):7.1f}")


# What every run of the demo says to the playbooks. Names that only one of the two hosts has are no fault here.
VARIABLES: dict[str, Any] = {
    "stowage_host_key_policy": "pinned",
    "backup_point": "/vmfs/volumes/backup",
    "restore_point": "/vmfs/volumes/backup",
    "backup_unknown_names": "ignore",
    "backup_allow_none": True,
}
