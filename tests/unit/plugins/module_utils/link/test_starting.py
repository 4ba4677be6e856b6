# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a target, what its answers mean, and what a cut link does not end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.link import errors, starting
from ansible_collections.stowage.esxi.plugins.module_utils.link.starting import Starter, Status, Wish
from ansible_collections.stowage.esxi.plugins.module_utils.link.wanted import Link
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import CommandTimeout
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session
from fakeclock import FakeClock

LINK = Link("nightly", "bk1", "bk2", "stowage", "192.0.2.2", 2222)
RUNNING = "state running\nid run1\nstarted 2026-11-22T20:00:00Z\nboot x\n"
GOOD = "state ended\nid run1\nstarted 2026-11-22T20:00:00Z\nrc 0\nended 2026-11-22T21:00:00Z\n"
BAD = GOOD.replace("rc 0", "rc 2")
LOST = "state lost\nid run1\nreason its processes are gone\n"
UNKNOWN = "state unknown\nid run1\n"
BUSY = "busy\n" + RUNNING.replace("run1", "other")
CUT, DENIED = (255, "Connection reset by peer"), (255, "stowage@192.0.2.2: Permission denied (publickey).")


class Answers(Session):
    """Gives one answer after the other, the last one for ever, and keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(Endpoint(host="bk1"))
        self.answers, self.asked, self.argv = list(answers), [], ()  # type: ignore[var-annotated]

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        self.asked.append(argv[-1].removeprefix("stowage-work "))
        self.argv = argv
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        code, text = answer if isinstance(answer, tuple) else (0, answer)
        return Result(tuple(argv), code, "" if code else text, text if code else "")

    def close(self) -> None:
        return None


def managed(answers: Answers, check_mode: bool = False, patience: float = 60.0, **wish: Any) -> Any:
    starter = Starter(LINK, "/k", answers, FakeClock(), patience)
    return starting.manage(starter, Wish(**{"state": "finished", "id": "run1", **wish}), check_mode=check_mode)


def test_a_work_is_started_waited_for_and_told_with_its_output() -> None:
    answers = Answers(UNKNOWN, RUNNING, RUNNING, GOOD, GOOD + "\nPLAY RECAP\nall \x1b[0;32mwell\n")
    result, error = managed(answers, variables={"how": "warm", "fast": True, "number": 3})
    assert answers.asked == [
        "status run1",
        "start run1 fast=true how=warm number=3",
        "status run1",
        "status run1",
        "output run1",
    ]
    assert error is None and (result["changed"], result["joined"]) == (True, False)
    assert result["work"]["outcome"] == "succeeded" and result["output"][:2] == ["PLAY RECAP", "all ?[0;32mwell"]
    # The link's key and pinned host keys, and nothing else of this machine.
    assert "/k" in answers.argv and 'UserKnownHostsFile="/k.known_hosts"' in answers.argv
    assert answers.argv[-6:-1] == ["-p", "2222", "-l", "stowage", "--"] or "stowage" in answers.argv


@pytest.mark.parametrize(
    ("answers", "wish", "asked", "outcome", "fault", "changed"),
    [
        ((GOOD,), {}, ["status run1", "output run1"], "succeeded", None, False),
        ((BAD,), {}, ["status run1", "output run1"], "failed", "link-work-failed", False),
        ((UNKNOWN, RUNNING), {"state": "started"}, ["status run1", "start run1"], "running", None, True),
        ((RUNNING,), {"state": "started"}, ["status run1"], "running", None, False),
        ((UNKNOWN, BUSY), {}, ["status run1", "start run1"], "running", "link-work-busy", False),
        ((UNKNOWN, RUNNING, LOST), {}, None, "lost", "link-work-lost", True),
        ((LOST,), {"state": "status"}, ["status run1", "output run1"], "lost", None, False),
        ((UNKNOWN,), {"state": "status"}, ["status run1"], "unknown", None, False),
        (("state none\n",), {"state": "status", "id": ""}, ["status"], "none", None, False),
        ((UNKNOWN, RUNNING), {"timeout": 30.0}, None, "running", "link-work-still-running", True),
    ],
)
def test_every_answer_has_its_outcome(
    answers: tuple[Any, ...],
    wish: dict[str, Any],
    asked: list[str] | None,
    outcome: str,
    fault: str | None,
    changed: bool,
) -> None:
    session = Answers(*answers)
    result, error = managed(session, **wish)
    assert (result["work"]["outcome"], error.id if error else None, result["changed"]) == (outcome, fault, changed)
    assert asked is None or session.asked == asked


def test_another_one_that_runs_is_joined_where_that_is_wanted() -> None:
    other = GOOD.replace("run1", "other")
    session = Answers(UNKNOWN, BUSY, other)
    result, error = managed(session, join=True)
    assert (result["work"]["id"], result["joined"], result["changed"], error) == ("other", True, False, None)
    assert session.asked[2] == "status other"


def test_a_cut_link_ends_nothing_and_a_start_whose_answer_was_lost_is_asked_for_again() -> None:
    timeout = CommandTimeout(host="bk2", command="ssh", seconds=80)
    session = Answers(UNKNOWN, CUT, timeout, RUNNING, CUT, CUT, GOOD)
    result, error = managed(session)
    assert (result["work"]["outcome"], error) == ("succeeded", None)
    assert session.asked == ["status run1", *["start run1"] * 3, *["status run1"] * 3, "output run1"]


def test_a_link_that_stays_cut_is_told_and_what_was_started_goes_on() -> None:
    result, error = managed(Answers(UNKNOWN, RUNNING, CUT), patience=20.0)
    assert (result["work"]["outcome"], result["changed"], error.id) == ("running", True, "link-work-unreachable")
    assert "goes on there" in error.hint_text


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (DENIED, errors.WorkUnreachable),
        ((126, "stowage: refused, how may not be set so"), errors.WorkRefused),
        ((127, "sh: not found"), errors.WorkRefused),
        ("what a shell prints", errors.WorkRefused),
        ("state ended\nid x\n", errors.WorkRefused),
    ],
)
def test_what_no_second_try_mends_is_told_at_once(answer: Any, fault: type[errors.WorkError]) -> None:
    session = Answers(answer)
    with pytest.raises(fault):
        managed(session)
    assert len(session.asked) == 1


@pytest.mark.parametrize("value", ["a b", "x;id", "$(id)", "{{ x }}", "\u00e4", "a\nb", ["a"], {"a": 1}, None])
def test_a_value_that_the_other_side_would_refuse_is_not_sent(value: Any) -> None:
    session = Answers(UNKNOWN)
    with pytest.raises(errors.BadWork, match="extra_vars.how"):
        managed(session, variables={"how": value})
    assert session.asked == []


def test_check_mode_asks_and_starts_nothing() -> None:
    other, ended = BUSY[5:], GOOD.replace("run1", "other")
    for answers, wish, changed, fault in (
        ((UNKNOWN, "state none\n"), {}, True, None),
        ((UNKNOWN, ended), {}, True, None),
        ((GOOD,), {}, False, None),
        ((UNKNOWN, other), {}, False, "link-work-busy"),
        ((UNKNOWN, other), {"join": True}, False, None),
        ((other,), {"id": ""}, False, "link-work-busy"),
    ):
        session = Answers(*answers)
        result, error = managed(session, check_mode=True, **wish)
        assert (result["changed"], error.id if error else None) == (changed, fault), answers
        assert [words.split()[0] for words in session.asked] == ["status"] * len(answers)


def test_a_status_is_read_as_it_is_written() -> None:
    status, output = starting.parse(BAD + "\nline\n\nafter a blank one\n")
    assert status == Status("ended", "run1", 2, "2026-11-22T20:00:00Z", "2026-11-22T21:00:00Z")
    assert output == ["line", "", "after a blank one", ""]
