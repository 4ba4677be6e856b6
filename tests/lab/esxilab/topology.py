# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab consists of: a JSON description, checked, completed with defaults, addresses and identities."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esxilab import topologies, vmspec
from esxilab.errors import LabError

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
PROFILES = ("6.0", "6.7", "7.0", "8.0", "9.0")
DATASTORE_TYPES = ("vmfs5", "vmfs6", "nfs")
DOMAIN = "lab.example"
NAME = re.compile(r"^[a-z0-9][a-z0-9.-]{0,60}$")

# Every switch that the machine layer reads, with what a host of that release does.
MACHINE_SWITCHES: dict[str, Any] = {
    "lockout": True,  # pam_faillock: 5 failures, 900 s
    "lockout_failures": 5,
    "lockout_seconds": 900,
    "fips": None,  # FIPS mode of sshd and OpenSSL; None: on from 7.0
    "ed25519": False,  # Ed25519 user keys accepted; never in FIPS mode
    "ecdsa_user_keys": True,  # open point 13
    "exec_installed_only": None,  # None: on from 8.0
    "command_builtin": False,  # the shell knows `command`
    "epoll": False,
    "seek_data": True,  # open point 7
    "python": None,  # open point 3: an interpreter to use instead of the release's, or "none"
    "python_from_stdin": True,  # open point 4: with execInstalledOnly, Python runs what it reads
    "fork": True,  # open point 6: os.fork works in the host's Python
    "multiprocessing": False,  # open point 6: semaphores work
    "hashlib_md5": None,  # open point 15: hashlib knows md5 and blake2; None: unless FIPS
    "ssh_memory_mb": 0,  # open point 5: cap on the memory of all SSH sessions together; 0: none
    "max_sessions": 10,  # channels per connection
    "sftp": True,
    "tmp_size": "256M",
    "known_key": True,  # the lab's own key is in /etc/ssh/keys-root
    "bytes_per_second": 0,  # cap of each connection; 0: none
    "latency_ms": 0,
}


def parse_size(value: Any) -> int:
    """Bytes from 512, "64M" or "1.5G"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
    if not match:
        raise LabError(f"{value!r} is not a size; write bytes, or a number with K, M, G or T")
    return int(float(match.group(1)) * UNITS.get(match.group(2).upper(), 1))


def stable_hex(*parts: str) -> str:
    """64 hex digits that are the same for the same names: identities do not change between two runs of a lab."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Volume:
    """One datastore's storage, mounted once in the lab and seen by the hosts that name it."""

    uuid: str
    type: str
    size: int
    shared_id: str | None = None


@dataclass(frozen=True)
class Datastore:
    """A volume under the name that one host gives it."""

    name: str
    volume: Volume
    server: str | None = None
    lost: bool = False  # gone once its VMs are made


@dataclass
class Machine:
    """A hypervisor or a backup server: where it listens and who may log in."""

    name: str
    address: str
    port: int
    password: str
    kind: str  # esxi | backup_server
    profile: str = ""
    login: str = "password"  # which of both the inventory hands out: password | key
    switches: dict[str, Any] = field(default_factory=dict)
    datastores: list[Datastore] = field(default_factory=list)
    # The host as L3's hostd gets it: the description with all defaults filled in.
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def is_esxi(self) -> bool:
        return self.kind == "esxi"


@dataclass
class Topology:
    """The whole lab."""

    name: str
    machines: list[Machine]
    # datastore name on the backup server -> volume, by backup server
    served: dict[str, list[Datastore]]

    @property
    def hosts(self) -> list[Machine]:
        return [machine for machine in self.machines if machine.is_esxi]

    @property
    def backup_servers(self) -> list[Machine]:
        return [machine for machine in self.machines if not machine.is_esxi]

    @property
    def volumes(self) -> list[Volume]:
        found = {store.volume.uuid: store.volume for machine in self.machines for store in machine.datastores}
        found.update({store.volume.uuid: store.volume for stores in self.served.values() for store in stores})
        return list(found.values())

    def machine(self, name: str) -> Machine:
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = ", ".join(machine.name for machine in self.machines)
        raise LabError(f"this lab has no machine {name!r}; it has {known}")


