# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock: the real scripts in a shell like the hypervisor's."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import LockLost
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import parse_job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import Sign, doubt_seconds, is_stale
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import RemoteFileError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from jobs_values import make_job

JOB = make_job()


@pytest.fixture
def directory(tmp_path: Path) -> str:
    folder = tmp_path / "VM $(touch pwned) 'x'"
    folder.mkdir()
    return str(folder)


def locked(session: Session, directory: str, age: int = 0) -> str:
    assert lock.acquire(session, directory)
    folder = lock.folder_of(directory)
    lock.write_job(session, folder, JOB)
    then = time.time() - age
    os.utime(os.path.join(folder, lock.LEASE), (then, then))
    return folder


def test_only_one_of_two_gets_the_lock(session: Session, directory: str) -> None:
    assert lock.acquire(session, directory) is True
    assert lock.acquire(session, directory) is False


def test_a_lock_that_cannot_be_named_for_want_of_room_is_given_back(
    session: Session, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, text: str) -> None:
        raise RemoteFileError(host="esx1", port=22, path=path, done="written", reason="No space left on device")

    assert lock.acquire(session, directory)
    monkeypatch.setattr(session, "write_text", full)
    with pytest.raises(RemoteFileError):
        lock.write_job(session, lock.folder_of(directory), JOB)
    assert os.listdir(directory) == []


