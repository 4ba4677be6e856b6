# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each switch of a host's management daemon, in each of its positions."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from esxilab import disks, topology
from esxilab.errors import LabError
from esxilab.hostd.profiles import PROFILES

from .benches import Bench, disk, running

Make = Callable[..., Bench]
OFF = {"name": "web", "power": "off", "disks": [disk("scsi0:0")]}


def opens(path: Path) -> int:
    """What the kernel says to another program that opens the file: 0, or an errno."""
    code = "import os, sys\ntry: os.open(sys.argv[1], os.O_RDONLY)\nexcept OSError as e: sys.exit(e.errno)"
    return subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode


def vmkfstools(lab: Bench, *words: str) -> subprocess.CompletedProcess[str]:
    """The real tool in a process of its own, asking this host; stdout and stderr in one file, in their order."""
    read_end, write_end = os.pipe()
    code = f"""
import json, sys
from esxilab.tools import vmkfstools
asking = open({write_end}, "w")
class Lab:
    def call(self, request):
        print(json.dumps(request), file=asking, flush=True)
        return json.loads(input())
sys.exit(vmkfstools.main(sys.argv[1:], Lab()))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(Path(disks.__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[write_end],
        text=True,
    )
    os.close(write_end)
    assert process.stdin is not None
    with open(read_end, encoding="utf-8") as requests:
        for line in requests:
            request = {**json.loads(line), "pid": process.pid}
            # The tool works outside here, and hostd knows the paths of its host.
            request["paths"] = [
                [inside(lab, path[0]), path[1]] if isinstance(path, list) else inside(lab, path)
                for path in request.get("paths", [])
            ]
            process.stdin.write(json.dumps(lab.host.handle(request)) + "\n")
            process.stdin.flush()
    out, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, out)


def inside(lab: Bench, path: str) -> str:
    return str(lab.host.volumes.inside_of(Path(path)))


def outside(lab: Bench, name: str, datastore: str = "datastore1") -> Path:
    return Path(str(lab.host.outside(f"/vmfs/volumes/{datastore}/{name}")))


def frozen_chain(lab: Bench) -> tuple[Path, Path]:
    """The base's extent and that of a delta in the middle, of a running VM with two snapshots."""
    for name in ("a", "b"):
        lab.vim("vmsvc/snapshot.create", "1", name)
        lab.wait(lambda name=name: f": {name}\n" in lab.vim("vmsvc/snapshot.get", "1"), name)
    deltas = sorted(n for n in lab.names() if n.endswith(("-sesparse.vmdk", "-delta.vmdk")))
    assert len(deltas) == 2
    return lab.folder() / "web-flat.vmdk", lab.folder() / deltas[0]


# --- open points 1, 2: what can be read below the top -----------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "delta", "codes"),
    [
        (True, None, (0, 0)),
        (False, None, (errno.EBUSY, errno.EBUSY)),
        (True, False, (0, errno.EBUSY)),
        (False, True, (errno.EBUSY, 0)),
    ],
)
def test_the_frozen_base_and_the_frozen_delta_open_as_the_switches_say(
    bench: Make, base: bool, delta: bool | None, codes: tuple[int, int]
) -> None:
    lab = bench([running()], base_readable_after_snapshot=base, frozen_delta_readable=delta)
    assert tuple(opens(path) for path in frozen_chain(lab)) == codes


# --- open point 8: the block map ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "no_holes", "refused"])
def test_the_block_map_of_a_frozen_base(bench: Make, kind: str) -> None:
    lab = bench([running()], block_map=kind)
    base, _delta = frozen_chain(lab)
    done = vmkfstools(lab, "-t0", str(base.with_name("web.vmdk")))
    lengths = [int(line[1:].split(":")[1].split("]")[0]) for line in done.stdout.splitlines() if line.startswith("[")]
    if kind == "refused":
        assert done.returncode == 1 and "Failed to lock the file (16392)" in done.stdout
    else:
        assert (sum(lengths) == 64 << 20) is (kind == "full")
        assert ("NOMP" in done.stdout) is (kind == "full") and lengths


