# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two machines of a link look like now: one question to each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Batch, CutAnswer, Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_esxcli import parse_table
from ansible_collections.stowage.esxi.plugins.module_utils.link import authorized, errors
from ansible_collections.stowage.esxi.plugins.module_utils.link.authorized import PublicKey
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

# Where a system keeps the keys of a user: $1 is the user, $2 the folder that was asked for, or nothing.
_FOLDER = """\
PATH=$PATH:/usr/lib/vmware/openssh/bin
if [ -n "$2" ]; then d=$2
elif [ -x /bin/vim-cmd ]; then d=/etc/ssh/keys-$1
else
  h=$(getent passwd "$1" 2>/dev/null || grep "^$1:" /etc/passwd)
  h=$(printf '%s\\n' "$h" | head -n 1 | cut -d: -f6)
  [ -n "$h" ] || { echo "there is no user $1" >&2; exit 3; }
  d=$h/.ssh
fi
"""
_FIPS = "cat /proc/sys/crypto/fips_enabled; sed 's/^/sshd /' /etc/ssh/sshd_config"
_HOST_KEYS = """\
for f in /etc/ssh/ssh_host_*_key.pub; do
  [ -f "$f" ] && cat "$f"
done
exit 0
"""
_RULES = "[ -x /bin/vim-cmd ] || exit 0; esxcli network firewall ruleset list"
MARKER = "stowage-sshclient-was-closed"


@dataclass(frozen=True)
class File:
    """``mode`` is 0 where there is no such file; ``symlink`` for what is none itself."""

    path: str
    mode: int = 0
    symlink: bool = False

    @property
    def exists(self) -> bool:
        return self.mode != 0 or self.symlink

    @property
    def loose(self) -> bool:
        """Others may write: sshd then believes nothing in it."""
        return bool(self.mode & 0o022)


@dataclass(frozen=True)
class Machine:
    """What both sides have in common."""

    esxi: bool
    root: bool
    fips: bool
    ssh_version: tuple[int, int]
    folder: File

    @property
    def system(self) -> str:
        return "ESXi" if self.esxi else "Linux"


@dataclass(frozen=True)
class Source(Machine):
    """The machine that uses the key."""

    key: PublicKey | None
    key_file: File
    key_age_days: float
    pins: str
    other_keys: tuple[str, ...]
    outgoing_open: bool
    was_closed: bool


@dataclass(frozen=True)
class Target(Machine):
    """The machine that accepts the key."""

    keys_file: File
    keys_text: str
    host_keys: tuple[PublicKey, ...]
    release: tuple[int, int] = (0, 0)

    @property
    def old(self) -> bool:
        """Whether it may sign by SHA-1 only (OpenSSH before 7.2, ESXi 6.0): new clients take that only when told to."""
        return (0, 0) < self.ssh_version < (7, 2) or (0, 0) < self.release < (6, 5)


def look_at_source(session: Session, user: str, key_folder: str | None, key_name: str) -> Source:
    """Never reads the private key: ssh-keygen tells its public half."""
    words = ["sh", user, key_folder or "", key_name]

    def ask(text: str) -> list[str]:
        return ["sh", "-c", _FOLDER + text, *words]

    batch = _common(Batch(), ask)
    batch.add(ask('stat -c "%a %F" "$d/$3"; stat -c "%Y" "$d/$3"; date +%s'))
    batch.add(ask('[ -f "$d/$3" ] || exit 0; ssh-keygen -y -P "" -f "$d/$3"'))
    batch.add(ask('[ -f "$d/$3.known_hosts" ] || exit 0; cat "$d/$3.known_hosts"'))
    batch.add(ask('ls "$d"'))
    batch.add(ask(_RULES))
    replies = _run(session, batch)
    machine = _machine(session, replies)
    stat, public, pins, listing, rules = replies[_COMMON:]
    lines = stat.stdout.split("\n")
    key_file = _file(f"{machine.folder.path}/{key_name}", lines[0] if len(lines) > 2 else "")
    age = 0.0
    numbers = [int(line) for line in lines if line.isdigit()]
    if len(numbers) == 2:
        age = max(0.0, (numbers[1] - numbers[0]) / 86400.0)
    names = listing.stdout.split("\n")
    keys = (name for name in names if re.fullmatch(r"stowage-[^@]+@[^/]+", name) and name != key_name)
    return Source(
        machine.esxi,
        machine.root,
        machine.fips,
        machine.ssh_version,
        machine.folder,
        key=authorized.parse_public(public.stdout) if public.rc == 0 else None,
        key_file=key_file,
        key_age_days=age,
        pins=pins.stdout,
        other_keys=tuple(name for name in keys if not name.endswith((".known_hosts", ".new"))),
        outgoing_open=not machine.esxi or _enabled(rules, session, "sshClient"),
        was_closed=MARKER in names,
    )


