# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points in a real store: planned for, read back, found, rotated, told by recover; and all that is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    places,
    restore,
    storeplace,
    storeroom,
    storetwins,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    BadManifest,
    BadPolicy,
    NotInStore,
    StoreNotForHosts,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import marked
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import parse_point_time
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import HostPlan, StoreRoom, check_room, plan_vm
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import parse_policy, vm_policy_from_dict
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import newest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import DONE, INTENT
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, registry
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point, object_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from jobs_values import make_job, make_vm

IDENTITY = "id-web01"
SIZE = 3 << 20
NVRAM = bytes(range(256)) * 4
SECRET = "correct horse"


@pytest.fixture
def location(tmp_path: Path) -> str:
    path = tmp_path / "store"
    Store.create(LocalBackend(str(path)), passphrase=SECRET).close()
    return str(path)


@pytest.fixture
def stores() -> Iterator[Stores]:
    with Stores(Access(passphrase=SECRET)) as opened:
        yield opened


@pytest.fixture
def host(session: Session) -> Host:
    return Host(session)


def facts(job: Job, /, **changes: Any) -> dict[str, Any]:
    value = {
        "time": job.time,
        "job": job.job,
        "host": job.host,
        "hypervisor": job.host,
        "vm": {"name": job.vm, "identity": job.identity, "uuid": job.identity},
        "disks": [
            {
                "key": "scsi0:0",
                "label": "Hard disk 1",
                "file": "scsi0:0",
                "capacity_bytes": SIZE,
                "allocated_bytes": 1 << 20,
                "cid": "0000000a",
                "format": "thin",
                "source": "/vmfs/volumes/ds/web01/web01.vmdk",
            }
        ],
        "files": [
            {"name": "scsi0:0", "size": SIZE, "role": "disk"},
            {"name": "web01.vmx", "size": 11, "role": "vmx"},
            {"name": "web01.nvram", "size": len(NVRAM), "role": "nvram"},
        ],
    }
    return marked({**value, **changes})


def fill(stores: Stores, location: str, job: Job, tmp_path: Path, /, **changes: Any) -> Point:
    image = tmp_path / "disk.raw"
    image.write_bytes(os.urandom(1 << 20) + bytes(SIZE - (1 << 20)))
    disk = RawDisk(str(image))
    try:
        files = {"web01.vmx": b'.encoding = ""'[:11], "web01.nvram": NVRAM}
        point, _told = backup.run(
            stores.open(location),
            job.identity,
            job.vm,
            [backup.DiskInput("scsi0:0", disk)],
            files,
            facts=facts(job, **changes),
        )
    finally:
        disk.close()
    return point


def job_in(location: str, **changes: Any) -> Job:
    policy = {"point": location, "program": "dedup"}
    values = {"identity": IDENTITY, "partial": "", "final": location, "policy": policy}
    disks = ({"key": "scsi0:0", "action": "copy"},)
    return make_job(**{**values, "disks": disks, **changes})


def noted(*events: tuple[str, str]) -> Events:
    return Events(tuple({"event": event, "point": point} for event, point in events))


def commit(stores: Stores, host: Host, job: Job, events: Events) -> Any:
    log: Any = IntentLog(host.session, "/nowhere")
    nobody: Any = None
    return places.of_job(job, stores).commit(host, nobody, job, log, events, ())


def test_a_committed_point_is_read_back_with_its_disks_and_its_files_byte_for_byte(
    stores: Stores, location: str, host: Host, tmp_path: Path
) -> None:
    job = job_in(location)
    made = fill(stores, location, job, tmp_path)
    point = commit(stores, host, job, noted((INTENT, made.point), (DONE, made.point)))
    assert point.path == f"{location}::{made.point}"
    assert (point.vm, point.identity, point.time) == (job.vm, IDENTITY, job.time)
    assert point.summary()["disks"] == ["scsi0:0"]
    assert point.file_of("vmx") == f"{location}::{made.point}/web01.vmx"
    place = places.of("dedup", stores)
    target = tmp_path / "restored.nvram"
    place.bring(host, job.vm, str(point.file_of("nvram")), str(target))
    assert target.read_bytes() == NVRAM
    assert place.read(host, point.path) == point


def test_a_copy_that_did_not_come_to_its_end_is_no_restore_point(
    stores: Stores, location: str, host: Host, tmp_path: Path
) -> None:
    job = job_in(location)
    with pytest.raises(NotInStore, match="not come to its end"):
        commit(stores, host, job, noted())
    with pytest.raises(StowageError) as caught:
        commit(stores, host, job, noted((INTENT, "20261122T200000.000000Z-abcdef")))
    assert caught.value.id == "store-no-such-point"


