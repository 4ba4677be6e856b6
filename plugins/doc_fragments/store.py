# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    # Where a store is, and what opens it.
    DOCUMENTATION = r"""
options:
  location:
    description:
      - Path of the store's folder on the machine where the module runs, or C(s3://bucket/prefix).
      - C(/vmfs/volumes/datastore/folder) is a folder on a datastore of a hypervisor, which is reached by SSH. The
        connection options are for that alone, and need not be given for any other place. The hypervisor needs a Python
        3 (6.5 or newer), and the store is never encrypted.
      - C([user@]server:port:/path) is a folder on a Linux server that is reached by SSH from there, and needs a Python
        3.
    type: str
    required: true
    aliases: [path]
  passphrase:
    description:
      - Passphrase or recovery key of an encrypted store.
    type: str
  endpoint:
    description:
      - URL of the object storage, for a store in a bucket that is not at Amazon.
      - Without it, E(AWS_ENDPOINT_URL) is used.
    type: str
  region:
    description:
      - Region of the object storage. Without it, E(AWS_REGION) is used, and else V(us-east-1).
    type: str
  access_key:
    description:
      - Name of the object storage's key. Without it, E(AWS_ACCESS_KEY_ID), or the profile of the user there, is used.
    type: str
  secret_key:
    description:
      - Secret of the object storage's key. Without it, E(AWS_SECRET_ACCESS_KEY), or the profile there, is used.
    type: str
  ssh_key:
    description:
      - File of the private key, on the machine where the module runs, for a store on a server that is reached by SSH. A
        file of that name with C(.known_hosts) behind it holds the server's host keys, as M(stowage.esxi.link_server)
        makes both. Without it, the keys and known hosts of the user there are used.
    type: path
requirements:
  - The Python libraries xxhash and zstandard, on the machine where the module runs.
  - The Python library cryptography for an encrypted store, blake3 for one with that hash, boto3 for one in a bucket.
"""
