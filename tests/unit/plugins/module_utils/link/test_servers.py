# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real rsync and real borg against the forced command that holds them to one folder and one direction."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.link.restriction import Restriction

RSYNC = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not here")
BORG = pytest.mark.skipif(shutil.which("borg") is None, reason="borg is not here")
SHELLS = [words for words in ("dash", "bash", "busybox ash") if shutil.which(words.split()[0])]
# What stands in the place of ssh: the other side's words become one line, as sshd hands them to the forced command.
REMOTE = """#!/bin/sh
while [ "$1" != host ]; do shift; done
shift
SSH_ORIGINAL_COMMAND="$*" exec {shell} -c "$(cat {forced})"
"""


class Far:
    """A folder of another machine, held to one kind of use."""

    def __init__(self, folder: Path, kind: str, program: str, shell: str = "dash") -> None:
        self.box, self.here, self.folder = folder / "box", folder / "here", folder
        for one in (self.box, self.here, folder / "boxes"):
            one.mkdir()
        (self.here / "disk.img").write_bytes(b"new" * 1000)
        (self.box / "old.img").write_bytes(b"old" * 1000)
        (folder / "outside").write_text("outside\n")
        (folder / "forced").write_text(Restriction(kind, str(self.box), programs=(program,)).forced())
        (folder / "ssh").write_text(REMOTE.format(shell=shell, forced=folder / "forced"))
        (folder / "ssh").chmod(0o755)

    def rsync(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            ["rsync", "-e", str(self.folder / "ssh"), *words], capture_output=True, text=True, timeout=30, check=False
        )
        return done.returncode, done.stderr

    def borg(self, *words: str) -> tuple[int, str]:
        environment = {
            **os.environ,
            "BORG_RSH": str(self.folder / "ssh"),
            "HOME": str(self.folder),
            "BORG_PASSPHRASE": "x",
        }
        environment.update(BORG_RELOCATED_REPO_ACCESS_IS_OK="yes", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
        done = subprocess.run(
            ["borg", *words], capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=self.here
        )
        return done.returncode, done.stderr

    def raw(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            [self.folder / "ssh", "host", command],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, done.stderr


@RSYNC
@pytest.mark.parametrize("shell", SHELLS)
def test_rsync_that_may_receive_writes_below_its_folder_and_reads_nothing_back(tmp_path: Path, shell: str) -> None:
    far = Far(tmp_path, "receive", "rsync", shell)
    assert far.rsync("-a", f"{far.here}/", "host:")[0] == 0
    assert (far.box / "disk.img").read_bytes() == b"new" * 1000
    for target in ("sub/", "sub/two", f"{far.box}/sub/three", "renamed"):
        code, err = far.rsync(
            "-aS", "--inplace", "--no-whole-file", "--bwlimit=100m", f"{far.here}/disk.img", f"host:{target}"
        )
        assert code == 0, (target, err)
    files = sorted(str(path.relative_to(far.box)) for path in far.box.rglob("*") if path.is_file())
    assert files == ["disk.img", "old.img", "renamed", "sub/disk.img", "sub/three", "sub/two"]
    back = tmp_path / "back"
    before = {path: path.read_bytes() for path in far.box.rglob("*") if path.is_file()}
    for words in (
        ["-a", "host:old.img", str(back)],
        ["-a", "host:", str(back)],
        ["-a", f"{far.here}/", "host:../escaped"],
        ["-a", f"{far.here}/", "host:sub/../../escaped"],
        ["-a", f"{far.here}/", f"host:{tmp_path}/escaped"],
        ["-a", f"{far.here}/", f"host:{far.box}es"],
        ["-a", "--delete", f"{far.here}/", "host:"],
        ["-a", "--delete-before", f"{far.here}/", "host:"],
        ["-a", "--backup-dir=/tmp", "-b", f"{far.here}/", "host:"],
        ["-a", "--temp-dir=/tmp", f"{far.here}/", "host:"],
        ["-a", "--partial-dir=/tmp", f"{far.here}/", "host:"],
        ["-a", "--link-dest=/etc", f"{far.here}/", "host:"],
        ["-a", "--copy-dest=/etc", f"{far.here}/", "host:"],
        ["-a", "-K", f"{far.here}/", "host:"],
        ["-a", "-R", f"{far.here}/disk.img", "host:"],
        ["-a", "-s", f"{far.here}/", "host:"],
        ["-a", "-M--log-file=/tmp/stowage-log", f"{far.here}/", "host:"],
        ["-a", "-M--fake-super", f"{far.here}/", "host:"],
        ["-a", "--write-devices", f"{far.here}/", "host:"],
    ):
        code, err = far.rsync(*words)
        assert code != 0 and "stowage: refused" in err, (words, code, err)
    assert {path: path.read_bytes() for path in far.box.rglob("*") if path.is_file()} == before
    assert not back.exists() and not (tmp_path / "escaped").exists() and not list((tmp_path / "boxes").iterdir())


@RSYNC
def test_a_symbolic_link_that_rsync_brings_leads_nowhere(tmp_path: Path) -> None:
    far = Far(tmp_path, "receive", "rsync")
    (far.here / "way out").symlink_to(tmp_path / "boxes")
    (far.here / "file").symlink_to(tmp_path / "outside")
    assert far.rsync("-a", f"{far.here}/", "host:")[0] == 0
    assert not (far.box / "way out").exists() and os.path.islink(far.box / "way out")
    # One that was there before is not followed.
    (far.box / "old").symlink_to(tmp_path / "boxes")
    (far.box / "oldfile").symlink_to(tmp_path / "outside")
    for target in ("old/", "old", "old/x", "oldfile"):
        code, err = far.rsync("-a", "--inplace", f"{far.here}/disk.img", f"host:{target}")
        assert code != 0 and "stowage: refused" in err, (target, code, err)
    assert (tmp_path / "outside").read_text() == "outside\n" and not list((tmp_path / "boxes").iterdir())


@RSYNC
@pytest.mark.parametrize("shell", SHELLS)
def test_rsync_that_may_read_reads_below_its_folder_and_writes_nothing(tmp_path: Path, shell: str) -> None:
    far = Far(tmp_path, "read", "rsync", shell)
    back = tmp_path / "back"
    assert far.rsync("-a", "host:", f"{back}/")[0] == 0 and (back / "old.img").read_bytes() == b"old" * 1000
    assert far.rsync("-aS", f"host:{far.box}/old.img", str(tmp_path / "one"))[0] == 0
    (far.box / "link").symlink_to(tmp_path / "outside")
    (far.box / "way").symlink_to(tmp_path)
    for words in (
        ["-a", f"{far.here}/", "host:"],
        ["-a", "host:../outside", f"{tmp_path}/got"],
        ["-a", f"host:{tmp_path}/outside", f"{tmp_path}/got"],
        ["-a", "host:way/outside", f"{tmp_path}/got"],
        ["-aL", "host:link", f"{tmp_path}/got"],
        ["-ak", "host:way", f"{tmp_path}/got"],
        ["-a", "--copy-unsafe-links", "host:", f"{tmp_path}/got"],
        ["-a", "--remove-source-files", "host:old.img", f"{tmp_path}/got"],
        ["-a", "--files-from=:/etc/passwd", "host:", f"{tmp_path}/got"],
        ["-a", "host:old.img", "host:../outside", f"{tmp_path}/got"],
    ):
        code, err = far.rsync(*words)
        assert code != 0 and "stowage: refused" in err, (words, code, err)
    assert not (tmp_path / "got").exists() and (far.box / "old.img").exists() and not (far.box / "disk.img").exists()


@RSYNC
@pytest.mark.parametrize("kind", ["receive", "read"])
@pytest.mark.parametrize(
    "command",
    [
        "rsync --server",
        "rsync --daemon",
        "rsync --server --daemon .",
        "rsync --server . . ; id",
        "rsync --server . $(id)",
        "rsync --server . `id`",
        "rsync --server\nid",
        "rsync --server -e.x --rsync-path=id . .",
        "rsync --server --sender -vlogDtpre.x --log-file=/tmp/x . .",
        "rsync --server -vlogDtprse.x . .",
        "rsync --server -esh . .",
        "rsync --server --config=/tmp/x . .",
        "rsync --serverx . .",
        "rsync -e sh . host:",
        "id",
    ],
)
def test_a_command_that_only_looks_like_rsync_s_is_refused(tmp_path: Path, kind: str, command: str) -> None:
    code, err = Far(tmp_path, kind, "rsync").raw(command)
    assert code == 126 and "stowage: refused" in err


@BORG
def test_borg_that_may_receive_adds_to_its_folder_and_neither_removes_nor_leaves_it(tmp_path: Path) -> None:
    far = Far(tmp_path, "receive", "borg")
    repository = f"ssh://host{far.box}/repository"
    assert far.borg("init", "-e", "none", repository)[0] == 0
    assert far.borg("create", f"{repository}::one", "disk.img")[0] == 0
    code, err = far.borg("init", "-e", "none", f"ssh://host{far.box}/../boxes/x")
    assert code != 0 and not list((tmp_path / "boxes").iterdir()), err
    # An append-only repository takes a delete, and keeps what was there: whoever owns it goes back to before.
    segments = {path: path.read_bytes() for path in (far.box / "repository/data").rglob("*") if path.is_file()}
    far.borg("delete", f"{repository}::one")
    far.borg("compact", repository)
    assert all(path.read_bytes() == data for path, data in segments.items())
    far.borg("delete", repository)
    assert all(path.read_bytes() == data for path, data in segments.items())
    for command in ("borg", "borg list", "borg serves", "borg init -e none /tmp/x", "id", "rsync --server . ."):
        code, err = far.raw(command)
        assert code == 126 and "stowage: refused" in err, command
