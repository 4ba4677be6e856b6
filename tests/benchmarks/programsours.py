# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One machine's backup by one program, a process of its own: the job as the role tells it, around the copy step.

python programsours.py PROGRAM POINT --machine NAME --state FOLDER --host … --key … --known-hosts …

Before the copy step, and after it, a line of JSON is printed and one is waited for: whoever measures looks then.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, copying, ending, planning
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores, backend_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Repository
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

LABEL = "host"


def founded(program: str, point: str, access: Access) -> None:
    """What a store or a repository needs, as the role's preflight makes it."""
    if program == "borg" and not Path(point).exists():
        Repository(point).make("none")
    if program == "dedup" and not Path(point).exists():
        Store.create(backend_of(point, None, access)).close()


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)
    sys.stdin.readline()


def run(host: Host, given: argparse.Namespace, stores: Stores) -> Mapping[str, Any]:
    """The machine is off, so that nothing is to be stopped, and nothing frozen. What the copy told."""
    name = uuid.uuid4().hex[:12]
    wishes = {
        "program": given.program,
        "point": given.point,
        "select": [f"name:{given.machine}"],
        "how": "cold",
        "reserve_percent": 0,
    }
    (entry,) = planning.plan_backup(host, wishes, name, LABEL, {}, stores).as_dict()["vms"]
    if entry["problems"]:
        raise SystemExit(f"the plan says: {entry['problems']}")
    context = Context(host, entry, name, given.state, LABEL, "benchmark", stores=stores)
    job, _new = backup.start(context)
    params = {
        "vmid": job.vmid,
        "disks": job.disk_keys,
        "dest": job.partial or job.final,
        "program": given.program,
        "disk_format": "thin",
        "include_config": False,
        "verify": "sample",
        "reserve_percent": 0,
        "snapshot_reserve_percent": 1,
        "journal": context.folder,
        "job_id": job.job,
        "limits_dir": str(Path(given.state) / "limits"),
        "limits_timeout": 60,
        "state_dir": given.state,
    }
    copied: Mapping[str, Any] = {}
    outcome = "failed"
    try:
        say(ready=True)
        begin = time.perf_counter()
        copied = copying.perform(host, params, stores)
        say(seconds=time.perf_counter() - begin)
        backup.commit(context, copied["disks"])
        outcome = "ok"
    finally:
        ended = ending.end(context, outcome, None, copied.get("disks", ()))
    notes = [note for disk in ended.entry["disks"] for note in disk.get("notes") or ()]
    return {"status": ended.entry["status"], "point": ended.entry["restore_point"], "notes": notes}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("program", choices=["vmkfstools", "rsync", "borg", "dedup"])
    parser.add_argument("point")
    parser.add_argument("--machine", required=True)
    parser.add_argument("--state", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=22)
    parser.add_argument("--key")
    parser.add_argument("--known-hosts")
    parser.add_argument("--rsync-path", default="")
    given = parser.parse_args()
    endpoint = Endpoint(given.host, given.port, private_key_file=given.key, known_hosts_file=given.known_hosts)
    access = Access(rsync_path=given.rsync_path)
    founded(given.program, given.point, access)
    with open_session(endpoint) as session:
        host = Host(session)
        with Stores(access, host) as stores:
            told = run(host, given, stores)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
