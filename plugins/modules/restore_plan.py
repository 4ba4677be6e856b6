#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: restore_plan
short_description: Choose a restore point and plan its restore to an ESXi host
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Lists the restore points of a backup point, chooses one, and decides where its disks go and what the restored VM's
    configuration will be.
  - It fails, with every reason and way out, when the folder exists, the name is registered (running or not), the
    virtual hardware is too new for the host, a port group is missing and not mapped, or there is no room.
  - Where this very restore point was restored to this name and folder before, RV(plan.already) says so.
  - Nothing is changed on the host. With O(run_id) the VM's entry of the run's record is written, also where the plan
    fails, so that every VM that was asked for is in the record.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.store_access
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing, and writes no entry of the record then.
  diff_mode:
    support: partial
    details:
      - With O(in_place=true), the configuration before and after, and the disks that are compared. Which of their
        chunks differ is known only when the host has hashed them, which planning does not do.
  idempotent:
    support: full
options:
  point:
    description:
      - The backup point, the folder of one VM in it, or the folder of one restore point, as the target host sees it.
      - With O(program=dedup) a store, a path on the machine where the module runs, C(s3://bucket/prefix) or a folder on
        a datastore of the hypervisor, or one restore point in it, as C(STORE::POINT).
      - With O(program=borg) a repository, a path on the machine where the module runs or C(ssh://user@server:port/path),
        or one archive in it, as C(REPOSITORY::ARCHIVE).
      - With O(program=rsync) the backup point, the folder of one VM in it or of one restore point, on the machine where
        the module runs.
      - With all of them but V(vmkfstools) also C([user@]server:port:/path), on a server that is reached from there by
        SSH.
    type: str
    required: true
  program:
    description: What moved the bytes when the backup was made, and is to move them back.
    type: str
    choices: [vmkfstools, rsync, dedup, borg]
    default: vmkfstools
  vm:
    description:
      - Name, identity or UUID of the VM to bring back. Not needed where O(point) holds only one.
    type: str
  at:
    description:
      - The newest restore point at or before this time is taken, ISO 8601, in UTC where it names no zone, or the name
        of a restore point's folder. Without it, the newest of all.
    type: str
  made_by:
    description:
      - Inventory name of the hypervisor whose restore points are meant, where several have backed up machines of one
        name or UUID. Without it, all.
    type: str
  datastore:
    description:
      - The datastore to restore to. The VM gets a folder after its name there. Needed unless O(directory) is given.
    type: str
  directory:
    description:
      - The folder to restore to, as V([datastore] folder) or V(/vmfs/volumes/datastore/folder). It must not exist, its
        parent must. It wins over O(datastore).
    type: str
  name:
    description: Name of the restored VM. Without it, the name it had.
    type: str
  networks:
    description: Port groups of the target host by the ones the VM had.
    type: dict
    default: {}
  connect_networks:
    description: With V(false) the network cards come back unconnected, and no port group needs to be there.
    type: bool
    default: true
  uuid:
    description: Whether the VM keeps its UUIDs or gets new ones when it is powered on.
    type: str
    choices: [keep, new]
    default: keep
  mac:
    description: Whether its network cards keep their addresses.
    type: str
    choices: [keep, new]
    default: keep
  disk_format:
    description: Format of the restored disks.
    type: str
    choices: [thin, zeroedthick, eagerzeroedthick]
    default: thin
  reserve_percent:
    description: Share of the target datastore that must stay free.
    type: int
    default: 5
  in_place:
    description:
      - Restore over the disks of a VM that is registered on the host and powered off, and write only the chunks that
        differ. It is the VM in O(directory), else the one named O(name), else the one with the identity of the restore
        point. O(datastore) and O(disk_format) are not used; a thin disk stays thin.
      - Refused where the VM is not off, has snapshots, or anything else stands on its disks (a linked clone, another
        VM); where a disk of the restore point is not there or of another size; and where the disk is none that is one
        flat file.
      - Its configuration becomes that of the restore point; it keeps its name and the names of its files. Disks that
        the restore point does not have stay as they are.
      - Needs O(program=dedup).
    type: bool
    default: false
  safety_point:
    description:
      - With O(in_place=true), make a restore point of what the disks hold now before anything of them is overwritten.
        It is never what "the newest" means in a later restore; name it in O(point) to go back to it.
    type: bool
    default: true
  replica_of:
    description:
      - Make it a replica of the VM on the hypervisor of this name. It is marked as one, and M(stowage.esxi.vm_replica)
        tells when somebody has touched it. The role P(stowage.esxi.replicate#role) sets it.
    type: str
  replica_touched:
    description:
      - Whether a replica that is not as it was left is written over, and what was done to it given up. Judged when the
        plan is made; from then on its start is watched.
    type: str
    choices: [refuse, resync]
    default: refuse
  run_id:
    description:
      - Name of the run. Without it, no entry of a record is written.
    type: str
  state_dir:
    description:
      - Folder on the machine where the module runs that holds the run records and the mirror of the jobs' journals.
    type: path
    default: /var/lib/stowage
  inventory_host:
    description:
      - Name of the hypervisor in the inventory, as it shall stand in journals and records. Without it, O(hostname).
    type: str
seealso:
  - module: stowage.esxi.backup_job
  - module: stowage.esxi.vmdk_copy
"""

EXAMPLES = r"""
---
- name: Plan to bring web01 back as it was on Sunday, beside the running one
  stowage.esxi.restore_plan:
    point: /vmfs/volumes/backup/nightly
    vm: web01
    at: "2026-11-22T20:00:00Z"
    datastore: datastore1
    name: web01-restored
    uuid: new
    mac: new
    networks:
      VM Network: Isolated
  delegate_to: backup01
  register: planned
"""

RETURN = r"""
---
plan:
  description: The plan. It is what O(stowage.esxi.backup_job#module:plan) takes, with V(kind=restore).
  returned: success
  type: dict
  contains:
    vm:
      description: Name of the restored VM.
      type: str
      returned: success
      sample: web01-restored
    identity:
      description: What the job is known by; made from the target.
      type: str
      returned: success
    directory:
      description: The folder it goes to.
      type: str
      returned: success
    datastore:
      description: The name of its datastore.
      type: str
      returned: success
      sample: datastore1
    uuid:
      description: V(keep) or V(new), as asked for.
      type: str
      returned: success
    mac:
      description: V(keep) or V(new), as asked for.
      type: str
      returned: success
    networks:
      description:
        - Its network cards, with V(nic), V(was) (the port group it had), V(network) (the one it gets), V(connected) and
          V(mac) (the address it had).
      type: list
      elements: dict
      returned: success
    vmx_path:
      description: Its configuration file.
      type: str
      returned: success
    vmx_text:
      description: The text of that file.
      type: str
      returned: success
    restore_point:
      description: The chosen restore point, with V(path), V(time), V(vm), V(identity), V(host), V(bytes), V(disks).
      type: dict
      returned: success
    disks:
      description: The disks, with V(key), V(src), V(dest), V(capacity_bytes), V(bytes_to_read), V(format).
      type: list
      elements: dict
      returned: success
    files:
      description: Small files to copy, with V(src) and V(dest). The old vmsd stays in the restore point.
      type: list
      elements: dict
      returned: success
    notes:
      description: What was changed in the configuration that an operator should know.
      type: list
      elements: str
      returned: success
    needs_key_provider:
      description: Why the VM starts only where its key provider is; empty where it needs none.
      type: str
      returned: success
      sample: it has a virtual TPM
    room_needed:
      description: What it may take on the target datastore.
      type: int
      returned: success
    already:
      description: Whether this restore point is there already under this name, in this folder.
      type: bool
      returned: success
    vmid:
      description: The id of that VM, or of the one that is restored in place; null otherwise.
      type: int
      returned: success
    in_place:
      description:
        - Of a restore in place, with V(safety_point) (whether one is made), V(identity) of the VM as it is, and V(torn)
          (whether an earlier one was not finished); null otherwise.
      type: dict
      returned: success
text:
  description: The plan for people, one line a disk; also where the restore is refused for what the plan found.
  returned: success
  type: str
entry:
  description: The VM's entry of the record; also with a failure.
  returned: with O(run_id), not in check mode
  type: dict
points:
  description: All restore points that were found, newest first.
  returned: success
  type: list
  elements: dict
unusable:
  description: Folders that look like restore points and are not, with the reason.
  returned: success
  type: list
  elements: str
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: restore-refused
    message:
      description: What was being done, on what, and why it failed.
      type: str
      returned: failure
    hint:
      description: The way out.
      type: str
      returned: failure
    data:
      description: The parts of the message as values.
      type: dict
      returned: failure
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.heavy import fail
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.options import open_host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import arguments, inplace, restore, restoreplanning
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores


def main():
    module = AnsibleModule(argument_spec=arguments.restore_spec(), supports_check_mode=True)
    params = module.params
    try:
        way = inplace if params["in_place"] else restore
        way.check_request(params)
        with open_host(params) as host, Stores(Access.of(params["store"]), host) as stores:
            answer = way.answer(host, params, stores)
    except StowageError as error:
        fail(module, error, **restoreplanning.refused(params, error, module.check_mode))
    module.exit_json(changed=False, **restoreplanning.noted(params, answer, module.check_mode))


if __name__ == "__main__":
    main()
