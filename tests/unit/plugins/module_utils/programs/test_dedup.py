# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read must be what was planned."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.programs import dedup, errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

MIB = 1 << 20


class Grown:
    """A disk of a host, of another size than when it was looked at, and all of it zeros."""

    path, size, throttle, renewals = "/vmfs/volumes/ds/web01/web01.vmdk", 3 * MIB, None, 0

    def allocated(self) -> Any:
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


def test_a_disk_that_has_another_size_by_now_makes_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("scsi0:0", Grown.path, 2 * MIB, MIB)
    parts: Any = (Grown(), SimpleNamespace(way="direct"), SimpleNamespace(method="agent"))
    one = dedup.OpenDisk(source, *parts)
    monkeypatch.setattr(dedup, "opened_disks", lambda *_: contextlib.nullcontext([one]))
    reach: Any = SimpleNamespace(
        host=SimpleNamespace(name="esx1"),
        clock=SystemClock(),
        stall_seconds=60.0,
        connections=1,
        alive=lambda: None,
        progress=lambda progress: None,
    )
    feeding = dedup.Feeding("id-1", "web01", [source], {}, {}, lambda point, fed: {})
    with contextlib.closing(Store.create(LocalBackend(str(tmp_path / "store")))) as store:
        with pytest.raises(errors.DiskNotCopyable, match="scsi0:0 of VM 'web01'.*2097152 bytes, and .* has 3145728"):
            dedup.feed(store, feeding, reach)
        assert store.points() == []
