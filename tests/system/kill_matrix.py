# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kill matrix: a job is struck at every thing that it asks of the hypervisor, and recover must leave nothing.

    kill_matrix.py [hot|warm|cold|restore…] [kill|reset|hole|outage|reboot…] [only steps with this text…]

The steps are not written down here. A job is run once, by the role's modules in its order (`matrix_driver.py`), and
every remote command of it is counted and named: these are the steps. Then, for each step, the same job runs again in
a process of its own, and one of these is done to it:

* `kill`: SIGKILL, right before it asks (`before`) or while the hypervisor works on it (`sent`), in which case the
  command lives on there; its ssh connections die with it.
* `reset`: its connection is reset. `hole`: its connection carries nothing any more; new ones do. `outage`: nothing
  reaches the host any more, by no connection, until the job has ended. `reboot`: the host reboots.

All but the kill strike when the host has had the command and its answer is on its way. Before it was asked would say
nothing new: the host then stands where it stands after the step before, and there the job did not even hear that. These
jobs live on and do what the role does: an error of a step leads to the last one, which undoes, and the record says why.

Then the real `recover` playbook runs once for many such jobs, each on a VM of its own, and the lab is looked at from
outside (`matrix_lab.py`). A host that reboots stops its VMs: what they are afterwards is compared with a reboot without
any job, save for the VM that a job of ours had stopped, which must run again.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "tools"), str(TESTS / "lab"), str(TESTS / "system")]

from addresses import free_base_address  # noqa: E402  they lie outside of any package
from matrix_lab import OWN, SHARED, Matrix  # noqa: E402

HOWS = ("hot", "warm", "cold", "restore")
STRIKES = ("kill", "reset", "hole", "outage", "reboot")
COMMITTED = ("committed: note commit-done", "ended: ")
# A restore point is there when its folder has its name, whether or not anybody hears of it.
NAMED = ("committed: point.commit", *COMMITTED)
READS = re.compile(
    r": (cat |head |ps |test |read files|vmkfstools$|vmkfstools -e|journal\.look|plan\.look|survey\.existing"
    r"|point\.(sizes|list|removing)|vmsvc/(getallvms|message|snapshot\.get|power\.getstate)( |$))"
)


@dataclass(frozen=True)
class Cell:
    """One place to strike: the how, which of the remote commands of that name, the moment, and what strikes."""

    how: str
    step: str
    which: int
    moment: str
    strike: str = "kill"

    @property
    def done(self) -> str:
        return f"kill {self.moment}" if self.strike == "kill" else self.strike


@dataclass
class Row:
    cell: Cell
    vm: str
    told: list[str] = field(default_factory=list)
    was_on: bool | None = None
    at_once: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    waited: bool = False  # its journal stayed until an hour had passed for it, and nothing else

    @property
    def ids(self) -> str:
        """What the operator is told, in a word."""
        if self.cell.strike == "kill":
            return "the run is gone"
        return " + ".join(text.partition(": ")[0] for text in self.told) or "ok"

    def powers(self, was: str, rebooted: str) -> set[str]:
        """How the VM may be left."""
        if self.cell.strike != "reboot" or self.was_on is None or (self.cell.how != "restore" and not self.was_on):
            return {was}
        # Asked to shut down and not yet off: the reboot has stopped it as it would have, and it was on its way.
        return {was, rebooted} if self.cell.step.startswith("power off") else {rebooted}

    def misled(self, fresh: Sequence[str]) -> list[str]:
        """Where what the operator is told is not what is there, or no reason."""
        if self.cell.strike == "kill":
            return []
        found = [f"told without a reason: {text}" for text in self.told if text.startswith("interrupted: None")]
        found += [f"told of a defect of ours: {text}" for text in self.told if "MODULE FAILURE" in text]
        if self.cell.how != "restore":
            allowed = {1} if not self.told else {0, 1} if self.cell.step.startswith(NAMED) else {0}
            found += (
                [] if len(fresh) in allowed else [f"told {self.ids}, and there are {len(fresh)} new restore points"]
            )
        return found


