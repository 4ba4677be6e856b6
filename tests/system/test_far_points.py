# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store, or a repository, on another server, written `server:port:/path`: filled, read back, and restored from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import ending, restoring
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores, backend_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.server import rsh_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.spot import located
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

from . import stories, test_rsync
from .conftest import Lab
from .test_dedup import SECRET, StoreStory, bring_back, readers, restore_context

# A fixture is known by its name in the module that uses it.
before, host, impatient, far = stories.before, stories.host, stories.impatient, test_rsync.far


class FarStory(StoreStory):
    def params(self) -> dict[str, Any]:
        return {**super().params(), "program": self.entry["policy"]["program"]}


@pytest.mark.soak
@pytest.mark.parametrize("program", ["dedup", "borg"])
def test_a_machine_goes_to_another_server_and_comes_back(
    clean_lab: Lab,
    host: Host,
    far: tuple[str, Access, str],
    tmp_path: Path,
    before: Any,
    program: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BORG_BASE_DIR", str(tmp_path / "base"))
    place, access, root = far
    access = replace(access, passphrase=SECRET)
    above = Path(root + place.split(":", 2)[2])
    above.mkdir(parents=True)
    place = f"{place}/{program}"
    if program == "borg":
        Repository(located(place), SECRET, rsh=rsh_of(access.ssh_key)).make("repokey-blake2")
    else:
        Store.create(backend_of(place, None, access), passphrase=SECRET).close()
    with Stores(access, host) as stores:
        where = {"program": program, "point": place, "reserve_percent": 0}
        jobs = [FarStory(clean_lab, host, tmp_path, f"far-{n}", "hot", stores, **where) for n in range(2)]
        entries = [job.whole().entry for job in jobs]
        assert [entry["status"] for entry in entries] == ["ok", "ok"]
        assert 0 < entries[1]["bytes_new"] < entries[0]["bytes_new"]
        assert entries[1]["restore_point"].startswith((place, located(place)))
        context = restore_context(jobs[1], "restore1", program=program)
        restoring.start(context)
        copied = bring_back(jobs[1], context)
        told, changed = restoring.commit(context, True)
        ended = ending.end(context, "ok", None, copied)
        vm = host.find_vm(vmid=told["vmid"])
        try:
            assert (changed, ended.error, ended.entry["status"]) == (True, None, "ok")
            assert told["restore_point"] == entries[1]["restore_point"]
            assert "all" in copied[0]["verified"] and readers(host) == []
        finally:
            host.unregister(vm.vmid)
            host.run("rm", "-rf", context.entry["directory"])
