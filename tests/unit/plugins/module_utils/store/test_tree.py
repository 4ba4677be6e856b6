# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a store calls a file, it becomes one file of the folder it is restored to."""

from __future__ import annotations

import os

from ansible_collections.stowage.esxi.plugins.module_utils.store.tree import disk_name, safe_names
from hypothesis import given
from hypothesis import strategies as st

HOSTILE = st.one_of(
    st.text(st.characters(), max_size=300),
    st.lists(st.sampled_from([".", "..", "/", "\0", "a", "~2", "\udcff", "\n", ""]), max_size=6).map("".join),
)


@given(st.lists(HOSTILE, max_size=12))
def test_every_name_gets_a_file_of_its_own_in_the_folder(wanted: list[str]) -> None:
    names = safe_names(wanted)
    assert len(names) == len(wanted) == len(set(names))
    for name in names:
        assert os.path.dirname(os.path.normpath(os.path.join("/to", name))) == "/to"
        assert not name.startswith(".") and not set(name) & {"/", "\0", "\n"}
        assert 0 < len(os.fsencode(name)) < 250


def test_ordinary_names_stay_what_they_are() -> None:
    assert safe_names(["web.vmx", "web 01.nvram", "ü.log"]) == ["web.vmx", "web 01.nvram", "ü.log"]
    assert safe_names(["a", "a", "a~2"]) == ["a", "a~2", "a~2~2"]
    assert safe_names(["\ud800\udfff\udc80x"]) == ["__\udc80x"]
    assert disk_name("scsi0:15") == "scsi0-15.raw"
