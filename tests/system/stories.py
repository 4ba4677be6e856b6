# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs of the room `jobs` against a simulated host, told step by step: for the tests that cut them anywhere."""

from __future__ import annotations

import contextlib
import os
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, ending, journal, planning, recover, undo
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session

from .conftest import Lab

NAME, HOST = "plain80", "esx80"
POINT = "/vmfs/volumes/backup/jobs"


def quick(seconds: float = 90.0) -> Waiter:
    return Waiter(seconds, interval_seconds=0.2, max_interval_seconds=1.0)


class Story:
    """One VM's job on the lab's host, step by step, as the role tells it."""

    name, label = NAME, HOST

    def __init__(
        self,
        lab: Lab,
        host: Host,
        state: Path,
        run_id: str,
        how: str = "hot",
        stores: Stores | None = None,
        **policy: Any,
    ) -> None:
        self.lab = lab
        self.host = host
        self.state = str(state)
        wishes = {"point": POINT, "select": [self.name], "how": how, **policy}
        plan = planning.plan_backup(host, wishes, run_id, self.label, {}, stores).as_dict()
        (self.entry,) = plan["vms"]
        problems = self.entry["problems"]
        assert not problems, problems
        self.context = Context(host, self.entry, run_id, self.state, self.label, "tests", stores=stores or Stores())
        self.job: Any = None

    @property
    def vm(self) -> VirtualMachine:
        return self.host.find_vm(name=self.name)

    @property
    def log(self) -> IntentLog:
        return IntentLog(self.host.session, self.context.folder)

    def start(self) -> None:
        self.job, new = backup.start(self.context)
        assert new

    def stop(self) -> None:
        power.shutdown_guest(self.vm, quick(), self.log)

    def snap(self) -> None:
        snapshots.create(self.vm, self.job.snapshot_name, waiter=quick(), journal=self.log)

    def bracket(self) -> None:
        if self.job.stop:
            self.stop()
        if self.job.snapshot:
            self.snap()
        if self.job.restart:
            power.power_on(self.vm, quick(), self.log)
        if self.job.how == "cold" and self.job.stop:
            backup.freeze(self.context)

    def copy(self) -> None:
        """The host's own clone of what stands still."""
        for disk in self.job.disks:
            dest = posixpath.join(self.job.partial, disk["key"].replace(":", "-") + ".vmdk")
            self.host.run("vmkfstools", "-i", disk["source"], "-d", "thin", dest, timeout_seconds=300)

    def commit(self) -> Mapping[str, Any]:
        return backup.commit(self.context, [])[0]

    def end(self, outcome: str = "ok", error: Any = None) -> ending.Ended:
        return ending.end(self.context, outcome, error)

    def whole(self) -> ending.Ended:
        self.start()
        self.bracket()
        self.copy()
        self.commit()
        return self.end()

    def cut(self, seconds: int = 1000) -> None:
        """As if the controller had died that long ago: the lease is that old."""
        lease = self.outside(self.context.folder) / "lease"
        then = time.time() - seconds
        os.utime(lease, (then, then))

    def outside(self, path: str) -> Path:
        return outside(self.lab, self.host, path)


def outside(lab: Lab, host: Host, path: str) -> Path:
    """A path of the host, as it lies on this machine."""
    store = host.datastore(path)
    return lab.folder / "volumes" / posixpath.basename(store.path) / host.resolve(path)[len(store.path) + 1 :]


@pytest.fixture
def host(clean_lab: Lab) -> Iterator[Host]:
    with reached(clean_lab, HOST) as found:
        yield found


@contextlib.contextmanager
def reached(lab: Lab, name: str) -> Iterator[Host]:
    """A host of the lab, over SSH, as the product reaches it."""
    machine = lab.host(name)
    endpoint = Endpoint(
        host=machine.address,
        port=machine.port,
        private_key_file=str(lab.key),
        known_hosts_file=str(lab.known_hosts),
    )
    with open_session(endpoint) as session:
        yield Host(session, retry_seconds=0.2)


@pytest.fixture
def before(clean_lab: Lab, host: Host, tmp_path: Path) -> Iterator[Callable[[], tuple[Any, ...]]]:
    """What must be the same after every test, whatever happened in it; and nothing of ours is left."""

    def look() -> tuple[Any, ...]:
        vm = host.find_vm(name=NAME)
        files = host.run("ls", "-A", vm.directory).split("\n")
        lasting = sorted(name for name in files if not name.endswith((".log", ".vswp", ".lck", ".hlog")))
        return vm.power_state(), tuple((one.id, one.name) for one in snapshots.tree(vm)), tuple(lasting)

    was = look()
    yield look
    try:
        assert look() == was
    except AssertionError:
        # The tests that follow are to fail for reasons of their own.
        _forget(clean_lab, host, tmp_path)
        raise
    partials = host.session.script('ls -d "$1"/*/.partial-* "$1"/*/.removing-* 2>/dev/null', [POINT]).stdout
    assert partials == ""
    assert [line for line in host.run("ps", "-c").split("\n") if "vmkfstools" in line] == []


def _forget(lab: Lab, host: Host, state: Path) -> None:
    """Undoes what a job that failed a test has left."""
    folder = journal.folder_of(host.find_vm(name=NAME).directory)
    with contextlib.suppress(FileNotFoundError):
        os.utime(outside(lab, host, folder) / "lease", (time.time() - 1000,) * 2)
    recover.recover_host(host, HOST, str(state), 0.1, 60)


@pytest.fixture
def story(clean_lab: Lab, host: Host, tmp_path: Path, before: Any, request: Any) -> Callable[..., Story]:
    number = iter(range(100))

    def make(how: str = "hot", **policy: Any) -> Story:
        # Restore points have names of one second.
        time.sleep(1.1)
        run = f"{abs(hash(request.node.name)) % 10**8:08d}-{next(number)}"
        return Story(clean_lab, host, tmp_path, run, how, **policy)

    return make


def listed(host: Host) -> list[str]:
    return [point.path for point in points.list_points(host, POINT)[0]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late snapshot is not waited for as long as on a real host."""
    monkeypatch.setattr(undo, "LOOK_AGAIN_SECONDS", 2)
