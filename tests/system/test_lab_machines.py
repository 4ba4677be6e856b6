# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's machines behave as a hypervisor's shell, its SSH server and its network do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Lab, LabHost, start_lab, wait_until

paramiko = pytest.importorskip("paramiko")


def password_login(host: LabHost, password: str) -> str:
    """Log in with a password by keyboard-interactive only; the output of a command, or the error's class name."""
    transport = paramiko.Transport((host.address, host.port))
    try:
        transport.start_client(timeout=20)
        transport.auth_interactive("root", lambda _title, _text, prompts: [password] * len(prompts))
        channel = transport.open_session()
        channel.exec_command("echo $USER")
        return channel.makefile("r").read().decode().strip()
    except paramiko.SSHException as error:
        return type(error).__name__
    finally:
        transport.close()


def small_topology(tmp_path: Path, **switches: Any) -> str:
    """One 8.0 host without VMs and one backup server."""
    path = tmp_path / "small.json"
    host = {
        "name": "solo",
        "profile": "8.0",
        "switches": switches,
        "datastores": [{"name": "ds", "type": "vmfs6", "size": "32M"}],
    }
    path.write_text(json.dumps({"hosts": [host], "backup_servers": [{"name": "bks"}]}), encoding="utf-8")
    return str(path)


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """A small lab of the test's own, for what would harm the shared one."""
    lab = start_lab(tmp_path / "own", small_topology(tmp_path, lockout_seconds=900))
    try:
        yield lab
    finally:
        lab.call("down")


# --- the shell ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["esx67", "esx70", "esx80"])
def test_the_shell_has_neither_command_builtin_nor_foreign_programs(lab: Lab, name: str) -> None:
    host = lab.host(name)
    for missing in ("command -v ls", "bash", "rsync --version", "sudo id", "screen", "base64 /etc/hosts", "perl -v"):
        done = host.ssh(missing)
        assert done.returncode == 127, missing
        assert "not found" in done.stderr


@pytest.mark.parametrize("name", ["esx67", "esx70", "esx80"])
def test_every_applet_that_tools_rely_on_is_there(lab: Lab, name: str) -> None:
    wanted = (
        "awk sed grep cut tr sort uniq head tail wc find stat dd md5sum du nohup sleep mktemp tar gzip nc wget vi ps"
        " date hexdump basename dirname readlink cp mv ln chmod touch seq tee which xargs openssl setsid df uname"
        " hostname"
    )
    done = lab.host(name).ssh(f"for x in {wanted}; do which $x >/dev/null || echo $x; done")
    assert done.stdout == ""


def test_a_session_is_root_with_esxis_path_and_home(lab: Lab) -> None:
    done = lab.host("esx80").ssh("echo $USER $PATH $PWD $SHELL; hostname; hostname -s")
    assert done.stdout.splitlines() == ["root /bin:/sbin / /bin/sh", "esx80.lab.example", "esx80"]


def test_exec_runs_in_the_same_machine_as_ssh_and_keeps_the_exit_code(lab: Lab) -> None:
    host = lab.host("esx80")
    host.ssh("echo seen > /tmp/by-ssh")
    done = host.run("cat /tmp/by-ssh; hostname -s; exit 7")
    assert (done.stdout, done.returncode) == ("seen\nesx80\n", 7)


def test_datastores_are_uuid_folders_with_links_of_their_names(lab: Lab) -> None:
    host = lab.host("esx70")
    for name, uuid in host.status["datastores"].items():
        assert host.run(f"readlink '/vmfs/volumes/{name}'").stdout.strip() == uuid
        assert host.run(f"ls -d /vmfs/volumes/{uuid}").returncode == 0


def test_a_full_datastore_is_full_for_every_program(lab: Lab) -> None:
    host = lab.host("esx70")
    done = host.run(
        "dd if=/dev/zero of=/vmfs/volumes/small/filler bs=1M count=100; rc=$?; rm /vmfs/volumes/small/filler; exit $rc"
    )
    assert done.returncode != 0
    assert "No space left on device" in done.stderr


def test_a_shared_datastore_is_one_on_both_hosts(lab: Lab) -> None:
    lab.host("esx70").run("echo from70 > /vmfs/volumes/shared/note")
    assert lab.host("esx80").run("cat /vmfs/volumes/shared/note").stdout == "from70\n"


