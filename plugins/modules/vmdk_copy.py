#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vmdk_copy
short_description: Copy virtual disks of an ESXi host
version_added: 0.1.0
description:
  - Copies all disks of a virtual machine, some of them, or one disk named by its path, from datastore to datastore of
    one hypervisor. The disks' chains are merged on the way; the copies are disks of their own.
  - With O(program=dedup) it copies the disks of a virtual machine into a dedup store on the machine where the module
    runs, or in a bucket, and a disk of such a store back to a datastore. The disks are hashed on the hypervisor, in its
    own Python, which is fed to it; only what the store does not have leaves it.
  - With O(program=borg) it copies them into a repository of borg, as one archive with the configuration, and out of it.
    What the disks hold is read from the machine where the module runs and is sent each time; borg keeps what is new.
  - With O(program=rsync) it copies them into flat images in a folder of the machine where the module runs, with the
    configuration beside them, and out of it. What is written is what differs from the image of the restore point
    before; what is sent, too, where there is an rsync on the hypervisor (O(store.rsync_path)), else what the disks
    hold.
  - A copy is either whole and proven, or it is not there. Whatever ends it (an error of the host, a full datastore, a
    broken connection, a killed controller), what it has written is removed. Nothing that was there before is ever
    overwritten or removed.
  - On the hypervisor the copy is watched by a shell of its own, which ends and removes it when nothing has been heard
    from the machine where this module runs for 60 seconds. Shorter breaks of the connection do no harm.
  - With O(program=dedup) the readers on the hypervisor end at once with their connections, and after 60 seconds of
    silence. A connection that was cut is made again, and what has arrived is not sent a second time. When the module
    returns, it has proven that none of them holds a disk open any more.
  - While it copies, the task prints percent, rate and time left of each disk.
author:
  - Stowage contributors (@stowage)
