# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""esxcli network: the firewall, port groups, and the ports of running VMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .esxcli import CliCommand, CliError, Result, truth
from .vimcmd_hostsvc import port_groups

if TYPE_CHECKING:
    from esxilab.hostd import Hostd
    from esxilab.hostd.firewall import RuleSet

    from .tables import Row


def _set_of(host: Hostd, options: dict[str, str]) -> RuleSet:
    found = host.firewall.sets.get(options["ruleset-id"])
    if found is None:
        raise CliError(f"Ruleset with specified ruleset id {options['ruleset-id']} not found.")
    return found


def _wanted(host: Hostd, options: dict[str, str]) -> list[RuleSet]:
    return [_set_of(host, options)] if "ruleset-id" in options else list(host.firewall.sets.values())


def _rulesets(host: Hostd, options: dict[str, str]) -> Result:
    rows: list[Row] = [{"Name": one.name, "Enabled": one.enabled} for one in _wanted(host, options)]
    return Result(rows, ("Name", "Enabled"))


def _ruleset_set(host: Hostd, options: dict[str, str]) -> Result:
    found = _set_of(host, options)
    if "enabled" in options:
        found.enabled = truth(options, "enabled")
    if "allowed-all" in options:
        found.all_addresses = truth(options, "allowed-all")
    return Result(text="")


RULES = ("Ruleset", "Direction", "Protocol", "Port Type", "Port Begin", "Port End")


def _rules(host: Hostd, options: dict[str, str]) -> Result:
    rows: list[Row] = [dict(zip(RULES, (one.name, *rule))) for one in _wanted(host, options) for rule in one.rules]
    return Result(rows, RULES)


def _allowed(host: Hostd, options: dict[str, str]) -> Result:
    columns = ("Ruleset", "Allowed IP Addresses")
    rows: list[Row] = [
        dict(zip(columns, (one.name, "All" if one.all_addresses else ", ".join(one.addresses))))
        for one in _wanted(host, options)
    ]
    return Result(rows, columns)


def _allow(host: Hostd, options: dict[str, str]) -> Result:
    found = _set_of(host, options)
    if found.all_addresses:
        raise CliError(f"Couldn't update allowed ip list when allowed all flag is true for ruleset {found.name}.")
    if options["ip-address"] in found.addresses:
        raise CliError(f"Allowed IP address {options['ip-address']} already exists.")
    found.addresses.append(options["ip-address"])
    return Result(text="")


def _disallow(host: Hostd, options: dict[str, str]) -> Result:
    found = _set_of(host, options)
    if options["ip-address"] not in found.addresses:
        raise CliError(f"IP address {options['ip-address']} is not in the allowed list of ruleset {found.name}.")
    found.addresses.remove(options["ip-address"])
    return Result(text="")


def _refresh(host: Hostd, options: dict[str, str]) -> Result:
    host.firewall.refresh()
    return Result(text="")


def _portgroups(host: Hostd, options: dict[str, str]) -> Result:
    columns = ("Name", "Virtual Switch", "Active Clients", "VLAN ID")
    rows: list[Row] = []
    for name in port_groups(host):
        clients = sum(nic.network == name for vm in host.vms() if vm.power == "poweredOn" for nic in vm.config.nics())
        rows.append(dict(zip(columns, (name, "vSwitch0", clients, 0))))
    return Result(rows, columns)


def _vms(host: Hostd, options: dict[str, str]) -> Result:
    columns = ("World ID", "Name", "Num Ports", "Networks")
    rows: list[Row] = []
    for vm in host.vms():
        if vm.power == "poweredOn":
            nics = vm.config.nics()
            networks = ", ".join(nic.network for nic in nics)
            rows.append(dict(zip(columns, (vm.world_id, vm.config.name, len(nics), networks))))
    return Result(rows, columns)


PORTS = (
    "Port ID", "vSwitch", "Portgroup", "DVPort ID", "MAC Address", "IP Address", "Team Uplink", "Uplink Port ID",
    "Active Filters",
)  # fmt: skip


def _ports(host: Hostd, options: dict[str, str]) -> Result:
    """One block per network card of the VM with that world id."""
    from .vimcmd_info import guest_address

    for vm in host.vms():
        if vm.power == "poweredOn" and str(vm.world_id) == options["world-id"]:
            address = guest_address(vm) if vm.tools_running else "0.0.0.0"  # noqa: S104 - what a port without one shows
            rows: list[Row] = [
                dict(
                    zip(
                        PORTS,
                        (67108870 + nic.index, "vSwitch0", nic.network, "", nic.mac, address, "vmnic0", 33554434, ""),
                    )
                )
                for nic in vm.config.nics()
            ]
            return Result(rows, PORTS, blocks=True)
    raise CliError(f"Unable to find a virtual machine with the world ID {options['world-id']}")


RULESET_ID = {"-r": "ruleset-id", "--ruleset-id": "ruleset-id"}
ADDRESS = {**RULESET_ID, "-i": "ip-address", "--ip-address": "ip-address"}
SWITCHES = {"-e": "enabled", "--enabled": "enabled", "-a": "allowed-all", "--allowed-all": "allowed-all"}

COMMANDS = {
    "network firewall refresh": CliCommand(_refresh),
    "network firewall ruleset list": CliCommand(_rulesets, RULESET_ID),
    "network firewall ruleset set": CliCommand(_ruleset_set, {**RULESET_ID, **SWITCHES}, ("ruleset-id",)),
    "network firewall ruleset rule list": CliCommand(_rules, RULESET_ID),
    "network firewall ruleset allowedip list": CliCommand(_allowed, RULESET_ID),
    "network firewall ruleset allowedip add": CliCommand(_allow, ADDRESS, ("ruleset-id", "ip-address")),
    "network firewall ruleset allowedip remove": CliCommand(_disallow, ADDRESS, ("ruleset-id", "ip-address")),
    "network vswitch standard portgroup list": CliCommand(_portgroups),
    "network vm list": CliCommand(_vms),
    "network vm port list": CliCommand(_ports, {"-w": "world-id", "--world-id": "world-id"}, ("world-id",)),
}
