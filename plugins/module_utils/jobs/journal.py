# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job folder in the VM's own folder: the lock, the sign of life, and the place of the journal.

The lock is the existence of any `.stowage-job*` folder there. `mkdir` makes `.stowage-job`, and is atomic across hosts;
a take-over renames it, which is atomic too, so that only one can win, and the lock is never free in between.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import LockLost, RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job, parse_job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import Sign
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import JOB_FOLDER
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import RemoteFileError
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

LEASE = "lease"
JOB_FILE = "job.json"

# `look` is touched, never removed: after the first look the folder's own mtime stands still, and can be aged by.
_LOOK = r"""
touching=$1
shift
number=0
for dir in "$@"; do
    number=$((number + 1))
    for folder in "$dir/.stowage-job" "$dir"/.stowage-job.*; do
        [ -d "$folder" ] || continue
        made=$(stat -c %Y "$folder") || continue
        lease=$(stat -c %Y "$folder/lease" 2>/dev/null) || lease=none
        now=''
        if [ "$touching" = yes ]; then
            touch "$folder/look" 2>/dev/null && now=$(stat -c %Y "$folder/look")
        fi
        [ -n "$now" ] || now=$(date +%s)
        printf 'FOLDER %s %s %s %s %s\n' "$number" "$made" "$lease" "$now" "${folder##*/}"
        head -c 1048576 "$folder/job.json" 2>/dev/null | tr '\n' ' '
        echo
    done
done
"""

# Only the first level: a VM in a deeper folder is found through the inventory of its host. The last pattern is for the
# folder of a restore that has no name yet.
_SCAN = r"""
for volume in /vmfs/volumes/*; do
    [ -L "$volume" ] && continue
    for folder in "$volume"/*/.stowage-job "$volume"/*/.stowage-job.* "$volume"/.partial-restore-*/.stowage-job*; do
        [ -d "$folder" ] && printf '%s\n' "${folder%/*}"
    done
done
exit 0
"""

_ACQUIRE = r"""
dir=$1
[ -d "$dir/." ] || { echo "no such folder: $dir" >&2; exit 3; }
if ! said=$(mkdir "$dir/.stowage-job" 2>&1); then
    [ -d "$dir/.stowage-job" ] && exit 4
    echo "$said" >&2
    exit 5
fi
for other in "$dir"/.stowage-job.*; do
    [ -d "$other" ] && { rmdir "$dir/.stowage-job"; exit 4; }
done
: >"$dir/.stowage-job/lease" || { rmdir "$dir/.stowage-job"; exit 5; }
"""

_TAKE_OVER = r"""
old=$1 new=$2 wanted=$3 job=$4
mv "$old" "$new" 2>/dev/null || exit 4
lease=$(stat -c %Y "$new/lease" 2>/dev/null) || lease=none
found=$(head -c 1048576 "$new/job.json" 2>/dev/null | grep -c -F -- "\"job\": \"$job\"")
same=yes
[ "$lease" = "$wanted" ] || same=no
if [ -n "$job" ]; then [ "$found" != 0 ] || same=no; else [ ! -s "$new/job.json" ] || same=no; fi
if [ "$same" = no ]; then
    [ -e "$old" ] || mv "$new" "$old"
    exit 6
fi
touch "$new/lease"
"""

_RELEASE = r"""
folder=$1 job=$2
[ -d "$folder" ] || exit 0
if [ -s "$folder/job.json" ] && ! grep -q -F -- "\"job\": \"$job\"" "$folder/job.json"; then exit 6; fi
rm -rf "$folder"
"""

_BEAT = r"""
[ -f "$1/lease" ] && touch -c "$1/lease"
"""


@dataclass(frozen=True)
class Found:
    """A job folder as one look found it."""

    path: str
    directory: str
    sign: Sign
    lease: str
    job: Job | None
    unreadable: bool = False

    @property
    def let_go(self) -> bool:
        """Whether its owner has ended, and left what may still come to others. A lease is there before a name is."""
        return self.job is not None and self.lease == "none"

    @property
    def job_id(self) -> str:
        return self.job.job if self.job else ""


