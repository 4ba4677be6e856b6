# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every injected fault of the management daemon does what its entry in the table says, and ends when it is cleared."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from esxilab import faults as machine_faults
from esxilab.hostd import faults
from esxilab.hostd.events import MachineEvents

from .benches import Bench, disk, running

README = Path(__file__).resolve().parents[2] / "lab" / "README.md"
# The fixtures of the bench.
Make = Callable[..., Bench]


class Behind:
    """A call that goes on in a thread of its own."""

    def __init__(self, lab: Bench, *words: str) -> None:
        self.answer: dict[str, Any] = {}
        self._thread = threading.Thread(target=lambda: self.answer.update(lab.run("vim-cmd", *words)), daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> dict[str, Any]:
        self._thread.join(20)
        assert self.ended
        return self.answer


def holding(lab: Bench) -> bool:
    return any(fault["holding"] for fault in lab.host.faults.listing())


def test_the_readme_lists_every_fault_and_no_other() -> None:
    table = README.read_text(encoding="utf-8").partition("\n## Faults\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` ", table, re.M))
    assert listed == {*faults.KNOWN, *machine_faults.NETWORK, *machine_faults.MACHINE}


def test_hold_stops_the_nth_call_before_its_effect_until_it_is_cleared(bench: Make) -> None:
    lab = bench([running()])
    lab.host.fault("hold", op="power.off", vm="web", nth=2)
    lab.vim("vmsvc/power.off", "1")
    lab.vim("vmsvc/power.on", "1")
    call = Behind(lab, "vmsvc/power.off", "1")
    lab.wait(lambda: holding(lab), "the hold")
    assert (lab.state(), call.ended) == ("Powered on", False)
    lab.host.fault("clear", name="hold")
    assert call.wait()["rc"] == 0
    assert lab.state() == "Powered off"


def test_hold_after_keeps_the_answer_back_when_the_work_is_done(bench: Make) -> None:
    lab = bench([running()])
    lab.host.fault("hold", op="snapshot.create", when="after")
    call = Behind(lab, "vmsvc/snapshot.create", "1", "one")
    lab.wait(lambda: holding(lab), "the hold")
    assert "one" in lab.vim("vmsvc/snapshot.get", "1")
    assert not call.ended
    lab.host.fault("clear")
    assert call.wait()["rc"] == 0


def test_hold_is_only_for_the_machine_and_the_tool_it_names(bench: Make) -> None:
    lab = bench([running(), {"name": "other", "power": "off", "disks": [disk("scsi0:0")]}])
    lab.host.fault("hold", op="power.off", vm="other")
    lab.host.fault("hold", tool="vmkfstools", op="-i")
    lab.vim("vmsvc/power.off", "1")
    assert lab.state() == "Powered off"


def test_slow_task_makes_an_operation_last_longer(bench: Make) -> None:
    lab = bench([running()])
    lab.host.fault("slow_task", op="powerOff", seconds=1.5)
    begun = time.monotonic()
    call = Behind(lab, "vmsvc/power.off", "1")
    lab.wait(lambda: lab.host.vm("1").busy, "the task")
    assert lab.state() == "Powered on"
    assert call.wait()["rc"] == 0
    assert time.monotonic() - begun >= 1.5
    assert lab.state() == "Powered off"


@pytest.mark.parametrize(
    ("op", "call", "said", "same"),
    [
        ("power.off", ("vmsvc/power.off", "1"), "Powering off VM:\n", "Powered on"),
        ("power.shutdown", ("vmsvc/power.shutdown", "1"), "", "Powered on"),
        ("power.on", ("vmsvc/power.on", "2"), "Powering on VM:\n", "Powered off"),
        ("snapshot.create", ("vmsvc/snapshot.create", "1", "x"), "Create Snapshot:\n", "Get Snapshot:\n"),
        ("snapshot.remove", ("vmsvc/snapshot.remove", "3", "1"), "Remove Snapshot:\n", "kept"),
        ("snapshot.removeall", ("vmsvc/snapshot.removeall", "3"), "Remove All Snapshots:\n", "kept"),
        ("unregister", ("vmsvc/unregister", "2"), "", "Powered off"),
    ],
)
def test_lying_says_that_it_succeeded_and_changes_nothing(
    bench: Make, op: str, call: tuple[str, ...], said: str, same: str
) -> None:
    snapped = {"name": "snapped", "power": "off", "disks": [disk("scsi0:0")], "snapshots": [{"name": "kept"}]}
    lab = bench([running(), {"name": "off", "power": "off", "disks": [disk("scsi0:0")]}, snapped])
    lab.host.fault("lying", op=op)
    answer = lab.run("vim-cmd", *call)
    assert (answer["rc"], answer["stdout"]) == (0, said)
    look = "vmsvc/snapshot.get" if "snapshot" in op else "vmsvc/power.getstate"
    assert same in lab.vim(look, call[1])
    lab.host.fault("clear")
    lab.vim(*call)
    if op != "unregister":
        lab.wait(lambda: lab.run("vim-cmd", look, call[1])["stdout"].strip() != same or op == "x", "the effect")


