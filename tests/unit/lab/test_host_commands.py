# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vim-cmd and esxcli for the host itself: what they print, what they refuse, and what they change."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from esxilab.hostd.errors import InvalidState
from esxilab.hostd.events import MachineEvents

from .benches import Bench, running

Make = Callable[..., Bench]
OFF = {"name": "off", "power": "off", "disks": []}


def esxcli(lab: Bench, *words: str) -> str:
    answer = lab.run("esxcli", *words)
    assert (answer["rc"], answer["stderr"]) == (0, ""), answer
    return str(answer["stdout"])


def refused(lab: Bench, tool: str, *words: str) -> str:
    """What stands on the stream of a refusal."""
    answer = lab.run(tool, *words)
    assert answer["rc"] == 1, answer
    return str(answer["stdout"] + answer["stderr"])


class Events(MachineEvents):
    """Writes down what the machine is asked."""

    def __init__(self, share: Path | None = None) -> None:
        self.seen: list[tuple[object, ...]] = []
        self.share = share

    def exec_installed_only(self, wanted: bool) -> None:
        self.seen.append(("exec", wanted))

    def power(self, again: bool, seconds: float) -> None:
        self.seen.append(("power", again, seconds))

    def mount(self, source: Path, uuid: str, name: str) -> None:
        self.seen.append(("mount", source, name))

    def unmount(self, uuid: str, name: str) -> None:
        self.seen.append(("unmount", name))

    def exported(self, server: str, share: str) -> Path | None:
        return self.share if (server, share) == ("bk9", "/srv/other") else None


# --- datastores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["datastore1", "old"])
def test_each_number_of_a_vmfs_datastore_stands_on_one_line_that_awk_finds(bench: Make, name: str) -> None:
    lab = bench([])
    lines = lab.vim("hostsvc/datastore/info", name).splitlines()
    for word in ("capacity", "freespace", "blocksizemb"):
        (line,) = [line for line in lines if word in line.lower()]
        assert line.split()[2].rstrip(",").isdigit()


def test_a_nas_datastore_has_no_block_size_and_names_its_server(bench: Make) -> None:
    text = bench([]).vim("hostsvc/datastore/info", "share")
    assert text.startswith("(vim.host.NasDatastoreInfo) {\n")
    assert "blockSizeMb" not in text
    assert "remotePath = " in text


def test_an_unknown_datastore_is_not_found(bench: Make) -> None:
    assert refused(bench([]), "vim-cmd", "hostsvc/datastore/info", "none").startswith("(vim.fault.NotFound) {\n")


def test_a_share_is_mounted_shown_refused_twice_and_let_go(bench: Make, tmp_path: Path) -> None:
    lab = bench([])
    lab.host.machine_events = events = Events(tmp_path)
    assert lab.vim("hostsvc/datastore/nas_create", "nas1", "nfs", "/srv/other", "0", "bk9") == ""
    assert ("mount", tmp_path, "nas1") in events.seen
    assert "nas1" in esxcli(lab, "storage", "nfs", "list")
    assert (lab.host.root / "vmfs/volumes/nas1").is_symlink()
    assert "vim.fault.DuplicateName" in refused(
        lab, "vim-cmd", "hostsvc/datastore/nas_create", "nas1", "nfs", "/srv/other", "0", "bk9"
    )
    assert lab.vim("hostsvc/datastore/destroy", "nas1") == ""
    assert "nas1" not in esxcli(lab, "storage", "nfs", "list")
    assert not (lab.host.root / "vmfs/volumes/nas1").exists()


def test_a_server_that_nobody_knows_is_not_mounted(bench: Make) -> None:
    lab = bench([])
    words = ("-H", "10.9.9.9", "-s", "/x", "-v", "nas1")
    assert "Unable to connect to NFS server 10.9.9.9" in refused(lab, "esxcli", "storage", "nfs", "add", *words)
    assert lab.host.volumes.by_name("nas1") is None


def test_a_datastore_with_a_registered_vm_and_a_vmfs_one_stay(bench: Make) -> None:
    lab = bench([{"name": "onnfs", "power": "off", "datastore": "share", "disks": []}])
    for name in ("share", "old"):
        assert "vim.fault.ResourceInUse" in refused(lab, "vim-cmd", "hostsvc/datastore/destroy", name)
    assert "vim.fault.NotFound" in refused(lab, "vim-cmd", "hostsvc/datastore/destroy", "none")


