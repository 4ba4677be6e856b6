# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forced command in every shell that an account may have, and the line that it stands in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.link import restriction
from ansible_collections.stowage.esxi.plugins.module_utils.link.errors import BadLink
from ansible_collections.stowage.esxi.plugins.module_utils.link.restriction import Restriction

SHELLS = [
    words
    for words in (["dash"], ["bash"], ["busybox", "ash"])
    if shutil.which(words[0]) or pytest.skip(f"no {words[0]} here", allow_module_level=True)
]


def ask(limit: Restriction, shell: list[str], command: str | None, data: bytes = b"") -> tuple[int, bytes, str]:
    """As sshd runs it: the account's own shell gets the forced command, the other side's words are in a variable."""
    environment = {"PATH": os.environ["PATH"], "CDPATH": "/"}
    if command is not None:
        environment["SSH_ORIGINAL_COMMAND"] = command
    done = subprocess.run(
        [*shell, "-c", limit.forced()], input=data, capture_output=True, env=environment, timeout=20, check=False
    )
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.fixture(params=["plain", 'it\'s $(id) "a" `b` \\c'], ids=["plain", "hostile"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / str(request.param)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_receive_writes_new_whole_files_and_nothing_else(box: Path, shell: list[str]) -> None:
    limit = Restriction("receive", str(box))
    assert ask(limit, shell, restriction.PROBE) == (0, b"stowage-link-works\n", "")
    data = bytes(range(256)) * 300
    for name in ("disk.vmdk", "a name  with blanks", '$(touch x) `y` "z" \'', "\u00fcml\u00e4ut", "*"):
        assert ask(limit, shell, f"stowage-put {len(data)} {name}", data)[0] == 0, name
        assert (box / name).read_bytes() == data
    names = sorted(path.name for path in box.iterdir())
    for command in (
        None,
        "",
        "id",
        "stowage-put",
        "stowage-put ",
        "stowage-put 1",
        "stowage-put 1 ",
        "stowage-put x y",
        "stowage-put 1 .",
        "stowage-put 1 ..",
        "stowage-put 1 ../x",
        "stowage-put 1 a/b",
        "stowage-put 1 -x",
        "stowage-put 1 disk.vmdk",
        "stowage-put 1 new\nid",
        "stowage-put 2 short",
        "stowage-put 0 long",
        "stowage-get disk.vmdk",
        "stowage-list",
        "rsync --server . /",
        restriction.PROBE + "; id",
        restriction.PROBE + " ",
    ):
        code, out, err = ask(limit, shell, command, b"1")
        assert code == 126 and out == b"" and "stowage: refused" in err, (command, code, out, err)
    assert sorted(path.name for path in box.iterdir()) == names
    assert (box / "disk.vmdk").read_bytes() == data


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_read_reads_below_its_folder_and_nowhere_else(box: Path, shell: list[str]) -> None:
    (box / "sub dir").mkdir()
    (box / "sub dir/a file").write_bytes(b"inside")
    (box / ".kept").write_bytes(b"dots are fine")
    (box.parent / "outside").write_bytes(b"outside")
    (box.parent / (box.name + "x")).mkdir()
    (box / "link").symlink_to(box.parent / "outside")
    (box / "sub dir/out").symlink_to(box.parent)
    limit = Restriction("read", str(box))
    assert ask(limit, shell, restriction.PROBE)[0] == 0
    assert ask(limit, shell, "stowage-list") == (0, b"d - sub dir\n", "")
    assert ask(limit, shell, "stowage-list sub dir") == (0, b"f 6 a file\n", "")
    assert ask(limit, shell, "stowage-get sub dir/a file") == (0, b"inside", "")
    assert ask(limit, shell, "stowage-get .kept") == (0, b"dots are fine", "")
    for command in (
        None,
        "stowage-get",
        "stowage-get ",
        f"stowage-get {box.parent}/outside",
        "stowage-get ../outside",
        "stowage-get sub dir/../../outside",
        "stowage-get link",
        "stowage-get sub dir/out/outside",
        "stowage-get sub dir",
        f"stowage-list ../{box.name}x",
        "stowage-list sub dir/out",
        "stowage-list ..",
        "stowage-listing",
        "stowage-get x$(touch y)",
        "stowage-put 1 x",
        "cat /etc/passwd",
    ):
        code, out, err = ask(limit, shell, command)
        assert code == 126 and out == b"" and "stowage: refused" in err, (command, code, out, err)


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_command_is_started_as_it_stands(shell: list[str]) -> None:
    limit = Restriction("command", command=("printf", "%s|", "it's", '$(id) "x"', "; id", ""))
    for command in (None, "", "stowage-run"):
        assert ask(limit, shell, command) == (0, b'it\'s|$(id) "x"|; id||', "")
    for command in ("id", "stowage-run x", "stowage-run\nid"):
        assert ask(limit, shell, command)[:2] == (126, b"")


def sshd_unquotes(options: str) -> str:
    """The value of command=, as sshd reads it: a backslash before a quote goes, nothing else changes."""
    match = re.search(r'command="((?:\\"|[^"])*)"$', options)
    assert match is not None
    return match.group(1).replace('\\"', '"')


def test_the_line_holds_the_forced_command_unharmed_and_is_short_enough_for_old_releases(box: Path) -> None:
    for limit in (
        Restriction("receive", str(box), programs=("rsync", "borg")),
        Restriction("read", str(box), programs=("rsync",), from_addresses=("192.0.2.0/24", "2001:db8::/32")),
        Restriction("command", command=("a", 'b "c"')),
    ):
        for new in (True, False):
            options = limit.options(new_sshd=new)
            assert sshd_unquotes(options) == limit.forced()
            assert "\n" not in options and len(options) < 6000
            assert ("restrict," in options) is new and ("no-port-forwarding" in options) is not new
    assert Restriction().options(new_sshd=True) == ""
    assert Restriction(from_addresses=("a", "!b*")).options(new_sshd=True) == 'from="a,!b*"'


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Restriction("receive"), "needs a path"),
        (Restriction("read", "relative"), "no folder that a key can be held to"),
        (Restriction("read", "/"), "no folder that a key can be held to"),
        (Restriction("read", "/a/../.."), "no folder that a key can be held to"),
        (Restriction("read", "/a\nb"), "more than one line"),
        (Restriction("command"), "needs a command"),
        (Restriction("none", command=("id",)), "needs a command"),
        (Restriction("none", "/a"), "say nothing"),
        (Restriction("read", "/a", programs=("borg",)), "borg cannot be held to read"),
        (Restriction(from_addresses=('x",command="id',)), "no address pattern"),
        (Restriction(from_addresses=("a b",)), "no address pattern"),
    ],
)
def test_a_restriction_that_cannot_be_kept_is_refused(limit: Restriction, said: str) -> None:
    with pytest.raises(BadLink, match=said):
        limit.check("x")


def test_what_cannot_be_enforced_is_said() -> None:
    assert "opens the whole account" in " ".join(Restriction().not_enforced(esxi=True))
    said = " ".join(Restriction("receive", "/a").not_enforced(esxi=True))
    assert "room of the file system" in said and "no chroot" in said and "every address" in said
    assert "no chroot" not in " ".join(Restriction("receive", "/a").not_enforced(esxi=False))
