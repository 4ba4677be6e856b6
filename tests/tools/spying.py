# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets looked for where they must not be: on command lines and in environments while something runs, in files after.

As a program it looks at every process of this machine, those inside the lab's machines too, until its input ends. The
secrets come as JSON on its first line of input, never as an argument.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

PAUSE = 0.01
# A process that has just begun may become another program.
YOUNG_SECONDS = 1.0
OFTEN_SECONDS = 1.0
LARGEST_FILE = 4 << 20


def needles(secrets: Mapping[str, str]) -> dict[bytes, str]:
    """What is looked for, and what it betrays: each secret as it is, as JSON would write it, and in base64."""
    found: dict[bytes, str] = {}
    for name, secret in secrets.items():
        raw = secret.encode()
        forms = [raw, json.dumps(secret)[1:-1].encode(), base64.b64encode(raw).rstrip(b"=")]
        # Of a longer text in base64 the middle stands on other bits; three shifts cover them.
        forms += [base64.b64encode(b"\0" * shift + raw)[4:-4] for shift in (1, 2)]
        found.update({form: name for form in forms if len(form) >= 8})
    return found


def key_lines(text: str) -> dict[str, str]:
    """The lines of a private key that say something: each of them is a secret."""
    lines = [line for line in text.splitlines() if len(line) > 40 and not line.startswith("-----")]
    # The beginning names only how it is written.
    return {f"private key line {number}": line for number, line in enumerate(lines[2:], start=3)}


@dataclass(frozen=True)
class Hit:
    secret: str
    where: str


def in_bytes(data: bytes, wanted: Mapping[bytes, str], where: str) -> Iterator[Hit]:
    for form, name in wanted.items():
        if form in data:
            yield Hit(name, where)


def in_files(places: Iterable[Path], secrets: Mapping[str, str]) -> tuple[list[Hit], int]:
    """Hits in all files below these places that are no disks, and how many files were read."""
    wanted, hits, count = needles(secrets), [], 0
    for place in places:
        for folder, _names, files in os.walk(place):
            for file in files:
                path = Path(folder, file)
                try:
                    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_FILE:
                        continue
                    data = path.read_bytes()
                except OSError:
                    continue
                count += 1
                hits += [*in_bytes(data, wanted, str(path)), *in_bytes(os.fsencode(path), wanted, f"the name {path}")]
    return hits, count


@dataclass
class Watch:
    """Looks at all processes as long as the block lasts."""

    secrets: Mapping[str, str]
    hits: list[Hit] = field(default_factory=list)
    seen: int = 0  # processes
    looks: int = 0

    def __enter__(self) -> Watch:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(dict(self.secrets)) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        said, _nothing = self._process.communicate()
        found: dict[str, Any] = json.loads(said)
        self.hits = [Hit(**hit) for hit in found["hits"]]
        self.seen, self.looks = found["seen"], found["looks"]


def _watch() -> None:
    wanted = needles(json.loads(sys.stdin.readline()))
    os.set_blocking(sys.stdin.fileno(), False)
    print("watching", flush=True)
    first: dict[str, float] = {}
    last = 0.0
    hits: dict[Hit, None] = {}
    looks = 0
    me = str(os.getpid())
    while not _ended():
        now = time.monotonic()
        names = [name for name in os.listdir("/proc") if name.isdigit() and name != me]
        every = now - last > OFTEN_SECONDS
        last = now if every else last
        for name in names:
            born = first.setdefault(name, now)
            if every or now - born < YOUNG_SECONDS:
                for hit in _of_process(name, wanted):
                    hits[hit] = None
        looks += 1
        time.sleep(PAUSE)
    print(json.dumps({"hits": [vars(hit) for hit in hits], "seen": len(first), "looks": looks}))


def _ended() -> bool:
    try:
        return os.read(sys.stdin.fileno(), 1) == b""
    except BlockingIOError:
        return False


def _of_process(pid: str, wanted: Mapping[bytes, str]) -> Iterator[Hit]:
    for kind in ("cmdline", "environ"):
        try:
            with open(f"/proc/{pid}/{kind}", "rb") as file:
                data = file.read()
        except OSError:
            continue
        for form, name in wanted.items():
            if form in data:
                program = (
                    data.split(b"\0")[0][:80].decode("utf-8", "replace") if kind == "cmdline" else "an environment"
                )
                yield Hit(name, f"{kind} of {program}")


if __name__ == "__main__":
    _watch()
