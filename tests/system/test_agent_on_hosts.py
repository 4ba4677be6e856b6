# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a hypervisor's files over SSH: every release, every way, and nothing of it is left on the host."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import session
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import errors, probe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.shellway import ShellLink

from .conftest import Lab, LabHost, start_lab, wait_until

MIB = 1 << 20
AnyLink = Union[AgentLink, ShellLink]

RELEASES = ("6.0", "6.7", "7.0", "8.0", "9.0")
# On 8.0 everything that a host may refuse is refused; on 9.0 holes are not told; `none` has no Python at all.
SWITCHES: dict[str, dict[str, Any]] = {
    "esx80": {"exec_installed_only": True, "python_from_stdin": False, "fork": False, "ssh_memory_mb": 120},
    "esx90": {"seek_data": False},
    "none": {"python": "none"},
}


def describe(name: str, profile: str) -> dict[str, Any]:
    return {
        "name": name,
        "profile": profile,
        "switches": {"guest_kib_per_second": 32, **SWITCHES.get(name, {})},
        "datastores": [
            {"name": "ds", "type": "vmfs5" if profile == "6.0" else "vmfs6", "size": "200M"},
            {"name": "small", "type": "vmfs5", "size": "24M"},
        ],
        "vms": [
            {"name": "on", "power": "on", "disks": [{"key": "scsi0:0", "size": "64M", "format": "thin"}]},
            {
                "name": "off $(x)'",
                "dir": "off",
                "power": "off",
                "disks": [{"key": "scsi0:0", "size": "24M", "format": "thin"}],
            },
        ],
    }


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("agents")
    hosts = [describe(f"esx{release.replace('.', '')}", release) for release in RELEASES] + [describe("none", "8.0")]
    (folder / "agents.json").write_text(json.dumps({"hosts": hosts}), encoding="utf-8")
    lab = start_lab(folder / "agents", str(folder / "agents.json"))
    try:
        yield lab
    finally:
        lab.call("down")


@pytest.fixture(scope="module", params=["esx60", "esx67", "esx70", "esx80", "esx90", "none"])
def host(house: Lab, request: pytest.FixtureRequest) -> LabHost:
    return house.host(request.param)


@pytest.fixture
def agent_host(house: Lab) -> LabHost:
    """Where everything is refused that a host may refuse."""
    return house.host("esx80")


PAIRS = pytest.mark.parametrize(
    ("name", "backend"), [("esx67", "openssh"), ("esx80", "paramiko"), ("esx80", "openssh")]
)


def endpoint(host: LabHost, backend: str = "openssh") -> Endpoint:
    return Endpoint(
        host=host.address,
        port=host.port,
        private_key_file=str(host.lab.key),
        known_hosts_file=str(host.lab.known_hosts),
        backend=backend,
    )


def flat(host: LabHost, vm: str) -> tuple[str, Path]:
    """The extent of a VM's disk: its path there, and the same file from outside."""
    folder = host.volume_path("ds") / vm
    (name,) = [name for name in os.listdir(folder) if name.endswith("-flat.vmdk")]
    return f"/vmfs/volumes/ds/{vm}/{name}", folder / name


def begin(control: session.Session, method: str = "auto", **settings: Any) -> AnyLink:
    way = probe.probe(control, method)
    if way.method == "agent":
        assert way.interpreter is not None
        return AgentLink.start(control, way.interpreter, **settings)
    return ShellLink.start(control, way.digest)


@contextlib.contextmanager
def linked(host: LabHost, method: str = "auto", backend: str = "openssh", **settings: Any) -> Iterator[AnyLink]:
    with session.open_session(endpoint(host, backend)) as control:
        link = begin(control, method, **settings)
        try:
            yield link
        finally:
            link.close(control)


def tree(host: LabHost) -> dict[str, str]:
    """Every file of the host, with size and time but for what its own VM and its logs write meanwhile."""
    done = host.run(
        "find / \\( -path /proc -o -path /sys -o -path /dev -o -path /.lab -o -path /var/log -o -path '*/ds/on' "
        "-o -path /var/run -o -path /run -o -path '/vmfs/volumes/*-*/on' -o -path '*/scratch/log' \\) -prune "
        "-o -type f -exec stat -c '%n %s %Y' {} +"
    )
    return dict(line.rpartition(" ")[0].rpartition(" ")[::2] for line in done.stdout.splitlines())


