# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points as folders: the real scripts in a shell like the hypervisor's."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import rotation
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    ConfigNotCopied,
    NotReadable,
    PointExists,
    RemoteStepFailed,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.folderplace import FolderPlace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import identity_hash, partial_name
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import vm_policy_from_dict
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session
from fakeclock import FakeClock
from jobs_values import make_job

IDENTITY = "id-1"
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=0000000a
parentCID=ffffffff
createType="vmfs"
RW 8 VMFS "scsi0-0-flat.vmdk"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "backup" / f"web01-{identity_hash(IDENTITY)}"
    found.mkdir(parents=True)
    return found


@pytest.fixture
def host(session: Session) -> Host:
    # The host's own chain check, as the shell finds it; what it prints is from the facts.
    tool = Path(session.applets, "vmkfstools")  # type: ignore[attr-defined]
    tool.write_text("#!/bin/sh\n[ -f \"$2\" ] && echo 'Disk chain is consistent.'\n", encoding="utf-8")
    tool.chmod(0o755)
    return Host(session, clock=FakeClock(datetime(2026, 11, 23, tzinfo=timezone.utc)))


def job_at(folder: Path, time: str = "20261122T200000Z", **more: Any) -> Job:
    job = "run1-b0123456789ab"
    return make_job(
        identity=IDENTITY,
        job=job,
        time=time,
        partial=str(folder / partial_name(time, job)),
        final=str(folder / time),
        **more,
    )


def write_disk(partial: Path, sectors: int = 8) -> None:
    partial.mkdir(exist_ok=True)
    (partial / "scsi0-0.vmdk").write_text(DESCRIPTOR, encoding="utf-8")
    (partial / "scsi0-0-flat.vmdk").write_bytes(b"\x01" * 512 * sectors)


def prove(host: Host, partial: Path, **disk: Any) -> Any:
    disks = [{"key": "scsi0:0", "capacity_bytes": 4096, **disk}]
    return points.prove_disks(host, "web01", str(partial), disks, "thin")


def make_point(host: Host, folder: Path, time: str, made_on: str = "") -> Path:
    job = job_at(folder, time)
    write_disk(Path(job.partial))
    (Path(job.partial) / "web01.vmx").write_text("x", encoding="utf-8")
    disks = prove(host, Path(job.partial))
    value = {
        "time": time,
        "host": made_on,
        "vm": {"name": "web01", "identity": IDENTITY},
        "disks": [vars(disk) for disk in disks],
        "files": [vars(file) for file in points.list_files(host.session, job.partial)],
    }
    points.commit(host.session, job, value)
    return Path(job.final)


def test_a_committed_folder_is_listed_with_its_files(host: Host, folder: Path) -> None:
    final = make_point(host, folder, "20261122T200000Z")
    found, bad = points.list_points(host, str(folder.parent), IDENTITY)
    assert ([point.path for point in found], bad) == ([str(final)], [])
    assert {file.name for file in found[0].files} == {"scsi0-0.vmdk", "scsi0-0-flat.vmdk", "web01.vmx"}
    assert os.listdir(folder) == ["20261122T200000Z"]


def test_a_partial_folder_is_never_listed(host: Host, folder: Path) -> None:
    job = job_at(folder)
    write_disk(Path(job.partial))
    (Path(job.partial) / "stowage.json").write_text("{}", encoding="utf-8")
    assert points.list_points(host, str(folder.parent)) == ([], [])


def test_a_commit_never_replaces_a_restore_point(host: Host, folder: Path) -> None:
    final = make_point(host, folder, "20261122T200000Z")
    before = sorted(os.listdir(final))
    with pytest.raises(PointExists):
        make_point(host, folder, "20261122T200000Z")
    assert sorted(os.listdir(final)) == before


