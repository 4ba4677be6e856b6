# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One machine starts one playbook on another over a link that permits nothing else: real sshd, real Ansible."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from addresses import free_base_address
from ansible_collections.stowage.esxi.plugins.module_utils.link import starting
from ansible_collections.stowage.esxi.plugins.module_utils.link.errors import WorkUnreachable
from ansible_collections.stowage.esxi.plugins.module_utils.link.starting import Starter, Wish
from ansible_collections.stowage.esxi.plugins.module_utils.link.wanted import Link
from judge import Lab as JudgedLab
from playing import Controller, Run

from .conftest import Lab, wait_until

KEY = "/root/.ssh/stowage-nightly@bk2"
# A work that tells what it was given, and ends when it is let.
PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - copy:
        dest: "/etc/works/seen-{{ stowage_run_id }}"
        content: >-
          {{ {'how': how | default('none'), 'place': place, 'agent': lookup('env', 'SSH_AUTH_SOCK')} | to_json }}
    - wait_for: {path: /etc/works/go, timeout: 600, sleep: 1}
    - fail: {msg: it was told to fail}
      when: how | default('') == 'fail'
"""
LINKS = """
- hosts: bk2
  gather_facts: false
  tasks:
    - stowage.esxi.link_server:
        name: "{{ item }}"
        source: bk1
        restriction:
          kind: work
          work:
            name: "{{ item }}"
            playbook: /etc/works/work.yml
            directory: /etc/works
            ansible_playbook: /etc/works/ansible-playbook
            extra_vars: {place: "it's \\"fixed\\""}
            allow: {how: "ok|fail"}
      delegate_to: bk1
      loop: [nightly, recover]
- hosts: bk1
  gather_facts: false
  roles:
    - role: stowage.esxi.start_work
      vars:
        start_work_poll: 1
        start_work_chain:
          - {link: nightly, target: bk2, id: chain-1, extra_vars: {how: fail}}
          - {link: nightly, target: bk2, id: chain-2, extra_vars: {how: ok}}
          - {link: recover, target: bk2, id: chain-3, "on": failure}
"""


class Wire:
    """A way to the target's sshd that can be cut: what goes over it ends, and nothing new is let through."""

    def __init__(self, address: str, port: int) -> None:
        self._to, self._open, self._pairs = (address, port), True, []  # type: ignore[var-annotated]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _from = self._listener.accept()
            except OSError:
                return
            if not self._open:
                near.close()
                continue
            far = socket.create_connection(self._to)
            self._pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (one, other):
                end.close()

    def cut(self) -> None:
        self._open = False
        for pair in self._pairs:
            for end in pair:
                with_shutdown(end)

    def mend(self) -> None:
        self._open = True

    def close(self) -> None:
        self.cut()
        self._listener.close()


