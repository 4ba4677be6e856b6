# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where results, errors and progress go: results to standard output, all else to standard error."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError, plain
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import (
    Meter,
    Progress,
    format_bytes,
    format_seconds,
)
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import OutputFailed, exit_code
from ansible_collections.stowage.esxi.plugins.module_utils.cli.text import printable
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally

_TICK_SECONDS = 0.2
_BAR = 24


class Console:
    """`as_json`: one JSON document on standard output, errors as one on standard error, and nothing else."""

    def __init__(
        self, out: TextIO, err: TextIO, as_json: bool = False, quiet: bool = False, clock: Clock | None = None
    ) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.clock = clock or SystemClock()
        self._out, self._err = out, err

    def result(self, document: Mapping[str, Any], lines: Iterable[str] = ()) -> None:
        """Once in a run. `lines` are the same for people."""
        text = [json.dumps(plain(dict(document)), sort_keys=True)] if self.as_json else list(lines)
        try:
            for line in text:
                self._write(self._out, line)
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFailed(reason=error.strerror or str(error)) from error

    def note(self, text: str) -> None:
        """For a person who looks on."""
        if not self.as_json and not self.quiet:
            self._write(self._err, text)

    def warn(self, text: str) -> None:
        """What is no failure of this run, but is to be put right."""
        if not self.as_json:
            self._write(self._err, f"stowage: warning: {printable(text)}")

    def error(self, error: StowageError) -> None:
        if self.as_json:
            document = {"error": {**error.as_dict(), "exit_code": exit_code(error)}}
            self._write(self._err, json.dumps(document, sort_keys=True))
            return
        self._write(self._err, f"stowage: {printable(error.message)}")
        if error.hint_text:
            self._write(self._err, f"         {printable(error.hint_text)}")

    def _write(self, stream: TextIO, line: str) -> None:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")

    @property
    def lively(self) -> bool:
        """Whether somebody looks at a terminal that can draw over a line."""
        return not self.as_json and not self.quiet and self._err.isatty() and os.environ.get("TERM") != "dumb"

    @contextmanager
    def progress(self, phase: str, item: str, total: int | None = None) -> Iterator[Tally]:
        """What the engine counts, drawn over one line of a terminal until the block ends; elsewhere nothing."""
        tally = Tally()
        if total is not None:
            tally.expect(total)
        if not self.lively:
            yield tally
            return
        ended = threading.Event()
        drawer = threading.Thread(target=self._draw, args=(tally, phase, item, ended), name="progress", daemon=True)
        drawer.start()
        try:
            yield tally
        finally:
            ended.set()
            drawer.join()

    def _draw(self, tally: Tally, phase: str, item: str, ended: threading.Event) -> None:
        meter = Meter(phase, printable(item), None, self.clock)
        while True:
            over = ended.wait(_TICK_SECONDS)
            meter.total_bytes = tally.total
            line = drawn(meter.at(tally.done))[: shutil.get_terminal_size().columns - 1]
            # The line that stays says where it ended.
            self._err.write(f"\r{line}\x1b[K" + ("\n" if over else ""))
            self._err.flush()
            if over:
                return


def drawn(progress: Progress) -> str:
    """`restore scsi0:0  [#####...........]  32 %  1.2 GiB of 3.7 GiB  410 MiB/s  0:06 left`."""
    parts = [f"{progress.phase} {progress.item}".strip()]
    if progress.percent is not None:
        full = progress.percent * _BAR // 100
        parts += [f"[{'#' * full}{'.' * (_BAR - full)}]", f"{progress.percent:3d} %"]
    of = f" of {format_bytes(progress.total_bytes)}" if progress.total_bytes is not None else ""
    parts.append(f"{format_bytes(progress.done_bytes)}{of}")
    if progress.rate_bytes_per_second is not None:
        parts.append(f"{format_bytes(progress.rate_bytes_per_second)}/s")
    if progress.seconds_left is not None:
        parts.append(f"{format_seconds(progress.seconds_left)} left")
    return "  ".join(parts)
