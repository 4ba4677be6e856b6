# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection that is logged in before its command is known: used once, or gone."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import errors, options, pipe, session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.ahead import Ahead

from .test_session_contract import endpoint_of

WAIT = 20.0


@pytest.fixture
def shell(sshd: Any) -> session.Session:
    """With the shared connection there, as before any copy."""
    opened = session.open_session(endpoint_of(sshd, "openssh"))
    opened.run(["true"])
    return opened


def logins(sshd: Any) -> int:
    return int(sshd.log.count("Accepted publickey for"))


def comes_to(probe: Any, value: Any) -> bool:
    end = time.monotonic() + WAIT
    while probe() != value and time.monotonic() < end:
        time.sleep(0.02)
    return bool(probe() == value)


def test_one_login_serves_the_command_and_ends_with_it(shell: session.Session, sshd: Any, runtime_dir: str) -> None:
    there, before = set(os.listdir(runtime_dir)), logins(sshd)
    ahead = Ahead(shell)
    assert comes_to(lambda: logins(sshd) - before, 1)
    connection = ahead.take()
    assert connection is not None and ahead.take() is None
    with pipe.open_pipe(shell, ["cat"], connection) as stream:
        stream.write(b"there", WAIT)
        assert stream.read(10, WAIT) == b"there"
    assert logins(sshd) - before == 1 and not connection.usable
    ahead.drop()
    assert comes_to(lambda: set(os.listdir(runtime_dir)), there)


def test_what_nobody_takes_is_gone(shell: session.Session, sshd: Any, runtime_dir: str) -> None:
    there, before = set(os.listdir(runtime_dir)), logins(sshd)
    Ahead(shell).drop()
    assert logins(sshd) - before == 1 and comes_to(lambda: set(os.listdir(runtime_dir)), there)


def test_one_that_was_lost_or_has_waited_long_is_not_used(
    shell: session.Session, runtime_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = set(os.listdir(runtime_dir))
    lost = pipe.connect(shell)
    assert lost is not None and lost.usable
    lost.stop()
    assert not lost.usable
    # It would end by itself soon, perhaps between this look and its command.
    monkeypatch.setattr(options, "PERSIST_SECONDS", 0)
    assert Ahead(shell).take() is None
    assert comes_to(lambda: set(os.listdir(runtime_dir)), there)


def test_what_another_attempt_does_not_mend_is_told_at_once(sshd: Any) -> None:
    stranger = str(sshd.folder / "host_rsa")
    ahead = Ahead(session.open_session(endpoint_of(sshd, "openssh", private_key_file=stranger)))
    with pytest.raises(errors.AuthenticationFailed):
        ahead.take()
    # Nobody there now, perhaps later.
    assert Ahead(session.open_session(endpoint_of(sshd, "openssh", port=1))).take() is None


def test_a_password_that_is_wrong_goes_out_once(password_sshd: Any) -> None:
    shell = session.open_session(
        endpoint_of(password_sshd, "openssh", private_key_file=None, password="wrong", user="root")
    )
    ahead = Ahead(shell)
    with pytest.raises(errors.AuthenticationFailed):
        shell.run(["true"])
    with pytest.raises(errors.AuthenticationFailed):
        ahead.take()
    assert password_sshd.log.count("Failed ") == 1, password_sshd.log


def test_what_keeps_it_from_ending_does_not_hide_what_has_ended_the_block(
    shell: session.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_words: object, **_more: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pipe.Master, "start", full)
    Ahead(shell).drop()


def test_where_a_login_cannot_be_apart_from_its_command_there_is_none(sshd: Any) -> None:
    pytest.importorskip("paramiko")
    with session.open_session(endpoint_of(sshd, "paramiko")) as shell:
        before = logins(sshd)
        assert Ahead(shell).take() is None and logins(sshd) == before
        with pipe.open_pipe(shell, ["cat"]) as stream:
            stream.write(b"there", WAIT)
            assert stream.read(10, WAIT) == b"there"
