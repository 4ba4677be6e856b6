# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole story on every release that the collection claims to drive, 6.0 and 9.0 included."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import instore
import pytest
from addresses import free_base_address
from esxilab import topologies
from house import VARIABLES, House
from judge import Lab, prove_disks, same_content
from playing import Controller, Run

HOSTS = ("esx60", "esx67", "esx70", "esx80", "esx90")
# The oldest and the newest, which differ most from what the other tests use.
ENDS = "esx60,esx90"


@pytest.fixture(scope="module")
def releases() -> Iterator[House]:
    """One host of each release."""
    work = Path(tempfile.mkdtemp(prefix="stowage-releases-"))
    (work / "topology.json").write_text(json.dumps(topologies.releases()), encoding="utf-8")
    lab = Lab(work / "lab", "releases")
    lab.verb("up", "--topology", str(work / "topology.json"), "--base-address", free_base_address())
    try:
        house = House(lab, Controller(lab, work, VARIABLES), HOSTS)
        house.remember()
        yield house
    finally:
        lab.verb("down")
        shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="module")
def hot(releases: House) -> Run:
    return releases.controller.play("backup_hot", "--forks", "5", backup_select=["running"])


def name_of(host: str, state: str) -> str:
    return f"{state}{host[3]}.{host[4]}"


def test_one_hot_run_over_all_releases_is_green_and_leaves_every_host_as_it_was(releases: House, hot: Run) -> None:
    summary = hot.must_end_with(0).stats["stowage_run"]
    assert (summary["green"], summary["ok"]) == (True, len(HOSTS))
    assert releases.differences() == []


@pytest.mark.parametrize("host", HOSTS)
def test_a_hot_restore_point_of_each_release_holds_one_moment(
    releases: House, hot: Run, host: str, tmp_path: Path
) -> None:
    assert "one moment" in prove_disks(releases.points(name_of(host, "on"))[-1].disks, tmp_path)


@pytest.mark.soak
def test_cold_on_the_oldest_and_the_newest_release_copies_a_guest_that_shut_down(
    releases: House, tmp_path: Path
) -> None:
    releases.controller.play(
        "backup_cold", "--limit", ENDS, backup_select=["name:on6.0", "name:off9.0"], backup_unknown_names="ignore"
    ).must_end_with(0)
    assert "clean shutdown" in prove_disks(releases.points("on6.0")[-1].disks, tmp_path)
    assert same_content(releases.points("off9.0")[-1].disks[0], releases.folder("esx90", "off9.0") / "off9.0.vmdk")
    assert releases.differences(*ENDS.split(",")) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("esx60", "esx90"),
        pytest.param("esx60", "esx60", marks=pytest.mark.soak),
        pytest.param("esx90", "esx90", marks=pytest.mark.soak),
    ],
)
def test_a_restored_machine_runs_on_the_same_release_and_on_a_newer_one(
    releases: House, hot: Run, source: str, target: str
) -> None:
    name = f"{name_of(source, 'on')} on {target}"
    given = {
        "restore_host": target,
        "restore_vm": name_of(source, "on"),
        "restore_datastore": "datastore1",
        "restore_name": name,
        "restore_uuid": "new",
        "restore_mac": "new",
        "restore_power_on": True,
    }
    releases.controller.play("restore", **given).must_end_with(0)
    vm = releases.vm(target, name)
    assert (vm["power"], vm["guest"]["consistent_at_boot"]) == ("poweredOn", True)
    releases.lab.run(target, "vim-cmd", "vmsvc/power.off", str(vm["vmid"]))
    releases.lab.run(target, "vim-cmd", "vmsvc/destroy", str(vm["vmid"]))
    assert releases.differences(target) == []


@pytest.mark.soak
def test_a_machine_of_a_newer_release_is_refused_by_an_older_host(releases: House, hot: Run) -> None:
    given: dict[str, Any] = {"restore_vm": name_of("esx90", "on"), "restore_datastore": "datastore1"}
    more = {"restore_host": "esx60", "restore_name": "too new", "restore_uuid": "new", "restore_mac": "new"}
    run = releases.controller.play("restore", **given, **more)
    assert run.rc == 2
    assert "its virtual hardware 14 is newer than esx60 can run (11)" in run.text, run.text
    assert not (releases.datastore("esx60", "datastore1") / "too new").exists()


STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("esxi_snapshot", {"vm": "{{ on }}", "name": "mine", "state": "present"}),
    ("esxi_snapshot", {"vm": "{{ on }}", "name": "mine", "state": "absent"}),
    ("esxi_vm_power", {"vm": "{{ off }}", "state": "powered-on"}),
    ("esxi_vm_power", {"vm": "{{ off }}", "state": "powered-off"}),
)


def test_snapshots_and_power_are_driven_and_idempotent(releases: House, tmp_path: Path) -> None:
    tasks: list[dict[str, Any]] = []
    for module, options in STEPS:
        call = {f"stowage.esxi.{module}": options, "delegate_to": "bk1"}
        tasks += [{"name": "Act", **call, "register": "first"}, {"name": "Again", **call, "register": "second"}]
        tasks.append({"ansible.builtin.assert": {"that": ["first is changed", "second is not changed"]}})
    release = "{{ inventory_hostname[3] }}.{{ inventory_hostname[4] }}"
    play = {
        "hosts": ENDS,
        "gather_facts": False,
        "tasks": tasks,
        "vars": {"on": f"on{release}", "off": f"off{release}"},
    }
    book = tmp_path / "steps.yml"
    book.write_text(json.dumps([play]), encoding="utf-8")
    releases.controller.play(str(book)).must_end_with(0)
    for host in ENDS.split(","):
        on, off = releases.vm(host, name_of(host, "on")), releases.vm(host, name_of(host, "off"))
        assert (on["power"], on["snapshots"], off["power"]) == ("poweredOn", [], "poweredOff")
        assert releases.lab.left_behind(host) == []
    # A machine that has run once has an nvram, which stays.
    releases.remember()


@pytest.mark.soak
@pytest.mark.parametrize("how", ["hot", "warm", "cold"])
def test_every_release_goes_into_a_store_twice_and_comes_back(releases: House, how: str, tmp_path: Path) -> None:
    entries: list[list[dict[str, Any]]] = []
    for number in range(2):
        assert number == 0 or instore.change(releases) == len(HOSTS)
        run = releases.controller.play(f"backup_{how}", "--forks", "5", backup_select=["all"], **instore.into(how))
        assert run.must_end_with(0).stats["stowage_run"]["ok"] == 2 * len(HOSTS)
        assert releases.differences() == []
        entries.append(releases.record(run)["vms"])
    first, second = ({one["vm"]: one["bytes_sent"] for one in some} for some in entries)
    assert all(second[name] < first[name] for name in first), (first, second)
    ran = frozenset(name_of(host, "on") for host in HOSTS)
    for host in HOSTS:
        mine = [one for one in entries[1] if one["host"] == host]
        methods = {disk["method"] for one in mine for disk in one["disks"]}
        assert methods == ({"shell"} if host == "esx60" else {"agent"})
        # A host without a Python 3 can be read, and not written to.
        target = "esx67" if host == "esx60" else host
        rows = instore.come_back(releases, target, how, mine, ran, tmp_path)
        print(f"{host} {how}, back on {target}:\n" + "\n".join(rows), flush=True)
        assert releases.differences(target) == []
