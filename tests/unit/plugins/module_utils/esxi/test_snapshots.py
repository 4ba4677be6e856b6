# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost
from fakeclock import FakeClock

TASK = "'vim.Task:haTask-1-vim.VirtualMachine.createSnapshot-7'"
RUNNING = """(vim.TaskInfo) {
   state = "running",
}
"""


class CutHost:
    """The answer to the command is lost; then the host tells of a task for so many seconds."""

    name = "esx1"

    def __init__(self, task_seconds: float) -> None:
        self.clock = FakeClock()
        self.asked: list[str] = []
        self._until = self.clock.monotonic() + task_seconds

    def vim_patient(self, *argv: str, patience_seconds: int, again: Any = None, guard: str = "") -> Reply | None:
        self.asked.append(argv[0])
        raise ConnectionLost(host="esx1", port=22, command=argv[0], reason="Connection reset by peer")

    def ask(self, commands: Any) -> list[Reply]:
        runs = self.clock.monotonic() < self._until
        texts = {"vmsvc/get.tasklist": TASK if runs else "", "vimsvc/task_info": RUNNING}
        return [Reply(tuple(argv), 0, texts[argv[1]], "") for argv in commands]


@pytest.mark.parametrize("task_seconds", [0, 200])
def test_a_snapshot_whose_answer_was_lost_is_waited_for_as_long_as_a_task_makes_it(
    monkeypatch: pytest.MonkeyPatch, task_seconds: float
) -> None:
    listing = snapshots.merge("Get Snapshot:\n", "", "/vmfs/volumes/ds/web/web.vmsd")
    monkeypatch.setattr(snapshots, "read", lambda vm: listing)
    host = CutHost(task_seconds)
    vm = VirtualMachine(host, 1, "web", "/vmfs/volumes/ds/web/web.vmx")  # type: ignore[arg-type]
    with pytest.raises(errors.SnapshotLate) as caught:
        snapshots.create(vm, "ours", "", False, True, Waiter(600, clock=host.clock))
    waited = caught.value.data["seconds"]
    # The task was last seen up to five seconds before its end, and nobody looks more often than that.
    assert -5 <= waited - task_seconds - snapshots.UNHEARD_SECONDS <= 5
    assert "Connection reset by peer" in caught.value.hint_text
    assert host.asked == ["vmsvc/snapshot.create"]
