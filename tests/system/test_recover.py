# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller that dies: what stays behind ends by itself or is undone, and nothing that is not ours is touched."""

from __future__ import annotations

import time

import pytest
from house import House, until

LEASE = 75  # longer than the 60 seconds after which a mover ends by itself


def killed_while_cloning(house: House, how: str, name: str) -> None:
    """A run whose controller gets SIGKILL while the first clone runs; returns when the clone has ended by itself."""
    house.lab.fault("esx70", "slow_clone", rate=64 << 10)
    options = ("--limit", "esx70")
    playing = house.controller.start(
        f"backup_{how}", *options, backup_select=[f"name:{name}"], backup_lease_seconds=LEASE
    )
    try:
        until(lambda: house.clones("esx70"), "a clone runs", 120, playing)
        time.sleep(1)
    finally:
        playing.kill()
    assert house.clones("esx70")
    until(lambda: not house.clones("esx70"), "the clone ends by itself", 120)
    house.lab.fault("esx70", "clear")


def recovered(house: House) -> str:
    """Recover until the lease has run out; the output of the run that did it."""

    def once() -> str:
        run = house.controller.play("recover", "--limit", "esx70").must_end_with(0)
        return run.text if ": recovered" in run.text else ""

    text: str = until(once, "recover undoes the job", LEASE + 120)
    return text


@pytest.mark.soak
@pytest.mark.parametrize("how", ["hot", "cold"])
def test_after_a_kill_in_mid_clone_recover_leaves_everything_as_it_was(house: House, how: str) -> None:
    known = len(house.points("multi"))
    killed_while_cloning(house, how, "multi")
    assert house.differences("esx70") != []
    recovered(house)
    assert house.differences("esx70") == []
    assert len(house.points("multi")) == known
    again = house.controller.play("recover", "--limit", "esx70").must_end_with(0)
    assert again.changed == 0


@pytest.mark.soak
def test_a_machine_that_someone_started_meanwhile_is_left_running(house: House) -> None:
    killed_while_cloning(house, "cold", "multi")
    vm = house.vm("esx70", "multi")
    assert vm["power"] == "poweredOff"
    house.lab.run("esx70", "vim-cmd", "vmsvc/power.on", str(vm["vmid"]))
    boot = (house.folder("esx70", "multi") / "vmware.log").read_text(encoding="utf-8").splitlines()[0]
    recovered(house)
    assert house.vm("esx70", "multi")["power"] == "poweredOn"
    assert (house.folder("esx70", "multi") / "vmware.log").read_text(encoding="utf-8").splitlines()[0] == boot
    assert house.differences("esx70") == []


@pytest.mark.soak
def test_a_run_that_is_alive_is_left_alone(house: House) -> None:
    house.lab.fault("esx70", "slow_clone", rate=64 << 10)
    playing = house.controller.start("backup_hot", "--limit", "esx70", backup_select=["name:multi"])
    try:
        until(lambda: house.clones("esx70"), "a clone runs", 120, playing)
        house.controller.play("recover", "--limit", "esx70").must_end_with(0)
        assert house.clones("esx70")
        second = house.controller.play("backup_hot", "--limit", "esx70", backup_select=["name:multi"]).must_end_with(2)
        assert second.stats["stowage_run"]["failed_machines"][0]["error"]["id"] == "vm-locked"
        house.lab.fault("esx70", "clear")
        playing.wait().must_end_with(0)
    finally:
        playing.kill()
    assert house.differences("esx70") == []


@pytest.mark.soak
def test_the_next_backup_recovers_first_and_then_succeeds(house: House) -> None:
    killed_while_cloning(house, "hot", "multi")
    time.sleep(LEASE)
    run = house.controller.play("backup_hot", "--limit", "esx70", backup_select=["name:multi"]).must_end_with(0)
    assert run.stats["stowage_run"]["ok"] == 1
    assert house.differences("esx70") == []
