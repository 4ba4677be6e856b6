# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that go from a hypervisor into folders of images, and what comes back out of them."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import copying, ending, recover, restoring
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot
from house import House
from judge import one_moment, prove_disks, same_content

from . import stories
from .conftest import Lab, wait_until
from .stories import HOST
from .test_dedup import StoreStory, bring_back, readers, restore_context

# A fixture is known by its name in the module that uses it.
before, host, impatient = stories.before, stories.host, stories.impatient


class RsyncStory(StoreStory):
    """The same job, told with the copy step of the program rsync."""

    verify = "sample"

    def params(self) -> dict[str, Any]:
        return {**super().params(), "program": "rsync", "verify": self.verify}


@pytest.fixture
def point(tmp_path: Path) -> str:
    return str(tmp_path / "images")


@pytest.fixture
def access() -> Access:
    return Access()


@pytest.fixture
def story(
    clean_lab: Lab, host: Host, point: str, access: Access, tmp_path: Path, before: Any, request: Any
) -> Iterator[Callable[..., RsyncStory]]:
    number = iter(range(100))

    def make(how: str = "hot", **policy: Any) -> RsyncStory:
        # Restore points have names of one second.
        time.sleep(1.1)
        run = f"{abs(hash(request.node.name)) % 10**8:08d}-{next(number)}"
        where = {"program": "rsync", "point": point, "reserve_percent": 0}
        return RsyncStory(clean_lab, host, tmp_path, run, how, stores, **where, **policy)

    with Stores(access, host) as stores:
        yield make


def backed_up(job: RsyncStory, how: str, root: str = "") -> dict[str, Any]:
    """Its entry of the record, once the images were proven by others' means. `root`: where the backup point's machine
    has its own."""
    ended = job.whole()
    assert (ended.error, ended.entry["status"], ended.entry["effective_how"]) == (None, "ok", how)
    folder = Path(root + spot.parse(ended.entry["restore_point"]).path)
    assert json.loads((folder / "stowage.json").read_text())["still"]
    assert sorted(one.suffix for one in folder.iterdir()).count(".vmdk") == 2
    verdict = one_moment([folder / "scsi0-0-flat.vmdk"])
    assert bool(verdict.get("clean")) is (how != "hot")
    assert same_content(folder / "scsi0-0.vmdk", folder / "scsi0-0-flat.vmdk") == "Images are identical."
    status = (folder / "scsi0-0-flat.vmdk").stat()
    assert 0 < status.st_blocks * 512 < status.st_size
    assert readers(job.host) == []
    return dict(ended.entry)


def test_a_machine_becomes_images_twice_the_former_stays_as_it_was_and_it_comes_back(
    story: Callable[..., RsyncStory], tmp_path: Path
) -> None:
    first = backed_up(story("hot"), "hot")
    image = Path(first["restore_point"]) / "scsi0-0-flat.vmdk"
    was = image.read_bytes()
    job = story("cold", keep={"last": 2})
    job.verify = "full"
    again = backed_up(job, "cold")
    assert image.read_bytes() == was
    (disk,) = again["disks"]
    assert disk["verified"].startswith("all ") and disk["verified"].endswith("read back from the image")
    assert disk["bytes_sent"] == disk["bytes_read"] == again["bytes_sent"] > 0
    assert disk["method"] == "agent" and again["bytes_new"] > 0
    comes_back(job, again, Path(again["restore_point"]))