def describe(what: str) -> topologies.Description:
    """The description of a built-in topology: demo, test, releases, zoo or fleet:N."""
    if not what.startswith("fleet:"):
        return topologies.BUILT_IN[what]()
    count = what.partition(":")[2]
    if not count.isdigit() or not 1 <= int(count) <= 500:
        raise LabError(f"{what!r}: fleet:N takes a number of hosts from 1 to 500")
    return topologies.fleet(int(count))


def build(description: Mapping[str, Any], name: str, base_address: str, port: int) -> Topology:
    """The topology that a description asks for; every mistake in it is an error with the place it is in."""
    if not NAME.match(name):
        raise LabError(f"{name!r} cannot name a lab: small letters, digits, dots and dashes only")
    addresses = _Addresses(base_address)
    volumes: dict[str, Volume] = {}
    served: dict[str, list[Datastore]] = {}
    servers = [str(entry["name"]) for entry in description.get("backup_servers", [])]
    machines: list[Machine] = []
    for entry in description.get("hosts", []):
        machine = _machine(entry, "esxi", addresses, port)
        _complete_host(machine, entry, name, volumes, servers, served)
        machines.append(machine)
    for entry in description.get("backup_servers", []):
        machine = _machine(entry, "backup_server", addresses, port)
        machine.config = dict(entry, name=machine.name, address=machine.address, port=machine.port)
        machines.append(machine)
    names = [machine.name for machine in machines]
    for machine_name in names:
        if names.count(machine_name) > 1:
            raise LabError(f"two machines are called {machine_name!r}")
    if not machines:
        raise LabError("the topology has neither hosts nor backup_servers")
    return Topology(name, machines, served)


class _Addresses:
    """Hands out loopback addresses from a base, skipping those that the description takes itself."""

    def __init__(self, base: str) -> None:
        try:
            self._base = ipaddress.IPv4Address(base)
        except ValueError as error:
            raise LabError(f"{base!r} is not an IPv4 address") from error
        if not self._base.is_loopback:
            raise LabError(f"{base} is no loopback address: the lab's hosts must not be reachable from outside")
        self._taken: set[str] = set()
        self._next = 0

    def take(self, wanted: str | None) -> str:
        if wanted is not None and wanted in self._taken:
            raise LabError(f"the address {wanted} is used twice")
        if wanted is not None and not wanted.startswith("127."):
            raise LabError(f"{wanted} is no loopback address: the lab's hosts must not be reachable from outside")
        while wanted is None:
            self._next += 1
            candidate = str(self._base + self._next)
            if candidate not in self._taken and not candidate.endswith((".0", ".255")):
                wanted = candidate
        self._taken.add(wanted)
        return wanted


def _machine(entry: Mapping[str, Any], kind: str, addresses: _Addresses, port: int) -> Machine:
    name = str(entry.get("name", ""))
    if not NAME.match(name):
        raise LabError(f"{name!r} cannot name a machine: small letters, digits, dots and dashes only")
    switches = dict(MACHINE_SWITCHES)
    switches.update(entry.get("switches", {}))
    _check_switches(name, switches)
    login = str(entry.get("login", "password" if kind == "esxi" else "key"))
    if login not in ("password", "key"):
        raise LabError(f"{name}: login is {login!r}; it is 'password' or 'key'")
    if login == "key" and not switches["known_key"]:
        raise LabError(f"{name}: login by key, but the switch known_key is off")
    return Machine(
        name=name,
        address=addresses.take(entry.get("address")),
        port=int(entry.get("port", port)),
        password=str(entry.get("password", f"Lab-{name}-1")),
        kind=kind,
        login=login,
        switches=switches,
    )


def _check_switches(name: str, switches: dict[str, Any]) -> None:
    if set(switches) <= set(MACHINE_SWITCHES):
        return
    # A large import, and most verbs need none of it.
    from esxilab.hostd.server import CHOICES
    from esxilab.hostd.server import SWITCHES as HOSTD_SWITCHES

    for switch in switches:
        if switch not in MACHINE_SWITCHES and switch not in HOSTD_SWITCHES:
            known = ", ".join([*MACHINE_SWITCHES, *HOSTD_SWITCHES])
            raise LabError(f"{name}: there is no switch {switch!r}; there are {known}")
        if switch in CHOICES and switches[switch] not in CHOICES[switch]:
            values = ", ".join(str(value) for value in CHOICES[switch])
            raise LabError(f"{name}: {switch} is {switches[switch]!r}; it takes {values}")


