# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power: every change is proven by the state, never by what the command printed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Journal, Waiter, WaitTimeout
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, faults
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_vmodl import Dump, VmodlError, parse_dump
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.power_state import (
    OFF,
    ON,
    SUSPENDED,
    question_error,
    state_and_question,
    tools_running,
)
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import CommandTimeout, ConnectionLost

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine

# A power-on normally takes seconds; one that takes longer is asked whether it waits for an answer.
PATIENCE_SECONDS = 15
# A command that says it failed may be wrong (it was seen although the VM ran), so the state has this long to differ.
FAILED_SECONDS = 10.0
# What the host tells of a guest's uptime may be this old: a fall of less proves nothing.
UPTIME_LAG_SECONDS = 5


@dataclass(frozen=True)
class PowerChange:
    """`at` is when the new state was first seen; `seconds` how long it took from the command on."""

    before: str
    after: str
    changed: bool
    at: datetime
    seconds: float
    actions: tuple[str, ...] = ()


def shutdown_guest(vm: VirtualMachine, waiter: Waiter, journal: Journal | None = None) -> PowerChange:
    """Ask the guest to shut down and wait until the VM is off. The guest may ignore it: then PowerFailed."""
    return _change(
        vm,
        "power.shutdown",
        OFF,
        waiter,
        journal,
        needs=(ON,),
        advice="The guest did not shut down. Look at its console, raise state_change_timeout, or allow force.",
    )


def power_off(vm: VirtualMachine, waiter: Waiter, journal: Journal | None = None) -> PowerChange:
    """Cut the power. A suspended VM loses its memory."""
    return _change(
        vm, "power.off", OFF, waiter, journal, needs=(ON, SUSPENDED), advice="Look at the host's recent tasks."
    )


def power_on(vm: VirtualMachine, waiter: Waiter, journal: Journal | None = None) -> PowerChange:
    """Power on, or resume a suspended VM; never one whose disks are half overwritten."""
    # The mark of a restore in place that was not finished (jobs/torn.py), with the way out in it.
    torn = vm.host.session.run(["cat", f"{vm.directory}/.stowage-torn"])
    if torn.rc == 0:
        raise errors.NotAllowed(**vm.data(operation="power.on", reason=torn.stdout.strip(), advice="Run recover."))
    return _change(
        vm,
        "power.on",
        ON,
        waiter,
        journal,
        needs=(OFF, SUSPENDED),
        advice="The reason stands in vmware.log in the VM's folder.",
    )


def suspend(vm: VirtualMachine, waiter: Waiter, journal: Journal | None = None) -> PowerChange:
    return _change(
        vm,
        "power.suspend",
        SUSPENDED,
        waiter,
        journal,
        needs=(ON,),
        advice="The datastore may lack the room for the VM's memory.",
    )


_INTENTS = {
    "power.shutdown": ("power-off-intent", "power-off-done"),
    "power.off": ("power-off-intent", "power-off-done"),
    "power.on": ("power-on-intent", "power-on-done"),
    "power.suspend": ("suspend-intent", "suspend-done"),
}


def _change(
    vm: VirtualMachine,
    operation: str,
    wanted: str,
    waiter: Waiter,
    journal: Journal | None,
    *,
    needs: tuple[str, ...],
    advice: str,
) -> PowerChange:
    clock = vm.host.clock
    before = vm.power_state()
    if before == wanted:
        return PowerChange(before, before, False, clock.now(), 0.0)
    if before not in needs:
        raise errors.WrongPowerState(
            **vm.data(state=before, operation=operation, needed=" or ".join(needs), advice="Change its state first.")
        )
    if journal is not None:
        journal.note(_INTENTS[operation][0], boot_id=vm.boot_id(), state=before, operation=operation)
    started = asked = clock.monotonic()
    said = command(vm, operation)
    try:
        _refuse(vm, operation, said.text, before, wanted)
    except errors.EsxiError:
        # Nothing was begun, so nothing can come of it later.
        if journal is not None and wanted == OFF:
            journal.note("power-off-refused", operation=operation)
        raise
    last: list[str] = [before]

    def probe() -> str | None:
        nonlocal asked, said
        state, question = state_and_question(vm)
        if state == wanted:
            return state
        last[0] = state or last[0]
        if question is not None:
            raise question_error(vm, question, operation)
        if state != before or clock.monotonic() - asked < FAILED_SECONDS:
            return None
        if said.failed:
            raise WaitTimeout(what=operation, seconds=round(clock.monotonic() - started, 1))
        if said.lost:
            # It may never have been heard, and twice does no harm: only the state counts from here on.
            asked, said = clock.monotonic(), replace(command(vm, operation), failed=False)
        return None

    try:
        waiter.until(probe, f"VM {vm.name!r} to be {wanted}")
    except WaitTimeout as error:
        output = " ".join(said.text.split()) or "the host reported no failure"
        raise errors.PowerFailed(
            **vm.data(state=last[0], wanted=wanted, seconds=error.data["seconds"], output=output, advice=advice)
        ) from error
    at = clock.now()
    if journal is not None:
        # vmware.log may be rotated by its size (log.rotateSize, as vSphere's hardening guide asks for), so that it
        # begins anew while the VM runs: what it begins with now is of the same start.
        seen = {"boot_id": vm.boot_id()} if wanted == OFF else {}
        journal.note(_INTENTS[operation][1], **seen)
    return PowerChange(before, wanted, True, at, clock.monotonic() - started, (operation,))


