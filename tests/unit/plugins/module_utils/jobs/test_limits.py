# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import limits
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.limits import Limit
from fakeclock import FakeClock


def waiter(seconds: float = 0, beat=None) -> Waiter:
    return Waiter(seconds, clock=FakeClock(), beat=beat)


@pytest.fixture
def child(tmp_path):
    """Starts processes that hold limits until they are told to end."""
    started: list[subprocess.Popen] = []

    def start(*pairs: tuple[str, int]) -> subprocess.Popen:
        code = (
            "import sys\n"
            "from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter\n"
            "from ansible_collections.stowage.esxi.plugins.module_utils.jobs import limits\n"
            f"with limits.hold([limits.Limit(*pair) for pair in {list(pairs)!r}], {str(tmp_path)!r}, Waiter(30),"
            " 'the child'):\n"
            "    print('held', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_another_process_waits_while_all_slots_are_held(tmp_path, child):
    child(("ds", 2))
    with (
        limits.hold([Limit("ds", 2)], str(tmp_path), waiter(), "me"),
        pytest.raises(limits.LimitBusy) as caught,
        limits.hold([Limit("ds", 2)], str(tmp_path), waiter(9), "third"),
    ):
        raise AssertionError("a third slot of two")
    assert "the child (pid " in caught.value.message and "me (pid " in caught.value.message


@pytest.mark.parametrize("end", [signal.SIGKILL, None], ids=["killed", "ended"])
def test_a_slot_is_free_as_soon_as_its_holder_is_gone(tmp_path, child, end):
    holder = child(("ds", 1))
    if end is None:
        holder.communicate("")
    else:
        holder.send_signal(end)
        holder.wait()
    with limits.hold([Limit("ds", 1)], str(tmp_path), waiter(), "me") as slots:
        assert slots == (str(tmp_path / "ds" / "0"),)


def test_a_program_that_we_start_does_not_keep_our_slot(tmp_path):
    with limits.hold([Limit("ds", 1)], str(tmp_path), waiter(), "me"):
        # As the shared ssh connection does: it outlives who started it.
        code = "import sys; print('here', flush=True); sys.stdin.read()"
        other = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
        )
        assert other.stdout.readline() == b"here\n"
    try:
        with limits.hold([Limit("ds", 1)], str(tmp_path), waiter(), "me again"):
            assert other.poll() is None
    finally:
        other.communicate(b"")


def test_what_was_taken_is_given_back_when_the_next_limit_is_busy(tmp_path, child):
    child(("b", 1))
    with pytest.raises(limits.LimitBusy), limits.hold([Limit("b", 1), Limit("a", 1)], str(tmp_path), waiter(), "me"):
        raise AssertionError("b is taken")
    with limits.hold([Limit("a", 1)], str(tmp_path), waiter(), "me"):
        pass


def test_everybody_takes_them_in_the_same_order():
    wanted = [Limit("store", 2), Limit("host", 1), Limit("datastore", 4)]
    assert limits.checked(wanted) == limits.checked(reversed(wanted))


def test_the_beat_can_end_the_waiting(tmp_path, child):
    child(("ds", 1))
    seen: list[str] = []

    def beat() -> None:
        if len(seen) > 2:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        limits.hold([Limit("ds", 1)], str(tmp_path), waiter(3600, beat), "me", seen.append),
    ):
        raise AssertionError("the slot is taken")
    assert seen == ["ds", "ds", "ds"]


@pytest.mark.parametrize("name", ["..", ".", "../../etc", "a/b", "two words", "ä", "a\nb", "%2F"])
def test_any_name_is_one_folder_below_the_limits(tmp_path, name):
    base = tmp_path / "limits"
    with limits.hold([Limit(name, 1)], str(base), waiter(), "me"):
        folders = os.listdir(base)
    assert len(folders) == 1
    assert os.listdir(tmp_path) == ["limits"]


def test_different_names_never_share_a_folder(tmp_path):
    names = ["a/b", "a%2Fb", "a.b", "a%2Eb", "A/B"]
    assert len({limits.folder_of(str(tmp_path), name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "bad", [[Limit("a", 0)], [Limit("a", 1001)], [Limit("", 1)], [Limit("a", 1), Limit("a", 2)], [Limit("x" * 81, 1)]]
)
def test_limits_that_make_no_sense_are_refused(bad):
    with pytest.raises(limits.BadLimit):
        limits.checked(bad)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(limits.LimitFolder, match="Not a directory|File exists"),
        limits.hold([Limit("a", 1)], str(tmp_path / "file"), waiter(), "me"),
    ):
        raise AssertionError("a file is no folder")


def test_the_time_to_wait_is_that_of_all_limits_together(tmp_path, child):
    child(("b", 1))
    clock = FakeClock()
    begun = clock.monotonic()
    first = limits.hold([Limit("a", 1)], str(tmp_path), Waiter(0, clock=clock), "the first")
    first.__enter__()
    open_ones = [first]

    def beat() -> None:
        if open_ones and clock.monotonic() - begun > 7:
            open_ones.pop().__exit__(None, None, None)

    with (
        pytest.raises(limits.LimitBusy) as caught,
        limits.hold([Limit("a", 1), Limit("b", 1)], str(tmp_path), Waiter(10, clock=clock, beat=beat), "me"),
    ):
        raise AssertionError("b is taken")
    assert (caught.value.data["name"], open_ones) == ("b", [])
    assert clock.monotonic() - begun <= 10


def test_a_slot_that_cannot_be_signed_is_said_and_given_back(tmp_path, monkeypatch):
    def full(handle: int, what: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(limits, "_sign", full)
    with pytest.raises(limits.LimitFolder) as caught, limits.hold([Limit("a", 1)], str(tmp_path), waiter(), "me"):
        raise AssertionError("not signed")
    assert "No space left" in caught.value.message
    monkeypatch.undo()
    with limits.hold([Limit("a", 1)], str(tmp_path), waiter(), "me"):
        pass
