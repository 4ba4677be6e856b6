# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a VM's configuration consists of. Names and sizes are what a hypervisor says, and looked at before they are
used: its listings have one name a line, a restore point keeps small files beside each other, and no paths."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadConfigFile
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting

# In the .vmx: names of files beside it.
_NAMED = ("nvram", "extendedConfigFile")
MOST_FILES = 64
MOST_BYTES = 32 << 20
_LONGEST_NAME = 255


def files_of(vm: VirtualMachine) -> list[str]:
    """The paths of its files that a restore needs, or that are of use then; `BadConfigFile`. Disks are none of them."""
    vmx = vm.reload_vmx()
    files = [vm.vmx_path, vm.vmsd_path]
    for key in _NAMED:
        if vmx.get(key):
            files.append(posixpath.join(vm.directory, posixpath.basename(vmx[key])))
    found = list(dict.fromkeys(files))
    check(vm.name, {posixpath.basename(path): 0 for path in found})
    return found


def check(vm: str, sizes: Mapping[str, int]) -> None:
    """`BadConfigFile` for what no restore point can keep; by name and size."""
    if len(sizes) > MOST_FILES:
        raise BadConfigFile(vm=vm, file=_shown(next(iter(sizes))), reason=f"it is one of {len(sizes)} files there")
    for name in sizes:
        reason = _fault(name)
        if reason:
            raise BadConfigFile(vm=vm, file=_shown(name), reason=reason)
    total = sum(sizes.values())
    if total > MOST_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        reason = f"it has {sizes[largest]} bytes, all together {total}, and more than {MOST_BYTES} are no configuration"
        raise BadConfigFile(vm=vm, file=_shown(largest), reason=reason)


def _fault(name: str) -> str:
    if name in ("", ".", ".."):
        return "that is no name of a file"
    if "/" in name:
        return "a name with a slash leads elsewhere"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "a line break or another control character is in its name"
    if len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        return f"its name is longer than {_LONGEST_NAME} bytes"
    return ""


def _shown(name: str) -> str:
    return quoting.shorten(ascii(name), 120)