# --- open point 9, 11, latency, dumps: what vim-cmd says ---------------------------------------------------------


@pytest.mark.parametrize("code", [1, 255])
def test_a_fault_ends_vim_cmd_with_the_status_of_the_switch(bench: Make, code: int) -> None:
    lab = bench([OFF], fault_exit_code=code)
    assert lab.run("vim-cmd", "vmsvc/power.getstate", "99")["rc"] == code
    assert lab.run("vim-cmd", "vmsvc/power.off", "1")["rc"] == code
    assert lab.run("vim-cmd", "vmsvc/power.getstate")["rc"] == 1  # usage is no fault
    assert lab.run("vim-cmd", "vmsvc/power.getstate", "1")["rc"] == 0


@pytest.mark.parametrize(
    ("kind", "removed", "dumped", "reset"),
    [
        ("label", "Remove All Snapshots:\n", "Dump Snapshot Options:\n", "Reset VM:\n"),
        ("silent", "", "", ""),
        ("dump", *['(vim.TaskInfo) {\n   state = "success"\n}\n'] * 3),
    ],
)
def test_what_nobody_has_shown_is_printed_as_the_switch_says(
    bench: Make, kind: str, removed: str, dumped: str, reset: str
) -> None:
    lab = bench([running()], unseen_outputs=kind)
    lab.vim("vmsvc/snapshot.create", "1", "a")
    assert lab.vim("vmsvc/snapshot.dumpoption", "1") == dumped
    assert lab.vim("vmsvc/snapshot.removeall", "1") == removed
    assert lab.vim("vmsvc/power.reset", "1") == reset
    assert lab.vim("vmsvc/snapshot.get", "1") == "Get Snapshot:\n"


@pytest.mark.parametrize("seconds", [0.0, 0.4])
def test_every_vim_cmd_takes_as_long_as_the_switch_says(bench: Make, seconds: float) -> None:
    lab = bench([OFF], vimcmd_seconds=seconds)
    start = time.monotonic()
    lab.vim("vmsvc/power.getstate", "1")
    assert (time.monotonic() - start >= 0.4) is bool(seconds)


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("profile", PROFILES)
def test_dumps_have_the_form_of_the_release_or_of_the_switch(bench: Make, profile: str, asked: bool | None) -> None:
    lab = bench([{**OFF, "datastore": "old"}], profile=profile, classic_dumps=asked)
    dump = lab.vim("vmsvc/get.summary", "1")
    classic = profile == "6.0" if asked is None else asked
    assert ("dynamicType = <unset>,\n" in dump) is classic
    assert ('overallStatus = "green",\n' in dump) is classic
    fault = lab.run("vim-cmd", "vmsvc/power.getstate", "99")["stdout"]
    assert ("dynamicType" in fault) is classic


@pytest.mark.parametrize("dumps", [False, True])
def test_a_refused_power_operation_is_a_line_or_the_fault_itself(bench: Make, dumps: bool) -> None:
    lab = bench([{**OFF, "datastore": "old"}], profile="6.0", power_fault_dumps=dumps)
    said = lab.run("vim-cmd", "vmsvc/power.off", "1")["stdout"]
    assert said.startswith("Powering off VM:\n")
    assert ("(vim.fault.InvalidPowerState) {" in said) is dumps
    assert (said == "Powering off VM:\nPower off failed\n") is not dumps


# --- open point 10: snapshot.create ------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [True, False])
def test_snapshot_create_returns_before_or_after_the_snapshot_is_there(bench: Make, behind: bool) -> None:
    lab = bench([OFF], snapshot_async=behind, snapshot_seconds=0.5)
    start = time.monotonic()
    assert lab.vim("vmsvc/snapshot.create", "1", "a") == "Create Snapshot:\n"
    assert (time.monotonic() - start < 0.4) is behind
    assert (lab.vim("vmsvc/snapshot.get", "1") == "Get Snapshot:\n") is behind
    lab.wait(lambda: ": a\n" in lab.vim("vmsvc/snapshot.get", "1"), "the snapshot")


