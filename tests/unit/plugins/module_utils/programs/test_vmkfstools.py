# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program over a session that ends in the test's own shell, and loses its connection when the test says so."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import FileEntry
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import CopyTask, DiskTask, FileTask
from ansible_collections.stowage.esxi.plugins.module_utils.programs.vmkfstools import Vmkfstools, inspect
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost, HostUnreachable
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session

MIB = 1 << 20


class ShellSession(Session):
    """Runs everything here. ``cuts``: numbers of calls whose answer never arrives; ``down``: from this call on none."""

    def __init__(self, shell, cuts=(), down=None):
        super().__init__(Endpoint(host="esx1", password="x"))
        self.shell, self.cuts, self.down = shell, set(cuts), down
        self.calls = 0

    def run(self, argv, *, stdin=None, timeout_seconds=60.0):
        self.calls += 1
        if self.down is not None and self.calls >= self.down:
            raise HostUnreachable(host="esx1", port=22, reason="no route")
        text = (stdin or b"").decode().replace("/bin/ps -c", "/bin/ps -eo pid,pid,comm,args")
        done = subprocess.run(
            argv,
            executable=str(self.shell.bin / argv[0]),
            input=text,
            env={"PATH": str(self.shell.bin)},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
        if self.calls in self.cuts:
            raise ConnectionLost(host="esx1", port=22, command="sh", reason="reset")
        return Result(tuple(argv), done.returncode, done.stdout, done.stderr)

    def close(self):
        pass


class Job:
    def __init__(self, shell, session=None, window=6, disks=1, **more):
        self.shell = shell
        self.session = session or ShellSession(shell)
        self.host = Host(self.session)
        self.to = shell.volume / "to"
        vmx = shell.volume / "web01.vmx"
        vmx.write_text("config")
        self.disks = tuple(
            DiskTask(
                f"scsi0:{n}",
                str(shell.source(f"d{n}")),
                str(self.to / f"scsi0-{n}.vmdk"),
                "thin",
                MIB,
                640 << 10,
                flat=str(shell.volume / f"d{n}-flat.vmdk"),
            )
            for n in range(disks)
        )
        self.task = CopyTask(
            disks=self.disks,
            files=(FileTask(str(vmx), str(self.to / "web01.vmx")),),
            datastore=str(shell.volume),
            folders=(str(self.to),),
            work_dir=str(self.to / ".stowage-tmp-0123456789abcdef"),
            token="0123456789abcdef",
            **more,
        )
        self.notes: list[tuple[str, dict]] = []
        self.seen: list = []
        self.before = shell.listing()
        self.program = Vmkfstools(
            note=lambda event, **data: self.notes.append((event, data)), window_seconds=window, linger_seconds=1
        )

    def copy(self, alive=lambda: None):
        return self.program.copy(self.host, self.task, self.seen.append, alive)

    def left(self):
        return [path for path in self.shell.listing() if path not in self.before]


@pytest.fixture(autouse=True)
def whole_disks(host_shell):
    host_shell.steer("whole")
    host_shell.steer("steps", "2")


def test_a_copy_tells_what_it_did(host_shell):
    job = Job(host_shell, disks=2)
    result = job.copy()
    assert [disk.key for disk in result.disks] == ["scsi0:0", "scsi0:1"]
    assert {disk.verified for disk in result.disks} == {"sample of 16 blocks of 64 KiB"}
    assert all(disk.copied_bytes > 0 and disk.seconds > 0 and disk.rate > 0 for disk in result.disks)
    assert result.files == (str(job.to / "web01.vmx"),)
    assert job.left() == [
        "to",
        "to/scsi0-0-flat.vmdk",
        "to/scsi0-0.vmdk",
        "to/scsi0-1-flat.vmdk",
        "to/scsi0-1.vmdk",
        "to/web01.vmx",
    ]
    assert [progress.item for progress in job.seen[:1] + job.seen[-1:]] == ["scsi0:0", "scsi0:1"]
    assert job.seen[-1].done_bytes == job.seen[-1].total_bytes == 640 << 10


def test_everything_is_noted_before_it_is_there(host_shell):
    job = Job(host_shell)
    there: list[bool] = []
    job.program.note = lambda event, **data: (job.notes.append((event, data)), there.append(job.to.exists()))
    job.copy()
    assert [(event, data.get("path", "")[len(str(job.to)) :]) for event, data in job.notes] == [
        ("temp", "/.stowage-tmp-0123456789abcdef"),
        ("temp", "/web01.vmx"),
        ("temp", "/scsi0-0.vmdk"),
        ("process", ""),
    ]
    assert there == [False, False, False, True]
    assert job.notes[-1][1]["token"] == "stowage-copy-0123456789abcdef"
    assert not (job.to / "scsi0-0.vmdk").exists() or host_shell.bin.joinpath("calls").exists()


def test_a_journal_that_cannot_be_written_stops_the_copy_at_the_gate(host_shell):
    job = Job(host_shell)

    def note(event, **data):
        if event == "process":
            raise errors.ProgramError(host="esx1", reason="the journal is gone")

    job.program.note = note
    with pytest.raises(errors.ProgramError, match="the journal is gone"):
        job.copy()
    assert job.left() == []
    assert not (host_shell.bin / "calls").exists()


@pytest.mark.parametrize(
    ("steer", "error", "text"),
    [
        (("fail", "Failed to clone disk: Input/output error (327689).\n"), errors.CloneFailed, "(327689)"),
        (("liar", ""), errors.CloneIncomplete, "never reported 100 %"),
        (("short", ""), errors.CloneIncomplete, "instead of 1048576"),
        (("delta", ""), errors.CloneIncomplete, "a difference to a parent"),
        (("smaller", ""), errors.CloneIncomplete, "the target holds 524288 bytes, the source 1048576"),
        (("inconsistent", ""), errors.CloneIncomplete, "Disk chain is not consistent"),
        (("other", ""), errors.CopyDiffers, "other bytes at or after offset 0"),
        (("race", ""), errors.TargetExists, "is there already"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_not_a_whole_copy_fails_and_goes(host_shell, steer, error, text):
    host_shell.steer(*steer)
    job = Job(host_shell, disks=2)
    with pytest.raises(error) as caught:
        job.copy()
    assert text in caught.value.message
    foreign = ["to", "to/scsi0-0.vmdk"] if steer[0] == "race" else []
    assert job.left() == foreign
    assert not host_shell.clones()


def test_a_small_file_that_hangs_ends_the_copy_in_time(host_shell):
    job = Job(host_shell)
    # What nobody writes to is read for ever, as a file of a datastore that does not answer.
    hanging = host_shell.volume / "web01.vmx"
    hanging.unlink()
    os.mkfifo(hanging)
    job.program.stall_seconds = 3
    release = threading.Timer(8, lambda: os.close(os.open(hanging, os.O_WRONLY)))
    release.start()
    with pytest.raises(errors.FileCopyFailed, match="did not end within 3 seconds"):
        job.copy()
    release.join()
    assert job.left() == []


def test_an_abort_of_the_caller_ends_the_clone_and_leaves_nothing(host_shell):
    host_shell.steer("steps", "100")
    job = Job(host_shell)

    def alive():
        if (job.to / "scsi0-0.vmdk").exists():
            raise errors.CallerGone(reason="nobody waits")

    with pytest.raises(errors.CallerGone, match="nobody waits"):
        job.copy(alive)
    assert job.left() == []
    assert not host_shell.clones()


def test_a_lost_lease_ends_the_copy(host_shell):
    lease = host_shell.volume / "lease"
    lease.write_text("")
    host_shell.steer("steps", "100")
    job = Job(host_shell, lease=str(lease))

    def alive():
        if (job.to / "scsi0-0.vmdk").exists() and lease.exists():
            lease.unlink()

    with pytest.raises(errors.CallerGone, match="no longer holds its lock"):
        job.copy(alive)
    assert [path for path in job.left() if path != "lease"] == []


def test_the_lease_is_kept_fresh_while_the_clone_runs(host_shell):
    lease = host_shell.volume / "lease"
    lease.write_text("")
    before = lease.stat().st_mtime_ns
    Job(host_shell, lease=str(lease)).copy()
    assert lease.stat().st_mtime_ns > before


# The calls: 1 launch, 2 gate, 3… looks, then folders, -e, the comparison, a look, and the decision.
@pytest.mark.parametrize("call", range(1, 13))
def test_a_cut_in_any_answer_leaves_all_or_nothing(host_shell, call):
    job = Job(host_shell, ShellSession(host_shell, cuts=[call]))
    whole = ["to", "to/scsi0-0-flat.vmdk", "to/scsi0-0.vmdk", "to/web01.vmx"]
    try:
        job.copy()
    except StowageError:
        host_shell.until(lambda: job.left() == [], "the host has cleared up")
    else:
        assert job.left() == whole
    assert not host_shell.clones()


def test_a_connection_that_comes_back_in_time_goes_on(host_shell):
    host_shell.steer("steps", "4")
    job = Job(host_shell, ShellSession(host_shell, cuts=[3, 4]), window=12)
    job.copy()
    assert (job.to / "scsi0-0.vmdk").exists()


def test_a_connection_that_never_comes_back_is_an_error_and_the_host_clears_up(host_shell):
    host_shell.steer("steps", "100")
    job = Job(host_shell, ShellSession(host_shell, down=5), window=4)
    with pytest.raises(errors.ConnectionGone) as caught:
        job.copy()
    assert "no route" in caught.value.message
    assert "Left behind" in caught.value.message
    host_shell.until(lambda: job.left() == [], "the host has cleared up")
    assert not host_shell.clones()


DISK = DiskTask("scsi0:0", "/v/a.vmdk", "/v/b/x.vmdk", "thin", MIB, MIB)
GOOD = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="vmfs"
RW 2048 VMFS "x-flat.vmdk"
"""
SPARSE = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="twoGbMaxExtentSparse"
RW 1024 SPARSE "x-s001.vmdk"
RW 1024 SPARSE "x-s002.vmdk"
"""


def entries(text: str | None, **sizes: int) -> dict[str, FileEntry]:
    found = {"/v/b/x.vmdk": FileEntry("/v/b/x.vmdk", 4096, 500, 0, text)}
    for name, size in sizes.items():
        path = f"/v/b/{name.replace('_', '-')}.vmdk"
        found[path] = FileEntry(path, size // 2, size, 0)
    return found


def test_a_whole_target_is_measured_by_its_extents():
    assert inspect(entries(GOOD, x_flat=MIB), DISK) == ("", MIB // 2)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, "no descriptor"),
        (entries(None), "no descriptor"),
        (entries("nonsense", x_flat=MIB), "Disk DescriptorFile"),
        (entries(GOOD), "is missing"),
        (entries(GOOD, x_flat=MIB - 512), "instead of"),
        (entries(GOOD.replace("2048", "2047"), x_flat=MIB), "the source 1048576"),
        (entries(SPARSE, x_s001=9, x_s002=9), "of kind sparse, not flat"),
        (entries(GOOD.replace("=ffffffff", "=00000001"), x_flat=MIB), "a difference"),
    ],
)
def test_a_target_that_is_not_the_disk_is_told_apart(found, reason):
    assert reason in inspect(found, DISK)[0]


def test_a_sparse_target_needs_every_extent():
    disk = DiskTask("scsi0:0", "/v/a.vmdk", "/v/b/x.vmdk", "2gbsparse", MIB, MIB)
    assert inspect(entries(SPARSE, x_s001=900, x_s002=100), disk) == ("", 500)
    assert "x-s002.vmdk is missing" in inspect(entries(SPARSE, x_s001=900), disk)[0]
    assert "has 0 bytes" in inspect(entries(SPARSE, x_s001=900, x_s002=0), disk)[0]
