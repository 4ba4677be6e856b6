# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine whose copy is kept ready on a second host: kept up to date, guarded, started in its place, and back."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from house import House
from judge import one_moment
from playing import Run

from .conftest import wait_until

NAME, SOURCE, TARGET = "plain67", "esx67", "esx80"
STORE = "/var/stowage-replicas"
SECRET = "correct horse"


def replicate(house: House, action: str = "sync", **more: Any) -> Run:
    if action == "sync":
        more = {"backup_store_create": True, **more}
    # What is given on the command line would win over what the role gives to the role backup.
    controller = replace(house.controller, variables={"stowage_host_key_policy": "pinned"})
    more.setdefault("replicate_vms", [NAME])
    return controller.play(
        "replicate",
        replicate_source=SOURCE,
        replicate_target=TARGET,
        replicate_store=STORE,
        replicate_store_passphrase=SECRET,
        replicate_datastore="datastore1",
        replicate_action=action,
        **more,
    )


def flat(house: House, host: str) -> Path:
    (found,) = house.folder(host, NAME).glob("*-flat.vmdk")
    return found


def power(house: House, host: str, what: str) -> None:
    house.lab.run(host, "vim-cmd", f"vmsvc/power.{what}", str(house.vm(host, NAME)["vmid"]))
    wanted = "poweredOn" if what == "on" else "poweredOff"
    wait_until(lambda: house.vm(host, NAME)["power"] == wanted, wanted, 60)


def restored(house: House, run: Run) -> dict[str, Any]:
    (entry,) = (vm for vm in house.record(run)["vms"] if vm["kind"] == "restore")
    return dict(entry)


@pytest.mark.soak
def test_a_copy_is_kept_up_to_date_guarded_takes_over_and_goes_back(house: House) -> None:
    entry = restored(house, replicate(house).must_end_with(0))
    assert (entry["status"], entry["host"], house.vm(TARGET, NAME)["power"]) == ("ok", TARGET, "poweredOff")
    try:
        vmx = house.lab.outside(house.vm(TARGET, NAME)["vmx"]).read_text()
        assert f"REPLICA of {NAME} of {SOURCE}, as of 20" in vmx and "do not start or change it" in vmx
        first = one_moment([flat(house, TARGET)])["sequence"]
        whole = entry["disks"][0]["bytes_sent"]
        wait_until(lambda: house.vm(SOURCE, NAME)["guest"], "the guest", 30)
        time.sleep(3)
        # The second run: what the guest has written meanwhile, and nothing else.
        run = replicate(house).must_end_with(0)
        entry = restored(house, run)
        assert entry["status"] == "ok" and 0 < entry["disks"][0]["bytes_sent"] < whole
        assert entry["disks"][0]["bytes_read"] > 0 and entry["safety_point"] is None
        second = one_moment([flat(house, TARGET)])["sequence"]
        assert second > first
        time.sleep(3)
        # One that cannot be backed up is told, and keeps no other one from it.
        run = replicate(house, replicate_vms=["nobody", NAME]).must_end_with(2)
        assert "nobody" in run.text and one_moment([flat(house, TARGET)])["sequence"] > second
        guarded(house)
        # Once more: of both machines there are restore points now, under one UUID.
        for _time in range(2):
            over_and_back(house)
            assert replicate(house).must_end_with(0).changed > 0
        assert house.differences(SOURCE, TARGET) == []
    finally:
        if house.vm(TARGET, NAME)["power"] != "poweredOff":
            power(house, TARGET, "off")
        house.lab.run(TARGET, "vim-cmd", "vmsvc/destroy", str(house.vm(TARGET, NAME)["vmid"]))
        if house.vm(SOURCE, NAME)["power"] != "poweredOn":
            power(house, SOURCE, "on")


def guarded(house: House) -> None:
    """Somebody starts the copy: it is refused, also when it is off again, until it is asked for."""
    power(house, TARGET, "on")
    power(house, TARGET, "off")
    touched = flat(house, TARGET).stat().st_mtime_ns
    run = replicate(house, replicate_backup=False).must_end_with(2)
    assert "it was started" in run.text and "replicate_touched=resync" in run.text
    assert flat(house, TARGET).stat().st_mtime_ns == touched
    run = replicate(house, replicate_backup=False, replicate_touched="resync").must_end_with(0)
    assert restored(house, run)["status"] == "ok"
    # It is as it was left now, so that there is nothing to do.
    assert replicate(house, replicate_backup=False).must_end_with(0).changed == 0


def over_and_back(house: House) -> None:
    replicate(house, "failover", replicate_fence=True).must_end_with(0)
    assert [house.vm(host, NAME)["power"] for host in (SOURCE, TARGET)] == ["poweredOff", "poweredOn"]
    assert house.vm(TARGET, NAME)["guest"]["consistent_at_boot"] is True
    run = replicate(house, replicate_backup=False).must_end_with(2)
    assert "it has taken over" in run.text and "failback" in run.text
    time.sleep(3)
    run = replicate(house, "failback").must_end_with(0)
    assert [house.vm(host, NAME)["power"] for host in (SOURCE, TARGET)] == ["poweredOn", "poweredOff"]
    assert house.vm(SOURCE, NAME)["guest"]["consistent_at_boot"] is True
    entry = restored(house, run)
    assert (entry["host"], entry["status"]) == (SOURCE, "ok") and entry["safety_point"]
    vmx = house.lab.outside(house.vm(SOURCE, NAME)["vmx"]).read_text()
    assert "REPLICA of" not in vmx and "stowage.replica" not in vmx
    # What the copy did is in the machine, and more.
    power(house, SOURCE, "off")
    done = one_moment([flat(house, TARGET)])["sequence"]
    assert one_moment([flat(house, SOURCE)])["sequence"] >= done
    power(house, SOURCE, "on")