def test_a_point_of_another_job_or_without_a_disk_is_not_taken_for_ours(
    stores: Stores, location: str, host: Host, tmp_path: Path
) -> None:
    job = job_in(location)
    made = fill(stores, location, job, tmp_path, job="run9-b0123456789ab")
    with pytest.raises(NotInStore, match="another job"):
        commit(stores, host, job, noted((DONE, made.point)))
    made = fill(stores, location, job, tmp_path)
    two = replace(job, disks=(*job.disks, {"key": "scsi0:1", "action": "copy"}))
    with pytest.raises(NotInStore, match="lacks scsi0:1"):
        commit(stores, host, two, noted((DONE, made.point)))


def test_recover_tells_without_any_key_whether_a_named_point_is_there(
    stores: Stores, location: str, host: Host, tmp_path: Path
) -> None:
    job = job_in(location)
    made = fill(stores, location, job, tmp_path)
    place = places.of("dedup", Stores())
    assert place.made(host, job, noted((INTENT, made.point))) == f"{location}::{made.point}"
    assert place.made(host, job, noted()) == ""
    assert place.made(host, job, noted((INTENT, "20261122T200000.000000Z-abcdef"))) == ""
    given_up = "20261122T200001.000000Z-abcdef"
    name = object_name(IDENTITY, given_up)
    stores.open(location).backend.create(name, registry.revoked())
    assert place.made(host, job, noted((INTENT, given_up))) == ""
    with pytest.raises(StowageError, match="not to be opened"):
        place.read(host, f"{location}::{made.point}")


def test_points_are_found_newest_first_and_strangers_are_left_out(
    stores: Stores, location: str, host: Host, tmp_path: Path
) -> None:
    old = fill(stores, location, job_in(location), tmp_path)
    new = fill(stores, location, job_in(location, time="20261123T200000Z"), tmp_path)
    fill(stores, location, job_in(location, identity="pc"), tmp_path, kind="something else")
    bad = fill(stores, location, job_in(location, identity="other"), tmp_path, vm={"name": "x", "identity": "y"})
    found, problems = places.of("dedup", stores).find(host, location)
    assert [point.path for point in found] == [f"{location}::{new.point}", f"{location}::{old.point}"]
    assert [error.data["path"] for error in problems] == [f"{location}::{bad.point}"]
    (one,), none = places.of("dedup", stores).find(host, f"{location}::{old.point}")
    assert (one.path, none) == (f"{location}::{old.point}", [])


@pytest.mark.parametrize(
    "changes",
    [
        {"disks": [{**facts(job_in("/s"))["disks"][0], "capacity_bytes": SIZE * 2}]},
        {"files": [*facts(job_in("/s"))["files"], {"name": "more.txt", "size": 1, "role": "other"}]},
        {"vm": {"name": "web01", "identity": "another"}},
        {"schema": 7},
    ],
)
def test_facts_that_do_not_fit_what_lies_in_the_store_are_no_restore_point(
    stores: Stores, location: str, host: Host, tmp_path: Path, changes: dict[str, Any]
) -> None:
    made = fill(stores, location, job_in(location), tmp_path, **changes)
    with pytest.raises(BadManifest):
        places.of("dedup", stores).read(host, f"{location}::{made.point}")


def test_rotation_keeps_what_the_rules_keep_the_fresh_one_and_what_a_restore_reads(
    stores: Stores, location: str, host: Host, tmp_path: Path
) -> None:
    job = job_in(location)
    made = [fill(stores, location, job, tmp_path).point for _number in range(5)]
    other = fill(stores, location, job_in(location, identity="other"), tmp_path)
    reader = make_job(kind="restore", extra={"restore_point": {"path": f"{location}::{made[0]}"}})
    events = Events(({"event": "commit-done", "final": f"{location}::{made[-1]}"},))
    place = places.of_job(job, stores)
    policy = vm_policy_from_dict({"point": location, "program": "dedup", "keep": {"last": 2}})

    looked = place.rotate(host, job, events, replace(policy, rotate=False), [reader])
    assert (looked["removed"], len(looked["kept"])) == ([], 5)
    turned = place.rotate(host, job, events, policy, [reader])
    assert {line["path"] for line in turned["removed"]} == {f"{location}::{point}" for point in made[1:3]}
    assert turned["problems"] == []
    left = [point.point for point in stores.open(location).points(IDENTITY)]
    assert left == [made[0], made[3], made[4]]
    assert stores.open(location).points("other") == [other]
    few = vm_policy_from_dict({"point": location, "program": "dedup", "keep": {"last": 1, "min": 2}})
    place.rotate(host, job, events, few, [])
    assert [point.point for point in stores.open(location).points(IDENTITY)] == made[3:]