@dataclass(frozen=True)
class Said:
    """What the host said to a command by then; `lost`: its answer never came, and nobody knows whether it was heard."""

    text: str = ""
    failed: bool = False
    lost: bool = False


def command(vm: VirtualMachine, operation: str) -> Said:
    """Give the command. No answer yet is no failure."""
    try:
        reply = vm.host.vim_patient(f"vmsvc/{operation}", str(vm.vmid), patience_seconds=PATIENCE_SECONDS)
    except (CommandTimeout, ConnectionLost) as error:
        return Said(error.message, lost=True)
    if reply is None:
        return Said()
    return Said(reply.text, faults.refused(reply.rc, reply.text))


def _refuse(vm: VirtualMachine, operation: str, said: str, before: str, wanted: str) -> None:
    """Raise what the host refused for good. A mere `failed` is not enough: it was seen although the VM ran."""
    if faults.fault_of(said) is None:
        return
    try:
        faults.check(1, said, host=vm.host.name, command=f"vim-cmd vmsvc/{operation} {vm.vmid}", vm=vm.name)
    except errors.InvalidPowerStateFault:
        # Somebody else was faster, or the state lagged: the state decides.
        if vm.power_state() not in (before, wanted):
            raise
    except errors.TaskInProgressFault:
        return


def restart(vm: VirtualMachine, waiter: Waiter, *, hard: bool) -> PowerChange:
    """Reboot by the guest, or reset. The power state never changes, so the proof is the guest's own start.

    Tools that stopped running, or an uptime that fell, since the command. A VM that has neither Tools nor an uptime
    cannot prove a reset: then only that the VM is on is checked.
    """
    clock = vm.host.clock
    before = vm.power_state()
    operation = "power.reset" if hard else "power.reboot"
    if before != ON:
        raise errors.WrongPowerState(
            **vm.data(state=before, operation=operation, needed=ON, advice="Power it on with state=powered-on.")
        )
    uptime, had_tools = _before_restart(vm, waiter)
    started = clock.monotonic()
    said = command(vm, operation)
    _refuse(vm, operation, said.text, before, ON)

    def probe() -> str | None:
        state, question = state_and_question(vm)
        if question is not None:
            raise question_error(vm, question, operation)
        if state != ON:
            return None
        text = vm.host.ask([["vim-cmd", "vmsvc/get.summary", str(vm.vmid)]])[0]
        try:
            now = parse_dump(text.stdout)
        except VmodlError:
            return None
        if not isinstance(now, Dump):
            return None
        restarted = had_tools and not tools_running(now)
        new_uptime = _uptime(now)
        if (
            uptime is not None
            and new_uptime is not None
            and new_uptime < uptime + clock.monotonic() - started - UPTIME_LAG_SECONDS
        ):
            restarted = True
        unprovable = hard and not had_tools and uptime is None
        return state if restarted or unprovable else None

    try:
        waiter.until(probe, f"VM {vm.name!r} to restart")
    except WaitTimeout as error:
        output = " ".join(said.text.split()) or "the host reported no failure, and the guest shows no sign of a restart"
        advice = "Look at the VM's console."
        raise errors.PowerFailed(
            **vm.data(state=ON, wanted="restarted", seconds=error.data["seconds"], output=output, advice=advice)
        ) from error
    return PowerChange(before, ON, True, clock.now(), clock.monotonic() - started, (operation,))


def _before_restart(vm: VirtualMachine, waiter: Waiter) -> tuple[int | None, bool]:
    """Uptime and Tools as they are now.

    No fall could be seen in the uptime of a guest that has only just started, so that one is given some seconds first;
    a host that never tells an uptime is asked no longer than that.
    """
    last: list[tuple[int | None, bool]] = []

    def probe() -> tuple[int | None, bool] | None:
        summary = vm.summary()
        uptime = _uptime(summary)
        last[:] = [(uptime, tools_running(summary))]
        return last[0] if uptime is not None and uptime > UPTIME_LAG_SECONDS else None

    seconds = min(waiter.timeout_seconds, 3 * UPTIME_LAG_SECONDS)
    try:
        return Waiter(seconds, clock=waiter.clock, beat=waiter.beat).until(probe, "an uptime whose fall can be seen")
    except WaitTimeout:
        return last[0]


def _uptime(summary: Dump) -> int | None:
    value = summary.get("quickStats.uptimeSeconds")
    return value if isinstance(value, int) and value > 0 else None
