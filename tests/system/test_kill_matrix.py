# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller dies at an exact step of a backup, by the real playbooks; recover leaves everything as it was.

A step is held in the lab: the hypervisor's own command stops before or after its effect, the controller gets SIGKILL
with all that belongs to it, and then the command goes on, as it would.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kill_matrix
import matrix_driver
import pytest
from addresses import free_base_address
from house import House, until
from judge import prove_disks

LEASE = 10
VMS = {"esx67": "plain67", "esx70": "multi", "esx80": "plain80"}


@dataclass(frozen=True)
class Cell:
    """One step to die at: `op` is a vim-cmd command, or `clone N`."""

    how: str
    op: str
    when: str

    @property
    def hold(self) -> dict[str, Any]:
        if self.op.startswith("clone"):
            return {"tool": "vmkfstools", "op": "-i", "nth": self.op.split()[1], "when": self.when, "percent": 10}
        return {"op": self.op, "when": self.when}


def both(how: str, *ops: str) -> list[Cell]:
    return [Cell(how, op, when) for op in ops for when in ("before", "after")]


ALL = [
    *both("hot", "snapshot.create", "clone 1", "snapshot.remove"),
    Cell("hot", "clone 1", "during"),
    *both("warm", "power.shutdown", "snapshot.create", "power.on", "snapshot.remove"),
    Cell("warm", "clone 1", "during"),
    *both("cold", "power.shutdown", "clone 1", "power.on"),
    Cell("cold", "clone 1", "during"),
]
SAMPLE = [
    Cell("cold", "power.shutdown", "after"),
    Cell("hot", "clone 2", "during"),
    Cell("warm", "snapshot.create", "after"),
]


def die(house: House, host: str, cell: Cell) -> list[str]:
    """One run whose controller dies at the step; what was left at once."""
    vm = VMS[host]
    house.lab.fault(host, "hold", vm=vm, **cell.hold)
    variables = {"backup_select": [f"name:{vm}"], "backup_lease_seconds": LEASE, "backup_shutdown_timeout": 30}
    # A controller of its own, so that only its connections die with it.
    controller = replace(house.controller, work=house.controller.work / host)
    controller.work.mkdir(exist_ok=True)
    playing = controller.start(f"backup_{cell.how}", "--limit", host, **variables)
    try:
        until(lambda: "'holding': True" in str(house.lab.host(host)["faults"]), f"{cell} is reached", 240, playing)
    finally:
        playing.kill()
    house.lab.fault(host, "clear")
    return house.differences(host)


def recovered(house: House) -> None:
    """The recover playbook, as often as its schedule would run it while a job is still to be waited for."""

    def once() -> bool:
        run = house.controller.play("recover").must_end_with(0)
        return not re.search(r": (live|waiting); ", run.text)

    time.sleep(LEASE + 1)
    until(once, "recover undoes every job", 240)


def judged(house: House, cells: dict[str, Cell], tmp_path: Path) -> list[tuple[Cell, list[str], list[str]]]:
    """One dead controller on each host, all at a time, and one recovery: the rows of the table."""
    known = {point.folder for point in house.points()}
    with ThreadPoolExecutor(len(cells)) as executor:
        jobs = {host: executor.submit(die, house, host, cell) for host, cell in cells.items()}
        at_once = {host: job.result() for host, job in jobs.items()}
    recovered(house)
    rows = []
    for host, cell in cells.items():
        fresh = [p for p in house.points(VMS[host]) if p.folder not in known]
        for point in fresh:
            assert "one moment" in prove_disks(point.disks, tmp_path / host)
        early = cell.op in ("power.shutdown", "snapshot.create") or cell.op.startswith("clone")
        after = house.differences(host) + [f"restore point {p.folder}" for p in fresh if early]
        rows.append((cell, at_once[host], after))
        print(f"| {cell.how} | {cell.op} | {cell.when} | {len(at_once[host])} | {'; '.join(after) or 'nothing'} |")
    return rows


def test_a_controller_that_dies_at_a_step_of_hot_warm_and_cold_leaves_nothing_after_recover(
    house: House, tmp_path: Path
) -> None:
    rows = judged(house, dict(zip(VMS, SAMPLE)), tmp_path)
    assert all(at_once for _cell, at_once, _after in rows)
    assert [after for _cell, _at_once, after in rows] == [[], [], []]