def processes(host: LabHost) -> list[str]:
    """What runs on the host; sshd's own come and go with connections."""
    rows = host.run("ps -c").stdout.splitlines()
    return sorted(row.split(None, 2)[-1] for row in rows if not any(word in row for word in ("sshd", "ps -c", "sh -c")))


EXPECTED = {"esx60": "shell", "esx67": "agent", "esx70": "agent", "esx80": "agent", "esx90": "agent", "none": "shell"}


def test_the_way_that_works_is_found_and_told(host: LabHost) -> None:
    method = EXPECTED[host.name]
    with session.open_session(endpoint(host)) as control:
        way = probe.probe(control)
        assert way.method == method, way
        if method == "agent":
            assert "with -c" in way.describe()
            assert way.interpreter is not None
            assert way.interpreter.version >= (3, 5)
        else:
            with pytest.raises(
                errors.NoWay, match=r"is Python 2\.7\.\d+, and 3.5 is needed|there is no Python"
            ) as caught:
                probe.probe(control, "agent")
            assert host.address in str(caught.value)
        # By hand the plain commands are always there.
        assert probe.probe(control, "shell").method == "shell"


WAYS = [
    *((name, "auto", "openssh") for name in EXPECTED),
    ("esx67", "shell", "openssh"),
    ("esx70", "auto", "paramiko"),
    ("esx80", "shell", "paramiko"),
]


@pytest.mark.parametrize(("name", "method", "backend"), WAYS, ids=str)
def test_a_disk_is_read_as_it_is_and_nothing_is_left_on_the_host(
    house: Lab, name: str, method: str, backend: str
) -> None:
    host = house.host(name)
    path, outside = flat(host, "off")
    whole = outside.read_bytes()
    with session.open_session(endpoint(host, backend)) as control:
        control.run(["true"])
        before, running = tree(host), processes(host)
        link = begin(control, method)
        file = link.open(path).result()
        assert (file.size, file.real.endswith("-flat.vmdk")) == (len(whole), True)
        parts = list(link.data_ranges(file, 0, file.size))
        told = bytearray(len(whole))
        for first, last in parts:
            told[first:last] = whole[first:last]
        assert told == whole
        if isinstance(link, AgentLink) and host.name != "esx90":
            assert sum(last - first for first, last in parts) < len(whole)
        else:
            assert parts == [(0, len(whole))]
        pieces = [[(file, place, MIB)] for place in range(0, len(whole), MIB)]
        data = [whole[place : place + MIB] for place in range(0, len(whole), MIB)]
        hashes = link.hash(pieces)
        views = link.fetch(pieces[:8], level=1)
        assert hashes.result() == [hashlib.sha256(one).digest() if any(one) else None for one in data]
        assert [bytes(view) for view in views.chunks()] == data[:8]
        token = link.token
        assert any(token in row for row in processes(host))
        link.close(control)
        assert not any(token in row for row in processes(host))
        assert processes(host) == running
        assert tree(host) == before


@pytest.mark.parametrize("method", ["auto", "shell"])
def test_a_disk_of_a_vm_that_runs_is_busy(host: LabHost, method: str) -> None:
    path, _outside = flat(host, "on")
    with linked(host, method) as link:
        with pytest.raises(errors.FileRefused, match="EBUSY") as caught:
            link.open(path).result()
        assert caught.value.busy
        assert path in str(caught.value)
        link.ping().result()


def pid_ends(host: LabHost, pid: int, seconds: float) -> float:
    begun = time.monotonic()
    wait_until(lambda: host.run(f"kill -0 {pid}").returncode != 0, f"the end of process {pid}", seconds)
    return time.monotonic() - begun


CLIENT = """
import sys, time
sys.path[:0] = {path!r}
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import session
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import probe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink
control = session.open_session({endpoint!r})
link = AgentLink.start(control, probe.probe(control).interpreter)
file = link.open({disk!r}).result()
asked = [link.fetch([[(file, 0, 20 << 20)]]) for _ in range(9)]
print(link.pid, flush=True)
time.sleep(60)
"""


@PAIRS
def test_a_killed_backup_server_process_holds_no_extent_open(house: Lab, name: str, backend: str) -> None:
    agent_host = house.host(name)
    path, _outside = flat(agent_host, "off")
    code = CLIENT.format(path=sys.path, endpoint=endpoint(agent_host, backend), disk=path)
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    client.kill()
    client.wait(10)
    client.stdout.close()
    pid_ends(agent_host, pid, 2.5)


