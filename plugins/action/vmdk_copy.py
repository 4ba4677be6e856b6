# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the copy in the background where the module runs, and says how far it is."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import shlex
import time
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Progress, format_line
from ansible_collections.stowage.esxi.plugins.plugin_utils.connection import EsxiActionBase

display = Display()

# Longer than any copy; the beat, not this, ends a copy that nobody waits for.
LIMIT_SECONDS = 7 * 86400
# The module ends a copy that it has not heard about for so long.
WINDOW_SECONDS = 60
# A loaded machine is slow to start a module. One that has given no sign after so long was killed before it could.
BIRTH_SECONDS = 600
POLL_SECONDS = (0.5, 1.0, 1.0, 2.0)
_MARK = "=stowage="

_PREPARE = 'umask 077 && d=$(mktemp -d "${TMPDIR:-/tmp}/stowage-copy.XXXXXXXXXX") && : >"$d/beat" && echo "$d"'
_POLL = """\
d={folder}; r={results}
touch -c "$d/beat"
echo {mark}; cat "$d/progress" 2>/dev/null
echo {mark}; head -c 2000 "$r" 2>/dev/null
echo {mark}; if [ ! -s "$d/progress.pid" ]; then echo unborn
elif kill -0 "$(cat "$d/progress.pid")" 2>/dev/null; then echo alive; else echo dead; fi
"""


class Announcer:
    """Decides what is worth a line: a new disk, every fifth percent, every ten seconds; never two a second."""

    STEP_PERCENT = 5
    STEP_SECONDS = 10.0

    def __init__(self, say: Callable[[str], None], host: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._host = host
        self._monotonic = monotonic
        self._at: float | None = None
        self._item: tuple[str, str] | None = None
        self._percent: int | None = None

    def __call__(self, progress: Progress) -> None:
        now = self._monotonic()
        item = (progress.phase, progress.item)
        percent = progress.percent
        new = item != self._item
        ended = percent == 100 and self._percent != 100
        if self._at is not None and not new and not ended:
            if now - self._at < 1.0:
                return
            further = percent is not None and percent - (self._percent or 0) >= self.STEP_PERCENT
            if not further and now - self._at < self.STEP_SECONDS:
                return
        if not new and percent == 100 and self._percent == 100:
            return
        self._at, self._item, self._percent = now, item, percent
        self._say(f"{self._host} {format_line(progress)}")


def finished(results: str) -> bool:
    """Whether async_wrapper's file holds a result; while the module runs it says started and not finished."""
    text = results.strip()
    if not text:
        return False
    try:
        value = json.loads(text)
    except ValueError:
        # Cut by us, since it is long: the running state is short.
        return True
    return not (isinstance(value, dict) and "started" in value and not value.get("finished"))


class ActionModule(EsxiActionBase):
    MODULE = "stowage.esxi.vmdk_copy"

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        given = self._task.args
        if self._task.check_mode or self._task.async_val or given.get("beat_file") or given.get("progress_file"):
            result: dict[str, Any] = super().run(tmp, task_vars)
            return result
        task_vars = task_vars if task_vars is not None else {}
        result = ActionBase.run(self, tmp, task_vars)
        try:
            result.update(self._watched(self.module_args(task_vars), task_vars))
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _watched(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        parent = os.getppid()
        folder = self._folder()
        try:
            started = self._start(
                {**args, "progress_file": f"{folder}/progress", "beat_file": f"{folder}/beat"}, task_vars
            )
            if "ansible_job_id" not in started:
                return started
            self._follow(folder, started["results_file"], parent, Announcer(display.display, self._name(task_vars)))
            return self._result(started, task_vars)
        finally:
            # Without its beat file the module ends the copy at once; where it has ended, this only tidies up.
            with contextlib.suppress(Exception):
                self._low_level_execute_command(f"rm -rf {shlex.quote(folder)}")

    @staticmethod
    def _name(task_vars: dict[str, Any]) -> str:
        return str(task_vars.get("inventory_hostname", ""))

    def _folder(self) -> str:
        done = self._low_level_execute_command(_PREPARE)
        lines = done.get("stdout", "").split()
        if done.get("rc") != 0 or not lines or not lines[-1].startswith("/"):
            said = (done.get("stderr", "") or done.get("stdout", "")).strip()
            raise AnsibleActionFail(f"No temporary folder can be made where the module is to run: {said}")
        return str(lines[-1])

    def _start(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        before = self._task.async_val
        # _execute_module takes the time limit of the background job from the task.
        self._task.async_val = LIMIT_SECONDS
        try:
            started: dict[str, Any] = self._execute_module(
                module_name=self.MODULE, module_args=args, task_vars=task_vars, wrap_async=True
            )
        finally:
            self._task.async_val = before
        return started

    def _follow(self, folder: str, results: str, parent: int, announce: Announcer) -> None:
        """Until there is a result. Keeps the beat; ends by itself when the play's main process is gone."""
        command = _POLL.format(folder=shlex.quote(folder), results=shlex.quote(results), mark=_MARK)
        heard = begun = time.monotonic()
        missing = turn = 0
        while True:
            if os.getppid() != parent:
                raise AnsibleActionFail("The play's main process has ended; the copy was told to end, too")
            try:
                answer = self._low_level_execute_command(command)
            except AnsibleConnectionFailure as error:
                if time.monotonic() - heard > WINDOW_SECONDS:
                    raise AnsibleActionFail(
                        f"The connection to the machine where the module runs broke for {WINDOW_SECONDS} seconds. The "
                        f"copy ends by itself and removes what it has written: {error}"
                    ) from error
                time.sleep(2)
                continue
            parts = answer.get("stdout", "").split(_MARK)
            if len(parts) == 4:
                heard = time.monotonic()
                with contextlib.suppress(ValueError, TypeError):
                    announce(Progress.from_dict(json.loads(parts[1])))
                if finished(parts[2]):
                    return
                missing = missing + 1 if parts[3].strip() == "dead" else 0
                if parts[3].strip() == "unborn" and time.monotonic() - begun > BIRTH_SECONDS:
                    raise AnsibleActionFail(
                        f"The module's process on the backup server gave no sign for {BIRTH_SECONDS} seconds: it was "
                        f"killed as it began, or cannot write to {folder}. Nothing was copied. Look there for want of "
                        "memory or room"
                    )
            if missing >= 3:
                raise AnsibleActionFail(
                    "The module's process on the backup server ended without a result (out of memory, restart, or "
                    "killed). The hypervisor ends the copy and removes what it has written by itself within "
                    f"{WINDOW_SECONDS} seconds"
                )
            if time.monotonic() - heard > WINDOW_SECONDS:
                raise AnsibleActionFail(
                    f"The machine where the module runs gave no readable answer for {WINDOW_SECONDS} seconds: "
                    f"{(answer.get('stderr') or answer.get('stdout') or '').strip()[:300]}"
                )
            time.sleep(POLL_SECONDS[min(turn, len(POLL_SECONDS) - 1)])
            turn += 1

    def _result(self, started: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        results = started["results_file"]
        arguments = {
            "jid": started["ansible_job_id"],
            "mode": "status",
            "_async_dir": posixpath.dirname(results),
        }
        result: dict[str, Any] = self._execute_module(
            module_name="ansible.legacy.async_status", module_args=arguments, task_vars=task_vars
        )
        self._low_level_execute_command(f"rm -f {shlex.quote(results)}")
        for name in ("ansible_job_id", "started", "finished", "results_file"):
            result.pop(name, None)
        return result
