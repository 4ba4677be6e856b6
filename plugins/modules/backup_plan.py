#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_plan
short_description: Plan the backup of the VMs of one ESXi host
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Selects virtual machines of a hypervisor, and decides for each of them and each of its disks what a backup would do,
    with the reason, the bytes to read and the room needed.
  - Nothing is changed on the hypervisor. Outside check mode the skeleton of the run's record is written to
    O(state_dir), with an entry for every VM, so that a run that is killed has a record too.
  - A VM that cannot be backed up as wished has RV(plan.vms[].problems) and is recorded as failed; the others go on.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.store_access
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
    details:
      - The plan is the same as in a real run. No record is written.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  policy:
    description:
      - The wishes. O(policy.point) must be given.
      - All keys but V(select), V(exclude), V(allow_none), V(unknown_names) and V(vms) may be given per VM in
        O(policy.vms).
      - A key that is not known is an error, so that a slip of the pen is found before the night.
    type: dict
    required: true
    suboptions:
      select:
        description:
          - What to back up. Each item is a mapping whose terms must all hold (V(all), V(running), V(name), V(uuid),
            V(pattern), V(regex), V(tag), V(datastore), V(query)), or a text such as V(all), V(running),
            V(pattern:web*), V(tag:nightly), or an exact VM name. The items add up.
          - V(query) is a JMESPath expression over the list of VMs as M(stowage.esxi.esxi_vm_info) returns it; it
            returns VMs, their ids or their names.
          - A replica that M(stowage.esxi.vm_replica) calls ready, and that is off, is meant only by its exact name or
            UUID. A host on which nothing else would be selected is fine.
        type: list
        elements: raw
        default: []
      exclude:
        description: What to leave out of that, in the same form.
        type: list
        elements: raw
        default: []
      allow_none:
        description: Whether selecting nothing is all right.
        type: bool
        default: false
      unknown_names:
        description: Whether a name that this host does not have is an error for that name.
        type: str
        choices: [error, ignore]
        default: error
      vms:
        description:
          - Other settings for single VMs, by name or UUID. V(disks) is merged with that of O(policy.disks), V(keep)
            replaces O(policy.keep).
          - A key that no VM of this host has changes nothing; the plan lists it in RV(plan.policies_without_vm).
        type: dict
        default: {}
      point:
        description:
          - The backup point, a folder on a datastore that the hypervisor mounts. For the program V(dedup) it is the
            store, a path on the machine where the module runs, C(s3://bucket/prefix), or a folder on a datastore for
            one that the hypervisor keeps itself; for V(borg) the repository, a path there or
            C(ssh://user@server:port/path); for V(rsync) a folder there.
          - For all of them but V(vmkfstools) also C([user@]server:port:/path), a folder on a Linux server that is
            reached from there by SSH (O(store.ssh_key)); an IPv6 address stands in square brackets.
          - Needed, unless O(policy.points) is given.
        type: str
      points:
        description:
          - Several backup points, in the place of O(policy.point). Each is a text, or a mapping of V(point) and any of
            V(program), V(disk_format), V(verify), V(keep), V(rotate) and V(reserve_percent), which then hold for it
            alone.
        type: list
        elements: raw
        default: []
      how:
        description:
          - V(hot) copies under a snapshot while the VM runs; V(warm) shuts the guest down for the snapshot only;
            V(cold) keeps it off for the whole copy.
          - A VM that is off or suspended is copied as it stands, whatever is asked for.
        type: str
        choices: [hot, warm, cold]
        default: hot
      program:
        description:
          - What moves the bytes. V(vmkfstools) copies to a datastore of the hypervisor, V(rsync) into images in folders
            on the machine where the module runs, V(dedup) into a store there, or in a bucket, V(borg) into a repository
            there, or on another server.
        type: str
        choices: [vmkfstools, rsync, dedup, borg]
        default: vmkfstools
      disk_format:
        description: Format of the copied disks.
        type: str
        choices: [thin, zeroedthick, eagerzeroedthick, 2gbsparse]
        default: thin
      verify:
        description: How each copy is compared with its source; see O(stowage.esxi.vmdk_copy#module:verify).
        type: str
        choices: [none, sample, full]
        default: sample
      transfer_mode:
        description:
          - When what is copied is durable; see O(stowage.esxi.vmdk_copy#module:transfer_mode). V(sync) is for
            O(policy.program=dedup).
        type: str
        choices: [async, sync]
        default: async
      disks:
        description: Device keys to V(include) (all others are left out) and to V(exclude).
        type: dict
        default: {}
      quiesce:
        description: Quiesce the guest's file systems for the snapshot.
        type: bool
        default: false
      memory:
        description: Take the memory into the snapshot.
        type: bool
        default: false
      force_off:
        description: Whether a guest that does not shut down may be switched off hard.
        type: bool
        default: false
      shutdown_timeout:
        description: Seconds that a guest may take to shut down.
        type: int
        default: 600
      snapshot_timeout:
        description: Seconds that a snapshot may take.
        type: int
        default: 600
      power_on_timeout:
        description: Seconds that powering on may take.
        type: int
        default: 300
      consolidation_timeout:
        description: Seconds that removing the snapshot may take.
        type: int
        default: 7200
      copy_stall_timeout:
        description: Seconds without any progress after which the copy of a disk is ended.
        type: int
        default: 900
      keep:
        description:
          - How many restore points stay, by V(last), V(hourly), V(daily), V(weekly), V(monthly), V(yearly) and
            V(within_days), and never fewer than V(min), which is 1 where it is not given. Without it the last 7.
          - A rule that is not given keeps nothing. What O(policy.vms) says for a VM replaces this as a whole.
        type: dict
        default: {}
      rotate:
        description: Whether restore points that no rule keeps are removed after a success.
        type: bool
        default: true
      reserve_percent:
        description: Share of the backup point's datastore that must stay free.
        type: int
        default: 5
      snapshot_reserve_percent:
        description: Share of the VM's own datastores that must be free before a snapshot is taken.
        type: int
        default: 5
      reference:
        description:
          - Whether our snapshot stays until the next backup, which then looks only at what was written since; for the
            program V(dedup). What O(policy.vms) says for a VM changes only what it names.
          - V(enabled) (false); the limits V(max_age_hours) (72), V(max_size_percent) of the VM's capacity (20) and
            V(reserve_percent) of its datastores (10), beyond which M(stowage.esxi.backup_recover) removes it;
            V(prove_backups) (7) and V(prove_days) (30), after which a backup hashes everything, as a proof.
        type: dict
        default: {}
      priority:
        description: VMs of a higher one come before those of a lower one, from -1000 to 1000.
        type: int
        default: 0
      only_older_than_hours:
        description:
          - A VM whose newest restore point is younger is skipped, with 0 none is. What this hypervisor has made counts.
        type: int
        default: 0
      windows:
        description:
          - When a VM may be begun, each with V(from), V(to) (times of day in quotes), V(timezone) and V(days) on which
            it opens. Without any, at all times.
        type: list
        elements: dict
        default: []
  run_id:
    description:
      - Name of the run, the same on all hosts; letters, digits, dots, dashes and underscores.
    type: str
    required: true
  host_tags:
    description:
      - Tags of the VMs of this host, for V(tag) in O(policy.select).
      - A mapping from VM name or UUID to a list of tags.
    type: dict
    default: {}
  write_record:
    description:
      - Whether the skeleton of the run's record is written; V(false) where the plan is only to be looked at.
    type: bool
    default: true
  inventory_host:
    description:
      - Name of the hypervisor in the inventory, as it shall stand in journals and records. Without it, O(hostname).
    type: str
  state_dir:
    description:
      - Folder on the machine where the module runs that holds the run records and the mirror of the jobs' journals.
    type: path
    default: /var/lib/stowage
requirements:
  - The Python library jmespath, where a V(query) is used
seealso:
  - module: stowage.esxi.backup_job
  - module: stowage.esxi.backup_record
"""

EXAMPLES = r"""
---
- name: Plan the nightly backup of all running VMs but the templates
  stowage.esxi.backup_plan:
    run_id: "{{ backup_run_id }}"
    inventory_host: "{{ inventory_hostname }}"
    policy:
      point: /vmfs/volumes/backup/nightly
      select:
        - running: true
      exclude:
        - pattern: "tpl-*"
      keep:
        last: 3
        weekly: 4
      vms:
        db01:
          how: cold
          disks:
            exclude: ["scsi0:2"]
  delegate_to: backup01
  register: planned

- name: Show it
  ansible.builtin.debug:
    msg: "{{ planned.plan.text }}"
"""

RETURN = r"""
---
plan:
  description: The plan of this host.
  returned: success
  type: dict
  contains:
    schema:
      description: Version of this structure.
      type: int
      returned: success
      sample: 1
    run_id:
      description: The run.
      type: str
      returned: success
      sample: 20261122T205450Z
    host:
      description: The hypervisor's name in the inventory.
      type: str
      returned: success
      sample: esx1
    policy:
      description: The settings that hold for all VMs without settings of their own.
      type: dict
      returned: success
    vms:
      description:
        - One entry for each selected VM, in the order of work, which goes by V(priority), then by the age of the
          newest restore point, those without one first.
        - An entry is what O(stowage.esxi.backup_job#module:plan) takes.
      type: list
      elements: dict
      returned: success
      contains:
        vm:
          description: Its name.
          type: str
          returned: success
          sample: web01
        identity:
          description: What it is known by through renames.
          type: str
          returned: success
        vmid:
          description: Its id on the host.
          type: int
          returned: success
          sample: 12
        power_state:
          description: Its power state when the plan was made.
          type: str
          returned: success
          sample: poweredOn
        how:
          description: How it was to be backed up.
          type: str
          returned: success
          sample: hot
        effective_how:
          description: How it will be, as it stands.
          type: str
          returned: success
          sample: cold
        why:
          description: The reason for that. V(its own policy) where the VM has a V(how) of its own in O(policy.vms).
          type: str
          returned: success
          sample: "powered off: its disks are at rest"
        ready:
          description: Whether it can be backed up, and is to be by this run.
          type: bool
          returned: success
        newest_at:
          description: When its newest restore point was made; empty where there is none.
          type: str
          returned: success
          sample: "2026-11-21T20:54:50Z"
        aside:
          description:
            - Why this run does not begin it, with V(status) (skipped or missed), V(why) and V(error); null where it
              does.
          type: dict
          returned: success
        disks:
          description:
            - Every disk with V(key), V(label), V(source), V(datastore), V(capacity_bytes), V(bytes_to_read),
              V(action) (copy, excluded or cannot) and V(reason).
          type: list
          elements: dict
          returned: success
        disk_keys:
          description: The keys of the disks to copy.
          type: list
          elements: str
          returned: success
          sample: ["scsi0:0"]
        target:
          description: The folder of this VM in the backup point.
          type: str
          returned: success
          sample: /vmfs/volumes/backup/nightly/web01-3f2a9c01b7de
        bytes_to_read:
          description: What the chains of these disks hold, which is what a reader may have to read.
          type: int
          returned: success
        capacity_bytes:
          description: Capacity of these disks.
          type: int
          returned: success
        room_needed:
          description: What the copy may take on the backup point.
          type: int
          returned: success
        problems:
          description: What stands against it, each with id, message and hint.
          type: list
          elements: dict
          returned: success
        needs_key_provider:
          description: Why the copy can be used only where the VM's key provider is; empty where it needs none.
          type: str
          returned: success
          sample: it has a virtual TPM
        warnings:
          description: What the operator should know.
          type: list
          elements: str
          returned: success
        policy:
          description: The settings that hold for this VM.
          type: dict
          returned: success
        copy_number:
          description: The number of the backup point in O(policy.points) that this entry is for, from 0.
          type: int
          returned: success
        also:
          description:
            - The entries for the VM's other backup points, which share the bracket. The first that is ready leads;
              one that is not has its V(problems), and is left out.
          type: list
          elements: dict
          returned: success
    excluded:
      description:
        - Names of the VMs that O(policy.select) means and O(policy.exclude) takes out.
      type: list
      elements: str
      returned: success
    policies_with_vm:
      description: Keys of O(policy.vms) that mean a VM of this host.
      type: list
      elements: str
      returned: success
    policies_without_vm:
      description:
        - Keys of O(policy.vms) that mean no VM of this host. The run's record warns of those that mean none on any
          host.
      type: list
      elements: str
      returned: success
    not_selected:
      description: Names of the VMs that were not selected.
      type: list
      elements: str
      returned: success
    problems:
      description: Names that are unknown or mean several VMs, each with V(vm) and V(error).
      type: list
      elements: dict
      returned: success
    totals:
      description: Counts and sums over the VMs that are ready.
      type: dict
      returned: success
    text:
      description: The plan as a table for people.
      type: str
      returned: success
record:
  description: The file with this host's part of the record's skeleton; null where none was written.
  returned: success
  type: str
  sample: /var/lib/stowage/runs/20261122T205450Z/hosts/esx1-0a1b2c3d4e5f.json
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: nothing-selected
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
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import arguments, planning
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores


def main():
    module = AnsibleModule(argument_spec=arguments.plan_spec(), supports_check_mode=True)
    params = module.params
    try:
        with open_host(params) as host, Stores(Access.of(params["store"]), host) as stores:
            label = params["inventory_host"] or host.name
            plan = planning.plan_backup(host, params["policy"], params["run_id"], label, params["host_tags"], stores)
            writes = params["write_record"] and not module.check_mode
            record = planning.write_skeleton(params["state_dir"], plan, host) if writes else None
    except StowageError as error:
        fail(module, error)
    for vm in plan.vms:
        for warning in vm.warnings:
            module.warn(f"{vm.vm}: {warning}")
    module.exit_json(changed=False, plan=plan.as_dict(), record=record)


if __name__ == "__main__":
    main()
