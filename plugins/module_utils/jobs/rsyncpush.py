# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore point on its way from its stage on the backup server to another server, by rsync: only what differs from
the restore point before it crosses the wire, which is never changed."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.programs import intoimages, rsync
from ansible_collections.stowage.esxi.plugins.module_utils.programs.overwire import Moving
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.rsync import File, Wish

_LONG_SECONDS = 6 * 3600

# $1 the folder to be made, $2 how half copies of the same machine end; the rest are names of images that may stay. The
# newest half copy becomes the folder. A file with a second name belongs to a restore point, too.
_PREPARE = r"""
partial=$1 own=$2
shift 2
folder=${partial%/*}
umask 077
mkdir -p "$folder" && cd "$folder" || exit 1
newest=
for half in .partial-[0-9]*Z-*"$own"; do
    [ -d "./$half" ] && [ ! -L "./$half" ] || continue
    [ -z "$newest" ] || rm -rf "./$newest"
    newest=$half
done
if [ -z "$newest" ]; then
    mkdir "$partial"
    exit
fi
[ "./$newest" = "./${partial##*/}" ] || mv "./$newest" "$partial" || exit 1
cd "$partial" || exit 1
for file in * .*; do
    case $file in .|..) continue ;; esac
    [ -e "./$file" ] || [ -L "./$file" ] || continue
    keep=no
    for image in "$@"; do [ "$file" = "$image" ] && keep=yes; done
    if [ "$keep" = yes ] && [ -f "./$file" ] && [ ! -L "./$file" ] && [ "$(stat -c %h "./$file")" = 1 ]; then
        chmod 600 "./$file" || exit 1
    else
        rm -rf "./$file" || exit 1
    fi
done
printf '%s\n' "$newest"
"""

# $1 the new image, $2 its size, $3 the former one or nothing. What it was begun from is told, and what it occupies. An
# empty file of the right size has the zeros that need not travel.
_BEGIN = r"""
new=$1 size=$2 former=$3
occupied() { stat -c '%b %B' "$new" | { read -r blocks unit && echo $((blocks * unit)); }; }
if [ -f "$new" ] && [ "$(stat -c %s "$new")" = "$size" ]; then echo "half copy" && occupied; exit; fi
rm -f "$new"
if [ -n "$former" ] && [ -f "$former" ] && [ ! -L "$former" ] && [ "$(stat -c %s "$former")" = "$size" ]; then
    if cp --reflink=always "$former" "$new" 2>/dev/null; then
        chmod 600 "$new" || exit 1
        echo reflink && occupied
        exit
    fi
    rm -f "$new"
    echo former
    echo 0
    exit 0
fi
umask 077
truncate -s "$size" "$new" || exit 1
echo new
echo 0
"""

# Where nothing differs the new image becomes a second name of the former; what it occupies anew is told.
_END = r"""
new=$1 former=$2
chmod 400 "$new" && sync "$new" || exit 1
if [ -n "$former" ] && cmp -s "$former" "$new" && ln -f "$former" "$new" 2>/dev/null; then
    echo 0
    exit 0
fi
stat -c '%b %B' "$new" | { read -r blocks unit && echo $((blocks * unit)); }
"""


@dataclass(frozen=True)
class Pushed:
    """What one image cost on its way, and how it was compared."""

    wire: int
    literal: int
    written: int
    verified: str
    note: str
    seconds: float


@dataclass(frozen=True)
class Push:
    """The server, the folder there that is being filled, and the one of the restore point before, or nothing."""

    there: Host
    partial: str
    former: str
    former_keys: frozenset[str]
    verify: str
    whole_file: bool
    reach: Reach

    def prepare(self, job: str, keys: Sequence[str]) -> str:
        """Makes the folder; the name of the half copy that it was made of, or nothing."""
        images = [intoimages.flat_name(key) for key in keys]
        own = job[-len("-b000000000000") :]
        return self._said(f"Making {self.partial}", _PREPARE, [self.partial, own, *images])

    def image(self, path: str, key: str, size: int) -> Pushed:
        """One image. What breaks it leaves a half copy there, and the stage as it is."""
        began = self.reach.clock.monotonic()
        name = intoimages.flat_name(key)
        target = posixpath.join(self.partial, name)
        former = posixpath.join(self.former, name) if key in self.former_keys and not self.whole_file else ""
        begun, occupied = self._said(f"Beginning {target}", _BEGIN, [target, str(size), former]).split("\n")
        held = os.stat(path).st_blocks * 512
        sparse = self.whole_file or rsync.sparsely(begun, int(occupied), held)
        session = rsync.over(self.there.session)
        wish = Wish(self.whole_file, self.former if begun == "former" else "", self.reach.bandwidth_limit, sparse)
        moving = Moving(File(path), File(target, session), wish, f"{key} to {self.there.name}", size, self.reach)
        copied, retries = moving.copy()
        verified = moving.verified(self.verify)
        same = former if begun == "former" and copied.literal == 0 else ""
        occupied = self._said(f"Finishing {target}", _END, [target, same])
        written = int(occupied) if begun == "former" else copied.literal
        told = f"to {self.there.name}: {copied.literal} of {size} bytes travelled, as they differed; {written} are new"
        note = f"{told}; the connection was lost {retries} times, and the copy gone on with" if retries else told
        seconds = round(self.reach.clock.monotonic() - began, 3)
        return Pushed(copied.wire, copied.literal, written, verified, note, seconds)

    def files(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self.there.session.write_text(posixpath.join(self.partial, name), data.decode("utf-8", "surrogateescape"))

    def drop(self) -> None:
        """A half copy for which there was no room must not keep it."""
        self.there.session.run(["rm", "-rf", self.partial], timeout_seconds=600)

    def commit(self, job: Job, final: str, manifest: Mapping[str, Any]) -> None:
        intoimages.while_alive(
            f"The commit of {final} on {self.there.name}",
            lambda: points.commit(self.there.session, replace(job, partial=self.partial, final=final), manifest),
            self.reach,
        )

    def _said(self, what: str, script: str, args: Sequence[str]) -> str:
        """What a script there says. To compare two images takes its time."""
        answer = intoimages.while_alive(
            f"{what} on {self.there.name}",
            lambda: self.there.session.script(script, args, timeout_seconds=_LONG_SECONDS),
            self.reach,
        )
        if answer.rc != 0:
            raise RemoteStepFailed(what=f"{what} on {self.there.name}", rc=answer.rc, stderr=answer.output)
        return answer.stdout.strip()