def comes_back(job: RsyncStory, entry: dict[str, Any], folder: Path) -> None:
    """Whole and thin, as another machine of the same host."""
    context = restore_context(job, "restore1", program="rsync")
    restoring.start(context)
    (copied,) = bring_back(job, context)
    told, changed = restoring.commit(context, True)
    assert changed
    ended = ending.end(context, "ok", None, [copied])
    vm = job.host.find_vm(vmid=told["vmid"])
    try:
        assert (ended.error, ended.entry["status"], vm.name) == (None, "ok", "out of the store")
        assert told["restore_point"] == ended.entry["restore_point"] == entry["restore_point"]
        assert "all" in copied["verified"] and "SHA-256" in copied["verified"]
        restored = job.outside(context.entry["disks"][0]["dest"])
        assert same_content(restored, folder / "scsi0-0.vmdk") == "Images are identical."
        flat = restored.with_name(restored.name.replace(".vmdk", "-flat.vmdk")).stat()
        assert 0 < flat.st_blocks * 512 < flat.st_size // 2
        assert readers(job.host) == []
        assert restore_context(job, "restore2", program="rsync").entry["already"] is True
    finally:
        job.host.unregister(vm.vmid)
        job.host.run("rm", "-rf", context.entry["directory"])


@pytest.mark.soak
def test_a_killed_copy_leaves_a_half_one_that_the_next_backup_goes_on_with(
    story: Callable[..., RsyncStory], point: str
) -> None:
    job = story("hot")
    job.start()
    job.bracket()
    slow = {**job.params(), "bandwidth_limit": 1 << 20}
    copying_process = multiprocessing.get_context("fork").Process(
        target=copying.perform, args=(job.host, slow, job.context.stores)
    )
    copying_process.start()
    wait_until(lambda: list(Path(point).glob("*/.partial-*/scsi0-0-flat.vmdk")), "the first bytes", 60)
    copying_process.kill()
    copying_process.join()
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert (found.outcome, found.left) == ("recovered", ())
    assert any("snapshot" in step for step in found.done) and "kept the half copy" in found.done[-1]
    assert readers(job.host) == []
    assert list(Path(point).glob("*/2*")) == []
    entry = backed_up(story("hot"), "hot")
    assert "gone on with from a half copy" in entry["disks"][0]["notes"]
    assert list(Path(point).glob("*/.partial-*")) == []


TOOLS = "/vmfs/volumes/datastore1/tools of the team"


@pytest.fixture
def team_rsync(host: Host) -> Iterator[str]:
    """An rsync that a team has laid on a datastore. 8.0 runs it only when it is told to."""
    host.run("mkdir", TOOLS)
    option = ("esxcli", "system", "settings", "advanced", "set", "-o", "/User/execInstalledOnly", "-i")
    try:
        yield f"{TOOLS}/rsync"
    finally:
        host.run(*option, "1")
        host.run("rm", "-rf", TOOLS)


@pytest.mark.soak
@pytest.mark.parametrize("access", [Access(rsync_path=f"{TOOLS}/rsync")])
def test_with_an_rsync_on_the_hypervisor_only_what_differs_leaves_it_and_without_the_record_says_why(
    story: Callable[..., RsyncStory], team_rsync: str
) -> None:
    job = story("hot")
    shutil.copy("/usr/bin/rsync", job.outside(team_rsync))
    job = story("hot")
    (warning,) = (one for one in job.entry["warnings"] if "no delta over the wire" in one)
    assert "execInstalledOnly" in warning
    first = backed_up(job, "hot")
    (disk,) = first["disks"]
    assert disk["method"] == "agent" and any("no delta over the wire" in note for note in disk["notes"])
    job.host.run("esxcli", "system", "settings", "advanced", "set", "-o", "/User/execInstalledOnly", "-i", "0")
    job = story("hot")
    assert not [one for one in job.entry["warnings"] if "over the wire" in one]
    job.verify = "full"
    second = backed_up(job, "hot")
    (disk,) = second["disks"]
    assert disk["method"] == "rsync" and disk["notes"][0].startswith("delta over the wire")
    assert 0 < disk["bytes_sent"] < first["bytes_sent"] // 2
    assert disk["verified"].endswith("(rsync --checksum)")
    assert [line for line in job.host.run("ps", "-c").split("\n") if "rsync" in line] == []


