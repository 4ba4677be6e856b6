# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.stowage.esxi.plugins.action import vmdk_copy
from ansible_collections.stowage.esxi.plugins.action.vmdk_copy import ActionModule, Announcer, finished
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Progress


def at(percent: int, item: str = "scsi0:0") -> Progress:
    return Progress("web01", item, percent << 20, 100 << 20, 84 << 20, 24)


def said(*steps: tuple[float, Progress]) -> list[str]:
    lines: list[str] = []
    now = [0.0]
    announcer = Announcer(lines.append, "esx1", lambda: now[0])
    for moment, progress in steps:
        now[0] = moment
        announcer(progress)
    return lines


def test_a_line_names_host_machine_disk_percent_bytes_rate_and_time_left():
    assert said((0, at(37))) == ["esx1 web01 scsi0:0  37 %  37.0 MiB of 100 MiB read  84.0 MiB/s  0:24 left"]


def test_small_steps_are_told_every_ten_seconds():
    steps = [(second, at(1 + second // 20)) for second in range(0, 61)]
    assert len(said(*steps)) == 7


def test_every_fifth_percent_is_told_but_never_two_lines_a_second():
    steps = [(tenth / 10, at(tenth * 2)) for tenth in range(0, 50)]
    lines = said(*steps)
    assert len(lines) == 5


def test_a_new_disk_is_told_at_once():
    assert len(said((0, at(50)), (0.1, at(0, "scsi0:1")))) == 2


def test_the_end_of_a_disk_is_told_once():
    assert len(said((0, at(97)), (0.2, at(100)), (20, at(100)), (40, at(100)))) == 2


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("", False),
        ('{"started": 1, "finished": 0, "ansible_job_id": "j1.2"}', False),
        ('{"started": true, "finished": false}', False),
        ('{"started": 1, "finished": 1, "msg": "could not start"}', True),
        ('{"changed": true, "disks": []}', True),
        ('{"changed": true, "disks": [{"key": "scsi0:0", "sou', True),
    ],
)
def test_the_background_job_has_ended_when_its_file_holds_a_result(text, ended):
    assert finished(text) is ended


def followed(monkeypatch: pytest.MonkeyPatch, answers: Any) -> None:
    """The loop over what the machine where the module runs answers, a minute between two questions."""
    now, told = itertools.count(0, 60), iter(answers)
    monkeypatch.setattr(vmdk_copy.time, "monotonic", lambda: float(next(now)) / 4)
    monkeypatch.setattr(vmdk_copy.time, "sleep", lambda seconds: None)
    action = ActionModule.__new__(ActionModule)
    monkeypatch.setattr(
        action, "_low_level_execute_command", lambda command: {"stdout": vmdk_copy._MARK.join(["", *next(told)])}
    )
    action._follow("/tmp/x", "/tmp/r", os.getppid(), lambda progress: None)


STARTED = '{"started": 1, "finished": 0}'


@pytest.mark.parametrize("state", ["unborn", "dead"])
def test_a_module_that_gives_no_sign_is_not_waited_for_for_ever(monkeypatch, state):
    with pytest.raises(AnsibleActionFail, match="no sign for 600 seconds|ended without a result"):
        followed(monkeypatch, itertools.repeat(("", STARTED, state), 1000))


def test_a_module_that_lives_is_waited_for_as_long_as_it_takes(monkeypatch):
    alive = itertools.repeat(("", STARTED, "alive"), 1000)
    followed(monkeypatch, itertools.chain([("", STARTED, "unborn")], alive, [("", '{"changed": true}', "alive")]))
