# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds a disk open, as far as the host can say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Batch

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host

_LOCK = re.compile(r"mode (\d), owner ([0-9a-f-]+)")
_READER = re.compile(r"RO Owner\[\d+\].*?([0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{12})")


def find_holders(host: Host, extents: Iterable[str]) -> tuple[str, ...]:
    """Processes whose arguments or open files name one of these files, and the lock owners of each extent.

    In words, for an error message: another host can hold the lock, of which only the owner's id is known here.
    """
    paths = list(dict.fromkeys(extents))
    if not paths:
        return ()
    batch = Batch().add(["ps", "-c"]).add(["/bin/vmkvsitools", "lsof"])
    for path in paths:
        batch.add(["vmkfstools", "-D", path])
    processes, files, *locks = host.run_batch(batch, timeout_seconds=60.0 + 2.0 * len(paths))
    names = {path.rsplit("/", 1)[-1] for path in paths}
    names |= {re.sub(r"-(?:flat|delta|sesparse)(?=\.vmdk$)", "", name) for name in names}
    found: list[str] = []
    for line in processes.stdout.split("\n"):
        # The VM's own process names only its .vmx; a clone names the disk.
        if "vmkfstools -D" not in line and any(f"/{name}" in line or f" {name}" in line for name in names):
            found.append("process " + " ".join(line.split()))
    if files.rc == 0:
        for line in files.stdout.split("\n"):
            if "vmx" not in line.split()[1:2] and any(line.rstrip().endswith("/" + name) for name in names):
                found.append("open file " + " ".join(line.split()))
    for path, lock in zip(paths, locks):
        held = _LOCK.search(lock.stdout)
        if lock.rc == 0 and held and held.group(1) != "0":
            owners = _READER.findall(lock.stdout) or [held.group(2)]
            found.append(f"lock mode {held.group(1)} of {path} by {', '.join(owners)}")
    return tuple(dict.fromkeys(found))
