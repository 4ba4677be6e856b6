# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that cannot work, or could be read as an option by ssh, are refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import diagnose, spec
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint, parse_jump
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import BadEndpoint

PIN = "SHA256:" + "A" * 43


@pytest.mark.parametrize(
    "settings",
    [
        {"host": ""},
        {"host": "-oProxyCommand=id"},
        {"host": "a b"},
        {"host": "h", "user": "-l"},
        {"host": "h", "user": "a b"},
        {"host": "h", "port": 0},
        {"host": "h", "port": 65536},
        {"host": "h", "host_key_policy": "none"},
        {"host": "h", "host_key_policy": "pinned"},
        {"host": "h", "host_key_policy": "pinned", "host_key_fingerprints": (PIN,), "jump": "j"},
        {"host": "h", "host_key_fingerprints": ("MD5:aa:bb",)},
        {"host": "h", "private_key": "t", "private_key_file": "f"},
        {"host": "h", "password": "two\nlines"},
        {"host": "h", "jump": "a,b"},
        {"host": "h", "jump": "-oX@j"},
        {"host": "h", "jump": "j;id"},
        {"host": "h", "jump": "j:99999"},
        {"host": "h", "backend": "telnet"},
        {"host": "h", "connect_timeout_seconds": 0},
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_way_out(settings: dict[str, Any]) -> None:
    with pytest.raises(BadEndpoint) as caught:
        Endpoint(**settings)
    assert caught.value.hint_text and "(unknown" not in caught.value.hint_text + caught.value.message


@pytest.mark.parametrize("host", ["esx1", "esx-1.example.org", "192.0.2.1", "fe80::1%eth0", "::1", "2001:db8::1"])
def test_names_and_addresses_are_taken(host: str) -> None:
    assert Endpoint(host).address.host == host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("j", ("j", 22, None)),
        ("u@j:2222", ("j", 2222, "u")),
        ("u@[2001:db8::1]:2222", ("2001:db8::1", 2222, "u")),
        ("a@dom@j", ("j", 22, "a@dom")),
    ],
)
def test_a_jump_host_is_read(text: str, expected: tuple[str, int, str | None]) -> None:
    address = parse_jump(text)
    assert (address.host, address.port, address.user) == expected


def test_the_repr_shows_no_secret() -> None:
    shown = repr(Endpoint("h", password="PW", private_key="KEY", passphrase="PHRASE"))
    assert not any(secret in shown for secret in ("PW", "KEY", "PHRASE"))


def test_the_options_of_a_module_make_an_endpoint_and_the_defaults_agree() -> None:
    params = {name: option.get("default") for name, option in spec.connection_argument_spec().items()}
    assert spec.endpoint_from_params({**params, "hostname": "h"}) == Endpoint("h")


# What ssh says: OpenSSH 9.2 against servers set up for each case, and refusals of ESXi from published logs.
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.\n",
         "host-key-unknown"),
        ("@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nThe fingerprint for the ED25519 key "
         "sent by the remote host is\nSHA256:abc.\nHost key verification failed.\n", "host-key-changed"),
        ("root@192.168.1.133: Permission denied (publickey,keyboard-interactive).\n", "denied"),
        ("Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures\n", "denied"),
        ("Unable to negotiate with 192.0.2.1 port 22: no matching host key type found. Their offer: ssh-rsa,ssh-dss\n",
         "legacy-only"),
        ("ssh: connect to host 127.0.0.1 port 1: Connection refused\n", "unreachable"),
        ("ssh: Could not resolve hostname x: Name or service not known\n", "unreachable"),
        ("kex_exchange_identification: read: Connection reset by peer\n", "unreachable"),
        ("Connection timed out during banner exchange\nConnection to h port 22 timed out\n", "unreachable"),
        ("channel 0: open failed: administratively prohibited: open failed\nstdio forwarding failed\n", "forwarding"),
        ("something new\n", "other"),
        ("", "other"),
    ],
)  # fmt: skip
def test_the_words_of_ssh_are_understood(words: str, kind: str) -> None:
    assert diagnose.read(words).kind == kind


def test_the_methods_of_the_server_are_known_after_a_refusal() -> None:
    assert diagnose.read("root@h: Permission denied (publickey,password).").methods == ("publickey", "password")
