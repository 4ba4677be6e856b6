# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors, waiting, durable writes, progress."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base import (
    ansible,
    durable,
    errors,
    imports,
    progress,
    waiter,
)
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from fakeclock import FakeClock


class Broken(errors.StowageError):
    id = "broken"
    template = "{thing} broke at {count:d}"
    hint = "Mend {thing}"


def test_an_error_fills_message_and_hint_and_travels_as_data() -> None:
    error = Broken(thing="disk", count=3, extra={"path": Path("/x"), "raw": b"\xff"})
    assert str(error) == "disk broke at 3"
    assert error.as_dict() == {
        "id": "broken",
        "message": "disk broke at 3",
        "hint": "Mend disk",
        "data": {"thing": "disk", "count": 3, "extra": {"path": "/x", "raw": "\\xff"}},
    }
    json.dumps(error.as_dict())


def test_a_forgotten_field_does_not_hide_the_failure() -> None:
    assert str(Broken(thing="disk")) == "disk broke at (unknown count)"


def test_braces_in_data_stay_data() -> None:
    assert str(Broken(thing="{0} {x}", count=1)) == "{0} {x} broke at 1"


def test_fail_ends_a_module_with_message_hint_and_fields() -> None:
    class Ended(Exception):
        pass

    class Module:
        def fail_json(self, msg: str, **kwargs: Any) -> NoReturn:
            raise Ended(msg, kwargs)

    with pytest.raises(Ended) as caught:
        ansible.fail(Module(), Broken(thing="disk", count=1), vm="web01")
    message, fields = caught.value.args
    assert message == "disk broke at 1. Mend disk"
    assert (fields["vm"], fields["error"]["id"], fields["changed"]) == ("web01", "broken", False)


def test_a_waiter_returns_the_first_answer_and_beats_each_turn() -> None:
    clock, beats, answers = FakeClock(), [], iter([None, None, 0])
    patient = waiter.Waiter(60, clock=clock, beat=lambda: beats.append(1))
    assert patient.until(lambda: next(answers), "an answer") == 0
    assert clock.slept == [1.0, 1.5]
    assert len(beats) == 3


def test_a_waiter_gives_up_in_time_with_a_last_question_and_a_growing_pause() -> None:
    clock, asked = FakeClock(), []
    with pytest.raises(waiter.WaitTimeout, match="Waited 20 seconds for the VM") as caught:
        waiter.Waiter(20, clock=clock).until(lambda: asked.append(clock.monotonic()), "the VM")
    assert caught.value.data == {"what": "the VM", "seconds": 20}
    assert sum(clock.slept) == pytest.approx(20)
    assert max(clock.slept) <= 5.0
    assert asked[-1] - asked[0] == pytest.approx(20)


def test_what_a_beat_raises_ends_the_wait() -> None:
    def beat() -> None:
        raise Broken(thing="lease", count=0)

    with pytest.raises(Broken):
        waiter.Waiter(60, clock=FakeClock(), beat=beat).until(lambda: None, "ever")


def test_a_limit_of_zero_asks_once() -> None:
    asked: list[int] = []
    with pytest.raises(waiter.WaitTimeout):
        waiter.Waiter(0, clock=FakeClock()).until(lambda: asked.append(1), "x")
    assert len(asked) == 1


def test_a_durable_write_replaces_the_whole_file_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old and longer")
    durable.write_text(path, "new\udcff", mode=0o640)
    assert path.read_bytes() == b"new\xff"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["f"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        durable.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_file_and_folder_are_synced_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    true_sync, true_replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (seen.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"), true_sync(fd)),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("rename"), true_replace(a, b)))
    durable.write_json(tmp_path / "f", {"a": 1})
    assert seen == ["file", "rename", "folder"]
    assert durable.read_json(tmp_path / "f") == {"a": 1}


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("{")
    with pytest.raises(durable.NotJson, match="/f is not valid JSON"):
        durable.read_json(tmp_path / "f")


def test_progress_is_written_at_most_once_an_interval_but_the_end_always(tmp_path: Path) -> None:
    clock = FakeClock()
    path = tmp_path / "progress"
    report = progress.ProgressFile(path, 1.0, clock)
    meter = progress.Meter("copy", "scsi0:0", 100, clock)
    report(meter.at(10))
    clock.advance(0.5)
    report(meter.at(20))
    assert durable.read_json(path)["done_bytes"] == 10
    clock.advance(0.5)
    report(meter.at(30))
    assert durable.read_json(path)["done_bytes"] == 30
    report(meter.at(100))
    found = progress.Progress.from_dict({**durable.read_json(path), "new_field": 1})
    assert (found.done_bytes, found.percent) == (100, 100)


def test_rate_and_time_left_come_from_the_last_seconds() -> None:
    clock = FakeClock()
    meter = progress.Meter("copy", "scsi0:0", 1000, clock, window=10)
    assert meter.at(0).rate_bytes_per_second is None
    for second in range(1, 6):
        clock.advance(1)
        latest = meter.at(second * 100)
    assert (latest.rate_bytes_per_second, latest.seconds_left) == (100.0, 5.0)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1288490189, "1.2 GiB"),
        (88080384, "84.0 MiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_bytes_in_words(count: int, text: str) -> None:
    assert progress.format_bytes(count) == text


def test_one_line_tells_all() -> None:
    record = progress.Progress("", "esx1 web01 scsi0:0", 1288490189, 3435973837, 88080384.0, 24.2)
    assert progress.format_line(record) == ("esx1 web01 scsi0:0  37 %  1.2 GiB of 3.2 GiB read  84.0 MiB/s  0:24 left")
    assert progress.format_line(progress.Progress("check", "x", 5)) == "check x  5 B read"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (725, "12:05"), (10809, "3:00:09")])
def test_seconds_in_words(seconds: float, text: str) -> None:
    assert progress.format_seconds(seconds) == text


def test_a_missing_library_is_told_with_purpose_and_way_out() -> None:
    with pytest.raises(imports.LibraryMissing, match="The moon needs the Python library cheese") as caught:
        imports.load("no_such_module_here", purpose="The moon", name="cheese")
    assert "pip install cheese" in caught.value.hint_text
    assert imports.load("json", purpose="x") is json
    assert not imports.available("no_such_module_here")


def test_moments_have_one_spelling() -> None:
    assert iso(FakeClock().now()) == "2026-01-01T00:00:00Z"
