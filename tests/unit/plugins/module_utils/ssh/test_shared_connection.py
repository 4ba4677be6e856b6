# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared OpenSSH connection: one login for all processes, and nothing of a secret left anywhere."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import (
    errors,
    hostlock,
    openssh,
    options,
    runtime,
    session,
)
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.master import Master

ONE_CALL = """
import os, sys
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import errors, session
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
host, port, user, known, password = sys.argv[1:6]
word = os.environ.get("TEST_PASSWORD") or None
endpoint = Endpoint(host, int(port), user, password=word, private_key_file=password or None, known_hosts_file=known,
                    backend="openssh")
try:
    print(session.open_session(endpoint).run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout.strip())
except errors.AuthenticationFailed as error:
    print("refused")
"""


def endpoint_of(server: Any, **changes: Any) -> Endpoint:
    settings: dict[str, Any] = {
        "host": server.address,
        "port": server.port,
        "user": server.user,
        "private_key_file": server.user_key,
        "known_hosts_file": server.known_hosts(),
        "backend": "openssh",
    }
    return Endpoint(**{**settings, **changes})


def in_processes(server: Any, count: int, key: str, password: str = "") -> list[str]:
    words = [sys.executable, "-c", ONE_CALL, server.address, str(server.port), server.user, server.known_hosts(), key]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TEST_PASSWORD": password}
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(count)]
    return [process.communicate(timeout=60)[0].strip() for process in running]


