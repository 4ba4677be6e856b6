# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vmkfstools as a process of its own: its text, its streams, its status, and what it leaves on the disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from esxilab import disks
from esxilab.tools import grants
from esxilab.tools import vmkfstools_query as query
from esxilab.tools.vmkfstools_args import Request

MIB = 1 << 20
LAB = Path(__file__).parents[2] / "lab"
# The tool with a host that answers from its command line.
CALLER = """
import json, sys
from esxilab.tools import vmkfstools
host = json.loads(sys.argv[1])
class Lab:
    def call(self, request):
        if request["ask"] == "host":
            return host
        if request["ask"] == "locks":
            return {"locks": [host["lock"]]}
        for path, write in request["paths"]:
            if path in host["locked"]:
                return {"granted": False, "path": path}
        return {"granted": True}
sys.exit(vmkfstools.main(sys.argv[2:], Lab()))
"""
HOST: dict[str, Any] = {
    "version": "7.0.3",
    "adapter_deprecated": True,
    "multiextent": True,
    "formats": ["zeroedthick", "thin", "eagerzeroedthick", "2gbsparse"],
    "block_map": "full",
    "error_first": True,
    "buffered": False,
    "rate": None,
    "fail": None,
    "volumes": [],
    "locked": [],
    "lock": {"mode": 0, "owner": ""},
}


