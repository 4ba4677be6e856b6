# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session promises, whatever carries it: one suite over both backends and a real server."""

from __future__ import annotations

import os
import resource
import secrets
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import errors, session
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint

BACKENDS = ["openssh", "paramiko"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "paramiko":
        pytest.importorskip("paramiko")
    return str(request.param)


def endpoint_of(server: Any, backend: str, **changes: Any) -> Endpoint:
    settings: dict[str, Any] = {
        "host": server.address,
        "port": server.port,
        "user": server.user,
        "private_key_file": server.user_key,
        "known_hosts_file": server.known_hosts(),
        "backend": backend,
        "connect_timeout_seconds": 10,
    }
    return Endpoint(**{**settings, **changes})


@pytest.fixture
def shell(sshd: Any, backend: str) -> Any:
    with session.open_session(endpoint_of(sshd, backend)) as opened:
        yield opened


@pytest.mark.parametrize("rc", [0, 1, 3, 126, 255])
def test_the_rc_is_the_commands_own_even_255(shell: Any, rc: int) -> None:
    result = shell.run(["sh", "-c", f"echo out; echo err >&2; exit {rc}"])
    assert (result.rc, result.stdout, result.stderr) == (rc, "out\n", "err\n")


def test_a_builtin_that_leaves_the_shell_still_answers(shell: Any) -> None:
    assert shell.run(["exit", "7"]).rc == 7


def test_stderr_without_line_end_comes_back_unchanged(shell: Any) -> None:
    assert shell.run(["sh", "-c", "printf 'no end' >&2; exit 4"]).stderr == "no end"


def test_a_missing_command_is_127_and_no_error(shell: Any) -> None:
    assert shell.run(["no-such-command-here"]).rc == 127


def test_a_command_killed_by_a_signal_has_an_rc(shell: Any) -> None:
    assert shell.run(["sh", "-c", "kill -9 $$"]).rc == 137


@pytest.mark.parametrize(
    "word",
    [
        "",
        " ",
        "a b",
        "$(id)",
        "`id`",
        "'",
        '"',
        "\\",
        "a\nb",
        "*",
        "~",
        "-n",
        "é\udcff",
        "!x",
        "a=b",
        "#",
        "{a,b}",
        ";",
        "&",
    ],
)
def test_words_arrive_unchanged(shell: Any, word: str) -> None:
    result = shell.run(["printf", "%s|", "x", word, "y"])
    assert result.stdout == f"x|{word}|y|"


def test_a_command_named_like_an_assignment_is_a_command(shell: Any) -> None:
    assert shell.run(["a=b"]).rc == 127


def test_stdin_arrives_byte_for_byte(shell: Any) -> None:
    data = secrets.token_bytes(300_000)
    result = shell.run(["sh", "-c", "cat | od -An -v -tx1 | tr -d ' \\n'"], stdin=data)
    assert bytes.fromhex(result.stdout) == data


def test_without_stdin_the_command_reads_nothing(shell: Any) -> None:
    assert shell.run(["cat"], timeout_seconds=20).stdout == ""


def test_output_that_is_not_utf8_comes_through_and_back(shell: Any) -> None:
    result = shell.run(["printf", "\\377\\303\\251"])
    assert result.stdout.encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9"


def test_much_output_on_both_streams_does_not_hang(shell: Any) -> None:
    result = shell.run(
        [
            "sh",
            "-c",
            "i=0; while [ $i -lt 3000 ]; do echo $i 0123456789012345678901234567890123456789; "
            "echo $i 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done",
        ]
    )
    assert len(result.stdout.splitlines()) == len(result.stderr.splitlines()) == 3000


def test_a_script_gets_its_arguments_and_is_on_no_command_line(shell: Any) -> None:
    result = shell.script("secret_word=hidden; echo \"$1|$2\"; tr '\\0' ' ' < /proc/$$/cmdline", ["a b", "-x'"])
    assert result.stdout.startswith("a b|-x'\n")
    assert "hidden" not in result.stdout.split("\n", 1)[1]


def test_the_commands_of_a_script_do_not_eat_the_script(shell: Any) -> None:
    assert shell.script("cat\necho after\nexit 5").stdout == "after\n"
    assert shell.script("exit 5").rc == 5


def test_half_a_script_never_runs(shell: Any, tmp_path: Any) -> None:
    mark = tmp_path / "mark"
    whole = f"{{\ntouch {mark}\ntrue\n"
    result = shell.run(["sh", "-s"], stdin=whole.encode())
    assert result.rc != 0
    assert not mark.exists()


def test_a_file_is_written_as_a_whole_and_read_back(shell: Any, tmp_path: Any) -> None:
    path = str(tmp_path / "-a b'$(c)\n.txt")
    text = "line\n\u00e9\udcfe no end"
    shell.write_text(path, text)
    assert shell.read_text(path) == text
    assert os.listdir(tmp_path) == [os.path.basename(path)]


def test_a_write_that_was_cut_leaves_the_old_file(shell: Any, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    result = shell.run(["sh", "-c", session._WRITE, "sh", str(tmp_path / ".t"), str(path), "10"], stdin=b"short")
    assert result.rc == 1
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_unreadable_file_is_an_error_that_names_it(shell: Any) -> None:
    with pytest.raises(errors.RemoteFileError, match="/no/such/file"):
        shell.read_text("/no/such/file")


def test_check_raises_with_the_words_of_the_command(shell: Any) -> None:
    with pytest.raises(errors.RemoteCommandFailed, match="ended with 3.*the reason"):
        shell.check(["sh", "-c", "echo the reason >&2; exit 3"])


@pytest.mark.parametrize("command", ["sleep 30", "trap '' HUP TERM PIPE; sleep 30", "while :; do echo on; done"])
def test_a_command_that_does_not_end_is_a_timeout_in_time_and_the_session_lives_on(shell: Any, command: str) -> None:
    begun = time.monotonic()
    with pytest.raises(errors.CommandTimeout):
        shell.run(["sh", "-c", command], timeout_seconds=1)
    assert time.monotonic() - begun < 10
    assert shell.run(["echo", "here"]).stdout == "here\n"


@pytest.mark.parametrize("stream", ["1", "2"])
def test_an_answer_without_an_end_is_cut_with_little_memory_and_the_session_lives_on(shell: Any, stream: str) -> None:
    """A host may print what it likes, and as fast as the wire takes it."""
    assert shell.most_bytes == session.MOST_BYTES == 64 << 20
    shell.most_bytes = 4 << 20
    begun, before = time.monotonic(), peak_bytes()
    with pytest.raises(
        errors.AnswerTooLong, match=r"127\.0\.0\.\d+ this printed more than 4194304 bytes.*yes"
    ) as caught:
        shell.run(["sh", "-c", f"yes 'a name of a file' >&{stream}"], timeout_seconds=60)
    assert "what answers for it on that host" in caught.value.hint_text
    assert time.monotonic() - begun < 20 and peak_bytes() - before < 40 << 20
    assert shell.run(["echo", "here"]).stdout == "here\n"
    # What is as long as it may be comes whole.
    assert len(shell.run(["head", "-c", str(shell.most_bytes - 100), "/dev/zero"]).stdout) == shell.most_bytes - 100


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_a_server_that_never_says_whether_it_runs_the_command_is_a_timeout_in_time(tmp_path: Path) -> None:
    """paramiko alone: its request for a command waits for the answer without a limit of its own."""
    paramiko = pytest.importorskip("paramiko")
    import socket

    key, over = paramiko.RSAKey.generate(2048), threading.Event()

    class Silent(paramiko.ServerInterface):  # type: ignore[misc,name-defined]
        def check_auth_none(self, username: str) -> int:
            return int(paramiko.AUTH_SUCCESSFUL)

        def check_channel_request(self, kind: str, chanid: int) -> int:
            return int(paramiko.OPEN_SUCCEEDED)

        def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
            over.wait(60)
            return False

    with socket.socket() as listening:
        listening.bind(("127.0.0.34", 0))
        listening.listen(1)

        def serve() -> None:
            transport = paramiko.Transport(listening.accept()[0])
            transport.add_server_key(key)
            transport.start_server(server=Silent())

        threading.Thread(target=serve, daemon=True).start()
        port = listening.getsockname()[1]
        known = tmp_path / "known_hosts"
        known.write_text(f"[127.0.0.34]:{port} {key.get_name()} {key.get_base64()}\n", encoding="utf-8")
        endpoint = Endpoint(host="127.0.0.34", port=port, backend="paramiko", known_hosts_file=str(known))
        begun = time.monotonic()
        with session.open_session(endpoint) as shell, pytest.raises(errors.CommandTimeout):
            shell.run(["true"], timeout_seconds=1)
        over.set()
    assert time.monotonic() - begun < 20


def test_a_connection_cut_in_the_middle_is_lost_and_the_next_call_connects_anew(
    make_sshd: Callable[..., Any], backend: str
) -> None:
    server = make_sshd("127.0.0.33")
    with session.open_session(endpoint_of(server, backend)) as shell:
        shell.run(["true"])
        cutter = threading.Timer(1.0, server.cut)
        cutter.start()
        with pytest.raises(errors.ConnectionLost, match="sleep 20"):
            shell.run(["sleep", "20"])
        cutter.join()
        assert shell.run(["echo", "again"]).stdout == "again\n"


def test_a_refused_connection_is_unreachable(sshd: Any, backend: str) -> None:
    with pytest.raises(errors.HostUnreachable, match="(?i)refused"):
        session.open_session(endpoint_of(sshd, backend, port=1)).run(["true"])


def test_a_name_that_does_not_resolve_is_unreachable(sshd: Any, backend: str) -> None:
    with pytest.raises(errors.HostUnreachable, match="no-such-host.invalid"):
        session.open_session(endpoint_of(sshd, backend, host="no-such-host.invalid")).run(["true"])


def test_a_silent_server_is_unreachable_in_the_given_time(sshd: Any, backend: str) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind((sshd.address, 0))
        silent.listen(1)
        settings = {"port": silent.getsockname()[1], "connect_timeout_seconds": 2}
        with pytest.raises(errors.HostUnreachable):
            session.open_session(endpoint_of(sshd, backend, **settings)).run(["true"])


def test_strict_refuses_an_unknown_key_and_tells_fingerprint_and_variable(
    sshd: Any, backend: str, tmp_path: Any
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(errors.UnknownHostKey) as caught:
        session.open_session(endpoint_of(sshd, backend, known_hosts_file=str(empty))).run(["true"])
    shown = str(caught.value) + caught.value.hint_text
    assert any(sshd.fingerprint(kind) in shown for kind in ("rsa", "ecdsa", "ed25519"))
    assert "stowage_host_key_fingerprints" in shown
    assert str(empty) in shown
    assert empty.read_text() == ""


@pytest.mark.parametrize("policy", ["strict", "accept_new"])
def test_a_changed_key_is_refused_and_both_are_told(sshd: Any, backend: str, policy: str, tmp_path: Any) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(f"[{sshd.address}]:{sshd.port} {(sshd.folder / 'user_key.pub').read_text()}")
    with pytest.raises(errors.HostKeyMismatch) as caught:
        session.open_session(endpoint_of(sshd, backend, known_hosts_file=str(wrong), host_key_policy=policy)).run(
            ["true"]
        )
    assert sshd.fingerprint("ecdsa") in str(caught.value)
    assert str(wrong) in str(caught.value)


def test_accept_new_stores_the_key_and_then_is_strict(sshd: Any, backend: str, tmp_path: Any) -> None:
    store = tmp_path / "new" / "known_hosts"
    endpoint = endpoint_of(sshd, backend, known_hosts_file=str(store), host_key_policy="accept_new")
    assert session.open_session(endpoint).run(["true"]).rc == 0
    assert f"[{sshd.address}]:{sshd.port} " in store.read_text()
    strict = endpoint_of(sshd, backend, known_hosts_file=str(store))
    assert session.open_session(strict).run(["true"]).rc == 0


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_pinned_fingerprint_of_any_type_is_enough(sshd: Any, backend: str, kind: str) -> None:
    endpoint = endpoint_of(
        sshd, backend, known_hosts_file=None, host_key_policy="pinned", host_key_fingerprints=(sshd.fingerprint(kind),)
    )
    assert session.open_session(endpoint).run(["true"]).rc == 0


def test_another_pinned_fingerprint_refuses_and_tells_what_is_offered(sshd: Any, backend: str) -> None:
    other = "SHA256:" + "A" * 43
    endpoint = endpoint_of(
        sshd, backend, known_hosts_file=None, host_key_policy="pinned", host_key_fingerprints=(other,)
    )
    before = sshd.log.count("Accepted")
    with pytest.raises(errors.HostKeyMismatch) as caught:
        session.open_session(endpoint).run(["true"])
    assert other in str(caught.value)
    assert sshd.fingerprint("ecdsa") in str(caught.value)
    assert sshd.log.count("Accepted") == before


def test_a_key_may_be_given_as_text_and_stays_nowhere(sshd: Any, backend: str, runtime_dir: str) -> None:
    text = Path(sshd.user_key).read_text()
    endpoint = endpoint_of(sshd, backend, private_key_file=None, private_key=text)
    assert session.open_session(endpoint).run(["true"]).rc == 0
    for folder, _, names in os.walk(runtime_dir):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                assert "PRIVATE KEY" not in Path(path).read_text(errors="replace")


def test_a_key_with_a_passphrase_works_and_a_wrong_one_is_refused(sshd: Any, backend: str, tmp_path: Any) -> None:
    import shutil
    import subprocess

    key = tmp_path / "locked"
    shutil.copy(sshd.user_key, key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "pass phrase", "-f", str(key)], check=True)
    endpoint = endpoint_of(sshd, backend, private_key_file=str(key), passphrase="pass phrase")
    assert session.open_session(endpoint).run(["true"]).rc == 0
    wrong = endpoint_of(sshd, backend, private_key_file=str(key), passphrase="another")
    with pytest.raises(errors.AuthenticationFailed, match="locked"):
        session.open_session(wrong).run(["true"])


def test_a_key_that_the_host_does_not_know_is_refused_with_the_way_out(sshd: Any, backend: str) -> None:
    stranger = str(sshd.folder / "host_rsa")
    with pytest.raises(errors.AuthenticationFailed) as caught:
        session.open_session(endpoint_of(sshd, backend, private_key_file=stranger)).run(["true"])
    assert stranger in str(caught.value)
    assert "authorized_keys" in caught.value.hint_text


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
@pytest.mark.parametrize("comment", ["", "c", "some comment"])
def test_private_keys_of_every_type_and_padding_are_read(sshd: Any, kind: str, comment: str, tmp_path: Path) -> None:
    paramiko = pytest.importorskip("paramiko")
    import subprocess

    from ansible_collections.stowage.esxi.plugins.module_utils.ssh import paramiko_login

    for passphrase in ("", "locked"):
        for number in range(1 if kind == "rsa" else 4):
            path = tmp_path / f"key{number}{passphrase}"
            small = ["-b", "2048"] if kind == "rsa" else []
            words = ["ssh-keygen", "-q", "-t", kind, *small, "-N", passphrase, "-C", comment, "-f", str(path)]
            subprocess.run(words, check=True)
            endpoint = endpoint_of(sshd, "paramiko", private_key_file=str(path), passphrase=passphrase or None)
            (key,) = paramiko_login._keys(endpoint, jump=False)
            assert isinstance(key, paramiko.PKey)
            assert key.get_base64() == Path(f"{path}.pub").read_text().split()[1]


def test_a_password_works_by_keyboard_interactive(password_sshd: Any, backend: str, password: str) -> None:
    endpoint = endpoint_of(password_sshd, backend, private_key_file=None, password=password)
    assert session.open_session(endpoint).run(["id", "-u"]).stdout == "0\n"
    assert "Accepted keyboard-interactive" in password_sshd.log


def test_a_wrong_password_is_sent_once(password_sshd: Any, backend: str) -> None:
    endpoint = endpoint_of(password_sshd, backend, private_key_file=None, password="wrong-" + backend)
    before = password_sshd.log.count("Failed keyboard-interactive") + password_sshd.log.count("error: PAM: Auth")
    with pytest.raises(errors.AuthenticationFailed) as caught:
        session.open_session(endpoint).run(["true"])
    time.sleep(0.2)
    after = password_sshd.log.count("Failed keyboard-interactive") + password_sshd.log.count("error: PAM: Auth")
    assert after - before <= 2, "one attempt is told in at most two lines"
    assert password_sshd.log.count("Failed keyboard-interactive/pam for root") >= 1
    assert "wrong-" not in str(caught.value) + caught.value.hint_text + repr(caught.value) + repr(endpoint)


def test_a_server_that_takes_only_the_method_password_gets_one_too(
    make_sshd: Callable[..., Any], backend: str, password: str
) -> None:
    server = make_sshd("127.0.0.34", "KbdInteractiveAuthentication no", password=True)
    config = server.folder / "sshd_config"
    config.write_text(config.read_text().replace("PasswordAuthentication no", "PasswordAuthentication yes"))
    server.stop()
    server.start()
    endpoint = endpoint_of(server, backend, private_key_file=None, password=password)
    assert session.open_session(endpoint).run(["id", "-u"]).stdout == "0\n"


def test_a_jump_host_carries_the_connection_under_the_same_policy(
    make_sshd: Callable[..., Any], sshd: Any, backend: str, tmp_path: Any
) -> None:
    jump = make_sshd("127.0.0.35")
    (jump.folder / "authorized_keys").write_text((sshd.folder / "user_key.pub").read_text())
    both = tmp_path / "both"
    both.write_text(Path(sshd.known_hosts()).read_text() + Path(jump.known_hosts()).read_text())
    through = f"{jump.user}@{jump.address}:{jump.port}"
    endpoint = endpoint_of(sshd, backend, jump=through, known_hosts_file=str(both))
    result = session.open_session(endpoint).run(["sh", "-c", "echo $SSH_CONNECTION"])
    assert result.rc == 0
    assert "Accepted publickey" in jump.log
    with pytest.raises(errors.UnknownHostKey) as caught:
        session.open_session(endpoint_of(sshd, backend, jump=through)).run(["true"])
    assert jump.address in str(caught.value)
    assert "stowage_jump_host_key_fingerprints" in caught.value.hint_text
    pinned = endpoint_of(
        sshd,
        backend,
        jump=through,
        known_hosts_file=None,
        host_key_policy="pinned",
        host_key_fingerprints=(sshd.fingerprint("rsa"),),
        jump_host_key_fingerprints=(jump.fingerprint("ed25519"),),
    )
    assert session.open_session(pinned).run(["true"]).rc == 0
    swapped = endpoint_of(
        sshd,
        backend,
        jump=through,
        known_hosts_file=None,
        host_key_policy="pinned",
        host_key_fingerprints=(jump.fingerprint("rsa"),),
        jump_host_key_fingerprints=(jump.fingerprint("ed25519"),),
    )
    with pytest.raises(errors.HostKeyMismatch) as caught_swap:
        session.open_session(swapped).run(["true"])
    assert caught_swap.value.data["host"] == sshd.address


def test_a_jump_host_takes_a_key_of_the_agent_and_the_hypervisor_behind_it_the_password_only(
    make_sshd: Callable[..., Any],
    password_sshd: Any,
    backend: str,
    password: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import subprocess

    jump = make_sshd("127.0.0.36")
    both = tmp_path / "both"
    both.write_text(Path(password_sshd.known_hosts()).read_text() + Path(jump.known_hosts()).read_text())
    through = f"{jump.user}@{jump.address}:{jump.port}"
    endpoint = endpoint_of(
        password_sshd,
        backend,
        private_key_file=None,
        password=password,
        jump=through,
        known_hosts_file=str(both),
    )
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(errors.AuthenticationFailed) as caught:
        session.open_session(endpoint).run(["true"])
    assert jump.address in str(caught.value) and "the default keys of this user" in str(caught.value)
    assert "ForwardAgent" in caught.value.hint_text
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        deadline = time.monotonic() + 10
        # Its socket has a name before it takes connections.
        while subprocess.run(["ssh-add", "-q", jump.user_key], check=False).returncode and time.monotonic() < deadline:
            time.sleep(0.05)
        before = password_sshd.log.count("publickey")
        assert session.open_session(endpoint).run(["id", "-u"]).stdout == "0\n"
        assert "Accepted publickey" in jump.log
        assert password_sshd.log.count("publickey") == before
    finally:
        agent.terminate()
        agent.wait(10)
