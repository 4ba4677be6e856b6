# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The switches of a machine, each in both positions, on two real hosts of a small lab."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Lab, LabHost, start_lab, wait_until
from .test_lab_machines import password_login

# The two positions of each switch; the first is what such a host does when nothing is said, or the harder one.
HARD: dict[str, Any] = {
    "command_builtin": False,
    "epoll": False,
    "seek_data": False,
    "fork": False,
    "multiprocessing": False,
    "python_from_stdin": False,
    "fips": True,
    "ecdsa_user_keys": False,
    "max_sessions": 2,
    "ssh_memory_mb": 100,
    "sftp": False,
}
SOFT: dict[str, Any] = {
    "command_builtin": True,
    "epoll": True,
    "seek_data": True,
    "fork": True,
    "multiprocessing": True,
    "python_from_stdin": True,
    "fips": False,
    "ed25519": True,
    "ecdsa_user_keys": True,
    "exec_installed_only": False,
    "lockout": False,
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """`hard` and `soft`, two 8.0 hosts with all switches in opposite positions; `none` has no Python; 6.0 and 6.7."""
    folder = tmp_path_factory.mktemp("switches")
    store = [{"name": "ds", "type": "vmfs5", "size": "32M"}]
    hosts = [
        {"name": "hard", "profile": "8.0", "switches": HARD, "datastores": store},
        {"name": "soft", "profile": "8.0", "switches": SOFT, "datastores": store},
        {"name": "none", "profile": "8.0", "switches": {"python": "none"}, "datastores": store},
        {"name": "old", "profile": "6.0", "datastores": store},
        {"name": "esx67", "profile": "6.7", "datastores": store},
    ]
    (folder / "pair.json").write_text(json.dumps({"hosts": hosts}), encoding="utf-8")
    lab = start_lab(folder / "pair", str(folder / "pair.json"))
    try:
        yield lab
    finally:
        lab.call("down")


def python(host: LabHost, code: str) -> subprocess.CompletedProcess[str]:
    return host.ssh(f"python -c '{code}'")


@pytest.fixture(params=["hard", "soft"])
def host(pair: Lab, request: pytest.FixtureRequest) -> LabHost:
    return pair.host(request.param)


def test_the_command_builtin(host: LabHost) -> None:
    done = host.ssh("command -v ls")
    assert done.returncode == (127 if host.name == "hard" else 0)
    assert ("command: not found" in done.stderr) is (host.name == "hard")


def test_epoll(host: LabHost) -> None:
    done = python(host, "import select; select.poll(); select.epoll(); print(1)")
    assert (done.stdout == "1\n") is (host.name == "soft")
    assert ("[Errno 22] Invalid argument" in done.stderr) is (host.name == "hard")


def test_seek_data_finds_the_hole_or_is_refused(host: LabHost) -> None:
    host.ssh("dd if=/dev/zero of=/vmfs/volumes/ds/holes bs=1 count=1 seek=8388607 2>/dev/null")
    done = python(host, 'import os; print(os.lseek(os.open("/vmfs/volumes/ds/holes", os.O_RDONLY), 0, 3))')
    assert (done.stdout == f"{(8 << 20) - 4096}\n") is (host.name == "soft")
    assert ("[Errno 22] Invalid argument" in done.stderr) is (host.name == "hard")


def test_fork_works_or_is_refused_and_threads_work_on_both(host: LabHost) -> None:
    done = python(host, "import os; p = os.fork(); p or os._exit(0); print(os.waitpid(p, 0)[1])")
    assert (done.stdout == "0\n") is (host.name == "soft")
    assert ("[Errno 38] Function not implemented" in done.stderr) is (host.name == "hard")
    code = "import threading; t = threading.Thread(target=print, args=(7,)); t.start(); t.join()"
    assert python(host, code).stdout == "7\n"
    assert host.ssh("(echo child) | cat").stdout == "child\n"  # the shell forks as ever


def test_semaphores_of_multiprocessing(host: LabHost) -> None:
    done = python(host, "import multiprocessing; multiprocessing.Lock(); print(1)")
    assert (done.stdout == "1\n") is (host.name == "soft")
    assert ("OSError" in done.stderr) is (host.name == "hard")


def test_python_from_stdin_and_from_a_datastore(host: LabHost) -> None:
    host.run("echo 'print(5)' > /vmfs/volumes/ds/five.py")
    for command, said in (
        ("echo 'print(42)' | python -", "42\n"),
        ("echo 'print(42)' | python", "42\n"),
        ("python /vmfs/volumes/ds/five.py", "5\n"),
    ):
        done = host.ssh(command)
        assert done.stdout == (said if host.name == "soft" else ""), command
        assert ("Operation not permitted" in done.stderr) is (host.name == "hard")
    assert python(host, "print(1)").stdout == "1\n"
    assert host.ssh("echo 'echo sh' | sh").stdout == "sh\n"


def test_md5_and_blake2b_are_refused_in_fips_mode(host: LabHost) -> None:
    for name in ("md5", "blake2b"):
        for call in (f"hashlib.{name}()", f'hashlib.new("{name}")'):
            done = python(host, f"import hashlib; print({call}.name)")
            assert (done.stdout == f"{name}\n") is (host.name == "soft"), call
            assert ("disabled for FIPS" in done.stderr) is (host.name == "hard")
    assert python(host, "import hashlib; print(hashlib.sha256().digest_size)").stdout == "32\n"


def test_before_3_6_hashlib_has_no_blake2_and_6_0_has_no_python_3(pair: Lab) -> None:
    assert "AttributeError" in python(pair.host("esx67"), "import hashlib; hashlib.blake2b").stderr
    assert python(pair.host("esx67"), "import hashlib; print(hashlib.md5().digest_size)").stdout == "16\n"
    old = pair.host("old")
    assert old.ssh("which python3").returncode == 1
    found = old.status["python"]
    if found["version"] is None:
        assert old.ssh("python -V").returncode == 127
    else:
        assert python(old, "import sys; print(sys.version_info[:2])").stdout == "(2, 7)\n"
        assert "[Errno 38] Function not implemented" in python(old, "import select; select.epoll()").stderr


def test_a_host_without_python_has_none_by_any_name(pair: Lab) -> None:
    none = pair.host("none")
    for name in ("python", "python3", "/bin/python3"):
        done = none.ssh(f"{name} -V")
        assert (done.returncode, "not found" in done.stderr) == (127, True), name
    assert none.ssh("vim-cmd vmsvc/getallvms").returncode == 0
    assert none.status["python"]["version"] is None


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_user_keys(host: LabHost, kind: str, tmp_path: Path) -> None:
    key = tmp_path / kind
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)
    host.run(f"echo '{key.with_suffix('.pub').read_text().strip()}' >> /etc/ssh/keys-root/authorized_keys")
    argv = [str(key) if word == str(host.lab.key) else word for word in host.ssh_argv()]
    done = subprocess.run([*argv, "echo in"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    accepted = host.name == "soft" or kind == "rsa"
    assert (done.stdout == "in\n") is accepted
    assert ("Permission denied (publickey,keyboard-interactive)" in done.stderr) is not accepted


def test_channels_of_one_connection(host: LabHost, tmp_path: Path) -> None:
    socket = ["-o", f"ControlPath={tmp_path}/cm"]
    subprocess.run([*host.ssh_argv("-M", "-N", "-f", *socket)], check=True, stdin=subprocess.DEVNULL, timeout=30)
    argv = host.ssh_argv(*socket, "-o", "ControlMaster=no")
    sleepers = [subprocess.Popen([*argv, "sleep 20"], stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        wait_until(lambda: host.run("ps -c").stdout.count("sleep 20") >= 2, "two channels")
        done = subprocess.run([*argv, "echo third"], capture_output=True, text=True, check=False, timeout=30)
        assert ("session request failed" in done.stderr) is (host.name == "hard")
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
        subprocess.run([*host.ssh_argv(*socket, "-O", "exit")], check=False, capture_output=True)


def test_a_program_on_a_datastore_is_executed_or_not(host: LabHost) -> None:
    done = host.ssh("cd /vmfs/volumes/ds && cp /bin/busybox ./ls && ./ls / >/dev/null; rc=$?; rm ls; exit $rc")
    assert (done.returncode == 0) is (host.name == "soft")
    assert ("./ls: Operation not permitted" in done.stderr) is (host.name == "hard")


def test_five_wrong_passwords_lock_the_account_or_not(host: LabHost) -> None:
    for _ in range(5):
        assert password_login(host, "wrong") == "AuthenticationException"
    said = password_login(host, host.password)
    assert (said == "AuthenticationException") is (host.name == "hard")


def test_sftp(host: LabHost) -> None:
    argv = ["sftp" if word == "ssh" else word for word in host.ssh_argv()]
    argv[argv.index("-p")] = "-P"
    done = subprocess.run(
        argv, input="ls /vmfs/volumes/ds/..\n", capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode == 0) is (host.name == "soft")
    assert ("/vmfs/volumes/ds/../ds" in done.stdout) is (host.name == "soft")
    assert ("subsystem request failed" in done.stderr) is (host.name == "hard")


# --- the memory of all sessions together -----------------------------------------------------------------------------

# Holds that many MiB until its stdin ends.
HOLD = 'import sys; b = b"x" * ({0} << 20); print("holding", flush=True); sys.stdin.read()'


def hold(host: LabHost, megabytes: int) -> subprocess.Popen[str]:
    code = HOLD.format(megabytes)
    return subprocess.Popen(
        [*host.ssh_argv(), f"python -c '{code}'; exit $?"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_two_sessions_share_one_memory_cap(host: LabHost) -> None:
    first, second = hold(host, 60), hold(host, 60)
    try:
        if host.name == "soft":
            assert [one.stdout.readline() for one in (first, second) if one.stdout] == ["holding\n"] * 2
            assert host.status["ssh_memory"] is None
            return
        wait_until(lambda: first.poll() is not None or second.poll() is not None, "the end of one of them")
        time.sleep(0.5)
        assert sorted(one.poll() is None for one in (first, second)) == [False, True]
        assert next(one for one in (first, second) if one.poll() is not None).returncode == 137
        assert host.status["ssh_memory"]["kills"] == 1
        assert "killed by out of memory" in host.run("cat /var/log/vmkernel.log").stdout
    finally:
        for one in (first, second):
            one.communicate("", timeout=20)


def test_what_a_session_writes_to_a_datastore_does_not_count_and_the_cap_can_be_read_and_raised(pair: Lab) -> None:
    host = pair.host("hard")
    kills = host.status["ssh_memory"]["kills"]
    assert (
        host.ssh("dd if=/dev/zero of=/tmp/big bs=1M count=150 2>/dev/null; rm /tmp/big; echo done").stdout == "done\n"
    )
    group = host.ssh("vsish -e set /sched/groupPathNameToID host vim vimuser terminal ssh").stdout.split()[1]
    path = f"/sched/groups/{group}/memAllocationInMB"
    assert "   max:100\n" in host.ssh(f"vsish -e get {path}").stdout
    assert host.ssh(f"vsish -e set {path} max=unlimited minLimit=unlimited").returncode == 0
    assert "   max:-1\n" in host.ssh(f"vsish -e get {path}").stdout
    large = hold(host, 200)
    assert large.stdout is not None and large.stdout.readline() == "holding\n"
    large.communicate("", timeout=20)
    assert host.status["ssh_memory"]["kills"] == kills
    host.ssh(f"vsish -e set {path} max=100")
