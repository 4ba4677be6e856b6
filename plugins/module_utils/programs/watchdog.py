# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shell texts that run a copy on the hypervisor and end it when nobody wants it any more.

They are read by ``sh -s`` from standard input, so nothing is installed and nothing has to be executable on a datastore.
One *work folder* holds what the two sides tell each other:

=============  =====================================================================================================
``tasks``      three lines a task: kind (``file`` or the disk's format), source, target
``rc.N``       fate of task N: ``-`` not begun, ``run``, an exit status, or ``exists`` (the target is not ours)
``log.N``      what the command printed, padded with NUL
``made``       folders that this copy has made, deepest first
``pid``        the watchdog; ``clone``: the running command
``hold``       the gate: the caller renames it to ``beat`` once the pid stands in the job's journal
``beat``       touched by the caller; unchanged for *window* turns of a second means that the caller is gone
=============  =====================================================================================================

``beat`` is also the one token that decides the end. Renaming it is atomic: the caller renames it to ``keep`` (the copy
is good) or ``stop``; the watchdog renames it to ``gone`` when it gives up. Whoever renames it first has decided.
Files that are rewritten while the copy runs are made full size beforehand and overwritten in place: a datastore without
a free block must not hide the message that says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LOG_KIB = 8
"""Room for one log: 101 progress reports of 18 bytes, the head lines with two paths of 255 bytes a part, the error."""

KINDS = ("file", "thin", "zeroedthick", "eagerzeroedthick", "2gbsparse")

TOKEN = re.compile(r"[0-9a-zA-Z-]{8,64}\Z")

# A small shell reads byte by byte: a line that is overwritten meanwhile comes half old, half new, as "-  88" or "r" for
# "run". Each is written at once, so what two reads agree on is whole. The answer is in $word.
READ = r"""
stowage_read() {
    while read -r word 2>/dev/null <"$1" && read -r again 2>/dev/null <"$1"; do
        [ "$word" = "$again" ] && return 0
    done
    return 1
}
"""

# Shared by the watchdog and by whoever clears up after a watchdog that was killed. Needs $work.
_UNDO = (
    READ
    + r"""
stowage_mark() {
    printf '%-15s\n' "$2" 1<>"$work/$1"
}

stowage_remove_disk() {
    stem=${1%.vmdk}
    rm -f "$1" "$stem-flat.vmdk"
    for extent in "$stem"-s[0-9][0-9][0-9].vmdk; do
        [ -f "$extent" ] && rm -f "$extent"
    done
}

stowage_running() {
    for fate in "$work"/rc.*; do
        stowage_read "$fate" && [ "$word" = run ] && return 0
    done
    return 1
}

stowage_end_clone() {
    stowage_read "$work/clone" || return
    clone=$word
    [ "$clone" = - ] && return
    turn=0
    while stowage_running && [ "$turn" -lt 300 ]; do
        # A clone that does not listen to TERM within five turns has I/O in flight; KILL then ends it as that returns.
        if [ "$turn" -lt 5 ]; then kill "$clone" 2>/dev/null; else kill -9 "$clone" 2>/dev/null; fi
        turn=$((turn + 1))
        sleep 1
    done
}

stowage_undo() {
    n=0
    while IFS= read -r kind && IFS= read -r source && IFS= read -r target; do
        n=$((n + 1))
        stowage_read "$work/rc.$n"
        case $word in - | exists) continue ;; esac
        if [ "$kind" = file ]; then rm -f "$target"; else stowage_remove_disk "$target"; fi
    done <"$work/tasks"
    made=$(cat "$work/made")
    rm -rf "$work"
    # rmdir, not rm -r: a folder that somebody else has put something into stays.
    printf '%s\n' "$made" | while IFS= read -r folder; do
        [ -n "$folder" ] && rmdir "$folder" 2>/dev/null
    done
}
"""
)

_WATCH = (
    _UNDO
    + r"""
stowage_leave() {
    rm -rf "$work"
    exit 0
}

stowage_give_up() {
    trap '' TERM INT HUP
    mv "$work/beat" "$work/gone" 2>/dev/null || mv "$work/hold" "$work/gone" 2>/dev/null
    [ -e "$work/keep" ] && stowage_leave
    stowage_end_clone
    stowage_undo
    exit 1
}

stowage_tick() {
    sleep 1
    stamp=$(stat -c '%Y %Z' "$work/beat" 2>/dev/null)
    # No beat and no decision: the datastore does not answer. That is silence, not yet the end.
    [ -e "$work/keep" ] && stowage_leave
    [ -e "$work/stop" ] && stowage_give_up
    if [ -z "$stamp" ] || [ "$stamp" = "$last" ]; then silent=$((silent + 1)); else silent=0; fi
    last=$stamp
    [ "$silent" -ge "$window" ] && stowage_give_up
}

stowage_clone() {
    vmkfstools -i "$source" -d "$kind" "$target" </dev/null 1<>"$work/log.$n" 2>&1 &
    stowage_mark clone $!
    wait $!
    status=$?
    # 39: the target came between our look and vmkfstools' own. It is somebody else's. At the end of a line only: paths
    # are quoted in the log, too, and a folder may be called "web (39)".
    if [ "$status" -ne 0 ] && tr -d '\000' <"$work/log.$n" | grep -q '(39)\.\{0,1\}[[:space:]]*$'; then
        status=exists
    fi
    stowage_mark "rc.$n" "$status"
}

stowage_disk() {
    if [ -e "$target" ] || [ -e "${target%.vmdk}-flat.vmdk" ]; then
        stowage_mark "rc.$n" exists
        return
    fi
    stowage_mark "rc.$n" run
    # The status arrives as a file: whether an ended child still answers kill -0 differs between shells.
    stowage_clone &
    # A fate that cannot be read is no end: the datastore does not answer, and the clone may go on.
    while stowage_read "$work/rc.$n" || word=run; [ "$word" = run ]; do stowage_tick; done
    stowage_mark clone -
}

stowage_file() {
    if (set -C && : >"$target") 2>/dev/null; then
        stowage_mark "rc.$n" run
        cp -p "$source" "$target" </dev/null 1<>"$work/log.$n" 2>&1
        stowage_mark "rc.$n" $?
    elif [ -e "$target" ]; then
        stowage_mark "rc.$n" exists
    else
        (set -C && : >"$target") 1<>"$work/log.$n" 2>&1
        stowage_mark "rc.$n" 1
    fi
}

stowage_watch() {
    work=$2 window=$3 last='' silent=0
    trap '' HUP
    trap stowage_give_up TERM INT
    stowage_mark pid $$
    turn=0
    while [ -e "$work/hold" ]; do
        turn=$((turn + 1))
        [ "$turn" -gt "$window" ] && stowage_give_up
        sleep 1
    done
    [ -e "$work/beat" ] || stowage_give_up
    n=0
    while IFS= read -r kind <&3 && IFS= read -r source <&3 && IFS= read -r target <&3; do
        n=$((n + 1))
        if [ "$kind" = file ]; then stowage_file; else stowage_disk; fi
        stowage_read "$work/rc.$n"
        [ "$word" = 0 ] || break
    done 3<"$work/tasks"
    while :; do stowage_tick; done
}
stowage_watch "$@"
"""
)

_LAUNCH = (
    READ
    + r"""
stowage_prepare() {
    mkdir "$work" && printf '%s' "$made" >"$work/made" && : >"$work/hold" || return 1
    printf '%-15s\n' - >"$work/pid" && printf '%-15s\n' - >"$work/clone" || return 1
    cat >"$work/tasks" <<'@TOKEN@-tasks' || return 1
@TASKS@@TOKEN@-tasks
    n=0
    while [ "$n" -lt "$count" ]; do
        n=$((n + 1))
        printf '%-15s\n' - >"$work/rc.$n" || return 1
        dd if=/dev/zero of="$work/log.$n" bs=1024 count=@LOG_KIB@ || return 1
    done
}

stowage_unmake() {
    printf '%s\n' "$made" | while IFS= read -r old; do [ -n "$old" ] && rmdir "$old"; done
}

stowage_launch() {
    work=$2 base=$4 count=$5 made=''
    # Outside a mounted datastore the same path would be a folder in the host's memory.
    [ -d "$base/." ] || { echo "no-datastore $base"; return 1; }
    shift 5
    for folder in "$@"; do
        [ -d "$folder" ] && continue
        if ! said=$(mkdir "$folder" 2>&1); then
            stowage_unmake
            echo "mkdir-failed $said"
            return 1
        fi
        made="$folder
$made"
    done
    if ! said=$(stowage_prepare 2>&1); then
        # Only what holds our own gate is ours: an existing folder of that name is not.
        [ -e "$work/hold" ] && rm -rf "$work"
        stowage_unmake
        echo "work-failed $said"
        return 1
    fi
}

stowage_detach() {
    if which setsid >/dev/null 2>&1; then detach=setsid; else detach=nohup; fi
    $detach sh -s -- "$1" "$2" "$3" <<'@TOKEN@-watch' >/dev/null 2>&1 &
@WATCH@
@TOKEN@-watch
    turn=0
    while stowage_read "$2/pid" && [ "$word" = - ] && [ "$turn" -lt 50 ]; do
        turn=$((turn + 1))
        # Not every busybox knows parts of a second.
        sleep 0.1 2>/dev/null || sleep 1
    done
    echo "pid $word"
}
if stowage_launch "$@"; then stowage_detach "$@"; fi
"""
)

POLL = (
    READ
    + r"""
stowage_poll() {
    work=$1 linger=$2 n=$3
    held=held
    if [ -n "$4" ]; then
        if [ -e "$4" ]; then touch -c "$4"; else held=lost; fi
    fi
    while :; do
        [ -d "$work" ] || { echo gone; return; }
        # -c: a beat that was renamed away must not come back.
        touch -c "$work/beat" 2>/dev/null
        if stowage_read "$work/rc.$n"; then fate=$word; else fate=-; fi
        # A folder that could not be removed whole has no pid any more: it is waited for no longer than the linger.
        if stowage_read "$work/pid"; then
            pid=$word
            kill -0 "$pid" 2>/dev/null || break
            case $fate in - | run) ;; *) break ;; esac
        else
            pid=-
        fi
        [ "$linger" -gt 0 ] || break
        linger=$((linger - 1))
        sleep 1
    done
    guard=dead
    kill -0 "$pid" 2>/dev/null && guard=watched
    [ -e "$work/beat" ] || guard=ending
    echo "$guard $held $fate"
    [ -f "$work/log.$n" ] && tr -d '\000' <"$work/log.$n"
}
stowage_poll "$@"
"""
)
"""Arguments: work folder, linger, n, and the lease file of the job (touched as well) or nothing.

Answers ``gone``, or ``watched|ending|dead held|lost <fate>`` (the guard, the lease, task n) and the log of task n,
after at most *linger* seconds of waiting for the task's end."""

DECIDE = (
    READ
    + r"""
stowage_decide() {
    work=$1 linger=$3 pid=-
    stowage_read "$work/pid" && pid=$word
    mv "$work/beat" "$work/$2" 2>/dev/null || { [ "$2" = stop ] && mv "$work/hold" "$work/stop" 2>/dev/null; }
    # Its end, not only the work folder's: folders that it made go last.
    while [ "$pid" != - ] && kill -0 "$pid" 2>/dev/null && [ "$linger" -gt 0 ]; do
        linger=$((linger - 1))
        sleep 1
    done
    if [ ! -d "$work" ]; then echo gone; elif [ -e "$work/$2" ]; then echo decided; else echo lost; fi
}
stowage_decide "$@"
"""
)
"""Arguments: work folder, ``keep`` or ``stop``, seconds to wait for the watchdog's own end."""

FIND = (
    READ
    + r"""
if stowage_read "$1/pid"; then echo "pid $word"; else echo none; fi
"""
)
"""Whether a launch whose answer was lost has happened. Argument: work folder."""

OPEN_GATE = r"""
if [ -e "$1/beat" ] || mv "$1/hold" "$1/beat" 2>/dev/null; then echo open; else echo gone; fi
"""

CLEAR = (
    _UNDO
    + r"""
stowage_clear() {
    work=$1
    [ -d "$work" ] || { echo gone; return; }
    stowage_read "$work/pid"
    pid=$word
    # The number alone proves nothing: it may belong to another process by now.
    if [ "$pid" != - ] && /bin/ps -c | grep -F -- "$2" | grep -q "^ *$pid "; then
        echo "watched $pid"
        return
    fi
    stowage_read "$work/clone"
    clone=$word
    # Only a process that is a vmkfstools clone is ended: the number may belong to another one by now.
    if [ "$clone" != - ] && /bin/ps -c | grep -F 'vmkfstools' | grep -q "^ *$clone "; then stowage_end_clone; fi
    stowage_undo
    echo cleared
}
stowage_clear "$@"
"""
)
"""Clears up after a watchdog that was killed. Arguments: work folder, its mark (see ``mark``). Answers ``gone``,
``cleared``, or ``watched <pid>`` when the watchdog is still there (ask it to stop instead)."""


def mark(token: str) -> str:
    """The word that shows in the hypervisor's process list for the copy with this token."""
    return f"stowage-copy-{token}"


def launch_text(token: str, tasks: Sequence[tuple[str, str, str]]) -> str:
    """The script that makes the work folder and starts the watchdog.

    Arguments for it: ``mark(token)``, work folder, window, datastore folder, number of tasks, then the folders to
    make (outermost first). It prints ``pid N``, or a word and a reason and exits 1.
    """
    if not TOKEN.match(token):
        raise ValueError(f"unusable token {token!r}")
    lines = []
    for kind, source, target in tasks:
        if kind not in KINDS:
            raise ValueError(f"unusable kind {kind!r}")
        for path in (source, target):
            if not path.startswith("/") or "\n" in path or "\0" in path:
                raise ValueError(f"unusable path {path!r}")
        lines.append(f"{kind}\n{source}\n{target}\n")
    # One pass: a path that happens to spell a placeholder is data, and stays as it is.
    parts = {
        "@TOKEN@": f"end-of-{token}",
        "@TASKS@": "".join(lines),
        "@WATCH@": _WATCH,
        "@LOG_KIB@": str(LOG_KIB),
    }
    return re.sub("|".join(parts), lambda found: parts[found.group()], _LAUNCH)
