# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server halves of rsync and borg behind a forced command: one folder, and one direction.

What rsync's other side asks for is taken apart, and only what is known to stay in the folder is put together again: an
option that is not listed is refused, so that one that a later rsync invents is, too. Fragments of sh, for the script of
a restriction: ``$o`` is what was asked for, ``$d`` the folder, resolved, ``$g`` the folder as it was given.
"""

from __future__ import annotations

PROGRAMS = ("rsync", "borg")

# Short options by what they cannot do: read or write elsewhere (no L, k, K, R, T, f), remove (no x in place of that is
# meant: --delete and --remove-source-files are long), or hand over the arguments behind the command's back (no s).
_SHORT = "rlogDtpvzcuWSnxHAXiqIOJdmhUN"
_PLAIN = (
    "--partial|--inplace|--sparse|--numeric-ids|--stats|--no-inc-recursive|--ignore-existing|--existing|--size-only|"
    "--ignore-times|--preallocate|--fsync|--append|--append-verify|--whole-file|--no-whole-file|--no-W|--list-only|"
    "--log-format=X|--log-format=%i|--log-format=%i%I|--new-compress|--old-compress|--no-compress|--no-z"
)
_NUMBERS = (
    "--bwlimit=*|--block-size=*|--timeout=*|--contimeout=*|--modify-window=*|--max-size=*|--min-size=*|"
    "--checksum-seed=*|--compress-level=*|--max-alloc=*"
)
_NAMES = "--checksum-choice=*|--compress-choice=*"

# $1 is --sender where the other side may only read. What a symbolic link leads to is munged as it is stored, so that
# none that was sent leads anywhere; a transfer with device nodes in it is cut short where they would be made.
_CHECK = (
    "rs(){ m=$1;set -f;LC_ALL=C;"
    'case $o in *[!A-Za-z0-9_.,:@/+=%" "-]*)no "rsync: a character that is not taken here";;esac;'
    "set -- $o;shift 2;a=;"
    'if [ -n "$m" ];then [ "$1" = --sender ]||no "rsync: this key may only read here";shift;fi;'
    f"while :;do case $1 in {_PLAIN});;"
    f'{_NUMBERS})case ${{1#*=}} in ""|*[!0-9.KkMmGg+-]*)no "rsync: $1";;esac;;'
    f'{_NAMES})case ${{1#*=}} in ""|*[!a-z0-9,]*)no "rsync: $1";;esac;;'
    '-B[0-9]*)case ${1#-B} in *[!0-9]*)no "rsync: $1";;esac;;'
    '--*)no "rsync: $1 is not taken here";;'
    f"-?*)c=${{1#-}};e=;case $c in *e.*)e=${{c#*e.}};c=${{c%%e.*}};;esac;"
    f'case $c in *[!{_SHORT}]*)no "rsync: $1 is not taken here";;esac;case $e in *[!A-Za-z.]*)no "rsync: $1";;esac;;'
    '.)shift;break;;*)no "rsync: not a transfer";;esac;a="$a $1";shift;done;'
    '[ $# -eq 1 ]||no "rsync: one path at a time";n=$1;'
    'u="rsync: a path outside of the folder";'
    'case $n in /*)case $n/ in "$d"/*)n=${n#"$d"};;"$g"/*)n=${n#"$g"};;*)no "$u";;esac;;esac;'
    'case /$n/ in */../*)no "$u";;esac;'
    't=;case $n in ""|.|*/|*/.)t=/;;esac;'
    "while :;do case $n in /*)n=${n#/};;*/)n=${n%/};;*)break;;esac;done;"
    'if [ -d "$d/$n" ];then p=$(cd "$d/$n"&&pwd -P)||no "no such folder";b=;'
    "else b=/${n##*/};case $n in */*)s=${n%/*};;*)s=;;esac;"
    'p=$(cd "$d/$s" 2>/dev/null&&pwd -P)||no "no such folder";[ ! -L "$p$b" ]||no "a symbolic link";fi;'
    'case $p/ in "$d"/*);;*)no "it leads out of the folder";;esac;'
    '[ -n "$m" ]||a="$a --no-D";exec rsync --server $m $a --munge-links . "$p$b$t";};'
)

_RSYNC = '"rsync --server "*)'
# Whatever else borg's other side says on its command line: this is what runs.
_BORG = '"borg serve"|"borg serve "*)'
BRANCH = {
    ("receive", "rsync"): _RSYNC
    + 'case $o in "rsync --server --sender"*)no "rsync: this key may only write here";;esac;'
    + 'rs "";;',
    ("read", "rsync"): _RSYNC + "rs --sender;;",
    ("receive", "borg"): _BORG + 'exec borg serve --append-only --restrict-to-path "$d";;',
}


def functions(programs: tuple[str, ...]) -> str:
    """What the branches call."""
    return _CHECK if "rsync" in programs else ""
