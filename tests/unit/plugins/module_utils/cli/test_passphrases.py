# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command comes by the passphrase of an encrypted store, and changes the keys of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Run = Callable[..., SimpleNamespace]


@pytest.fixture
def locked(tmp_path: Path, stowage: Run) -> Path:
    (tmp_path / "pass").write_text("correct horse\nsecond line")
    words = ["--encrypt", "--passphrase-file", tmp_path / "pass", "--chunk-size", "64KiB"]
    assert stowage("create", tmp_path / "locked", *words).code == 0
    return tmp_path / "locked"


def test_a_passphrase_comes_by_file_descriptor_or_environment(
    locked: Path, tmp_path: Path, stowage: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stowage("list", locked, "--passphrase-file", tmp_path / "pass").code == 0
    read, write = os.pipe()
    os.write(write, b"correct horse\n")
    os.close(write)
    assert stowage("list", locked, "--passphrase-fd", read).code == 0
    told = stowage("list", locked)
    assert told.code == 67 and f"{locked} is encrypted, and no passphrase was given" in told.err
    for way in ("--passphrase-file PATH", "--passphrase-fd N", "STOWAGE_PASSPHRASE", "terminal"):
        assert way in told.err
    assert stowage("list", locked, "--passphrase-fd", 99).code == 1
    monkeypatch.setenv("STOWAGE_PASSPHRASE", "correct horse")
    assert stowage("list", locked).code == 0
    (tmp_path / "wrong").write_text("wrong")
    # What is said on the command line is meant.
    assert stowage("list", locked, "--passphrase-file", tmp_path / "wrong").code == 67


def test_a_person_is_asked_only_where_there_is_one(locked: Path, stowage: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass

    asked: list[str] = []
    monkeypatch.setattr(getpass, "getpass", lambda text, _stream: asked.append(text) or "correct horse")
    assert stowage("list", locked).code == 67 and asked == []
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True, raising=False)
    assert stowage("list", locked).code == 0 and asked == ["Passphrase of the store: "]


def test_keys_come_and_go(locked: Path, tmp_path: Path, stowage: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ["--passphrase-file", tmp_path / "pass", "--json"]
    monkeypatch.setenv("STOWAGE_NEW_PASSPHRASE", "second")
    added = stowage("keys", locked, "add", "--key", "night", *first).json
    assert [key["name"] for key in added["keys"]] == ["first", "night"]
    paper = stowage("keys", locked, "recovery", *first).json["recovery_key"]
    again = stowage("keys", locked, "recovery", *first)
    assert again.code == 67 and "there is a key 'recovery'" in again.error["error"]["message"]
    assert stowage("keys", locked, "remove", "--key", "first", *first).code == 0
    assert stowage("list", locked, *first).code == 67
    for secret in ("second", paper.lower()):
        monkeypatch.setenv("STOWAGE_PASSPHRASE", secret)
        assert stowage("list", locked).code == 0
    assert stowage("keys", locked, "list").out.split() == ["KEY", "KIND", "night", "passphrase", "recovery", "recovery"]
    made = stowage("create", tmp_path / "both", "--encrypt", "--recovery-key", "--json").json
    monkeypatch.setenv("STOWAGE_PASSPHRASE", made["recovery_key"])
    assert stowage("list", tmp_path / "both").code == 0


def test_no_word_of_the_command_line_is_a_passphrase() -> None:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.main import parser

    commands: dict[str, Any] = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr,assignment]
    words = {word for one in commands.values() for action in one._actions for word in action.option_strings}
    assert {word for word in words if "pass" in word or "secret" in word or "key" in word} == {
        "--passphrase-file",
        "--passphrase-fd",
        "--new-passphrase-file",
        "--new-passphrase-fd",
        "--other-passphrase-file",
        "--other-passphrase-fd",
        "--recovery-key",
        "--key",
    }