def outgoing_open(session: Session) -> bool:
    """Whether an ESXi host's own firewall lets it reach others by SSH now."""
    (reply,) = _run(session, Batch().add(["sh", "-c", _RULES]))
    return _enabled(reply, session, "sshClient")


def look_at_target(session: Session, user: str) -> Target:
    words = ["sh", user, ""]

    def ask(text: str) -> list[str]:
        return ["sh", "-c", _FOLDER + text, *words]

    batch = _common(Batch(), ask)
    batch.add(ask('stat -c "%a %F" "$d/authorized_keys"'))
    batch.add(ask('[ -e "$d/authorized_keys" ] || exit 0; cat "$d/authorized_keys"'))
    batch.add(["sh", "-c", _HOST_KEYS])
    batch.add(["sh", "-c", "[ -x /bin/vim-cmd ] || exit 0; vmware -v"])
    replies = _run(session, batch)
    machine = _machine(session, replies)
    stat, text, keys, version = replies[_COMMON:]
    release = re.search(r"ESXi ([0-9]+)\.([0-9]+)", version.stdout)
    path = f"{machine.folder.path}/authorized_keys"
    if text.rc != 0:
        raise errors.UnfitMachine(
            host=session.endpoint.host,
            reason=f"{path} cannot be read: {text.text}",
            way_out="Log in as root, or as the user that the key is to open",
        )
    parsed = (authorized.parse_public(line) for line in keys.stdout.split("\n"))
    return Target(
        machine.esxi,
        machine.root,
        machine.fips,
        machine.ssh_version,
        machine.folder,
        keys_file=_file(path, stat.stdout),
        keys_text=text.stdout,
        host_keys=tuple(sorted({key for key in parsed if key is not None}, key=lambda key: key.kind)),
        release=(int(release.group(1)), int(release.group(2))) if release else (0, 0),
    )


_COMMON = 5


def _common(batch: Batch, ask: Callable[[str], list[str]]) -> Batch:
    batch.add(["uname", "-s"])
    batch.add(["sh", "-c", "id -u 2>/dev/null || echo 0"])
    batch.add(ask('printf "%s\\n" "$d"; stat -c "%a %F" "$d"; exit 0'))
    batch.add(["sh", "-c", _FIPS])
    return batch.add(ask("ssh -V"))


def _run(session: Session, batch: Batch) -> list[Reply]:
    try:
        return batch.run(session, timeout_seconds=60.0)
    except CutAnswer as error:
        raise errors.UnfitMachine(
            host=session.endpoint.host, reason=f"its shell gives no whole answer: {error}", way_out="Run again"
        ) from error


def _machine(session: Session, replies: list[Reply]) -> Machine:
    kernel, uid, folder, fips, version = replies[:_COMMON]
    host, name = session.endpoint.host, kernel.stdout.strip()
    if name not in ("VMkernel", "Linux"):
        raise errors.UnfitMachine(
            host=host, reason=f"its system is {name or kernel.text!r}", way_out="Links are made between ESXi and Linux"
        )
    if folder.rc != 0:
        raise errors.UnfitMachine(host=host, reason=folder.text, way_out="Set user to an account of that machine")
    path, _newline, stat = folder.stdout.partition("\n")
    found = re.search(r"OpenSSH_([0-9]+)\.([0-9]+)", version.text)
    return Machine(
        esxi=name == "VMkernel",
        root=uid.stdout.strip() == "0",
        fips=fips.stdout.startswith("1") or bool(re.search(r"^sshd\s+fipsmode\s+yes", fips.stdout, re.M | re.I)),
        ssh_version=(int(found.group(1)), int(found.group(2))) if found else (0, 0),
        folder=_file(path, stat),
    )


def _file(path: str, stat: str) -> File:
    words = stat.strip().split(" ", 1)
    if len(words) != 2 or not re.fullmatch(r"[0-7]{3,4}", words[0]):
        return File(path)
    return File(path, int(words[0], 8), "symbolic link" in words[1])


def _enabled(reply: Reply, session: Session, ruleset: str) -> bool:
    for row in parse_table(reply.stdout):
        if row.get("Name") == ruleset:
            return row.get("Enabled") == "true"
    raise errors.UnfitMachine(
        host=session.endpoint.host,
        reason=f"its firewall does not show the rule set {ruleset}: {reply.text or 'it printed nothing'}",
        way_out="Run esxcli network firewall ruleset list on that host",
    )
