# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk that a restore makes goes again when the restore fails, and what somebody else put there never does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors, undedup
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import DiskTask
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import CommandTimeout, ConnectionLost
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session
from ansible_collections.stowage.esxi.plugins.module_utils.store import restore
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import AgentLost

# As the host's: -c makes a disk, -U removes one. With `race` beside it somebody else is faster.
VMKFSTOOLS = r"""#!/bin/sh
for last in "$@"; do :; done
flat=${last%.vmdk}-flat.vmdk
[ "$1" = -U ] && { rm -f "$last" "$flat"; exit 0; }
[ -e "${0%/*}/race" ] && echo theirs >"$last" && echo theirs >"$flat"
[ -e "$last" ] && { echo "Failed to create virtual disk: The file already exists (39)." >&2; exit 39; }
[ -e "${0%/*}/slow" ] && : >"$flat" && sleep 4
[ -e "${0%/*}/full" ] && { : >"$flat"; echo "Failed to create virtual disk: no space (13)." >&2; exit 13; }
echo ours >"$last" && echo ours >"$flat"
"""


class Here(Session):
    """Runs everything in a shell of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Endpoint(host="esx1", password="x"))
        (folder / "vmkfstools").write_text(VMKFSTOOLS)
        (folder / "vmkfstools").chmod(0o755)
        # The columns of the host's `ps -c`.
        (folder / "ps").write_text("#!/bin/sh\nexec /bin/ps -e -ww -o pid,pid,comm,args\n")
        (folder / "ps").chmod(0o755)
        self.path = f"{folder}:{os.environ['PATH']}"

    def run(self, argv: Any, *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        done = subprocess.run(
            argv,
            input=(stdin or b"").decode(),
            env={"PATH": self.path},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
        return Result(tuple(argv), done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        """Nothing is open between two calls."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume" / "web01"


@pytest.fixture
def reach(folder: Path) -> Any:
    session = Here(folder.parent.parent / "bin")
    host = SimpleNamespace(name="esx1", session=session, read_folders=lambda folders: {})
    starter = SimpleNamespace(host="esx1", packs=True, end_all=lambda links: None, way=SimpleNamespace(method="agent"))
    return SimpleNamespace(
        host=host,
        starter=lambda writes: contextlib.nullcontext(starter),
        clock=SystemClock(),
        bandwidth_limit=0,
        stall_seconds=60.0,
        minimum_rate=0,
        connections=1,
        alive=lambda: None,
        progress=lambda progress: None,
    )


def task(folder: Path) -> DiskTask:
    return DiskTask(
        key="scsi0-0.vmdk",
        source="/srv/stowage::1/scsi0:0",
        target=str(folder / "scsi0-0.vmdk"),
        format="thin",
        capacity_bytes=1 << 20,
        bytes_to_read=1 << 20,
    )


@pytest.mark.parametrize("name", ["scsi0-0.vmdk", "scsi0-0-flat.vmdk"])
def test_what_came_there_since_the_plan_stays(folder: Path, reach: Any, name: str) -> None:
    folder.mkdir()
    (folder / name).write_text("theirs")
    with pytest.raises(errors.TargetExists, match=name) as caught, undedup.made(task(folder), [str(folder)], reach):
        raise AssertionError("it was begun")
    assert "left" not in caught.value.data
    assert [path.read_text() for path in folder.iterdir()] == ["theirs"]


def test_what_comes_there_at_the_last_moment_stays(folder: Path, reach: Any) -> None:
    (folder.parent.parent / "bin" / "race").touch()
    with pytest.raises(errors.TargetExists), undedup.made(task(folder), [str(folder)], reach):
        raise AssertionError("it was begun")
    assert {path.read_text() for path in folder.iterdir()} == {"theirs\n"}


def test_what_was_half_made_goes_with_its_folder(folder: Path, reach: Any) -> None:
    (folder.parent.parent / "bin" / "full").touch()
    with (
        pytest.raises(errors.DiskNotMade, match="no space") as caught,
        undedup.made(task(folder), [str(folder)], reach),
    ):
        raise AssertionError("it was begun")
    assert "left" not in caught.value.data
    assert not folder.exists()


