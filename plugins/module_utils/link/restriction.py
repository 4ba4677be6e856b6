# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a link may be used for: the options of its line, the forced command, and what no option can enforce."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.link import errors, servers, works
from ansible_collections.stowage.esxi.plugins.module_utils.link.works import Work
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting

KINDS = ("none", "receive", "read", "command", "work")
PROGRAMS = servers.PROGRAMS

#: What a link is tried with. A forced command of ours answers it, and so does every shell.
PROBE = "echo stowage-link-works"
ANSWER = "stowage-link-works"
#: What starts the one command of a link of kind command.
RUN = "stowage-run"

_ADDRESS = re.compile(r"!?[A-Za-z0-9_.:*?/-]+", re.ASCII)
# Names that every release knows: an option that an old sshd does not know makes it refuse the whole line.
_OLD = "no-pty,no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc"

# The scripts run in sh (ash, dash, bash), get the path as $1, never evaluate what the other side sends, and hold no
# single quote, since they stand in single quotes themselves.
_HEAD = (
    "o=$SSH_ORIGINAL_COMMAND;d=$1;unset CDPATH SSH_ORIGINAL_COMMAND;"
    'no(){ echo "stowage: refused, $*" >&2;exit 126;};'
    f'[ "$o" = "{PROBE}" ]&&{{ echo {ANSWER};exit 0;}};'
)
_FOLDER = 'g=$d;d=$(cd "$d" 2>/dev/null&&pwd -P)||no "the folder of this link is not there";'
_CLEAN = '[ "$n" = "$(printf %s "$n"|tr -d "\\000-\\037\\177")" ]||no "a name with control characters";'
_RECEIVE = (
    _FOLDER + 'case $o in {programs}"stowage-put "*);;*)no "this key may only write here: stowage-put SIZE NAME";;esac;'
    "o=${{o#stowage-put }};s=${{o%% *}};n=${{o#* }};"
    'case $s in ""|*[!0-9]*)no "stowage-put SIZE NAME, with the size in bytes";;esac;'
    'case $n in ""|"$o"|.*|-*|*/*)no "not a plain file name";;esac;'
    + _CLEAN
    + 'umask 077;set -C;( :>"$d/$n" )2>/dev/null||no "the name is taken, or cannot be written";'
    't="$d/.stowage-put.$$";trap "exit 1" HUP INT TERM PIPE;'
    'rm -f "$t";cat>"$t"&&[ "$(wc -c<"$t")" -eq "$s" ]&&mv -f "$t" "$d/$n"&&exit 0;'
    'rm -f "$t" "$d/$n";no "not all of it arrived"'
)
_READ = (
    _FOLDER + 'case $o in {programs}"stowage-list"|"stowage-list "*|"stowage-get "*);;'
    '*)no "this key may only read here: stowage-list [FOLDER], stowage-get FILE";;esac;'
    "n=${{o#stowage-list}};n=${{n#stowage-get}};n=${{n# }};"
    'case /$n/ in */../*|*/./*|/-*|//?*)no "not a name below the folder";;esac;'
    + _CLEAN
    + "case $o in stowage-get*)case $n in */*)s=${{n%/*}};;*)s=;;esac;;*)s=$n;;esac;"
    'p=$(cd "$d/$s" 2>/dev/null&&pwd -P)||no "no such folder";'
    'case $p/ in "$d"/*);;*)no "it leads out of the folder";;esac;'
    'case $o in stowage-list*)cd "$p"&&for f in *;do if [ -L "$f" ];then :;'
    'elif [ -d "$f" ];then printf "%s\\n" "d - $f";'
    'elif [ -f "$f" ];then printf "%s\\n" "f $(stat -c %s "$f") $f";fi;done;exit 0;;esac;'
    'f=$p/${{n##*/}};[ -f "$f" ]&&[ ! -L "$f" ]||no "no such file";exec cat "$f"'
)
_COMMAND = f'case $o in ""|{RUN});;*)no "this key may only start its one command: {RUN}";;esac;exec "$@"'


