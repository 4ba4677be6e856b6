#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: linked_work
short_description: Start the one work that a link permits on another machine
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Starts the playbook that a link's restriction of kind V(work) permits on the link's target, waits for it, and tells
    how it went. M(stowage.esxi.link_server) makes such a link.
  - The module runs on the source of the link, as the user that its key was made for. It uses that key, the host keys
    pinned beside it, and nothing else.
  - A work runs in the background on the target. It goes on when the link is cut, when this task is ended, and when the
    source is restarted. By its O(id) it can be asked for again.
  - One work of a name runs at a time on a target, whoever starts it.
extends_documentation_fragment:
  - stowage.esxi.attributes
attributes:
  check_mode:
    support: full
    details:
      - Asks how things stand, and starts nothing.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - With an O(id), a second run starts nothing and tells of the work that there was. Without one each run is a work.
  action:
    description: Has an action plugin that runs on the controller, so some parts of the task happen there.
    support: partial
    details:
      - The action plugin takes O(target), O(address), O(address_port) and O(user) from the inventory, as
        M(stowage.esxi.link_server) does. No credential is read.
  async:
    description: Supports being used with the C(async) keyword.
    support: full
  platform:
    description: The platform on which the module itself runs.
    support: full
    platforms: posix
options:
  link:
    description: Name of the link.
    type: str
    required: true
  target:
    description:
      - Name of the target, as the link has it; the inventory name where there is one. Without it, the host that the
        task is for, which is then delegated to the source.
    type: str
  source_name:
    description: What the source is called in messages.
    type: str
  address:
    description:
      - Name or address of the target as the source sees it. Without it, C(stowage_link_address) or C(ansible_host) of
        the target, or its name.
    type: str
  address_port:
    description: Port of SSH of the target. Without it, C(stowage_link_port) or C(ansible_port) of the target, or 22.
    type: int
    default: 22
  user:
    description: Account of the target that the link opens. Without it, C(ansible_user) of the target, or root.
    type: str
    default: root
  key_folder:
    description: Folder of the link's key, where it is not C(~/.ssh).
    type: path
  state:
    description:
      - V(finished) starts the work and waits until it has ended; a work that failed fails the task.
      - V(started) starts it and does not wait.
      - V(status) only asks for O(id), or for the work that was started last. Whatever the answer, it does not fail.
    type: str
    choices: [finished, started, status]
    default: finished
  id:
    description:
      - Id of the work, up to 64 letters, digits, dots, dashes and underscores. The run that it starts has it as its run
        id, so that its record is found by it. Without it, a new one is made.
      - A work that there is already is not started again.
    type: str
  extra_vars:
    description:
      - Values for extra variables that the link's restriction lets be set. All others are refused there.
    type: dict
    default: {}
  if_running:
    description: What is done where a work of another id runs. V(refuse) fails. V(join) takes that one as asked for.
    type: str
    choices: [refuse, join]
    default: refuse
  timeout:
    description: Seconds to wait for the end. The work goes on after that.
    type: int
    default: 86400
  poll:
    description: Seconds between two questions, at most.
    type: int
    default: 15
  cut_timeout:
    description: Seconds for which the link may be cut before the task fails. The work goes on meanwhile.
    type: int
    default: 600
seealso:
  - module: stowage.esxi.link_server
"""

EXAMPLES = r"""
---
- name: Back up on the second backup server, and verify there; recover where either fails
  block:
    - name: Back up
      stowage.esxi.linked_work:
        link: nightly
        target: backup2
        extra_vars:
          backup_how: warm

    - name: Verify
      stowage.esxi.linked_work:
        link: verify
        target: backup2
  rescue:
    - name: Recover
      stowage.esxi.linked_work:
        link: recover
        target: backup2

- name: Ask how the backup goes
  stowage.esxi.linked_work:
    link: nightly
    target: backup2
    state: status
  register: nightly
"""

RETURN = r"""
---
work:
  description: The work.
  returned: when the target could be asked
  type: dict
  contains:
    id:
      description: Its id, and that of its run.
      type: str
      returned: success
      sample: 20261122T205450Z-3f9a2c
    outcome:
      description:
        - V(succeeded) or V(failed) where it has ended, by what its playbook ended with. V(running) while any of its
          processes is there. V(lost) where they are gone without an end, since they were killed or the machine was
          started anew. V(unknown) for an id that the target does not remember, V(none) where it remembers none.
      type: str
      returned: success
      sample: succeeded
    rc:
      description: What its playbook ended with; null before that.
      type: int
      returned: success
      sample: 0
    started:
      description: When it was started, by the target's clock.
      type: str
      returned: success
      sample: "2026-11-22T20:54:50Z"
    ended:
      description: When it ended; null before that.
      type: str
      returned: success
    reason:
      description: Why it was lost.
      type: str
      returned: success
joined:
  description: Whether the work was there before this task.
  returned: when the target could be asked
  type: bool
output:
  description: The end of what the playbook printed, of a work that is over.
  returned: when the target could be asked
  type: list
  elements: str
output_cut:
  description: Whether it had printed more than that.
  returned: when the target could be asked
  type: bool
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: link-work-failed
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
from ansible_collections.stowage.esxi.plugins.module_utils.link import starting


def argument_spec():
    return dict(
        link=dict(type="str", required=True),
        target=dict(type="str"),
        source_name=dict(type="str"),
        address=dict(type="str"),
        address_port=dict(type="int", default=22),
        user=dict(type="str", default="root"),
        key_folder=dict(type="path", no_log=False),
        state=dict(type="str", choices=["finished", "started", "status"], default="finished"),
        id=dict(type="str"),
        extra_vars=dict(type="dict", default={}),
        if_running=dict(type="str", choices=["refuse", "join"], default="refuse"),
        timeout=dict(type="int", default=86400),
        poll=dict(type="int", default=15),
        cut_timeout=dict(type="int", default=600),
    )


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result, error = starting.perform(module.params, check_mode=module.check_mode)
    except StowageError as reason:
        fail(module, reason)
    if error is not None:
        fail(module, error, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
