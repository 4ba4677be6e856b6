# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan says of a random VM is what the copy then finds to do: the same disks, bytes and refusals.

Plan and copy look for themselves: one before the bracket at what the VM stands on, the other within it at what the
snapshot froze. In between a host takes the snapshot by its own rules, which are written out here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import FileEntry, Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import Datastore
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.disks import DiskReader, read_disks
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.info import describe_disk
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import VmPlan, plan_vm
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import DiskChoice, VmPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.survey import disk_facts
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import disks_of_vm
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import escape, parse_vmx
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs_values import make_vm

MIB = 1 << 20
STORES = ("uuid-1", "uuid-2")
KINDS = {
    "flat": ("vmfs", "VMFS", "flat"),
    "rdm-virtual": ("vmfsRawDeviceMap", "VMFSRDM", "rdm"),
    "rdm-physical": ("vmfsPassthroughRawDeviceMap", "VMFSRDM", "rdmp"),
}


@dataclass
class Wanted:
    """A disk as drawn."""

    key: str
    file: str
    store: str
    kind: str
    mode: str
    sharing: str
    megabytes: int
    allocated: list[int]
    broken: bool

    @property
    def independent(self) -> bool:
        return self.mode.startswith("independent")


@dataclass
class World:
    """The files of a host in memory."""

    texts: dict[str, str] = field(default_factory=dict)
    entries: dict[str, FileEntry] = field(default_factory=dict)

    def put(self, path: str, text: str | None, allocated: int, size: int = 0) -> None:
        self.entries[path] = FileEntry(path, allocated, size or allocated, 1, text)
        if text is not None:
            self.texts[path] = text


