# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The installed system of a hypervisor: /bin and /sbin, shared read-only by all hosts of one lab.

The shell is this machine's static busybox with its tables edited: Debian's build runs applets without looking at the
PATH and knows many that ESXi lacks, and ESXi's shell has no 'command' builtin. So the names that a host must not have
are overwritten in a copy of the program, and every name that it must have is then tried.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from esxilab.errors import LabError

# What public scripts for ESXi call, and what the ESXi 6.x and 7.x busybox lists when called without arguments.
_APPLETS = """
    [ [[ ash awk basename cat chgrp chmod chown chvt cksum clear cmp cp crond cut date dd diff dirname
    dnsdomainname du echo egrep env expr false fdisk fgrep find getty grep groups gunzip gzip head hexdump
    id kill link ln logger login ls md5sum mkdir mkfifo mknod mktemp more mv nc nslookup od passwd
    printf pwd readlink realpath reset rm rmdir sed seq setsid sh sha1sum sha256sum sha512sum sleep sort stat
    strings stty sum sync tac tail tar tee test time timeout top touch tr true tty uniq unlink unzip usleep
    uudecode uuencode vi watch wc wget which who xargs xxd zcat
"""
APPLETS = frozenset(_APPLETS.split())
# Missing on old releases (4.7: presence differs by release).
_LATE = frozenset({"realpath", "tac", "timeout", "xxd"})
NOT_ON = {"6.0": _LATE, "6.7": _LATE}
# Played by the lab's daemon or by its client; never by busybox.
_SIMULATED = """
    esxcli localcli vim-cmd vmkfstools vmkvsitools vmware vsish ps df uname lsof vdf hostname services.sh
    vmkload_mod reboot poweroff halt
"""
SIMULATED = tuple(_SIMULATED.split())
# Real programs of this machine, copied: they need nothing but the C library and OpenSSL.
COPIED = ("nohup", "openssl")
OPENSSH = ("ssh", "scp", "ssh-keygen")
AUTO_BACKUP = """#!/bin/sh
echo "Saving current state in /bootbank"
cd / && tar -czf /bootbank/state.tgz.new etc && mv /bootbank/state.tgz.new /bootbank/state.tgz
"""


def busybox_path() -> str:
    """A static busybox; a dynamic one would need a world that ESXi does not have."""
    for candidate in ("/bin/busybox", "/usr/bin/busybox", shutil.which("busybox") or ""):
        if candidate and os.access(candidate, os.X_OK):
            with open(candidate, "rb") as handle:
                if b"/ld-linux" not in handle.read(4096):
                    return candidate
    raise LabError("no static busybox here; install the package busybox-static")


def without(program: bytes, name: str) -> bytes:
    """The busybox program with one builtin of its shell renamed to something nobody can type."""
    # The shell's table holds each builtin's flags as one digit before its name.
    pattern = re.compile(rb"\x00[0-7]" + re.escape(name.encode()) + rb"\x00")
    found = list(pattern.finditer(program))
    if len(found) != 1:
        raise LabError(f"this busybox has {len(found)} builtins called {name!r}; the lab expects exactly one")
    last = found[0].end() - 2
    return program[:last] + b"\x01" + program[last + 1 :]


def _next_of_length(before: bytes, length: int) -> bytes:
    """The smallest text of that length, of bytes 1 to 127, that sorts behind another."""
    if len(before) < length:
        return before + b"\x01" * (length - len(before))
    for place in range(length - 1, -1, -1):
        if before[place] < 127:
            return before[:place] + bytes([before[place] + 1]) + b"\x01" * (length - place - 1)
    return b"\x7f" * length


