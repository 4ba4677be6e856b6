# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Links over a fleet: made from passwords alone, kept, renewed, revoked, restricted, and still there after a power cut.

Everything is played as an operator would, by playbook link_fleet; what came of it is looked at in the machines
themselves, with the stock ssh of each.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from addresses import free_base_address
from esxilab import topologies
from judge import Lab as JudgedLab
from playing import Controller, Run

from .conftest import Lab

FOLDER = "/etc/ssh/keys-root"
# What people have in such files; it must come through everything as it is.
STRANGERS = (
    "# a comment of somebody\n\n"
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAQQC7 \tstowage-link:control:bk1:esx70 was here\n"
    '  command="echo \\"stowage-link:control:bk1:esx70\\"",no-pty ssh-ed25519 AAAA broken\r\n'
    "#stowage-link:control:bk1:esx70\n"
    "no end of line"
)
PUSH = {
    "name": "push",
    "from": ["esx80"],
    "to": ["bk1"],
    "user": "stowage",
    "restriction": {"kind": "receive", "path": "/srv/in box"},
}
LOOK = {"name": "look", "from": ["bk1"], "to": ["esx80"], "restriction": {"kind": "read", "path": "/etc/vmware"}}
ONE = {
    "name": "one",
    "from": ["bk1"],
    "to": ["esx80"],
    "restriction": {"kind": "command", "command": ["echo", "it's $(id) done"]},
}
FAR = {"name": "far", "from": ["esx60"], "to": ["bk1"], "from_addresses": ["192.0.2.0/24"]}
MIRROR = {"name": "mirror", "from": ["esx70"], "to": ["esx60"], "both_ways": True}
MATRIX = [PUSH, LOOK, ONE, MIRROR]