def test_a_good_copy_is_proven(host: Host, folder: Path) -> None:
    partial = folder / "p"
    write_disk(partial)
    (disk,) = prove(host, partial)
    assert (disk.key, disk.file, disk.capacity_bytes, disk.cid) == ("scsi0:0", "scsi0-0.vmdk", 4096, "0000000a")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda partial: (partial / "scsi0-0.vmdk").unlink(), "not there"),
        (lambda partial: (partial / "scsi0-0.vmdk").write_text("KDMV"), "descriptor"),
        (lambda partial: (partial / "scsi0-0.vmdk").write_text(DESCRIPTOR.replace("RW 8", "RW 16")), "8192"),
        (lambda partial: (partial / "scsi0-0-flat.vmdk").unlink(), "missing"),
        (lambda partial: (partial / "scsi0-0-flat.vmdk").write_bytes(b"\x01" * 4095), "4095"),
        (
            lambda partial: (partial / "scsi0-0.vmdk").write_text(
                DESCRIPTOR.replace("parentCID=ffffffff", 'parentCID=0000000b\nparentFileNameHint="x.vmdk"')
            ),
            "x.vmdk",
        ),
        (
            lambda partial: (partial / "scsi0-0.vmdk").write_text(DESCRIPTOR.replace('"scsi0', '"../scsi0')),
            "missing",
        ),
    ],
)
def test_a_damaged_copy_is_never_proven(host: Host, folder: Path, damage: Any, word: str) -> None:
    partial = folder / "p"
    write_disk(partial)
    damage(partial)
    with pytest.raises(NotReadable) as caught:
        prove(host, partial)
    assert word in caught.value.message and "scsi0:0" in caught.value.message


def test_the_hosts_own_verdict_on_the_chain_counts(host: Host, folder: Path) -> None:
    partial = folder / "p"
    write_disk(partial)
    tool = Path(host.session.applets, "vmkfstools")  # type: ignore[attr-defined]
    tool.write_text("#!/bin/sh\necho 'Disk chain is not consistent : x (18)'\n", encoding="utf-8")
    with pytest.raises(NotReadable) as caught:
        prove(host, partial)
    assert "(18)" in caught.value.message


def test_a_removal_deletes_what_the_manifest_lists_and_the_folder(host: Host, folder: Path) -> None:
    make_point(host, folder, "20261122T200000Z")
    (point,), _bad = points.list_points(host, str(folder.parent))
    assert points.remove(host.session, point) == []
    assert os.listdir(folder) == []


def test_a_foreign_file_stays_in_its_place_and_is_told(host: Host, folder: Path) -> None:
    final = make_point(host, folder, "20261122T200000Z")
    (final / "notes of the boss.txt").write_text("keep", encoding="utf-8")
    (point,), _bad = points.list_points(host, str(folder.parent))
    assert points.remove(host.session, point) == ["notes of the boss.txt"]
    assert os.listdir(final) == ["notes of the boss.txt"]
    assert points.list_points(host, str(folder.parent)) == ([], [])


def test_a_removal_that_was_cut_short_is_finished_by_the_next_rotation(host: Host, folder: Path) -> None:
    final = make_point(host, folder, "20261120T200000Z")
    os.rename(final, folder / ".removing-20261120T200000Z")
    (folder / ".removing-20261120T200000Z" / "scsi0-0-flat.vmdk").unlink()
    newest = make_point(host, folder, "20261122T200000Z")
    policy = vm_policy_from_dict({"point": str(folder.parent)})
    result = rotation.rotate(host, job_at(folder), policy)
    assert os.listdir(folder) == [newest.name]
    assert "cut short" in result["removed"][0]["reasons"][0]


