# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is reached how, and how a file of others is written."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.link import errors, manage, run
from ansible_collections.stowage.esxi.plugins.module_utils.link.facts import File
from ansible_collections.stowage.esxi.plugins.module_utils.link.manage import Reach, link_from_params
from ansible_collections.stowage.esxi.plugins.module_utils.link.plan import Plan
from ansible_collections.stowage.esxi.plugins.module_utils.link.restriction import ANSWER
from ansible_collections.stowage.esxi.plugins.module_utils.link.wanted import Link
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import (
    AuthenticationFailed,
    HostBusy,
    HostUnreachable,
)
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session

PASSWORD = Endpoint(host="192.0.2.1", port=22, password="s3cret", host_key_policy="accept_new")


class Fake(Session):
    """Lets in whom it is told to."""

    def __init__(self, endpoint: Endpoint, tried: list[Endpoint], refuse: Any) -> None:
        super().__init__(endpoint)
        self._tried = tried
        self._refuse = refuse

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        self._tried.append(self.endpoint)
        error = self._refuse(self.endpoint)
        if error is not None:
            raise error
        return Result(tuple(argv), 0, "", "")

    def close(self) -> None:
        pass


def reach(folder: Path, refuse: Any = lambda endpoint: None) -> tuple[Reach, list[Endpoint]]:
    tried: list[Endpoint] = []
    return Reach("control", lambda endpoint: Fake(endpoint, tried, refuse), str(folder)), tried


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    (tmp_path / "stowage-control@esx1").write_text("key")
    (tmp_path / "stowage-control@esx1.known_hosts").write_text("192.0.2.1 ssh-rsa AAAA\n")
    return tmp_path


def test_a_linked_machine_is_reached_by_its_key_and_by_the_pinned_host_keys(linked: Path) -> None:
    way, tried = reach(linked)
    way.open(PASSWORD, "esx1")
    assert [endpoint.password for endpoint in tried] == [None]
    assert tried[0].private_key_file == str(linked / "stowage-control@esx1")
    assert (tried[0].host_key_policy, tried[0].known_hosts_file) == (
        "strict",
        str(linked / "stowage-control@esx1.known_hosts"),
    )


def test_a_machine_that_has_forgotten_the_key_is_reached_by_password_once_and_that_is_told(linked: Path) -> None:
    def refuse(endpoint: Endpoint) -> Exception | None:
        return AuthenticationFailed(host="x") if endpoint.private_key_file else None

    way, tried = reach(linked, refuse)
    way.open(PASSWORD, "esx1")
    assert [endpoint.password for endpoint in tried] == [None, "s3cret"]
    assert way.refused == ["esx1"]


@pytest.mark.parametrize("name", ["esx2", "esx"])
def test_the_key_is_offered_to_no_other_machine(linked: Path, name: str) -> None:
    way, tried = reach(linked)
    way.open(PASSWORD, name)
    assert [endpoint.password for endpoint in tried] == ["s3cret"]


def test_a_half_made_link_is_not_used(linked: Path) -> None:
    (linked / "stowage-control@esx1.known_hosts").unlink()
    way, tried = reach(linked)
    way.open(PASSWORD, "esx1")
    assert tried[0].password == "s3cret"


def test_a_key_that_the_operator_names_is_the_one_that_is_used(linked: Path) -> None:
    way, tried = reach(linked)
    way.open(Endpoint(host="192.0.2.1", private_key="own", host_key_policy="accept_new"), "esx1")
    assert (tried[0].private_key, tried[0].private_key_file) == ("own", None)


def test_pinned_fingerprints_of_the_inventory_stay_in_force(linked: Path) -> None:
    pins = ("SHA256:" + "A" * 43,)
    way, tried = reach(linked)
    way.open(Endpoint(host="192.0.2.1", password="x", host_key_policy="pinned", host_key_fingerprints=pins), "esx1")
    assert (tried[0].host_key_policy, tried[0].host_key_fingerprints) == ("pinned", pins)


def test_a_closed_door_is_told_with_the_place_where_it_is_opened(tmp_path: Path) -> None:
    way, _tried = reach(
        tmp_path, lambda endpoint: HostUnreachable(host="192.0.2.1", port=22, reason="Connection refused")
    )
    with pytest.raises(errors.SshClosed) as caught:
        way.open(PASSWORD, "esx1")
    assert "Connection refused" in str(caught.value) and "TSM-SSH" in caught.value.hint_text


