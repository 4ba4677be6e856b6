# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that attack who reads them, on every release that the lab plays: they are data, there and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from animals import changes, left_behind, running, state
from esxilab import topology, zoo
from house import POINT, House, as_text

# The oldest shell and the newest; the soak has all of them.
OLDEST_AND_NEWEST = (topology.PROFILES[0], topology.PROFILES[-1])
CANARY = zoo.CANARY.rsplit("/", 1)[-1]


@pytest.fixture(scope="module")
def names() -> Iterator[House]:
    with running("names", zoo.names(OLDEST_AND_NEWEST)) as house:
        yield house


def canaries(house: House) -> list[str]:
    """Every file that only an injected command makes: on this machine's /tmp, where playbooks run, in the whole lab."""
    found = [place / CANARY for place in (Path("/tmp"), Path.cwd(), Path.home(), house.controller.work)]
    existing = [str(path) for path in found if path.exists()]
    for folder, _folders, files in os.walk(house.lab.folder):
        existing += [f"{folder}/{name}" for name in files if name == CANARY]
    for machine in (*house.hosts, "bk1"):
        # /tmp is a file system of the machine's own, which the walk does not see.
        existing += [
            f"{machine}:/tmp/{name}" for name in house.lab.run(machine, "ls", "/tmp").split() if name == CANARY
        ]
    return existing


def requests(house: House, host: str, store: str) -> list[dict[str, Any]]:
    """Every restore point of a host, to be restored under names that are as bad as the old ones."""
    points = [point for point in house.points() if point.manifest["host"] == host]
    return [
        {
            "vm": point.manifest["vm"]["identity"],
            "name": f"{number}{zoo.NASTIEST[:70]} back",
            "directory": f"/vmfs/volumes/{store}/{number}{zoo.NASTY_FILE}",
            "uuid": "new",
            "mac": "new",
        }
        for number, point in enumerate(points)
    ]


def there_and_back(house: House, description: dict[str, Any]) -> None:
    before = state(house)
    run = house.controller.play("backup_hot", backup_select=["all"]).must_end_with(0)
    assert changes(before, state(house)) == [] and left_behind(house) == []
    record = house.record(run)
    for host in description["hosts"]:
        name, store = host["name"], host["datastores"][0]["name"]
        wanted = sorted(vm["name"] for vm in host["vms"])
        assert sorted(entry["vm"] for entry in record["vms"] if entry["host"] == name) == wanted
        asked = requests(house, name, store)
        assert (
            sorted(point.manifest["vm"]["name"] for point in house.points() if point.manifest["host"] == name) == wanted
        )
        house.controller.play("restore", "-e", f"@{as_text(house, asked)}", restore_host=name).must_end_with(0)
        for request in asked:
            (point,) = (one for one in house.points() if one.manifest["vm"]["identity"] == request["vm"])
            folder = house.folder(name, request["name"])
            assert folder.name == request["directory"].rsplit("/", 1)[-1]
            stem = folder / folder.name
            for number, disk in enumerate(point.manifest["disks"]):
                # qemu-img ends an extent's name at its first quote: the extents themselves are compared.
                back = Path(f"{stem}{f'_{number}' if number else ''}-flat.vmdk")
                kept = point.folder / disk["file"].replace(".vmdk", "-flat.vmdk")
                assert back.read_bytes() == kept.read_bytes() and kept.stat().st_size == disk["capacity_bytes"]
    assert canaries(house) == []
    assert {path.name for path in house.lab.outside(POINT).iterdir() if path.is_dir()} == {
        point.folder.parent.name for point in house.points()
    }


@pytest.mark.soak
def test_the_nastiest_name_and_two_that_look_the_same_go_there_and_back(names: House) -> None:
    there_and_back(names, zoo.names(OLDEST_AND_NEWEST))


@pytest.mark.soak
def test_all_hostile_names_go_there_and_back_on_every_release() -> None:
    description = zoo.names(topology.PROFILES, everything=True)
    with running("allnames", description) as house:
        there_and_back(house, description)