def test_a_machine_of_the_same_identity_on_another_host_pushes_nothing_out(
    stores: Stores, location: str, host: Host, tmp_path: Path
) -> None:
    ours = [fill(stores, location, job_in(location, host="esx-a"), tmp_path).point for _number in range(3)]
    job = job_in(location, host="esx-b")
    theirs = [fill(stores, location, job, tmp_path).point for _number in range(2)]
    policy = vm_policy_from_dict({"point": location, "program": "dedup", "keep": {"last": 1}})
    events = Events(({"event": "commit-done", "final": f"{location}::{theirs[-1]}"},))
    turned = places.of_job(job, stores).rotate(host, job, events, policy, [])
    assert [line["path"] for line in turned["removed"]] == [f"{location}::{theirs[0]}"]
    assert [point.point for point in stores.open(location).points(IDENTITY)] == [*ours, theirs[1]]


def test_how_long_a_machine_waits_goes_by_what_its_own_hypervisor_has_made_of_it_for_backups(
    stores: Stores, location: str, host: Host, tmp_path: Path
) -> None:
    old, new = "20261120T200000Z", "20261122T200000Z"
    fill(stores, location, job_in(location, host="esx-a", time=old), tmp_path)
    fill(stores, location, job_in(location, host="esx-b", time=new), tmp_path)
    fill(stores, location, job_in(location, host="esx-a", time=new), tmp_path, safety=True)
    place, wanted = places.of("dedup", stores), {7: (location, location, IDENTITY), 8: (location, location, "other")}
    assert place.newest(host, "esx-a", wanted) == {7: parse_point_time(old)}
    assert place.newest(host, "esx-c", wanted) == {}
    assert place.newest(host, "esx-a", {7: (f"{location}-none", "", IDENTITY)}) == {}


def plan_of(location: str, host: str, identity: str = IDENTITY) -> Any:
    policy = vm_policy_from_dict({"point": location, "program": "dedup"})
    vm = plan_vm(make_vm(identity=identity), policy, location, host)
    return HostPlan("run1", host, (vm,), (), (), {})


def test_a_plan_tells_who_else_makes_points_of_that_identity(stores: Stores, location: str, tmp_path: Path) -> None:
    def warned(host: str) -> str:
        (vm,) = storetwins.noticed(plan_of(location, host), stores).vms
        return " ".join(vm.warnings)

    assert warned("esx-a") == ""
    for host in ("esx-a", "esx-a", "esx-b"):
        fill(stores, location, job_in(location, host=host), tmp_path)
    # It has moved from one to the other, and is told of both: which of them tells the truth nobody can know.
    assert warned("esx-b") == "" and "take turns" in warned("esx-a")
    assert "made by esx-a (the newest 20" in warned("esx-c") and "none by esx-c yet" in warned("esx-c")
    fill(stores, location, job_in(location, host="esx-a"), tmp_path)
    assert "esx-a (the newest" in warned("esx-b") and "take turns" in warned("esx-b")
    assert "esx-b (the newest" in warned("esx-a") and "one UUID" in warned("esx-a")
    # A move of long ago is no news, and a store that is not there yet has none.
    for _night in range(2):
        fill(stores, location, job_in(location, host="esx-d"), tmp_path)
    assert warned("esx-d") == ""
    plan = plan_of(str(tmp_path / "absent"), "esx-a")
    assert storetwins.noticed(plan, stores) == plan


def test_the_parent_is_one_that_the_hypervisor_may_be_told_of(stores: Stores, location: str, tmp_path: Path) -> None:
    ours = fill(stores, location, job_in(location, host="esx-a"), tmp_path)
    theirs = fill(stores, location, job_in(location, host="esx-b"), tmp_path)
    store = stores.open(location)
    for scope, host, parent in (
        ("host", "esx-a", ours),
        ("host", "esx-b", theirs),
        ("host", "esx-c", None),
        ("store", "esx-a", theirs),
    ):
        assert newest(store, IDENTITY, scope, {"hypervisor": host}) == parent