def test_lying_registervm_names_an_id_that_nothing_has(bench: Make) -> None:
    lab = bench([{"name": "off", "power": "off", "disks": [disk("scsi0:0")]}])
    path = lab.host.vm("1").vmx_path
    lab.vim("vmsvc/unregister", "1")
    lab.host.fault("lying", op="registervm", times=1)
    assert lab.vim("solo/registervm", path) == "2\n"
    assert "off" not in lab.vim("vmsvc/getallvms")
    assert lab.vim("solo/registervm", path) == "2\n"
    assert "off" in lab.vim("vmsvc/getallvms")


@pytest.mark.parametrize("op", ["getallvms", "get.summary", "snapshot.get"])
def test_half_output_cuts_an_answer_that_still_says_it_succeeded(bench: Make, op: str) -> None:
    lab = bench([running()])
    call = (f"vmsvc/{op}", *(() if op == "getallvms" else ("1",)))
    whole = lab.vim(*call)
    lab.host.fault("half_output", op=op, times=1)
    half = lab.vim(*call)
    assert whole.startswith(half) and 0 < len(half) < len(whole)
    assert len(lab.vim(*call)) == len(whole)


def test_a_killed_call_whose_work_goes_on_in_hostd(bench: Make) -> None:
    lab = bench([running()], snapshot_seconds=1)
    lab.host.fault("vimcmd_killed", op="snapshot.create", times=1, goes_on=True)
    assert lab.run("vim-cmd", "vmsvc/snapshot.create", "1", "late") == {"signal": 9, "rc": 137}
    assert "late" not in lab.vim("vmsvc/snapshot.get", "1")
    lab.wait(lambda: "late" in lab.vim("vmsvc/snapshot.get", "1"), "the snapshot")


def test_a_restart_of_hostd_loses_the_answer_and_the_task_and_not_the_work(bench: Make) -> None:
    lab = bench([running()], snapshot_seconds=1)
    lab.host.fault("hostd_restart", op="snapshot.create", seconds=3, after=0.2)
    call = Behind(lab, "vmsvc/snapshot.create", "1", "late")
    answer = call.wait()
    assert (answer["rc"], answer["stderr"]) == (1, "Failed to login: Connection reset by peer\n")
    assert lab.run("vim-cmd", "vmsvc/getallvms")["rc"] == 1
    lab.wait(lambda: lab.run("vim-cmd", "vmsvc/getallvms")["rc"] == 0, "hostd")
    assert "createSnapshot" not in lab.vim("vmsvc/get.tasklist", "1")
    lab.wait(lambda: "late" in lab.vim("vmsvc/snapshot.get", "1"), "the snapshot")
    assert lab.host.vm("1").busy is None


def test_a_reboot_in_the_middle_of_a_call_is_asked_for_once(bench: Make) -> None:
    lab = bench([running()])
    asked: list[bool] = []

    class Events(MachineEvents):
        def power(self, again: bool, seconds: float) -> None:
            asked.append(again)

    lab.host.machine_events = Events()
    lab.host.fault("reboot", op="power.off", vm="web", after=0)
    lab.vim("vmsvc/power.getstate", "1")
    assert asked == []
    lab.vim("vmsvc/power.off", "1")
    lab.wait(lambda: asked, "the reboot")
    lab.run("vim-cmd", "vmsvc/power.off", "1")
    assert asked == [True]


def test_a_vmid_that_changes_leaves_the_machine_running_under_another(bench: Make) -> None:
    lab = bench([running()])
    lab.host.fault("vmid_changes", vm="web")
    assert lab.run("vim-cmd", "vmsvc/power.getstate", "1")["rc"] == 1
    assert lab.state("2") == "Powered on"
    lab.written("2")
    lab.vim("vmsvc/snapshot.create", "2", "still works")
    lab.vim("vmsvc/power.off", "2")
    assert lab.locks.state(str(lab.folder("2") / "web-flat.vmdk")) is None


def test_a_datastore_that_fills_does_so_bit_by_bit_and_has_its_room_back_afterwards(bench: Make) -> None:
    lab = bench([])
    store = lab.host.volumes.by_name("old")
    assert store is not None

    def free() -> int:
        stat = os.statvfs(store.path)
        return stat.f_bavail * stat.f_frsize

    before = free()
    lab.host.fault("datastore_fills", datastore="old", bytes_per_second="100M", leave="10M")
    assert free() > before // 2
    lab.wait(lambda: free() <= 10 << 20, "the datastore full")
    time.sleep(0.3)
    assert free() > 9 << 20
    lab.host.fault("clear")
    lab.wait(lambda: free() == before, "the room")