def with_applets(program: bytes, allowed: frozenset[str]) -> bytes:
    """The busybox program whose table of applets knows only the allowed names."""
    start = program.find(b"\x00[\x00[[\x00") + 1
    if start < 1:
        start = program.find(b"[\x00[[\x00")
    end = start
    while start >= 0 and re.match(rb"[a-z0-9_.\[+-]{1,24}\x00", program[end : end + 26]):
        end = program.index(b"\x00", end) + 1
    names = program[start : max(end - 1, start)].split(b"\x00")
    if len(names) < 50:
        raise LabError("the applet table of this busybox was not found; is it busybox-static of Debian or Ubuntu?")
    table: list[bytes] = []
    for number, name in enumerate(names):
        if name.decode() in allowed:
            table.append(name)
            continue
        # The table is searched in its order, so the new name has to sort where the old one did.
        before = table[-1] if table else b""
        after = next((later for later in names[number + 1 :] if later.decode() in allowed), b"\x7f")
        choices = [name[:-1] + bytes([last]) for last in [*range(1, 32), 127]]
        choices.append(_next_of_length(before, len(name)))
        choices.append(_next_of_length(choices[-1], len(name)))
        table.append(
            next((choice for choice in choices if before < choice < after and choice not in names), name[:-1] + b"\x01")
        )
    return program[:start] + b"\x00".join(table) + program[end - 1 :]


def image_name(profile: str, command_builtin: bool) -> str:
    """Hosts of one release share a system; those whose shell knows `command` have another one."""
    return f"{profile}+command" if command_builtin else profile


def build(folder: Path, profile: str, command_builtin: bool = False) -> None:
    """Fill folder with bin and sbin of a host of that release."""
    allowed = frozenset(APPLETS - NOT_ON.get(profile, frozenset()))
    binaries, admin = folder / "bin", folder / "sbin"
    for directory in (binaries, admin):
        directory.mkdir(parents=True)
    with open(busybox_path(), "rb") as handle:
        original = handle.read()
    busybox = binaries / "busybox"
    busybox.write_bytes(with_applets(original if command_builtin else without(original, "command"), allowed))
    busybox.chmod(0o755)
    present = subprocess.run([busybox_path(), "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in sorted(allowed & set(present)):
        (binaries / applet).symlink_to("busybox")
    for name in SIMULATED:
        (binaries / name).symlink_to("/.lab/client.py")
        (admin / name).symlink_to("/.lab/client.py")
    for name in COPIED:
        source = shutil.which(name)
        if source:
            shutil.copy(source, binaries / name)
    for name in OPENSSH:
        (binaries / name).symlink_to(f"/usr/lib/vmware/openssh/bin/{name}")
    # 6.0 has no Python 3, not even by name.
    for name in ("python",) if profile == "6.0" else ("python", "python3"):
        (binaries / name).symlink_to("/.lab/host-python")
    backup = admin / "auto-backup.sh"
    backup.write_text(AUTO_BACKUP, encoding="ascii")
    backup.chmod(0o755)
    _prove(busybox, sorted(allowed & set(present)), sorted(set(present) - allowed), command_builtin)


def _prove(busybox: Path, wanted: list[str], unwanted: list[str], command_builtin: bool) -> None:
    """Try every applet in the edited program: those of a host answer, the others are unknown to its shell."""
    script = "".join(f"( {name} --help ) >/dev/null 2>&1 </dev/null; echo {name} $?\n" for name in [*wanted, *unwanted])
    script = "PATH=/nowhere\n" + script + "command -v echo; echo command $?\n"
    skip = {"[", "[[", "login", "getty", "passwd", "reset", "clear", "sh", "ash", "vi", "crond"}
    lines = [line for line in script.splitlines() if line.split("(")[-1].split("--")[0].strip() not in skip]
    done = subprocess.run(
        [str(busybox), "ash"], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60, check=False
    )
    codes = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if " " in line)
    builtins = {"echo", "false", "true", "printf", "pwd", "kill", "test", "[", "[[", "type", "time"}
    lost = [name for name in wanted if name not in skip and codes.get(name) == "127"]
    kept = [name for name in unwanted if name not in builtins | skip and codes.get(name) != "127"]
    if lost or kept or (codes.get("command") != "127") != command_builtin:
        raise LabError(
            f"this busybox cannot be made into a host's shell: lost {lost}, kept {kept},"
            f" 'command' gave {codes.get('command')}"
        )