def test_a_rotation_that_fails_is_told_and_fails_nothing(host: Host, tmp_path: Path) -> None:
    job = job_in(str(tmp_path / "gone"))
    policy = vm_policy_from_dict(job.policy)
    with Stores(Access()) as stores:
        turned = places.of_job(job, stores).rotate(host, job, noted(), policy, [])
    assert turned["removed"] == [] and "There is no store" in turned["problems"][0]


def plans(point: str, **more: Any) -> Any:
    policy = vm_policy_from_dict({"point": point, "program": "dedup", **more})
    return [plan_vm(make_vm(), policy, point, "esx1")]


def test_a_plan_names_what_is_wrong_with_a_store(stores: Stores, location: str, tmp_path: Path) -> None:
    assert storeroom.look(stores, location).problem is None
    absent = str(tmp_path / "absent")
    problem = storeroom.look(stores, absent).problem
    assert problem is not None and problem["id"] == "store-not-there"
    with Stores(Access(create=True)) as making:
        room = storeroom.look(making, absent)
        assert (room.problem, "is made before the first copy" in room.warning) == (None, True)
    with Stores(Access(passphrase="wrong")) as wrong:
        problem = storeroom.look(wrong, location).problem
        assert problem is not None and problem["id"] == "store-wrong-key"
        (plan,) = check_room(plans(location), [], "esx1", {location: storeroom.look(wrong, location)})
        assert [one["id"] for one in plan.problems] == ["store-wrong-key"]
    assert not os.path.exists(absent)


def test_a_store_whose_hash_no_hypervisor_knows_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("blake3")
    path = str(tmp_path / "blake3")
    Store.create(LocalBackend(path), hash_name="blake3").close()
    with Stores(Access()) as stores, pytest.raises(StoreNotForHosts):
        stores.open(path)


