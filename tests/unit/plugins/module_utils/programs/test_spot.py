# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup points here and on other servers, as they are written."""

from __future__ import annotations

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import BadPlace


@pytest.mark.parametrize(
    ("text", "written", "url"),
    [
        ("/srv/images/", "/srv/images", "/srv/images"),
        ("//srv//images", "/srv/images", "/srv/images"),
        ("/srv/a:22:/b", "/srv/a:22:/b", "/srv/a:22:/b"),
        ("vault:22:/srv/x/", "vault:22:/srv/x", "ssh://vault:22/srv/x"),
        ("vault::/srv/x", "vault:22:/srv/x", "ssh://vault:22/srv/x"),
        (
            "backup@vault.example:2222:/srv/x",
            "backup@vault.example:2222:/srv/x",
            "ssh://backup@vault.example:2222/srv/x",
        ),
        ("root@[2001:db8::1]:22:/srv/x", "root@[2001:db8::1]:22:/srv/x", "ssh://root@[2001:db8::1]:22/srv/x"),
        ("[fe80::1%eth0]:22:/a b/$(c)", "[fe80::1%eth0]:22:/a b/$(c)", "ssh://[fe80::1%eth0]:22/a b/$(c)"),
    ],
)
def test_a_place_is_read_and_written_in_one_way(text: str, written: str, url: str) -> None:
    found = spot.parse(text)
    assert (str(found), found.as_url) == (written, url)
    assert spot.parse(written) == found
    assert spot.is_remote(text) is (not found.is_here)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("srv/images", "neither an absolute path nor a place on a server"),
        ("vault:22:srv", "not absolute"),
        ("vault:22:/srv/../etc", "'..'"),
        ("/srv/../etc", "'..'"),
        ("/", "no folder of its own"),
        ("vault:22:/", "no folder of its own"),
        ("vault:70000:/srv", "no port"),
        ("2001:db8::1:22:/srv", "neither"),
        ("-oProxyCommand=x:22:/srv", "dash"),
        ("-l@vault:22:/srv", "dash"),
        ("/srv/\nx", "control character"),
        ("a b:22:/srv", "neither"),
    ],
)
def test_what_cannot_be_one_is_refused_with_the_form(text: str, why: str) -> None:
    with pytest.raises(BadPlace, match=why) as caught:
        spot.parse(text)
    assert "[user@]server:port:/path" in caught.value.hint_text