# --- open points 16, 17 and the delta's format --------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["2gbsparse", "sesparse"])
@pytest.mark.parametrize("taken", [True, False])
def test_a_clone_takes_the_formats_of_the_switch_and_its_help_names_them(bench: Make, fmt: str, taken: bool) -> None:
    lab = bench(
        [OFF], profile="8.0", clone_formats=["zeroedthick", "thin", "eagerzeroedthick", *([fmt] if taken else [])]
    )
    source, target = lab.folder() / "web.vmdk", lab.folder() / "copy.vmdk"
    done = vmkfstools(lab, "-i", str(source), "-d", fmt, str(target))
    assert (f"|{fmt}" in vmkfstools(lab, "-h").stdout) is taken
    if not taken:
        assert done.returncode == 255 and f"Invalid disk format '{fmt}'." in done.stdout
        assert not target.exists()
        return
    assert done.returncode == 0, done.stdout
    with disks.open_chain(str(source)) as one, disks.open_chain(str(target)) as other:
        assert one.capacity == other.capacity
        assert all(one.read(at, 1 << 20) == other.read(at, 1 << 20) for at in range(0, one.capacity, 1 << 20))


@pytest.mark.parametrize("first", [True, False])
def test_a_full_datastores_error_stands_above_or_below_the_lines_before_it(bench: Make, first: bool) -> None:
    lab = bench([OFF], clone_error_first=first)
    lab.host.fault("datastore_full", datastore="datastore1", leave=0)
    done = vmkfstools(lab, "-i", str(lab.folder() / "web.vmdk"), "-d", "thin", str(lab.folder() / "copy.vmdk"))
    lines = done.stdout.splitlines()
    error = next(n for n, line in enumerate(lines) if "not enough space" in line and "(13)." in line)
    head = next(n for n, line in enumerate(lines) if line.startswith("Destination disk format:"))
    assert (error < head) is first


@pytest.mark.parametrize("apart", [True, False])
def test_a_deltas_extent_lies_beside_its_descriptor_or_in_the_working_directory(bench: Make, apart: bool) -> None:
    vm = running(extra={"workingDir": "/vmfs/volumes/old/work"})
    lab = bench([vm], delta_extent_in_working_dir=apart)
    work = outside(lab, "work", "old")
    work.mkdir()
    lab.vim("vmsvc/snapshot.create", "1", "a")
    lab.written()
    extents = [name for name in os.listdir(work) if name.endswith("-sesparse.vmdk")]
    assert len(extents) == apart
    assert "web-000001.vmdk" in lab.names() and ("web-000001-sesparse.vmdk" in lab.names()) is not apart
    done = vmkfstools(lab, "-D", str(work / extents[0] if apart else lab.folder() / "web-000001-sesparse.vmdk"))
    assert "mode 1" in done.stdout
    lab.vim("vmsvc/snapshot.removeall", "1")
    lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")
    assert os.listdir(work) == [] and not [name for name in lab.names() if "00000" in name]


@pytest.mark.parametrize(
    ("profile", "datastore", "asked", "suffix"),
    [
        ("6.0", "old", None, "-delta.vmdk"),
        ("6.7", "datastore1", None, "-sesparse.vmdk"),
        ("6.7", "datastore1", "vmfssparse", "-delta.vmdk"),
        ("9.0", "datastore1", None, "-sesparse.vmdk"),
        ("9.0", "old", None, "-delta.vmdk"),
        ("8.0", "old", "sesparse", "-sesparse.vmdk"),
        ("8.0", "share", None, "-delta.vmdk"),
    ],
)
def test_a_delta_has_the_format_of_its_datastore_and_release_or_of_the_switch(
    bench: Make, profile: str, datastore: str, asked: str | None, suffix: str
) -> None:
    lab = bench([running(datastore=datastore)], profile=profile, delta_format=asked)
    lab.vim("vmsvc/snapshot.create", "1", "a")
    lab.wait(lambda: f"web-000001{suffix}" in lab.names(), suffix)
    lab.wait(lambda: ": a\n" in lab.vim("vmsvc/snapshot.get", "1"), "the snapshot")
    lab.written()
    lab.vim("vmsvc/snapshot.removeall", "1")
    lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")