def test_of_many_at_once_exactly_one_gets_the_lock(session: Session, directory: str) -> None:
    won: list[bool] = []
    threads = [threading.Thread(target=lambda: won.append(lock.acquire(session, directory))) for _one in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_a_folder_that_was_taken_over_is_a_lock_too(session: Session, directory: str) -> None:
    os.mkdir(os.path.join(directory, ".stowage-job.abc"))
    assert lock.acquire(session, directory) is False
    assert os.listdir(directory) == [".stowage-job.abc"]


def test_a_missing_folder_is_an_error_and_not_a_lock(session: Session, tmp_path: Path) -> None:
    with pytest.raises(StowageError) as caught:
        lock.acquire(session, str(tmp_path / "gone"))
    assert "gone" in caught.value.message


def test_a_look_finds_the_job_and_the_age_of_its_lease(session: Session, directory: str) -> None:
    locked(session, directory, age=500)
    (found,) = lock.look(session, [directory])
    assert found.job == JOB and found.directory == directory
    assert 499 <= found.sign.age <= 520
    assert is_stale(found.sign, 180, sure=True)


def test_a_look_without_touching_changes_nothing(session: Session, directory: str) -> None:
    folder = locked(session, directory)
    before = sorted(os.listdir(folder))
    assert lock.look(session, [directory], touch=False)
    assert sorted(os.listdir(folder)) == before


def test_a_lock_without_a_name_is_aged_by_its_folder_and_ages_on_in_spite_of_looks(
    session: Session, directory: str
) -> None:
    assert lock.acquire(session, directory)
    folder = lock.folder_of(directory)
    os.unlink(os.path.join(folder, lock.LEASE))
    lock.look(session, [directory])
    os.utime(folder, (time.time() - 400,) * 2)
    (found,) = lock.look(session, [directory])
    assert (found.job, found.lease) == (None, "none")
    assert found.sign.age >= 399


@pytest.mark.parametrize("text", ['{"schema": 99}', "not json", "[]"])
def test_a_job_of_another_version_is_told_apart_from_no_job(session: Session, directory: str, text: str) -> None:
    folder = locked(session, directory)
    Path(folder, "job.json").write_text(text, encoding="utf-8")
    (found,) = lock.look(session, [directory])
    assert found.job is None and found.unreadable


def test_of_two_that_take_over_only_one_wins_and_the_lock_is_never_free(session: Session, directory: str) -> None:
    locked(session, directory, age=500)
    (found,) = lock.look(session, [directory])
    first, second = lock.take_over(session, found), lock.take_over(session, found)
    assert first is not None and second is None
    assert lock.acquire(session, directory) is False
    (now,) = lock.look(session, [directory])
    assert (now.path, now.job) == (first, JOB) and now.sign.age < 60


def test_an_owner_who_came_back_keeps_his_lock(session: Session, directory: str) -> None:
    folder = locked(session, directory, age=500)
    (found,) = lock.look(session, [directory])
    lock.beat(session, folder, JOB.job, JOB.vm)
    assert lock.take_over(session, found) is None
    assert os.path.isdir(folder)


def test_a_new_job_in_the_place_of_the_stale_one_is_not_taken_over(session: Session, directory: str) -> None:
    folder = locked(session, directory, age=500)
    (found,) = lock.look(session, [directory])
    stamp = os.stat(os.path.join(folder, lock.LEASE)).st_mtime
    lock.write_job(session, folder, make_job(job="run2-b0123456789ab"))
    os.utime(os.path.join(folder, lock.LEASE), (stamp, stamp))
    assert lock.take_over(session, found) is None
    assert lock.read_job(session, folder) == make_job(job="run2-b0123456789ab")


def test_the_old_owner_notices_at_his_next_beat_and_makes_nothing_anew(session: Session, directory: str) -> None:
    folder = locked(session, directory, age=500)
    (found,) = lock.look(session, [directory])
    lock.take_over(session, found)
    with pytest.raises(LockLost):
        lock.beat(session, folder, JOB.job, JOB.vm)
    assert not os.path.exists(folder)


def test_giving_back_removes_our_folder_and_nobody_elses(session: Session, directory: str) -> None:
    folder = locked(session, directory)
    with pytest.raises(LockLost):
        lock.release(session, folder, "run2-b0123456789ab")
    assert os.path.isdir(folder)
    lock.release(session, folder, JOB.job)
    assert os.listdir(directory) == []
    lock.release(session, folder, JOB.job)


@pytest.mark.parametrize(
    ("age", "sure", "second", "stale"),
    [
        (181, True, None, True),
        (180, True, None, False),
        (-5, True, None, False),
        (-5, False, None, False),
        (-5, True, 0, True),
        (-99999, False, 0, True),
        (-99999, True, 3, False),
        (-99999, True, -99999, False),
        (9999, False, None, False),
        (9999, False, 0, True),
        (9999, False, 3, False),
        (10, False, 0, False),
    ],
)
def test_a_lease_is_stale_only_when_no_clock_can_be_the_reason(
    age: int, sure: bool, second: int | None, stale: bool
) -> None:
    first = Sign(lease=1000, touched=1000 + age)
    again = None if second is None else Sign(lease=1000 + second, touched=1020 + age)
    assert is_stale(first, 180, sure, again) is stale


@pytest.mark.parametrize(
    ("age", "sure", "seconds"),
    [
        (0, True, 0),
        (180, False, 0),
        (181, True, 0),
        (181, False, 20),
        (-1, True, 181),
        (-99999, False, 181),
    ],
)
def test_only_doubt_costs_a_second_look(age: int, sure: bool, seconds: float) -> None:
    assert doubt_seconds(Sign(lease=1000, touched=1000 + age), 180, sure, 20.0) == seconds


def test_a_job_survives_its_file_and_a_cut_file_is_no_job() -> None:
    job = make_job(disks=({"key": "scsi0:0", "action": "copy"},), vm="näme\n'\"")
    assert parse_job(job.render()) == job
    assert "\n" not in job.render().rstrip("\n")
    assert parse_job(job.render()[:-20]) is None


def test_the_mirror_tells_the_jobs_of_one_host(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    other = make_job(job="run1-bffffffffffff", host="esx2")
    for job in (JOB, other):
        jobs.write_mirror(state, job)
    assert jobs.mirrors(state, "esx1") == [JOB]
    jobs.remove_mirror(state, JOB.job)
    jobs.remove_mirror(state, JOB.job)
    assert jobs.mirrors(state, "esx1") == [] and jobs.mirrors(state, "esx2") == [other]
