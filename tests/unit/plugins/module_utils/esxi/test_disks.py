# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import disks, errors


def resolve(path: str) -> str:
    if not path.startswith("/vmfs/volumes/ssd/"):
        raise errors.UnknownDatastore(host="esx1", name=path, known="ssd")
    return path.replace("/ssd/", "/5f-uuid/")


VM: Any = SimpleNamespace(directory="/vmfs/volumes/5f-uuid/web", host=SimpleNamespace(resolve=resolve))


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("web.vmdk", "/vmfs/volumes/5f-uuid/web/web.vmdk"),
        ("../other/base.vmdk", "/vmfs/volumes/5f-uuid/other/base.vmdk"),
        ("/vmfs/volumes/ssd/x/y.vmdk", "/vmfs/volumes/5f-uuid/x/y.vmdk"),
        ("/vmfs/volumes/gone/x.vmdk", "/vmfs/volumes/gone/x.vmdk"),
        # The name of a VM, and so of its files, may look like a path on a datastore.
        ("[ssd] x/y.vmdk", "/vmfs/volumes/5f-uuid/web/[ssd] x/y.vmdk"),
        ("[brackets] web.vmdk", "/vmfs/volumes/5f-uuid/web/[brackets] web.vmdk"),
    ],
)
def test_a_file_of_a_vmx_is_relative_to_its_folder_or_absolute(file: str, path: str) -> None:
    assert disks.disk_path(VM, file) == path
