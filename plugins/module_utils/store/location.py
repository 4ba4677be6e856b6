# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a store is, as an operator writes it: a folder's path, or s3://bucket/prefix."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.s3 import S3Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadLocation

_S3 = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._/-]*")


@dataclass(frozen=True)
class S3Access:
    """How to reach the object storage. What is not given, boto3 takes from its environment variables and files."""

    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None


def backend_at(location: str, access: S3Access | None = None) -> Backend:
    """The place itself; whether a store is there is for `Store.open` to say."""
    if location.startswith(_S3):
        return _bucket(location, access or S3Access())
    if not location:
        raise BadLocation(location=location, reason="it is empty")
    if "://" in location:
        raise BadLocation(location=location, reason="no other address than s3:// is known")
    if "\0" in location:
        raise BadLocation(location=location, reason="a path has no NUL in it")
    return LocalBackend(os.path.expanduser(location))


def _bucket(location: str, access: S3Access) -> Backend:
    bucket, _slash, prefix = location[len(_S3) :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise BadLocation(location=location, reason=f"{bucket!r} is no name of a bucket")
    if not _PREFIX.fullmatch(prefix):
        raise BadLocation(location=location, reason="a prefix has letters, digits, dots, dashes and slashes only")
    region = access.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return S3Backend(
        bucket,
        prefix,
        endpoint=access.endpoint,
        access_key=access.access_key,
        secret_key=access.secret_key,
        region=region,
    )
