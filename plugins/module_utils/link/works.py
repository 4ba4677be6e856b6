# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One playbook's work that a link may start on its target, and nothing else: the forced command of kind work.

The other side says ``stowage-work start ID [NAME=VALUE...]``, ``stowage-work status [ID]`` or ``stowage-work output
ID``. A work goes on when its link is cut, and one of a name runs at a time, whoever starts it: it holds a lock that the
kernel frees when the last of its processes is gone. What was started is kept in ``~/.stowage-works/NAME/ID``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.link import errors

#: How many works of a name the target remembers, and how much of an output it tells.
KEPT = 20
TOLD_BYTES = 65536

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
#: What an id, and a value of a variable, may be; the forced command asks the same.
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
VALUE = re.compile(r"[A-Za-z0-9_.,:@/+=-]*", re.ASCII)
# Given by the work itself: the id is that of the run, so that its record is found.
_RUN_ID = "stowage_run_id"

_NOW = "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
_BOOT = "$(cat /proc/sys/kernel/random/boot_id)"
# In sh (dash, bash, ash), without a single quote. $1 is the name, $2 how many variables may be set, then each of them
# with its pattern, the folder, and the words of the command.
SCRIPT = (
    "set -f;umask 077;LC_ALL=C;k=$2;shift 2;"
    'case $o in "stowage-work "*);;*)no "this key may only ask for its one work: "'
    '"stowage-work start|status|output ID";;esac;'
    'case $o in *[!A-Za-z0-9_.,:@/+=" "-]*)no "a character that no word of a work has";;esac;'
    'v=${o#stowage-work };r=;case $v in *" "*)r=${v#* };v=${v%% *};;esac;'
    'case $v in start|status|output);;*)no "it is start, status or output";;esac;'
    'i=${r%% *};x=;case $r in *" "*)x=${r#* };;esac;'
    "h=${HOME:-/}/.stowage-works/$d;"
    '[ -n "$i" ]||[ "$v" = start ]||i=$(cat "$h/current" 2>/dev/null)||{ echo "state none";exit 0;};'
    'case $i in ""|[!A-Za-z0-9]*|*[!A-Za-z0-9._-]*)no "not the id of a work";;esac;'
    '[ ${#i} -le 64 ]||no "an id that is too long";'
    '[ "$v" = start ]||[ -z "$x" ]||no "words that nothing is asked with";'
    'command -v flock>/dev/null||no "the program flock is not here";'
    "say(){ w=$h/$i;"
    'if [ ! -d "$w" ];then s=unknown;elif [ -f "$w/rc" ];then s=ended;'
    # Shared, so that a look never keeps a start from the lock for longer than the look.
    'elif [ "$(cat "$h/current")" = "$i" ]&&! flock -ns "$h/lock" true;then s=running;'
    'elif [ -f "$w/rc" ];then s=ended;else s=lost;fi;'
    'echo "state $s";echo "id $i";cat "$w/facts" "$w/rc" 2>/dev/null;[ $s = lost ]||return 0;'
    f'if grep -qx "boot {_BOOT}" "$w/facts";then echo "reason its processes are gone";'
    'else echo "reason the machine was started anew";fi;};'
    'may(){ a=$1;b=$2;c=$3;shift 3;while [ "$c" -gt 0 ];do '
    '[ "$1" != "$a" ]||{ printf "%s\\n" "$b"|grep -Eqxe "$2";return;};shift 2;c=$((c-1));done;return 1;};'
    f'case $v in status)say;exit 0;;output)say;echo;tail -c {TOLD_BYTES} "$w/log" 2>/dev/null;exit 0;;esac;'
    f'q=$(printf "\\042");e="{{${{q}}{_RUN_ID}$q: $q$i$q";'
    'for p in $x;do m=${p%%=*};[ "$m" != "$p" ]&&may "$m" "${p#*=}" "$k" "$@"||no "$m may not be set so";'
    'e="$e, $q$m$q: $q${p#*=}$q";done;'
    'mkdir -p "$h"&&exec 9>>"$h/lock"||no "its folder cannot be made";'
    # The same id once more joins: whoever lost the answer asks again.
    't=0;until [ -d "$h/$i" ]||flock -n 9;do t=$((t+1));'
    '[ $t -lt 2 ]||{ exec 9>&-;i=$(cat "$h/current");echo busy;say;exit 0;};sleep 1;done;'
    'w=$h/$i;mkdir "$w" 2>/dev/null||{ exec 9>&-;say;exit 0;};'
    'while [ "$k" -gt 0 ];do shift 2;k=$((k-1));done;y=$1;shift;'
    f'{{ echo "started {_NOW}";echo "boot {_BOOT}"; }}>"$w/facts";'
    'echo "$i">"$h/current.new"&&mv -f "$h/current.new" "$h/current";'
    f'( set +f;ls -1td "$h"/*/|tail -n +{KEPT + 1}|while read -r z;do rm -rf "$z";done )2>/dev/null;'
    # Ansible runs in UTF-8 only, and whoever starts a work does not choose.
    'LC_ALL=C.UTF-8;export LC_ALL;( trap "" HUP;cd "${y:-$HOME}"&&"$@" -e "$e}";c=$?;'
    f'{{ echo "rc $c";echo "ended {_NOW}"; }}>"$w/rc.new";mv -f "$w/rc.new" "$w/rc" )</dev/null >"$w/log" 2>&1 &'
    "exec 9>&-;say;exit 0"
)