def start(folder: Path, *words: str, **host: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CALLER, json.dumps({**HOST, **host}), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(LAB)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(folder: Path, *words: str, **host: Any) -> tuple[int, str, str]:
    process = start(folder, *words, **host)
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """a.vmdk: 24 MiB, thin, with data in three places."""
    path = tmp_path / "a.vmdk"
    disks.create_disk(str(path), 24 * MIB, "thin")
    with disks.open_chain(str(path), writable=True) as disk:
        for at in (0, 9, 23):
            disk.write(at * MIB, os.urandom(MIB))
    return tmp_path


def content(path: Path) -> bytes:
    with disks.open_chain(str(path)) as disk:
        return disk.read(0, disk.capacity)


@pytest.mark.parametrize(
    ("fmt", "first"),
    [
        ([], "VMFS zeroedthick"),
        (["-d", "thin"], "VMFS thin-provisioned"),
        (["-d", "eagerzeroedthick"], "VMFS eagerzeroedthick"),
        (["-d", "2gbsparse"], "sparse with 2GB maximum extent size"),
    ],
)
def test_a_clone_prints_its_lines_rewrites_its_percents_and_copies_the_disk(
    source: Path, fmt: list[str], first: str
) -> None:
    code, out, err = run(source, "-i", "a.vmdk", *fmt, "b.vmdk")
    assert (code, err) == (0, "")
    lines = out.split("\n")
    assert lines[0] == f"Destination disk format: {first}"
    assert lines[1] == "Cloning disk 'a.vmdk'..."
    assert lines[2].startswith("\rClone: ")
    assert lines[2].endswith("\rClone: 100% done.")
    assert lines[3:] == [""]
    assert content(source / "b.vmdk") == content(source / "a.vmdk")


def test_long_options_and_options_after_the_path_are_understood(source: Path) -> None:
    assert run(source, "b.vmdk", "--clonevirtualdisk", "a.vmdk", "--diskformat=thin")[0] == 0


def test_a_clone_has_its_own_identity(source: Path) -> None:
    run(source, "-i", "a.vmdk", "-d", "thin", "b.vmdk")
    first, second = (disks.read_descriptor(str(source / name)) for name in ("a.vmdk", "b.vmdk"))
    assert first.cid != second.cid
    assert first.ddb["ddb.uuid"] != second.ddb["ddb.uuid"]
    assert [line.file for line in second.extents] == ["b-flat.vmdk"]


def test_a_delta_is_cloned_as_the_merged_view_of_its_chain(source: Path) -> None:
    disks.create_delta(str(source / "a.vmdk"), str(source / "a-000001.vmdk"), "sesparse")
    with disks.open_chain(str(source / "a-000001.vmdk"), writable=True) as disk:
        disk.write(MIB, b"x" * 4096)
    assert run(source, "-i", "a-000001.vmdk", "-d", "thin", "b.vmdk")[0] == 0
    assert content(source / "b.vmdk") == content(source / "a-000001.vmdk")
    assert not disks.read_descriptor(str(source / "b.vmdk")).is_child


def test_a_missing_source_fails_before_anything_is_printed(source: Path) -> None:
    assert run(source, "-i", "no.vmdk", "b.vmdk") == (
        1,
        "",
        "DiskLib_Check() failed for source disk The system cannot find the file specified (25).\n",
    )


def test_a_missing_extent_has_the_same_message(source: Path) -> None:
    (source / "a-flat.vmdk").unlink()
    code, _, err = run(source, "-i", "a.vmdk", "b.vmdk")
    assert code == 1
    assert err == "DiskLib_Check() failed for source disk The system cannot find the file specified (25).\n"


def test_a_file_that_is_no_disk_is_named_so(source: Path) -> None:
    (source / "x.vmdk").write_text("hello")
    assert run(source, "-i", "x.vmdk", "b.vmdk")[2] == (
        "DiskLib_Check() failed for source disk The file specified is not a virtual disk (15).\n"
    )


def test_a_locked_source_is_16392_and_leaves_nothing(source: Path) -> None:
    code, out, err = run(source, "-i", "a.vmdk", "b.vmdk", locked=[str(source / "a-flat.vmdk")])
    assert (code, out) == (1, "")
    assert err == "Failed to open 'a.vmdk': Failed to lock the file (16392).\n"
    assert not (source / "b.vmdk").exists()


def test_an_existing_target_is_39_and_the_message_stands_above_the_first_lines(source: Path) -> None:
    run(source, "-i", "a.vmdk", "b.vmdk")
    before = (source / "b.vmdk").read_bytes()
    process = start(source, "-i", "a.vmdk", "b.vmdk")
    process.communicate()
    both = subprocess.run(
        [sys.executable, "-c", CALLER, json.dumps(HOST), "-i", "a.vmdk", "b.vmdk"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(LAB)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert both.returncode == 1
    assert both.stdout.decode() == (
        "Failed to clone disk: The file already exists (39).\n"
        "Destination disk format: VMFS zeroedthick\nCloning disk 'a.vmdk'...\n"
    )
    assert (source / "b.vmdk").read_bytes() == before


def test_a_full_target_is_13(source: Path, volume: Callable[[int], Path]) -> None:
    small = volume(2)
    code, out, err = run(source, "-i", "a.vmdk", "-d", "thin", f"{small}/b.vmdk")
    assert code == 1
    assert err == (
        "Failed to clone disk: There is not enough space on the file system for the selected operation (13).\n"
    )
    assert "100% done" not in out


def test_a_thick_target_that_cannot_fit_fails_at_once_with_the_error_first(
    source: Path, volume: Callable[[int], Path]
) -> None:
    code, out, err = run(source, "-i", "a.vmdk", f"{volume(8)}/b.vmdk")
    assert (code, err[-6:]) == (1, "(13).\n")
    assert "Clone:" not in out


def test_a_clone_that_is_told_to_fail_half_way_leaves_half_its_output(source: Path) -> None:
    fail = {"percent": 40, "code": 327689, "text": "Input/output error"}
    code, out, err = run(source, "-i", "a.vmdk", "-d", "thin", "b.vmdk", fail=fail)
    assert (code, err) == (1, "Failed to clone disk: Input/output error (327689).\n")
    assert "100% done" not in out
    assert out.endswith("\rClone: 40% done.\n")
    assert (source / "b.vmdk").exists()
    assert content(source / "b.vmdk") != content(source / "a.vmdk")


def test_a_killed_clone_leaves_a_descriptor_and_an_unfinished_extent(source: Path) -> None:
    process = start(source, "-i", "a.vmdk", "-d", "eagerzeroedthick", "b.vmdk", rate=MIB)
    limit = time.monotonic() + 20
    extent = source / "b-flat.vmdk"
    while not (extent.exists() and extent.stat().st_size) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    assert b"100% done" not in out
    assert (source / "b.vmdk").exists()
    assert extent.stat().st_size == 24 * MIB


def test_a_buffering_host_prints_everything_after_the_error(source: Path) -> None:
    fail = {"percent": 40, "code": 327689, "text": "Input/output error"}
    process = subprocess.run(
        [sys.executable, "-c", CALLER, json.dumps({**HOST, "fail": fail, "buffered": True}), "-i", "a.vmdk", "b.vmdk"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(LAB)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert process.stdout.startswith(b"Failed to clone disk: Input/output error (327689).\nDestination disk format:")


def test_2gbsparse_needs_its_module(source: Path) -> None:
    code, out, err = run(source, "-i", "a.vmdk", "-d", "2gbsparse", "b.vmdk", multiextent=False)
    assert code == 1
    assert err == "Failed to clone disk: The system cannot find the file specified (25).\n"
    assert not (source / "b.vmdk").exists()


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["-c", "10M", "-d", "thin", "x.vmdk"], "\rCreate: 100% done.\n"),
        (
            ["-c", "10M", "-d", "eagerzeroedthick", "x.vmdk"],
            "Creating disk 'x.vmdk' and zeroing it out...\n\rCreate: 100% done.\n",
        ),
        (["-X", "30M", "a.vmdk"], "\rGrow: 100% done.\n"),
        (["-U", "a.vmdk"], ""),
        (["-E", "a.vmdk", "z.vmdk"], ""),
        (["-e", "a.vmdk"], "Disk chain is consistent.\n"),
        (["-x", "check", "a.vmdk"], "Disk is error free\n"),
        (["-q", "a.vmdk"], "Disk a.vmdk is not an rdm\n"),
    ],
)
def test_other_operations_print_what_is_known_of_them(source: Path, words: list[str], out: str) -> None:
    code, printed, err = run(source, *words)
    assert (code, err) == (0, "")
    # Percents that were rewritten are gone for a reader of the last state.
    last = "\n".join(line.rpartition("\r")[1] + line.rpartition("\r")[2] for line in printed.split("\n"))
    assert last == out


def test_delete_removes_descriptor_and_extent_and_rename_moves_both(source: Path) -> None:
    run(source, "-E", "a.vmdk", "z.vmdk")
    assert sorted(os.listdir(source)) == ["z-flat.vmdk", "z.vmdk"]
    run(source, "-U", "z.vmdk")
    assert os.listdir(source) == []


def test_a_locked_disk_cannot_be_deleted(source: Path) -> None:
    code, _, err = run(source, "-U", "a.vmdk", locked=[str(source / "a-flat.vmdk")])
    assert (code, err) == (1, "Failed to delete virtual disk: Failed to lock the file (16392).\n")
    assert (source / "a-flat.vmdk").exists()


def test_punching_gives_the_room_of_zeros_back_and_inflating_takes_it(source: Path) -> None:
    flat = source / "a-flat.vmdk"
    with disks.open_chain(str(source / "a.vmdk"), writable=True) as disk:
        disk.write(12 * MIB, bytes(4 * MIB))
    used = flat.stat().st_blocks
    before = content(source / "a.vmdk")
    assert run(source, "-K", "a.vmdk")[1].endswith("\rHole Punching: 100% done.\n")
    # The file system below may count blocks of its own.
    assert flat.stat().st_blocks <= used - 4 * MIB // 512 + 128
    assert run(source, "-j", "a.vmdk")[1].endswith("\rInflate: 100% done.\n")
    assert flat.stat().st_blocks * 512 >= 24 * MIB
    assert content(source / "a.vmdk") == before


def test_a_broken_chain_is_18(source: Path) -> None:
    disks.create_delta(str(source / "a.vmdk"), str(source / "a-000001.vmdk"))
    with disks.open_chain(str(source / "a.vmdk"), writable=True) as disk:
        disk.write(0, b"y" * 512)
    code, out, err = run(source, "-e", "a-000001.vmdk")
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == (
        "Failed to open disk link a-000001.vmdk: The parent virtual disk has been modified since the child was "
        "created (18)"
    )


@pytest.mark.parametrize("words", [[], ["-i", "a.vmdk"], ["-Y", "a.vmdk"], ["-i", "a.vmdk", "-d", "fat", "b.vmdk"]])
def test_bad_arguments_are_answered_with_the_help_on_stderr_and_255(source: Path, words: list[str]) -> None:
    code, out, err = run(source, *words)
    assert (code, out) == (255, "")
    assert "OPTIONS FOR VIRTUAL DISKS:\n" in err


def test_an_unquoted_blank_in_a_path_is_too_many_arguments(source: Path) -> None:
    code, _, err = run(source, "-i", "a.vmdk", "two", "words.vmdk")
    assert code == 255
    assert err.startswith("Extra arguments at the end of the command line.\n")


@pytest.mark.parametrize(
    "words",
    [["-C", "vmfs6", "x"], ["-y", "x"], ["-L", "lunreset", "x"], ["-B", "x"], ["-M", "a.vmdk"], ["-Q", "a.vmdk"]],
)
def test_what_is_not_simulated_is_answered_as_bad_arguments_and_changes_nothing(source: Path, words: list[str]) -> None:
    before = sorted(os.listdir(source))
    code, out, err = run(source, *words)
    assert (code, out) == (255, "")
    assert err.startswith("OPTIONS FOR FILE SYSTEMS:\n")
    assert sorted(os.listdir(source)) == before


def test_a_clone_to_a_raw_device_says_its_line_and_finds_no_device(source: Path) -> None:
    device = "/vmfs/devices/disks/naa.600508b1001c7ba8871f691e550a30fc"
    code, out, err = run(source, "-i", "a.vmdk", "-d", f"rdm:{device}", "b.vmdk")
    assert out == f"Destination disk format: raw disk mapping to '{device}'\nCloning disk 'a.vmdk'...\n"
    assert (code, err) == (1, "Failed to clone disk: The system cannot find the file specified (25).\n")
    assert run(source, "-z", device, "c.vmdk")[0] == 1
    assert sorted(os.listdir(source)) == ["a-flat.vmdk", "a.vmdk"]


def test_a_sparse_disk_of_the_hosted_products_must_be_cloned_first(source: Path) -> None:
    run(source, "-i", "a.vmdk", "-d", "2gbsparse", "s.vmdk")
    for words in (["-X", "48M"], ["-K"], ["-j"], ["-k"], ["-w"]):
        code, _, err = run(source, *words, "s.vmdk")
        assert (code, err.strip().endswith("Object type requires hosted I/O")) == (1, True), words
    assert run(source, "-i", "s.vmdk", "-d", "thin", "t.vmdk")[0] == 0
    assert content(source / "t.vmdk") == content(source / "a.vmdk")


@pytest.mark.parametrize(("deprecated", "adapter"), [(False, "ide"), (True, "lsilogic")])
def test_the_adapter_type_of_a_clone_is_heard_on_old_releases_only(
    source: Path, deprecated: bool, adapter: str
) -> None:
    assert run(source, "-i", "a.vmdk", "-a", "ide", "b.vmdk", adapter_deprecated=deprecated)[0] == 0
    assert disks.read_descriptor(str(source / "b.vmdk")).ddb["ddb.adapterType"] == adapter
    assert run(source, "-i", "a.vmdk", "-a", "floppy", "c.vmdk", adapter_deprecated=deprecated)[0] == 255


@pytest.mark.parametrize("physical", [True, False])
def test_a_raw_device_mapping_names_its_kind_and_its_device(source: Path, physical: bool) -> None:
    disks.create_rdm(str(source / "r.vmdk"), 8 * MIB, physical=physical)
    out = run(source, "-q", "r.vmdk")[1].splitlines()
    kind = "Passthrough" if physical else "Non-passthrough"
    assert out[0] == f"Disk r.vmdk is a {kind} Raw Device Mapping"
    assert out[1].startswith("Maps to: vml.0200")


def test_zeros_can_be_written_and_a_repair_says_so(source: Path) -> None:
    assert run(source, "-w", "a.vmdk")[1].endswith("\rWriting zeros: 100% done.\n")
    assert content(source / "a.vmdk") == bytes(24 * MIB)
    assert run(source, "-k", "a.vmdk")[1].endswith("\rEagerly zeroing: 100% done.\n")
    assert run(source, "-x", "repair", "a.vmdk")[1] == "Disk was successfully repaired.\n"


def volume_of(folder: Path, kind: str) -> dict[str, Any]:
    """A datastore as the host describes it; the test's folder plays its place."""
    return {"name": "datastore1", "uuid": "u1", "type": kind, "device": "naa.6006", "remote": ""}


@pytest.mark.parametrize(
    ("kind", "head", "mode", "native"),
    [
        ("vmfs6", "VMFS-6.82 (Raw Major Version: 24)", "public ATS-only", "YES"),
        ("vmfs5", "VMFS-5.61 (Raw Major Version: 14)", "public ATS-only", "YES"),
        ("nfs", "NFS-1.00", "public", "NO"),
    ],
)
def test_a_file_system_is_described_in_the_known_lines(
    tmp_path: Path, kind: str, head: str, mode: str, native: str
) -> None:
    tool: Any = type("Tool", (), {"volume_of": lambda self, path: volume_of(tmp_path, kind)})()
    stat = os.statvfs(tmp_path)
    lines = query.file_system(tool, Request("P", str(tmp_path), {"P": ""})).splitlines()
    assert lines[0] == f"{head} file system spanning 1 partitions."
    assert lines[1:3] == ["File system label (if any): datastore1", f"Mode: {mode}"]
    assert lines[3].startswith(f"Capacity {stat.f_blocks * stat.f_frsize} (")
    assert lines[-1] == f"Is Native Snapshot Capable: {native}"
    human = query.file_system(tool, Request("P", str(tmp_path), {"P": "", "h": ""}))
    assert re.search(r"^Capacity \d+\.\d\d GB, ", human, re.MULTILINE)
    if kind != "nfs":
        verbose = query.file_system(tool, Request("P", str(tmp_path), {"P": "", "v": "10"}))
        assert "Large File Blocks (total/used/file block clusters): " in verbose


def test_a_boot_bank_is_the_recorded_text(tmp_path: Path) -> None:
    bank = {
        "path": str(tmp_path), "label": "BOOTBANK2", "uuid": "10096f8b-d044b0e9-8697-0c6ccda4bf06",
        "size": 4293591040, "free": 4120444928, "device": "naa.600508b1001c7ba8871f691e550a30fc:6",
    }  # fmt: skip
    tool: Any = type("Tool", (), {"volume_of": lambda self, path: None, "host": {"banks": [bank]}})()
    printed = query.file_system(tool, Request("P", str(tmp_path), {"P": ""}))
    assert printed == (Path(__file__).parent / "transcripts/queryfs-vfat-7.0.txt").read_text()


def test_two_hosts_that_read_a_file_are_both_named_in_its_lock(source: Path) -> None:
    owners = ["4fbbf995-325ce3c2-e7ee-bcaec58ad83d", "5fbbf995-325ce3c2-e7ee-bcaec58ad83e"]
    lock = {"mode": 2, "owner": owners[0], "owners": owners}
    out = run(source, "-D", "a-flat.vmdk", lock=lock)[1]
    assert " num 2 gblnum 0 gblgen 0 gblbrk 0]\n" in out
    assert "".join(f"RO Owner[{n}] HB Offset 3907584 {owner}\n" for n, owner in enumerate(owners)) in out
    assert re.search(r"^len 25165824, nb \d+ tbz 0, cow 0, newSinceEpoch \d+, zla 1, bs 1048576$", out, re.MULTILINE)


def test_the_help_tells_whether_the_adapter_type_is_still_taken(source: Path) -> None:
    new, old = (run(source, "-h", adapter_deprecated=flag)[2] for flag in (True, False))
    assert [line for line in new.splitlines() if "--adaptertype" in line and "deprecated" in line]
    assert "-a --adaptertype [buslogic|lsilogic|ide\n" in old


def test_the_block_map_adds_up_to_the_capacity(source: Path) -> None:
    out = run(source, "-t0", "a.vmdk")[1]
    pieces = [line.partition("]")[0].strip("[ ").split(":") for line in out.splitlines()[1:]]
    assert sum(int(length) for _, length in pieces) == 24 * MIB
    assert {"VMFS -- LVID:" in line or "NOMP -- :" in line for line in out.splitlines()[1:]} == {True}


def test_the_lock_dump_names_mode_and_owner(source: Path) -> None:
    owner = "4fbbf995-325ce3c2-e7ee-bcaec58ad83d"
    out = run(source, "-D", "a-flat.vmdk", lock={"mode": 1, "owner": owner})[1]
    assert f"gen 4851, mode 1, owner {owner} mtime " in out
    shared = run(source, "-D", "a-flat.vmdk", lock={"mode": 2, "owner": owner})[1]
    assert "mode 2, owner 00000000-00000000-0000-000000000000" in shared
    assert f"RO Owner[0] HB Offset 3907584 {owner}\n" in shared


def test_grants_follow_the_lock_rules() -> None:
    class Lock:
        mode = 1

    class Locks:
        given: list[tuple[int, list[str]]] = []

        def state(self, path: str) -> Any:
            found = Lock()
            found.mode = 1 if "top" in path else 2
            return found

        def grant(self, pid: int, paths: list[str]) -> None:
            self.given.append((pid, paths))

    class Volumes:
        def outside(self, path: str) -> Path:
            return Path(path)

    class Engine:
        def holders(self, path: str) -> list[int]:
            return []

    class Host:
        locks, volumes, engine = Locks(), Volumes(), Engine()

    def ask(path: str, write: bool) -> Any:
        return grants.grant(Host(), {"pid": 7, "paths": [[path, write]]})  # type: ignore[arg-type]

    assert ask("/v/top", False) == {"granted": False, "path": "/v/top"}
    assert ask("/v/base", True) == {"granted": False, "path": "/v/base"}
    assert ask("/v/base", False) == {"granted": True}
    assert Host.locks.given == [(7, ["/v/base"])]