@pytest.fixture
def far(clean_lab: Lab, tmp_path: Path) -> tuple[str, Access, str]:
    """A backup point on the lab's backup server, the link's key to it, and where its files lie outside."""
    server = clean_lab.host("bk1")
    key = tmp_path / "stowage-images@bk1"
    shutil.copy(clean_lab.key, key)
    key.chmod(0o600)
    shutil.copy(clean_lab.known_hosts, f"{key}.known_hosts")
    root = str(clean_lab.folder / "servers" / "bk1" / "root")
    place = f"root@{server.address}:{server.port}:/var/images-{tmp_path.name[-20:]}"
    return place, Access(ssh_key=str(key), stage_dir=str(tmp_path / "stage")), root


@pytest.mark.soak
def test_a_machine_goes_to_another_server_only_what_differs_travels_and_it_comes_back(
    clean_lab: Lab, host: Host, far: tuple[str, Access, str], tmp_path: Path, before: Any
) -> None:
    place, access, root = far
    with Stores(access, host) as stores:

        def story(number: int, how: str, **policy: Any) -> RsyncStory:
            where = {"program": "rsync", "point": place, "reserve_percent": 0, "keep": {"last": 1}}
            return RsyncStory(clean_lab, host, tmp_path, f"far-{number}", how, stores, **where, **policy)

        first = backed_up(story(1, "hot"), "hot", root)
        assert first["restore_point"].startswith(place)
        time.sleep(1.1)
        job = story(2, "cold")
        job.verify = "full"
        second = backed_up(job, "cold", root)
        (disk,) = second["disks"]
        travelled = next(note for note in disk["notes"] if note.startswith("to "))
        assert int(travelled.split(": ")[1].split(" of ")[0]) < disk["bytes_sent"] // 2
        assert disk["verified"].endswith("(rsync --checksum)")
        assert [one["path"] for one in second["rotation"]["removed"]] == [first["restore_point"]]
        # Nothing of it stays on the way.
        assert list((tmp_path / "stage").rglob("*.vmdk")) == []
        comes_back(job, second, Path(root + spot.parse(second["restore_point"]).path))


@pytest.mark.soak
def test_one_variable_switches_a_fleet_to_images_and_its_machines_come_back(house: House, tmp_path: Path) -> None:
    where = "/var/images"
    played = [
        house.controller.play(
            "backup_hot",
            *("--limit", "esx67,esx80"),
            backup_select=["name:plain67", "name:plain80"],
            backup_unknown_names="ignore",
            backup_program="rsync",
            backup_point=where,
            backup_reserve_percent=0,
        ).must_end_with(0)
        for _run in range(2)
    ]
    entries = {vm["vm"]: vm for vm in house.record(played[1])["vms"]}
    assert set(entries) == {"plain67", "plain80"}
    for entry in entries.values():
        assert (entry["status"], entry["proven"]) == ("ok", True)
        assert entry["restore_point"].startswith(f"{where}/plain")
        assert 0 < entry["bytes_sent"] == entry["bytes_read"]
    assert house.differences("esx67", "esx80") == []
    run = house.controller.play(
        "restore",
        restore_host="esx80",
        restore_vm="plain67",
        restore_program="rsync",
        restore_point=where,
        restore_datastore="datastore1",
        restore_name="from images",
        restore_uuid="new",
        restore_mac="new",
    ).must_end_with(0)
    try:
        (entry,) = house.record(run)["vms"]
        assert (entry["status"], entry["restore_point"]) == ("ok", entries["plain67"]["restore_point"])
        (disk,) = entry["disks"]
        assert disk["bytes_sent"] > 0 and "SHA-256" in disk["verified"]
        restored = house.folder("esx80", "from images")
        assert "one moment" in prove_disks([restored / Path(disk["dest"]).name], tmp_path)
        assert house.differences("esx67", "esx80") == []
    finally:
        house.lab.run("esx80", "vim-cmd", "vmsvc/destroy", str(house.vm("esx80", "from images")["vmid"]))
