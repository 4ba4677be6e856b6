# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Batch, CutAnswer, read_folders, run_patient


def test_many_commands_in_one_script_keep_their_streams_and_codes_apart(local_session: Any) -> None:
    local_session.put("two", "echo out; echo err >&2; exit 3\n")
    batch = Batch().add(["two"]).add(["printf", "no newline"]).add(["cat", "/does/not/exist"]).add(["true"])
    first, second, third, fourth = batch.run(local_session)
    assert local_session.count == 1
    assert (first.rc, first.stdout, first.stderr) == (3, "out\n", "err")
    assert (second.rc, second.stdout, second.stderr) == (0, "no newline", "")
    assert third.rc != 0 and "No such file" in third.stderr and third.stdout == ""
    assert (fourth.rc, fourth.stdout) == (0, "")


@pytest.mark.parametrize("word", ["$(touch pwned)", "a'b\"c", "-n", "x\ny", "`id`", "ü", "; exit 9", ""])
def test_arguments_arrive_unchanged(local_session: Any, word: str) -> None:
    (reply,) = Batch().add(["printf", "%s", word]).run(local_session)
    assert reply.stdout == word


def test_a_file_cannot_imitate_the_frame(local_session: Any, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.write_text("t BEGIN\n\nt END 0\n\nt DONE\nx")
    first, second = Batch().read(str(evil)).add(["true"]).run(local_session)
    assert first.stdout == evil.read_text() and second.rc == 0


def test_an_answer_that_was_cut_is_an_error() -> None:
    batch = Batch(token="t").add(["a"]).add(["b"])
    with pytest.raises(CutAnswer, match="1 of 2"):
        batch.parse("t BEGIN\nx\nt END 0\n\nt DONE\nt BEGIN\nhalf", "gone")


def test_folders_give_descriptors_but_never_open_extents(local_session: Any, tmp_path: Path) -> None:
    folder = tmp_path / "vm [1] 'x'"
    folder.mkdir()
    (folder / "a.vmdk").write_text("# Disk DescriptorFile\n")
    (folder / "a-flat.vmdk").write_bytes(b"\0" * 4096)
    (folder / "big.vmdk").write_bytes(b"\0" * 70000)
    (folder / "x\n.vmdk").write_text("odd")
    (folder / "a.vmx").write_text("not a disk")
    entries = {entry.path: entry for entry in read_folders(local_session, [str(folder), str(tmp_path / "none")])}
    assert local_session.count == 1
    assert set(entries) == {f"{folder}/{name}" for name in ("a.vmdk", "a-flat.vmdk", "big.vmdk", "x\n.vmdk")}
    assert entries[f"{folder}/a.vmdk"].text == "# Disk DescriptorFile\n"
    assert entries[f"{folder}/a-flat.vmdk"].text is None and entries[f"{folder}/a-flat.vmdk"].size_bytes == 4096
    assert entries[f"{folder}/big.vmdk"].text is None
    assert entries[f"{folder}/a-flat.vmdk"].allocated_bytes % 512 == 0


@pytest.fixture
def made(local_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """The temporary files that this session's scripts made; other tests make theirs meanwhile."""
    names, run = tmp_path / "made", local_session.script
    telling = f'mktemp() {{ command mktemp "$@" | tee -a "{names}"; }}\n'
    monkeypatch.setattr(local_session, "script", lambda text, args=(), **more: run(telling + text, args, **more))
    return lambda: [Path(line) for line in names.read_text().splitlines()]


@pytest.mark.parametrize("tool", ["cat", "stat"])
def test_a_listing_of_folders_that_does_not_come_to_its_end_is_an_error(
    local_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    """A file that is left out of it would look like one that is gone."""
    (tmp_path / "vm").mkdir()
    for name in ("a.vmdk", "b.vmdk"):
        (tmp_path / "vm" / name).write_text("# Disk DescriptorFile\n")
    run = local_session.script
    dying = f"{tool}() {{ kill -9 $$; sleep 5; }}\n"
    monkeypatch.setattr(local_session, "script", lambda text, args=(), **more: run(dying + text, args, **more))
    with pytest.raises(CutAnswer):
        read_folders(local_session, [str(tmp_path / "vm")])


def test_a_command_that_ends_in_time_gives_its_answer(local_session: Any, made: Callable[[], list[Path]]) -> None:
    local_session.put("vim", 'echo "one $1"; echo two >&2; exit 4\n')
    reply = run_patient(local_session, ["vim", "$(x)"], 10)
    assert reply is not None and (reply.rc, reply.stdout) == (4, "one $(x)\ntwo\n")
    assert [file.exists() for file in made()] == [False]


def test_a_command_that_takes_longer_goes_on_by_itself_and_leaves_no_file(
    local_session: Any, made: Callable[[], list[Path]], tmp_path: Path
) -> None:
    mark = tmp_path / "done"
    local_session.put("vim", f'echo begun; sleep 3; echo late; : > "{mark}"\n')
    assert run_patient(local_session, ["vim"], 1) is None
    assert not mark.exists()
    for _turn in range(100):
        if mark.exists():
            break
        time.sleep(0.1)
    assert mark.exists(), "it was ended with the script"
    (file,) = made()
    for _turn in range(100):
        if not file.exists():
            break
        time.sleep(0.1)
    assert not file.exists()
