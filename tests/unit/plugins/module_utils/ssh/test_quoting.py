# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every word reaches the program unchanged, through every POSIX shell that is here."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHELLS = [words for words in (["sh"], ["busybox", "sh"], ["bash", "--posix"]) if shutil.which(words[0])]
NASTY = st.one_of(
    st.text(alphabet="'\"\\$`!*?[]{}()<>|&;#~=-\n\t\r aé%^\u2028", max_size=12),
    st.binary(max_size=12).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")),
    st.sampled_from(["-n", "--", "if", "a=b", "$(touch x)", "`id`", "${IFS}", "..", "~root", "!!", "\\'"]),
)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(NASTY, max_size=6))
def test_any_words_come_through(shell: list[str], words: list[str]) -> None:
    line = quoting.join(["printf", "%s\\0", "start", *words])
    done = subprocess.run([*shell, "-c", line.encode("utf-8", "surrogateescape")], capture_output=True, check=True)
    expected = [word.encode("utf-8", "surrogateescape") for word in ["start", *words]]
    assert done.stdout.split(b"\0")[:-1] == expected


# Without bash, which takes a quoted % for a job: the hosts have ash.
@pytest.mark.parametrize("shell", [words for words in SHELLS if words[0] != "bash"], ids=lambda words: words[0])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NASTY)
def test_the_first_word_is_a_command_and_never_syntax(
    shell: list[str], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        encoded = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return
    # `:` and `[` are commands of the shell's own; the rest cannot be the name of a file.
    if name in ("", ".", "..", ":", "[") or "/" in name:
        return
    folder = tmp_path_factory.mktemp("bin")
    with open(os.path.join(os.fsencode(folder), encoded), "wb") as program:
        program.write(b"#!/bin/sh\necho ran\n")
    os.chmod(program.name, 0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    line = quoting.join([name]).encode("utf-8", "surrogateescape")
    # In parentheses, as every session sends it.
    done = subprocess.run([*shell, "-c", b"(" + line + b")"], capture_output=True, env={"PATH": path})
    assert (done.returncode, done.stdout) == (0, b"ran\n"), (line, done)


@pytest.mark.parametrize("name", ["if", "while", "a=b", "{", "!", "time", "function"])
def test_reserved_words_and_assignments_are_commands(name: str) -> None:
    done = subprocess.run(["sh", "-c", "PATH=/nonexistent; " + quoting.join([name])], capture_output=True)
    assert done.returncode == 127


def test_ordinary_commands_stay_readable() -> None:
    assert quoting.join(["vim-cmd", "vmsvc/power.off", "12"]) == "vim-cmd vmsvc/power.off 12"


@pytest.mark.parametrize("argv", [[], ["a\0b"], ["x" * 200_000]])
def test_what_cannot_be_a_command_is_refused(argv: list[str]) -> None:
    with pytest.raises(ValueError):
        quoting.join(argv)


def test_a_text_is_not_a_command() -> None:
    with pytest.raises(TypeError):
        quoting.join("rm -rf /")