def test_a_boot_brings_the_described_datastores_back_and_drops_the_others(bench: Make, tmp_path: Path) -> None:
    lab = bench([])
    lab.host.machine_events = Events(tmp_path)
    lab.vim("hostsvc/datastore/nas_create", "nas1", "nfs", "/srv/other", "0", "bk9")
    lab.vim("hostsvc/datastore/destroy", "share")
    lab.host.reboot()
    assert [volume.name for volume in lab.host.volumes.all] == ["datastore1", "old", "share"]
    assert (lab.host.root / "vmfs/volumes/share").is_symlink()


def test_the_browser_lists_disks_with_their_properties_and_not_their_extents(bench: Make) -> None:
    lab = bench([running(power="off")])
    text = lab.vim("hostsvc/datastorebrowser/search", "0", "[datastore1] web")
    assert text.startswith("(vim.host.DatastoreBrowser.SearchResults) {\n")
    assert 'folderPath = "[datastore1] web"' in text
    assert "capacityKb = 65536" in text
    assert "thin = true" in text
    assert "path = " in text
    assert 'path = "web-flat.vmdk"' not in text


# --- maintenance and power ----------------------------------------------------------------------------------------


def test_maintenance_mode_is_a_task_that_waits_for_the_last_vm(bench: Make) -> None:
    lab = bench([running()])
    printed = lab.vim("hostsvc/maintenance_mode_enter")
    assert re.fullmatch(r"'vim.Task:haTask-ha-host-vim.HostSystem.enterMaintenanceMode-\d+'\n", printed)
    assert "inMaintenanceMode = false" in lab.vim("hostsvc/runtimeinfo")
    lab.vim("vmsvc/power.off", "1")
    lab.wait(lambda: "inMaintenanceMode = true" in lab.vim("hostsvc/runtimeinfo"), "maintenance mode")
    assert lab.run("vim-cmd", "vmsvc/power.on", "1")["stdout"] == "Powering on VM:\nPower on failed\n"
    assert "exitMaintenanceMode" in lab.vim("hostsvc/maintenance_mode_exit")
    assert "inMaintenanceMode = false" in lab.vim("hostsvc/runtimeinfo")


def test_esxcli_waits_for_maintenance_mode_and_gives_up_when_its_time_is_over(bench: Make) -> None:
    lab = bench([running()])
    assert "timed out" in refused(lab, "esxcli", "system", "maintenanceMode", "set", "-e", "true", "-t", "1")
    assert esxcli(lab, "system", "maintenanceMode", "get") == "Disabled\n"
    with pytest.raises(InvalidState):
        from esxilab.hostd import maintenance

        maintenance.begin(lab.host, False)


def test_a_host_powers_off_only_in_maintenance_mode_and_after_its_delay(bench: Make) -> None:
    lab = bench([])
    lab.host.machine_events = events = Events()
    words = ("system", "shutdown", "poweroff", "-d", "10", "-r", "test")
    refused(lab, "esxcli", *words)
    esxcli(lab, "system", "maintenanceMode", "set", "-e", "true")
    assert esxcli(lab, *words) == ""
    assert events.seen == [("power", False, 10.0)]
    assert "reason" in refused(lab, "esxcli", "system", "shutdown", "reboot")


# --- autostart ----------------------------------------------------------------------------------------------------


def test_autostart_entries_are_kept_ordered_and_drive_the_next_boot(bench: Make) -> None:
    lab = bench([{**OFF, "name": "a"}, {**OFF, "name": "b"}, {**OFF, "name": "c"}])
    assert lab.vim("hostsvc/autostartmanager/get_autostartseq") == "(vim.host.AutoStartManager.AutoPowerInfo) []\n"
    for vmid, order in (("1", "2"), ("3", "1")):
        update = ("PowerOn", "10", order, "systemDefault", "10", "systemDefault")
        assert lab.vim("hostsvc/autostartmanager/update_autostartentry", vmid, *update) == ""
    dump = lab.vim("hostsvc/autostartmanager/get_autostartseq")
    assert re.findall(r"key = '(.*?)'", dump) == ["vim.VirtualMachine:3", "vim.VirtualMachine:1"]
    lab.host.reboot()
    assert [lab.state(vmid) for vmid in "123"] == ["Powered off"] * 3
    lab.vim("hostsvc/autostartmanager/enable_autostart", "true")
    assert "enabled = true" in lab.vim("hostsvc/autostartmanager/get_defaults")
    lab.host.reboot()
    lab.wait(lambda: [lab.state(vmid) for vmid in "13"] == ["Powered on"] * 2, "the autostart")
    assert lab.state("2") == "Powered off"


