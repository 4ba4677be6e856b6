# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is installed on the hypervisor and nothing is left: all of its files and processes, before and after."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import ending, restoring
from ansible_collections.stowage.esxi.plugins.module_utils.programs import dedup, reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.ladder import Ladder
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import probe
from judge import one_moment

from . import hoststate, stories, test_dedup
from .conftest import Lab, LabHost
from .stories import HOST
from .test_dedup import StoreStory, bring_back, points_in, raw, restore_context

before, host, impatient = stories.before, stories.host, stories.impatient
stores, story = test_dedup.stores, test_dedup.story


@pytest.fixture
def machine(clean_lab: Lab) -> LabHost:
    return clean_lab.host(HOST)


def force(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """As on a host that lets its disks be read in no other way."""
    if way == "shell":
        monkeypatch.setattr(reach, "probe", lambda session, _method: probe(session, "shell"))
    if way == "clone":
        monkeypatch.setattr(dedup, "Ladder", partial(Ladder, way="clone"))


def test_after_a_backup_by_each_way_of_reading_and_after_a_restore_the_host_is_what_it_was(
    story: Callable[..., StoreStory], machine: LabHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = hoststate.look(machine)
    assert len(was.files) > 100 and was.processes and was.opened
    for way in ("agent", "shell", "clone"):
        with monkeypatch.context() as forced:
            force(forced, way)
            job = story("hot")
            ended = job.whole()
        (disk,) = ended.entry["disks"]
        assert (ended.entry["status"], disk["method"]) == ("ok", way)
        assert was.differences(hoststate.look(machine)) == [], way
    point = points_in(job)[-1]
    one_moment([raw(job, point, tmp_path)])

    context = restore_context(job, "untouched")
    restoring.start(context)
    copies: list[Any] = bring_back(job, context)
    told, _changed = restoring.commit(context, True)
    assert ending.end(context, "ok", None, copies).entry["status"] == "ok"
    folder = context.entry["directory"].rpartition("/")[2]
    now = hoststate.look(machine)
    # What it was, and the machine that was asked for.
    assert was.differences(now, f"/{folder}") == []
    assert any(f"/{folder}/" in path for path, _kind in now.files - was.files)
    job.host.unregister(told["vmid"])
    job.host.run("rm", "-rf", context.entry["directory"])
    assert was.differences(hoststate.look(machine)) == []


def test_what_is_left_on_a_host_is_seen(machine: LabHost) -> None:
    """Or the test above could not fail."""
    was = hoststate.look(machine)
    vmdk = next(path for path, _kind in was.files if path.endswith("plain80/plain80.vmdk"))
    script = f"touch /tmp/left; exec 7<'{vmdk}'; sleep 86399 >/dev/null 2>&1 & echo $!"
    pid = machine.run(script).stdout.split()[-1]
    try:
        words = was.differences(hoststate.look(machine))
        assert any(word.startswith("left: /tmp/left ") for word in words)
        assert any(word.startswith("process left: ") and word.endswith("sleep") for word in words)
        assert any(word.startswith("open left: ") and word.endswith("plain80.vmdk") for word in words)
    finally:
        machine.run(f"kill {pid}; rm /tmp/left")
    assert was.differences(hoststate.look(machine)) == []
