# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks around a backup run, by ansible-playbook: a store on this machine, and no hypervisor is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import marked
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from postoffice import ADDRESS, Post

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime.now(timezone.utc)
SIZE = 1 << 20


def point(place: Path, tmp_path: Path, vm: str, host: str, **more: Any) -> str:
    """A restore point as a backup of that machine makes one."""
    image = tmp_path / "disk.raw"
    image.write_bytes(os.urandom(SIZE))
    disk = {
        **{"key": "scsi0:0", "label": "", "file": "scsi0:0", "capacity_bytes": SIZE, "allocated_bytes": SIZE},
        **{"cid": "0000000a", "format": "store", "source": "/vmfs/volumes/ds/web01/web01.vmdk"},
    }
    facts = {
        **{"time": f"{NOW:%Y%m%dT%H%M%SZ}", "job": "j", "host": host, "hypervisor": host, "disks": [disk]},
        **{"vm": {"name": vm, "identity": f"id-{vm}"}, "files": [{"name": "scsi0:0", "size": SIZE, "role": "disk"}]},
        **more,
    }
    store, source = Store.open(LocalBackend(str(place)), None), RawDisk(str(image))
    try:
        disks = [backup.DiskInput("scsi0:0", source)]
        made, _told = backup.run(store, f"id-{vm}", vm, disks, {}, facts=marked(facts))
    finally:
        source.close()
        store.close()
    return f"{place}::{made.point}"


def attempt(state: Path, vm: str, host: str, hours_ago: float, made: str) -> None:
    at = NOW - timedelta(hours=hours_ago)
    entry = record.new_entry(f"{at:%Y%m%dT%H%M%SZ}", host, vm, f"id-{vm}", "backup", ())
    entry.update(status="ok", restore_point=made, proven=True, started_at=iso(at), ended_at=iso(at))
    record.write_entry(str(state), entry)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    found = tmp_path / "store"
    Store.create(LocalBackend(str(found))).close()
    return found


