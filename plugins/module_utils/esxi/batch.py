# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many commands and file reads in one remote script: each SSH command and each vim-cmd login costs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

# Each answer is framed by a word that nobody could know before: no annotation or file can imitate it.
# The standard output goes straight through, the error text through a variable; no file is written on the host.
_HEAD = """\
t={token}
exec 3>&1
r() {{
  printf '%s BEGIN\\n' "$t"
  e=$("$@" 2>&1 >&3 3>&-)
  c=$?
  printf '\\n%s END %s\\n%s\\n%s DONE\\n' "$t" "$c" "$e" "$t"
}}
"""

# Descriptors of a folder without opening extents, which may be locked: their names are known. What is not text is
# refused by its size. `stat` gives each file's allocated blocks and size from its inode alone.
_FOLDER = """\
d() {
  for f in "$1"/*.vmdk; do
    [ -f "$f" ] || continue
    stat -c '%b %B %s %Y' "$f" | { read -r n || n=; printf '%s FILE %s\\n%s\\n' "$t" "$n" "$f"; }
    case "$f" in
      *-flat.vmdk|*-delta.vmdk|*-sesparse.vmdk|*-ctk.vmdk|*-rdm.vmdk|*-rdmp.vmdk|*-s[0-9][0-9][0-9].vmdk) ;;
      *) if [ "$(stat -c %s "$f")" -le 65536 ]; then r cat "$f"; fi ;;
    esac
  done
}
"""


@dataclass(frozen=True)
class Reply:
    """How one command of a batch ended."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Both streams, for messages and faults."""
        return "\n".join(part for part in (self.stdout.strip("\n"), self.stderr.strip("\n")) if part)


@dataclass(frozen=True)
class FileEntry:
    """A .vmdk file of a folder; `text` only for what can be a descriptor."""

    path: str
    allocated_bytes: int
    size_bytes: int
    mtime: int
    text: str | None = None


class Batch:
    """A script under construction. `run` returns the replies in the order of the commands."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token or secrets.token_hex(12)
        self._lines: list[str] = []
        self._commands: list[tuple[str, ...]] = []

    def __len__(self) -> int:
        return len(self._commands)

    def add(self, argv: Sequence[str]) -> Batch:
        self._commands.append(tuple(argv))
        self._lines.append("r " + quoting.join(argv))
        return self

    def read(self, path: str) -> Batch:
        return self.add(["cat", path])

    @property
    def script(self) -> str:
        return _HEAD.format(token=self.token) + "\n".join(self._lines) + "\n"

    def run(self, session: Session, *, timeout_seconds: float = 60.0) -> list[Reply]:
        """Raises CutAnswer when the answer does not hold every command."""
        if not self._commands:
            return []
        result = session.script(self.script, timeout_seconds=timeout_seconds)
        return self.parse(result.stdout, result.stderr)

    def parse(self, stdout: str, stderr: str = "") -> list[Reply]:
        found = list(_frames(stdout, self.token))
        if len(found) != len(self._commands):
            raise CutAnswer(len(found), len(self._commands), stderr or stdout[-300:])
        return [Reply(argv, *frame) for argv, frame in zip(self._commands, found)]


class CutAnswer(Exception):
    """A batch came back with fewer answers than questions."""

    def __init__(self, got: int, wanted: int, output: str) -> None:
        super().__init__(f"{got} of {wanted} answers came back: {quoting.shorten(output)}")


# The command writes to a file in the ramdisk: a pipe would keep the SSH channel open for as long as it runs. The script
# removes it, or the command's own shell when the script was cut off.
_PATIENT = """\
f=$(mktemp /tmp/stowage.XXXXXX) || exit 97
trap 'rm -f "$f"' EXIT
trap 'exit 99' HUP INT TERM
me=$$
(
  exec > "$f" 2>&1
  "$@"
  printf '\\n%s {token}\\n' "$?"
  kill -0 $me 2>/dev/null || rm -f "$f"
) &
n=0
while [ $n -lt {turns} ]; do
  if tail -n 1 "$f" | grep -q ' {token}$'; then cat "$f"; exit 0; fi
  usleep 200000 2>/dev/null || {{ sleep 1; n=$((n+4)); }}
  n=$((n+1))
done
exit 98
"""


def run_patient(session: Session, argv: Sequence[str], patience_seconds: int) -> Reply | None:
    """Run a command that may go on by itself: None when it has not ended in time. Both streams are in `stdout`."""
    token = secrets.token_hex(12)
    script = _PATIENT.format(token=token, turns=max(1, patience_seconds) * 5)
    result = session.script(script, list(argv), timeout_seconds=patience_seconds * 2.0 + 60.0)
    if result.rc == 98:
        return None
    body, _newline, last = result.stdout.rstrip("\n").rpartition("\n")
    code, _blank, mark = last.partition(" ")
    if result.rc != 0 or mark != token or not code.isdigit():
        return Reply(tuple(argv), result.rc or 255, "", result.output)
    return Reply(tuple(argv), int(code), body, "")


def read_folders(session: Session, folders: Iterable[str], *, timeout_seconds: float = 120.0) -> list[FileEntry]:
    """Every .vmdk file of these folders, with the descriptors' text, or CutAnswer. Never opens an extent."""
    batch = Batch()
    wanted = "".join(f"d {quoting.quote(folder)}\n" for folder in dict.fromkeys(folders))
    if not wanted:
        return []
    script = _HEAD.format(token=batch.token) + _FOLDER + wanted + "printf '%s ALL\\n' \"$t\"\n"
    result = session.script(script, timeout_seconds=timeout_seconds)
    # A file that is left out looks like one that is gone.
    if not result.stdout.endswith(f"{batch.token} ALL\n"):
        raise CutAnswer(0, 1, result.stderr or result.stdout[-300:])
    return list(parse_folders(result.stdout, batch.token))


def parse_folders(stdout: str, token: str) -> Iterable[FileEntry]:
    head = f"{token} FILE "
    for part in re.split(f"^{re.escape(head)}", stdout, flags=re.MULTILINE)[1:]:
        numbers, _newline, rest = part.partition("\n")
        begin = rest.find(f"{token} BEGIN\n")
        path = (rest if begin < 0 else rest[:begin]).rstrip("\n")
        values = [int(word) if word.isdigit() else 0 for word in numbers.split()]
        blocks, unit, size, mtime = (values + [0, 0, 0, 0])[:4]
        text = next((out for rc, out, _err in _frames(rest, token) if rc == 0), None)
        yield FileEntry(path, blocks * unit, size, mtime, text)


def _frames(text: str, token: str) -> Iterable[tuple[int, str, str]]:
    at = 0
    begin, end, done = f"{token} BEGIN\n", f"\n{token} END ", f"\n{token} DONE"
    while True:
        start = text.find(begin, at)
        stop = text.find(end, start) if start >= 0 else -1
        last = text.find(done, stop) if stop >= 0 else -1
        if last < 0:
            return
        code, _newline, errors = text[stop + len(end) : last].partition("\n")
        yield int(code) if code.strip().isdigit() else 255, text[start + len(begin) : stop], errors
        at = last + len(done)