def test_room_is_that_of_the_store_and_its_quota(stores: Stores, location: str, tmp_path: Path) -> None:
    (plan,) = check_room(plans(location), [], "esx1", {location: StoreRoom(1 << 40, 1 << 39)})
    assert (plan.problems, plan.warnings) == ((), ())
    (plan,) = check_room(plans(location), [], "esx1", {location: StoreRoom(1 << 40, 1 << 30)})
    assert [one["id"] for one in plan.problems] == ["no-room"]
    (plan,) = check_room(plans(location), [], "esx1", {location: StoreRoom(0, 1 << 20)})
    assert plan.problems == () and "1.0 MiB left" in plan.warnings[0]
    small = str(tmp_path / "small")
    Store.create(LocalBackend(small), settings={"quota_bytes": 1 << 20}).close()
    with Stores(Access()) as opened:
        room = storeroom.look(opened, small)
    assert room == StoreRoom(0, (1 << 20) - (1 << 20) // 20)


@pytest.mark.parametrize(
    ("point", "program", "words"),
    [
        ("/vmfs/volumes/backup", "dedup", "is a folder there"),
        ("/vmfs/volumes/backup/", "dedup", "is a folder there"),
        ("/vmfs/elsewhere/a/b", "dedup", "is a folder there"),
        ("relative", "dedup", "an absolute path on the backup server"),
        ("/srv/../etc", "dedup", "no '..'"),
        ("/srv/a::b", "dedup", "no '::'"),
        ("folder", "vmkfstools", "an absolute folder on the hypervisor"),
        ("s3://bucket/x", "vmkfstools", "To another server use rsync .*dedup .* or borg"),
        ("backup2:22:/srv/x", "vmkfstools", "To another server use rsync .*dedup .* or borg"),
        ("ssh://root@backup2/srv/x", "dedup", "server:port:/path"),
        ("s3://bucket/x", "borg", "To a bucket use the program dedup"),
        ("/vmfs/volumes/backup", "borg", "use the program vmkfstools"),
        ("ssh://backup2", "borg", "ssh://user@server:port/path"),
        ("backup2:/srv/x", "borg", "or ssh://user@server/path"),
        ("/srv/a::b", "borg", "no '::'"),
        ("/srv/x", "rclone", "it may be vmkfstools, rsync, dedup"),
    ],
)
def test_a_backup_point_must_fit_its_program(point: str, program: str, words: str) -> None:
    with pytest.raises(BadPolicy, match=words):
        parse_policy({"point": point, "program": program})
    with pytest.raises(BadPolicy, match=words):
        # One machine's own settings are looked at together with those of all.
        parse_policy({"point": "/vmfs/volumes/b", "vms": {"web01": {"point": point, "program": program}}})


def test_one_machine_may_go_into_a_store_and_the_others_to_a_datastore() -> None:
    policy = parse_policy(
        {"point": "/vmfs/volumes/b", "vms": {"web01": {"point": "s3://bucket/esxi/", "program": "dedup"}}}
    )
    assert policy.for_vm(["web01"]).point == "s3://bucket/esxi"
    assert policy.for_vm(["db01"]).point == "/vmfs/volumes/b"
    assert parse_policy({"point": "/vmfs/volumes/b/s/", "program": "dedup"}).common.point == "/vmfs/volumes/b/s"


def test_no_secret_is_shown_by_what_holds_it() -> None:
    access = Access.of({"passphrase": SECRET, "secret_key": "abc", "create": False, "scope": "group", "group": "dmz"})
    assert (SECRET in repr(access), "abc" in repr(access)) == (False, False)
    assert (access.scope, access.group, access.create) == ("group", "dmz", False)
    assert Access.of(None) == Access()


def test_of_a_bucket_without_its_key_only_what_the_journal_knows_is_told(host: Host) -> None:
    job, point = job_in("s3://bucket/esxi"), "20261122T200000.000000Z-abcdef"
    place, path = places.of("dedup", Stores()), f"s3://bucket/esxi::{point}"
    assert place.made(host, job, noted((INTENT, point), (DONE, point))) == path
    assert storeplace.unsure(job, noted((INTENT, point), (DONE, point))) == ""
    assert (
        place.made(host, job, noted((INTENT, point))) == "" and storeplace.unsure(job, noted((INTENT, point))) == path
    )
    assert storeplace.unsure(job, noted()) == storeplace.unsure(job_in("/srv/s"), noted((INTENT, point))) == ""


def test_a_path_in_a_store_is_taken_apart() -> None:
    point = "20261122T200000.000000Z-abcdef"
    for store in ("/srv/a::b", "/srv/s", "/srv/::"):
        assert storeplace.parse_path(f"{store}::{point}/web::1.vmx") == (store, point, "web::1.vmx")
        assert storeplace.parse_path(f"{store}::{point}") == (store, point, "")
    assert storeplace.parse_path("/srv/s::P1/web 1.vmx") == ("/srv/s", "P1", "web 1.vmx")
    assert storeplace.parse_path("s3://b/x") == ("s3://b/x", "", "")
    # An address may hold the mark.
    for server in ("root@[2001:db8::1]:22:/srv/s", "ssh://root@[::1]:22/srv/s"):
        assert storeplace.parse_path(server) == (server, "", "")
        assert storeplace.parse_path(f"{server}::archive/web 1.vmx") == (server, "archive", "web 1.vmx")


@pytest.mark.parametrize("name", ["web $(x) ';\"", "-rf", "wüb \udcff\udcfe", "{{ 1+1 }}", "a" * 80])
def test_any_name_that_a_hypervisor_accepts_comes_back_as_it_was(
    stores: Stores, location: str, host: Host, tmp_path: Path, name: str
) -> None:
    job = job_in(location, vm=name)
    made = fill(
        stores,
        location,
        job,
        tmp_path,
        files=[*facts(job)["files"][:1], {"name": "web01.vmx", "size": 11, "role": "vmx"}],
    )
    assert commit(stores, host, job, noted((DONE, made.point))).vm == name


@pytest.mark.parametrize("said", ["python /bin/python3\ncommand nothing", ""])
def test_a_hypervisor_without_a_python_that_will_do_is_told_in_the_plan(said: str) -> None:
    class Silent:
        endpoint = Endpoint(host="esx1")

        def script(self, *_words: Any, **_more: Any) -> Result:
            return Result((), 0, said, "")

    nobody: Any = Silent()
    host: Any = SimpleNamespace(session=nobody)
    problem = storeroom.way_problem(host)
    assert problem is not None and problem["id"] == "transfer-no-way"


def test_a_hypervisor_that_can_be_read_by_its_commands_alone_is_no_target_of_a_restore() -> None:
    class Old:
        endpoint = Endpoint(host="esx60")

        def script(self, *_words: Any, **_more: Any) -> Result:
            return Result((), 0, "dd cde\n", "")

    old: Any = Old()
    host: Any = SimpleNamespace(session=old)
    assert storeroom.way_problem(host) is None
    assert {program: restore.no_way(host, program)[:20] for program in ("dedup", "vmkfstools")} == {
        "dedup": "there is no Python 3",
        "vmkfstools": "",
    }
