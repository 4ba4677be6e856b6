# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's answers to the probe mean, as interpreters and shells of this machine give them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import ending, errors, probe
from esxilab import interpreters

from .conftest import PYTHONS

OLD = [found for found in interpreters.found() if found.version < (3, 5)]


class Here(Session):
    """Runs commands on this machine, with only such interpreters as a test puts there."""

    def __init__(self, answer: str | None = None) -> None:
        super().__init__(Endpoint(host="esx1"))
        self.answer = answer
        self.asked: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        self.asked.append(tuple(argv))
        if self.answer is not None:
            return Result(tuple(argv), 0, self.answer, "")
        done = subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout_seconds, check=False)
        return Result(tuple(argv), done.returncode, done.stdout.decode(), done.stderr.decode())

    def close(self) -> None:
        pass


def put(monkeypatch: pytest.MonkeyPatch, *places: str | Path) -> None:
    monkeypatch.setattr(probe, "PLACES", tuple(map(str, places)))


def wrapper(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("found", PYTHONS, ids=lambda found: found.text)
def test_every_interpreter_is_seen_with_its_version(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "/no/such/python", found.executable)
    way = probe.probe(Here())
    assert way.method == "agent"
    assert way.interpreter is not None
    assert (way.interpreter.path, way.interpreter.version, way.interpreter.way) == (
        found.executable,
        found.version,
        "command",
    )
    assert way.interpreter.zlib
    assert way.tried == ()


@pytest.mark.parametrize("found", PYTHONS[:1] + PYTHONS[-1:], ids=lambda found: found.text)
def test_one_that_refuses_programs_on_its_command_line_gets_them_on_its_input(
    found: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = wrapper(
        tmp_path / "python",
        f'for word in "$@"; do [ "$word" = -c ] && {{ echo "Operation not permitted" >&2; exit 126; }}; done\n'
        f'exec {found.executable} "$@"\n',
    )
    put(monkeypatch, refusing)
    way = probe.probe(Here())
    assert way.interpreter is not None
    assert (way.method, way.interpreter.way, way.interpreter.version) == ("agent", "stdin", found.version)
    assert "from standard input" in way.describe()
    (reason,) = way.tried
    assert "python -c fails: Operation not permitted" in reason


@pytest.mark.parametrize("found", OLD, ids=lambda found: found.text)
def test_a_python_2_is_told_and_the_plain_commands_are_used(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, found.executable)
    way = probe.probe(Here())
    assert (way.method, way.interpreter) == ("shell", None)
    assert way.digest in ("sha256sum", "openssl dgst -sha256")
    assert f"is Python {found.text}, and 3.5 is needed" in way.describe()
    with pytest.raises(errors.NoWay, match="3.5 is needed"):
        probe.probe(Here(), "agent")


@pytest.mark.parametrize(
    "text",
    [
        "exit 0",
        "echo Killed >&2; exit 137",
        "echo \"STOWAGE ((3, 8, 1), True, 'wrong')\"",
        "echo \"STOWAGE ((3, 8, 1), __import__('os').system('touch /tmp/evil'))\"",
        "echo STOWAGE; head -c 100000 /dev/zero",
        "echo 'STOWAGE ((('",
        "sleep 0.1; kill -9 $$",
    ],
)
def test_one_that_does_not_work_is_passed_over_for_the_next(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = wrapper(tmp_path / "python", text + "\n")
    put(monkeypatch, broken, PYTHONS[-1].executable)
    way = probe.probe(Here())
    assert way.interpreter is not None
    assert way.interpreter.path == PYTHONS[-1].executable
    assert any(str(broken) in reason for reason in way.tried)
    put(monkeypatch, broken)
    with pytest.raises(errors.NoWay, match="python -c"):
        probe.probe(Here(), "agent")


def test_the_way_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, PYTHONS[-1].executable)
    assert probe.probe(Here(), "agent").method == "agent"
    assert probe.probe(Here(), "shell").method == "shell"
    with pytest.raises(ValueError, match="unknown method"):
        probe.probe(Here(), "ftp")


@pytest.mark.parametrize("answer", ["", "garbage\n", "dd wrong\ndigest sha256sum: nothing\n", "python /x\ncommand \n"])
def test_a_host_where_nothing_works_is_told_why(answer: str) -> None:
    with pytest.raises(errors.NoWay, match="dd does not work") as caught:
        probe.probe(Here(answer))
    assert "esx1" in str(caught.value)


# The end of an agent


def test_an_agent_that_cannot_be_ended_is_an_error_with_its_number() -> None:
    with pytest.raises(errors.AgentStays, match="process 4711") as caught:
        ending.prove_gone(Here("there\n"), [(4711, "stowage-agent-x")])
    assert "kill -9 4711" in caught.value.hint_text


def test_a_connection_that_says_nothing_proves_nothing() -> None:
    with pytest.raises(errors.AgentStays):
        ending.prove_gone(Here(""), [(4711, "stowage-agent-x")])


def test_an_ended_process_is_gone_and_a_foreign_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ESXi's `ps -c` shows every process with its words; the option means something else here.
    wrapper(tmp_path / "ps", "exec /bin/ps -e -ww -o pid,pid,comm,args\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ended = subprocess.Popen(["true"])
    ended.wait()
    ending.prove_gone(Here(), [(ended.pid, "stowage-agent-x")], seconds=3)
    foreign = subprocess.Popen(["sleep", "60"])
    try:
        ending.prove_gone(Here(), [(foreign.pid, "stowage-agent-x")], seconds=3, kill_after=1)
        assert foreign.poll() is None
        # One that bears the mark is ended.
        ours = subprocess.Popen(["sh", "-c", "trap '' TERM HUP; sleep 60; true", "stowage-agent-x"])
        ending.prove_gone(Here(), [(ours.pid, "stowage-agent-x")], seconds=4, kill_after=1)
        assert ours.wait(5) == -9
        # All that bear their mark, at the same time, and whoever does not is left alone between them.
        several = [
            subprocess.Popen(["sh", "-c", "trap '' TERM HUP; sleep 60; true", f"stowage-agent-{n}"]) for n in "ab"
        ]
        agents = [(one.pid, f"stowage-agent-{name}") for one, name in zip(several, "ab")]
        ending.prove_gone(Here(), [agents[0], (foreign.pid, "stowage-agent-x"), agents[1]], seconds=4, kill_after=1)
        assert [one.wait(5) for one in several] == [-9, -9] and foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_a_list_of_processes_that_fails_proves_nothing_and_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper(tmp_path / "ps", "echo no memory >&2; exit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ours = subprocess.Popen(["sh", "-c", "sleep 60; true", "stowage-agent-x"])
    try:
        ended = subprocess.Popen(["true"])
        ended.wait()
        agents = [(ended.pid, "stowage-agent-y"), (ours.pid, "stowage-agent-x")]
        # Of several, the one that is left is named.
        with pytest.raises(errors.AgentStays, match=f"process {ours.pid}"):
            ending.prove_gone(Here(), agents, seconds=3, kill_after=1)
        assert ours.poll() is None
    finally:
        ours.kill()
        ours.wait()
