# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import Datastore
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import UnknownDatastore
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import limiting
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.limiting import Touched, Wish
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.limits import BadLimit, Limit
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import Request

POINT = "20261122T200000.000000Z-0a1b2c"
FAST, NAS = "5f0a1b2d-00112233-4455-66778899aabb", "ab12cd34-00000000"


class FakeHost:
    """A hypervisor with two volumes; the names of both are its own."""

    def __init__(self, address: str = "10.0.0.1", fast: str = "fast", nas: str = "nas") -> None:
        self.session = SimpleNamespace(endpoint=SimpleNamespace(host=address, port=22))
        self.stores = {
            name: Datastore(name, f"/vmfs/volumes/{uuid}", uuid, "VMFS-6", 100, 50)
            for name, uuid in ((fast, FAST), (nas, NAS))
        }

    def datastore(self, path: str) -> Datastore:
        word = path[1:].partition("]")[0] if path.startswith("[") else path.split("/")[3]
        for store in self.stores.values():
            if word in (store.name, store.uuid):
                return store
        raise UnknownDatastore(host="esx1", datastore=word, candidates="none")

    def resolve(self, path: str) -> str:
        return "/".join([self.datastore(path).path, *path.split("/")[4:]])


def vm(*paths: tuple[str, ...]) -> Any:
    disks = [
        SimpleNamespace(
            key=f"scsi0:{number}",
            path=chain[0],
            chain=SimpleNamespace(links=[SimpleNamespace(path=path) for path in chain]),
        )
        for number, chain in enumerate(paths)
    ]
    return SimpleNamespace(name="web", disks=lambda: disks)


def job(**given: Any) -> Any:
    return SimpleNamespace(**{"kind": "backup", "host": "esx1", "policy": {}, "disks": (), **given})


def touched(request: Request, program: str = "vmkfstools", at: Any = None, of: Any = None) -> Touched:
    return limiting.touched_by(at or FakeHost(), request, program, of)


def test_a_volume_is_one_limit_under_whatever_name_its_hosts_have_it() -> None:
    request = Request("/vmfs/volumes/nas/web/.partial-1", vm(("/vmfs/volumes/fast/web/web.vmdk",)))
    other = Request("[backup] web", vm((f"/vmfs/volumes/{FAST}/db/db.vmdk",)))
    wishes = limiting.wishes_of([{"kind": "datastore", "slots": 2}])
    first = limiting.limits_for(wishes, touched(request))
    second = limiting.limits_for(wishes, touched(other, at=FakeHost("10.0.0.2", "ssd-7", "backup")))
    assert first == second == (Limit(FAST, 2, "datastore"), Limit(NAS, 2, "datastore"))
    assert [limit.label for limit in first] == [f"datastore fast ({FAST})", f"datastore nas ({NAS})"]
    assert [limit.label for limit in second] == [f"datastore ssd-7 ({FAST})", f"datastore backup ({NAS})"]


def test_every_volume_that_a_chain_leads_over_counts_but_none_of_disks_that_stay_out() -> None:
    two = vm(("/vmfs/volumes/nas/w/w-000001.vmdk", "/vmfs/volumes/fast/w/w.vmdk"), ("/vmfs/volumes/nas/w/data.vmdk",))
    both = touched(Request("/srv/store", two, ("scsi0:0",)), "dedup")
    assert both.datastores == {FAST: "fast", NAS: "nas"}
    assert touched(Request("/srv/store", two, ("scsi0:1",)), "dedup").datastores == {NAS: "nas"}
    # What the job has locked is a part of it, also where our snapshot's delta lies elsewhere by now.
    locked = job(disks=({"source": "/vmfs/volumes/fast/w/data.vmdk"}, {"source": ""}))
    assert set(touched(Request("/srv/store", two, ("scsi0:1",)), "dedup", of=locked).datastores) == {FAST, NAS}
    assert touched(Request("/vmfs/volumes/gone/x", vm(("/vmfs/volumes/nas/w/w.vmdk",)))).datastores == {NAS: "nas"}