@dataclass(frozen=True)
class Work:
    """``allow``: the variables that the other side may set, each with the pattern (ERE) that all of its value fits."""

    name: str
    playbook: str
    inventory: str = ""
    extra_vars: Mapping[str, Any] = field(default_factory=dict)
    allow: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    ansible_playbook: str = "ansible-playbook"

    def check(self, link: str) -> None:
        """Raises ``BadLink`` for what cannot be meant."""

        def bad(reason: str, way_out: str) -> errors.BadLink:
            return errors.BadLink(name=link, reason=reason, way_out=way_out)

        if not _NAME.fullmatch(self.name):
            raise bad(f"{self.name!r} cannot be the name of a work", "Use letters, digits, dashes and underscores")
        for what, word in (("playbook", self.playbook), ("ansible_playbook", self.ansible_playbook)):
            if not word or word.startswith("-"):
                raise bad(f"{what} of the work {self.name} is {word!r}", f"Name {what} by its path or name")
        for what, path in (("inventory", self.inventory), ("directory", self.directory)):
            if path and not path.startswith("/"):
                raise bad(
                    f"{what} of the work {self.name} is {path!r}", f"Set {what} to an absolute path of the target"
                )
        for name, pattern in self.allow.items():
            if not _VARIABLE.fullmatch(name) or name.startswith("ansible_") or name == _RUN_ID:
                raise bad(
                    f"the work {self.name} cannot let {name!r} be set",
                    "Allow variables of roles and playbooks; those of connections, and the run's id, are the target's",
                )
            if name in self.extra_vars:
                raise bad(f"{name} of the work {self.name} is both fixed and allowed", "Name it in one place")
            try:
                re.compile(pattern)
            except re.error as error:
                raise bad(f"the pattern of {name} is none: {error}", "Write an extended regular expression") from error
        for word in self.words():
            if any(character in word for character in "\n\r\0"):
                raise bad(f"{word!r} has more than one line", "Write it in one line")

    def command(self) -> list[str]:
        """What is run, but for the variables that the other side sets."""
        words = [self.ansible_playbook, *(["-i", self.inventory] if self.inventory else [])]
        fixed = ["-e", json.dumps(dict(self.extra_vars), sort_keys=True)] if self.extra_vars else []
        return [*words, *fixed, self.playbook]

    def words(self) -> list[str]:
        """The arguments of the script."""
        pairs = [word for name, pattern in sorted(self.allow.items()) for word in (name, pattern)]
        return [self.name, str(len(self.allow)), *pairs, self.directory, *self.command()]
