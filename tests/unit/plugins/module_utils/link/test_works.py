# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forced command of kind work, as sshd runs it, in every shell that an account may have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.link import restriction
from ansible_collections.stowage.esxi.plugins.module_utils.link.errors import BadLink
from ansible_collections.stowage.esxi.plugins.module_utils.link.restriction import Restriction
from ansible_collections.stowage.esxi.plugins.module_utils.link.works import Work

SHELLS = [words for words in (["dash"], ["bash"], ["busybox", "ash"]) if shutil.which(words[0])]
# Tells what it was started with, and ends when it is let, or with the number that it finds.
PROGRAM = """#!/bin/sh
echo "in $(pwd), in $LC_ALL"
for word in "$@"; do printf "<%s>\\n" "$word"; done
cat; echo $$ > {folder}/pid
while [ ! -e {folder}/go ]; do sleep 0.1; done
exit $(cat {folder}/go)
"""


class Target:
    """A machine with one work, and whoever may start it."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.folder, self.shell = folder, shell
        program = folder / "it's a program"
        program.write_text(PROGRAM.format(folder=folder))
        program.chmod(0o755)
        self.work = Work(
            name="nightly",
            playbook="backup.yml",
            extra_vars={"fixed": 'it\'s "so" \\ $(id)'},
            allow={"how": "hot|warm", "hosts": "[a-z0-9]+(,[a-z0-9]+)*"},
            directory=str(folder),
            ansible_playbook=str(program),
        )

    def ask(self, command: str | None) -> tuple[int, str, str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C"}
        if command is not None:
            environment["SSH_ORIGINAL_COMMAND"] = command
        limit = Restriction("work", work=self.work)
        limit.check("link")
        done = subprocess.run(
            [*self.shell, "-c", limit.forced()],
            input="what the other side sends",
            capture_output=True,
            text=True,
            env=environment,
            timeout=20,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def facts(self, command: str) -> dict[str, str]:
        code, out, err = self.ask(f"stowage-work {command}")
        assert (code, err) == (0, ""), (code, out, err)
        return dict(line.partition(" ")[::2] for line in out.split("\n\n")[0].splitlines())

    def until(self, command: str, state: str) -> dict[str, str]:
        for _try in range(100):
            found = self.facts(command)
            if found["state"] == state:
                return found
            time.sleep(0.1)
        raise AssertionError(found)

    def pid(self) -> int:
        path = self.folder / "pid"
        for _try in range(100):
            if path.exists() and path.read_text().strip():
                return int(path.read_text())
            time.sleep(0.05)
        raise AssertionError("it was not started")

    def let_go(self, code: int = 0) -> None:
        (self.folder / "go.new").write_text(str(code))
        (self.folder / "go.new").rename(self.folder / "go")


@pytest.fixture(params=SHELLS, ids=" ".join)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path, request.param)
    yield made
    made.let_go()


def test_a_work_runs_in_the_background_and_tells_how_it_went(target: Target) -> None:
    assert target.ask(restriction.PROBE) == (0, "stowage-link-works\n", "")
    assert target.facts("status") == {"state": "none"}
    assert target.facts("status run1") == {"state": "unknown", "id": "run1"}
    begun = target.facts("start run1 how=warm hosts=esx1,esx2")
    assert (begun["state"], begun["id"]) == ("running", "run1")
    target.pid()
    assert target.facts("status")["state"] == "running"
    target.let_go(3)
    ended = target.until("status run1", "ended")
    assert ended["rc"] == "3" and ended["started"] <= ended["ended"]
    told = target.ask("stowage-work output run1")[1].split("\n\n")[1].splitlines()
    given = {"stowage_run_id": "run1", "how": "warm", "hosts": "esx1,esx2"}
    assert told[0] == f"in {target.folder}, in C.UTF-8"
    words = [line[1:-1] for line in told[1:]]
    assert words[0] == "-e" and json.loads(words[1]) == target.work.extra_vars
    assert words[2:4] == ["backup.yml", "-e"] and json.loads(words[4]) == given and len(words) == 5


def test_the_same_id_joins_and_another_one_is_told_what_runs(target: Target) -> None:
    target.facts("start run1")
    target.pid()
    assert target.facts("start run1")["state"] == "running"
    busy = target.facts("start run2")
    assert "busy" in busy and (busy["state"], busy["id"]) == ("running", "run1")
    assert target.facts("status run2")["state"] == "unknown"
    target.let_go()
    target.until("status run1", "ended")
    assert target.facts("start run1")["state"] == "ended"
    assert target.facts("start run2")["id"] == "run2"
    target.until("status run2", "ended")


def test_a_work_whose_processes_were_killed_is_lost_and_keeps_no_lock(target: Target) -> None:
    target.facts("start run1")
    pid = target.pid()
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for one in (parent, pid):
        os.kill(one, signal.SIGKILL)
    lost = target.until("status run1", "lost")
    assert lost["reason"] == "its processes are gone"
    target.let_go()
    assert target.facts("start run2")["id"] == "run2"
    target.until("status run2", "ended")
    assert target.facts("status run1")["state"] == "lost"


def test_a_machine_that_was_started_anew_is_told_as_the_reason(target: Target) -> None:
    folder = target.folder / ".stowage-works" / "nightly"
    (folder / "run1").mkdir(parents=True)
    (folder / "current").write_text("run1\n")
    (folder / "lock").touch()
    (folder / "run1" / "facts").write_text("started 2026-11-22T20:00:00Z\nboot 00000000-0000-0000-0000-000000000000\n")
    assert target.facts("status run1")["reason"] == "the machine was started anew"


REFUSED = [
    None,
    "",
    "id",
    "sh",
    "stowage-work",
    "stowage-work ",
    "stowage-work start",
    "stowage-work start ../../etc",
    "stowage-work start -x",
    "stowage-work start .x",
    "stowage-work start a/b",
    "stowage-work start " + "a" * 65,
    "stowage-work stop run1",
    "stowage-work output ../run1",
    "stowage-work status run1 how=hot",
    "stowage-work start run1 how",
    "stowage-work start run1 how=cold",
    "stowage-work start run1 how=hot,warm",
    "stowage-work start run1 hosts=",
    "stowage-work start run1 hosts=all:x",
    "stowage-work start run1 fixed=x",
    "stowage-work start run1 =hot",
    "stowage-work start run1 -e how=hot",
    "stowage-work start run1 @/etc/passwd",
    "stowage-work start run1 stowage_run_id=x",
    "stowage-work start run1 ansible_connection=local",
    'stowage-work start run1 how=hot", "fixed": "x',
    "stowage-work start run1 how={{x}}",
    "stowage-work start run1 how=$(id)",
    "stowage-work start run1 how=`id`",
    "stowage-work start run1; id",
    "stowage-work start run1\nid",
    "stowage-work start run1 how=hot\nwarm",
    "stowage-work start run1 how=*",
    "stowage-work start run1 hosts=\u00e4",
    "stowage-work start run1 how=hot\\",
    "stowage-put 1 x",
    "scp -t /tmp",
    "/usr/lib/openssh/sftp-server",
    restriction.PROBE + "; id",
]


def test_nothing_but_its_one_work_is_done(target: Target) -> None:
    for command in REFUSED:
        code, out, err = target.ask(command)
        assert code == 126 and out == "" and "stowage: refused" in err, (command, code, out, err)
    assert not (target.folder / "pid").exists()


def test_twenty_works_are_remembered(target: Target) -> None:
    folder = target.folder / ".stowage-works" / "nightly"
    for number in range(25):
        (folder / f"old{number:02}").mkdir(parents=True)
        os.utime(folder / f"old{number:02}", (number, number))
    target.let_go()
    target.facts("start new")
    target.until("status new", "ended")
    left = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert left == ["new", *(f"old{number:02}" for number in range(6, 25))]


def test_the_line_holds_a_work_unharmed_and_is_short_enough_for_sshd(tmp_path: Path) -> None:
    work = Target(tmp_path, SHELLS[0]).work
    options = Restriction("work", work=work).options(new_sshd=True)
    told = options.partition('command="')[2][:-1]
    # As sshd reads it: a backslash before a quote goes, nothing else changes.
    assert told.replace('\\"', '"') == Restriction("work", work=work).forced() and len(options) < 5000


GOOD = Work(name="w", playbook="p.yml", allow={"how": "hot"})


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Restriction("work"), "needs a work"),
        (Restriction("receive", "/a", work=GOOD), "needs a work"),
        (Restriction("work", "/a", work=GOOD), "say nothing"),
        (Restriction("work", work=replace(GOOD, name="../x")), "name of a work"),
        (Restriction("work", work=replace(GOOD, playbook="-x")), "playbook of the work"),
        (Restriction("work", work=replace(GOOD, playbook="a\nb")), "more than one line"),
        (Restriction("work", work=replace(GOOD, inventory="hosts")), "inventory of the work"),
        (Restriction("work", work=replace(GOOD, directory="etc")), "directory of the work"),
        (Restriction("work", work=replace(GOOD, allow={"ansible_host": ".*"})), "cannot let 'ansible_host'"),
        (Restriction("work", work=replace(GOOD, allow={"stowage_run_id": ".*"})), "cannot let 'stowage_run_id'"),
        (Restriction("work", work=replace(GOOD, allow={"a b": ".*"})), "cannot let 'a b'"),
        (Restriction("work", work=replace(GOOD, allow={"a": "("})), "is none"),
        (Restriction("work", work=replace(GOOD, extra_vars={"how": "x"})), "both fixed and allowed"),
    ],
)
def test_a_work_that_cannot_be_kept_is_refused(limit: Restriction, said: str) -> None:
    with pytest.raises(BadLink, match=said):
        limit.check("x")
