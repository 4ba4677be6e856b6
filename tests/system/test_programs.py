# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each program, hot, warm and cold, to the backup server and to another one: backup, restore and proof by playbooks.

What cannot be is refused before anything is touched, with a sentence that says what to use.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from house import POINT, House
from judge import out_of_borg, out_of_store, prove_disks, same_content

HOST, VM, DISK = "esx80", "plain80", "scsi0:0"
SECRET = "correct horse"
LINK = "programs"
KEY = f"/root/.ssh/stowage-{LINK}@bk2"
PROGRAMS, WAYS, PLACES = ("vmkfstools", "rsync", "borg", "dedup"), ("hot", "warm", "cold"), ("local", "remote")
# Of these there is one in each normal run: the way that no other test of a normal run goes from end to end.
ALWAYS = {("dedup", "cold", "remote")}
USE_INSTEAD = (
    "the program vmkfstools runs on the hypervisor and writes to a datastore that it mounts. To another server use "
    "rsync (a folder on the backup server, or server:port:/path), dedup (a store there, or s3://bucket/prefix) or borg "
    "(a repository there, or ssh://user@server/path)"
)


@dataclass(frozen=True)
class Place:
    """A backup point, and how its files are looked at from outside."""

    program: str
    folder: str
    # What stands before the folder where it is on another server.
    where: str
    # The machine's root directory on this one; None for a datastore.
    root: Path | None

    @property
    def point(self) -> str:
        return f"{self.where}{self.folder}"

    def variables(self, role: str) -> dict[str, Any]:
        """What the operator says of it, to the role backup or restore."""
        said: dict[str, Any] = {f"{role}_program": self.program, f"{role}_point": self.point}
        if self.program in ("borg", "dedup"):
            said[f"{role}_store_passphrase"] = SECRET
            if role == "backup":
                said["backup_store_create"] = True
        if self.where:
            said[f"{role}_store_ssh_key"] = KEY
        return said

    def disk(self, house: House, restore_point: str, work: Path) -> Path:
        """The only disk of a restore point, by others' means."""
        below = restore_point.rpartition(self.folder)[2]
        if self.root is None:
            return house.lab.outside(restore_point) / "scsi0-0.vmdk"
        folder = self.root / self.folder.lstrip("/")
        if self.program == "rsync":
            return folder / below.lstrip("/") / "scsi0-0.vmdk"
        if self.program == "borg":
            return out_of_borg(f"{folder}{below}", "scsi0-0.raw", work, SECRET)
        return out_of_store(folder, below.lstrip(":"), DISK, work / "read.raw", SECRET)


@pytest.fixture(scope="module")
def other(whole_house: House) -> Iterator[str]:
    """`user@server:port:` of a server that the backup server reaches by a link's key, as the playbook makes it."""
    whole_house.controller.play(
        "link_fleet",
        *("--limit", "bk1,bk2"),
        stowage_backup_server="bk1",
        link_fleet_links=[{"name": LINK, "from": ["bk1"], "to": ["bk2"]}],
    ).must_end_with(0)
    server = whole_house.lab.host("bk2")
    yield f"root@{server['address']}:{server['port']}:"


@pytest.fixture
def place(house: House, request: pytest.FixtureRequest) -> Place:
    program, _how, where = request.param
    servers = house.lab.folder / "servers"
    if where == "remote":
        return Place(program, f"/var/programs-{program}", request.getfixturevalue("other"), servers / "bk2" / "root")
    if program == "vmkfstools":
        return Place(program, f"{POINT}/programs", "", None)
    return Place(program, f"/var/programs-{program}", "", servers / "bk1" / "root")


def cases(can_be: bool) -> list[Any]:
    """Case by case, with what it is called; those that cannot be, or the others."""
    found = []
    for program in PROGRAMS:
        for how in WAYS:
            for where in PLACES:
                case = (program, how, where)
                if ((program, where) != ("vmkfstools", "remote")) is can_be:
                    often = case in ALWAYS or (not can_be and how == "hot")
                    marks = () if often else pytest.mark.soak
                    found.append(pytest.param(case, how, id="-".join(case), marks=marks))
    return found


@pytest.mark.parametrize(("place", "how"), cases(can_be=True), indirect=["place"])
def test_a_machine_goes_to_its_place_and_comes_back_as_it_was(
    house: House, place: Place, how: str, tmp_path: Path
) -> None:
    mode = "sync" if place.program == "dedup" and how == "cold" else "async"
    run = house.controller.play(
        f"backup_{how}",
        *("--limit", HOST),
        backup_select=[f"name:{VM}"],
        backup_reserve_percent=0,
        **place.variables("backup"),
        backup_transfer_mode=mode,
    ).must_end_with(0)
    (entry,) = house.record(run)["vms"]
    told = [entry[name] for name in ("vm", "program", "status", "effective_how", "proven", "error")]
    assert told == [VM, place.program, "ok", how, True, None]
    assert (entry["downtime_seconds"] is None) is (how == "hot")
    assert [(disk["key"], disk["status"]) for disk in entry["disks"]] == [(DISK, "ok")]
    assert place.folder in entry["restore_point"] and (place.program == "vmkfstools" or entry["bytes_sent"] > 0)
    assert SECRET not in run.text
    assert house.differences(HOST) == []

    name = f"back from {place.program}"
    run = house.controller.play(
        "restore",
        restore_host=HOST,
        restore_vm=VM,
        restore_datastore="datastore1",
        restore_name=name,
        restore_uuid="new",
        restore_mac="new",
        **place.variables("restore"),
        restore_transfer_mode=mode,
    )
    try:
        run.must_end_with(0)
        (restored,) = house.record(run)["vms"]
        assert (restored["status"], restored["restore_point"]) == ("ok", entry["restore_point"])
        disk = house.folder(HOST, name) / Path(restored["disks"][0]["dest"]).name
        said = prove_disks([disk], tmp_path)
        assert "one moment" in said and ("clean shutdown" in said) is (how != "hot")
        assert same_content(disk, place.disk(house, entry["restore_point"], tmp_path)) == "Images are identical."
        assert house.differences(HOST) == []
    finally:
        for vm in house.lab.host(HOST)["vms"]:
            if vm["name"] == name:
                house.lab.run(HOST, "vim-cmd", "vmsvc/destroy", str(vm["vmid"]))
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert house.differences(HOST) == []


@pytest.mark.parametrize(("place", "how"), cases(can_be=False), indirect=["place"])
def test_what_cannot_be_is_refused_by_the_plan_with_what_to_use(house: House, place: Place, how: str) -> None:
    run = house.controller.play(
        f"backup_{how}", *("--limit", HOST), backup_select=[f"name:{VM}"], **place.variables("backup")
    ).must_end_with(2)
    record = house.record(run)
    (error,) = (entry["error"] for entry in record["hosts"])
    assert (record["vms"], error["id"]) == ([], "bad-policy")
    assert repr(place.point) in error["message"] and USE_INSTEAD in error["message"] and USE_INSTEAD in run.text
    run = house.controller.play(
        "restore",
        restore_host=HOST,
        restore_vm=VM,
        restore_datastore="datastore1",
        restore_name="never",
        **place.variables("restore"),
    ).must_end_with(2)
    (entry,) = house.record(run)["vms"]
    assert (entry["status"], entry["error"]["id"]) == ("failed", "bad-restore-request")
    assert repr(place.point) in entry["error"]["message"]
    assert "restore_program: rsync, dedup or borg" in entry["error"]["hint"]
    assert "restore_program: rsync, dedup or borg" in run.text
    assert house.differences(HOST) == []
