# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names that a job gives to things, all derived, so that they can be predicted and recognised."""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from datetime import datetime, timezone

JOB_FOLDER = ".stowage-job"
PARTIAL_PREFIX = ".partial-"
REMOVING_PREFIX = ".removing-"
MANIFEST = "stowage.json"
HOLD_FILE = "stowage.hold"
POINT_TIME = "%Y%m%dT%H%M%SZ"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_POINT_NAME = re.compile(r"\d{8}T\d{6}Z\Z")


def slug(name: str, length: int = 40) -> str:
    """A VM name may hold anything; a folder name made from it holds only what no shell or file system minds."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    safe = re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._")
    return safe[:length].rstrip("-._") or "vm"


def identity_hash(identity: str) -> str:
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def point_folder_name(name: str, identity: str) -> str:
    """The folder of one VM in a backup point. The hash alone identifies it; the slug is for people."""
    return f"{slug(name)}-{identity_hash(identity)}"


def valid_run_id(text: str) -> bool:
    return bool(_RUN_ID.match(text))


def job_id(run_id: str, host: str, identity: str, kind: str = "backup") -> str:
    """The same run, host and VM always give the same job, so that every call of a run finds its own lock again.

    Without the host, two hosts of one run that show the same VM would take each other's lock for their own.
    """
    mark = "r" if kind == "restore" else "b"
    return f"{run_id}-{mark}{identity_hash(f'{identity}@{host}')}"


def is_job_id(text: str, run_id: str) -> bool:
    return valid_run_id(run_id) and re.fullmatch(re.escape(run_id) + r"-[br][0-9a-f]{12}", text) is not None


def snapshot_name(job: str) -> str:
    return f"stowage-{job}"


def point_time(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime(POINT_TIME)


def parse_point_time(text: str) -> datetime:
    return datetime.strptime(text, POINT_TIME).replace(tzinfo=timezone.utc)


def is_point_name(text: str) -> bool:
    """Only a real date counts: 20261399T000000Z has the shape, yet names no moment."""
    if not _POINT_NAME.match(text):
        return False
    try:
        parse_point_time(text)
    except ValueError:
        return False
    return True


def partial_name(time: str, job: str) -> str:
    return f"{PARTIAL_PREFIX}{time}-{job}"


def is_unnamed(directory: str) -> bool:
    """Whether a folder has the name that only a restore's job gives."""
    return posixpath.basename(directory).startswith(partial_name("restore", ""))


def unnamed_folder(directory: str, job: str) -> str:
    """Where a restore makes its folder, and where it goes away: only a folder with our lock in it has the VM's name."""
    return posixpath.join(posixpath.dirname(directory), partial_name("restore", job))


def disk_file_name(key: str) -> str:
    """scsi0:0 -> scsi0-0.vmdk"""
    return key.replace(":", "-") + ".vmdk"


def file_label(text: str) -> str:
    """A file name for any text: readable, and different for different texts."""
    return f"{slug(text)}-{identity_hash(text)}"