@PAIRS
def test_a_cut_connection_ends_both_sides(house: Lab, name: str, backend: str) -> None:
    agent_host = house.host(name)
    path, _outside = flat(agent_host, "off")
    with session.open_session(endpoint(agent_host, backend)) as control:
        link = begin(control)
        file = link.open(path).result()
        asked = [link.fetch([[(file, 0, 16 * MIB)]]) for _ in range(3)]
        agent_host.fault("cut", mode="reset")
        try:
            with pytest.raises(errors.AgentLost, match=agent_host.address):
                for one in asked:
                    for _view in one.chunks():
                        pass
            pid_ends(agent_host, link.pid, 2.5)
        finally:
            agent_host.clear()
        link.close(control)
        again = begin(control)
        assert again.open(path).result().size == file.size
        again.close(control)


def test_a_connection_that_falls_silent_ends_the_agent_by_its_lease_and_the_link_by_its_stall_time(
    agent_host: LabHost,
) -> None:
    path, _outside = flat(agent_host, "off")
    with session.open_session(endpoint(agent_host)) as control:
        link = begin(control, stall_seconds=3.0, lease_seconds=4)
        file = link.open(path).result()
        agent_host.fault("cut", mode="blackhole")
        try:
            begun = time.monotonic()
            with pytest.raises(errors.AgentSilent, match="3 seconds"):
                for _ in range(20):
                    link.hash([[(file, 0, MIB)]]).result()
            assert time.monotonic() - begun < 8
            pid_ends(agent_host, link.pid, 8)
        finally:
            link.abandon()
            agent_host.clear()


def test_an_agent_that_does_not_end_is_ended(agent_host: LabHost) -> None:
    with session.open_session(endpoint(agent_host)) as control:
        link = begin(control, stall_seconds=2.0)
        assert agent_host.run(f"kill -STOP {link.pid}").returncode == 0
        link.close(control)
        assert agent_host.run(f"kill -0 {link.pid}").returncode != 0


def test_what_is_written_to_a_new_disk_is_there_and_a_full_datastore_is_told(agent_host: LabHost) -> None:
    folder = "/vmfs/volumes/small/target"
    assert agent_host.run(f"mkdir {folder} && vmkfstools -c 64M -d thin {folder}/t.vmdk").returncode == 0
    outside = agent_host.volume_path("small") / "target" / "t-flat.vmdk"
    try:
        with linked(agent_host) as link:
            assert isinstance(link, AgentLink)
            file = link.open(f"{folder}/t-flat.vmdk", writable=True).result()
            data = os.urandom(3 * MIB + 5)
            link.write(file, 5 * MIB + 7, data).result()
            link.sync(file).result()
            with open(outside, "rb") as written:
                written.seek(5 * MIB + 7)
                assert written.read(len(data)) == data
            asked = [link.write(file, place * MIB, os.urandom(MIB)) for place in range(10, 50)]
            with pytest.raises(errors.FileRefused, match=r"small/target/t-flat.vmdk.*written.*ENOSPC"):
                for one in asked:
                    one.result()
            for one in asked:
                with contextlib.suppress(errors.FileRefused):
                    one.result()
            # The error ended nothing: it is the caller who decides.
            assert link.stat(file).result().size == 64 * MIB
    finally:
        agent_host.run(f"rm -r {folder}")


def test_several_agents_at_once_stay_below_the_cap_of_a_hosts_ssh_sessions(house: Lab) -> None:
    """120 MiB for all sessions of this host together; the lab kills the largest process that breaks it."""
    host = house.host("esx80")
    path, _outside = flat(host, "off")
    with session.open_session(endpoint(host)) as control:
        links = [begin(control) for _ in range(3)]
        asked = []
        for link in links:
            file = link.open(path).result()
            asked.append((link.hash([[(file, 0, MIB)]] * 600), link.fetch([[(file, 0, 16 * MIB)]], level=1)))
        for hashes, fetched in asked:
            assert len(hashes.result()) == 600
            assert sum(len(view) for view in fetched.chunks()) == 16 * MIB
        for link in links:
            link.close(control)
    memory = host.status["ssh_memory"]
    assert memory["kills"] == 0, memory
