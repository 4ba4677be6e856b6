# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and sizes of configuration files are what a hypervisor says: what no point can keep is refused early."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import configfiles
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadConfigFile
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import Order
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import RemoteFileError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from jobs_values import make_job

GOOD = {"web01.vmx": 3000, "web01.nvram": 270840, "web01.vmsd": 0, "-n $(reboot) `x`;'\"[b] {{ 1 }} &*": 1}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"a\nb.nvram": 1}, r"'a\\nb.nvram' of VM 'web01' .* a line break or another control character"),
        ({"\x1b[2J": 1}, r"'\\x1b\[2J' .* control character"),
        ({"..": 1}, "no name of a file"),
        ({"": 1}, "no name of a file"),
        ({"/etc/shadow": 1}, "a name with a slash leads elsewhere"),
        ({"../db01/db01.vmx": 1}, "leads elsewhere"),
        ({"n" * 256: 1}, "longer than 255 bytes"),
        ({"ü" * 128: 1}, "longer than 255 bytes"),
        (
            {"web01.nvram": configfiles.MOST_BYTES},
            "web01.nvram.* has 33554432 bytes, all together .* more than 33554432",
        ),
        ({f"file{number}": 1 for number in range(configfiles.MOST_FILES)}, "it is one of 68 files there"),
    ],
)
def test_what_no_restore_point_can_keep_is_told_with_its_name(sizes: Mapping[str, int], words: str) -> None:
    configfiles.check("web01", GOOD)
    with pytest.raises(BadConfigFile, match=words) as caught:
        configfiles.check("web01", {**GOOD, **sizes})
    assert caught.value.message.isprintable() and len(caught.value.message) < 500
    assert ".vmx" in caught.value.hint_text


def vm_with(vmx: Mapping[str, str], name: str = "web01") -> Any:
    path = f"/vmfs/volumes/ds/web01/{name}"
    return SimpleNamespace(
        name="web01",
        directory="/vmfs/volumes/ds/web01",
        vmx_path=f"{path}.vmx",
        vmsd_path=f"{path}.vmsd",
        reload_vmx=lambda: vmx,
    )


def test_files_are_looked_for_beside_the_vmx_alone_and_their_names_are_looked_at_first() -> None:
    paths = configfiles.files_of(vm_with({"nvram": "../../db01/x.nvram", "extendedConfigFile": "/etc/web01.vmxf"}))
    folder = "/vmfs/volumes/ds/web01"
    assert paths == [f"{folder}/web01.vmx", f"{folder}/web01.vmsd", f"{folder}/x.nvram", f"{folder}/web01.vmxf"]
    for vmx, name in (({"nvram": "a\nb"}, "web01"), ({"nvram": ".."}, "web01"), ({}, "a\nb"), ({}, "n" * 300)):
        with pytest.raises(BadConfigFile):
            configfiles.files_of(vm_with(vmx, name))


def order(session: Any, folder: Path) -> Order:
    host: Any = SimpleNamespace(session=session)
    journal: Any = SimpleNamespace(folder=str(folder))
    nothing: Any = None
    return Order(host, make_job(), journal, nothing, "/srv/store", nothing, ())


def test_before_a_disk_is_read_the_files_of_the_job_are_looked_at(session: Session, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    odd = b"web \xff\xfe $(x).nvram"
    for name, data in ((b"web01.vmx", b'displayName = "web01"'), (odd, b"\0\xff" * 9)):
        (config / name.decode("utf-8", "surrogateescape")).write_bytes(data)
    found = order(session, tmp_path).config()
    assert found == {"web01.vmx": b'displayName = "web01"', odd.decode("utf-8", "surrogateescape"): b"\0\xff" * 9}
    # A name of two lines is none that is listed, and one that is listed is not there: no traceback, and no disk read.
    for name, error in (("\x7f", BadConfigFile), ("n\nb", RemoteFileError)):
        (config / name).write_bytes(b"x")
        with pytest.raises(error):
            order(session, tmp_path).config()
        (config / name).unlink()


@pytest.mark.parametrize(
    "listing",
    [
        "9 1 512\n/etc/shadow\n",
        "9 1 512\n../../db01/db01.vmx\n",
        "99999999999 1 512\nweb01.nvram\n",
        "many names",
    ],
    ids=["a path", "another folder", "a terabyte", "many names"],
)
def test_a_listing_that_a_host_has_made_up_is_refused(session: Session, tmp_path: Path, listing: str) -> None:
    if listing == "many names":
        listing = "".join(f"9 1 512\nfile{number}\n" for number in range(100_000))

    class Liar:
        endpoint = session.endpoint

        def script(self, *words: Any, **more: Any) -> Any:
            return SimpleNamespace(rc=0, stdout=listing, output="")

        def read_text(self, path: str) -> str:
            raise AssertionError(f"{path} was read")

    with pytest.raises(BadConfigFile):
        order(Liar(), tmp_path).config()


def test_a_file_that_grows_when_it_is_read_is_refused(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "folder_files", lambda *_words: {"web01.vmx": (10, 0)})
    monkeypatch.setattr(Session, "read_text", lambda _session, _path: "x" * (configfiles.MOST_BYTES + 1))
    with pytest.raises(BadConfigFile, match="web01.vmx.* has 33554433 bytes"):
        order(session, tmp_path).config()
