# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points in a real repository of borg: found, read, rotated, what a killed job left removed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import borgplace, keeping, names, places, storeroom
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadManifest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import marked
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import vm_policy_from_dict
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import INTENT
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.tarstream import END, small_file
from jobs_values import make_job

SECRET = "correct horse"
IDENTITY = "id-web01"
NOBODY: Any = None


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BORG_BASE_DIR", str(tmp_path / "base"))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(str(tmp_path / "repository"), SECRET)
    found.make("repokey-blake2")
    return found


@pytest.fixture
def stores() -> Stores:
    return Stores(Access(passphrase=SECRET))


def job_at(repository: Repository, time: str, **changes: Any) -> Job:
    policy = {"point": repository.location, "program": "borg", "keep": {"last": 2}}
    values = {"identity": IDENTITY, "partial": "", "final": repository.location, "policy": policy, "time": time}
    return make_job(**{**values, **changes})


def facts(job: Job) -> dict[str, Any]:
    disk = {
        "key": "scsi0:0",
        "label": "Hard disk 1",
        "file": "scsi0-0.raw",
        "capacity_bytes": 1 << 20,
        "allocated_bytes": 1 << 16,
        "cid": "0000000a",
        "format": "store",
        "source": "/vmfs/volumes/ds/web01/web01.vmdk",
    }
    files = [{"name": "scsi0-0.raw", "size": 1 << 20, "role": "disk"}, {"name": "a.vmx", "size": 3, "role": "vmx"}]
    vm = {"name": job.vm, "identity": job.identity, "uuid": job.identity}
    return marked({"time": job.time, "job": job.job, "host": job.host, "vm": vm, "disks": [disk], "files": files})


def fill(repository: Repository, job: Job, name: str = "") -> str:
    name = name or borgplace.archive_name(job.vm, job.identity, job.time)
    argv = ["import-tar", "--comment", json.dumps(facts(job)), repository.named(name), "-"]
    with repository.start(argv, feeds=True) as running:
        running.write(small_file("a.vmx", b"vmx", 0) + END)
        running.wait()
    return name


def test_points_are_found_read_told_and_rotated_and_what_a_killed_job_left_goes(
    repository: Repository, stores: Stores
) -> None:
    times = [f"2026112{day}T200000Z" for day in range(1, 5)]
    jobs = [job_at(repository, time) for time in times]
    made = [fill(repository, job) for job in jobs]
    other = fill(repository, job_at(repository, times[0], identity="id-db01", vm="db01"))
    half = fill(repository, jobs[3], names.partial_name(times[3], jobs[3].job))
    foreign = fill(repository, job_at(repository, times[0]), "somebody's own")
    place = places.of("borg", stores)
    found, bad = place.find(NOBODY, repository.location)
    assert [one.path for one in found if one.identity == IDENTITY] == [repository.named(name) for name in made[::-1]]
    assert [error.data["path"] for error in bad] == [repository.named(foreign)]
    (one,), none = place.find(NOBODY, repository.named(made[0]))
    assert (one.time, none) == (times[0], [])
    assert place.read_text(NOBODY, one.file_of("vmx") or "") == "vmx"
    with pytest.raises(BadManifest, match="no such archive"):
        place.read(NOBODY, repository.named("none"))
    wanted = {7: (repository.location, "", IDENTITY), 8: (repository.location, "", "none")}
    assert place.newest(NOBODY, jobs[0].host, wanted) == {7: names.parse_point_time(times[3])}
    assert place.newest(NOBODY, "another", wanted) == {}
    begun = Events(({"event": INTENT, "point": made[3]},))
    assert place.made(NOBODY, jobs[3], begun) == repository.named(made[3])
    assert place.made(NOBODY, job_at(repository, times[3], run="x", job="x-b000000000000"), begun) == ""
    # Recover has no passphrase.
    assert places.of("borg", Stores()).made(NOBODY, jobs[3], begun) == ""
    reader = SimpleNamespace(kind="restore", extra={"restore_point": {"path": repository.named(made[0])}})
    turned = place.rotate(NOBODY, jobs[3], begun, vm_policy_from_dict(jobs[3].policy), [reader])  # type: ignore[list-item]
    assert (turned["problems"], [line["path"] for line in turned["removed"]]) == (
        [bad[0].message],
        [repository.named(made[1])],
    )
    left = {one.name for one in repository.archives()}
    assert left == {made[0], made[2], made[3], other, foreign} and half not in left


def test_a_backup_server_whose_clock_jumped_ahead_makes_no_archive_old(repository: Repository, stores: Stores) -> None:
    days = [datetime.now(timezone.utc) - timedelta(days=number) for number in (400, 399)]
    jobs = [job_at(repository, day.strftime("%Y%m%dT%H%M%SZ")) for day in days]
    made = [fill(repository, job) for job in jobs]

    def clock_at(moment: datetime) -> Any:
        said = SimpleNamespace(stdout=f"{int(moment.timestamp())}\n")
        return SimpleNamespace(name="esx1", session=SimpleNamespace(run=lambda argv: said))

    begun = Events(({"event": INTENT, "point": made[1]},))
    policy = vm_policy_from_dict({**jobs[1].policy, "keep": {"last": 0, "within_days": 7}})
    place = places.of("borg", stores)
    turned = place.rotate(clock_at(days[1]), jobs[1], begun, policy, [])
    assert turned["removed"] == [] and "the clock of esx1 says" in turned["problems"][0]
    rules = keeping.Rules(Keep(last=0, within_days=7), check=True)
    assert keeping.in_repository(stores, repository.location, rules, "/nowhere").removed == []
    turned = place.rotate(clock_at(datetime.now(timezone.utc)), jobs[1], begun, policy, [])
    assert [line["path"] for line in turned["removed"]] == [repository.named(made[0])]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (".partial-20261124T200000Z-run1-b0a1b2c3d4e5f", True),
        (".partial-20261124T200000Z-another.run-b0a1b2c3d4e5f.checkpoint.1", True),
        (".partial-20261124T200000Z-run1-b0a1b2c3d4e50", False),
        ("web01-0a1b2c3d4e5f-20261124T200000Z", False),
    ],
)
def test_only_what_a_job_of_the_same_machine_has_begun_is_left_behind(name: str, left: bool) -> None:
    job: Any = SimpleNamespace(job="run2-b0a1b2c3d4e5f")
    assert borgplace.is_left(name, job) is left


def test_a_plan_names_what_is_wrong_with_a_repository(repository: Repository, tmp_path: Path) -> None:
    def ask(location: str, **access: Any) -> Any:
        return storeroom.look(Stores(Access(**access)), location, "borg")

    room = ask(repository.location, passphrase=SECRET)
    assert room.problem is None and room.free_bytes > 0
    assert ask(repository.location, passphrase="wrong").problem["id"] == "borg-wrong-passphrase"
    absent = str(tmp_path / "absent")
    assert ask(absent, passphrase=SECRET).problem["id"] == "borg-no-repository"
    assert "is made before the first copy" in ask(absent, passphrase=SECRET, create=True).warning
    assert ask(absent, borg_path="/nowhere/borg").problem["id"] == "borg-missing"
