# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every SSH connection to the hypervisor breaks at once, somewhere in a backup into a store or in a restore out of it.

The wire counts what the whole job carries, over all of its connections, and breaks them at a byte of it; that byte is
drawn evenly over all that an undisturbed job carries. The job comes through, or it fails and says why. Either way the
hypervisor is afterwards, file by file and process by process, what it was, and what came of it is proven by others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import ending, record, recover, restoring
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.store import verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from judge import file_system_is_clean, one_moment, same_content

from . import hoststate, stories
from .conftest import Lab, wait_until
from .hoststate import HostState
from .stories import HOST, NAME, reached
from .test_dedup import SECRET, StoreStory, bring_back, points_in, raw, restore_context

impatient = stories.impatient
SEED, COUNT = 20, 50
#: Of what an undisturbed job carries; a little more is carried by some jobs than by others.
LAST = 0.97
RESUMED, FAILED, RECOVERED = "resumed", "failed cleanly", "undone by recover"


def points(name: str, count: int) -> list[float]:
    """Evenly spread and not regular, one at random in each of so many equal parts; in no order, so that a run that is
    ended early has met all of it."""
    chooser = random.Random(f"{SEED} {name}")
    found = [(number + chooser.random()) * LAST / count for number in range(count)]
    chooser.shuffle(found)
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    part: float
    outcome: str
    error: str
    renewals: int


@pytest.fixture
def host(clean_lab: Lab) -> Iterator[Host]:
    with reached(clean_lab, HOST) as found:
        yield found


class Bench:
    """A machine of the lab, jobs that are disturbed, and what is looked at afterwards."""

    def __init__(self, lab: Lab, host: Host, work: Path) -> None:
        self.lab, self.host, self.work = lab, host, work
        self.machine = lab.host(HOST)
        self.count = self.last = 0
        self.before = self.look()

    def look(self) -> HostState:
        return hoststate.look(self.machine)

    def story(self, stores: Stores, place: Path) -> StoreStory:
        self.count += 1
        where = {"program": "dedup", "point": str(place), "reserve_percent": 0}
        return StoreStory(self.lab, self.host, self.work / "state", f"cut-{self.count:04d}", "hot", stores, **where)

    def carried(self) -> int:
        return int(self.machine.status["connections"]["carried"])

    def disturbed(self, act: Callable[[], None], at: int) -> StowageError | None:
        """What the act ends with when the wire breaks after so many bytes; 0: it does not."""
        began = self.carried()
        if at:
            self.machine.fault("cut", mode="reset", total_bytes=at)
        try:
            act()
        except StowageError as error:
            return error
        finally:
            carried = self.carried() - began
            self.lab.clear()
            self.last = carried
        return None

    def ended(
        self, job: StoreStory, context: Context, error: StowageError | None, copies: Sequence[Any]
    ) -> tuple[str, str]:
        """The end as the role has it; and what the next recover does, where that was cut, too."""
        told = error.as_dict() if error is not None else None
        try:
            ended = ending.end(context, "failed" if error else "ok", told, copies)
            problem: StowageError | None = ended.error
        except StowageError as failure:
            problem = failure
        if problem is None:
            return (FAILED if error else RESUMED), error.message if error else ""
        with contextlib.suppress(FileNotFoundError):
            os.utime(job.outside(context.folder) / "lease", (time.time() - 1000,) * 2)
        outcomes = recover.recover_host(self.host, HOST, str(self.work / "state"), 0.1, 60, stores=context.stores)
        left = [one for found in outcomes for one in found.left]
        assert left == [], left
        return RECOVERED, (error or problem).message

    def as_it_was(self) -> None:
        """Files, processes and open files of the host; snapshots; the jobs that the backup server still knows."""
        found: list[str] = []

        def same() -> bool:
            # A guest that has just been told of its merged disk opens it a moment later.
            found[:] = self.before.differences(self.look())
            return not found

        with contextlib.suppress(AssertionError):
            wait_until(same, "the host as it was", 15)
        assert found == []
        vm = self.host.find_vm(name=NAME)
        assert (vm.power_state(), list(snapshots.tree(vm))) == ("poweredOn", [])
        assert list((self.work / "state" / "jobs").glob("*.json")) == []


@pytest.fixture
def bench(clean_lab: Lab, host: Host, tmp_path: Path) -> Bench:
    return Bench(clean_lab, host, tmp_path)


def proven(job: StoreStory, work: Path) -> None:
    """The newest point of the store, by the store's own proof and by judges that know none of it."""
    report = verify.run(job.context.stores.open(job.entry["target"]), deep=True)
    assert report.ok, report.problems
    found = points_in(job)
    if found:
        disk = raw(job, found[-1], work)
        try:
            one_moment([disk])
            file_system_is_clean(disk)
        finally:
            disk.unlink()