@pytest.mark.soak
@pytest.mark.parametrize("number", range(0, len(ALL), len(VMS)))
def test_whole_playbooks_that_die_at_each_step_leave_nothing_after_recover(
    house: House, tmp_path: Path, number: int
) -> None:
    rows = judged(house, dict(zip(VMS, ALL[number : number + len(VMS)])), tmp_path)
    assert all(at_once for _cell, at_once, _after in rows)
    assert not [row for row in rows if row[2]]


def built(work: Path, shape: dict[str, int]) -> Iterator[kill_matrix.Matrix]:
    lab = kill_matrix.Matrix(work, free_base_address(), shape)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kill_matrix.Matrix]:
    yield from built(tmp_path_factory.mktemp("killing"), kill_matrix.SHARED)


@pytest.fixture(scope="module")
def own_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kill_matrix.Matrix]:
    yield from built(tmp_path_factory.mktemp("striking"), kill_matrix.OWN)


@pytest.fixture
def three_hosts(tmp_path: Path) -> Iterator[kill_matrix.Matrix]:
    yield from built(tmp_path, {"c": 1})


@pytest.mark.soak
@pytest.mark.parametrize("how", kill_matrix.HOWS)
def test_a_job_that_dies_at_any_remote_command_leaves_nothing_after_recover(
    matrix: kill_matrix.Matrix, how: str
) -> None:
    rows = kill_matrix.whole(matrix, [how])
    assert len(rows) > 40
    assert not [row for row in rows if row.after]


@pytest.mark.soak
@pytest.mark.parametrize("how", kill_matrix.HOWS)
@pytest.mark.parametrize("strike", kill_matrix.STRIKES[1:])
def test_a_job_that_is_struck_at_any_remote_command_is_told_and_leaves_nothing_after_recover(
    own_hosts: kill_matrix.Matrix, how: str, strike: str
) -> None:
    rows = kill_matrix.whole(own_hosts, [how], strike)
    print(kill_matrix.words(rows))
    assert len(rows) > 20
    assert not [row for row in rows if row.after]


@pytest.mark.soak
def test_a_cut_and_a_reboot_in_mid_job_are_told_and_leave_nothing_after_recover(
    three_hosts: kill_matrix.Matrix,
) -> None:
    three_hosts.reboot_without_us()
    cells = [
        kill_matrix.Cell("warm", "snapshot: note snapshot-intent", 1, "sent", "reboot"),
        kill_matrix.Cell("hot", "copy: watchdog.launch", 1, "sent", "reset"),
        kill_matrix.Cell("cold", "committed: point.commit", 1, "sent", "reset"),
    ]
    rows = kill_matrix.wave(three_hosts, cells)
    print(kill_matrix.table(rows))
    assert [row.was_on for row in rows] == [False, True, False]
    assert not [row for row in rows if row.after]


def test_the_steps_of_the_matrix_are_those_that_change_something() -> None:
    steps = ["started: cat job.json", "started: journal.acquire", "copy: watchdog.poll", "copy: watchdog.poll"]
    cells = kill_matrix.cells_of("hot", steps)
    assert [(cell.step, cell.which, cell.moment) for cell in cells] == [
        ("started: journal.acquire", 1, "before"),
        ("started: journal.acquire", 1, "sent"),
        ("copy: watchdog.poll", 1, "before"),
        ("copy: watchdog.poll", 1, "sent"),
        ("copy: watchdog.poll", 2, "before"),
        ("copy: watchdog.poll", 2, "sent"),
    ]


def test_a_step_of_the_matrix_has_the_same_name_for_every_vm() -> None:
    def named(vm: str, *words: str) -> str:
        return matrix_driver.without_name(matrix_driver.label(words, None), vm)

    for words in (
        ("chmod", "0755", "/vmfs/volumes/datastore1/{}-back/{}-back.vmx"),
        ("vmkfstools", "-e", "/vmfs/volumes/datastore1/{}-back/{}-back_1.vmdk"),
    ):
        assert len({named(vm, *(word.replace("{}", vm) for word in words)) for vm in ("k67v0", "k80v3")}) == 1
    folders = {"k67v0": "k67v0-f6dd5e00b835", "k80v3": "k80v3-0123456789ab"}
    assert {named(vm, "test", "-d", f"/vmfs/volumes/backup/{folder}") for vm, folder in folders.items()} == {
        "test -d it"
    }
    assert not kill_matrix.changes("started: test -d it")