def wave(matrix: Matrix, cells: Sequence[Cell]) -> list[Row]:
    """As many jobs as there are VMs, and one recover for all of them."""
    # The first VMs have a snapshot of their user's: of a chain of deltas no copy is compared.
    ordered = sorted(cells, key=lambda cell: "compare" in cell.step)
    rows = [Row(cell, vm) for cell, vm in zip(ordered, matrix.vms[-len(cells) :])]
    for row in rows:
        if row.cell.how == "restore":
            matrix.give_a_point(row.vm)
    known = set(matrix.points())

    def strike(row: Row) -> None:
        cell = row.cell
        stop = {"stop": [cell.step, cell.which], "moment": cell.moment, "strike": cell.strike}
        said = matrix.drive(matrix.spec(row.vm, cell.how, **stop))
        matrix.lab.fault(row.vm.rpartition("v")[0], "clear")
        row.told, row.was_on = said.get("told", []), said.get("was_on")
        if said and row.was_on is None:
            row.after.append("the job never came to this step")

    by_host = [[row for row in rows if row.vm.startswith(f"{host}v")] for host in matrix.hosts]
    # In a hole a job only waits; else two processors have no more to give.
    with ThreadPoolExecutor(12 if cells[0].strike in ("hole", "outage") else 6) as executor:
        list(executor.map(lambda mine: [strike(row) for row in mine], by_host))
    powers = {row.vm: row.powers(matrix.before[row.vm][0], matrix.rebooted.get(row.vm, "")) for row in rows}
    for text in [*matrix.ours(), *matrix.differences(powers)]:
        for row in rows:
            if matrix.is_of(text, row.vm):
                row.at_once.append(text)
    matrix.waited, matrix.kept = set(), []
    matrix.recover()
    # A restore that is told as done, or had reached its commit, stands.
    restores = [row for row in rows if row.cell.how == "restore"]
    green = {row.vm for row in restores if row.cell.strike != "kill" and not row.told}
    for vm in sorted(green - {name.removesuffix(" back") for name in matrix.look() if name.endswith(" back")}):
        next(row for row in rows if row.vm == vm).after.append("told ok, and the VM is not there")
    matrix.forget_restored(green | {row.vm for row in restores if row.cell.step.startswith(COMMITTED)})
    for row in rows:
        row.after += row.misled(matrix.fresh(known, row.vm))
    for row in rows:
        row.waited = row.vm in matrix.waited
    for text in [*matrix.kept, *matrix.ours(), *matrix.differences(powers), *matrix.incomplete(known)]:
        for row in [row for row in rows if matrix.is_of(text, row.vm)] or rows:
            row.after.append(text)
    if matrix.rebooted:
        matrix.start_all()
    return rows


def changes(step: str) -> bool:
    """Whether a remote command may change anything; between two that do, it does not matter where a job dies."""
    return not READS.search(step)


def cells_of(how: str, steps: Sequence[str], strike: str = "kill") -> list[Cell]:
    """Each command that changes something; of a loop whose turns are many or few by chance, the first two."""
    found = []
    for number, step in enumerate(steps):
        which = steps[: number + 1].count(step)
        if which > 2 and step.endswith("watchdog.poll"):
            continue
        moments = ("before", "sent") if strike == "kill" else ("sent",)
        found += [Cell(how, step, which, moment, strike) for moment in moments if changes(step)]
    return found


def waves(cells: Sequence[Cell], size: int) -> Iterator[Sequence[Cell]]:
    for start in range(0, len(cells), size):
        yield cells[start : start + size]


def table(rows: Sequence[Row]) -> str:
    """As it is printed: the step, what was done, what the operator saw, what was left at once and after recover."""
    columns = ("how", "step", "what was done", "the operator is told", "left at once", "left after recover")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        at_once = "; ".join(dict.fromkeys(short(text, row.vm) for text in row.at_once)) or "nothing"
        after = "; ".join(row.after) or ("nothing once the wait for its guest was over" if row.waited else "nothing")
        step = row.cell.step + (f" ({row.cell.which})" if row.cell.which > 1 else "")
        lines.append(f"| {row.cell.how} | {step} | {row.cell.done} | {row.ids} | {at_once} | {after} |")
    return "\n".join(lines) + "\n"


def short(text: str, vm: str) -> str:
    """What was left at once, without the names that are other ones in each cell."""
    words = {
        "mirror": "mirror",
        ".partial": "half copy",
        ".removing": "half removed point",
        ".stowage-job": "job folder",
    }
    for mark, word in words.items():
        if mark in text:
            return word
    return re.sub(r": \[.*", "", text).replace(f"{vm} ", "it ").strip()[:60]


def words(rows: Sequence[Row]) -> str:
    """Of each error that an operator was told, the text, once."""
    found = {text.partition(": ")[0]: text for row in rows for text in row.told}
    return "".join(f"* {text}\n" for _name, text in sorted(found.items()))


def whole(matrix: Matrix, hows: Sequence[str], strike: str = "kill", only: Sequence[str] = ("",)) -> list[Row]:
    """All of it, or the steps in whose name one of these texts is, wave by wave."""
    if strike == "reboot" and not matrix.rebooted:
        matrix.reboot_without_us()
    found = [cell for how in hows for cell in cells_of(how, matrix.steps(how), strike)]
    cells = [cell for cell in found if any(text in cell.step for text in only)]
    rows: list[Row] = []
    for number, part in enumerate(waves(cells, len(matrix.vms))):
        begun = time.monotonic()
        rows += (new := wave(matrix, part))
        wrong = sum(1 for row in new if row.after)
        seconds = time.monotonic() - begun
        print(f"{strike}, wave {number + 1}: {len(new)} cells, {wrong} wrong, {seconds:.0f} s", flush=True)
        print(table(new), flush=True)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run it and print the table."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hows = [word for word in arguments if word in HOWS] or HOWS
    strikes = [word for word in arguments if word in STRIKES] or STRIKES[:1]
    only = [word for word in arguments if word not in HOWS + STRIKES] or [""]
    rows: list[Row] = []
    for strike in strikes:
        work = Path(tempfile.mkdtemp(prefix="stowage-kills-"))
        shape = SHARED if strike == "kill" else OWN
        matrix = Matrix(work, free_base_address(), shape)
        try:
            rows += whole(matrix, hows, strike, only)
        finally:
            matrix.close()
            shutil.rmtree(work, ignore_errors=True)
    print(words(rows))
    wrong = [row for row in rows if row.after]
    print(f"{len(rows)} cells, {len(wrong)} left something behind or misled the operator")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