def play(tmp_path: Path, name: str, *options: str, **variables: Any) -> tuple[int, str, dict[str, Any]]:
    """Exit code, output, and what was published. Nobody answers at bk2."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    dead = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_common_args": "-o BatchMode=yes -F none"}
    hosts = {name: {"stowage_backup_server": "bk1", "ansible_host": "192.0.2.1"} for name in ("esx1", "esx2")}
    hosts["esx3"] = {"stowage_backup_server": variables.pop("server_of_esx3", "bk1"), "ansible_host": "192.0.2.1"}
    inventory = {
        "all": {"children": {"esxi": {"hosts": hosts}, "backup_servers": {"hosts": {"bk1": here, "bk2": dead}}}}
    }
    (tmp_path / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")
    given = {
        **{
            "backup_program": "dedup",
            **({} if "backup_points" in variables else {"backup_point": str(tmp_path / "store")}),
            "backup_state_dir": str(tmp_path / "state"),
        },
        **{"report_ask_hosts": "false", **variables},
    }
    environment = {**os.environ, "ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
    environment["ANSIBLE_CONFIG"] = str(ROOT / "tests/tools/ansible.cfg")
    environment |= {"ANSIBLE_SHOW_CUSTOM_STATS": "true", "ANSIBLE_LOCALHOST_WARNING": "false"}
    environment |= {"ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/tools/callbacks")}
    environment |= {"ANSIBLE_CALLBACKS_ENABLED": "payloads"}
    program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    argv = [program, "-i", "hosts.json", f"stowage.esxi.{name}", "-e", json.dumps(given), *options]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    stats = next(
        (line.strip()[len("RUN: ") :] for line in text.splitlines() if line.strip().startswith("RUN: {")), "{}"
    )
    return done.returncode, text, json.loads(stats)


def test_a_place_that_hosts_share_is_proven_once_and_damage_fails_the_play(place: Path, tmp_path: Path) -> None:
    for vm, host in (("web01", "esx1"), ("web02", "esx2")):
        point(place, tmp_path, vm, host)
    rc, text, stats = play(tmp_path, "verify")
    assert (rc, stats["stowage_run"]["green"], stats["stowage_run"]["machines"]) == (0, True, 2), text
    assert text.count("2 restore point(s) looked at") == 1 and "every byte" in text
    for pack in Path(place, "packs").rglob("*"):
        if pack.is_file() and pack.stat().st_size > SIZE // 2:
            data = bytearray(pack.read_bytes())
            data[len(data) // 3] ^= 1
            pack.write_bytes(data)
    rc, text, stats = play(tmp_path, "verify")
    assert rc == 2 and not stats["stowage_run"]["green"]
    assert "disk scsi0:0: 1 chunks" in text and "DAMAGED" in text


def test_prune_shows_its_reasons_in_check_mode_and_then_does_what_it_has_shown(place: Path, tmp_path: Path) -> None:
    made = [point(place, tmp_path, "web01", "esx1") for _number in range(3)]
    keep = {"prune_keep": {"last": 1}}
    rc, text, stats = play(tmp_path, "prune", "--check", **keep)
    assert rc == 0 and stats["stowage_prune"]["esx1"]["removed"] == sorted(made[:2])[::-1], text
    assert text.count("no rule keeps it") == 2 and "last 1 of 1" in text
    assert len(list(Path(place, "points").rglob("*.json"))) == 3
    rc, text, stats = play(tmp_path, "prune", **keep)
    assert rc == 0 and sorted(stats["stowage_prune"]["esx1"]["removed"]) == sorted(made[:2]), text
    assert len(list(Path(place, "points").rglob("*.json"))) == 1


def test_all_backup_points_are_proven_and_pruned_and_one_that_is_not_there_keeps_no_other_from_it(
    place: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    Store.create(LocalBackend(str(other))).close()
    for one, count in ((place, 1), (other, 2)):
        made = [point(one, tmp_path, "web01", "esx1", policy={"keep": {"last": 1}}) for _number in range(count)]
    several: dict[str, Any] = {"backup_points": [str(tmp_path / "none"), str(place), {"point": f"{other}/"}]}
    rc, text, stats = play(tmp_path, "verify", **several)
    assert (rc, stats["stowage_run"]["green"]) == (2, False) and f"{tmp_path}/none" in text
    assert text.count("1 restore point(s) looked at") == 2, text
    rc, text, stats = play(tmp_path, "prune", **several)
    pruned = stats["stowage_prune"]["esx1"]
    assert rc == 2 and (pruned["kept"], pruned["removed"]) == (2, made[:1]) and len(pruned["problems"]) == 1, text


def test_the_report_fails_the_host_of_an_alarm_and_names_a_backup_server_that_is_silent(tmp_path: Path) -> None:
    attempt(tmp_path / "state", "web01", "esx1", 2, "/srv/s::1")
    attempt(tmp_path / "state", "web02", "esx2", 60, "/srv/s::2")
    post = Post("unused")
    try:
        mail = {"report_mail_host": ADDRESS, "report_mail_port": post.start(), "report_mail_security": "none"}
        addresses = {"report_mail_from": "a@example.com", "report_mail_to": ["ops@example.com"]}
        rc, text, stats = play(tmp_path, "report", server_of_esx3="bk2", **mail, **addresses)
    finally:
        post.stop()
    report = stats["stowage_report"]
    assert (rc, report["green"], report["silent_backup_servers"]) == (2, False, ["bk2"]), text
    assert [(alarm["id"], alarm["vm"]) for alarm in report["alarms"]] == [("stale", "web02")]
    ((_to, message),) = post.taken
    assert (
        message["Subject"] == "Backups: 2 alarm(s)" and "the backup server bk2 did not answer" in message.get_content()
    )
    # A machine that has other things to do makes it older meanwhile.
    assert "web02: its last restore point is 60" in text
    rc, text, stats = play(tmp_path, "report", "--limit", "esx1", report_fail_on_alarm="false")
    assert rc == 0, text
