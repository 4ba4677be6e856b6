# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the lab's machines can be told without starting any."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from esxilab import faults, hostroot, interpreters, seccomp, sshd, sysimage, topologies, topology
from esxilab.errors import LabError
from esxilab.tools import df, ps


def built(description: dict[str, Any], name: str = "t") -> topology.Topology:
    return topology.build(description, name, "127.0.9.0", 2222)


@pytest.mark.parametrize("what", ["demo", "test", "releases", "fleet:7"])
def test_every_built_in_topology_can_be_built_and_has_a_backup_server(what: str) -> None:
    found = built(topology.describe(what))
    assert [server.name for server in found.backup_servers] == ["bk1"]
    assert len({machine.address for machine in found.machines}) == len(found.machines)


def test_a_datastores_identity_is_the_same_in_every_run_and_another_in_another_lab() -> None:
    first, again, other = (built(topologies.demo(), name) for name in ("a", "a", "b"))
    assert [volume.uuid for volume in first.volumes] == [volume.uuid for volume in again.volumes]
    assert not {volume.uuid for volume in first.volumes} & {volume.uuid for volume in other.volumes}


def test_a_machine_has_a_folder_of_its_own_for_sshd_that_nobody_else_can_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not an sshd ever ran on the machine that the lab runs on."""
    monkeypatch.setattr(sshd, "write_sshd", lambda *words: None)
    found, paths = built(topologies.demo()), hostroot.LabPaths(tmp_path)
    machines = (found.hosts[0], found.backup_servers[0])
    paths.known_hosts.write_text("")
    before = os.umask(0)
    try:
        for machine in machines:
            hostroot.prepare(paths, found, machine)
    finally:
        os.umask(before)
    modes = {machine.name: (paths.root(machine) / "run/sshd").stat().st_mode & 0o777 for machine in machines}
    assert modes == {machine.name: 0o755 for machine in machines}


def test_vmfs_and_nfs_datastores_have_uuids_of_their_forms() -> None:
    for volume in built(topologies.test()).volumes:
        form = (
            r"[0-9a-f]{8}-[0-9a-f]{8}" if volume.type == "nfs" else r"[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{12}"
        )
        assert re.fullmatch(form, volume.uuid)


def test_hosts_that_share_an_id_share_a_volume_and_must_agree_on_its_size() -> None:
    hosts = [
        {"name": name, "datastores": [{"name": "ds", "size": size, "shared_id": "one"}]}
        for name, size in (("h1", "64M"), ("h2", "64M"))
    ]
    assert len(built({"hosts": hosts}).volumes) == 1
    hosts[1]["datastores"][0]["size"] = "65M"
    with pytest.raises(LabError, match="another type or size"):
        built({"hosts": hosts})


@pytest.mark.parametrize(("text", "size"), [(7, 7), ("7", 7), ("64M", 64 << 20), ("1.5G", 3 << 29), ("2 KiB", 2048)])
def test_sizes_are_read(text: Any, size: int) -> None:
    assert topology.parse_size(text) == size


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(LabError, match="is not a size"):
        topology.parse_size("many")


def test_fault_arguments_become_numbers_and_sizes_but_names_stay_text() -> None:
    words = faults.parse_arguments(["rate=20M", "times=2", "new=true", "vm=4711", "datastore=20M", "text=a=b"])
    expected = {"rate": 20 << 20, "times": 2, "new": True, "vm": "4711", "datastore": "20M", "text": "a=b"}
    assert faults.typed(words) == expected


def test_a_fault_argument_without_a_value_is_refused() -> None:
    with pytest.raises(LabError, match="key=value"):
        faults.parse_arguments(["rate"])


def test_a_builtin_is_renamed_without_moving_a_byte() -> None:
    program = b"junk\x00" + b"3cd\x00" + b"2command\x00" + b"1continue\x00" + b"junk"
    changed = sysimage.without(program, "command")
    assert len(changed) == len(program)
    assert b"command" not in changed
    assert b"\x003cd\x00" in changed and b"\x001continue\x00" in changed


def test_a_shell_without_that_builtin_is_refused() -> None:
    with pytest.raises(LabError, match="0 builtins called 'command'"):
        sysimage.without(b"\x003cd\x00", "command")


def test_the_applet_table_keeps_its_order_and_its_length() -> None:
    names = ["[", "[[", *sorted({f"{a}{b}{c}" for a in "abckmz" for b in "cdxy" for c in ("", "calc", "on")})]
    program = b"head\x00" + b"".join(name.encode() + b"\x00" for name in names) + b"\xff tail"
    allowed = frozenset(["[", "acon", "ad", "kx"])
    changed = sysimage.with_applets(program, allowed)
    assert len(changed) == len(program)
    assert changed.startswith(b"head\x00") and changed.endswith(b"\xff tail")
    table = changed[len(b"head\x00") : -len(b"\xff tail")].rstrip(b"\x00").split(b"\x00")
    assert {name.decode("latin-1") for name in table} & set(names) == allowed
    assert table == sorted(table)


@pytest.mark.skipif(not seccomp.available(), reason="no seccomp program for this architecture")
def test_the_system_call_filter_jumps_only_inside_itself() -> None:
    for raw in (seccomp.program(seek_data=True), seccomp.program(seek_data=False), seccomp.no_fork()):
        code = list(struct.iter_unpack("=HBBI", raw))
        assert code[-1][0] == 0x06  # it ends in a return
        for place, (kind, true, false, _) in enumerate(code):
            if kind in (0x15, 0x45):
                assert place + 1 + max(true, false) < len(code)


@pytest.mark.parametrize("profile", topology.PROFILES)
def test_a_release_has_its_own_python_or_the_nearest_and_6_0_has_2_7_or_none(profile: str) -> None:
    found, wanted = interpreters.for_release(profile), interpreters.RELEASES[profile]
    if found is None:
        assert profile == "6.0"
    else:
        assert found.version[0] == wanted[0]
        assert profile != "6.0" or found.version[:2] == (2, 7)
    assert interpreters.for_release(profile, "none") is None


def test_a_fleet_mixes_all_releases() -> None:
    hosts = topologies.fleet(10)["hosts"]
    assert {host["profile"] for host in hosts} == set(topology.PROFILES) == set(topologies.RELEASES)


def test_the_login_text_differs_by_release() -> None:
    assert "WARNING" not in sshd.motd("6.0") and "WARNING" in sshd.motd("6.7")
    assert "developer.vmware.com" in sshd.motd("9.0") and "sysadmintools" in sshd.motd("8.0")


def test_df_columns_are_flush_as_in_the_transcript() -> None:
    # From a published listing of an 8.0 host.
    rows = [
        ["Filesystem", "Bytes", "Used", "Available", "Use%", "Mounted on"],
        [
            "VMFS-6",
            "96368328704",
            "94978965504",
            "1389363200",
            "99%",
            "/vmfs/volumes/66b0c33b-d2f3dff8-8f53-1e00f500013e",
        ],
        [
            "VMFSOS",
            "8321499136",
            "2961178624",
            "5360320512",
            "36%",
            "/vmfs/volumes/OSDATA-66aa25b4-80eeca2a-d6dd-1e00f7000340",
        ],
        ["vfat", "1073577984", "268500992", "805076992", "25%", "/vmfs/volumes/BOOTBANK1"],
    ]
    assert df.render(rows) == (
        "Filesystem       Bytes        Used  Available Use% Mounted on\n"
        "VMFS-6     96368328704 94978965504 1389363200  99% /vmfs/volumes/66b0c33b-d2f3dff8-8f53-1e00f500013e\n"
        "VMFSOS      8321499136  2961178624 5360320512  36% /vmfs/volumes/OSDATA-66aa25b4-80eeca2a-d6dd-1e00f7000340\n"
        "vfat        1073577984   268500992  805076992  25% /vmfs/volumes/BOOTBANK1\n"
    )


def test_ps_shows_the_whole_command_line_only_when_asked() -> None:
    # As a host lists it: `3360796 3360796 vmkfstools           /sbin/vmkfstools -i …`
    world = ps.World(3360796, 3360796, "vmkfstools", "/sbin/vmkfstools -i a b")
    assert ps.render([world], True).splitlines()[-1] == "3360796 3360796 vmkfstools           /sbin/vmkfstools -i a b"
    assert ps.render([world], False).splitlines()[-1] == "3360796 3360796 vmkfstools           /sbin/vmkfstools"