@dataclass(frozen=True)
class Restriction:
    """Kind ``none`` leaves the whole account open; the others let nothing pass but what their name says."""

    kind: str = "none"
    path: str | None = None
    command: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    from_addresses: tuple[str, ...] = ()
    work: Work | None = None

    def check(self, name: str) -> None:
        """Raises ``BadLink`` for what cannot be meant."""

        def bad(reason: str, way_out: str) -> errors.BadLink:
            return errors.BadLink(name=name, reason=reason, way_out=way_out)

        if self.kind in ("receive", "read") and not self.path:
            raise bad(f"a restriction to {self.kind} needs a path", "Set restriction.path to a folder of the target")
        if self.kind not in ("receive", "read") and (self.path or self.programs):
            raise bad(
                f"a path and programs say nothing to a restriction of kind {self.kind}",
                "Set restriction.kind to receive or read, or leave them out",
            )
        if self.path is not None and (
            not self.path.startswith("/") or not self.path.strip("/") or ".." in self.path.split("/")
        ):
            raise bad(f"{self.path!r} is no folder that a key can be held to", "Name an absolute path other than /")
        if (self.kind == "command") != bool(self.command):
            raise bad(
                "a restriction of kind command needs a command, and no other takes one",
                "Set restriction.command to the words of the one command line",
            )
        if (self.kind == "work") != (self.work is not None):
            raise bad(
                "a restriction of kind work needs a work, and no other takes one",
                "Set restriction.work to the playbook that may be started",
            )
        if self.work is not None:
            self.work.check(name)
        for word in (*self.command, self.path or ""):
            if any(character in word for character in "\n\r\0"):
                raise bad(f"{word!r} has more than one line", "Write it in one line")
        for program in self.programs:
            if (self.kind, program) not in servers.BRANCH:
                raise bad(
                    f"{program} cannot be held to {self.kind}",
                    "borg has no read-only server: let it read over a mount, or as another user that may only read"
                    if program == "borg"
                    else f"Use one of {', '.join(PROGRAMS)}",
                )
        for address in self.from_addresses:
            if not _ADDRESS.fullmatch(address):
                raise bad(
                    f"{address!r} is no address pattern", "Give addresses, networks in CIDR form, or names with * and ?"
                )

    def options(self, *, new_sshd: bool) -> str:
        """The options of the line in authorized_keys. ``new_sshd``: 7.2 or newer, which knows ``restrict``."""
        words = []
        if self.from_addresses:
            words.append(f'from="{",".join(self.from_addresses)}"')
        if self.kind != "none":
            words.append("restrict" if new_sshd else _OLD)
            words.append('command="' + self.forced().replace('"', '\\"') + '"')
        return ",".join(words)

    def forced(self) -> str:
        """The one line that the account's own shell, whatever it is, runs in place of all that is asked for."""
        if self.kind == "command":
            script, arguments = _HEAD + _COMMAND, list(self.command)
        elif self.work is not None:
            script, arguments = _HEAD + works.SCRIPT, self.work.words()
        else:
            programs = "".join(servers.BRANCH[self.kind, program] for program in self.programs)
            body = _RECEIVE if self.kind == "receive" else _READ
            functions = servers.functions(self.programs)
            script, arguments = _HEAD + functions + body.format(programs=programs), [self.path or ""]
        if "'" in script:
            raise ValueError("the script stands between single quotes")
        return f"exec /bin/sh -c '{script}' stowage " + " ".join(quoting.quote(word) for word in arguments)

    def not_enforced(self, *, esxi: bool) -> list[str]:
        """What nothing on the target can keep the key from, in sentences for the operator."""
        if self.kind == "none":
            said = ["The key opens the whole account: nothing but from_addresses limits it."]
        else:
            said = ["How often the key logs in, and for how long, is not limited."]
        if not self.from_addresses:
            said.append("The key works from every address that reaches the machine.")
        if self.kind == "receive":
            said.append("How much is written is limited only by the room of the file system.")
            if self.programs:
                said.append("rsync and borg may replace or add to what they find in the folder; stowage-put may not.")
            if "borg" in self.programs:
                said.append("Whoever may write into a repository of borg may read it, too: borg has no other server.")
        if "rsync" in self.programs:
            said.append(
                "rsync tells sizes, times and checksums of what lies in the folder; an old one may show lines of files "
                "that are named to it as filters."
            )
        if self.kind == "command":
            said.append("What the command itself does is up to the command.")
        if self.kind == "work":
            said.append("What the playbook does, and what it prints, is up to the playbook; its output can be read.")
            said.append("The work can be started again as soon as it has ended, as often as the key logs in.")
        if esxi and self.kind != "none":
            said.append(
                "ESXi has no chroot and no second account for this: the forced command runs as the account itself, and "
                "its script alone holds it to its work."
            )
        return said
