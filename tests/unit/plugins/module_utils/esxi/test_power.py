# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, power, power_state
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost
from fakeclock import FakeClock

VIM_CMD = """
case $1 in
vmsvc/power.getstate) echo "Retrieved runtime info"; cat {folder}/state ;;
vmsvc/message) echo "No message." ;;
vmsvc/power.shutdown) echo asked >>{folder}/asked; {effect} ;;
esac
"""


class Cut:
    """A session that is cut at the first commands of a name: they never reach the host."""

    def __init__(self, inner: Any, times: int) -> None:
        self.inner, self.times, self.endpoint = inner, times, inner.endpoint

    def script(self, text: str, args: Sequence[str] = (), **more: Any) -> Any:
        if "vmsvc/power.shutdown" in args and self.times:
            self.times -= 1
            raise ConnectionLost(host="esx1", port=22, command="vim-cmd", reason="Connection reset by peer")
        return self.inner.script(text, args, **more)

    def run(self, *args: Any, **more: Any) -> Any:
        return self.inner.run(*args, **more)


def machine(session: Any, tmp_path: Path, times: int, effect: str) -> VirtualMachine:
    (tmp_path / "state").write_text("Powered on\n")
    session.put("vim-cmd", VIM_CMD.format(folder=tmp_path, effect=effect.format(folder=tmp_path)))
    host = Host(Cut(session, times), clock=FakeClock(), lock=contextlib.nullcontext)  # type: ignore[arg-type]
    return VirtualMachine(host, 1, "web", "/vmfs/volumes/ds/web/web.vmx")


def shut_down(vm: VirtualMachine) -> power.PowerChange:
    return power.shutdown_guest(vm, Waiter(60, clock=vm.host.clock))


@pytest.mark.parametrize("times", [1, 2])
def test_a_command_whose_answer_was_lost_is_given_again_where_nothing_has_come_of_it(
    local_session: Any, tmp_path: Path, times: int
) -> None:
    vm = machine(local_session, tmp_path, times, "echo Powered off >{folder}/state")
    change = shut_down(vm)
    assert change.after == power_state.OFF
    assert change.seconds >= times * power.FAILED_SECONDS
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_a_command_that_was_answered_is_given_once(local_session: Any, tmp_path: Path) -> None:
    vm = machine(local_session, tmp_path, 0, ":")
    with pytest.raises(errors.PowerFailed):
        shut_down(vm)
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_what_a_second_command_is_refused_with_counts_for_nothing(local_session: Any, tmp_path: Path) -> None:
    """The first one may be under way after all."""
    vm = machine(local_session, tmp_path, 1, "echo 'Shutdown guest failed'; exit 1")
    with pytest.raises(errors.PowerFailed) as caught:
        shut_down(vm)
    assert caught.value.data["seconds"] == 60