def test_an_unregistered_vm_leaves_the_autostart_list(bench: Make) -> None:
    lab = bench([OFF])
    words = ("1", "PowerOn", "10", "1", "systemDefault", "10", "systemDefault")
    lab.vim("hostsvc/autostartmanager/update_autostartentry", *words)
    lab.vim("vmsvc/unregister", "1")
    assert lab.vim("hostsvc/autostartmanager/get_autostartseq").endswith("[]\n")
    assert "Insufficient arguments." in refused(lab, "vim-cmd", "hostsvc/autostartmanager/update_autostartentry", "1")


# --- settings -----------------------------------------------------------------------------------------------------


def test_exec_installed_only_is_switched_at_run_time_until_the_next_boot(bench: Make) -> None:
    lab = bench([], profile="8.0", exec_installed_only=True)
    lab.host.machine_events = events = Events()
    option = ("-o", "/User/execInstalledOnly")
    assert esxcli(lab, "system", "settings", "advanced", "set", *option, "-i", "0") == ""
    assert events.seen == [("exec", False)]
    assert "   Int Value: 0\n" in esxcli(lab, "system", "settings", "advanced", "list", *option)
    lab.host.reboot()
    assert "   Int Value: 1\n" in esxcli(lab, "system", "settings", "advanced", "list", *option)


def test_the_boot_option_takes_hold_at_the_next_boot(bench: Make) -> None:
    lab = bench([], profile="7.0", exec_installed_only=False)
    kernel = ("system", "settings", "kernel")
    esxcli(lab, *kernel, "set", "-s", "execInstalledOnly", "-v", "TRUE")
    row = esxcli(lab, *kernel, "list", "-o", "execInstalledOnly").splitlines()[2].split()
    assert row[:5] == ["execInstalledOnly", "Bool", "TRUE", "FALSE", "FALSE"]
    lab.host.reboot()
    assert lab.host.switches["exec_installed_only"] is True


def test_the_lock_out_counters_are_shown_in_the_form_of_the_facts(bench: Make) -> None:
    text = esxcli(bench([]), "system", "settings", "advanced", "list", "-o", "/Security/AccountLockFailures")
    assert [line.partition(":")[0] for line in text.splitlines()] == [
        "   Path", "   Type", "   Int Value", "   Default Int Value", "   Min Value", "   Max Value",
        "   String Value", "   Default String Value", "   Valid Characters", "   Description",
    ]  # fmt: skip
    assert "   Type: integer\n   Int Value: 5\n   Default Int Value: 5\n" in text
    assert "   String Value: \n" in text


def test_options_out_of_range_unknown_or_fixed_are_refused(bench: Make) -> None:
    lab = bench([])
    put = ("system", "settings", "advanced", "set", "-o")
    assert "not in 0 to 86400" in refused(lab, "esxcli", *put, "/UserVars/ESXiShellTimeOut", "-i", "99999")
    assert "Unable to find option none" in refused(lab, "esxcli", *put, "/User/none", "-i", "1")
    refused(lab, "esxcli", *put, "/Security/AccountLockFailures", "-i", "3")
    assert lab.vim("hostsvc/advopt/update", "UserVars.ESXiShellTimeOut", "long", "600") == ""
    assert "value = 600" in lab.vim("hostsvc/advopt/view", "UserVars.ESXiShellTimeOut")
    assert "vim.fault.InvalidName" in refused(lab, "vim-cmd", "hostsvc/advopt/view", "No.Such")


# --- firewall -----------------------------------------------------------------------------------------------------

SMTP = """<ConfigRoot><service id="0099"><id>mail</id><rule id="0000"><direction>outbound</direction>
<protocol>tcp</protocol><porttype>dst</porttype><port>25</port></rule><enabled>true</enabled></service></ConfigRoot>"""


def test_a_rule_set_from_a_file_comes_with_a_refresh_and_goes_with_the_next_boot(bench: Make) -> None:
    lab = bench([])
    folder = lab.host.root / "etc/vmware/firewall"
    folder.mkdir(parents=True)
    (folder / "mail.xml").write_text(SMTP)
    rules = ("network", "firewall", "ruleset", "rule", "list")
    ports = lambda: [re.split(" {2,}", line.strip())[4] for line in esxcli(lab, *rules).splitlines()[2:]]  # noqa: E731
    assert "25" not in ports()
    assert esxcli(lab, "network", "firewall", "refresh") == ""
    assert "25" in ports()
    lab.host.reboot()
    assert "25" not in ports()
    assert not (folder / "mail.xml").exists()


