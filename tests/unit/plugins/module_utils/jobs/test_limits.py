# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

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
    wanted = [Limit("x", 2, "store"), Limit("h", 1, "host"), Limit("b", 1), Limit("d", 4, "datastore"), Limit("a", 1)]
    wanted += [Limit("r", 1, "repository"), Limit("l", 3, "link"), Limit("c", 4, "datastore")]
    found = limits.checked(wanted)
    assert found == limits.checked(reversed(wanted))
    # What many share comes last: nobody holds it while he waits for something else.
    assert "".join(limit.name for limit in found) == "hcdxlabr"


def test_the_beat_can_end_the_waiting_and_each_turn_tells_what_it_waits_for(tmp_path, child):
    holder = child(("ds", 1))
    seen: list[str] = []

    def beat() -> None:
        if len(seen) > 2:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        limits.hold([Limit("ds", 1)], str(tmp_path), waiter(3600, beat), "me", lambda one: seen.append(str(one))),
    ):
        raise AssertionError("the slot is taken")
    assert len(seen) == 3 and set(seen) == {f"waits for a slot of ds: 1 of 1 taken (the child (pid {holder.pid}))"}


@pytest.mark.parametrize("name", ["..", ".", "../../etc", "a/b", "two words", "ä", "a\nb", "%2F"])
def test_any_name_is_one_folder_below_the_limits(tmp_path, name):
    base = tmp_path / "limits"
    with limits.hold([Limit(name, 1)], str(base), waiter(), "me"):
        folders = os.listdir(base)
    assert len(folders) == 1
    assert os.listdir(tmp_path) == ["limits"]


def test_different_names_never_share_a_folder(tmp_path):
    names = ["a/b", "a%2Fb", "a.b", "a%2Eb", "A/B", "host@a", "\u20ac" * 80, "\u20ac" * 79 + "x"]
    folders = {limits.folder_of(str(tmp_path), name, kind) for name in names for kind in limits.KINDS}
    assert len(folders) == len(names) * len(limits.KINDS)
    assert max(len(os.path.basename(folder)) for folder in folders) <= 255


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


def queue(folder, name: str = "ds") -> list[str]:
    return sorted(os.listdir(folder / name / "queue"))


class Asker(threading.Thread):
    """Somebody who waits in a process of his own would do the same: each opens the files anew."""

    def __init__(self, folder, name: str, order: list[str], slots: int = 1, hold: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.args = (folder, name, order, slots, hold)
        self.start()

    def run(self) -> None:
        folder, name, order, slots, seconds = self.args
        wait = Waiter(30, interval_seconds=0.02, max_interval_seconds=0.02)
        with limits.hold([Limit("ds", slots)], str(folder), wait, name):
            order.append(name)
            time.sleep(seconds)


def until(probe) -> None:
    end = time.monotonic() + 10
    while not probe():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_slots_are_given_in_the_order_of_asking(tmp_path, child, monkeypatch):
    monkeypatch.setattr(limits, "_NEXT_SECONDS", 0.02)
    holder, order, others = child(("ds", 1)), [], []
    for number in range(5):
        others.append(Asker(tmp_path, f"n{number}", order))
        until(lambda count=number + 1: len(queue(tmp_path)) == count)
    holder.communicate("")
    for other in others:
        other.join(10)
    assert order == ["n0", "n1", "n2", "n3", "n4"]
    assert queue(tmp_path) == []


def test_who_comes_when_a_slot_is_free_does_not_overtake_those_who_wait(tmp_path, child):
    holder = child(("ds", 1))
    with open(tmp_path / "ds" / "queue" / "000000000007", "w", encoding="ascii") as place:
        fcntl.flock(place, fcntl.LOCK_EX)
        holder.communicate("")
        with (
            pytest.raises(limits.LimitBusy, match="by nobody any more; 1 waited before this one"),
            limits.hold([Limit("ds", 1)], str(tmp_path), waiter(3), "me"),
        ):
            raise AssertionError("overtaken")
        assert queue(tmp_path) == ["000000000007"]
    # The one before us has died: its lock is gone, its file is not.
    with limits.hold([Limit("ds", 1)], str(tmp_path), waiter(), "me"):
        assert queue(tmp_path) == []


def test_who_gives_up_waiting_leaves_no_place_in_the_queue(tmp_path, child):
    child(("ds", 1))
    with pytest.raises(limits.LimitBusy), limits.hold([Limit("ds", 1)], str(tmp_path), waiter(3), "me"):
        raise AssertionError("taken")
    assert queue(tmp_path) == []


def test_a_limit_is_kept_for_who_goes_by_less_slots_whichever_slots_are_taken(tmp_path):
    (tmp_path / "ds").mkdir()
    # Another run gives it four slots, and three of its copies have begun, of which the first has ended.
    with open(tmp_path / "ds" / "1", "w") as one, open(tmp_path / "ds" / "2", "w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(two, fcntl.LOCK_EX)
        with pytest.raises(limits.LimitBusy), limits.hold([Limit("ds", 2)], str(tmp_path), waiter(), "me"):
            raise AssertionError("a third one")
        with limits.hold([Limit("ds", 3)], str(tmp_path), waiter(), "me") as slots:
            assert slots == (str(tmp_path / "ds" / "0"),)


def test_who_was_stopped_while_it_looked_is_waited_for_and_no_longer_than_the_time_limit(tmp_path):
    (tmp_path / "ds" / "queue").mkdir(parents=True)
    with open(tmp_path / "ds" / "turn", "w", encoding="ascii") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        clock = FakeClock()
        begun = clock.monotonic()
        with (
            pytest.raises(limits.LimitBusy),
            limits.hold([Limit("ds", 1)], str(tmp_path), Waiter(60, clock=clock), "me"),
        ):
            raise AssertionError("nobody looked")
        assert 60 <= clock.monotonic() - begun < 63


def test_forty_at_once_never_hold_more_than_three_and_all_get_their_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_NEXT_SECONDS", 0.01)
    inside, most, done = [], [], []

    def work(number: int) -> None:
        wait = Waiter(60, interval_seconds=0.01, max_interval_seconds=0.02)
        with limits.hold([Limit("a", 5), Limit("ds", 3)], str(tmp_path), wait, str(number)):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (sorted(done), max(most)) == (list(range(40)), 3)