PARAMS: dict[str, Any] = {
    "name": "push",
    "hostname": "192.0.2.1",
    "port": 2222,
    "username": "root",
    "target_is_local": False,
    "key_type": "auto",
    "firewall": "open",
    "verify": "changed",
    "rotate": False,
    "max_age_days": 0,
}


def test_names_and_address_come_from_the_connection_where_nothing_else_is_said() -> None:
    link = link_from_params(PARAMS)
    assert (link.source, link.target, link.user, link.address, link.port) == (
        "localhost",
        "192.0.2.1",
        "root",
        "192.0.2.1",
        2222,
    )
    other = link_from_params({**PARAMS, "address": "esx1.example.com", "address_port": 22, "target_name": "esx1"})
    assert (other.target, other.known_hosts_name) == ("esx1", "esx1.example.com")


def test_a_source_that_is_gone_does_not_keep_its_key_alive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    warned: list[str] = []
    way, _tried = reach(tmp_path, lambda endpoint: HostUnreachable(host="192.0.2.7", port=22, reason="no answer"))
    connection = {"hostname": "192.0.2.7", "port": 22, "username": "root", "password": "x", "connect_timeout": 15}
    connection.update(host_key_policy="accept_new", ssh_backend="auto")
    link = Link(name="push", source="esx7", target="bk1", user="root", address="192.0.2.1")
    found = manage._source({"state": "absent", "source_connection": connection}, link, way, warned.append)
    assert found == (None, None) and "esx7 cannot be reached" in warned[0]
    with pytest.raises(errors.SshClosed):
        manage._source({"state": "present", "source_connection": connection}, link, way, warned.append)


def test_a_source_that_has_left_is_not_taken_for_this_machine(tmp_path: Path) -> None:
    """Else the key that this machine has under that name would be removed."""
    way, tried = reach(tmp_path)
    link = Link(name="push", source="esx7", target="bk1", user="root", address="192.0.2.1")
    assert manage._source({"state": "absent", "source_gone": True}, link, way, print) == (None, None) and tried == []
    with pytest.raises(errors.BadLink, match="esx7 is said to be gone"):
        manage._source({"state": "present", "source_gone": True}, link, way, print)


def test_a_link_that_could_not_be_tried_is_not_taken_for_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_session: Any) -> bool:
        raise HostBusy(host="esx1", port=22, seconds=600)

    monkeypatch.setattr(run.facts, "outgoing_open", busy)
    source = Trying([])
    target: Any = SimpleNamespace(keys_file=File("/etc/ssh/keys"), keys_text="", old=False, esxi=False, root=False)
    there: Any = SimpleNamespace(key_file=File("/k"))
    runner = run.Runner(link_from_params(PARAMS), source, Trying([]))
    with pytest.raises(HostBusy):
        runner._prove(Plan(pins="new", verify=True, open_for_now=True), there, target)
    assert source.removed == ["/k.new", "/k.known_hosts"]


