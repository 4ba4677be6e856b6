# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points outside of any job: proven again and removed by rules, in folders, a real store, a real repository."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import borgplace, keeping, storeplace, verifying
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import NothingToVerify
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.findings import Finding
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.keeping import Rules
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint, marked
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import identity_hash, partial_name
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import borgerrors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borgkeeping import keep
from ansible_collections.stowage.esxi.plugins.module_utils.programs.tarstream import END, small_file
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, chores
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from fakeclock import FakeClock
from jobs_values import make_job

SECRET = "correct horse"
NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
DAYS = ("20261119T200000Z", "20261120T200000Z", "20261121T200000Z", "20261122T200000Z")
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=0000000a
parentCID=ffffffff
createType="vmfs"
RW 8 VMFS "scsi0-0-flat.vmdk"
"""


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BORG_BASE_DIR", str(tmp_path / "base"))


@pytest.fixture
def host(session: Session) -> Host:
    tool = Path(session.applets, "vmkfstools")  # type: ignore[attr-defined]
    tool.write_text("#!/bin/sh\n[ -f \"$2\" ] && echo 'Disk chain is consistent.'\n", encoding="utf-8")
    tool.chmod(0o755)
    return Host(session, clock=FakeClock(NOW))


@pytest.fixture
def stores() -> Iterator[Stores]:
    with Stores(Access(passphrase=SECRET)) as opened:
        yield opened


def in_folder(
    host: Host, place: Path, time: str, vm: str = "web01", made_on: str = "esx1", vmx_path: str = "", **facts: Any
) -> Path:
    """A restore point as a backup commits one."""
    folder = place / f"{vm}-{identity_hash(f'id-{vm}')}"
    folder.mkdir(parents=True, exist_ok=True)
    job = make_job(time=time, partial=str(folder / partial_name(time, "j")), final=str(folder / time), vm=vm)
    partial = Path(job.partial)
    partial.mkdir()
    (partial / "scsi0-0.vmdk").write_text(DESCRIPTOR)
    (partial / "scsi0-0-flat.vmdk").write_bytes(b"\x01" * 4096)
    (partial / f"{vm}.vmx").write_text("x")
    disks = points.prove_disks(host, vm, job.partial, [{"key": "scsi0:0", "capacity_bytes": 4096}], "thin")
    value = {
        "time": time,
        "host": made_on,
        "vm": {"name": vm, "identity": f"id-{vm}", "vmx_path": vmx_path},
        "disks": [vars(disk) for disk in disks],
        "files": [vars(file) for file in points.list_files(host.session, job.partial)],
        **facts,
    }
    points.commit(host.session, job, value)
    return Path(job.final)


def rules(
    check: bool = False, known: dict[str, Finding] | None = None, others: tuple[Job, ...] = (), **kept: int
) -> Rules:
    return Rules(Keep(**{"last": 0, **kept}), known=known or {}, others=others, check=check)


def finding(path: str, bad: str = "") -> Finding:
    return Finding(path, "20261119T200000Z", "web01", "id-web01", "esx1", "opened", bad)


def reading(path: str) -> Job:
    return make_job(job="run2-r0123456789ab", kind="restore", extra={"restore_point": {"path": path}})


def reasons(report: keeping.Pruned) -> dict[str, str]:
    return {one.path.rpartition("/")[2].rpartition("::")[2]: "; ".join(one.reasons) for one in report.verdicts}


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_decides_what_the_real_one_then_does_and_a_second_one_has_nothing_to_do(
    host: Host, tmp_path: Path
) -> None:
    folder = [in_folder(host, tmp_path, time) for time in DAYS][0].parent
    dry = keeping.in_folders(host, str(tmp_path), "esx1", rules(check=True, last=2))
    assert sorted(os.listdir(folder)) == sorted(DAYS) and dry.changed
    real = keeping.in_folders(host, str(tmp_path), "esx1", rules(last=2))
    assert (real.verdicts, real.removed, real.problems) == (dry.verdicts, dry.removed, [])
    assert sorted(os.listdir(folder)) == list(DAYS[2:])
    assert reasons(real)[DAYS[0]] == "no rule keeps it" and reasons(real)[DAYS[3]] == "last 1 of 2"
    again = keeping.in_folders(host, str(tmp_path), "esx1", rules(last=2))
    assert (again.changed, again.removed) == (False, [])


@pytest.mark.parametrize(
    ("policy", "stays", "reason"),
    [
        ({"keep": {"last": 3, "min": 1}, "rotate": True}, 3, "last 3 of 3"),
        ({"keep": {"last": 1}, "rotate": False}, 4, "no rule removes it"),
        ({"keep": {"fortnightly": 2}}, 4, "no rule removes it"),
        ({}, 1, "last 1 of 1"),
    ],
    ids=["its rule", "never", "a rule of later", "none"],
)
def test_without_a_rule_for_all_each_machine_goes_by_that_of_its_newest_backup(
    host: Host, tmp_path: Path, policy: dict[str, Any], stays: int, reason: str
) -> None:
    for time in DAYS:
        # What it was made with before does not count, nor does what was made before it was written over.
        given = policy if time == DAYS[2] else {"keep": {"last": 1}} if policy else {}
        in_folder(host, tmp_path, time, policy=given, safety=time == DAYS[3])
    given_for_all = replace(rules(last=1), own=True)
    report = keeping.in_folders(host, str(tmp_path), "esx1", given_for_all)
    assert len(report.verdicts) - len(report.removed) == stays
    assert reason in reasons(report)[DAYS[4 - stays]]
    assert len(keeping.in_folders(host, str(tmp_path), "esx1", rules(last=1)).removed) == stays - 1


def test_held_read_damaged_and_verified_points_stay_each_with_its_reason(host: Host, tmp_path: Path) -> None:
    made = [in_folder(host, tmp_path, f"202611{day}T200000Z") for day in range(14, 23)]
    (made[0] / "stowage.hold").write_text("")
    known = {str(made[1]): finding(str(made[1])), str(made[8]): finding(str(made[8]), "its extent is empty")}
    given = rules(known=known, others=(reading(str(made[2])),), last=1)
    report = keeping.in_folders(host, str(tmp_path), "esx1", given)
    told = reasons(report)
    assert told["20261114T200000Z"] == "held" and told["20261115T200000Z"] == "verified 1 of 1"
    assert told["20261116T200000Z"] == "a restore reads it" and "damaged" in told["20261122T200000Z"]
    # The damaged one takes no good one's place.
    assert told["20261121T200000Z"] == "last 1 of 1"
    assert [path.name for path in made if not path.exists()] == [f"202611{day}T200000Z" for day in range(17, 21)]


def test_a_folder_is_pruned_for_the_host_that_made_its_newest_point(host: Host, tmp_path: Path) -> None:
    in_folder(host, tmp_path, DAYS[0])
    in_folder(host, tmp_path, DAYS[1], made_on="esx2")
    assert keeping.in_folders(host, str(tmp_path), "esx1", rules(last=1)).verdicts == []
    assert len(keeping.in_folders(host, str(tmp_path), "esx2", rules(last=1)).removed) == 1


def test_of_two_machines_with_one_uuid_each_host_prunes_its_own(host: Host, tmp_path: Path) -> None:
    """They take turns in one folder of a datastore that both hosts have."""
    for number, time in enumerate(DAYS):
        made_on = "esx2" if number % 2 else "esx1"
        folder = in_folder(host, tmp_path, time, made_on=made_on, vmx_path=f"/{made_on}/web01.vmx").parent
    (gone,) = keeping.in_folders(host, str(tmp_path), "esx1", rules(last=1)).removed
    assert gone == str(folder / DAYS[0]) and len(os.listdir(folder)) == 3
    assert keeping.in_folders(host, str(tmp_path), "esx2", rules(last=2)).removed == []


def test_what_is_not_ours_stays_and_is_told(host: Host, tmp_path: Path) -> None:
    old, new = (in_folder(host, tmp_path, time) for time in DAYS[:2])
    (old / "notes of the boss.txt").write_text("keep")
    report = keeping.in_folders(host, str(tmp_path), "esx1", rules(last=1))
    assert os.listdir(old) == ["notes of the boss.txt"] and "notes of the boss.txt" in report.problems[0]
    assert sorted(os.listdir(new)) and "problem:" in keeping.text(report)


def test_a_removal_that_was_cut_short_is_finished(host: Host, tmp_path: Path) -> None:
    old, new = (in_folder(host, tmp_path, time) for time in DAYS[:2])
    os.rename(old, old.with_name(f".removing-{old.name}"))
    report = keeping.in_folders(host, str(tmp_path), "esx1", rules(last=1))
    assert os.listdir(new.parent) == [new.name] and len(report.removed) == 1


def test_each_folder_of_this_host_is_opened_and_what_is_wrong_is_named(host: Host, tmp_path: Path) -> None:
    made = {vm: in_folder(host, tmp_path, DAYS[3], vm) for vm in ("good", "empty", "lost", "short")}
    in_folder(host, tmp_path, DAYS[2], "good")
    in_folder(host, tmp_path, DAYS[3], "other", made_on="esx2")
    (made["empty"] / "scsi0-0-flat.vmdk").write_bytes(b"")
    (made["lost"] / "lost.vmx").unlink()
    (made["short"] / "short.vmx").write_text("xyz")
    garbled = in_folder(host, tmp_path, DAYS[3], "garbled")
    (garbled / "stowage.json").write_text("{")
    found = {one.vm: one for one in verifying.of_folders(host, str(tmp_path), "esx1", True)}
    assert set(found) == {"good", "empty", "lost", "short", "garbled"}
    assert (found["good"].bad, found["good"].level, found["good"].path) == ("", "opened", str(made["good"]))
    assert (
        "0 bytes" in found["empty"].bad and "is missing" in found["lost"].bad and "3 bytes, not 1" in found["short"].bad
    )
    assert "JSON" in found["garbled"].bad
    assert len(verifying.of_folders(host, str(tmp_path), "esx1", False)) == 6


def test_a_proof_of_nothing_is_refused(host: Host, tmp_path: Path, stores: Stores) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToVerify, match="esx1"):
        verifying.of_folders(host, str(tmp_path / "empty"), "esx1", True)
    Store.create(LocalBackend(str(tmp_path / "store")), passphrase=SECRET).close()
    with pytest.raises(NothingToVerify):
        verifying.of_store(stores, str(tmp_path / "store"), "esx1", {"good_points": []}, True)


def test_folders_of_images_are_looked_at_and_pruned_where_they_are(host: Host, tmp_path: Path, stores: Stores) -> None:
    place = tmp_path / "images"
    made = [in_folder(host, place, time) for time in DAYS[:3]]
    (found,) = verifying.of_images(stores, str(place), True, "esx1")
    assert (found.path, found.level, found.bad) == (str(made[2]), "sizes", "")
    (made[2] / "scsi0-0-flat.vmdk").write_bytes(b"")
    (found,) = verifying.of_images(stores, str(place), True, "esx1")
    assert "4096" in found.bad
    dry = keeping.in_images(stores, str(place), rules(check=True, last=1))
    real = keeping.in_images(stores, str(place), rules(last=1))
    assert (real.removed, real.verdicts) == (dry.removed, dry.verdicts) and sorted(real.removed) == [
        str(one) for one in made[:2]
    ]
    assert os.listdir(made[2].parent) == [DAYS[2]]


# -- a store ----------------------------------------------------------------------------------------------------------


def facts(time: str, name: str, size: int, files: list[dict[str, Any]]) -> dict[str, Any]:
    disk = {
        **{"key": "scsi0:0", "label": "", "file": name, "capacity_bytes": size, "allocated_bytes": size},
        **{"cid": "0000000a", "format": "store", "source": "/vmfs/volumes/ds/web01/web01.vmdk"},
    }
    vm = {"name": "web01", "identity": "id-web01"}
    return marked(
        {"time": time, "job": "j", "host": "esx1", "hypervisor": "esx1", "vm": vm, "disks": [disk], "files": files}
    )


def in_store(stores: Stores, place: str, tmp_path: Path, time: str) -> str:
    image = tmp_path / "disk.raw"
    image.write_bytes(os.urandom(1 << 20))
    files = [
        {"name": "scsi0:0", "size": 1 << 20, "role": "disk"},
        {"name": "web01.vmx", "size": 1, "role": "vmx"},
    ]
    disk = RawDisk(str(image))
    try:
        point, _told = backup.run(
            stores.open(place),
            *("id-web01", "web01", [backup.DiskInput("scsi0:0", disk)], {"web01.vmx": b"x"}),
            facts=facts(time, "scsi0:0", 1 << 20, files),
        )
    finally:
        disk.close()
    return storeplace.path_of(place, point.point)


@pytest.fixture
def store(stores: Stores, tmp_path: Path) -> tuple[str, list[str]]:
    place = str(tmp_path / "store")
    Store.create(LocalBackend(place), passphrase=SECRET).close()
    return place, [in_store(stores, place, tmp_path, time) for time in DAYS[:3]]


def verify(place: str, **more: Any) -> dict[str, Any]:
    """What dedup_store answers."""
    params = {name: None for name in ("slice", "newest", "points", "machines", "room_bytes", "keep", "other")}
    params |= {"passphrase": SECRET, "state": "verified", "deep": True, "min_verified": 1, "observe_seconds": 1, **more}
    backend = LocalBackend(place)
    answer: dict[str, Any] = chores.run(backend, params, False)["verified"]
    return answer


def test_what_a_store_has_proven_becomes_a_finding_of_each_machine(
    stores: Stores, store: tuple[str, list[str]]
) -> None:
    place, made = store
    (found,) = verifying.of_store(stores, place, "esx1", verify(place, newest=True), True)
    assert (found.path, found.vm, found.host, found.level, found.bad) == (made[-1], "web01", "esx1", "deep", "")
    assert verifying.of_store(stores, place, "esx1", verify(place, slice="1/7"), True) == []


def test_a_damaged_point_of_a_store_is_named_with_its_disk(stores: Stores, store: tuple[str, list[str]]) -> None:
    place, made = store
    for pack in Path(place, "packs").rglob("*"):
        if pack.is_file() and pack.stat().st_size > 1 << 19:
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1
            pack.write_bytes(data)
    found = verifying.of_store(stores, place, "esx1", verify(place), True)
    assert sorted(one.path for one in found) == sorted(made)
    assert all("disk scsi0:0: 1 chunks" in one.bad for one in found)


def test_a_store_is_pruned_by_its_own_rules_and_spares_what_a_restore_reads(
    stores: Stores, store: tuple[str, list[str]]
) -> None:
    place, made = store
    given = rules(check=True, others=(reading(made[1]),), last=1)
    dry = keeping.in_store(stores, place, given)
    assert dry.removed == [made[0]] and "it is needed now" in keeping.text(dry)
    real = keeping.in_store(stores, place, rules(others=(reading(made[1]),), last=1))
    assert (real.removed, [one.path for one in real.verdicts if one.keep]) == ([made[0]], [made[2], made[1]])
    assert reasons(real) == reasons(dry) and real.collected is not None
    assert not keeping.in_store(stores, place, rules(others=(reading(made[1]),), last=1)).removed


# -- a repository -----------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(str(tmp_path / "repository"), SECRET)
    found.make("repokey-blake2")
    for time in DAYS[:3]:
        files = [{"name": "scsi0-0.raw", "size": 3, "role": "disk"}, {"name": "a.vmx", "size": 3, "role": "vmx"}]
        name = borgplace.archive_name("web01", "id-web01", time)
        comment = json.dumps(facts(time, "scsi0-0.raw", 3, files))
        with found.start(["import-tar", "--comment", comment, found.named(name), "-"], feeds=True) as running:
            running.write(small_file("a.vmx", os.urandom(4096), 0) + END)
            running.wait()
    return found


def test_archives_are_pruned_with_reasons_and_a_dry_run_removes_none(
    repository: Repository, stores: Stores, tmp_path: Path
) -> None:
    place, limits = repository.location, str(tmp_path / "limits")
    names = [one.name for one in repository.archives()]
    known = {f"{place}::{names[0]}": finding(f"{place}::{names[0]}")}
    dry = keeping.in_repository(stores, place, rules(check=True, known=known, last=1), limits)
    assert [one.name for one in repository.archives()] == names
    real = keeping.in_repository(stores, place, rules(known=known, last=1), limits)
    assert (real.verdicts, real.removed) == (dry.verdicts, [f"{place}::{names[1]}"])
    assert reasons(real)[names[0]] == "verified 1 of 1"
    assert [one.name for one in repository.archives()] == [names[0], names[2]]
    assert not keeping.in_repository(stores, place, rules(known=known, last=1), limits).changed


def test_what_borg_finds_damaged_is_an_error_of_its_own_and_no_archive_counts_as_proven(
    repository: Repository, stores: Stores
) -> None:
    assert keep(repository, None, "data", False, False).actions == ("checked 3 archives, all data read",)
    found = verifying.of_repository(stores, repository.location, "esx1", "data", "")
    assert len(found) == 3 and all(one.level == "data" and not one.bad for one in found)
    segment = max(Path(repository.location, "data", "0").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(borgerrors.RepositoryDamaged, match="mismatch") as caught:
        keep(repository, None, "data", False, False)
    found = verifying.of_repository(stores, repository.location, "esx1", "data", caught.value.message)
    assert [one.bad for one in found] == [caught.value.message] * 3


def test_a_check_makes_no_repository(tmp_path: Path) -> None:
    with pytest.raises(borgerrors.NoRepository):
        keep(Repository(str(tmp_path / "none")), None, "data", False, False)
    assert not (tmp_path / "none").exists()


def test_decisions_are_made_of_the_points_alone() -> None:
    """No host, no store: the plan is a value."""
    made = [
        RestorePoint(f"/p/{day}", f"202611{day:02d}T200000Z", "web01", "id", "", "esx1", (), ()) for day in range(1, 11)
    ]
    decided = keeping.decide(made, rules(last=1, weekly=2), NOW)
    kept = {one.path: one.reasons for one in decided if one.keep}
    assert set(kept) == {"/p/10", "/p/8"} and [one.time for one in decided] == sorted(
        (one.time for one in made), reverse=True
    )
    assert keeping.decide([], rules(last=1), NOW) == []
    assert (
        len([one for one in keeping.decide(made, rules(within_days=14), NOW, NOW - timedelta(days=9)) if one.keep])
        == 10
    )
