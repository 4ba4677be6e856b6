# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller: runs the collection's playbooks against a lab, as an operator would, and can be killed in mid-run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CALLBACKS = ROOT / "tests" / "tools" / "callbacks"
#: The variable that names a folder which the controllers of one test session share.
SHARED = "STOWAGE_TESTS_CONTROLLERS"
sys.path.insert(0, str(ROOT / "tests" / "tools"))

from judge import Lab, Wrong  # noqa: E402  it lies beside this file


@dataclass
class Run:
    """One playbook run that has ended."""

    rc: int
    text: str
    stats: dict[str, Any]  # what it published with set_stats

    def must_end_with(self, rc: int) -> Run:
        if self.rc != rc:
            raise Wrong(f"the playbook ended with {self.rc}, not with {rc}; its last lines:\n{self.text[-3000:]}")
        return self

    @property
    def changed(self) -> int:
        """How many tasks changed something, over all hosts."""
        return sum(int(number) for number in re.findall(r"\bchanged=(\d+)", self.text))


@dataclass
class Playing:
    """A playbook run that is under way."""

    process: subprocess.Popen[str]
    reader: threading.Thread
    lines: list[str]
    connections: str  # the folder of its ssh masters

    def wait(self, seconds: float = 1800) -> Run:
        rc = self.process.wait(timeout=seconds)
        self.reader.join(timeout=10)
        text = "".join(self.lines)
        return Run(rc, text, _custom_stats(text))

    def kill(self) -> None:
        """As a power cut takes the controller: no process of it, and no connection that it keeps, gets to say goodbye.

        Ansible's workers have sessions of their own and its ssh masters no parent: they are looked for.
        """
        mine = _descendants(self.process.pid) | _with_argument(self.connections)
        for pid in [self.process.pid, *sorted(mine)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(timeout=10)


def _descendants(root: int) -> set[int]:
    """Pids of all processes below one, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    wave = {root}
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave} - found
        found |= wave
    return found


def _with_argument(text: str) -> set[int]:
    """Pids of all processes with this text on their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
    return found


def _custom_stats(text: str) -> dict[str, Any]:
    """What ansible-playbook prints at its end of what the run published."""
    for line in reversed(text.splitlines()):
        if line.strip().startswith("RUN: {"):
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(line.strip()[len("RUN: ") :])
                return found
    return {}


@dataclass
class Controller:
    """Where playbooks are started from: a work folder, an inventory and variables that every run gets."""

    lab: Lab
    work: Path
    variables: dict[str, Any] = field(default_factory=dict)
    show: bool = False  # print what the playbooks print, as it comes

    def environment(self) -> dict[str, str]:
        namespace = self.work / "collections" / "ansible_collections" / "stowage"
        namespace.mkdir(parents=True, exist_ok=True)
        if not (namespace / "esxi").is_symlink():
            (namespace / "esxi").symlink_to(ROOT, target_is_directory=True)
        config = self.work / "ansible.cfg"
        if not config.exists():
            # Several run beside each other here, and each would otherwise look for answers a thousand times a second.
            # One after the other needs the same modules: callbacks/payloads.py.
            settings = (
                "internal_poll_interval = 0.02",
                f"callback_plugins = {CALLBACKS}",
                "callbacks_enabled = payloads",
            )
            config.write_text("\n".join(["[defaults]", *settings, ""]), encoding="utf-8")
        return {
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(config),
            "ANSIBLE_COLLECTIONS_PATH": str(self.work / "collections"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.work / "cp"),
            "ANSIBLE_LOCAL_TEMP": str(Path(os.environ.get(SHARED, self.work)) / "ansible"),
            "ANSIBLE_SHOW_CUSTOM_STATS": "true",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
            "ANSIBLE_FORCE_COLOR": "true" if self.show and sys.stdout.isatty() else "false",
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, playbook: str, *options: str, **variables: Any) -> Playing:
        """A playbook of the collection by name, or one by path, with ansible-playbook's options and extra variables."""
        given: Mapping[str, Any] = {**self.variables, **variables}
        meant = playbook if "/" in playbook else f"stowage.esxi.{playbook}"
        argv = ["ansible-playbook", "-i", str(self.lab.folder / "inventory.yml"), meant, *options]
        argv += ["-e", json.dumps(given)]
        if self.show:
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
        reader = threading.Thread(target=self._read, args=(process, lines), daemon=True)
        reader.start()
        return Playing(process, reader, lines, str(self.work / "cp"))

    def _read(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if self.show and line.strip():
                print(f"  | {line}", end="", flush=True)

    def play(self, playbook: str, *options: str, **variables: Any) -> Run:
        playing = self.start(playbook, *options, **variables)
        try:
            return playing.wait()
        except BaseException:
            playing.kill()
            raise
