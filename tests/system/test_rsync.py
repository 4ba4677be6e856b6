# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that go from a hypervisor into folders of images, and what comes back out of them."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import copying, ending, recover, restoring
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from judge import one_moment, same_content

from . import stories
from .conftest import Lab, wait_until
from .stories import HOST
from .test_dedup import StoreStory, bring_back, readers, restore_context

# A fixture is known by its name in the module that uses it.
before, host, impatient = stories.before, stories.host, stories.impatient


class RsyncStory(StoreStory):
    """The same job, told with the copy step of the program rsync."""

    verify = "sample"

    def params(self) -> dict[str, Any]:
        return {**super().params(), "program": "rsync", "verify": self.verify}


@pytest.fixture
def point(tmp_path: Path) -> str:
    return str(tmp_path / "images")


@pytest.fixture
def story(
    clean_lab: Lab, host: Host, point: str, tmp_path: Path, before: Any, request: Any
) -> Iterator[Callable[..., RsyncStory]]:
    number = iter(range(100))

    def make(how: str = "hot", **policy: Any) -> RsyncStory:
        # Restore points have names of one second.
        time.sleep(1.1)
        run = f"{abs(hash(request.node.name)) % 10**8:08d}-{next(number)}"
        where = {"program": "rsync", "point": point, "reserve_percent": 0}
        return RsyncStory(clean_lab, host, tmp_path, run, how, stores, **where, **policy)

    with Stores(Access()) as stores:
        yield make


def backed_up(job: RsyncStory, how: str) -> dict[str, Any]:
    """Its entry of the record, once the images were proven by others' means."""
    ended = job.whole()
    assert (ended.error, ended.entry["status"], ended.entry["effective_how"]) == (None, "ok", how)
    folder = Path(ended.entry["restore_point"])
    assert json.loads((folder / "stowage.json").read_text())["still"]
    assert sorted(one.suffix for one in folder.iterdir()).count(".vmdk") == 2
    verdict = one_moment([folder / "scsi0-0-flat.vmdk"])
    assert bool(verdict.get("clean")) is (how != "hot")
    assert same_content(folder / "scsi0-0.vmdk", folder / "scsi0-0-flat.vmdk") == "Images are identical."
    status = (folder / "scsi0-0-flat.vmdk").stat()
    assert 0 < status.st_blocks * 512 < status.st_size
    assert readers(job.host) == []
    return dict(ended.entry)


def test_a_machine_becomes_images_twice_the_former_stays_as_it_was_and_it_comes_back(
    story: Callable[..., RsyncStory], tmp_path: Path
) -> None:
    first = backed_up(story("hot"), "hot")
    image = Path(first["restore_point"]) / "scsi0-0-flat.vmdk"
    was = image.read_bytes()
    job = story("cold", keep={"last": 2})
    job.verify = "full"
    again = backed_up(job, "cold")
    assert image.read_bytes() == was
    (disk,) = again["disks"]
    assert disk["verified"].startswith("all ") and disk["verified"].endswith("read back from the image")
    assert disk["bytes_sent"] == disk["bytes_read"] == again["bytes_sent"] > 0
    assert disk["method"] == "agent" and again["bytes_new"] > 0
    context = restore_context(job, "restore1", program="rsync")
    restoring.start(context)
    (copied,) = bring_back(job, context)
    told, changed = restoring.commit(context, True)
    assert changed
    ended = ending.end(context, "ok", None, [copied])
    vm = job.host.find_vm(vmid=told["vmid"])
    try:
        assert (ended.error, ended.entry["status"], vm.name) == (None, "ok", "out of the store")
        assert told["restore_point"] == ended.entry["restore_point"] == again["restore_point"]
        assert "all" in copied["verified"] and "SHA-256" in copied["verified"]
        restored = job.outside(context.entry["disks"][0]["dest"])
        assert same_content(restored, Path(again["restore_point"]) / "scsi0-0.vmdk") == "Images are identical."
        flat = restored.with_name(restored.name.replace(".vmdk", "-flat.vmdk")).stat()
        assert 0 < flat.st_blocks * 512 < flat.st_size // 2
        assert readers(job.host) == []
        assert restore_context(job, "restore2", program="rsync").entry["already"] is True
    finally:
        job.host.unregister(vm.vmid)
        job.host.run("rm", "-rf", context.entry["directory"])


def test_a_killed_copy_leaves_a_half_one_that_the_next_backup_goes_on_with(
    story: Callable[..., RsyncStory], point: str
) -> None:
    job = story("hot")
    job.start()
    job.bracket()
    slow = {**job.params(), "bandwidth_limit": 1 << 20}
    copying_process = multiprocessing.get_context("fork").Process(
        target=copying.perform, args=(job.host, slow, job.context.stores)
    )
    copying_process.start()
    wait_until(lambda: list(Path(point).glob("*/.partial-*/scsi0-0-flat.vmdk")), "the first bytes", 60)
    copying_process.kill()
    copying_process.join()
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert (found.outcome, found.left) == ("recovered", ())
    assert any("snapshot" in step for step in found.done)
    assert readers(job.host) == []
    assert list(Path(point).glob("*/2*")) == []
    entry = backed_up(story("hot"), "hot")
    assert "gone on with from a half copy" in entry["disks"][0]["notes"]
    assert list(Path(point).glob("*/.partial-*")) == []