@dataclass
class Fleet:
    """The lab and the controller, and what the first run said."""

    lab: Lab
    controller: Controller
    first: Run
    seconds: float  # that it took
    seen: set[bytes]  # secrets that were on a command line while it ran

    def sh(self, machine: str, line: str) -> subprocess.CompletedProcess[str]:
        """In the machine itself, without the network."""
        return self.lab.exec(machine, line)

    def read(self, machine: str, path: str) -> str:
        return (self.root(machine) / path.lstrip("/")).read_text(errors="surrogateescape")

    def root(self, machine: str) -> Path:
        return self.lab.folder / ("servers" if machine.startswith("bk") else "hosts") / machine / "root"

    def ssh(
        self, source: str, link: str, target: str, *command: str, options: tuple[str, ...] = (), stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """From the source, with the link's key and pinned host keys, and nothing else."""
        folder = "/root/.ssh" if source.startswith("bk") else FOLDER
        key = f"{folder}/stowage-{link}@{target}"
        machine = self.lab.host(target)
        user = "stowage" if link == "push" else "root"
        words = ["ssh", "-F", "/dev/null", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        words += ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={key}.known_hosts"]
        words += ["-o", "GlobalKnownHostsFile=/dev/null", "-p", str(machine.port), *options]
        if not target.startswith("bk"):
            # For those of 6.0.
            words += ["-o", "HostKeyAlgorithms=+ssh-rsa", "-o", "PubkeyAcceptedKeyTypes=+ssh-rsa"]
        line = shlex.join([*words, f"{user}@{machine.address}", *command])
        return self.sh(source, f"printf %s {shlex.quote(stdin)} | {line}")

    def works(self, source: str, link: str, target: str) -> bool:
        done = self.ssh(source, link, target, "echo", "stowage-link-works")
        assert done.returncode == 0 or "Permission denied" in done.stderr, done.stderr
        return done.returncode == 0 and done.stdout == "stowage-link-works\n"

    def failed_logins(self) -> list[str]:
        """What the machines' own sshd and lock-out say of passwords that were wrong."""
        found = []
        for host in (self.lab.folder / "hosts").iterdir():
            for name in ("root/scratch/log/auth.log", "root/var/run/faillock/root"):
                path = host / name
                text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
                if name.endswith("auth.log"):
                    found += [line for line in text.splitlines() if re.search(r"Failed|failure|locked", line)]
                elif text:
                    found.append(f"{host.name}: {text!r}")
        return found


class Watch:
    """Looks at the command lines of all processes of this machine, those in the lab included, until it is ended."""

    def __init__(self, secrets: set[bytes]) -> None:
        self._secrets = secrets
        self._seen: set[bytes] = set()
        self._looked = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.4):
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    self._seen |= {secret for secret in self._secrets if secret in line}
            self._looked += 1

    def end(self) -> set[bytes]:
        self._over.set()
        self._thread.join()
        assert self._looked > 10
        return self._seen


def _add_user(root: Path) -> None:
    """An account that is not root, and its folder for what hypervisors push."""
    for name, line in (("passwd", "stowage:x:1000:1000::/home/stowage:/bin/sh\n"), ("shadow", "stowage:*:1::::::\n")):
        with open(root / "etc" / name, "a", encoding="ascii") as file:
            file.write(line)
    for folder in ("home/stowage", "srv/in box"):
        (root / folder).mkdir(parents=True)
        os.chown(root / folder, 1000, 1000)


def bring_up(description: dict[str, Any], matrix: list[dict[str, Any]], name: str) -> Iterator[Fleet]:
    work = Path(tempfile.mkdtemp(prefix=f"stowage-{name}-"))
    (work / "topology.json").write_text(json.dumps(description), encoding="utf-8")
    judged = JudgedLab(work / "lab", name)
    judged.verb("up", "--topology", str(work / "topology.json"), "--base-address", free_base_address())
    try:
        lab = Lab(work / "lab")
        _add_user(lab.folder / "servers/bk1/root")
        watch = Watch({f"Lab-{host['name']}-1".encode() for host in description["hosts"]} | {b"PRIVATE KEY"})
        controller = Controller(judged, work, {"link_fleet_links": matrix})
        began = time.monotonic()
        first = controller.play("link_fleet", "--forks", "10")
        yield Fleet(lab, controller, first, time.monotonic() - began, watch.end())
    finally:
        judged.verb("down")
        shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three releases and a backup server; the hypervisors take nothing but their password."""
    hosts = [
        {
            "name": f"esx{release.replace('.', '')}",
            "profile": release,
            "switches": {"known_key": False},
            "datastores": [{"name": "datastore1", "type": topologies.vmfs(release), "size": "64M"}],
            "vms": [],
        }
        for release in ("6.0", "7.0", "8.0")
    ]
    yield from bring_up({"hosts": hosts, "backup_servers": [{"name": "bk1"}]}, MATRIX, "link")


WRONG = {"ansible_password": "not the password of anything"}


def test_a_fleet_is_linked_from_passwords_alone_and_a_second_run_changes_nothing_and_needs_none(fleet: Fleet) -> None:
    fleet.first.must_end_with(0)
    assert fleet.first.changed > 0
    for source, link, target in (
        ("bk1", "control", "esx60"),
        ("bk1", "control", "esx70"),
        ("bk1", "control", "esx80"),
        ("esx70", "mirror", "esx60"),
        ("esx60", "mirror", "esx70"),
        ("esx80", "push", "bk1"),
    ):
        assert fleet.works(source, link, target), (source, link, target)
    # FIPS refuses Ed25519; the key of an unrestricted link may do everything.
    assert "ssh-rsa" in fleet.read("esx80", f"{FOLDER}/authorized_keys")
    assert fleet.ssh("bk1", "control", "esx80", "vmware", "-v").stdout.startswith("VMware ESXi 8.0")
    again = fleet.controller.play("link_fleet", **WRONG).must_end_with(0)
    assert again.changed == 0
    assert fleet.failed_logins() == []
    # Only the machines that push have their outgoing rule set open.
    rules = {
        host: fleet.sh(host, "esxcli network firewall ruleset list").stdout for host in ("esx60", "esx70", "esx80")
    }
    assert all(re.search(r"sshClient +true", text) for text in rules.values()), rules
    pushed = fleet.root("bk1") / "home/stowage/.ssh"
    for path, mode in ((pushed, 0o700), (pushed / "authorized_keys", 0o600)):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (1000, mode)
    for machine, folder in (("bk1", "root/.ssh"), ("esx80", FOLDER)):
        modes = {
            path.name: path.stat().st_mode & 0o777 for path in (fleet.root(machine) / folder.lstrip("/")).iterdir()
        }
        private = {name for name in modes if "@" in name and not name.endswith(".known_hosts")}
        assert private and {modes[name] for name in private | {"authorized_keys"}} == {0o600}


def test_drift_is_told_in_check_mode_and_mended_and_lines_of_others_stay_byte_for_byte(fleet: Fleet) -> None:
    path = fleet.root("esx70") / "etc/ssh/keys-root/authorized_keys"
    ours = path.read_text()
    lost = [line for line in ours.splitlines() if "control:bk1:esx70" in line]
    assert len(lost) == 1
    broken = ours.replace(lost[0] + "\n", "") + STRANGERS
    path.write_bytes(broken.encode())
    fleet.sh(
        "bk1",
        "sed -i 's/^[^ ]* [^ ]* ..../&AA/' '/root/.ssh/stowage-look@esx80.known_hosts'; chmod 777 /home/stowage/.ssh",
    )
    try:
        checked = fleet.controller.play("link_fleet", "--check", "--diff").must_end_with(0)
        assert path.read_bytes() == broken.encode()
        for said in (
            "esx70 has no line for the key of bk1",
            "bk1 has not the host keys pinned that esx80 has now",
            "others may write /home/stowage/.ssh on bk1 (mode 0777)",
        ):
            assert said in " ".join(checked.text.split()), said
        # The diff shows the line that comes back, and no file of others.
        assert re.search(
            r"^\+esx70: authorized_keys: SHA256:\S+ \(ssh-rsa\) stowage-link:control:bk1:esx70", checked.text, re.M
        )
        mended = fleet.controller.play("link_fleet").must_end_with(0)
        assert mended.changed == checked.changed > 0
        assert path.read_bytes() == (broken + "\n" + lost[0] + "\n").encode()
        assert fleet.works("bk1", "control", "esx70") and fleet.works("bk1", "look", "esx80")
    finally:
        path.write_text(path.read_text().replace(STRANGERS + "\n", ""))


def test_one_key_is_renewed_two_are_revoked_and_the_rest_is_left_alone(fleet: Fleet) -> None:
    keys = {"bk1": fleet.root("bk1") / "root/.ssh"}
    keys.update({host: fleet.root(host) / "etc/ssh/keys-root" for host in ("esx60", "esx70")})
    stolen = {
        place / name: (place / name).read_bytes()
        for place, key in ((keys["esx60"], "stowage-mirror@esx70"), (keys["esx70"], "stowage-mirror@esx60"))
        for name in (key, f"{key}.known_hosts")
    }
    old = (keys["bk1"] / "stowage-control@esx60").read_bytes()
    others = {path: path.read_bytes() for path in keys["bk1"].glob("stowage-*") if "control@esx60" not in path.name}
    gone = [{**MIRROR, "state": "absent"}]
    variables = {"link_fleet_rotate": True, "link_fleet_links": gone, **WRONG}
    # With one of the two machines in the run, the links of both directions are dealt with.
    run = fleet.controller.play("link_fleet", "--limit", "esx60", **variables).must_end_with(0)
    assert run.changed == 2
    assert (keys["bk1"] / "stowage-control@esx60").read_bytes() != old
    assert {path: path.read_bytes() for path in others} == others
    assert fleet.works("bk1", "control", "esx60")
    # The old keys, as somebody may have copied them, open nothing any more.
    assert not any(path.exists() for path in stolen)
    stolen[keys["bk1"] / "stowage-old@esx60"] = old
    stolen[keys["bk1"] / "stowage-old@esx60.known_hosts"] = (
        keys["bk1"] / "stowage-control@esx60.known_hosts"
    ).read_bytes()
    for path, content in stolen.items():
        path.write_bytes(content)
        path.chmod(0o600)
    assert not fleet.works("bk1", "old", "esx60")
    assert not fleet.works("esx60", "mirror", "esx70") and not fleet.works("esx70", "mirror", "esx60")
    for path in stolen:
        path.unlink()
    assert fleet.failed_logins() == []


FORWARDS = (
    ("-W", "127.0.0.1:22"),
    ("-N", "-R", "127.0.0.1:0:127.0.0.1:22"),
    ("-N", "-R", "/tmp/socket:127.0.0.1:22"),
    ("-N", "-w", "0:0"),
)


def test_a_key_that_may_only_receive_does_nothing_else(fleet: Fleet) -> None:
    inbox = fleet.root("bk1") / "srv/in box"
    done = fleet.ssh("esx80", "push", "bk1", "stowage-put 5 a file", stdin="hello")
    assert done.returncode == 0, done.stderr
    assert (inbox / "a file").read_text() == "hello"
    before = {path: path.stat().st_mtime_ns for path in inbox.iterdir()}
    for command in (
        (),
        ("sh",),
        ("id",),
        ("cat", "/srv/in box/a file"),
        ("stowage-get a file",),
        ("stowage-list",),
        ("stowage-put 1 a file",),
        ("stowage-put 1 ../x",),
        ("stowage-put 1 /srv/x",),
        ("stowage-put 1 .hidden",),
        ("stowage-put 1 $(touch /srv/x)$IFS",),
        ("stowage-put 9 cut short",),
        ("stowage-put -1 x",),
        ("stowage-put 1",),
        ("echo stowage-link-works; id",),
        ("echo stowage-link-works\nid",),
        ("rsync --server -e.LsfxCIvu . /",),
        ("borg serve",),
        ("internal-sftp",),
        ("scp -t /srv",),
    ):
        refused = fleet.ssh("esx80", "push", "bk1", *command, stdin="x")
        assert refused.returncode != 0 and "stowage: refused" in refused.stderr, (command, refused)
        assert "uid=" not in refused.stdout and "hello" not in refused.stdout, command
    assert {path: path.stat().st_mtime_ns for path in inbox.iterdir()} == before
    assert not (fleet.root("bk1") / "srv/x").exists()
    assert fleet.ssh("esx80", "push", "bk1", "sftp", options=("-s",)).returncode != 0
    terminal = fleet.ssh("esx80", "push", "bk1", "stowage-put 0 none", options=("-tt",))
    assert "PTY allocation request failed" in terminal.stderr
    for options in FORWARDS:
        tried = fleet.ssh("esx80", "push", "bk1", options=("-o", "ExitOnForwardFailure=yes", *options))
        assert tried.returncode != 0 and re.search(r"prohibited|failed|refused", tried.stderr), (options, tried)


def test_a_key_that_may_only_read_one_folder_does_nothing_else(fleet: Fleet) -> None:
    listed = fleet.ssh("bk1", "look", "esx80", "stowage-list")
    assert "d - hostd" in listed.stdout.splitlines()
    pools = fleet.ssh("bk1", "look", "esx80", "stowage-get hostd/pools.xml")
    assert (pools.returncode, pools.stdout) == (0, fleet.read("esx80", "/etc/vmware/hostd/pools.xml"))
    (fleet.root("esx80") / "etc/vmware/way-out").symlink_to("/etc/ssh")
    (fleet.root("esx80") / "etc/vmware/shadow").symlink_to("/etc/shadow")
    for command in (
        (),
        ("cat /etc/shadow",),
        ("stowage-get /etc/shadow",),
        ("stowage-get ../shadow",),
        ("stowage-get hostd/../../shadow",),
        ("stowage-get shadow",),
        ("stowage-get way-out/keys-root/authorized_keys",),
        ("stowage-list way-out",),
        ("stowage-list ..",),
        ("stowage-get hostd",),
        ("stowage-put 1 x",),
        ("stowage-get $(reboot)",),
        ("vim-cmd vmsvc/getallvms",),
    ):
        refused = fleet.ssh("bk1", "look", "esx80", *command)
        assert refused.returncode != 0 and "stowage: refused" in refused.stderr, (command, refused)
        assert refused.stdout == "", command
    assert fleet.ssh("bk1", "look", "esx80", "sftp", options=("-s",)).returncode != 0
    assert fleet.ssh("bk1", "look", "esx80", options=("-W", "127.0.0.1:22")).returncode != 0


def test_a_key_of_one_command_starts_that_and_takes_no_words(fleet: Fleet) -> None:
    for command in ((), ("stowage-run",)):
        assert fleet.ssh("bk1", "one", "esx80", *command).stdout == "it's $(id) done\n"
    for command in ("stowage-run x", "id", "echo", "sh -c id", "stowage-run; id"):
        refused = fleet.ssh("bk1", "one", "esx80", command)
        assert refused.returncode != 0 and refused.stdout == "" and "stowage: refused" in refused.stderr, command


def test_a_link_outlives_a_power_cut_because_it_was_saved(fleet: Fleet) -> None:
    # Somebody's change that was never saved shows that the cut does lose things.
    keys = fleet.root("esx80") / "etc/ssh/keys-root"
    with open(keys / "authorized_keys", "a", encoding="ascii") as file:
        file.write("# never saved\n")
    fleet.lab.call("reboot", "esx80")
    assert "never saved" not in (keys / "authorized_keys").read_text()
    assert fleet.works("bk1", "control", "esx80") and fleet.works("bk1", "look", "esx80")
    assert fleet.works("esx80", "push", "bk1")
    assert "stowage-sshclient-was-closed" in {path.name for path in keys.iterdir()}


def test_what_cannot_work_is_told_with_its_way_out_and_costs_no_login(fleet: Fleet) -> None:
    matrix = [FAR, {"name": "x", "from": ["esx60"], "to": ["bk1"], "restriction": {"kind": "read"}}]
    run = fleet.controller.play("link_fleet", "--limit", "bk1", link_fleet_links=matrix).must_end_with(2)
    words = " ".join(run.text.split())
    assert "esx60 cannot use its key for root@" in words and "from_addresses may be wrong" in words
    assert "needs a path" in words and "Set restriction.path" in words
    # The next run will see that it has to try again.
    assert not (fleet.root("esx60") / "etc/ssh/keys-root/stowage-far@bk1.known_hosts").exists()
    gone = [{**FAR, "state": "absent"}]
    assert fleet.controller.play("link_fleet", "--limit", "bk1", link_fleet_links=gone).must_end_with(0).changed == 1
    assert "far" not in fleet.read("bk1", "/root/.ssh/authorized_keys")
    assert fleet.failed_logins() == []


def test_links_of_a_machine_that_has_left_are_told_and_revoked_and_a_wrong_name_stops_the_run(fleet: Fleet) -> None:
    host, server = fleet.root("esx70") / "etc/ssh/keys-root", fleet.root("bk1") / "root/.ssh"
    keys, own = host / "authorized_keys", server / "stowage-control@esx70"
    mark = "stowage-link:control:bk1:esx70"
    line = next(line for line in keys.read_text().splitlines() if line.startswith("ssh-") and line.endswith(f" {mark}"))
    left = [line.replace("control:bk1:", words) for words in ("control:bk0:", "nightly:bk9:")]
    keys.write_bytes(keys.read_bytes() + "".join(f"{one}\n" for one in left).encode())

    def accepted() -> list[str]:
        lines = keys.read_text(errors="surrogateescape").splitlines()
        return [one for one in (line, *left) if one in lines]

    kept = own.read_bytes()
    typo = [*MATRIX, {"name": "y", "from": ["esx70", "esx07"], "to": ["bk1"]}]
    run = fleet.controller.play("link_fleet", link_fleet_links=typo).must_end_with(2)
    assert "'esx07' is no host and no group of the inventory" in " ".join(run.text.split()) and run.changed == 0
    # One that the matrix revokes by name; of the other one it is told that nobody names it.
    gone = [{"name": "control", "from": ["bk0"], "to": ["esx70"], "state": "absent"}]
    run = fleet.controller.play("link_fleet", "--limit", "esx70", link_fleet_links=gone).must_end_with(0)
    said = " ".join(run.text.split())
    assert "esx70 accepts for root the key of bk9 for the link nightly, which link_fleet_links does not name" in said
    assert "the key of bk0" not in said and "the key of bk1" not in said
    assert accepted() == [line, left[1]]
    # The new server's own key under the same name is another one.
    assert own.read_bytes() == kept and fleet.works("bk1", "control", "esx70")
    fleet.controller.play(
        "link_fleet", "--limit", "esx70", link_fleet_links=[], link_fleet_unlisted="revoke"
    ).must_end_with(0)
    assert accepted() == [line] and own.read_bytes() == kept and fleet.works("bk1", "control", "esx70")


def test_no_password_and_no_private_key_is_on_a_command_line_or_in_a_log(fleet: Fleet) -> None:
    assert fleet.seen == set()
    secrets = {f"Lab-{name}-1".encode() for name in ("esx60", "esx70", "esx80")} | {b"PRIVATE KEY-----"}
    for machine in ("esx60", "esx70", "esx80", "bk1"):
        root = fleet.root(machine)
        places = [root / "scratch/log", root / "var/log", root / "tmp", root / "var/lib"]
        for path in (path for place in places for path in place.rglob("*") if path.is_file()):
            data = path.read_bytes()
            assert [secret for secret in secrets if secret in data] == [], path
    assert "Lab-esx" not in fleet.first.text and "PRIVATE KEY" not in fleet.first.text


@pytest.mark.soak
@pytest.mark.parametrize("count", [5, 25, 50])
def test_fifty_hosts_are_linked_kept_renewed_revoked_and_mended(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    description = topologies.fleet(count)
    for host in description["hosts"]:
        host["switches"]["known_key"] = False
        host["vms"] = []
    lab = bring_up(description, [PUSH_ALL], f"fleet{count}")
    fleet = next(lab)
    try:
        fleet.first.must_end_with(0)
        names = [host["name"] for host in description["hosts"]]
        began = time.monotonic()
        again = fleet.controller.play("link_fleet", "--forks", "10", **WRONG).must_end_with(0)
        second = time.monotonic() - began
        assert again.changed == 0
        rotated, revoked, drifted = names[0], names[1], names[2]
        path = fleet.root(drifted) / "etc/ssh/keys-root/authorized_keys"
        path.write_bytes(STRANGERS.encode())
        keys = fleet.root("bk1") / "root/.ssh"
        old = {name: (keys / f"stowage-control@{name}").read_bytes() for name in names}
        pins = (keys / f"stowage-control@{revoked}.known_hosts").read_bytes()
        checked = fleet.controller.play("link_fleet", "--check", "--forks", "10").must_end_with(0)
        assert checked.changed == 1 and f"{drifted} has no line for the key of bk1" in " ".join(checked.text.split())
        mended = fleet.controller.play("link_fleet", "--limit", drifted).must_end_with(0)
        assert mended.changed == 1 and path.read_bytes().startswith(STRANGERS.encode() + b"\n")
        fleet.controller.play("link_fleet", "--limit", rotated, link_fleet_rotate=True).must_end_with(0)
        changed = {name for name in names if (keys / f"stowage-control@{name}").read_bytes() != old[name]}
        assert changed == {rotated} and fleet.works("bk1", "control", rotated)
        absent = [{"name": "control", "from": ["bk1"], "to": [revoked], "state": "absent"}]
        run = fleet.controller.play("link_fleet", "--limit", revoked, link_fleet_control=False, link_fleet_links=absent)
        assert run.must_end_with(0).changed == 1
        # The key as somebody may have copied it.
        (keys / f"stowage-control@{revoked}").write_bytes(old[revoked])
        (keys / f"stowage-control@{revoked}").chmod(0o600)
        (keys / f"stowage-control@{revoked}.known_hosts").write_bytes(pins)
        assert not fleet.works("bk1", "control", revoked)
        assert all(fleet.works("bk1", "control", name) for name in names if name != revoked)
        assert fleet.failed_logins() == []
        with capsys.disabled():
            print(f"\n{count} hosts, {2 * count} links: made in {fleet.seconds:.0f} s, second run {second:.0f} s")
    finally:
        lab.close()  # type: ignore[attr-defined]


PUSH_ALL = {
    "name": "push",
    "from": ["esxi"],
    "to": ["bk1"],
    "user": "stowage",
    "restriction": {"kind": "receive", "path": "/srv/in box"},
}