def masters_of(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(b"ssh") and folder.encode() in words and b"[mux]" in words:
                found.append(int(entry.name))
    return found


def test_processes_that_start_at_once_share_one_login(sshd: Any) -> None:
    before = sshd.log.count("Accepted publickey")
    answers = in_processes(sshd, 6, sshd.user_key)
    assert len(set(answers)) == 1, "all commands came over the same connection"
    assert sshd.log.count("Accepted publickey") == before + 1


def test_a_wrong_password_in_six_processes_at_once_is_one_failed_login(password_sshd: Any) -> None:
    before = password_sshd.log.count("Failed keyboard-interactive")
    assert in_processes(password_sshd, 6, "", "wrong in many") == ["refused"] * 6
    time.sleep(0.2)
    assert password_sshd.log.count("Failed keyboard-interactive") == before + 1


def test_a_corrected_password_is_tried_at_once(password_sshd: Any, password: str) -> None:
    with pytest.raises(errors.AuthenticationFailed):
        session.open_session(endpoint_of(password_sshd, private_key_file=None, password="wrong")).run(["true"])
    right = endpoint_of(password_sshd, private_key_file=None, password=password)
    assert session.open_session(right).run(["true"]).rc == 0


def test_the_password_is_in_no_process_and_no_file(password_sshd: Any, password: str, runtime_dir: str) -> None:
    endpoint = endpoint_of(password_sshd, private_key_file=None, password=password)
    assert session.open_session(endpoint).run(["true"]).rc == 0
    master = subprocess.run(
        ["ssh", "-F", "none", "-S", Master(endpoint, "ssh").socket, "-O", "check", "x"], capture_output=True, text=True
    )
    pid = int(master.stderr.split("pid=")[1].split(")")[0])
    for name in ("cmdline", "environ"):
        assert password.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    left = [path for path in Path(runtime_dir).rglob("*") if path.is_file()]
    assert left
    for path in left:
        assert password not in path.read_text(errors="replace")
    assert not list(Path(runtime_dir).glob("ask-*"))


def test_another_credential_does_not_ride_on_the_same_connection(sshd: Any) -> None:
    assert session.open_session(endpoint_of(sshd)).run(["true"]).rc == 0
    stranger = endpoint_of(sshd, private_key_file=str(sshd.folder / "host_rsa"))
    with pytest.raises(errors.AuthenticationFailed):
        session.open_session(stranger).run(["true"])


def test_more_sessions_than_a_connection_carries_get_another_connection(sshd: Any) -> None:
    endpoint = endpoint_of(sshd)
    results: list[str] = []

    def one() -> None:
        results.append(session.open_session(endpoint).run(["sh", "-c", "sleep 2; echo done"]).stdout)

    threads = [threading.Thread(target=one) for _ in range(13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["done\n"] * 13


def test_a_master_that_is_gone_is_replaced_before_the_command_starts(sshd: Any) -> None:
    opened = session.open_session(endpoint_of(sshd))
    first = opened.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout
    assert isinstance(opened, openssh.OpenSshSession)
    opened.disconnect()
    assert opened.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout != first


def test_a_dead_control_socket_is_replaced(sshd: Any) -> None:
    import socket

    endpoint = endpoint_of(sshd)
    path = Master(endpoint, "ssh").socket
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert session.open_session(endpoint).run(["true"]).rc == 0


def test_without_its_master_the_client_never_logs_in_by_itself(sshd: Any, runtime_dir: str) -> None:
    before = sshd.log.count("Connection from")
    words = [*options.client("ssh", endpoint_of(sshd), f"{runtime_dir}/none"), "echo ran"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (255, "")
    assert openssh.never_started(done.stderr)
    assert sshd.log.count("Connection from") == before


@pytest.mark.parametrize(
    ("words", "started"),
    [
        ("stowage: the shared connection is gone\n", False),
        ("mux_client_request_session: session request failed: Session open refused by peer\n"
         "stowage: the shared connection is gone\n", False),
        ("mux_client_request_session: read from master failed: Broken pipe\n"
         "stowage: the shared connection is gone\n", True),
        ("client_loop: send disconnect: Broken pipe\n", True),
        ("", True),
    ],
)  # fmt: skip
def test_only_a_proven_non_start_may_be_repeated(words: str, started: bool) -> None:
    assert openssh.never_started(words) is not started


def test_the_command_line_holds_no_secret(sshd: Any) -> None:
    endpoint = endpoint_of(sshd, private_key_file=None, private_key="KEYTEXT", password="PASSWORD", passphrase="PHRASE")
    words = " ".join(
        options.basic(endpoint)
        + options.authentication(endpoint, "/run/key-1", "keyboard-interactive")
        + options.client("ssh", endpoint, "/run/s")
    )
    for secret in ("KEYTEXT", "PASSWORD", "PHRASE"):
        assert secret not in words
        assert secret not in repr(endpoint)


# The folder ------------------------------------------------------------------------------------------------------


def test_the_folder_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOWAGE_RUNTIME_DIR", f"/tmp/sw-new-{os.getpid()}")
    path = runtime.folder()
    try:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    finally:
        os.rmdir(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"at": null}'])
def test_what_a_power_cut_left_of_a_refusal_keeps_nobody_out(runtime_dir: str, text: str) -> None:
    master = Master(Endpoint("127.0.0.31", password="x"), "ssh")
    Path(f"{master.socket}.refused").write_text(text, encoding="ascii")
    master._refuse_to_repeat()


@pytest.mark.parametrize("make", ["open-to-others", "link", "file", "foreign"])
def test_a_folder_that_is_not_ours_alone_is_refused(
    make: str, runtime_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.path.join(runtime_dir, "d")
    monkeypatch.setenv("STOWAGE_RUNTIME_DIR", path)
    if make == "open-to-others":
        os.mkdir(path)
        os.chmod(path, 0o750)
    elif make == "link":
        os.symlink("/", path)
    elif make == "file":
        Path(path).touch()
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can make a folder of another user")
        os.mkdir(path, 0o700)
        os.chown(path, 65534, 65534)
    with pytest.raises(errors.UnsafeFolder):
        runtime.folder()


def test_names_differ_by_secret_and_do_not_show_it() -> None:
    names = {runtime.name_of("master", "h", word) for word in ("one", "two", None)}
    assert len(names) == 3
    assert names == {runtime.name_of("master", "h", word) for word in ("one", "two", None)}


# One at a time on a host -----------------------------------------------------------------------------------------

HOLD = """
import sys, time
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.hostlock import host_lock
with host_lock(Endpoint("ESX1.test", user=sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_host_lock_holds_across_processes_and_users_and_falls_with_its_holder() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "root"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(errors.HostBusy), hostlock.host_lock(Endpoint("esx1.test", user="other"), timeout_seconds=0.2):
        pass
    with hostlock.host_lock(Endpoint("esx1.test", port=2222), timeout_seconds=0.2):
        pass
    holder.kill()
    holder.communicate()
    with hostlock.host_lock(Endpoint("esx1.test"), timeout_seconds=5):
        pass


def test_a_thread_may_take_the_host_lock_again_and_another_may_not() -> None:
    endpoint = Endpoint("esx1.test")
    seen: list[str] = []

    def other() -> None:
        try:
            with hostlock.host_lock(endpoint, timeout_seconds=0.1):
                seen.append("got it")
        except errors.HostBusy:
            seen.append("busy")

    with hostlock.host_lock(endpoint), hostlock.host_lock(endpoint, timeout_seconds=0.1):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["busy"]
    with hostlock.host_lock(endpoint, timeout_seconds=1):
        pass


def test_a_host_that_knows_only_sha1_signatures_is_served_after_it_said_so(make_sshd: Any) -> None:
    server = make_sshd("127.0.0.36", "HostKeyAlgorithms ssh-rsa\nPubkeyAcceptedAlgorithms +ssh-rsa")
    endpoint = endpoint_of(server, known_hosts_file=server.known_hosts("rsa"))
    before = server.log.count("Failed")
    assert session.open_session(endpoint).run(["true"]).rc == 0
    assert server.log.count("Failed") == before
    pinned = endpoint_of(
        server, known_hosts_file=None, host_key_policy="pinned", host_key_fingerprints=(server.fingerprint("rsa"),)
    )
    assert session.open_session(pinned).run(["true"]).rc == 0


def test_a_host_with_a_new_key_of_its_pinned_set_is_accepted_again(make_sshd: Any) -> None:
    server = make_sshd("127.0.0.37")
    pins = (server.fingerprint("ed25519"), server.fingerprint("rsa"))
    endpoint = endpoint_of(server, known_hosts_file=None, host_key_policy="pinned", host_key_fingerprints=pins)
    opened = session.open_session(endpoint)
    assert opened.run(["true"]).rc == 0
    assert isinstance(opened, openssh.OpenSshSession)
    opened.disconnect()
    server.stop()
    config = server.folder / "sshd_config"
    lines = [line for line in config.read_text().splitlines() if "host_ed25519" not in line]
    config.write_text("\n".join(lines) + "\n")
    server.start()
    assert session.open_session(endpoint).run(["true"]).rc == 0