options:
  vm:
    description:
      - Name of the virtual machine, compared exactly.
    type: str
  uuid:
    description:
      - Its instance UUID or BIOS UUID.
    type: str
  vmid:
    description:
      - Its number in the host's inventory.
    type: int
  disks:
    description:
      - Device keys of the disks to copy, such as V(scsi0:1).
      - Without it all disks are copied that can be. Those that cannot (physical raw device mappings; with
        O(snapshot_id) also independent disks) are returned in RV(left_out). Naming such a disk here is an error.
    type: list
    elements: str
    default: []
  src:
    description:
      - One disk by its descriptor, as V([datastore] folder/disk.vmdk) or V(/vmfs/volumes/datastore/folder/disk.vmdk).
      - With O(program=dedup) one disk of a restore point in a store, as C(STORE::POINT/KEY), which
        M(stowage.esxi.restore_plan) names so. It is copied to O(dest).
      - With O(program=borg) one disk of an archive, as C(REPOSITORY::ARCHIVE/NAME).
      - With O(program=rsync) one descriptor in the folder of a restore point.
      - Exactly one of O(vm), O(uuid), O(vmid) and O(src) is needed.
    type: str
  snapshot_id:
    description:
      - Copy the disks as this snapshot has frozen them.
      - Needed for a virtual machine that is powered on. Without it the disks are copied as they are now.
    type: int
  dest:
    description:
      - Folder for the copies, as V([datastore] folder) or V(/vmfs/volumes/datastore/folder). It is made where it is not
        there, with its parents, and removed again if the copy fails.
      - With O(program=dedup) and a virtual machine it is the store, a path on the machine where the module runs,
        C(s3://bucket/prefix), or V(/vmfs/volumes/datastore/folder) for one that the hypervisor keeps itself. All its
        disks, and the configuration that its job has kept, become one restore point
        there, once the source is proven to have held still; O(journal) and O(job_id) are needed for that.
      - With O(program=borg) it is the repository, a path on the machine where the module runs or
        C(ssh://user@server:port/path), and the same holds.
      - With O(program=rsync) it is the backup point, a folder on the machine where the module runs, and the same holds.
      - With all programs but V(vmkfstools) it may also be C([user@]server:port:/path), a folder on a Linux server that
        is reached from there by SSH (O(store.ssh_key)).
      - In a folder a disk of a virtual machine is named after its device key, V(scsi0-1.vmdk) for V(scsi0:1). A disk
        copied by O(src) keeps its name.
      - For a single disk this may be the path of the new descriptor, ending in V(.vmdk). No configuration is copied
        then.
    type: str
    required: true
  program:
    description:
      - What moves the bytes. V(vmkfstools) is the host's own clone; both datastores must be mounted on the host.
        V(rsync) copies into images in a folder of the machine where the module runs, or out of it. V(dedup) copies
        into a dedup store or out of one, V(borg) into a repository of borg or out of one. borg 1.2 or later must then
        be there on the machine where the module runs.
    type: str
    choices: [vmkfstools, rsync, dedup, borg]
    default: vmkfstools
  in_place:
    description:
      - With O(program=dedup) and a disk of a store as O(src), write into the disk that is at O(dest), and only the
        chunks that differ. The host hashes what it has; a thin disk stays thin.
      - Only within the job of a restore in place (O(journal), O(job_id)), which marks the VM before the first byte is
        written. The role P(stowage.esxi.restore#role) sets it.
    type: bool
    default: false
  connections:
    description:
      - With all but O(program=vmkfstools), how many connections to the hypervisor carry bytes at a time.
        It may be from 1 to 32.
    type: int
    default: 4
  transfer_mode:
    description:
      - When what crosses the wire is durable where it goes.
      - With V(async) pieces follow each other in a window, and all of them are durable, and proven, before the copy
        counts. What a power cut costs is read again by the next run, or in a restore found out and told.
      - With V(sync) each piece is durable before the next one is asked for or sent. A backup (O(program=dedup) only)
        then goes into packs of at most 16 MiB, and after whatever has gone down the next one finds all but the last
        pack of each connection (of a very large disk, all but what came within half a minute). Of a restore the
        hypervisor holds what it has acknowledged, chunk by chunk. Both take longer, the more so the longer the way is.
    type: str
    choices: [async, sync]
    default: async
  disk_format:
    description:
      - Format of the copies.
      - V(2gbsparse) needs the kernel module C(multiextent). Where it is not loaded, it is for the time of the copy,
        and the task says so.
    type: str
    choices: [thin, zeroedthick, eagerzeroedthick, 2gbsparse]
    default: thin
  include_config:
    description:
      - Copy the configuration files too (vmx, nvram, vmsd, vmxf, those that are there), under their own names. The
        copied vmx names the disks as the original does.
    type: bool
    default: true
  verify:
    description:
      - How a copy that the host calls whole is proven. Size, kind and extents are looked at in any case.
      - With V(sample) the host is asked whether the copy is a consistent chain. Then source and copy are read again on
        the host and compared, the first and the last 2 MiB and 64 blocks of 64 KiB between, one at a random place in
        each of 64 equal stretches. The price, 8 MiB of either, is the same for a disk of any size. The larger a gap
        between them is, the surer a sample meets it, but it proves no single block that it did not read.
      - With V(full) all of both is read and compared, which takes about as long as the copy again.
      - Content can be compared where source and copy are each one flat file that the host lets be read. That is not so
        for a disk with snapshots of the user's own, or encrypted, or on a host that locks a frozen base; the tables of
        a V(2gbsparse) copy are checked against its size in its stead. RV(disks[].verified) says which it was.
      - V(none) trusts the host.
      - With O(program=dedup) a backup is proven in any case, chunk by chunk. Of a disk that comes out of a store, 64
        chunks (V(sample)) or all (V(full)) are hashed again on the host.
      - With O(program=borg) the host hashes 64 pieces of 1 MiB (V(sample)) or all (V(full)), of a backup when they have
        been read and of a restored disk when it has been written. With V(full) a backup is also read back out of its
        archive before that gets its name.
      - O(program=rsync) does the same, and with V(full) the image is read back before the restore point gets its name.
        Two rsyncs compare their checksums of the whole disk in any case, and with V(full) read both again.
    type: str
    choices: [none, sample, full]
    default: sample
  reserve_percent:
    description:
      - Share of the destination's datastore that must stay free. Where the copy would take more, it is not started.
      - A thin or sparse copy counts with the bytes that are to be read, a thick one with its capacity.
    type: int
    default: 5
  snapshot_reserve_percent:
    description:
      - With O(snapshot_id), the share of each datastore of the virtual machine below which the copy ends, so that the
        snapshot can be removed before the datastore is full.
    type: int
    default: 5
  stall_timeout:
    description:
      - Seconds after which a copy that does not get on is ended and removed. It does not get on when neither the
        percent that the host reports nor size, allocated blocks and time of the target's extents change.
      - For a disk whose one percent takes longer at 4 MiB/s, that time counts instead.
    type: int
    default: 900
  minimum_rate:
    description:
      - With O(program=dedup) and O(program=borg), bytes per second that must move, read on the host or sent, over four
        times O(stall_timeout). A copy that is slower than that is ended and removed. A hypervisor that gives a byte now
        and then would hold its job for ever. V(0) asks for none.
      - At most half of O(bandwidth_limit), where there is one.
    type: int
    default: 8192
  bandwidth_limit:
    description:
      - Most bytes per second, over all connections, at least 65536. With O(program=vmkfstools) it is an error.
    type: int
  journal:
    description:
      - Folder of the job that this copy is a part of, on the hypervisor. Processes and temporary files are noted there
        before they exist, and the job's lease is kept fresh. The role P(stowage.esxi.backup#role) sets it.
    type: str
  job_id:
    description:
      - Id of the job that O(journal) must belong to. A job that was taken over meanwhile copies nothing and fails.
    type: str
  copy_number:
    description:
      - For a VM with several backup points, which of them this copy is for;
        RV(stowage.esxi.backup_job#module:job.copy_number) or one of RV(stowage.esxi.backup_job#module:job.also).
    type: int
  limits:
    description:
      - Wait for a slot of each of these limits before copying. They hold for all tasks, jobs and controllers that use
        the same O(limits_dir) on the same machine. Slots are given in the order of asking; while the copy waits, the
        task prints what for, who has the slots and how many come before it. A slot is free as soon as its holder ends,
        however it ends.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description:
          - What is limited. V(host) is the hypervisor; V(datastore) each datastore that the copy reads or writes, known
            by its UUID, so that a volume of several hosts is one; V(store) the store, the repository or the folder on
            another server; V(link) the other server of a backup point such as C(ssh://user@server/path), or with
            a O(limits[].name) a line that carries this copy.
          - Without it the limit is no more than its O(limits[].name).
        type: str
        choices: [host, datastore, store, link]
      name:
        description:
          - Any name, where O(limits[].kind) is not given. With it, the one host (by its address or its name in the
            inventory), datastore (by its name on this hypervisor, or its UUID) or store (by its place) that is meant;
            such a limit holds in place of one for all of its kind.
          - A copy that has to do with no such host, datastore or store does not go by the limit.
        type: str
      slots:
        description: How many copies may run at the same time.
        type: int
        required: true
  limits_dir:
    description:
      - Folder of the limits, on the machine where the module runs.
    type: path
    default: /var/lib/stowage/limits
  state_dir:
    description:
      - Folder of run records, on the machine where the module runs. Where O(journal) is given, the copy leaves a sign
        there that its run goes on, so that jobs of the same run that wait for a free fork are not taken over.
    type: path
    default: /var/lib/stowage
  limits_timeout:
    description:
      - Seconds to wait for all slots.
    type: int
    default: 86400
  progress_file:
    description:
      - File on the machine where the module runs that always holds the latest progress as JSON. The action plugin
        sets it.
    type: path
  beat_file:
    description:
      - File on the machine where the module runs. The copy ends when it is removed, or has not been touched for 60
        seconds. The action plugin sets it and touches it.
    type: path
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.store_access
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
    details:
      - The plan is that of the real run, with the same disks and the same RV(bytes_total). A virtual machine that is
        powered on where the real run needs a snapshot is only a warning, since an earlier task may have only
        pretended to take it.
  diff_mode:
    support: full
  idempotent:
    support: none
    details:
      - Each run makes a copy. A second one with the same destination finds it taken, and fails without touching it.
      - With O(in_place=true) a second run finds that nothing differs.
  action:
    support: full
    details:
      - The action plugin starts the module in the background where it runs, prints its progress, and ends it when the
        controller is gone. In check mode, and under C(async), the module runs plainly.
seealso:
  - module: stowage.esxi.esxi_snapshot
  - module: stowage.esxi.esxi_vm_info
"""

EXAMPLES = r"""
- name: Copy a powered-off virtual machine to another datastore
  stowage.esxi.vmdk_copy:
    vm: web01
    dest: "[backup] web01"
  delegate_to: backup1

- name: Take a snapshot of a running virtual machine
  stowage.esxi.esxi_snapshot:
    vm: db01
    name: copy
    state: present
  delegate_to: backup1
  register: snapshot

- name: Copy what it has frozen, two copies at a time to this datastore
  stowage.esxi.vmdk_copy:
    vm: db01
    snapshot_id: "{{ snapshot.snapshot.id }}"
    dest: /vmfs/volumes/backup/db01
    limits:
      - name: datastore-backup
        slots: 2
  delegate_to: backup1

- name: Copy one disk as a thick disk
  stowage.esxi.vmdk_copy:
    src: "[datastore1] web01/web01_1.vmdk"
    dest: "[datastore2] copies/data.vmdk"
    disk_format: eagerzeroedthick
  delegate_to: backup1

- name: Bring one disk back out of a store
  stowage.esxi.vmdk_copy:
    program: dedup
    src: "/srv/stowage::20261122T200000.000000Z-0a1b2c/scsi0:1"
    dest: "[datastore1] rescue/data.vmdk"
    store:
      passphrase: "{{ vault_store_passphrase }}"
  delegate_to: backup1
"""

RETURN = r"""
vm:
  description: The virtual machine; null for a disk that was named by its path.
  returned: success
  type: dict
  sample: {name: web01, vmid: 7}
disks:
  description: The copied disks. In check mode those that would be, without what only the copying can tell.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: Device key, or file name of a disk that was named by its path.
      type: str
      returned: success
      sample: "scsi0:0"
    source:
      description: The descriptor that was read.
      type: str
      returned: success
      sample: /vmfs/volumes/5f0a1b2c-00112233-4455-66778899aabb/web01/web01.vmdk
    dest:
      description: The descriptor that was made.
      type: str
      returned: success
      sample: /vmfs/volumes/5f0a1b2d-00112233-4455-66778899aabb/web01/scsi0-0.vmdk
    format:
      description: Its format.
      type: str
      returned: success
      sample: thin
    capacity_bytes:
      description: Size of the virtual disk.
      type: int
      returned: success
      sample: 17179869184
    bytes_to_read:
      description: What the extents of the source's chain occupy, at most its capacity.
      type: int
      returned: success
      sample: 4294967296
    copied_bytes:
      description: What the extents of the copy occupy.
      type: int
      returned: not in check mode
      sample: 4293918720
    seconds:
      description: How long the copy took.
      type: float
      returned: not in check mode
      sample: 51.207
    rate:
      description: Bytes read per second.
      type: int
      returned: not in check mode
      sample: 83874610
    verified:
      description: How the copy was compared with its source, or why it was not.
      type: str
      returned: not in check mode
      sample: sample of 128 blocks of 64 KiB
    read_bytes:
      description: What was read and hashed on the hypervisor, in whole chunks.
      type: int
      returned: all but O(program=vmkfstools), of a backup or with O(in_place=true)
      sample: 4294967296
    same_bytes:
      description: What of the disk was right already, holes included.
      type: int
      returned: O(in_place=true)
      sample: 17163091968
    sent_bytes:
      description:
        - What of the disk has travelled, as it is on the disk. Nothing does between a disk and a store on a datastore
          of the same hypervisor.
      type: int
      returned: all but O(program=vmkfstools)
      sample: 104857600
    fetched_bytes:
      description: What came from the store, as it is stored.
      type: int
      returned: all but O(program=vmkfstools), of a restore
      sample: 52428800
    method:
      description: How the hypervisor's files were reached; V(agent), V(shell), V(clone), or V(rsync) for one there.
      type: str
      returned: all but O(program=vmkfstools)
      sample: agent
    notes:
      description: What was not as it should be although it worked, such as a way that could not be taken.
      type: list
      elements: str
      returned: all but O(program=vmkfstools), of a backup
      sample: []
files:
  description: The copied configuration files.
  returned: success
  type: list
  elements: str
  sample: [/vmfs/volumes/5f0a1b2d-00112233-4455-66778899aabb/web01/web01.vmx]
left_out:
  description: The disks that were not copied, and why.
  returned: success
  type: list
  elements: dict
  sample: [{key: "scsi0:2", reason: "it is a physical raw device mapping, which only the guest or the array can copy"}]
bytes_total:
  description: Bytes to read of all disks together, as planned; the same in check mode and in the run.
  returned: success
  type: int
  sample: 4294967296
capacity_bytes:
  description: Size of all disks together.
  returned: success
  type: int
  sample: 17179869184
copied_bytes:
  description: What all copies occupy.
  returned: not in check mode
  type: int
  sample: 4293918720
seconds:
  description: Time of copying, all disks together.
  returned: not in check mode
  type: float
  sample: 51.207
limits:
  description: The limits that the copy goes by, in the order in which it takes their slots.
  returned: success
  type: list
  elements: dict
  sample: [{kind: datastore, name: 5f0a1b2d-00112233-4455-66778899aabb, slots: 2}]
waited_seconds:
  description: How long the copy waited for its slots.
  returned: not in check mode
  type: float
  sample: 0.001
restore_point:
  description: The restore point that was made in a store.
  returned: O(program=dedup), into a store
  type: str
  sample: /srv/stowage::20261122T200000.000000Z-0a1b2c
told:
  description:
    - Bytes of the whole restore point; V(read), and of these V(zero), V(unchanged) since the parent, V(known) to the
      store, and V(new); V(sent) by the hypervisor, and V(stored), what the new ones take.
  returned: O(program=dedup), into a store
  type: dict
  sample:
    read: 4294967296
    zero: 0
    unchanged: 4190109696
    known: 0
    new: 104857600
    sent: 104857600
    stored: 52428800
hint:
  description:
    - What came of the reference snapshot of the backup before. In V(way), V(off) (not asked for), V(first) (there is
      none yet), V(hinted) (only what was written since was looked at), V(proven) (all was hashed, and the hint was
      right), V(wrong) (all was hashed, and it was not), V(dropped) (it was wrong before) or V(hashed) (it could not be
      relied on, for the V(reason)).
    - Also V(snapshot) and V(parent), the restore point that it belongs to, V(unproven), how many backups in a row have
      gone by hints, V(proven_at), and where it was wrong V(doubtful), the restore points that may lack changes.
  returned: O(program=dedup), into a store
  type: dict
  sample:
    way: hinted
    reason: ""
    unproven: 3
    proven_at: "2026-11-20T20:05:00Z"
    snapshot: 7
    parent: 20261122T200000.000000Z-0a1b2c
room:
  description: What the copy needed on the destination's datastore, and what was there before.
  returned: success
  type: dict
  sample: {datastore: backup, needed_bytes: 4294967296, free_bytes: 591568830464, reserve_bytes: 49996103680}
error:
  description: The failure as data.
  returned: failure
  type: dict
  contains:
    id:
      description: Its stable name.
      type: str
      returned: failure
      sample: copy-clone-failed
    message:
      description: What was being done, on what, and why it failed.
      type: str
      returned: failure
      sample: "esx1: vmkfstools could not copy /vmfs/volumes/a/x.vmdk to /vmfs/volumes/b/x.vmdk (status 13, at 37 %): …"
    hint:
      description: The way out.
      type: str
      returned: failure
      sample: Make room on the destination's datastore
    data:
      description: The figures and names in it.
      type: dict
      returned: failure
      sample: {host: esx1, code: 13, percent: 37}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.heavy import fail
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import copying
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.arguments import store_option
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.limiting import KINDS as LIMIT_KINDS
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import PROGRAMS
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import (
    FORMATS,
    TRANSFER_MODES,
    VERIFY,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.stall import DEFAULT_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import (
    connection_argument_spec,
    endpoint_from_params,
)


def argument_spec() -> dict:
    return {
        **connection_argument_spec(),
        "vm": {"type": "str"},
        "uuid": {"type": "str"},
        "vmid": {"type": "int"},
        "disks": {"type": "list", "elements": "str", "default": []},
        "src": {"type": "str"},
        "snapshot_id": {"type": "int"},
        "dest": {"type": "str", "required": True},
        **store_option(),
        "program": {"type": "str", "choices": list(PROGRAMS), "default": "vmkfstools"},
        "in_place": {"type": "bool", "default": False},
        "connections": {"type": "int", "default": 4},
        "transfer_mode": {"type": "str", "choices": list(TRANSFER_MODES), "default": "async"},
        "disk_format": {"type": "str", "choices": list(FORMATS), "default": "thin"},
        "include_config": {"type": "bool", "default": True},
        "verify": {"type": "str", "choices": list(VERIFY), "default": "sample"},
        "reserve_percent": {"type": "int", "default": 5},
        "snapshot_reserve_percent": {"type": "int", "default": 5},
        "stall_timeout": {"type": "int", "default": DEFAULT_SECONDS},
        "minimum_rate": {"type": "int", "default": copying.MINIMUM_RATE},
        "bandwidth_limit": {"type": "int"},
        "journal": {"type": "str"},
        "job_id": {"type": "str"},
        "copy_number": {"type": "int"},
        "limits": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "required_one_of": [["kind", "name"]],
            "options": {
                "kind": {"type": "str", "choices": list(LIMIT_KINDS)},
                "name": {"type": "str"},
                "slots": {"type": "int", "required": True},
            },
        },
        "limits_dir": {"type": "path", "default": "/var/lib/stowage/limits"},
        "limits_timeout": {"type": "int", "default": 86400},
        "state_dir": {"type": "path", "default": "/var/lib/stowage"},
        "progress_file": {"type": "path"},
        "beat_file": {"type": "path"},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=argument_spec(),
        supports_check_mode=True,
        required_one_of=[["vm", "uuid", "vmid", "src"]],
        mutually_exclusive=[
            ["vm", "uuid", "vmid", "src"],
            ["src", "disks"],
            ["src", "snapshot_id"],
            ["private_key", "private_key_file"],
        ],
    )
    try:
        with open_session(endpoint_from_params(module.params)) as session:
            host = Host(session)
            run = copying.predict if module.check_mode else copying.perform
            with Stores(Access.of(module.params["store"]), host) as stores:
                result = run(host, module.params, stores)
    except StowageError as error:
        fail(module, error)
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