def _complete_host(
    machine: Machine,
    entry: Mapping[str, Any],
    lab: str,
    volumes: dict[str, Volume],
    servers: list[str],
    served: dict[str, list[Datastore]],
) -> None:
    machine.profile = str(entry.get("profile", "8.0"))
    if machine.profile not in PROFILES:
        raise LabError(f"{machine.name}: profile {machine.profile!r} is not known; known are {', '.join(PROFILES)}")
    if machine.switches["exec_installed_only"] is None:
        machine.switches["exec_installed_only"] = float(machine.profile) >= 8
    if machine.switches["fips"] is None:
        machine.switches["fips"] = float(machine.profile) >= 7
    if machine.switches["hashlib_md5"] is None:
        machine.switches["hashlib_md5"] = not machine.switches["fips"]
    if machine.switches["fips"] and machine.switches["ed25519"]:
        raise LabError(f"{machine.name}: no host takes Ed25519 keys in FIPS mode; set fips to false as well")
    for store in entry.get("datastores", []):
        machine.datastores.append(_datastore(machine, store, lab, volumes, servers, served))
    names = [store.name for store in machine.datastores]
    vms = []
    for vm in entry.get("vms", []):
        full = dict(vm)
        full.setdefault("datastore", names[0] if names else "")
        full.setdefault("dir", full["name"])
        used = {full["datastore"], *(disk.get("datastore", full["datastore"]) for disk in full.get("disks", []))}
        for missing in sorted(used - set(names)):
            raise LabError(f"{machine.name}: VM {full['name']!r} is on datastore {missing!r}, which the host lacks")
        vms.append(full)
    vmspec.check(machine.name, vms, names)
    machine.config = dict(
        entry,
        name=machine.name,
        hostname=f"{machine.name}.{DOMAIN}",
        address=machine.address,
        port=machine.port,
        profile=machine.profile,
        password=machine.password,
        switches=dict(machine.switches),
        vms=vms,
        datastores=[
            dict(
                name=store.name,
                type=store.volume.type,
                size=store.volume.size,
                uuid=store.volume.uuid,
                server=store.server,
                server_share=f"/srv/{store.name}" if store.server else None,
                shared_id=store.volume.shared_id,
                lost=store.lost,
            )
            for store in machine.datastores
        ],
    )


def _datastore(
    machine: Machine,
    store: Mapping[str, Any],
    lab: str,
    volumes: dict[str, Volume],
    servers: list[str],
    served: dict[str, list[Datastore]],
) -> Datastore:
    name, kind = str(store["name"]), str(store.get("type", "vmfs6"))
    place = f"{machine.name}: datastore {name!r}"
    if kind not in DATASTORE_TYPES:
        raise LabError(f"{place}: type {kind!r} is not known; known are {', '.join(DATASTORE_TYPES)}")
    if kind == "vmfs6" and machine.profile == "6.0":
        raise LabError(f"{place}: ESXi 6.0 knows no VMFS 6, which came with 6.5; write type vmfs5")
    if "/" in name or name in ("", ".", ".."):
        raise LabError(f"{place}: such a name cannot be a link in /vmfs/volumes")
    server = store.get("server")
    if server is not None and (kind != "nfs" or server not in servers):
        raise LabError(f"{place}: 'server' needs type nfs and the name of a backup server of this topology")
    shared = store.get("shared_id")
    key = str(shared) if shared else (f"{server}:{name}" if server else f"{machine.name}/{name}")
    size = parse_size(store.get("size", "1G"))
    digits = stable_hex(lab, key)
    uuid = (
        f"{digits[:8]}-{digits[8:16]}"
        if kind == "nfs"
        else f"{digits[:8]}-{digits[8:16]}-{digits[16:20]}-{digits[20:32]}"
    )
    volume = volumes.setdefault(key, Volume(uuid, kind, size, shared))
    if (volume.type, volume.size) != (kind, size):
        raise LabError(f"{place}: it is shared under {key!r}, but elsewhere with another type or size")
    lost = bool(store.get("lost"))
    if lost and (server is not None or shared):
        raise LabError(f"{place}: a datastore that others see cannot be lost by one host")
    found = Datastore(name, volume, server, lost)
    if server is not None and volume.uuid not in [other.volume.uuid for other in served.setdefault(str(server), [])]:
        served[str(server)].append(found)
    return found