def test_the_ssh_client_rule_is_off_and_its_state_stands_in_the_second_column(bench: Make) -> None:
    lab = bench([])
    rule = lambda: next(  # noqa: E731
        line.split()[1]
        for line in esxcli(lab, "network", "firewall", "ruleset", "list").splitlines()
        if line.split()[0] == "sshClient"
    )
    assert rule() == "false"
    assert esxcli(lab, "network", "firewall", "ruleset", "set", "-e", "true", "-r", "sshClient") == ""
    assert rule() == "true"


def test_sources_are_limited_only_after_all_are_no_longer_allowed(bench: Make) -> None:
    lab = bench([])
    ruleset = ("network", "firewall", "ruleset")
    add = (*ruleset, "allowedip", "add", "-r", "sshServer", "-i", "192.168.7.0/24")
    refused(lab, "esxcli", *add)
    esxcli(lab, *ruleset, "set", "-r", "sshServer", "--allowed-all", "false")
    esxcli(lab, *add)
    assert "192.168.7.0/24" in esxcli(lab, *ruleset, "allowedip", "list", "-r", "sshServer")


# --- other esxcli -------------------------------------------------------------------------------------------------


def test_every_formatter_gives_the_same_rows(bench: Make) -> None:
    lab = bench([])
    words = ("storage", "nfs", "list")
    (row,) = json.loads(esxcli(lab, "--formatter=json", *words))
    assert row["VolumeName"] == "share"
    read = list(csv.reader(esxcli(lab, "--formatter", "csv", *words).splitlines()))
    assert dict(zip(*read))["VolumeName"] == "share"
    assert read[0][-1] == ""
    fields = ElementTree.fromstring(esxcli(lab, "--formatter=xml", *words)).iter("field")
    assert {field.get("name"): field[0].text for field in fields}["VolumeName"] == "share"
    assert "string=share" in esxcli(lab, "--formatter=keyvalue", *words)
    assert "<td>share</td>" in esxcli(lab, "--formatter=html", *words)
    assert "Unknown formatter" in refused(lab, "esxcli", "--formatter=yaml", *words)


def test_a_running_vm_is_seen_by_process_network_and_port_lists(bench: Make) -> None:
    lab = bench([running()])
    block = esxcli(lab, "vm", "process", "list").splitlines()
    assert block[0] == "web"
    names = [line.strip().partition(":")[0] for line in block[1:]]
    assert names == ["World ID", "Process ID", "VMX Cartel ID", "UUID", "Display Name", "Config File"]
    world = block[1].split(": ")[1]
    (row,) = csv.DictReader(esxcli(lab, "--formatter", "csv", "network", "vm", "list").splitlines())
    assert (row["WorldID"], row["Name"]) == (world, "web")
    ports = esxcli(lab, "--formatter", "csv", "network", "vm", "port", "list", "-w", world).splitlines()
    assert "IPAddress" in ports[0].split(",")
    assert "Invalid value" in refused(lab, "esxcli", "vm", "process", "kill", "-t", world, "-w", "soft")
    esxcli(lab, "vm", "process", "kill", "-t", "soft", "-w", world)
    assert lab.state() == "Powered off"
    assert esxcli(lab, "vm", "process", "list") == ""


def test_localcli_answers_while_hostd_is_down_and_esxcli_does_not(bench: Make) -> None:
    lab = bench([])
    lab.host.faults.add("hostd_down")
    assert "Connect to localhost failed" in refused(lab, "esxcli", "system", "version", "get")
    assert "   Product: VMware ESXi\n" in lab.run("localcli", "system", "version", "get")["stdout"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("no", "such", "thing"), "Error: Unknown command or namespace no such thing\n"),
        (("system", "version", "get", "--wrong"), "Error: Invalid option --wrong\n"),
        (("system", "module", "load"), "Error: Missing required parameter --module|-m\n"),
    ],
)
def test_what_esxcli_does_not_know_it_names_and_fails(bench: Make, words: tuple[str, ...], text: str) -> None:
    answer = bench([]).run("esxcli", *words)
    assert (answer["stdout"], answer["stderr"], answer["rc"]) == ("", text, 1)


def test_the_ramdisks_are_a_table_of_nine_columns(bench: Make) -> None:
    lines = esxcli(bench([]), "system", "visorfs", "ramdisk", "list").splitlines()
    assert len(lines[1].split()) == 9
    assert [line.split()[-1] for line in lines[2:]][:2] == ["/", "/etc"]
