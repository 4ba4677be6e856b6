# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a job, on the hypervisor: what must be undone is written before it is done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock, iso
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine

# A job that was taken over may have been followed by another one, in a folder of the same name: job.json tells them
# apart. Arguments: folder, the job that is known to own it (or nothing). Exit status 9: the lock is lost.
_OWNER = r"""
stowage_owner() {
    [ -d "$1" ] || { echo "no such folder" >&2; exit 9; }
    line=''
    read -r line 2>/dev/null <"$1/job.json"
    line=${line#*'"job": "'}
    owner=${line%%'"'*}
    if [ -n "$2" ] && [ "$owner" != "$2" ]; then echo "it belongs to ${owner:-nobody}, not to $2" >&2; exit 9; fi
}
stowage_owner "$1" "$2"
"""

# An entry starts with a newline of its own, so that a line cut by a crash never swallows the next one.
_APPEND = (
    _OWNER
    + r"""
printf '\n%s\n' "$3" >> "$1/journal" || exit 1
touch "$1/lease"
sync
echo "$owner"
"""
)

# -c alone would not do: it is content with a file that is not there.
_BEAT = (
    _OWNER
    + r"""
[ -f "$1/lease" ] || { echo "its lease is gone" >&2; exit 9; }
touch -c "$1/lease" || exit 1
echo "$owner"
"""
)
_LOST = 9


class IntentLog:
    """`<folder>/journal` (JSON lines) and `<folder>/lease`, whose mtime says that somebody still works here.

    The folder must exist: it is the lock, and whoever made it says who may write (`owner`, else who is met first).
    """

    BEAT_SECONDS = 10.0

    def __init__(self, session: Session, folder: str, clock: Clock | None = None, owner: str = "") -> None:
        self.session = session
        self.folder = folder.rstrip("/")
        self.clock: Clock = clock or SystemClock()
        self._last_beat: float | None = None
        self._owner = owner

    @staticmethod
    def of_job(vm: VirtualMachine, folder: str | None, owner: str | None) -> IntentLog | None:
        """A named owner's folder lies in its VM's, or the vmid is another VM's by now."""
        if not folder:
            return None
        folder = vm.host.resolve(folder)
        if owner and folder.rpartition("/")[0] != vm.directory:
            reason = f"vmid {vm.vmid} is in {vm.directory}"
            raise errors.NotAllowed(**vm.data(operation=f"work for {folder}", reason=reason, advice="Start again."))
        return IntentLog(vm.host.session, folder, vm.host.clock, owner or "")

    @property
    def path(self) -> str:
        return f"{self.folder}/journal"

    def note(self, event: str, **data: Any) -> None:
        """Append one entry and return when the host has it on its disk. Raises JournalFailed: then change nothing.

        JournalLost, one of these, says that the folder is gone or another job's.
        """
        line = json.dumps({"event": event, "at": iso(self.clock.now()), **data}, sort_keys=True)
        self._run("written", _APPEND, line)

    def beat(self) -> None:
        """Refresh the lease, at most every ten seconds. JournalLost when the lease is gone or another's."""
        now = self.clock.monotonic()
        if self._last_beat is None or now - self._last_beat >= self.BEAT_SECONDS:
            self._run("refreshed", _BEAT)

    def _run(self, operation: str, text: str, *args: str) -> None:
        result = self.session.script(text, [self.folder, self._owner, *args])
        if result.rc != 0:
            raise self._failed(operation, result.output, errors.JournalLost if result.rc == _LOST else None)
        self._owner = self._owner or result.stdout.strip()
        self._last_beat = self.clock.monotonic()

    def read(self) -> list[dict[str, Any]]:
        """All entries in order; a line that was cut is left out."""
        result = self.session.run(["cat", self.path])
        if result.rc != 0:
            if "No such file" in result.output:
                return []
            raise self._failed("read", result.output)
        entries: list[dict[str, Any]] = []
        for line in result.stdout.split("\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("event"), str):
                entries.append(entry)
        return entries

    def _failed(
        self, operation: str, output: str, kind: type[errors.JournalFailed] | None = None
    ) -> errors.JournalFailed:
        return (kind or errors.JournalFailed)(
            host=self.session.endpoint.host, folder=self.folder, operation=operation, output=output
        )
