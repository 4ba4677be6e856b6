# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog, run by busybox's shell: what it leaves when everybody who wanted the copy is gone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs import watchdog

TOKEN = "0123abcd-test"
WINDOW = "3"


class Copy:
    """One started copy, seen from the caller's side."""

    def __init__(self, shell, tasks, folders=(), window=WINDOW, token=TOKEN, disk_format="thin"):
        self.shell = shell
        self.work = str(shell.volume / f".stowage-copy-{token}")
        self.token = token
        text = watchdog.launch_text(
            token,
            [(disk_format if kind == "disk" else kind, str(source), str(target)) for kind, source, target in tasks],
        )
        self.answer = shell.run(
            text,
            watchdog.mark(token),
            self.work,
            window,
            str(shell.volume),
            str(len(tasks)),
            *[str(folder) for folder in folders],
        ).strip()
        word, _, rest = self.answer.partition(" ")
        self.pid = int(rest) if word == "pid" else None
        if self.pid:
            shell.pids.append(self.pid)

    def go(self):
        assert self.shell.run(watchdog.OPEN_GATE, self.work).strip() == "open"
        return self

    def poll(self, task=1, linger=0):
        head, _, log = self.shell.run(watchdog.POLL, self.work, str(linger), str(task), "").partition("\n")
        return head, log

    def finish(self, task=1):
        """Keeps beating until the task has an end."""
        return self.shell.until(
            lambda: (lambda seen: seen if seen[0].split()[-1] not in ("-", "run") else None)(self.poll(task, 2)),
            f"the end of task {task}",
        )

    def decide(self, word):
        return self.shell.run(watchdog.DECIDE, self.work, word, "20").strip()

    def gone(self):
        """Whether the watchdog has ended and taken its work folder along."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return not os.path.exists(self.work)
        return False


def test_a_finished_copy_stays_when_it_is_kept(host_shell):
    source, target = host_shell.source(), host_shell.volume / "to" / "scsi0-0.vmdk"
    copy = Copy(host_shell, [("disk", source, target)], [target.parent]).go()
    head, log = copy.finish()
    assert head == "watched held 0"
    assert log.replace("\r", "\n").splitlines()[-1] == "Clone: 100% done."
    assert copy.decide("keep") == "gone"
    assert host_shell.listing() == [
        "to",
        "to/scsi0-0-flat.vmdk",
        "to/scsi0-0.vmdk",
        "web01-flat.vmdk",
        "web01.vmdk",
    ]


@pytest.mark.parametrize("steps", ["60", "1"], ids=["clone running", "clone finished"])
def test_without_a_beat_the_clone_ends_and_nothing_of_the_target_is_left(host_shell, steps):
    host_shell.steer("steps", steps)
    source, target = host_shell.source(), host_shell.volume / "to" / "deep" / "scsi0-0.vmdk"
    copy = Copy(host_shell, [("disk", source, target)], [target.parent.parent, target.parent]).go()
    host_shell.until(target.exists, "the clone has begun")
    host_shell.until(copy.gone, "the watchdog has given up")
    host_shell.until(lambda: not host_shell.clones(), "no clone is left")
    assert host_shell.listing() == ["web01-flat.vmdk", "web01.vmdk"]


def test_a_clone_that_ignores_term_is_killed(host_shell):
    host_shell.steer("steps", "300")
    host_shell.steer("deaf")
    source, target = host_shell.source(), host_shell.volume / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)]).go()
    host_shell.until(host_shell.clones, "the clone runs")
    host_shell.until(copy.gone, "the watchdog has given up")
    assert host_shell.clones() == []
    assert host_shell.listing() == ["web01-flat.vmdk", "web01.vmdk"]


def test_with_a_beat_the_clone_outlives_the_window(host_shell):
    host_shell.steer("steps", "8")
    source, target = host_shell.source(), host_shell.volume / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)]).go()
    assert copy.finish()[0] == "watched held 0"
    copy.decide("keep")
    assert target.exists()


def test_a_closed_gate_starts_nothing_and_clears_up(host_shell):
    source, target = host_shell.source(), host_shell.volume / "to" / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)], [target.parent])
    host_shell.until(copy.gone, "the watchdog has given up")
    assert host_shell.listing() == ["web01-flat.vmdk", "web01.vmdk"]
    assert not (host_shell.bin / "calls").exists()


def test_a_copy_that_is_stopped_at_the_gate_starts_nothing(host_shell):
    source, target = host_shell.source(), host_shell.volume / "to" / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)], [target.parent], window="30")
    assert copy.decide("stop") == "gone"
    assert host_shell.listing() == ["web01-flat.vmdk", "web01.vmdk"]
    assert not (host_shell.bin / "calls").exists()


@pytest.mark.parametrize("end", ["stop", "term"])
def test_a_stopped_copy_removes_the_finished_disks_too(host_shell, end):
    host_shell.steer("steps", "1")
    first, second = host_shell.source("a"), host_shell.source("b")
    folder = host_shell.volume / "to"
    vmx = host_shell.volume / "a.vmx"
    vmx.write_text("config")
    copy = Copy(
        host_shell,
        [("file", vmx, folder / "a.vmx"), ("disk", first, folder / "0.vmdk"), ("disk", second, folder / "1.vmdk")],
        [folder],
        window="30",
    )
    copy.go()
    copy.finish(2)
    host_shell.steer("steps", "60")
    host_shell.until((folder / "1.vmdk").exists, "the second disk has begun")
    if end == "stop":
        assert copy.decide("stop") == "gone"
    else:
        os.kill(copy.pid, signal.SIGTERM)
        host_shell.until(copy.gone, "the watchdog has cleared up")
    assert host_shell.listing() == ["a-flat.vmdk", "a.vmdk", "a.vmx", "b-flat.vmdk", "b.vmdk"]
    assert host_shell.clones() == []


def test_a_failed_clone_keeps_its_message_and_the_next_disk_is_not_begun(host_shell):
    host_shell.steer("fail", "Failed to clone disk: Input/output error (327689).\n")
    first, second = host_shell.source("a"), host_shell.source("b")
    copy = Copy(
        host_shell, [("disk", first, host_shell.volume / "0.vmdk"), ("disk", second, host_shell.volume / "1.vmdk")]
    ).go()
    head, log = copy.finish()
    assert head == "watched held 1"
    assert "Failed to clone disk: Input/output error (327689)." in log
    assert copy.poll(2)[0] == "watched held -"
    assert copy.decide("stop") == "gone"
    assert host_shell.listing() == ["a-flat.vmdk", "a.vmdk", "b-flat.vmdk", "b.vmdk"]


@pytest.mark.parametrize("when", ["before", "in between"])
def test_a_target_that_is_not_ours_is_never_touched(host_shell, when):
    source, target = host_shell.source(), host_shell.volume / "x.vmdk"
    if when == "before":
        target.write_text("somebody else's")
    else:
        host_shell.steer("race")
    copy = Copy(host_shell, [("disk", source, target)]).go()
    assert copy.finish()[0] == "watched held exists"
    assert copy.decide("stop") == "gone"
    assert target.exists()


def test_a_name_that_looks_like_the_code_of_an_existing_target_leaves_no_half_copy(host_shell):
    host_shell.steer("fail", "Failed to clone disk: Input/output error (327689).\n")
    source, target = host_shell.source("web (39)"), host_shell.volume / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)]).go()
    assert copy.finish()[0] == "watched held 1"
    assert copy.decide("stop") == "gone"
    assert host_shell.listing() == ["web (39)-flat.vmdk", "web (39).vmdk"]


def test_a_file_that_is_not_ours_is_never_touched(host_shell):
    source, target = host_shell.volume / "a.vmx", host_shell.volume / "b.vmx"
    source.write_text("new")
    target.write_text("old")
    copy = Copy(host_shell, [("file", source, target)]).go()
    assert copy.finish()[0] == "watched held exists"
    assert copy.decide("stop") == "gone"
    assert target.read_text() == "old"


def test_a_foreign_file_in_our_folder_keeps_the_folder(host_shell):
    host_shell.steer("steps", "30")
    source, target = host_shell.source(), host_shell.volume / "to" / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)], [target.parent]).go()
    host_shell.until(target.exists, "the clone has begun")
    (target.parent / "note.txt").write_text("mine")
    assert copy.decide("stop") == "gone"
    assert host_shell.listing() == ["to", "to/note.txt", "web01-flat.vmdk", "web01.vmdk"]


NAMES = [
    "two words",
    "it's",
    'a "quoted" one',
    "$(touch pwned)",
    "`touch pwned`",
    "-i",
    "--",
    "*",
    "[a-z]",
    "a;b&c|d>e",
    "back\\slash\\n",
    "Zürich-東京-🗄",
    "%s%d",
    " leading and trailing ",
    "#x",
    "~",
    "@TOKEN@ @WATCH@",
]


def test_any_name_is_data(host_shell):
    host_shell.steer("steps", "0")
    other = host_shell.volume / "other"
    other.mkdir()
    (other / "x-s001.vmdk").write_text("not ours")
    to = host_shell.volume / "to"
    tasks, folders = [], [to]
    for name in NAMES:
        folder = host_shell.volume / name
        folder.mkdir()
        source = host_shell.source("web01").rename(folder / f"{name}.vmdk")
        tasks.append(("disk", source, to / name / f"{name}.vmdk"))
        folders.append(to / name)
    before = [path for path in host_shell.listing() if path.split("/")[0] != "to"]
    copy = Copy(host_shell, tasks, folders, window="20").go()
    for number, (_kind, _source, target) in enumerate(tasks, 1):
        assert copy.finish(number)[0] == "watched held 0"
        assert target.exists() and target.with_name(f"{target.stem}-flat.vmdk").exists()
    assert copy.decide("stop") == "gone"
    assert host_shell.listing() == before
    assert "pwned" not in [os.path.basename(path) for path in [*before, *os.listdir()]]


def test_sparse_extents_of_the_target_go_and_those_of_others_stay(host_shell):
    host_shell.steer("steps", "30")
    source, target = host_shell.source(), host_shell.volume / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)], disk_format="2gbsparse").go()
    host_shell.until(target.exists, "the clone has begun")
    for name in ("x-s001.vmdk", "x-s002.vmdk", "xx-s001.vmdk", "x-sda1.vmdk"):
        (host_shell.volume / name).write_text("data")
    assert copy.decide("stop") == "gone"
    assert host_shell.listing() == ["web01-flat.vmdk", "web01.vmdk", "x-sda1.vmdk", "xx-s001.vmdk"]


def test_after_a_killed_watchdog_the_work_folder_tells_enough_to_clear_up(host_shell):
    host_shell.steer("steps", "120")
    source, target = host_shell.source(), host_shell.volume / "to" / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)], [target.parent], window="60").go()
    host_shell.until(target.exists, "the clone has begun")
    answer = host_shell.run(watchdog.CLEAR, copy.work, watchdog.mark(TOKEN)).strip()
    assert answer == f"watched {copy.pid}"
    os.kill(copy.pid, signal.SIGKILL)
    host_shell.until(lambda: copy.poll()[0] == "dead held run", "the poll notices it")
    assert host_shell.clones() == [str(target)]
    assert host_shell.run(watchdog.CLEAR, copy.work, watchdog.mark(TOKEN)).strip() == "cleared"
    assert host_shell.clones() == []
    assert host_shell.listing() == ["web01-flat.vmdk", "web01.vmdk"]
    assert host_shell.run(watchdog.CLEAR, copy.work, watchdog.mark(TOKEN)).strip() == "gone"


def test_an_existing_work_folder_is_refused_and_left(host_shell):
    source, target = host_shell.source(), host_shell.volume / "to" / "x.vmdk"
    work = host_shell.volume / f".stowage-copy-{TOKEN}"
    work.mkdir()
    (work / "note").write_text("mine")
    copy = Copy(host_shell, [("disk", source, target)], [target.parent])
    assert copy.answer.startswith("work-failed ") and "File exists" in copy.answer
    assert host_shell.listing() == [
        f".stowage-copy-{TOKEN}",
        f".stowage-copy-{TOKEN}/note",
        "web01-flat.vmdk",
        "web01.vmdk",
    ]


def test_a_folder_that_cannot_be_made_takes_its_made_parents_with_it(host_shell):
    source = host_shell.source()
    deep = host_shell.volume / "to" / ("n" * 300)
    copy = Copy(host_shell, [("disk", source, deep / "x.vmdk")], [deep.parent, deep])
    assert copy.answer.startswith("mkdir-failed ") and "File name too long" in copy.answer
    assert host_shell.listing() == ["web01-flat.vmdk", "web01.vmdk"]


def test_a_missing_datastore_is_not_made(host_shell, tmp_path):
    text = watchdog.launch_text(TOKEN, [("thin", "/a.vmdk", "/b.vmdk")])
    missing = str(tmp_path / "no-such")
    answer = host_shell.run(text, watchdog.mark(TOKEN), f"{missing}/w", "3", missing, "1", f"{missing}/to")
    assert answer.strip() == f"no-datastore {missing}"
    assert not os.path.exists(missing)


def test_a_full_datastore_does_not_hide_its_own_message(host_shell, tmp_path):
    volume = tmp_path / "small"
    volume.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(volume)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        source = host_shell.source()
        host_shell.volume = volume
        host_shell.steer("steps", "9")
        copy = Copy(host_shell, [("disk", source, volume / "x.vmdk")]).go()
        head, log = copy.finish()
        assert head == "watched held 13"
        assert "not enough space on the file system for the selected operation (13)" in log
        assert copy.decide("stop") == "gone"
        assert host_shell.listing() == []
    finally:
        subprocess.run(["umount", "-l", str(volume)], check=True)


def test_of_keeping_and_giving_up_exactly_one_happens(host_shell):
    # The caller decides in the same seconds in which the window ends, in many copies at once.
    host_shell.steer("steps", "0")
    source = host_shell.source()
    copies = [
        Copy(host_shell, [("disk", source, host_shell.volume / f"{n}.vmdk")], window="2", token=f"race-{n:05d}").go()
        for n in range(4)
    ]
    answers: dict[int, str] = {}

    def decide(number: int) -> None:
        threading.Event().wait(1.5 + number * 0.5)
        answers[number] = copies[number].decide("keep")

    threads = [threading.Thread(target=decide, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, copy in enumerate(copies):
        host_shell.until(copy.gone, "the work folder is gone")
        whole = {f"{n}.vmdk", f"{n}-flat.vmdk"}
        left = whole & set(os.listdir(host_shell.volume))
        assert left in (whole, set()), f"half a disk is left: {left}"


def test_the_log_has_room_for_the_longest_paths():
    longest = 2 * 4096 // 2
    assert 101 * len("\rClone: 100% done.") + longest < watchdog.LOG_KIB * 1024


@pytest.mark.parametrize("path", ["relative.vmdk", "/a\nb.vmdk", "/a\0b.vmdk"])
def test_a_path_that_cannot_travel_is_refused(path):
    with pytest.raises(ValueError, match="unusable path"):
        watchdog.launch_text(TOKEN, [("thin", path, "/x.vmdk")])


@pytest.mark.parametrize("token", ["", "short", "with space", "semi;colon", "new\nline12345"])
def test_a_token_is_a_plain_word(token):
    with pytest.raises(ValueError, match="unusable token"):
        watchdog.launch_text(token, [])


def test_a_question_about_a_work_folder_that_lost_its_pid_is_answered_in_time(host_shell):
    """What a datastore keeps of a folder that was being removed: the folder, without what tells whose it is."""
    work = host_shell.volume / ".stowage-copy-half"
    work.mkdir()
    assert host_shell.run(watchdog.POLL, str(work), "1", "1", "", timeout=20).split() == ["ending", "held", "-"]


def test_a_clone_whose_fate_cannot_be_read_for_a_moment_is_still_ended_with_the_copy(host_shell):
    host_shell.steer("steps", "120")
    source, target = host_shell.source(), host_shell.volume / "x.vmdk"
    copy = Copy(host_shell, [("disk", source, target)], window="30").go()
    host_shell.until(host_shell.clones, "the clone runs")
    fate = f"{copy.work}/rc.1"
    os.rename(fate, f"{fate}.away")
    time.sleep(2.5)
    os.rename(f"{fate}.away", fate)
    assert copy.decide("stop") == "gone"
    assert host_shell.clones() == []
    assert host_shell.listing() == ["web01-flat.vmdk", "web01.vmdk"]


# What busybox really answers when "-" is overwritten by 12388 between two of its bytes, and back again.
@pytest.mark.parametrize("torn", ["-  88", "-2388", "12", ""])
def test_a_line_that_is_overwritten_while_it_is_read_is_read_again(host_shell, torn):
    script = f"""{watchdog.READ}
reads=0
read() {{
    reads=$((reads + 1))
    case $reads in 1) eval "$2='{torn}'" ;; *) eval "$2=12388" ;; esac
}}
stowage_read /dev/null && echo "$word after $reads reads"
"""
    assert host_shell.run(script).strip() == "12388 after 4 reads"


def test_no_other_read_trusts_a_line_that_may_be_overwritten():
    texts = [watchdog.POLL, watchdog.DECIDE, watchdog.FIND, watchdog.OPEN_GATE, watchdog.CLEAR]
    for text in [*texts, watchdog.launch_text(TOKEN, [("thin", "/a.vmdk", "/b.vmdk")])]:
        assert not re.search(r"(?<!IFS= )\bread -r", text.replace(watchdog.READ, ""))
