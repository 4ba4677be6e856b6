# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a wish about a power state comes to: graceful first, a hard stop only where it is allowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, power
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.power_state import OFF, ON, SUSPENDED

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine

STATES = ("powered-on", "powered-off", "shutdown-guest", "suspended", "reboot-guest", "restarted")
_WORDS = {
    "power_on": "power on",
    "power_off": "power off (hard)",
    "shutdown_guest": "shut down the guest",
    "suspend": "suspend",
    "reboot_guest": "reboot the guest",
    "reset": "reset (hard)",
}


@dataclass(frozen=True)
class PowerPlan:
    """`steps` in order; `fallback` is what follows when the only step has not worked in time."""

    before: str
    after: str
    steps: tuple[str, ...] = ()
    fallback: str | None = None

    @property
    def changed(self) -> bool:
        return bool(self.steps)

    @property
    def words(self) -> list[str]:
        return [_WORDS[step] for step in self.steps]

    def diff(self) -> dict[str, str]:
        # A restart ends where it began: the step is the difference.
        extra = "".join(f"step: {word}\n" for word in self.words)
        return {"before": f"power_state: {self.before}\n", "after": f"power_state: {self.after}\n{extra}"}


@dataclass(frozen=True)
class PowerResult:
    before: str
    after: str
    actions: tuple[str, ...]
    stopped_at: str | None
    started_at: str | None
    downtime_seconds: float | None
    hard: bool


def plan(vm: VirtualMachine, state: str, force: bool) -> PowerPlan:
    """Decide from the state as it is now. Raises what makes the wish impossible or not allowed."""
    now = vm.power_state()
    if state == "powered-on":
        return PowerPlan(now, ON, () if now == ON else ("power_on",))
    if state == "suspended":
        if now == OFF:
            raise _wrong(vm, now, state, "Power it on first.")
        return PowerPlan(now, SUSPENDED, () if now == SUSPENDED else ("suspend",))
    if state in ("powered-off", "shutdown-guest"):
        if now == OFF:
            return PowerPlan(now, OFF)
        if now == SUSPENDED:
            if state == "shutdown-guest":
                raise _wrong(vm, now, state, "A suspended guest cannot shut down: power it on first.")
            return PowerPlan(now, OFF, (_hard(vm, "power_off", force, "its suspended memory would be lost"),))
        if vm.tools_running():
            return PowerPlan(now, OFF, ("shutdown_guest",), "power_off" if force else None)
        return PowerPlan(now, OFF, (_hard(vm, "power_off", force, "VMware Tools do not run in the guest"),))
    if now != ON:
        raise _wrong(vm, now, state, "Use state=powered-on.")
    if vm.tools_running():
        return PowerPlan(now, ON, ("reboot_guest",), "reset" if force else None)
    return PowerPlan(now, ON, (_hard(vm, "reset", force, "VMware Tools do not run in the guest"),))


def _hard(vm: VirtualMachine, step: str, force: bool, reason: str) -> str:
    if not force:
        raise errors.NotAllowed(
            **vm.data(
                operation=f"the step {_WORDS[step]!r}",
                reason=reason,
                advice="Set force=true if a hard stop is meant.",
            )
        )
    return step


def _wrong(vm: VirtualMachine, now: str, state: str, advice: str) -> errors.WrongPowerState:
    needed = ON if state != "suspended" else f"{ON} or {SUSPENDED}"
    return errors.WrongPowerState(**vm.data(state=now, operation=f"state={state}", needed=needed, advice=advice))


def is_the_jobs_to_start(vm: VirtualMachine, decided: PowerPlan, journal: IntentLog) -> bool:
    """A job starts only what it has stopped, and nobody has started since."""
    if "power_on" not in decided.steps:
        return True
    entries = journal.read()
    last = max((at for at, entry in enumerate(entries) if entry["event"] == "power-off-intent"), default=None)
    if decided.before != OFF or last is None:
        return False
    # As its log began when we asked, or when we had seen it go off.
    seen = [one["boot_id"] for one in entries[last:] if one["event"] == "power-off-done" and one.get("boot_id")]
    return vm.boot_id() in (entries[last].get("boot_id"), *seen)


def predicted(decided: PowerPlan) -> PowerResult:
    """What a run would give, for check mode and for a VM that is there already."""
    hard = any(step in ("power_off", "reset") for step in decided.steps)
    return PowerResult(decided.before, decided.after, tuple(decided.words), None, None, None, hard)


def run(vm: VirtualMachine, decided: PowerPlan, waiter: Callable[[], Waiter], journal: IntentLog | None) -> PowerResult:
    """Do what was decided. `waiter` makes a new one for each step, so that each has the whole time limit."""
    done: list[str] = []
    stopped = started = None
    downtime: float | None = None
    hard = False
    for step in decided.steps:
        try:
            change = _step(vm, step, waiter(), journal)
        except (errors.PowerFailed, errors.ToolsUnavailableFault):
            if decided.fallback is None:
                raise
            done.append(f"{_WORDS[step]} (without effect in time)")
            step = decided.fallback
            change = _step(vm, step, waiter(), journal)
        done.append(_WORDS[step])
        hard = step in ("power_off", "reset")
        if change.after == ON:
            started = iso(change.at)
            downtime = _downtime(journal, change.at) if step == "power_on" else round(change.seconds, 1)
        else:
            stopped = iso(change.at)
    return PowerResult(decided.before, vm.power_state(), tuple(done), stopped, started, downtime, hard)


def _step(vm: VirtualMachine, step: str, waiter: Waiter, journal: IntentLog | None) -> power.PowerChange:
    if step in ("reset", "reboot_guest"):
        return power.restart(vm, waiter, hard=step == "reset")
    acts = {
        "power_on": power.power_on,
        "power_off": power.power_off,
        "shutdown_guest": power.shutdown_guest,
        "suspend": power.suspend,
    }
    return acts[step](vm, waiter, journal)


def _downtime(journal: IntentLog | None, at: datetime) -> float | None:
    """From the journal's last stop on: only who saw the VM go down can say how long it was."""
    if journal is None:
        return None
    stops = [entry.get("at") for entry in journal.read() if entry["event"] == "power-off-done"]
    if not stops or not isinstance(stops[-1], str):
        return None
    stopped = datetime.strptime(stops[-1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    return round((at - stopped).total_seconds(), 1)