def backed_up(bench: Bench, at: int) -> tuple[str, str, int]:
    """One first backup into a store of its own, so that all of the disk is sent."""
    place = bench.work / f"store{bench.count}"
    Store.create(LocalBackend(str(place)), passphrase=SECRET).close()
    with Stores(Access(passphrase=SECRET)) as stores:
        job = bench.story(stores, place)

        def act() -> None:
            job.start()
            job.bracket()
            job.copy()
            job.commit()

        error = bench.disturbed(act, at)
        outcome, words = bench.ended(job, job.context, error, job.told["disks"] if not error else ())
        made = points_in(job)
        entry = record.read_entry(job.state, job.context.run_id, HOST, job.entry["identity"])
        assert entry is not None
        if outcome == RESUMED:
            assert (len(made), entry["status"], entry["proven"]) == (1, "ok", True), entry["error"]
        else:
            # A point that was whole when the wire broke stays, and is not called a success.
            assert entry["status"] != "ok" and len(made) == (entry["restore_point"] is not None)
        bench.as_it_was()
        proven(job, bench.work)
        notes = [note for disk in entry["disks"] for note in disk.get("notes", ()) if "connections were lost" in note]
    return outcome, words, int(notes[0].split()[0]) if notes else 0


def brought_back(bench: Bench, job: StoreStory, image: Path, at: int) -> tuple[str, str, int]:
    """The machine out of the store, under another name, which goes again when it was proven."""
    bench.count += 1
    context = restore_context(job, f"cut-{bench.count:04d}")
    copies: list[Any] = []

    def act() -> None:
        restoring.start(context)
        copies.extend(bring_back(job, context))
        restoring.commit(context, True)

    error = bench.disturbed(act, at)
    outcome, words = bench.ended(job, context, error, copies if not error else ())
    names = {vm.name: vm for vm in bench.host.vms()}
    restored = names.get("out of the store")
    assert (restored is not None) is (outcome == RESUMED) or outcome == RECOVERED
    if restored is not None:
        disk = job.outside(context.entry["disks"][0]["dest"])
        assert same_content(disk, image) == "Images are identical."
        bench.host.unregister(restored.vmid)
        bench.host.run("rm", "-rf", context.entry["directory"])
    bench.as_it_was()
    return outcome, words, 0


def table(rows: list[Row]) -> str:
    found = [f"| {row.part:.3f} | {row.outcome} | {row.renewals or ''} | {row.error[:160]} |" for row in rows]
    return "\n".join([*found, str(dict(Counter(row.outcome for row in rows)))])


def with_a_point(bench: Bench, stores: Stores, place: Path) -> tuple[StoreStory, Path]:
    """A backup that nobody disturbs, and its disk as a plain file; `bench.last`: the bytes that it carried."""
    Store.create(LocalBackend(str(place)), passphrase=SECRET).close()
    job = bench.story(stores, place)
    assert bench.disturbed(lambda: job.whole() and None, 0) is None
    return job, raw(job, points_in(job)[-1], bench.work)


def test_a_backup_and_a_restore_whose_connections_break_resume_or_fail_cleanly(bench: Bench, tmp_path: Path) -> None:
    with Stores(Access(passphrase=SECRET)) as stores:
        job, image = with_a_point(bench, stores, tmp_path / "source")
        whole = bench.last
        for act in (partial(backed_up, bench), partial(brought_back, bench, job, image)):
            row = broken(bench, 0.4, whole, act)
            assert (row.outcome == RESUMED) is (not row.error), row
            print(f"of {whole} bytes: {row}")


@pytest.mark.soak
def test_a_backup_whose_connections_break_anywhere_resumes_or_fails_cleanly(bench: Bench) -> None:
    assert backed_up(bench, 0)[0] == RESUMED
    judge(bench, "backup", bench.last, partial(backed_up, bench))


@pytest.mark.soak
def test_a_restore_whose_connections_break_anywhere_resumes_or_fails_cleanly(bench: Bench, tmp_path: Path) -> None:
    with Stores(Access(passphrase=SECRET)) as stores:
        job, image = with_a_point(bench, stores, tmp_path / "source")
        assert brought_back(bench, job, image, 0)[0] == RESUMED
        judge(bench, "restore", bench.last, partial(brought_back, bench, job, image))


def broken(bench: Bench, part: float, whole: int, act: Callable[[int], tuple[str, str, int]]) -> Row:
    """What becomes of the act when the wire breaks after that part of its bytes."""
    at = int(part * whole)
    outcome, words, renewals = act(at)
    if bench.last < at:
        # How much is packed on its way goes by the pace of the wire: it came to its end before that byte.
        assert outcome == RESUMED
        at = int(part * bench.last)
        outcome, words, renewals = act(at)
    assert bench.last >= at, "the wire did not break"
    return Row(part, outcome, words, renewals)


def judge(bench: Bench, what: str, whole: int, act: Callable[[int], tuple[str, str, int]]) -> None:
    rows: list[Row] = []
    for part in points(what, COUNT):
        rows.append(broken(bench, part, whole, act))
        print(what, len(rows), rows[-1], flush=True)
    print(f"{whole} bytes a {what}\n{table(rows)}")
    assert sum(row.outcome == RESUMED for row in rows) > COUNT // 2
    assert not [row for row in rows if (row.outcome == RESUMED) is bool(row.error)]
