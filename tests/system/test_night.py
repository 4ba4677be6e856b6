# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One night of a fleet, run by ansible-runner as AWX does it: backups of all machines with one host dead, then proof,
prune and report, then a recover. What came of it is looked at from many sides; secrets are looked for everywhere.

The backup server is a machine of the lab, not the one that ansible-runner works on. 5 hosts with 20 VMs are in every
run; for the soak, the large one has 50 hosts with 200 VMs, of which nothing must be slower than the wires, and another
one is cut off in every way.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from addresses import free_base_address
from judge import Lab
from postoffice import ADDRESS, Post, certificate
from running import Awx, Job, Running
from spying import Watch, in_files, key_lines

STORE = "/srv/stowage"
MIB = 1 << 20
DEAD = "esx03"
RELEASES = ("6.7", "7.0", "8.0", "9.0")

PLAYBOOKS = {
    "backup": "- ansible.builtin.import_playbook: stowage.esxi.backup_hot\n",
    "recover": "- ansible.builtin.import_playbook: stowage.esxi.recover\n",
    # What AWX has as three nodes of a workflow, in one job: each start costs seconds of a test.
    "morning": "".join(
        f"- ansible.builtin.import_playbook: stowage.esxi.{name}\n" for name in ("verify", "prune", "report")
    ),
}


def topology(hosts: int, vms: int, fill: str, rate: str, passwords: dict[str, str]) -> dict[str, Any]:
    """Hosts whose wire is capped, each with VMs that have so much data, as far as their disks take it, of their own."""
    return {
        "hosts": [
            {
                "name": f"esx{number:02d}",
                "profile": RELEASES[number % len(RELEASES)],
                "password": passwords.setdefault(f"esx{number:02d}", secrets.token_urlsafe(12)),
                "login": "password",
                "switches": {"guest_kib_per_second": 4, "bytes_per_second": rate},
                "datastores": [{"name": "datastore1", "type": "vmfs6", "size": "200M"}],
                "vms": [
                    {
                        "name": f"vm{number:02d}-{one}",
                        "power": "off" if one == 1 else "on",
                        "tools": "running",
                        "disks": [
                            {
                                "key": "scsi0:0",
                                "size": "64M",
                                "format": "thin",
                                "fill": fill,
                            }
                        ],
                    }
                    for one in range(1, vms + 1)
                ],
            }
            for number in range(1, hosts + 1)
        ],
        "backup_servers": [{"name": "bk1"}],
    }


@dataclass
class Fleet:
    """The lab, AWX, and every secret that is in use."""

    lab: Lab
    awx: Awx
    post: Post
    hosts: tuple[str, ...]
    vms: int
    rate: int
    slots: int
    secrets: dict[str, str]
    survey: dict[str, Any] = field(default_factory=dict)

    def record(self, job: Job) -> dict[str, Any]:
        """The record of a run, read on the backup server."""
        (path,) = job.stats["stowage_run"]["records"]
        found: dict[str, Any] = json.loads(self.lab.run("bk1", "cat", path))
        return found

    def state_of(self, but: str = "") -> dict[str, tuple[str, int]]:
        """Power state and number of snapshots of every VM, by the hypervisors themselves."""
        return {
            vm["name"]: (vm["power"], len(vm["snapshots"]))
            for machine in self.lab.status()["machines"]
            if machine["name"] != but
            for vm in machine.get("vms", ())
        }

    def copies(self, since: float) -> list[dict[str, Any]]:
        """Connections that moved a disk, by the log that the lab keeps of every host's wire."""
        lines = (self.lab.folder / "wires.log").read_text(encoding="ascii").splitlines()
        wires = [json.loads(line) for line in lines]
        return [
            one for one in wires if one["machine"] in self.hosts and one["opened"] >= since and one["carried"] >= MIB
        ]

    def machine_files(self) -> list[Path]:
        """Everything that a machine of the lab has written, but for its disks: roots and datastores."""
        return [
            *self.lab.folder.glob("hosts/*/root"),
            *self.lab.folder.glob("servers/*/root"),
            self.lab.folder / "volumes",
        ]


