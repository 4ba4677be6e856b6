# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the lab that need a whole machine to be seen: logins, readers, clones that stop, hang and fall short."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Lab, LabHost, wait_until

OFF = "/vmfs/volumes/datastore1/off67"
CLONE = f"vmkfstools -i {OFF}/off67.vmdk -d thin {OFF}/copy.vmdk"


@pytest.fixture
def esx(clean_lab: Lab) -> Iterator[LabHost]:
    machine = clean_lab.host("esx67")
    yield machine
    clean_lab.clear()
    machine.run(f"rm -f {OFF}/copy*.vmdk")


def behind(machine: LabHost, command: str) -> subprocess.Popen[str]:
    argv = machine.lab.ask(verb="exec", machine=machine.name, command=command)
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def holding(machine: LabHost) -> bool:
    return any(fault["holding"] for fault in machine.status["faults"]["hostd"])


def test_login_refused_refuses_keys_too_until_it_is_cleared(esx: LabHost) -> None:
    assert esx.ssh("true").returncode == 0
    esx.fault("login_refused")
    assert esx.ssh("true").returncode == 255
    esx.lab.fault(esx.name, "clear", name="login_refused")
    assert esx.ssh("true").returncode == 0


def test_locked_out_refuses_the_right_password_and_no_key(esx: LabHost, tmp_path: Path) -> None:
    ask = tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\necho '{esx.password}'\n", encoding="ascii")
    ask.chmod(0o700)

    def by_password() -> int:
        options = ("-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1")
        argv = [word.replace("BatchMode=yes", "BatchMode=no") for word in esx.ssh_argv(*options)]
        environment = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "PATH": "/usr/bin:/bin", "DISPLAY": "x"}
        done = subprocess.run([*argv, "true"], env=environment, stdin=subprocess.DEVNULL, check=False, timeout=60)
        return done.returncode

    assert by_password() == 0
    esx.fault("locked_out")
    assert by_password() == 255
    assert esx.ssh("true").returncode == 0
    esx.clear()
    assert by_password() == 0


def test_a_reader_holds_a_file_until_it_is_cleared(esx: LabHost) -> None:
    esx.fault("reader", path=f"{OFF}/off67-flat.vmdk")
    wait_until(lambda: "off67-flat" in esx.run("lsof").stdout, "the reader")
    esx.clear()
    wait_until(lambda: "off67-flat" not in esx.run("lsof").stdout, "its end")


def test_hold_during_stops_a_clone_at_its_percent_and_lets_it_go_on(esx: LabHost) -> None:
    esx.fault("hold", tool="vmkfstools", op="-i", when="during", percent=1, vm="off67")
    clone = behind(esx, CLONE)
    wait_until(lambda: holding(esx), "the hold")
    assert clone.poll() is None
    esx.clear()
    assert "100% done" in clone.communicate(timeout=60)[0]


def test_a_clone_that_hangs_can_be_killed(esx: LabHost) -> None:
    esx.fault("clone_hangs", percent=1)
    clone = behind(esx, CLONE)
    wait_until(lambda: holding(esx), "the hang")
    assert clone.poll() is None
    esx.run("pid=$(ps -c | grep 'vmkfstools -i' | grep -v grep | awk '{print $1}' | head -1); kill $pid")
    assert clone.wait(timeout=30) != 0


@pytest.mark.parametrize(("hole", "missing"), [("false", 1 << 20), ("true", 0)])
def test_a_clone_that_falls_short_says_that_it_is_whole(esx: LabHost, hole: str, missing: int) -> None:
    esx.fault("clone_short", hole=hole)
    done = esx.run(CLONE)
    assert (done.returncode, "100% done" in done.stdout) == (0, True)
    sizes = esx.run(f"stat -c %s {OFF}/off67-flat.vmdk {OFF}/copy-flat.vmdk").stdout.split()
    assert int(sizes[0]) - int(sizes[1]) == missing


def test_a_reboot_in_the_middle_of_a_call_happens(esx: LabHost) -> None:
    boots = esx.status["boots"]
    esx.fault("reboot", op="get.summary", after=0)
    esx.run("vim-cmd vmsvc/get.summary 1")
    wait_until(lambda: esx.status["boots"] == boots + 1 and esx.status["up"], "the reboot", 60)
    wait_until(lambda: esx.run("vim-cmd vmsvc/getallvms").returncode == 0, "hostd", 60)