class MemoryHost(Host):
    """A host that is asked for files only."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._unknown: set[str] = set()

    @property
    def name(self) -> str:
        return "esx1"

    def datastores(self, fresh: bool = True) -> Any:
        return [Datastore(f"ds {uuid}", f"/vmfs/volumes/{uuid}", uuid, "VMFS-6", 1 << 40, 1 << 40) for uuid in STORES]

    def read_texts(self, paths: Iterable[str]) -> dict[str, str | Reply]:
        gone = Reply(("cat",), 1, "", "No such file or directory")
        return {path: self.world.texts.get(path, gone) for path in paths}

    def read_text(self, path: str) -> str:
        return self.world.texts[path]

    def read_folders(self, folders: Iterable[str]) -> dict[str, FileEntry]:
        wanted = set(folders)
        return {path: entry for path, entry in self.world.entries.items() if path.rpartition("/")[0] in wanted}


class MemoryVm(VirtualMachine):
    state = "poweredOff"

    def power_state(self) -> str:
        return self.state


def descriptor(kind: str, name: str, sectors: int, cid: int, parent: tuple[str, int] | None) -> str:
    create, word, end = ("seSparse", "SESPARSE", "sesparse") if parent else KINDS[kind]
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        f"CID={cid:08x}",
        f"parentCID={parent[1] if parent else 0xFFFFFFFF:08x}",
    ]
    lines += [f'createType="{create}"', *([f'parentFileNameHint="{parent[0]}"'] if parent else [])]
    return "\n".join([*lines, f'RW {sectors} {word} "{name}-{end}.vmdk"', ""])


def put_disk(world: World, disk: Wanted) -> str:
    """The chain of a disk with its extents; returns the file that the VM stands on."""
    folder, stem = f"/vmfs/volumes/{disk.store}/vm", disk.file
    name, parent = stem, None
    for number, allocated in enumerate(disk.allocated):
        name = stem if number == 0 else f"{stem}-{number:06d}"
        text = descriptor(disk.kind, name, disk.megabytes * 2048, number + 1, parent)
        if not (disk.broken and number == 0):
            world.put(f"{folder}/{name}.vmdk", text, 4096)
        end = "sesparse" if number else KINDS[disk.kind][2]
        world.put(f"{folder}/{name}-{end}.vmdk", None, allocated * 4096, disk.megabytes * MIB)
        parent = (f"{name}.vmdk", number + 1)
    return f"{name}.vmdk" if disk.store == STORES[0] else f"{folder}/{name}.vmdk"


def vmx_of(disks: list[Wanted], files: dict[str, str]) -> str:
    lines = ['displayName = "a VM"']
    for disk in disks:
        values = {"fileName": files[disk.key], "present": "TRUE", "mode": disk.mode}
        if disk.sharing == "multi-writer":
            values["sharing"] = disk.sharing
        lines += [f'{disk.key}.{key} = "{escape(value)}"' for key, value in values.items()]
        if disk.sharing.startswith("bus-"):
            lines.append(f'{disk.key.partition(":")[0]}.sharedBus = "{disk.sharing[4:]}"')
    return "\n".join([*lines, ""])


@st.composite
def disks_of_a_vm(draw: st.DrawFn) -> list[Wanted]:
    """At most four, each on a controller of its own, so that a shared bus is that disk's alone."""
    found = []
    for number, bus in enumerate(
        draw(st.permutations(["scsi0", "scsi1", "sata0", "nvme0"]))[: draw(st.integers(0, 4))]
    ):
        store = draw(st.sampled_from(STORES))
        # Two disks of one file name, on two datastores.
        same = store == STORES[1] and draw(st.booleans())
        kind = draw(st.sampled_from(["flat", "flat", "flat", "rdm-virtual", "rdm-physical"]))
        mode = draw(st.sampled_from(["persistent"] * 3 + ["independent-persistent", "independent-nonpersistent"]))
        sharing = draw(st.sampled_from(["none"] * 6 + ["multi-writer", "bus-virtual", "bus-physical"]))
        plain = kind != "rdm-physical" and mode == "persistent"
        levels = draw(st.integers(1, 3)) if plain else 1
        size = draw(st.integers(1, 8))
        found.append(
            Wanted(
                key=f"{bus}:{draw(st.integers(0, 3))}",
                file=f"vm_{0 if same and not any(one.store == store for one in found) else number}",
                store=store,
                kind=kind,
                mode=mode,
                sharing=sharing if not sharing.startswith("bus") or bus.startswith("scsi") else "none",
                megabytes=size,
                allocated=draw(st.lists(st.integers(0, size * 300), min_size=levels, max_size=levels)),
                broken=levels > 1 and draw(st.integers(0, 7)) == 0,
            )
        )
    return found


@dataclass
class Case:
    disks: list[Wanted]
    power: str
    how: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    disks = draw(disks_of_a_vm())
    keys = st.sampled_from([disk.key for disk in disks] or ["scsi0:0"])
    some = st.lists(keys, max_size=2, unique=True).map(tuple)
    chosen = st.one_of(st.just(()), st.just(()), some)
    power = draw(st.sampled_from(["poweredOn", "poweredOn", "poweredOff", "suspended"]))
    return Case(disks, power, draw(st.sampled_from(["hot", "warm", "cold"])), draw(chosen), draw(chosen))


def host_takes_snapshot(case: Case) -> bool:
    """5.2: refused with a multi-writer disk, and with a shared bus where the VM runs (warm starts it again)."""
    return all(disk.sharing == "none" for disk in case.disks)


