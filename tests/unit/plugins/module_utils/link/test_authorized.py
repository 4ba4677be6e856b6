# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""authorized_keys as sshd reads it: only whole lines of one link are ever ours."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.link import authorized
from ansible_collections.stowage.esxi.plugins.module_utils.link.authorized import Entry, Mark, PublicKey
from hypothesis import given
from hypothesis import strategies as st


def key(kind: str = "ssh-rsa", seed: str = "1") -> PublicKey:
    blob = len(kind).to_bytes(4, "big") + kind.encode() + seed.encode()
    return PublicKey(kind, base64.b64encode(blob).decode())


MARK = Mark("control", "bk1", "esx1")
KEY, OTHER = key(), key(seed="2")
OURS = Entry("", KEY, str(MARK))


def line(entry_key: PublicKey, comment: str, options: str = "") -> str:
    return Entry(options, entry_key, comment).line + "\n"


# Each of these talks of our mark, and none is our line.
STRANGERS = [
    f"# {OURS.line}\n",
    f"#{OURS.line}\n",
    line(KEY, f"{MARK} and more"),
    line(KEY, f"x {MARK}"),
    line(KEY, f"{MARK}x"),
    line(KEY, "stowage-link:control:bk1"),
    line(KEY, "stowage-link:control:bk1:esx1:more"),
    line(KEY, "stowage-link:control:bk2:esx1"),
    line(KEY, "stowage-link:control2:bk1:esx1"),
    line(KEY, "x", f'command="echo {MARK}"'),
    line(KEY, "x", f'command="echo \\" {KEY.kind} {KEY.base64} {MARK}"'),
    line(KEY, str(MARK), 'command="never closed'),
    f"ssh-rsa not-base64 {MARK}\n",
    f"ssh-ed25519 {KEY.base64} {MARK}\n",
    f"{MARK}\n",
    "\n",
    "   \n",
    "\f\x85\u2028\n",
    line(KEY, ""),
    line(KEY, "caf\u00e9 \udcff"),
]


@pytest.mark.parametrize("text", STRANGERS)
def test_what_only_looks_like_our_line_is_somebody_elses(text: str) -> None:
    assert authorized.ours(text, MARK) == []
    assert authorized.edit(text, MARK, []) == text
    assert authorized.edit(text, MARK, [OURS]) == text + OURS.line + "\n"


@pytest.mark.parametrize(
    "text",
    [
        OURS.line,
        OURS.line + "\n",
        OURS.line + "\r\n",
        f"  \t{OURS.line}  \n",
        f'from="a,b",command="x \\"y z\\" #" {OURS.line}\n',
        f"restrict\t{KEY.kind}\t {KEY.base64}\t{MARK}\n",
    ],
)
def test_our_line_is_found_however_it_is_written(text: str) -> None:
    assert [entry.key for entry in authorized.ours(text, MARK)] == [KEY]
    assert authorized.edit(text, MARK, []) == ""


def test_a_new_line_takes_the_place_of_the_old_one_and_no_other_byte_changes() -> None:
    before, after = "".join(STRANGERS[:9]) + "\r\n", "".join(STRANGERS[9:])
    text = before + line(OTHER, str(MARK)) + after
    assert authorized.edit(text, MARK, [OURS]) == before + OURS.line + "\n" + after
    assert authorized.edit(text, MARK, [OURS, Entry("", OTHER, str(MARK))]).count(str(MARK) + "\n") >= 2
    assert authorized.edit(text, MARK, []) == before + after


def test_two_old_lines_become_one() -> None:
    text = line(OTHER, str(MARK)) + line(KEY, "a stranger") + line(KEY, str(MARK))
    assert authorized.edit(text, MARK, [OURS]) == OURS.line + "\n" + line(KEY, "a stranger")


def test_a_last_line_without_its_end_is_not_run_into() -> None:
    stranger = line(OTHER, "a stranger").rstrip("\n")
    assert authorized.edit(stranger, MARK, [OURS]) == f"{stranger}\n{OURS.line}\n"
    assert authorized.edit(stranger, MARK, []) == stranger


PIECES = st.one_of(
    st.sampled_from([*STRANGERS, OURS.line + "\n", line(OTHER, str(MARK))]),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=40).map(lambda text: text + "\n"),
)


@given(st.lists(PIECES, max_size=12), st.booleans(), st.booleans())
def test_lines_of_others_come_through_any_edit(pieces: list[str], cut: bool, wanted: bool) -> None:
    text = "".join(pieces)
    text = text[:-1] if cut and text else text
    entries = [OURS] if wanted else []
    edited = authorized.edit(text, MARK, entries)
    assert authorized.ours(edited, MARK) == entries
    assert authorized.edit(edited, MARK, entries) == edited
    mine = {piece for piece in pieces if authorized.ours(piece, MARK)}
    theirs = [piece.rstrip("\n") for piece in text.split("\n") if piece + "\n" not in mine]
    left = [piece for piece in edited.split("\n") if piece + "\n" not in mine and piece != OURS.line]
    assert [piece for piece in left if piece] == [piece for piece in theirs if piece]


def test_the_length_of_an_rsa_key_is_read_from_the_key() -> None:
    def number(value: bytes) -> bytes:
        return len(value).to_bytes(4, "big") + value

    blob = number(b"ssh-rsa") + number(b"\1\0\1") + number(b"\0" + b"\x80" + b"\1" * 383)
    assert PublicKey("ssh-rsa", base64.b64encode(blob).decode()).bits == 3072
    assert key("ssh-ed25519").bits is None


def test_all_links_that_a_file_accepts_are_listed() -> None:
    text = "".join(STRANGERS) + OURS.line + "\n"
    marks = [str(mark) for mark in authorized.all_marks(text)]
    assert str(MARK) in marks and "stowage-link:control:bk2:esx1" in marks and len(marks) == 4
