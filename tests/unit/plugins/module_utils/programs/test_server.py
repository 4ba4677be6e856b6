# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another server, reached by the key of a link over a real SSH connection: a store there."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from pathlib import Path
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.programs import hoststore, server
from ansible_collections.stowage.esxi.plugins.module_utils.store import restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.backup import DiskInput, run
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def servers() -> Any:
    """The sshd of the tests of the room `ssh`."""
    path = Path(__file__).resolve().parents[1] / "ssh" / "conftest.py"
    spec = importlib.util.spec_from_file_location("ssh_servers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_store_on_a_server_is_reached_by_the_key_of_a_link_and_the_host_keys_beside_it(tmp_path: Path) -> None:
    found = servers().Sshd(tmp_path, "127.0.0.38", "", False)
    try:
        key = tmp_path / "stowage-store@vault"
        shutil.copy(found.user_key, key)
        shutil.copy(found.known_hosts(), f"{key}.known_hosts")
        words = shlex.split(server.rsh_of(str(key)))
        assert words[0] == "ssh" and f"UserKnownHostsFile={key}.known_hosts" in words
        place = f"{found.user}@{found.address}:{found.port}:{tmp_path}/store"
        (tmp_path / "disk").write_bytes(b"1" * (3 << 20) + b"2" * 1000)
        store = Store.create(hoststore.backend_there(place, str(key)), passphrase="correct horse")
        point, _told = run(store, "vm-1", "web01", [DiskInput("scsi0:0", RawDisk(str(tmp_path / "disk")))], {})
        store.close()
        again = Store.open(hoststore.backend_there(place, str(key)), "correct horse")
        restore.to_file(again, again.points()[0].disks[0], str(tmp_path / "back"))
        assert again.points()[0].point == point.point
        again.close()
        assert (tmp_path / "back").read_bytes() == (tmp_path / "disk").read_bytes()
    finally:
        found.stop()