def test_no_trial_closes_the_rule_set_under_another_one_of_that_source(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = [False]
    found: list[bool] = []

    def switch(_self: Any, _source: Any, is_open: bool, *, remember: bool) -> None:
        assert not remember
        opened[0] = is_open

    monkeypatch.setattr(run.facts, "outgoing_open", lambda _session: opened[0])
    monkeypatch.setattr(run.Runner, "_outgoing", switch)
    there: Any = SimpleNamespace(esxi=True)

    def trial(seconds: float) -> None:
        runner = run.Runner(link_from_params(PARAMS), Trying([]), Trying([]))
        with runner._open_for_now(there):
            time.sleep(seconds)
            found.append(opened[0])

    trials = [threading.Thread(target=trial, args=(seconds,)) for seconds in (0.2, 0.3, 0.4)]
    for one in trials:
        one.start()
    for one in trials:
        one.join()
    assert found == [True] * 3 and opened == [False]
    opened[0] = True
    trial(0.0)
    assert opened == [True], "somebody else had opened it"


# How authorized_keys is written

SHELLS = [words for words in (["dash"], ["bash"], ["busybox", "ash"]) if shutil.which(words[0])]


def write(shell: list[str], path: Path, old: bytes | None, new: bytes, size: int | None = None) -> int:
    digest = "absent" if old is None else hashlib.sha256(old).hexdigest()
    words = [str(path), digest, "stowage-x.tmp", str(len(new) if size is None else size), ""]
    done = subprocess.run([*shell, "-c", run._WRITE, "sh", *words], input=new, capture_output=True, check=False)
    assert sorted(os.listdir(path.parent)) == (["authorized_keys"] if path.exists() else [])
    return done.returncode


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_new_file_is_for_its_owner_alone_and_an_old_one_keeps_its_mode(tmp_path: Path, shell: list[str]) -> None:
    path = tmp_path / "a b" / "authorized_keys"
    assert write(shell, path, None, b"one\n") == 0
    assert (path.read_bytes(), path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (
        b"one\n",
        0o600,
        0o700,
    )
    path.chmod(0o640)
    assert write(shell, path, b"one\n", b"\xff\0two") == 0
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"\xff\0two", 0o640)


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("seen", [b"what was read\n", None])
def test_what_somebody_else_wrote_meanwhile_is_not_written_over(
    tmp_path: Path, shell: list[str], seen: bytes | None
) -> None:
    path = tmp_path / "keys" / "authorized_keys"
    path.parent.mkdir()
    path.write_bytes(b"what stands there now\n")
    assert write(shell, path, seen, b"ours\n") == 4
    assert path.read_bytes() == b"what stands there now\n"


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_half_a_file_never_takes_the_place_of_the_whole_one(tmp_path: Path, shell: list[str]) -> None:
    path = tmp_path / "keys" / "authorized_keys"
    path.parent.mkdir()
    path.write_bytes(b"whole\n")
    assert write(shell, path, b"whole\n", b"ha", size=4) == 3
    assert path.read_bytes() == b"whole\n"


class Trying(Fake):
    """The machine that would use the link: what its ssh says, one after the other, and what is removed there."""

    def __init__(self, says: list[tuple[int, str]]) -> None:
        super().__init__(PASSWORD, [], lambda endpoint: None)
        self.says, self.removed = says, [""]

    def script(self, text: str, args: Sequence[str] = (), **_more: Any) -> Result:
        rc, said = self.says.pop(0)
        return Result(("ssh",), rc, said if rc == 0 else "", said if rc else "")

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        self.removed = [word for word in argv if word.startswith("/")]
        return Result(tuple(argv), 0, "", "")


TURNED_AWAY = (255, "kex_exchange_identification: Connection closed by remote host")


@pytest.mark.parametrize(
    ("says", "plan", "works", "removed"),
    [
        ([TURNED_AWAY, TURNED_AWAY, (0, ANSWER)], Plan(pins="new"), True, [""]),
        ([TURNED_AWAY] * 3, Plan(pins="new"), False, ["/k.new", "/k.known_hosts"]),
        ([TURNED_AWAY] * 3, Plan(verify=True), False, ["/k.new"]),
        ([(255, "Permission denied (publickey).")], Plan(make_key=True, edit_keys=True), False, None),
        ([TURNED_AWAY] * 3, Plan(make_key=True, edit_keys=True, keep_old_line=True), False, ["/k.new"]),
    ],
    ids=["twice turned away", "a new one", "one that worked", "refused", "a rotation"],
)
def test_a_trial_is_made_again_and_what_worked_before_keeps_its_pins(
    says: list[tuple[int, str]], plan: Plan, works: bool, removed: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_PAUSES", (0.0, 0.0))
    source = Trying(says)
    target: Any = SimpleNamespace(keys_file=File("/etc/ssh/keys"), keys_text="", old=False, esxi=False, root=False)
    there: Any = SimpleNamespace(key_file=File("/k"))
    runner = run.Runner(link_from_params(PARAMS), source, Fake(PASSWORD, [], lambda endpoint: None))
    if works:
        runner._prove(plan, there, target)
    else:
        with pytest.raises(errors.LinkDoesNotWork):
            runner._prove(plan, there, target)
    assert says == [] and source.removed == (removed or ["/k.new", "/k.known_hosts"])
