# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pipe promises, whatever carries it: one suite over both backends and a real server."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import errors, pipe, session

from .test_session_contract import BACKENDS, endpoint_of

WAIT = 20.0


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "paramiko":
        pytest.importorskip("paramiko")
    return str(request.param)


@pytest.fixture
def shell(sshd: Any, backend: str) -> Iterator[session.Session]:
    with session.open_session(endpoint_of(sshd, backend)) as opened:
        yield opened


def everything(stream: pipe.Pipe) -> bytes:
    found = b""
    while True:
        more = stream.read(1 << 20, WAIT)
        if not more:
            return found
        found += more


def gone(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_bytes_go_both_ways_unchanged_at_the_same_time(shell: session.Session) -> None:
    data = secrets.token_bytes(6 << 20)
    with pipe.open_pipe(shell, ["cat"]) as stream:
        writer = threading.Thread(target=lambda: stream.write(data, WAIT))
        writer.start()
        found = bytearray()
        while len(found) < len(data):
            more = stream.read(1 << 20, WAIT)
            assert more
            found += more
        writer.join()
        assert found == data
        # A short question after all that: nothing is held back.
        stream.write(b"?", WAIT)
        assert stream.read(10, WAIT) == b"?"


def test_the_command_is_its_words_and_its_end_is_told(shell: session.Session) -> None:
    argv = ["sh", "-c", 'printf "%s|" "$@"; echo word >&2; exit 7', "sh", "a b", "$(id)", "'", ""]
    stream = pipe.open_pipe(shell, argv)
    assert everything(stream) == b"a b|$(id)|'||"
    assert stream.read(1, WAIT) == b""
    assert stream.close() == (7, "word")


def test_closing_ends_the_input_and_waits_for_the_commands_last_words(shell: session.Session) -> None:
    stream = pipe.open_pipe(shell, ["sh", "-c", "cat >/dev/null; sleep 0.3; echo last >&2; exit 3"])
    stream.write(b"x" * 100_000, WAIT)
    assert stream.close() == (3, "last")
    stream.close()


def test_it_is_a_connection_of_its_own(shell: session.Session, sshd: Any) -> None:
    def logins() -> int:
        return int(sshd.log.count("Accepted publickey for"))

    shell.run(["true"])
    before = logins()
    with pipe.open_pipe(shell, ["cat"]), pipe.open_pipe(shell, ["cat"]):
        assert logins() - before == 2
        shell.run(["true"])
        assert logins() - before == 2


def test_nothing_is_left_of_it_but_the_shared_connection(shell: session.Session, runtime_dir: str) -> None:
    shell.run(["true"])
    before = set(os.listdir(runtime_dir))
    stream = pipe.open_pipe(shell, ["sh", "-c", "echo $$; exec cat"])
    pid = int(stream.read(20, WAIT))
    stream.close()
    assert gone(pid)
    end = time.monotonic() + 5
    while set(os.listdir(runtime_dir)) != before and time.monotonic() < end:
        time.sleep(0.05)
    assert set(os.listdir(runtime_dir)) == before


def test_a_wait_that_is_over_is_a_time_out_and_the_pipe_lives_on(shell: session.Session) -> None:
    with pipe.open_pipe(shell, ["sh", "-c", "read word; echo $word; exec sleep 60"]) as stream:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            stream.read(1, 0.7)
        assert 0.6 < time.monotonic() - begun < 3
        stream.write(b"word\n", WAIT)
        assert stream.read(10, WAIT) == b"word\n"
        stream.cut()


def test_a_command_that_reads_nothing_makes_a_write_time_out(shell: session.Session) -> None:
    stream = pipe.open_pipe(shell, ["sleep", "60"])
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        stream.write(bytes(64 << 20), 1.0)
    assert time.monotonic() - begun < 5
    stream.cut()
    stream.close()


def test_a_command_that_has_ended_takes_nothing(shell: session.Session) -> None:
    stream = pipe.open_pipe(shell, ["sh", "-c", "echo 'out of order' >&2; exit 1"])
    with pytest.raises(errors.ConnectionLost) as caught:
        for _ in range(50):
            stream.write(bytes(1 << 20), WAIT)
    assert caught.value.data["host"] == shell.endpoint.host
    assert stream.close()[1] == "out of order"


def test_what_a_command_says_on_standard_error_blocks_nobody_and_fills_nothing(shell: session.Session) -> None:
    code = (
        "i=0; while [ $i -lt 20000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done; echo end"
    )
    with pipe.open_pipe(shell, ["sh", "-c", code + "; echo the end >&2"]) as stream:
        assert everything(stream) == b"end\n"
        time.sleep(0.3)
        assert len(stream.said()) <= pipe.STDERR_BYTES
        assert stream.said().endswith("the end")


def test_a_command_that_is_not_there_ends_with_127(shell: session.Session) -> None:
    stream = pipe.open_pipe(shell, ["no-such-command-here"])
    assert everything(stream) == b""
    rc, said = stream.close()
    assert rc == 127
    assert "no-such-command-here" in said


def test_cutting_from_another_thread_ends_a_wait(shell: session.Session) -> None:
    stream = pipe.open_pipe(shell, ["sh", "-c", "echo $$; exec sleep 60"])
    pid = int(stream.read(20, WAIT))
    timer = threading.Timer(0.5, stream.cut)
    timer.start()
    begun = time.monotonic()
    assert stream.read(1, WAIT) == b""
    assert time.monotonic() - begun < 5
    timer.join()
    assert stream.close()[0] is None
    # sshd ends a command without a terminal by closing its streams alone: one that does not look lives on.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)


@pytest.mark.parametrize("way", ["reading", "writing"])
def test_a_connection_that_is_cut_is_an_end_for_the_reader_and_an_error_for_the_writer(
    make_sshd: Callable[..., Any], backend: str, way: str
) -> None:
    server = make_sshd("127.0.0.35")
    with session.open_session(endpoint_of(server, backend)) as shell:
        stream = pipe.open_pipe(shell, ["cat"])
        stream.write(b"there", WAIT)
        assert stream.read(10, WAIT) == b"there"
        cutter = threading.Timer(0.7, server.cut)
        cutter.start()
        begun = time.monotonic()
        if way == "reading":
            assert stream.read(1, WAIT) == b""
        else:
            with pytest.raises(errors.ConnectionLost):
                while time.monotonic() - begun < WAIT:
                    stream.write(b"x", WAIT)
                    time.sleep(0.01)
        assert time.monotonic() - begun < 10
        cutter.join()
        assert stream.close()[0] is None
        # The next one connects anew.
        with pipe.open_pipe(shell, ["cat"]) as again:
            again.write(b"again", WAIT)
            assert again.read(10, WAIT) == b"again"


def test_what_stands_in_the_way_of_a_login_is_told_as_by_a_session(sshd: Any, backend: str, tmp_path: Path) -> None:
    with pytest.raises(errors.HostUnreachable, match="(?i)refused"):
        pipe.open_pipe(session.open_session(endpoint_of(sshd, backend, port=1)), ["cat"])
    stranger = str(sshd.folder / "host_rsa")
    with pytest.raises(errors.AuthenticationFailed) as caught:
        pipe.open_pipe(session.open_session(endpoint_of(sshd, backend, private_key_file=stranger)), ["cat"])
    assert stranger in str(caught.value)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(errors.UnknownHostKey):
        pipe.open_pipe(session.open_session(endpoint_of(sshd, backend, known_hosts_file=str(empty))), ["cat"])


def test_a_password_opens_one_as_well(password_sshd: Any, backend: str, password: str) -> None:
    shell = session.open_session(endpoint_of(password_sshd, backend, private_key_file=None, password=password))
    with pipe.open_pipe(shell, ["cat"]) as stream:
        stream.write(b"there", WAIT)
        assert stream.read(10, WAIT) == b"there"
    shell.close()


def test_a_jump_host_carries_it_under_the_same_policy(
    sshd: Any, make_sshd: Callable[..., Any], backend: str, tmp_path: Path
) -> None:
    jump = make_sshd("127.0.0.36")
    (jump.folder / "authorized_keys").write_text((sshd.folder / "user_key.pub").read_text())
    both = tmp_path / "both"
    both.write_text(Path(sshd.known_hosts()).read_text() + Path(jump.known_hosts()).read_text())
    through = f"{jump.user}@{jump.address}:{jump.port}"
    shell = session.open_session(endpoint_of(sshd, backend, jump=through, known_hosts_file=str(both)))
    data = secrets.token_bytes(1 << 20)
    with pipe.open_pipe(shell, ["cat"]) as stream:
        writer = threading.Thread(target=lambda: stream.write(data, WAIT))
        writer.start()
        found = b""
        while len(found) < len(data):
            found += stream.read(1 << 20, WAIT)
        writer.join()
        assert found == data
    assert "Accepted publickey" in jump.log
    with pytest.raises(errors.UnknownHostKey) as caught:
        pipe.open_pipe(session.open_session(endpoint_of(sshd, backend, jump=through)), ["cat"])
    assert jump.address in str(caught.value)
    shell.close()


def test_a_password_that_was_refused_is_not_sent_again_by_the_next_connection(password_sshd: Any) -> None:
    """OpenSSH alone: twenty connections of one transfer would lock the account."""
    shell = session.open_session(
        endpoint_of(password_sshd, "openssh", private_key_file=None, password="wrong", user="root")
    )
    for turn in range(3):
        with pytest.raises(errors.AuthenticationFailed) as caught:
            pipe.open_pipe(shell, ["cat"])
        assert ("not sent again" in str(caught.value)) == (turn > 0)


CLIENT = """
import sys, time
sys.path[:0] = {path!r}
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import pipe, session
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
stream = pipe.open_pipe(session.open_session({endpoint!r}), ["sh", "-c", "echo $$; exec cat"])
print(stream.read(20, 20).decode(), flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_no_command_behind(sshd: Any, backend: str, runtime_dir: str) -> None:
    code = CLIENT.format(path=sys.path, endpoint=endpoint_of(sshd, backend))
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    client.kill()
    client.wait(10)
    client.stdout.close()
    assert gone(pid, 2)