# --- readers, growth -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [True, False])
def test_a_reader_of_the_base_blocks_its_consolidation_or_not(bench: Make, blocks: bool) -> None:
    lab = bench([running()], reader_blocks_consolidation=blocks)
    lab.vim("vmsvc/snapshot.create", "1", "a")
    with open(lab.folder() / "web-flat.vmdk", "rb") as held:
        reader = subprocess.Popen(["sleep", "60"], stdin=held)
        try:
            done = lab.run("vim-cmd", "vmsvc/snapshot.remove", "1", "1")
        finally:
            reader.kill()
            reader.wait()
    assert (done["rc"] != 0) is blocks
    assert ("web-000001.vmdk" in lab.names()) is blocks


@pytest.mark.parametrize("grows", [True, False])
def test_a_thin_disk_grows_under_its_guest_or_has_all_room_from_the_beginning(bench: Make, grows: bool) -> None:
    lab = bench([running()], disks_grow=grows)
    extent = lab.folder() / "web-flat.vmdk"
    before = extent.stat().st_blocks
    lab.written(records=60)
    assert (extent.stat().st_blocks > before) is grows


# --- what a topology may ask for -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ({"switches": {"delta_format": "cowd"}}, "delta_format is 'cowd'; it takes None, vmfssparse, sesparse"),
        ({"switches": {"no_such": 1}}, "there is no switch 'no_such'"),
        ({"switches": {"fips": True, "ed25519": True}}, "no host takes Ed25519 keys in FIPS mode"),
        ({"profile": "6.0", "datastores": [{"name": "d", "type": "vmfs6"}]}, "6.0 knows no VMFS 6"),
    ],
)
def test_a_switch_that_no_host_can_have_is_named(host: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError, match=said):
        topology.build({"hosts": [{"name": "h", **host}]}, "t", "127.0.9.0", 22)


@pytest.mark.parametrize(("profile", "newest"), [("6.0", 11), ("6.7", 15), ("7.0", 19), ("8.0", 21), ("9.0", 22)])
def test_a_vm_of_newer_hardware_registers_and_does_not_power_on(bench: Make, profile: str, newest: int) -> None:
    vms = [{**OFF, "name": f"v{n}", "dir": f"v{n}", "datastore": "old", "hardware": n} for n in (newest, newest + 1)]
    lab = bench(vms, profile=profile)
    assert lab.run("vim-cmd", "vmsvc/power.on", "1")["rc"] == 0
    assert lab.run("vim-cmd", "vmsvc/power.on", "2")["rc"] != 0
    assert lab.state("2") == "Powered off"


@pytest.mark.parametrize(
    ("profile", "said", "release"),
    [
        ("6.0", "VMware ESXi 6.0.0 build-3620759", None),
        ("8.0", "VMware ESXi 8.0.2 build-22380479", None),
        ("9.0", "VMware ESXi 9.0.0.0100 build-24755229", "VMware ESXi 9.0.0.0100"),
    ],
)
def test_vmware_names_the_version_and_only_9_0_knows_r(
    bench: Make, profile: str, said: str, release: str | None
) -> None:
    lab = bench([], profile=profile)
    assert lab.run("vmware", "-v")["stdout"] == said + "\n"
    assert lab.run("vmware", "-vl")["stdout"].startswith(said + "\nVMware ESXi ")
    asked = lab.run("vmware", "-r")
    assert (asked["rc"] == 0) is (release is not None)
    assert asked["stdout"] == (release + "\n" if release else "")