def snapshot(world: World, vm: MemoryVm, case: Case, files: dict[str, str]) -> None:
    """What the host does: a delta above each disk that is neither independent nor a physical raw device."""
    vmsd = ['snapshot.lastUID = "1"', 'snapshot.current = "1"', 'snapshot0.uid = "1"', 'snapshot0.displayName = "s"']
    frozen = [disk for disk in case.disks if not disk.independent and disk.kind != "rdm-physical"]
    live = dict(files)
    for number, disk in enumerate(frozen):
        vmsd += [
            f'snapshot0.disk{number}.fileName = "{files[disk.key]}"',
            f'snapshot0.disk{number}.node = "{disk.key}"',
        ]
        folder, top = f"/vmfs/volumes/{disk.store}/vm", files[disk.key].rpartition("/")[2]
        name, level = f"{disk.file}-{len(disk.allocated):06d}", len(disk.allocated)
        text = descriptor(disk.kind, name, disk.megabytes * 2048, level + 1, (top, level))
        world.put(f"{folder}/{name}.vmdk", text, 4096)
        world.put(f"{folder}/{name}-sesparse.vmdk", None, 8192)
        live[disk.key] = f"{name}.vmdk" if disk.store == STORES[0] else f"{folder}/{name}.vmdk"
    vmsd += [f'snapshot0.numDisks = "{len(frozen)}"', 'snapshot.numSnapshots = "1"', ""]
    world.texts[vm.vmsd_path] = "\n".join(vmsd)
    world.texts[vm.vmx_path] = vmx_of(case.disks, live)


def planned(host: MemoryHost, vm: MemoryVm, case: Case) -> VmPlan:
    found = read_disks(host, [vm], DiskReader(host))[vm.vmid]
    facts = make_vm(
        "a VM",
        vmx_path=vm.vmx_path,
        directory=vm.directory,
        power_state=case.power,
        disks=tuple(disk_facts(describe_disk(disk)) for disk in found),
    )
    policy = VmPolicy(point="/vmfs/volumes/bk", how=case.how, disks=DiskChoice(case.include, case.exclude))
    return plan_vm(facts, policy, "/vmfs/volumes/bk/vm", "esx1")


def check(case: Case) -> None:
    world = World()
    host = MemoryHost(world)
    files = {disk.key: put_disk(world, disk) for disk in case.disks}
    path = f"/vmfs/volumes/{STORES[0]}/vm/vm.vmx"
    world.texts[path] = vmx_of(case.disks, files)
    vm = MemoryVm(host, 7, "a VM", path, vmx=parse_vmx(world.texts[path], path))
    vm.state = case.power
    plan = planned(host, vm, case)

    runs = case.power == "poweredOn"
    snap = runs and case.how != "cold"
    assert (plan.effective_how in ("hot", "warm")) == snap
    asked = [d for d in case.disks if d.key not in case.exclude and (not case.include or d.key in case.include)]
    readable = [d for d in asked if d.kind != "rdm-physical" and not (snap and d.independent and not d.broken)]
    wrong = [d for d in readable if d.broken or d.sharing == "multi-writer" or (snap and d.sharing != "none")]
    there = set(case.include) <= {disk.key for disk in case.disks}
    possible = bool(readable) and not wrong and there and (not snap or host_takes_snapshot(case))
    assert plan.ready == possible, (plan.problems, case)
    assert {disk.key for disk in plan.disks} == {disk.key for disk in case.disks}
    assert all(disk.reason for disk in plan.disks if disk.action != "copy")

    entry = record.entry_of_plan("run1", "esx1", plan.as_dict())
    if not possible:
        assert entry["status"] == "failed" and entry["error"]["message"] and entry["bytes_read"] == 0
        return
    if snap:
        snapshot(world, vm, case, files)
    elif runs:
        vm.state = "poweredOff"
    sources, _left = disks_of_vm(host, vm, plan.disk_keys, 1 if snap else None, False, [])
    promised = {d.key: (d.bytes_to_read, d.capacity_bytes) for d in plan.disks if d.action == "copy"}
    assert {source.key: (source.bytes_to_read, source.capacity_bytes) for source in sources} == promised
    assert set(promised) == {disk.key for disk in readable}
    record.add_copies(entry, [{"key": s.key, "bytes_to_read": s.bytes_to_read, "copied_bytes": 1} for s in sources])
    record.set_disk_statuses(entry, "ok")
    for disk in entry["disks"]:
        assert disk["status"] == ("ok" if disk["key"] in promised else "excluded")
        assert disk["bytes_read"] == (disk["bytes_planned"] if disk["key"] in promised else 0)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_plan_is_what_the_copy_finds_to_do(case: Case) -> None:
    check(case)