def raise_fleet(work: Path, hosts: int, vms: int, *, fill: str, rate: int, slots: int, forks: int) -> Fleet:
    passwords: dict[str, str] = {}
    description = topology(hosts, vms, fill, str(rate), passwords)
    (work / "topology.json").write_text(json.dumps(description), encoding="utf-8")
    lab = Lab(work / "lab", "night")
    base = free_base_address()
    lab.verb("up", "--topology", str(work / "topology.json"), "--base-address", base, seconds=900)
    inventory = yaml.safe_load((lab.folder / "inventory.yml").read_text(encoding="utf-8"))
    vault = {f"vault_{name}_password": password for name, password in passwords.items()}
    vault |= {name: secrets.token_urlsafe(16) for name in ("backup_store_passphrase", "report_mail_password")}
    for name, variables in inventory["esxi"]["hosts"].items():
        variables["ansible_password"] = f"{{{{ vault_{name}_password }}}}"
    server = inventory["backup_servers"]["hosts"]["bk1"]
    # Its key is the machine credential's, which an agent has.
    for name in ("ansible_password", "ansible_ssh_private_key_file"):
        server.pop(name, None)
    # As the example's inventories have it.
    server["ansible_pipelining"] = True
    server["ansible_ssh_common_args"] = server["ansible_ssh_common_args"].replace(" -o IdentitiesOnly=yes", "")
    inventory["esxi"]["vars"] = {"stowage_host_key_policy": "pinned"}
    post = Post(vault["report_mail_password"])
    (work / "mail").mkdir()
    pem, context = certificate(work / "mail")
    port = post.start(tls_context=context)
    lab.run("bk1", "mkdir", "-p", "/etc/stowage")
    shutil.copy(pem, next(lab.folder.glob("servers/bk1/root")) / "etc/stowage/mail.pem")
    vault_password, passphrase = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    key = lab.folder / "keys" / "id_rsa"
    awx = Awx(work / "awx", inventory, vault, vault_password, key, passphrase, PLAYBOOKS, forks)
    known = {**vault, "vault password": vault_password, "key passphrase": passphrase}
    # As a survey gives them: most of them texts.
    survey = {
        "backup_program": "dedup",
        "backup_point": STORE,
        "backup_store_create": "true",
        "backup_select": "all",
        "backup_connections": "1",
        "backup_limits": [{"name": "link", "slots": slots}],
        "backup_reserve_percent": "0",
        "report_fail_on_alarm": "false",
        "report_mail_host": ADDRESS,
        "report_mail_port": str(port),
        "report_mail_username": "stowage",
        "report_mail_ca_file": "/etc/stowage/mail.pem",
        "report_mail_from": "stowage@example.com",
        "report_mail_to": ["ops@example.com"],
    }
    known.update(key_lines(key.read_text(encoding="ascii")))
    names = tuple(inventory["esxi"]["hosts"])
    return Fleet(lab, awx, post, names, vms, rate, slots, known, survey)


@contextlib.contextmanager
def fleet_of(hosts: int, vms: int, **options: Any) -> Iterator[Fleet]:
    work = Path(tempfile.mkdtemp(prefix="stowage-night-"))
    fleet = None
    try:
        fleet = raise_fleet(work, hosts, vms, **options)
        yield fleet
    finally:
        if fleet is not None:
            fleet.post.stop()
        if (work / "lab").exists():
            Lab(work / "lab", "night").verb("down")
        shutil.rmtree(work, ignore_errors=True)