def with_shutdown(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        end.close()


class Two:
    """Two Linux machines and a link between them."""

    def __init__(self, judged: JudgedLab, lab: Lab, work: Path) -> None:
        self.judged, self.lab, self.work = judged, lab, work
        self.controller = Controller(judged, work)
        self.far = lab.folder / "servers/bk2/root"
        self.first: Run | None = None
        self._numbers = iter(range(1000))

    def let_go(self, go: bool = True) -> None:
        path = self.far / "etc/works/go"
        path.touch() if go else path.unlink(missing_ok=True)

    def seen(self, work: str) -> dict[str, Any] | None:
        path = self.far / f"etc/works/seen-{work}"
        text = path.read_text() if path.exists() else ""
        return json.loads(text) if text else None

    def ssh(self, *words: str, options: tuple[str, ...] = (), stdin: str = "") -> subprocess.CompletedProcess[str]:
        """From the source, with the link's key, as whoever has taken the source over would."""
        far = self.lab.host("bk2")
        given = ["-F", "/dev/null", "-i", KEY, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        given += ["-o", f"UserKnownHostsFile={KEY}.known_hosts", "-p", str(far.port), *options]
        return self.run("ssh", *given, f"root@{far.address}", *words, stdin=stdin)

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        line = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
        if stdin:
            line = f"printf %s '{stdin}' | {line}"
        return self.lab.exec("bk1", f"timeout 20 {line}")

    def starter(self, wire: Wire, patience: float) -> Starter:
        """The engine of linked_work with the link's own key, over a wire that can be cut."""
        folder = self.work / f"key{next(self._numbers)}"
        folder.mkdir()
        key = folder / "key"
        shutil.copy(self.lab.folder / "servers/bk1/root" / KEY.lstrip("/"), key)
        key.chmod(0o600)
        pins = (self.lab.folder / "servers/bk1/root" / f"{KEY}.known_hosts".lstrip("/")).read_text()
        lines = [f"[127.0.0.1]:{wire.port} {line.split(' ', 1)[1]}" for line in pins.splitlines()]
        Path(f"{key}.known_hosts").write_text("\n".join(lines) + "\n")
        return Starter(Link("nightly", "bk1", "bk2", "root", "127.0.0.1", wire.port), str(key), patience=patience)


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    work = Path(tempfile.mkdtemp(prefix="stowage-works-"))
    (work / "topology.json").write_text(json.dumps({"backup_servers": [{"name": "bk1"}, {"name": "bk2"}]}))
    judged = JudgedLab(work / "lab", "works")
    judged.verb("up", "--topology", str(work / "topology.json"), "--base-address", free_base_address())
    try:
        lab = Lab(work / "lab")
        made = Two(judged, lab, work)
        folder = made.far / "etc/works"
        folder.mkdir()
        (folder / "work.yml").write_text(PLAYBOOK)
        program = folder / "ansible-playbook"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ansible playbook "$@"\n')
        program.chmod(0o755)
        (work / "links.yml").write_text(LINKS)
        made.let_go()
        made.first = made.controller.play(str(work / "links.yml"))
        yield made
    finally:
        judged.verb("down")
        shutil.rmtree(work, ignore_errors=True)


@pytest.mark.soak
def test_a_chain_goes_on_by_success_or_failure_and_its_end_names_what_failed(two: Two) -> None:
    assert two.first is not None
    run = two.first.must_end_with(2)
    told = run.stats["stowage_works"]["bk1"]
    assert [(one["id"], one["link"], one["outcome"], one["failed"]) for one in told] == [
        ("chain-1", "nightly", "failed", True),
        ("chain-3", "recover", "succeeded", False),
    ]
    # The key of the source leads no further than to the playbook, and brings nothing along.
    assert two.seen("chain-1") == {"how": "fail", "place": 'it\'s "fixed"', "agent": ""}
    assert two.seen("chain-2") is None and two.seen("chain-3") is not None
    assert "it was told to fail" in run.text and "The work chain-1 on bk2 has failed" in run.text


REFUSED = (
    "id",
    "sh -c id",
    "bash",
    "cat /etc/shadow",
    "/etc/works/ansible-playbook /etc/works/work.yml",
    "stowage-run",
    "stowage-get /etc/shadow",
    "stowage-work start ../../x",
    "stowage-work output ../../../etc/shadow",
    "stowage-work start x how=bad",
    "stowage-work start x place=there",
    "stowage-work start x playbook=/tmp/other.yml",
    "stowage-work start x ansible_connection=ssh",
    "stowage-work start x -e @/etc/shadow",
    "stowage-work start x @/etc/shadow",
    'stowage-work start x how=ok", "place": "there',
    "stowage-work start x how={{1+1}}",
    "stowage-work start x how=$(id)",
    "stowage-work start x; id",
    "stowage-work start x && id",
    "stowage-work start x | id",
    "stowage-work start x\nid",
    "rsync --server --sender . /etc",
    "scp -f /etc/shadow",
    "scp -t /tmp",
    "internal-sftp",
    "echo stowage-link-works; id",
)


@pytest.mark.soak
def test_a_key_of_one_work_does_nothing_else(two: Two) -> None:
    assert two.ssh("echo", "stowage-link-works").stdout == "stowage-link-works\n"
    before = sorted(path.name for path in (two.far / "root/.stowage-works/nightly").iterdir())
    for command in REFUSED:
        done = two.ssh(command)
        assert (done.returncode, done.stdout) == (126, "") and "stowage: refused" in done.stderr, (command, done)
    # No shell, no terminal, and none behind the standard input.
    for words in ((), ("-tt",)):
        done = two.ssh(options=words, stdin="id; cat /etc/shadow")
        # A client that insists on a terminal gives up by itself.
        assert done.returncode == (255 if words else 126) and done.stdout == "", done
    assert "PTY allocation request failed" in done.stderr
    # No forwarding of ports in either direction, none of sockets, no subsystem, no copy.
    port = str(two.lab.host("bk2").port)
    assert "administratively prohibited" in two.ssh(options=("-W", f"127.0.0.1:{port}")).stderr
    done = two.ssh("echo", "stowage-link-works", options=("-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:22"))
    assert done.returncode == 255 and "remote port forwarding failed" in done.stderr, done
    far = two.lab.host("bk2")
    common = ["-F", "/dev/null", "-i", KEY, "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={KEY}.known_hosts"]
    for program in (
        ["sftp", *common, "-P", str(far.port), f"root@{far.address}:/etc/shadow", "/tmp/got"],
        ["scp", *common, "-P", str(far.port), f"root@{far.address}:/etc/shadow", "/tmp/got"],
        ["scp", *common, "-O", "-P", str(far.port), f"root@{far.address}:/etc/shadow", "/tmp/got"],
        ["scp", *common, "-P", str(far.port), "/etc/hostname", f"root@{far.address}:/tmp/put"],
    ):
        assert two.run(*program).returncode != 0, program
    assert two.run("ls", "/tmp/got").returncode != 0 and two.lab.exec("bk2", "ls /tmp/put").returncode != 0
    assert sorted(path.name for path in (two.far / "root/.stowage-works/nightly").iterdir()) == before


@pytest.mark.soak
def test_a_work_goes_on_when_its_link_is_cut_is_refused_twice_and_lost_when_it_is_killed(two: Two) -> None:
    far = two.lab.host("bk2")
    wire = Wire(far.address, far.port)
    two.let_go(False)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(
                starting.manage, two.starter(wire, 60), Wish("finished", "cut-1", {"how": "ok"}, poll=0.5)
            )
            wait_until(lambda: two.seen("cut-1") is not None, "the work", 180)
            wire.cut()
            time.sleep(1)
            with pytest.raises(WorkUnreachable):
                starting.manage(two.starter(wire, 0), Wish("status", "cut-1"))
            wire.mend()
            result, error = starting.manage(two.starter(wire, 5), Wish("started", "cut-2"))
            assert error is not None and (error.id, result["work"]["id"]) == ("link-work-busy", "cut-1")
            assert starting.manage(two.starter(wire, 5), Wish("started", "cut-1"))[0]["changed"] is False
            two.let_go()
            result, error = waiting.result(timeout=240)
        assert error is None and (result["work"]["outcome"], result["work"]["rc"]) == ("succeeded", 0)
        assert any("PLAY RECAP" in line for line in result["output"])
        # Killed on the target.
        two.let_go(False)
        starting.manage(two.starter(wire, 5), Wish("started", "killed-1"))
        wait_until(lambda: two.seen("killed-1") is not None, "the work", 180)
        two.lab.exec("bk2", "for p in $(grep -lz killed-1 /proc/[0-9]*/cmdline | tr -dc '0-9\\n'); do kill -9 $p; done")
        starter = two.starter(wire, 5)
        wait_until(
            lambda: starting.manage(starter, Wish("status", "killed-1"))[0]["work"]["outcome"] != "running", "it"
        )
        result, error = starting.manage(starter, Wish("finished", "killed-1"))
        assert result["work"]["outcome"] in ("lost", "failed") and error is not None
    finally:
        two.let_go()
        wire.close()


@pytest.mark.soak
def test_a_target_that_is_started_anew_in_the_middle_has_lost_the_work(two: Two) -> None:
    far = two.lab.host("bk2")
    wire = Wire(far.address, far.port)
    two.let_go(False)
    try:
        starting.manage(two.starter(wire, 5), Wish("started", "boot-1"))
        wait_until(lambda: two.seen("boot-1") is not None, "the work", 180)
        two.judged.verb("reboot", "bk2")
        result, error = starting.manage(two.starter(wire, 60), Wish("finished", "boot-1", poll=1))
        assert error is not None and (error.id, result["work"]["outcome"]) == ("link-work-lost", "lost")
        two.let_go()
        result, error = starting.manage(two.starter(wire, 5), Wish("finished", "boot-2", poll=0.5))
        assert (error, result["work"]["outcome"]) == (None, "succeeded")
    finally:
        two.let_go()
        wire.close()
