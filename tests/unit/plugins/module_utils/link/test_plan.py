# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided from a wish and two machines."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.link import errors
from ansible_collections.stowage.esxi.plugins.module_utils.link.authorized import PublicKey
from ansible_collections.stowage.esxi.plugins.module_utils.link.facts import File, Source, Target
from ansible_collections.stowage.esxi.plugins.module_utils.link.plan import (
    key_type,
    plan_absent,
    plan_present,
    wanted_entry,
    wanted_pins,
)
from ansible_collections.stowage.esxi.plugins.module_utils.link.restriction import Restriction
from ansible_collections.stowage.esxi.plugins.module_utils.link.wanted import Link


def number(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def rsa(bits: int = 3072, seed: int = 1) -> PublicKey:
    blob = number(b"ssh-rsa") + number(b"\1\0\1") + number(b"\0\x80" + bytes([seed]) * (bits // 8 - 1))
    return PublicKey("ssh-rsa", base64.b64encode(blob).decode())


def ed25519() -> PublicKey:
    return PublicKey("ssh-ed25519", base64.b64encode(number(b"ssh-ed25519") + number(b"x" * 32)).decode())


LINK = Link(name="push", source="esx1", target="bk1", user="root", address="192.0.2.9", port=2222)
KEY = rsa()
KEYS = "/root/.ssh"
NONE = Source(
    esxi=True,
    root=True,
    fips=True,
    ssh_version=(8, 3),
    folder=File("/etc/ssh/keys-root", 0o755),
    key=None,
    key_file=File("/etc/ssh/keys-root/stowage-push@bk1"),
    key_age_days=0.0,
    pins="",
    other_keys=(),
    outgoing_open=False,
    was_closed=False,
)
BARE = Target(
    esxi=False,
    root=True,
    fips=False,
    ssh_version=(9, 2),
    folder=File(KEYS, 0o700),
    keys_file=File(f"{KEYS}/authorized_keys", 0o600),
    keys_text="# somebody's\n",
    host_keys=(rsa(seed=2), ed25519()),
)
MADE = replace(
    NONE,
    key=KEY,
    key_file=File(NONE.key_file.path, 0o600),
    pins=wanted_pins(LINK, BARE),
    outgoing_open=True,
    was_closed=True,
)
LINKED = replace(BARE, keys_text=BARE.keys_text + wanted_entry(LINK, BARE, KEY).line + "\n")


def test_a_first_link_is_no_drift() -> None:
    plan = plan_present(LINK, NONE, BARE)
    assert plan.changed and plan.make_key and plan.edit_keys and plan.open_outgoing and plan.verify
    assert plan.drift == () and not plan.keep_old_line
    assert plan.pins is not None and plan.pins.startswith("[192.0.2.9]:2222 ssh-rsa ")
    assert len(plan.actions) == 4


def test_a_link_that_is_as_it_is_wanted_is_left_alone() -> None:
    plan = plan_present(LINK, MADE, LINKED)
    assert (plan.changed, plan.verify, plan.actions, plan.drift) == (False, False, (), ())
    assert plan.diff()["before"] == plan.diff()["after"] != ""
    assert plan_present(replace(LINK, verify="always"), MADE, LINKED).verify


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (MADE, BARE, "bk1 has no line for the key of esx1"),
        (MADE, replace(LINKED, keys_text=LINKED.keys_text * 2), "bk1 has 2 lines of this link"),
        (replace(MADE, key=rsa(seed=9)), LINKED, "bk1 has another key in the line of this link"),
        (MADE, replace(LINKED, keys_text='from="x" ' + LINKED.keys_text.split("\n", 1)[1]), "other restrictions"),
        (replace(MADE, pins=""), LINKED, "the host keys of bk1 are not pinned on esx1"),
        (MADE, replace(LINKED, host_keys=(rsa(seed=3),)), "has not the host keys pinned that bk1 has now"),
        (replace(MADE, outgoing_open=False), LINKED, "rule set sshClient is closed on esx1"),
        (replace(MADE, key_file=File(MADE.key_file.path, 0o644)), LINKED, "others may read"),
        (MADE, replace(LINKED, keys_file=File(f"{KEYS}/authorized_keys", 0o666)), "others may write"),
        (MADE, replace(LINKED, folder=File(KEYS, 0o777)), "others may write"),
        (replace(MADE, key=None, key_file=NONE.key_file), LINKED, "the key stowage-push@bk1 is gone from esx1"),
        (replace(MADE, key=None), LINKED, "cannot be read as a key"),
    ],
)
def test_what_others_changed_is_drift_and_is_mended(source: Source, target: Target, said: str) -> None:
    plan = plan_present(LINK, source, target)
    assert plan.changed and len(plan.drift) == 1 and said in plan.drift[0]
    assert plan.diff()["before"] != plan.diff()["after"]


@pytest.mark.parametrize(
    ("wish", "source", "reason"),
    [
        ({"rotate": True}, MADE, "a rotation was asked for"),
        ({"max_age_days": 30}, replace(MADE, key_age_days=30.5), "the old one is 30 days old"),
        ({}, replace(MADE, key=rsa(2048)), "the old one has 2048 bits only"),
        ({"key_type": "ecdsa"}, MADE, "the old one is of type ssh-rsa"),
    ],
)
def test_a_key_is_renewed_while_the_old_one_goes_on_working(wish: dict[str, Any], source: Source, reason: str) -> None:
    plan = plan_present(replace(LINK, **wish), source, LINKED)
    assert plan.make_key and plan.keep_old_line and plan.edit_keys and plan.verify
    assert reason in plan.actions[0]
    assert not plan_present(replace(LINK, max_age_days=31), replace(MADE, key_age_days=30.5), LINKED).changed


def test_esxi_and_fips_get_rsa_and_are_never_given_ed25519() -> None:
    linux = replace(MADE, esxi=False, fips=False)
    assert key_type(LINK, linux, BARE) == "ed25519"
    for source, target in ((MADE, BARE), (linux, replace(BARE, esxi=True)), (linux, replace(BARE, fips=True))):
        assert key_type(LINK, source, target) == "rsa"
        with pytest.raises(errors.BadLink, match="does not take Ed25519"):
            key_type(replace(LINK, key_type="ed25519"), source, target)


def test_the_outgoing_rule_set_is_opened_lent_or_left() -> None:
    closed = replace(MADE, outgoing_open=False)
    lent = plan_present(replace(LINK, firewall="restore"), closed, LINKED)
    assert not lent.changed and not lent.open_for_now
    lent = plan_present(replace(LINK, firewall="restore", verify="always"), closed, LINKED)
    assert not lent.changed and lent.open_for_now and lent.verify
    # Open for another link's trial, it may be closed before this one's.
    assert plan_present(replace(LINK, firewall="restore", verify="always"), MADE, LINKED).open_for_now
    assert not plan_present(replace(LINK, verify="always"), MADE, LINKED).open_for_now
    left = plan_present(replace(LINK, firewall="leave", verify="always"), closed, LINKED)
    assert not left.changed and not left.verify and "was not tried" in left.warnings[0]
    assert plan_present(LINK, closed, LINKED).open_outgoing


def test_a_restriction_that_a_second_line_of_the_same_key_undoes_is_warned_of() -> None:
    link = replace(LINK, restriction=Restriction("receive", "/srv/x"))
    entry = wanted_entry(link, BARE, KEY)
    text = f"{KEY.kind} {KEY.base64} somebody\n{entry.line}\n"
    plan = plan_present(link, MADE, replace(BARE, keys_text=text))
    assert not plan.changed and "(somebody)" in plan.warnings[0]


def test_revoking_takes_the_line_first_and_the_key_where_it_can_be_reached() -> None:
    plan = plan_absent(LINK, MADE, LINKED)
    assert plan.edit_keys and plan.remove_key and not plan.close_outgoing and len(plan.actions) == 2
    blind = plan_absent(LINK, None, LINKED)
    assert blind.edit_keys and not blind.remove_key and blind.changed
    assert not plan_absent(LINK, replace(NONE, outgoing_open=True), BARE).changed


@pytest.mark.parametrize(
    ("source", "closes"),
    [
        (MADE, True),
        (replace(MADE, was_closed=False), False),
        (replace(MADE, other_keys=("stowage-a@b",)), False),
        (replace(MADE, outgoing_open=False), False),
    ],
)
def test_the_rule_set_is_closed_again_only_by_the_last_link_of_those_that_opened_it(
    source: Source, closes: bool
) -> None:
    assert plan_absent(replace(LINK, firewall="restore"), source, LINKED).close_outgoing is closes
    assert not plan_absent(LINK, source, LINKED).close_outgoing


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (NONE, replace(BARE, keys_file=File("/x", 0o777, True)), "symbolic link"),
        (NONE, replace(BARE, host_keys=()), "no host key"),
        (replace(NONE, ssh_version=(0, 0)), BARE, "no OpenSSH client"),
    ],
)
def test_a_machine_that_cannot_take_part_is_refused(source: Source, target: Target, said: str) -> None:
    with pytest.raises(errors.UnfitMachine, match=said):
        plan_present(LINK, source, target)


@pytest.mark.parametrize(
    "wish",
    [
        {"name": "a b"},
        {"name": "a:b"},
        {"name": "-a"},
        {"target": "../x"},
        {"source": "x\ny"},
        {"user": "$(id)"},
        {"address": "-oProxyCommand=id"},
        {"port": 0},
        {"key_folder": "relative"},
        {"key_folder": '/a"b'},
        {"key_folder": "/a%h"},
        {"restriction": Restriction("read")},
    ],
)
def test_a_link_that_could_mean_something_else_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(errors.BadLink):
        replace(LINK, **wish).check()