@dataclass
class Night:
    """What came of one."""

    fleet: Fleet
    before: dict[str, tuple[str, int]]
    begun: float
    backup: Job
    morning: Job
    recover: Job
    watch: Watch
    record: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def night() -> Iterator[Night]:
    """5 hosts with 20 VMs, of which one host is dead; then its wire is mended, and recover finds nothing to undo."""
    with fleet_of(5, 4, fill="3M", rate=8 * MIB, slots=2, forks=5) as fleet:
        before, begun = fleet.state_of(), time.time()
        fleet.lab.fault(DEAD, "refuse")
        with Watch(fleet.secrets) as watch:
            backup = fleet.awx.run("backup", "backup", **fleet.survey)
            morning = fleet.awx.run("morning", "morning", **fleet.survey)
            fleet.lab.fault(DEAD, "clear")
            recover = fleet.awx.run("recover", "recover", **fleet.survey)
        found = Night(fleet, before, begun, backup, morning, recover, watch)
        found.record = fleet.record(backup)
        yield found


def test_a_dead_host_fails_alone_and_the_record_says_of_every_machine_what_became_of_it(night: Night) -> None:
    night.backup.must_be("failed")
    assert night.backup.hosts("failures") == {DEAD} and night.backup.hosts("dark") == set()
    entries = {vm["vm"]: vm for vm in night.record["vms"]}
    assert set(entries) == {name for name in night.before if not name.startswith("vm03")} and len(entries) == 16
    for entry in entries.values():
        assert (entry["status"], entry["proven"], entry["effective_how"]) == (
            "ok",
            True,
            "hot" if night.before[entry["vm"]][0] == "poweredOn" else "cold",
        )
        assert entry["bytes_sent"] > MIB
    hosts = {host["host"]: host for host in night.record["hosts"]}
    assert [name for name, host in hosts.items() if host["status"] != "ok"] == [DEAD]
    assert hosts[DEAD]["error"]["id"] == "ssh-host-unreachable"
    stats = night.backup.stats["stowage_run"]
    assert (stats["green"], stats["ok"], stats["machines"]) == (False, 16, 16)


def test_every_machine_is_as_it_was_and_recover_finds_nothing_to_undo(night: Night) -> None:
    night.recover.must_be("successful")
    assert night.fleet.state_of() == night.before
    recovered = [
        event["event_data"]["res"]["jobs"]
        for event in night.recover.events
        if event["event"] == "runner_on_ok" and event["event_data"].get("task_action") == "stowage.esxi.backup_recover"
    ]
    assert recovered == [[]] * 5 and night.fleet.lab.left_behind("esx01") == []


def test_the_morning_proves_prunes_and_reports_and_the_mail_says_who_has_nothing(night: Night) -> None:
    night.morning.must_be("successful")
    report = night.morning.stats["stowage_report"]
    alarms = Counter(alarm["id"] for alarm in report["alarms"])
    # Of a host that never answered nothing is known but that.
    assert alarms == {"host-silent": 1} and report["machines"] == 16 and not report["green"]
    ((to, message),) = night.fleet.post.taken
    text = message.get_content()
    assert to == ["ops@example.com"] and message["Subject"] == report["subject"]
    assert night.fleet.post.accounts == [(b"stowage", night.fleet.secrets["report_mail_password"].encode())]
    assert f"{DEAD}: the host did not answer" in text
    rows = [line for line in text.splitlines() if line.startswith("esx")]
    assert len(rows) == 16 and all(row.endswith(" deep") for row in rows)
    (pruned,) = night.morning.stats["stowage_prune"].values()
    assert pruned == {"kept": 16, "removed": [], "problems": []}


def test_no_link_carried_more_copies_at_a_time_than_its_limit_allows(night: Night) -> None:
    """By what the wires of the hosts saw, not by what we think of it."""
    copies = night.fleet.copies(night.begun)
    assert len(copies) == 16
    assert most_at_a_time(copies) == night.fleet.slots


def test_a_machine_costs_at_most_eight_task_runs(night: Night) -> None:
    runs = task_runs(night.backup)
    assert len(runs) == 4 and max(runs.values()) <= 8 * night.fleet.vms


def test_no_secret_is_on_a_command_line_in_an_environment_a_log_a_record_or_an_artifact(night: Night) -> None:
    assert night.watch.seen > 200 and night.watch.looks > 200
    assert night.watch.hits == []
    hits, count = in_files([*night.fleet.awx.artifacts(), *night.fleet.machine_files()], night.fleet.secrets)
    assert count > 200 and hits == []


