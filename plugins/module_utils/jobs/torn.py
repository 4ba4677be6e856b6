# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mark of a VM whose disks are being overwritten: in the VM's own folder, so that whoever comes by sees it.

It is there from before the first byte is written until all of them are; a VM that has it is neither what it was nor
what it is to be, unless the journal of its job says that it has committed. Powering a VM on looks for it, too
(`esxi/power.py`). Whoever cannot read it all takes its name alone for what it says.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RemoteStepFailed, VmTorn
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine

NAME = ".stowage-torn"

_LOOK = r"""
number=0
for dir in "$@"; do
    number=$((number + 1))
    [ -e "$dir/.stowage-torn" ] || continue
    printf 'TORN %s\n' "$number"
    head -c 65536 "$dir/.stowage-torn" 2>/dev/null | tr '\n' ' '
    echo
done
exit 0
"""

# What another job has marked is not this one's to remove.
_REMOVE = r"""
mark=$1/.stowage-torn job=$2
[ -e "$mark" ] || exit 0
grep -q -F -- "\"job\": \"$job\"" "$mark" || { echo "it is that of another job" >&2; exit 6; }
rm -f "$mark" || exit 1
sync
"""


@dataclass(frozen=True)
class Torn:
    """What the mark says: who began what when, and where what was there before is kept."""

    directory: str
    job: str = ""
    vm: str = ""
    restore_point: str = ""
    began_at: str = ""
    backup_server: str = ""
    safety_point: str = ""

    def render(self) -> str:
        told = {key: value for key, value in asdict(self).items() if key != "directory"}
        readme = "A restore in place was not finished. Do not power this VM on. Run the playbook stowage.esxi.recover."
        return json.dumps({"read_me": readme, **told}, sort_keys=True) + "\n"

    @property
    def words(self) -> dict[str, str]:
        """For messages."""
        back = (
            f" What it held before is kept as {self.safety_point}, which can be restored in place as well."
            if self.safety_point
            else ""
        )
        return {
            "restore_point": self.restore_point or "(unknown)",
            "began_at": self.began_at or "(unknown)",
            "backup_server": self.backup_server or "(unknown)",
            "back": back,
        }


def parse(text: str, directory: str) -> Torn:
    try:
        value = json.loads(text)
        names = [field.name for field in fields(Torn) if field.name != "directory"]
        return Torn(directory, **{name: str(value[name]) for name in names if value.get(name)})
    except (ValueError, TypeError, AttributeError):
        return Torn(directory)


def look(session: Session, directories: Iterable[str]) -> dict[str, Torn]:
    """The marks in these folders, by folder. A look that failed is no proof that there is none: it raises."""
    found: dict[str, Torn] = {}
    wanted = list(dict.fromkeys(directories))
    for start in range(0, len(wanted), 40):
        part = wanted[start : start + 40]
        result = session.script(_LOOK, part, timeout_seconds=120)
        if result.rc != 0:
            raise RemoteStepFailed(what="Looking for torn VMs", rc=result.rc, stderr=result.output)
        lines = result.stdout.split("\n")
        for number, line in enumerate(lines):
            word, _blank, which = line.partition(" ")
            if word == "TORN" and which.isdigit():
                directory = part[int(which) - 1]
                found[directory] = parse(lines[number + 1] if number + 1 < len(lines) else "", directory)
    return found


def write(session: Session, mark: Torn) -> None:
    """On the host's disk when this returns."""
    session.write_text(posixpath.join(mark.directory, NAME), mark.render())
    session.check(["sync"], timeout_seconds=300)


def remove(session: Session, directory: str, job: str) -> None:
    result = session.script(_REMOVE, [directory, job])
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Removing {directory}/{NAME}", rc=result.rc, stderr=result.output)


def must_be_whole(vm: VirtualMachine) -> None:
    """Raises VmTorn for a VM that must neither be started nor taken for good."""
    mark = look(vm.host.session, [vm.directory]).get(vm.directory)
    if mark is not None:
        raise VmTorn(**vm.data(**mark.words))