def test_an_nfs_datastore_is_a_folder_of_the_backup_server(lab: Lab) -> None:
    lab.host("bk1").run("echo from-bk1 > /srv/backup/note")
    for name in ("esx67", "esx70", "esx80"):
        assert lab.host(name).run("cat /vmfs/volumes/backup/note").stdout == "from-bk1\n"
    assert (lab.volume_path("backup") / "note").read_text() == "from-bk1\n"


@pytest.mark.parametrize(("name", "allowed"), [("esx67", True), ("esx70", True), ("esx80", False)])
def test_only_release_8_refuses_to_execute_from_datastores_and_ramdisks(lab: Lab, name: str, allowed: bool) -> None:
    host = lab.host(name)
    for folder in ("/vmfs/volumes/datastore1", "/tmp", "/etc"):
        done = host.ssh(f"cd {folder} && cp /bin/busybox ./ls && ./ls / >/dev/null; rc=$?; rm ls; exit $rc")
        assert (done.returncode == 0) is allowed, folder
        if not allowed:
            assert "./ls: Operation not permitted" in done.stderr


def test_release_8_still_runs_scripts_with_an_interpreter_and_python_from_stdin(lab: Lab) -> None:
    host = lab.host("esx80")
    script = "/vmfs/volumes/datastore1/script"
    host.run(f"printf '#!/bin/sh\\necho shebang\\n' > {script}; chmod 755 {script}")
    assert host.ssh(script).stdout == "shebang\n"
    host.run(f"echo 'echo none' > {script}")
    assert "Operation not permitted" in host.ssh(script).stderr
    assert host.ssh(f"sh {script}; rm {script}").stdout == "none\n"
    assert host.ssh("echo 'print(6 * 7)' | python3 -").stdout == "42\n"


@pytest.mark.parametrize("name", ["esx67", "esx70", "esx80"])
def test_epoll_fails_in_the_hosts_python_and_poll_works(lab: Lab, name: str) -> None:
    done = lab.host(name).ssh("python -c 'import select; select.poll(); print(1); select.epoll()'")
    assert done.stdout == "1\n"
    assert "OSError: [Errno 22] Invalid argument" in done.stderr


def test_status_names_the_interpreter_that_plays_each_release(lab: Lab) -> None:
    for name in ("esx67", "esx80"):
        python = lab.host(name).status["python"]
        seen = lab.host(name).run("python3 -c 'import platform; print(platform.python_version())'").stdout.strip()
        assert seen == python["version"]
        assert python["plays"] in ("3.5", "3.8")


# --- logins ------------------------------------------------------------------------------------------------------


def test_a_password_works_as_keyboard_interactive_and_the_password_method_does_not(lab: Lab) -> None:
    host = lab.host("esx70")
    assert password_login(host, host.password) == "root"
    transport = paramiko.Transport((host.address, host.port))
    try:
        transport.start_client(timeout=20)
        with pytest.raises(paramiko.BadAuthenticationType) as refused:
            transport.auth_password("root", host.password, fallback=False)
    finally:
        transport.close()
    assert sorted(refused.value.allowed_types) == ["keyboard-interactive", "publickey"]


def test_an_installed_ed25519_key_is_refused_and_rsa_and_ecdsa_are_taken(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("esx80")
    codes = {}
    for kind in ("ed25519", "ecdsa", "rsa"):
        key = tmp_path / kind
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)
        public = key.with_suffix(".pub").read_text().strip()
        host.run(f"echo '{public}' >> /etc/ssh/keys-root/authorized_keys")
        argv = [word if word != str(lab.key) else str(key) for word in host.ssh_argv()]
        codes[kind] = subprocess.run([*argv, "true"], capture_output=True, check=False).returncode
    assert codes == {"ed25519": 255, "ecdsa": 0, "rsa": 0}


def test_five_wrong_passwords_lock_the_account_for_the_right_one(own_lab: Lab) -> None:
    host = own_lab.host("solo")
    assert password_login(host, host.password) == "root"
    for _ in range(5):
        assert password_login(host, "wrong") == "AuthenticationException"
    assert password_login(host, host.password) == "AuthenticationException"
    host.run("rm -rf /var/run/faillock/*")
    assert password_login(host, host.password) == "root"