def test_a_disk_that_is_long_in_making_keeps_its_job_alive(folder: Path, reach: Any) -> None:
    (folder.parent.parent / "bin" / "slow").touch()
    beats: list[int] = []
    reach.alive = lambda: beats.append(1)
    with undedup.made(task(folder), [str(folder)], reach):
        assert len(beats) >= 2


def test_whoever_is_told_to_end_while_a_disk_is_made_waits_for_no_zeros(folder: Path, reach: Any) -> None:
    (folder.parent.parent / "bin" / "slow").touch()

    def alive() -> None:
        raise errors.CallerGone(reason="the play has ended")

    reach.alive = alive
    begun = time.monotonic()
    with pytest.raises(errors.CallerGone) as caught, undedup.made(task(folder), [str(folder)], reach):
        raise AssertionError("it was begun")
    # The shell that plays vmkfstools ends at once, the sleep in it holds its output open.
    assert time.monotonic() - begun < 20
    assert "left" not in caught.value.data
    assert not folder.exists()


def test_a_maker_that_outlives_its_time_is_ended_before_its_disk_is_removed(folder: Path, reach: Any) -> None:
    class Leaves(Here):
        """As a host does whose command takes longer than somebody waits."""

        made: subprocess.Popen[bytes]

        def run(self, argv: Any, **more: Any) -> Result:
            if argv[0] != "vmkfstools":
                return super().run(argv, **more)
            self.made = subprocess.Popen(argv, env={"PATH": self.path})
            time.sleep(0.3)
            raise CommandTimeout(host="esx1", seconds=300.0, command="vmkfstools -c")

    session = reach.host.session = Leaves(folder.parent.parent / "bin")
    (folder.parent.parent / "bin" / "slow").touch()
    with pytest.raises(CommandTimeout) as caught, undedup.made(task(folder), [str(folder)], reach):
        raise AssertionError("it was begun")
    assert session.made.wait(2) != 0
    assert "left" not in caught.value.data and not folder.exists()


def test_a_line_that_is_cut_when_all_is_there_undoes_none_of_it(
    folder: Path, reach: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def cut_at_its_end(*_words: Any, **_more: Any) -> Iterator[Any]:
        yield SimpleNamespace()
        raise AgentLost(host="esx1", reason="the line was cut")

    looks: list[int] = []

    def looked(_folders: Any) -> Any:
        looks.append(1)
        if len(looks) < 3:
            raise ConnectionLost(host="esx1", port=22, command="ls", reason="cut")
        return {}

    reach.host.read_folders = looked
    monkeypatch.setattr(undedup, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(undedup, "opened_target", cut_at_its_end)
    monkeypatch.setattr(undedup, "inspect", lambda entries, task: ("", 5))
    monkeypatch.setattr(restore, "to_target", lambda *words, **more: restore.Told())
    nothing: Any = None
    brought = undedup.bring(nothing, nothing, task(folder), [str(folder)], "none", reach)
    assert brought.copied_bytes == 5 and "the line was cut" in brought.warnings[0] and len(looks) == 3
    assert {path.read_text() for path in folder.iterdir()} == {"ours\n"}


def test_a_line_that_is_cut_before_that_leaves_no_disk(
    folder: Path, reach: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_words: Any, **_more: Any) -> Any:
        raise AgentLost(host="esx1", reason="the line was cut")

    monkeypatch.setattr(undedup, "opened_target", lambda *words, **more: contextlib.nullcontext(SimpleNamespace()))
    monkeypatch.setattr(restore, "to_target", cut)
    nothing: Any = None
    with pytest.raises(AgentLost):
        undedup.bring(nothing, nothing, task(folder), [str(folder)], "none", reach)
    assert not folder.exists()


def test_a_disk_that_is_not_whole_at_the_end_does_not_stay(
    folder: Path, reach: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undedup, "opened_target", lambda *words, **more: contextlib.nullcontext(SimpleNamespace()))
    monkeypatch.setattr(restore, "to_target", lambda *words, **more: restore.Told())
    nothing: Any = None
    with pytest.raises(errors.CloneIncomplete, match="there is no descriptor"):
        undedup.bring(nothing, nothing, task(folder), [str(folder)], "none", reach)
    assert not folder.exists()