@pytest.mark.parametrize(
    ("request_", "program", "of", "store", "servers"),
    [
        (Request("/srv/store"), "dedup", None, "/srv/store", ()),
        (Request("/srv/../srv/store/"), "dedup", None, "/srv/store", ()),
        (Request("s3://bucket/night/"), "dedup", None, "s3://bucket/night", ()),
        (Request("/vmfs/volumes/nas/stowage"), "dedup", None, f"/vmfs/volumes/{NAS}/stowage", ()),
        (Request("[fast] web", src=f"/srv/store::{POINT}/scsi0:0"), "dedup", None, "/srv/store", ()),
        (Request("ssh://borg@Vault:2222/r"), "borg", None, "ssh://borg@Vault:2222/r", ("vault:2222",)),
        (Request("ssh://[fd00::7]/r"), "borg", None, "ssh://[fd00::7]/r", ("fd00::7:22",)),
        (Request("/vmfs/volumes/nas/x/y"), "vmkfstools", job(policy={"point": "/vmfs/volumes/nas"}), "", ()),
        (
            Request("bk2:2222:/srv/b/w/.partial"),
            "rsync",
            job(policy={"point": "bk2:2222:/srv/b"}),
            "bk2:2222:/srv/b",
            ("bk2:2222",),
        ),
        (Request("root@[fd00::7]::/srv/b"), "rsync", None, "root@[fd00::7]::/srv/b", ("fd00::7:22",)),
    ],
)
def test_store_and_server_of_a_copy(request_: Request, program: str, of: Any, store: str, servers: Any) -> None:
    found = touched(request_, program, of=of)
    assert (found.store, found.servers) == (store, servers)


def test_a_wish_for_one_thing_goes_before_that_for_its_kind_and_what_is_not_touched_does_not_count() -> None:
    found = Touched("10.0.0.1:22", ("10.0.0.1", "esx1"), {FAST: "fast", NAS: "nas"}, "/srv/store", ("vault:22",))
    wishes = (
        Wish(9, "host"),
        Wish(1, "host", "esx1"),
        Wish(5, "host", "esx2"),
        Wish(4, "datastore"),
        Wish(2, "datastore", "nas"),
        Wish(3, "datastore", NAS),
        Wish(7, "datastore", "elsewhere"),
        Wish(6, "store", "/srv/./store"),
        Wish(8, "store", "/srv/other"),
        Wish(5, "link"),
        Wish(1, "link", "wan"),
        Wish(3, "", "by name"),
    )
    assert limiting.limits_for(wishes, found) == (
        Limit("10.0.0.1:22", 1, "host"),
        Limit(FAST, 4, "datastore"),
        Limit(NAS, 2, "datastore"),
        Limit("/srv/store", 6, "store"),
        Limit("vault:22", 5, "link"),
        Limit("wan", 1, "link"),
        Limit("by name", 3),
    )
    assert limiting.limits_for(wishes[7:9], Touched("h:22")) == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([{"slots": 1}], "neither a name nor a kind"),
        ([{"kind": "disk", "slots": 1}], "must be one of host, datastore, store, link"),
        ([{"kind": "store", "slots": 0}], "it has 0 slots"),
        ([{"kind": "host", "slots": 1}, {"kind": "host", "slots": 2}], "given twice"),
        ([{"name": "a", "slots": 1}, {"name": "a", "slots": 1, "kind": None}], "given twice"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(given: Any, words: str) -> None:
    with pytest.raises(BadLimit, match=words):
        limiting.wishes_of(given)


def test_the_host_is_asked_for_datastores_only_where_one_is_limited() -> None:
    nobody: Any = SimpleNamespace(session=FakeHost().session)
    found = limiting.touched_by(nobody, Request("/vmfs/volumes/nas/x", vm(("/x",))), "vmkfstools", None, ("host", ""))
    assert (found.host, found.datastores) == ("10.0.0.1:22", {})
