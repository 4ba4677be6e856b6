# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a folder of another Linux server: its file system is an agent there, and all else is as in any store."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostbackend import ServerBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import CHUNK, back_up, by_hand, edited, image, new_store, restored, sound
from hosted import Here

pytestmark = pytest.mark.folder
SECRET = "correct horse"


def server_backend(root: Path, server: str = "vault:22:") -> ServerBackend:
    return ServerBackend(Here(), str(root), name=f"{server}{root}", server=server)


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_store_on_a_server_is_filled_from_here_proven_and_opened_there_as_any_other(
    root: Path, tmp_path: Path, secret: str | None
) -> None:
    store = new_store(server_backend(root), secret)
    disk = image(tmp_path / "disk", [*range(1, 40), 0, 0, 7, 8], 43 * CHUNK)
    first, told = back_up(store, disk)
    assert told.new == 39 * CHUNK
    edited(disk, disk.stat().st_size, [(5 * CHUNK, CHUNK, 0x41)])
    second, told = back_up(store, disk, parent=first)
    assert told.new == CHUNK
    assert restored(store, second, tmp_path) == disk.read_bytes()
    sound(store)
    store.close()
    # Somebody there needs nothing of ours: it is a store in a folder.
    there = Store.open(LocalBackend(str(root)), secret)
    assert restored(there, second, tmp_path) == disk.read_bytes()
    sound(there)
    there.close()
    assert by_hand(root, second, tmp_path, secret=secret) == disk.read_bytes()


def test_a_place_is_the_same_only_on_the_same_server(root: Path) -> None:
    one, same, other = (server_backend(root, name) for name in ("vault:22:", "vault:22:", "attic:22:"))
    try:
        assert one.same_place(same) and not one.same_place(other)
        assert not one.same_place(LocalBackend(str(root)))
    finally:
        for backend in (one, same, other):
            backend.close()