def test_a_secret_that_is_planted_is_found_in_each_of_these_places(night: Night, tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    fleet, secret = night.fleet, night.fleet.secrets["backup_store_passphrase"]
    pause = [sys.executable, "-c", "import time; time.sleep(1.5)"]
    with Watch(fleet.secrets) as watch:
        subprocess.run([*pause, secret], check=True)
        subprocess.run(pause, env={"LEAK": secret}, check=True)
        fleet.lab.run("esx01", "sh", "-c", f"sleep 1; : {fleet.secrets['vault password']}")
    where = {(hit.secret, hit.where.split(" of ")[0]) for hit in watch.hits}
    assert ("backup_store_passphrase", "cmdline") in where and ("backup_store_passphrase", "environ") in where
    assert ("vault password", "cmdline") in where
    places = [*fleet.awx.artifacts(), *fleet.machine_files()]
    records = next(fleet.lab.folder.glob("servers/bk1/root/var/lib/stowage/runs/*/record.json"))
    logs = next(fleet.lab.folder.glob("hosts/esx01/root/**/auth.log"))
    event = next(fleet.awx.work.glob("control/backup/artifacts/backup/job_events/*.json"))
    for path, text in (
        (records, secret),
        (logs, f"\n{fleet.secrets['private key line 9']}\n"),
        (event, json.dumps(secret)),
    ):
        before = path.read_bytes()
        path.write_bytes(before + text.encode())
        try:
            hits, _count = in_files(places, fleet.secrets)
        finally:
            path.write_bytes(before)
        assert {hit.where for hit in hits} == {str(path)}


def most_at_a_time(wires: list[dict[str, Any]]) -> int:
    changes = sorted([(one["opened"], 1) for one in wires] + [(one["closed"], -1) for one in wires])
    now = most = 0
    for _at, change in changes:
        now += change
        most = max(most, now)
    return most


def task_runs(job: Job) -> Counter[str]:
    """Modules that were started for machines, by host: those of the role's story of one machine."""
    ended = ("runner_on_ok", "runner_on_failed")
    return Counter(
        event["event_data"]["host"]
        for event in job.events
        if event["event"] in ended
        and "roles/backup/tasks/vm.yml" in str(event["event_data"].get("task_path"))
        and str(event["event_data"].get("task_action")).startswith("stowage.esxi.")
    )


# -- the full counts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """How long a night took, beside what its wires allow."""

    bytes: int
    bound_seconds: float
    seconds: float
    vms: int

    @property
    def overhead_seconds(self) -> float:
        """What each machine added to the night beside its bytes."""
        return (self.seconds - self.bound_seconds) / self.vms

    def __str__(self) -> str:
        return (
            f"{self.vms} VMs, {self.bytes / MIB:.0f} MiB over the wires: {self.seconds:.0f} s, bound "
            f"{self.bound_seconds:.0f} s "
            f"({self.seconds / self.bound_seconds:.2f} times), {self.overhead_seconds:.2f} s a VM beside its bytes"
        )


def pace_of(fleet: Fleet, copies: Sequence[dict[str, Any]], job: Job) -> Pace:
    """The bound: all slots of the link busy with connections at their cap, or one host with all of its own machines.

    By the bytes that the wires have carried for the copies: packed, which the record's are not."""
    sent: Counter[str] = Counter()
    for copy in copies:
        sent[copy["machine"]] += copy["carried"]
    total = sum(sent.values())
    bound = max(total / (fleet.rate * fleet.slots), max(sent.values()) / fleet.rate)
    return Pace(total, bound, job.seconds, len(copies))


@pytest.mark.soak
def test_two_hundred_machines_take_no_longer_than_one_and_a_half_times_what_the_wires_need() -> None:
    # Slow wires: two cores are all 50 hosts, the backup server and the controller. More hosts are worked on than may
    # copy: the next one is ready when a slot is free. In three turns all have been: a last one of few hosts would leave
    # slots empty. Each disk has as much data as fits: more than a long control connection carries, by which copies are
    # told from these.
    with fleet_of(50, 4, fill="64M", rate=14 << 10, slots=10, forks=17) as fleet:
        before, begun = fleet.state_of(), time.time()
        fleet.lab.fault(DEAD, "refuse")
        job = fleet.awx.run("backup", "backup", **fleet.survey).must_be("failed")
        fleet.lab.fault(DEAD, "clear")
        record = fleet.record(job)
        copies = fleet.copies(begun)
        pace = pace_of(fleet, copies, job)
        print(pace)
        assert job.hosts("failures") == {DEAD} and Counter(vm["status"] for vm in record["vms"]) == {"ok": 196}
        assert fleet.state_of() == before
        assert len(copies) == 196 and most_at_a_time(copies) <= fleet.slots
        assert max(task_runs(job).values()) <= 8 * fleet.vms
        assert pace.seconds <= 1.5 * pace.bound_seconds and pace.overhead_seconds <= 2.5


def statuses(record: dict[str, Any]) -> Counter[str]:
    return Counter(vm["status"] for vm in record["vms"])


def records_of(fleet: Fleet, run: str) -> dict[str, Any]:
    """The record of a run that did not come to its end, made by the module that makes it of any run's entries."""
    job = fleet.awx.run(f"record-{run}", "record", stowage_run_id=run)
    job.must_be("successful")
    found: dict[str, Any] = json.loads(fleet.lab.run("bk1", "cat", f"/var/lib/stowage/runs/{run}/record.json"))
    return found


PLAYBOOKS["record"] = """
- hosts: backup_servers
  gather_facts: false
  tasks:
    - stowage.esxi.backup_record:
        run_id: "{{ stowage_run_id }}"
"""


@pytest.mark.soak
def test_a_server_that_restarts_and_a_job_that_is_cancelled_leave_a_true_record_and_are_recovered() -> None:
    with fleet_of(5, 4, fill="10M", rate=MIB, slots=2, forks=5) as fleet:
        before = fleet.state_of()
        survey = {**fleet.survey, "backup_lease_seconds": "60"}

        def recovered(ident: str) -> None:
            """Recover runs every ten minutes; here again and again until nothing of the dead run is left."""
            for number in range(8):
                fleet.awx.run(f"{ident}-{number}", "recover", **survey)
                if fleet.state_of() == before and fleet.lab.left_behind("esx01") == []:
                    return
                time.sleep(20)
            raise AssertionError(f"not recovered: {fleet.state_of()}")

        def copying() -> bool:
            return any(snapshots for _power, snapshots in fleet.state_of().values()) and done() >= 2

        def done() -> int:
            entries = fleet.lab.folder.glob("servers/bk1/root/var/lib/stowage/runs/*/entries/*.json")
            return sum(json.loads(path.read_text())["status"] == "ok" for path in entries)

        for ident, strike in (
            ("restarted", lambda _running: fleet.lab.verb("reboot", "bk1")),
            ("cancelled", Running.cancel),
        ):
            so_far = done()
            run = f"night-{ident}"
            running = fleet.awx.start(ident, "backup", **survey, stowage_run_id=run)
            end = time.monotonic() + 300
            while not (copying() and done() >= so_far + 2):
                assert time.monotonic() < end, f"{ident}: no copies"
                time.sleep(0.3)
            strike(running)
            job = running.wait(900)
            assert job.status != "successful"
            recovered(f"recover-{ident}")
            found = statuses(records_of(fleet, run))
            # Every machine is in it, and none is called good that has no restore point.
            assert (
                sum(found.values()) == 20
                and found["ok"] >= 2
                and found["interrupted"] + found["failed"] + found["not-run"] >= 1
            )
        whole = fleet.awx.run("whole", "backup", **survey).must_be("successful")
        assert statuses(fleet.record(whole)) == {"ok": 20}
        assert fleet.state_of() == before