def folder_of(directory: str) -> str:
    return posixpath.join(directory, JOB_FOLDER)


def look(session: Session, directories: Sequence[str], *, touch: bool = True) -> list[Found]:
    """The job folders in these VM folders. `touch=False` changes nothing and goes by the host's own clock."""
    found: list[Found] = []
    wanted = list(dict.fromkeys(directories))
    for start in range(0, len(wanted), 40):
        part = wanted[start : start + 40]
        result = session.script(_LOOK, ["yes" if touch else "no", *part], timeout_seconds=120)
        if result.rc != 0:
            raise RemoteStepFailed(what="Looking for job folders", rc=result.rc, stderr=result.output)
        found.extend(parse_look(result.stdout, part))
    return found


def parse_look(text: str, directories: Sequence[str]) -> list[Found]:
    found = []
    lines = text.split("\n")
    for number, line in enumerate(lines):
        words = line.split(" ", 5)
        if (
            len(words) != 6
            or words[0] != "FOLDER"
            or not all(word.isdigit() for word in (words[1], words[2], words[4]))
        ):
            continue
        directory = directories[int(words[1]) - 1]
        lease = words[3] if words[3].isdigit() else "none"
        sign = Sign(lease=int(words[2] if lease == "none" else lease), touched=int(words[4]))
        text = lines[number + 1].strip() if number + 1 < len(lines) else ""
        job = parse_job(text)
        unreadable = bool(text) and job is None
        found.append(Found(posixpath.join(directory, words[5]), directory, sign, lease, job, unreadable))
    return found


def scan(session: Session) -> list[str]:
    """VM folders on any datastore of the host that hold a job folder, registered or not."""
    return list(dict.fromkeys(line for line in session.script(_SCAN, timeout_seconds=300).stdout.split("\n") if line))


def acquire(session: Session, directory: str) -> bool:
    """Makes the lock. False when somebody else holds it."""
    result = session.script(_ACQUIRE, [directory])
    if result.rc == 4:
        return False
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Making the job folder in {directory}", rc=result.rc, stderr=result.output)
    return True


def write_job(session: Session, folder: str, job: Job) -> None:
    """Puts the owner's name into a lock that was just made. One that cannot be named (no room) is given back."""
    try:
        session.write_text(posixpath.join(folder, JOB_FILE), job.render())
    except RemoteFileError:
        release(session, folder, job.job)
        raise


def read_job(session: Session, folder: str) -> Job | None:
    result = session.run(["cat", posixpath.join(folder, JOB_FILE)])
    return parse_job(result.stdout) if result.rc == 0 else None


def take_over(session: Session, found: Found) -> str | None:
    """Takes a stale job folder by renaming it; the new path, or None when another was faster or the owner lives."""
    new = f"{posixpath.join(found.directory, JOB_FOLDER)}.{secrets.token_hex(6)}"
    result = session.script(_TAKE_OVER, [found.path, new, found.lease, found.job_id])
    if result.rc in (4, 6):
        return None
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Taking over {found.path}", rc=result.rc, stderr=result.output)
    return new


def beat(session: Session, folder: str, job: str, vm: str) -> None:
    """A sign of life. It never makes a lease anew: a folder that was taken over is not ours any more."""
    if session.script(_BEAT, [folder]).rc != 0:
        raise LockLost(job=job, vm=vm, reason=f"{folder} is gone or was taken over")


def let_go(session: Session, folder: str) -> None:
    """Ends the lease at once and keeps the lock: `beat` and a second `take_over` know the folder no longer."""
    result = session.run(["rm", "-f", posixpath.join(folder, LEASE)])
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Ending the lease of {folder}", rc=result.rc, stderr=result.output)


def release(session: Session, folder: str, job: str) -> None:
    result = session.script(_RELEASE, [folder, job])
    if result.rc == 6:
        raise LockLost(job=job, vm=folder, reason="the folder belongs to another job by now")
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Removing the job folder {folder}", rc=result.rc, stderr=result.output)
