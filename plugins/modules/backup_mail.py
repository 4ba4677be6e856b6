#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_mail
short_description: Send a report by mail
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Sends one plain text mail by SMTP, with what Python brings, as the role P(stowage.esxi.report#role) does.
  - A password is sent over an encrypted connection only.
extends_documentation_fragment:
  - stowage.esxi.attributes
attributes:
  check_mode:
    support: full
    details:
      - No connection is made.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each call sends a mail.
  platform:
    support: full
    platforms: posix
options:
  host:
    description: The mail server.
    type: str
    required: true
  port:
    description: Its port. Without it 587, with O(security=tls) 465, with O(security=none) 25.
    type: int
    default: 0
  security:
    description: How the connection is encrypted.
    type: str
    choices: [none, starttls, tls]
    default: starttls
  username:
    description: Account at the mail server, where it wants one.
    type: str
    default: ""
  password:
    description: Its password.
    type: str
    default: ""
  ca_file:
    description:
      - Path of the certificates that are trusted, on the machine where the module runs. Without it, the system's.
    type: str
    default: ""
  validate_certs:
    description: Whether the server's certificate has to be one that is trusted.
    type: bool
    default: true
  sender:
    description: The address that the mail comes from.
    type: str
    required: true
  to:
    description: The addresses that it goes to.
    type: list
    elements: str
    required: true
  subject:
    description: Its subject.
    type: str
    required: true
  body:
    description: Its text.
    type: str
    required: true
  timeout:
    description: How many seconds an answer of the server may take.
    type: int
    default: 60
seealso:
  - module: stowage.esxi.backup_report
"""

EXAMPLES = r"""
---
- name: Send the report
  stowage.esxi.backup_mail:
    host: mail.example.com
    username: stowage
    password: "{{ vault_mail_password }}"
    sender: stowage@example.com
    to: [ops@example.com]
    subject: "{{ made.subject }}"
    body: "{{ made.text }}"
  delegate_to: backup01
"""

RETURN = r"""
---
refused:
  description: Those of the addresses that the server did not take, while it took others.
  returned: success
  type: list
  elements: str
  sample: []
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: mail-not-sent
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
from ansible_collections.stowage.esxi.plugins.module_utils.base import mail
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.heavy import fail


def main():
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 0},
            "security": {"type": "str", "choices": list(mail.SECURITY), "default": "starttls"},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "ca_file": {"type": "str", "default": ""},
            "validate_certs": {"type": "bool", "default": True},
            "sender": {"type": "str", "required": True},
            "to": {"type": "list", "elements": "str", "required": True},
            "subject": {"type": "str", "required": True},
            "body": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params
    account = ("host", "port", "security", "username", "password", "ca_file")
    server = mail.Server(
        **{name: params[name] for name in account}, check=params["validate_certs"], timeout_seconds=params["timeout"]
    )
    letter = mail.Mail(params["sender"], mail.recipients(params["to"]), params["subject"], params["body"])
    try:
        refused = [] if module.check_mode else mail.send(server, letter)
    except StowageError as error:
        fail(module, error)
    for address in refused:
        module.warn(f"{server.name} did not take the address {address}")
    module.exit_json(changed=True, refused=refused)


if __name__ == "__main__":
    main()
