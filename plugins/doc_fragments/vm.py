# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    # Which VM is meant.
    DOCUMENTATION = r"""
options:
  vm:
    description:
      - Display name of the virtual machine, compared exactly. Any name that ESXi accepts works.
      - A name that several VMs have is an error that lists them; use O(uuid) or O(vmid) then.
    type: str
  uuid:
    description:
      - Instance UUID of the virtual machine, else its BIOS UUID, with or without dashes and blanks.
    type: str
  vmid:
    description:
      - Id of the virtual machine in the inventory of its host. It changes when the VM is registered anew.
    type: int
"""

    # For modules whose work may belong to a job.
    JOURNAL = r"""
options:
  journal:
    description:
      - Folder of the job that this task belongs to, on a datastore of the hypervisor. It must exist.
      - What would have to be undone is written to its file C(journal) before it is done, and its file C(lease) is
        refreshed while the task waits.
      - Leave it out for work that belongs to no job.
    type: str
  job_id:
    description:
      - Id of the job that O(journal) must belong to. A job that was taken over meanwhile, or whose virtual machine is
        another one than this, changes nothing and fails.
      - A virtual machine is powered on for a job only where its journal says that the job has stopped it, and nobody
        has started it since.
    type: str
"""