def test_rotation_removes_by_policy_and_leaves_what_is_not_a_point_of_this_machine(host: Host, folder: Path) -> None:
    for day in (19, 20, 21, 22):
        make_point(host, folder, f"202611{day}T200000Z")
    (folder / "20261101T000000Z").mkdir()
    (folder / "20261101T000000Z" / "scsi0-0.vmdk").write_text("foreign", encoding="utf-8")
    (folder / "20261102T000000Z").mkdir()
    (folder / "20261102T000000Z" / "stowage.json").write_text("{}", encoding="utf-8")
    (folder / "20261119T200000Z" / "stowage.hold").write_text("", encoding="utf-8")
    policy = vm_policy_from_dict({"point": str(folder.parent), "keep": {"last": 1, "min": 1}})
    result = rotation.rotate(host, job_at(folder), policy)
    assert sorted(os.listdir(folder)) == [
        "20261101T000000Z",
        "20261102T000000Z",
        "20261119T200000Z",
        "20261122T200000Z",
    ]
    assert len(result["removed"]) == 2 and len(result["kept"]) == 2
    assert any("20261102T000000Z" in problem for problem in result["problems"])


def test_a_point_that_was_put_away_behind_a_link_is_kept(host: Host, folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "archive" / "20261119T200000Z"
    away.parent.mkdir()
    for day in (19, 20, 21):
        make_point(host, folder, f"202611{day}T200000Z")
    for name in ("20261119T200000Z", ".removing-20261118T200000Z"):
        if name == away.name:
            os.rename(folder / name, away)
        (folder / name).symlink_to(away)
    known = sorted(os.listdir(away))
    policy = vm_policy_from_dict({"point": str(folder.parent), "keep": {"last": 1}})
    result = rotation.rotate(host, job_at(folder, "20261121T200000Z"), policy)
    assert (sorted(os.listdir(away)), result["problems"]) == (known, [])
    assert [one["path"].rpartition("/")[2] for one in result["removed"]] == ["20261120T200000Z"]
    assert ["held"] in [one["reasons"] for one in result["kept"]]


def test_a_clock_that_jumped_ahead_makes_no_point_old_and_is_told(host: Host, folder: Path) -> None:
    for day in (19, 20, 21):
        make_point(host, folder, f"202611{day}T200000Z")
    make_point(host, folder, "20280101T000000Z")
    host.clock = FakeClock(datetime(2028, 1, 1, tzinfo=timezone.utc))
    date = Path(host.session.applets, "date")  # type: ignore[attr-defined]
    date.unlink()
    date.write_text("#!/bin/sh\necho 1795348800\n", encoding="utf-8")
    date.chmod(0o755)
    policy = vm_policy_from_dict({"point": str(folder.parent), "keep": {"last": 0, "within_days": 7}})
    result = rotation.rotate(host, job_at(folder, "20280101T000000Z"), policy)
    assert (len(result["kept"]), result["removed"]) == (4, [])
    assert "2026-11-22T12:00:00Z" in result["problems"][0] and "2028-01-01T00:00:00Z" in result["problems"][0]


def test_a_file_that_cannot_be_deleted_keeps_the_manifest_until_it_can(host: Host, folder: Path) -> None:
    """A datastore refuses to delete what somebody reads; the rest must not be left without a name."""
    old = make_point(host, folder, "20261120T200000Z")
    newest = make_point(host, folder, "20261122T200000Z")
    # rm -f refuses a folder as it refuses a file that is in use.
    (old / "scsi0-0-flat.vmdk").unlink()
    (old / "scsi0-0-flat.vmdk").mkdir()
    policy = vm_policy_from_dict({"point": str(folder.parent), "keep": {"last": 1}})
    result = rotation.rotate(host, job_at(folder), policy)
    assert result["removed"] == [] and "scsi0-0-flat.vmdk" in result["problems"][0]
    (folder / f".removing-{old.name}" / "scsi0-0-flat.vmdk").rmdir()
    result = rotation.rotate(host, job_at(folder), policy)
    assert (os.listdir(folder), result["problems"]) == ([newest.name], [])
    assert old.name in result["removed"][0]["path"]


def test_a_removal_that_was_cut_at_its_last_step_leaves_no_empty_folder(host: Host, folder: Path) -> None:
    newest = make_point(host, folder, "20261122T200000Z")
    (folder / ".removing-20261120T200000Z").mkdir()
    rotation.rotate(host, job_at(folder), vm_policy_from_dict({"point": str(folder.parent)}))
    assert os.listdir(folder) == [newest.name]


def test_of_two_hosts_that_share_a_datastore_none_pushes_out_what_the_other_has_made(host: Host, folder: Path) -> None:
    """A VM that was copied without a new UUID, and both are backed up."""
    for day in range(17, 23):
        make_point(host, folder, f"202611{day}T200000Z", made_on="esx1" if day % 2 else "esx2")
    policy = vm_policy_from_dict({"point": str(folder.parent), "keep": {"last": 2}})
    job = job_at(folder, "20261121T200000Z", host="esx1")
    FolderPlace().rotate(host, job, Events(), policy, [])
    assert sorted(os.listdir(folder)) == [f"202611{day}T200000Z" for day in (18, 19, 20, 21, 22)]


def test_what_a_restore_reads_is_not_rotated_away(host: Host, folder: Path) -> None:
    for day in (20, 21, 22):
        make_point(host, folder, f"202611{day}T200000Z")
    policy = vm_policy_from_dict({"point": str(folder.parent), "keep": {"last": 1}})
    # The other host sees the same datastore under its UUID.
    path = f"/vmfs/volumes/0-1-2-3/{folder.name}/20261120T200000Z"
    reader = make_job(kind="restore", host="esx2", extra={"restore_point": {"path": path}, "files": []})
    result = rotation.rotate(host, job_at(folder), policy, [reader, make_job()])
    assert sorted(os.listdir(folder)) == ["20261120T200000Z", "20261122T200000Z"]
    assert ["a restore reads it"] in [one["reasons"] for one in result["kept"]]
    rotation.rotate(host, job_at(folder), policy)
    assert os.listdir(folder) == ["20261122T200000Z"]


def test_rotation_switched_off_removes_nothing(host: Host, folder: Path) -> None:
    for day in (21, 22):
        make_point(host, folder, f"202611{day}T200000Z")
    policy = vm_policy_from_dict({"point": str(folder.parent), "keep": {"last": 1}, "rotate": False})
    assert rotation.rotate(host, job_at(folder), policy)["removed"] == []
    assert len(os.listdir(folder)) == 2


def test_configuration_is_copied_and_an_absent_file_passed_over(session: Session, tmp_path: Path) -> None:
    source, dest = tmp_path / "a b", tmp_path / "dest"
    source.mkdir()
    dest.mkdir()
    (source / "it's $(x).vmx").write_text("vmx", encoding="utf-8")
    copied = points.copy_files(session, "web01", [str(source / "it's $(x).vmx"), str(source / "no.nvram")], str(dest))
    assert copied == [str(source / "it's $(x).vmx")]
    assert (dest / "it's $(x).vmx").read_text(encoding="utf-8") == "vmx"


def test_a_configuration_that_cannot_be_copied_is_an_error_that_names_it(session: Session, tmp_path: Path) -> None:
    (tmp_path / "a.vmx").write_text("vmx", encoding="utf-8")
    with pytest.raises(ConfigNotCopied) as caught:
        points.copy_files(session, "web01", [str(tmp_path / "a.vmx")], str(tmp_path / "gone"))
    assert "a.vmx" in caught.value.message


def test_a_renamed_machine_keeps_its_folder(session: Session, tmp_path: Path) -> None:
    point = tmp_path / "backup"
    old = point / f"old-name-{identity_hash(IDENTITY)}"
    old.mkdir(parents=True)
    known = points.vm_folders(session, [str(point)])
    assert points.vm_folder(known, str(point), "new name", IDENTITY) == str(old)
    assert points.vm_folder(known, str(point), "new name", "id-2") == f"{point}/new-name-{identity_hash('id-2')}"


def test_nothing_is_made_below_a_datastore_that_is_not_mounted(session: Session, tmp_path: Path) -> None:
    job = make_job(partial="/vmfs/volumes/gone/x/.partial-t-run1-b0123456789ab")
    with pytest.raises(StowageError) as caught:
        points.prepare(session, job, IntentLog(session, str(tmp_path)))
    assert "/vmfs/volumes/gone" in caught.value.message


@pytest.mark.parametrize(
    "name", ["-n x.vmx", "--help.vmx", "$(touch boo) `touch boo`.vmx", " 'q\" [b]*?.vmx", ".hidden.vmx"]
)
def test_a_file_is_listed_whatever_its_name(session: Session, tmp_path: Path, name: str) -> None:
    (tmp_path / "point").mkdir()
    (tmp_path / "point" / name).write_text("x" * 7)
    (found,) = points.list_files(session, str(tmp_path / "point"))
    assert (found.name, found.size, found.role) == (name, 7, "vmx")


def cut_short(host: Host, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """The shell of that script is killed when it has printed its first line."""
    run = host.session.script

    def killed(text: str, args: Any = (), **more: Any) -> Result:
        said = run(text, args, **more)
        return Result(said.argv, 137, said.stdout.partition("\n")[0] + "\n", "Killed") if text == script else said

    monkeypatch.setattr(host.session, "script", killed)


@pytest.mark.parametrize("script", ["_LIST", "_FOLDERS", "_REMOVING"])
def test_a_list_whose_shell_was_killed_is_no_list(
    host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    make_point(host, folder, "20261122T200000Z")
    make_point(host, folder, "20261123T200000Z")
    cut_short(host, monkeypatch, getattr(points, script))
    asks = {
        "_LIST": lambda: points.list_points(host, str(folder.parent)),
        "_FOLDERS": lambda: points.vm_folders(host.session, [str(folder.parent)]),
        "_REMOVING": lambda: points.half_removed(host, str(folder)),
    }
    with pytest.raises(RemoteStepFailed) as caught:
        asks[script]()
    assert str(folder.parent) in caught.value.message and "137" in caught.value.message


def test_a_host_that_does_not_answer_says_nothing_about_a_restore_point(
    host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = make_point(host, folder, "20261122T200000Z")

    def cut(*_: Any, **__: Any) -> Result:
        raise ConnectionLost(host="esx1", port=22, command="cat", reason="reset")

    monkeypatch.setattr(host.session, "script", cut)
    with pytest.raises(ConnectionLost):
        points.read_point(host, str(final))


def test_a_line_that_breaks_during_the_rotation_costs_no_fresh_restore_point(
    host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_point(host, folder, "20261122T200000Z")
    run = host.session.script

    def cut(text: str, args: Any = (), **more: Any) -> Result:
        if text == points._REMOVING:
            raise ConnectionLost(host="esx1", port=22, command="sh", reason="reset")
        return run(text, args, **more)

    monkeypatch.setattr(host.session, "script", cut)
    policy = vm_policy_from_dict({"point": str(folder.parent)})
    turned = rotation.rotate(host, job_at(folder), policy)
    assert len(turned["kept"]) == 1 and "reset" in turned["problems"][0]


def test_the_newest_point_of_a_machine_is_that_with_a_manifest_and_a_name_of_its_own(host: Host, folder: Path) -> None:
    other = folder.parent / "a $(b) *-000000000000"
    for path in (
        folder / "20261120T200000Z",
        folder / "20261121T200000Z",
        folder / "20261399T000000Z",
        folder / partial_name("20261122T200000Z", "run1-b0123456789ab"),
        other / "20261119T010203Z",
    ):
        path.mkdir(parents=True)
        (path / "stowage.json").write_text("{}", encoding="utf-8")
    (folder / "20261123T200000Z").mkdir()
    found = points.newest(host.session, [str(folder), str(other), str(folder.parent / "none"), str(folder)])
    assert found == {
        str(folder): datetime(2026, 11, 21, 20, tzinfo=timezone.utc),
        str(other): datetime(2026, 11, 19, 1, 2, 3, tzinfo=timezone.utc),
    }