def test_the_servers_log_shows_the_address_that_the_client_really_had(lab: Lab) -> None:
    host = lab.host("esx67")
    host.ssh("true", "-b", "127.77.0.9")
    assert "Accepted publickey for root from 127.77.0.9" in host.run("cat /var/log/auth.log").stdout


def test_tcp_forwarding_is_refused_by_a_hypervisor_and_works_through_a_backup_server(lab: Lab) -> None:
    hypervisor, server = lab.host("esx70"), lab.host("bk1")
    refused = subprocess.run(
        [*hypervisor.ssh_argv("-W", f"{server.address}:{server.port}")],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "administratively prohibited" in refused.stderr
    forwarded = subprocess.run(
        [*server.ssh_argv("-W", f"{hypervisor.address}:{hypervisor.port}")],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert forwarded.stdout.startswith("SSH-2.0-")


def test_the_inventory_pins_the_keys_that_the_machines_show(lab: Lab) -> None:
    inventory = yaml.safe_load(lab.inventory_path.read_text())
    assert set(inventory) == {"esxi", "backup_servers"}
    for group in inventory.values():
        for name, variables in group["hosts"].items():
            transport = paramiko.Transport((variables["ansible_host"], variables["ansible_port"]))
            try:
                transport.start_client(timeout=20)
                key = transport.get_remote_server_key()
            finally:
                transport.close()
            assert key.fingerprint in variables["stowage_host_key_fingerprints"], name
    assert inventory["esxi"]["hosts"]["esx70"]["stowage_backup_server"] == "bk1"


def test_ansible_reaches_the_backup_server_through_the_inventory(lab: Lab) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible"), "-i", str(lab.inventory_path), "backup_servers", "-m", "ping"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "minimal"},
        stdin=subprocess.DEVNULL,
    )
    assert '"ping": "pong"' in done.stdout, done.stdout + done.stderr


# --- the network's faults ----------------------------------------------------------------------------------------


def test_a_command_outlives_the_cut_of_its_connection(clean_lab: Lab) -> None:
    host = clean_lab.host("esx70")
    client = subprocess.Popen(
        [*host.ssh_argv(), "echo started > /tmp/started; sleep 3; echo done > /tmp/outlived"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: host.run("cat /tmp/started").stdout == "started\n", "the command's start")
    assert host.fault("cut")["connections"] >= 1
    assert client.wait(timeout=30) == 255
    assert client.stderr is not None
    client.stderr.close()
    assert host.run("cat /tmp/outlived").returncode != 0
    wait_until(lambda: host.run("cat /tmp/outlived").stdout == "done\n", "the end of the command")


def test_a_connection_is_cut_after_the_asked_number_of_bytes(clean_lab: Lab) -> None:
    host = clean_lab.host("esx70")
    host.fault("cut", after_bytes="2M")
    done = subprocess.run(
        [*host.ssh_argv(), "dd if=/dev/zero bs=1M count=64 2>/dev/null"],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 255
    assert 0 < len(done.stdout) < 8 << 20
    host.clear()
    assert host.ssh("true").returncode == 0


def test_a_blackholed_connection_is_silent_and_flows_again_when_healed(clean_lab: Lab) -> None:
    host = clean_lab.host("esx70")
    client = subprocess.Popen(
        [*host.ssh_argv(), "echo one; touch /tmp/hole; while [ -e /tmp/hole ]; do usleep 50000; done; echo two"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "one\n"
    host.fault("cut", mode="blackhole")
    host.run("rm /tmp/hole")
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(timeout=2)
    host.clear()
    assert client.stdout.read() == "two\n"
    assert client.wait(timeout=30) == 0


def test_a_refusing_host_refuses_new_connections_and_keeps_old_ones(clean_lab: Lab) -> None:
    host = clean_lab.host("esx70")
    old = subprocess.Popen([*host.ssh_argv(), "echo up; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert old.stdin is not None and old.stdout is not None
    assert old.stdout.readline() == "up\n"
    host.fault("refuse")
    assert "Connection refused" in host.ssh("true").stderr
    assert old.communicate("still here", timeout=30)[0] == "still here"
    host.clear()
    assert host.ssh("true").returncode == 0


def test_a_capped_connection_carries_no_more_than_its_rate(clean_lab: Lab) -> None:
    host = clean_lab.host("esx70")
    host.fault("cap", bytes_per_second="2M")
    started = time.monotonic()
    done = host.ssh("dd if=/dev/zero bs=1M count=4 2>/dev/null | tr '\\0' x")
    # A lower bound only: a busy machine makes it slower, never faster.
    assert time.monotonic() - started > 1.5
    assert len(done.stdout) == 4 << 20


def test_an_unknown_fault_names_the_known_ones(lab: Lab) -> None:
    done = lab.command("fault", "esx70", "bogus")
    assert done.returncode == 1
    assert "hostd_down" in done.stderr
    assert "latency" in done.stderr


# --- power and life ----------------------------------------------------------------------------------------------


def test_a_reboot_ends_all_processes_empties_tmp_and_keeps_the_disks(clean_lab: Lab) -> None:
    host = clean_lab.host("esx67")
    host.run("touch /tmp/gone /scratch/kept /vmfs/volumes/datastore1/kept")
    client = subprocess.Popen(
        [*host.ssh_argv("-o", "ServerAliveInterval=2"), "echo up; sleep 600"], stdout=subprocess.PIPE
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    boots = host.status["boots"]
    host.reboot()
    assert host.status["boots"] == boots + 1
    assert client.wait(timeout=60) == 255
    client.stdout.close()
    assert host.run("ls /tmp").stdout == ""
    assert host.run("ls /scratch/kept /vmfs/volumes/datastore1/kept").returncode == 0
    assert "sleep" not in host.run("cat /proc/[0-9]*/comm").stdout
    assert {vm["power"] for vm in host.status["vms"]} == {"poweredOff"}
    assert host.ssh("true").returncode == 0


def test_a_host_that_is_down_refuses_and_comes_back(own_lab: Lab) -> None:
    host = own_lab.host("solo")
    own_lab.call("hostdown", "solo")
    assert host.status["up"] is False
    assert host.ssh("true").returncode == 255
    own_lab.call("hostup", "solo")
    assert host.ssh("echo back").stdout == "back\n"
    assert "Operation not permitted" in host.ssh("cp /bin/busybox /tmp/ls; /tmp/ls").stderr


def test_down_clears_up_after_a_killed_daemon(tmp_path: Path) -> None:
    lab = start_lab(tmp_path / "killed", small_topology(tmp_path))
    status = lab.status()
    pids = [machine["pid"] for machine in status["machines"]]
    os.kill(status["pid"], signal.SIGKILL)
    wait_until(lambda: lab.command("status").returncode == 1, "the daemon's end")
    lab.call("down")
    assert not lab.folder.exists()
    assert str(lab.folder) not in Path("/proc/self/mountinfo").read_text()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the machines' processes")


def test_down_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious").write_text("x")
    done = Lab(foreign).command("down")
    assert done.returncode == 1
    assert "is not a lab's folder" in done.stderr
    assert (foreign / "precious").exists()


def test_a_failed_up_leaves_nothing_behind(lab: Lab, tmp_path: Path) -> None:
    base = lab.host("esx67").address.rpartition(".")[0] + ".0"
    second = Lab(tmp_path / "second")
    done = second.command("up", "--topology", small_topology(tmp_path), "--base-address", base)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert not second.folder.exists()
    assert str(second.folder) not in Path("/proc/self/mountinfo").read_text()
    assert lab.host("esx67").ssh("true").returncode == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"profile": "5.5"}, "profile '5.5' is not known"),
        ({"address": "10.0.0.1"}, "no loopback address"),
        ({"datastores": [{"name": "x", "type": "ext4"}]}, "type 'ext4' is not known"),
        ({"vms": [{"name": "v", "datastore": "nowhere"}]}, "is on datastore 'nowhere', which the host lacks"),
        ({"switches": {"lokout": True}}, "no switch 'lokout'"),
    ],
)
def test_a_mistake_in_a_topology_is_named_before_anything_starts(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"hosts": [{"name": "h", **change}]}), encoding="utf-8")
    lab = Lab(tmp_path / "bad")
    done = lab.command("up", "--topology", str(path))
    assert done.returncode == 1
    assert text in done.stderr
    assert not lab.folder.exists()


def test_a_fleet_of_ten_hosts_answers(tmp_path: Path) -> None:
    lab = start_lab(tmp_path / "fleet", "fleet:10")
    try:
        hosts = [machine for machine in lab.status()["machines"] if machine["kind"] == "esxi"]
        assert len(hosts) == 10
        for machine in hosts:
            assert lab.host(machine["name"]).ssh("hostname -s").stdout.strip() == machine["name"]
    finally:
        lab.call("down")


# --- the commands ------------------------------------------------------------------------------------------------


def test_a_running_clone_is_seen_and_killed_in_ps_and_its_progress_arrives_live(clean_lab: Lab) -> None:
    host = clean_lab.host("esx70")
    host.fault("slow_clone", rate="4M")
    source, target = "/vmfs/volumes/datastore1/two words/two words.vmdk", "/vmfs/volumes/shared/killed.vmdk"
    host.run(f"dd if=/dev/urandom of='{source[:-5]}-flat.vmdk' bs=1M seek=16 count=32 conv=notrunc")
    clone = subprocess.Popen(
        [*host.ssh_argv(), f"vmkfstools -i '{source}' -d thin {target}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert clone.stdout is not None
    seen = b""
    while b"\rClone: 2" not in seen:
        piece = clone.stdout.read1(100)  # type: ignore[attr-defined]
        assert piece, seen
        seen += piece
    assert b"100% done" not in seen
    lines = [
        line for line in host.run("ps -c").stdout.splitlines() if "/bin/vmkfstools -i" in line and "sh -c" not in line
    ]
    world, cartel, name, command = lines[0].split(None, 3)
    assert (world, name) == (cartel, "vmkfstools")
    assert command == f"/bin/vmkfstools -i {source} -d thin {target}"
    host.run(f"kill -9 {world}")
    assert clone.wait(timeout=30) != 0
    clone.stdout.close()
    host.run("rm -f /vmfs/volumes/shared/killed*")


def test_a_running_disk_is_busy_for_every_program_and_free_after_power_off(lab: Lab) -> None:
    host = lab.host("esx67")
    disk = "/vmfs/volumes/datastore1/plain67/plain67-flat.vmdk"
    host.run("vim-cmd vmsvc/power.on 1")
    wait_until(lambda: host.vm("plain67")["power"] == "poweredOn", "power on")
    for reader in (
        f"cat {disk}",
        f"dd if={disk} bs=512 count=1",
        f'python3 -c \'open("{disk}", "rb")\'',
        f"openssl md5 {disk}",
    ):
        done = host.run(reader)
        assert done.returncode != 0, reader
        assert "resource busy" in done.stderr, reader
    outside = host.volume_path("datastore1") / "plain67" / "plain67-flat.vmdk"
    assert subprocess.run(["cat", str(outside)], capture_output=True, check=False).returncode != 0
    host.run("vim-cmd vmsvc/power.off 1")
    wait_until(lambda: host.run(f"dd if={disk} bs=512 count=1").returncode == 0, "the lock's end")
    host.run("vim-cmd vmsvc/power.on 1")


def test_df_shows_each_datastore_in_bytes_with_its_name(lab: Lab) -> None:
    rows = [line.split(None, 5) for line in lab.host("esx70").run("df").stdout.splitlines()]
    assert rows[0] == ["Filesystem", "Bytes", "Used", "Available", "Use%", "Mounted on"]
    found = {row[5]: (row[0], int(row[1])) for row in rows[1:]}
    assert found["/vmfs/volumes/small"] == ("VMFS-6", 48 << 20)
    assert found["/vmfs/volumes/backup"] == ("NFS", 1 << 30)


def test_the_commands_of_hostd_keep_their_exit_code_and_streams(clean_lab: Lab) -> None:
    host = clean_lab.host("esx80")
    assert "plain80" in host.ssh("vim-cmd vmsvc/getallvms").stdout
    assert host.ssh("vim-cmd vmsvc/power.getstate 4711").returncode != 0
    host.fault("hostd_down")
    assert host.ssh("vim-cmd vmsvc/getallvms").returncode != 0
    host.clear()
    assert host.ssh("vim-cmd vmsvc/getallvms").returncode == 0


def test_a_vim_cmd_that_a_fault_kills_dies_by_the_signal(clean_lab: Lab) -> None:
    host = clean_lab.host("esx80")
    host.fault("vimcmd_killed", times=1)
    done = host.run("vim-cmd vmsvc/getallvms; echo $?")
    assert done.stdout.splitlines()[-1] == "137"
    assert host.run("vim-cmd vmsvc/getallvms").returncode == 0
