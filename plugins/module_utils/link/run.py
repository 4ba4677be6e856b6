# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing what the plan says, on either machine. A private key is made where it is used, and is never read from there."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.link import authorized, errors, facts
from ansible_collections.stowage.esxi.plugins.module_utils.link.authorized import Entry, PublicKey
from ansible_collections.stowage.esxi.plugins.module_utils.link.facts import Source, Target
from ansible_collections.stowage.esxi.plugins.module_utils.link.plan import Plan, wanted_entry
from ansible_collections.stowage.esxi.plugins.module_utils.link.restriction import ANSWER, PROBE
from ansible_collections.stowage.esxi.plugins.module_utils.link.wanted import RSA_BITS, Link
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.hostlock import host_lock
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host

# How often somebody else may get in between the reading and the writing of authorized_keys.
TRIES = 5
CONNECT_SECONDS = 20

_PATH = "PATH=$PATH:/usr/lib/vmware/openssh/bin\n"
# $1 key file, $2 type, $3 bits, $4 comment. The new key stands beside the old one until it is proven to work.
_MAKE = (
    _PATH
    + """\
umask 077
d=${1%/*}
[ -d "$d" ] || mkdir -p "$d" || exit 3
rm -f "$1.new" "$1.new.pub" || exit 3
ssh-keygen -q -t "$2" ${3:+-b "$3"} -N "" -C "$4" -f "$1.new" </dev/null >&2 || exit 3
cat "$1.new.pub" && rm -f "$1.new.pub"
"""
)
# $1 file, $2 its digest as it was read or "absent", $3 a unique ending, $4 size of what arrives, $5 a new file's owner.
# A temporary file in the same folder, with the old one's mode and owner; it takes the old one's place only if that is
# still what was read.
_WRITE = """\
digest() {
  { sha256sum < "$1" 2>/dev/null || openssl dgst -sha256 < "$1"; } | sed -n 's/.*\\([0-9a-f]\\{64\\}\\).*/\\1/p'
}
umask 077
d=${1%/*}
t=$1.$3
trap 'rm -f "$t"' EXIT
if [ ! -d "$d" ]; then
  mkdir -p "$d" || exit 3
  [ -z "$5" ] || chown "$5" "$d" || exit 3
fi
if [ -e "$1" ]; then cp -p "$1" "$t" || exit 3
else : > "$t" || exit 3; [ -z "$5" ] || chown "$5" "$t" || exit 3
fi
cat > "$t" || exit 3
[ "$(wc -c < "$t")" -eq "$4" ] || { echo "not all of it could be written" >&2; exit 3; }
now=absent
[ ! -e "$1" ] || now=$(digest "$1")
[ "$now" = "$2" ] || exit 4
mv -f "$t" "$1" || exit 3
"""


# Seconds before the second and the third trial of a new link.
_PAUSES = (1.0, 3.0)
_LASTING = ("Permission denied", "verification failed", "IDENTIFICATION")


class Runner:
    """Works a plan off. ``warn`` takes sentences that the operator should read."""

    def __init__(
        self, link: Link, source: Session, target: Session, *, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        self._link = link
        self._source = source
        self._target = target
        self._warn = warn

    # -- making ----------------------------------------------------------------------------------------------------

    def present(self, plan: Plan, source: Source, target: Target) -> PublicKey:
        """Makes the link; the key that it has now. After a failure the old key, if there was one, still works."""
        link, key_file = self._link, source.key_file.path
        if plan.open_outgoing:
            self._outgoing(source, True, remember=True)
        for path in plan.tighten:
            session = self._source if path == key_file else self._target
            session.check(["chmod", "go-rwx" if path == key_file else "go-w", path])
        key = self._make(plan, key_file) if plan.make_key else source.key
        if key is None:
            raise ValueError("a key is made, or there")
        if plan.pins is not None:
            self._source.write_text(f"{key_file}.known_hosts", plan.pins)
        if plan.edit_keys:
            entry = wanted_entry(link, target, key)
            old = authorized.ours(target.keys_text, link.mark) if plan.keep_old_line else []
            self._edit(target, [entry, *old])
        if plan.changed and target.esxi:
            self._keep_ssh_enabled()
        if target.esxi and (plan.edit_keys or plan.tighten):
            self._save(self._target)
        if plan.verify:
            self._prove(plan, source, target)
        if plan.make_key:
            self._source.check(["mv", "-f", f"{key_file}.new", key_file])
        if plan.keep_old_line:
            self._edit(target, [wanted_entry(link, target, key)])
            if target.esxi:
                self._save(self._target)
        if source.esxi and (plan.make_key or plan.pins is not None or plan.open_outgoing):
            self._save(self._source)
        return key

    def _prove(self, plan: Plan, source: Source, target: Target) -> None:
        """Tries the link; of one that could not be tried, or does not work, nothing stays that calls it made."""
        key_file = source.key_file.path
        try:
            with self._open_for_now(source) if plan.open_for_now else contextlib.nullcontext():
                self._try(plan, key_file, target)
        except StowageError:
            # The source's lock is free again: another link may hold the target's, and wait for this one.
            self._give_up(plan, key_file, target)
            raise

    @contextlib.contextmanager
    def _open_for_now(self, source: Source) -> Iterator[None]:
        """The outgoing rule set open as long as this lasts. One trial of a source at a time: each closes it again."""
        with host_lock(self._source.endpoint):
            if facts.outgoing_open(self._source):
                yield
                return
            self._outgoing(source, True, remember=False)
            try:
                yield
            finally:
                self._outgoing(source, False, remember=False)

    def _make(self, plan: Plan, key_file: str) -> PublicKey:
        bits = str(RSA_BITS) if plan.key_type == "rsa" else ""
        result = self._source.script(_MAKE, [key_file, plan.key_type, bits, str(self._link.mark)], timeout_seconds=120)
        key = authorized.parse_public(result.stdout)
        if result.rc != 0 or key is None:
            raise errors.KeyNotMade(
                host=self._link.source,
                reason=result.output,
                way_out=f"See that ssh-keygen is installed there, and that {key_file} can be written",
            )
        return key

    def _try(self, plan: Plan, key_file: str, target: Target) -> None:
        used = f"{key_file}.new" if plan.make_key else key_file
        argv = ssh_command(self._link, used, f"{key_file}.known_hosts", old_server=target.old)
        script = _PATH + "unset SSH_AUTH_SOCK SSH_ASKPASS DISPLAY\n" + 'exec "$@"\n'
        for pause in (*_PAUSES, None):
            result = self._source.script(script, [*argv, PROBE], timeout_seconds=CONNECT_SECONDS * 2 + 10)
            if result.rc == 0 and result.stdout.strip().endswith(ANSWER):
                return
            # A server to which many log in at once turns some of them away; one that has answered says the same again.
            if pause is None or any(word in result.output for word in _LASTING):
                break
            time.sleep(pause)
        raise self._does_not_work(result, target)

    def _give_up(self, plan: Plan, key_file: str, target: Target) -> None:
        """The next run must see that it has to try again: without the pins, the link is not as it is wanted. One that
        worked before, with another key or as it is, keeps them."""
        made = plan.pins is not None or (plan.edit_keys and not plan.keep_old_line)
        gone = [f"{key_file}.new", *([f"{key_file}.known_hosts"] if made else [])]
        with contextlib.suppress(StowageError):
            self._source.run(["rm", "-f", *gone])
        if plan.keep_old_line:
            with contextlib.suppress(StowageError):
                self._edit(target, authorized.ours(target.keys_text, self._link.mark))

    def _does_not_work(self, result: Result, target: Target) -> errors.LinkDoesNotWork:
        link, said = self._link, quoting.shorten(result.output, 400)
        if "Permission denied" in said:
            where = target.keys_file.path
            way_out = (
                f"See the sshd log of {link.target}, and whether its sshd reads {where}; from_addresses may be wrong"
            )
        elif "verification failed" in said or "IDENTIFICATION" in said:
            way_out = (
                f"Another machine answers at that address, or its sshd uses host keys that are not in /etc/ssh of "
                f"{link.target}. Set address and address_port to what {link.source} has to use"
            )
        else:
            way_out = (
                f"Set address and address_port to what {link.source} has to use, and see that nothing between the two "
                "machines closes that port (on ESXi: rule sets sshClient of the one, sshServer of the other)"
            )
        return errors.LinkDoesNotWork(
            source=link.source,
            target=link.target,
            user=link.user,
            address=link.address,
            port=link.port,
            reason=said,
            way_out=way_out,
        )

    # -- revoking --------------------------------------------------------------------------------------------------

    def absent(self, plan: Plan, source: Source | None, target: Target) -> None:
        """First the target forgets the key: from then on it opens nothing, whatever happens to the source."""
        if plan.edit_keys:
            self._edit(target, [])
            if target.esxi:
                self._save(self._target)
        if source is None:
            return
        if plan.remove_key:
            key_file = source.key_file.path
            self._source.check(
                ["rm", "-f", key_file, f"{key_file}.known_hosts", f"{key_file}.new", f"{key_file}.new.pub"]
            )
        if plan.close_outgoing:
            self._outgoing(source, False, remember=False)
            self._source.check(["rm", "-f", f"{source.folder.path}/{facts.MARKER}"])
        if source.esxi and (plan.remove_key or plan.close_outgoing):
            self._save(self._source)

    def _keep_ssh_enabled(self) -> None:
        """Policy "start with the host": SSH, and the link with it, would otherwise be gone after the next reboot."""
        try:
            _host(self._target).vim("hostsvc/enable_ssh")
        except StowageError as error:
            # hostd may be away for a moment; the link works all the same.
            self._warn(f"SSH of {self._link.target} was not told to start with the host: {error.message}")

    # -- the parts -------------------------------------------------------------------------------------------------

    def _edit(self, target: Target, wanted: Sequence[Entry]) -> None:
        """Our lines in authorized_keys; read again right before, so that nothing that others write is lost."""
        link, path = self._link, target.keys_file.path
        owner = link.user if target.root and link.user != self._target.endpoint.user else ""
        with host_lock(self._target.endpoint):
            for _attempt in range(TRIES):
                now = facts.look_at_target(self._target, link.user)
                text = authorized.edit(now.keys_text, link.mark, wanted)
                if text == now.keys_text:
                    return
                old = now.keys_text.encode("utf-8", "surrogateescape")
                data = text.encode("utf-8", "surrogateescape")
                digest = hashlib.sha256(old).hexdigest() if now.keys_file.exists else "absent"
                ending = f"stowage-{hashlib.sha256(data).hexdigest()[:12]}.tmp"
                result = self._target.run(
                    ["sh", "-c", _WRITE, "sh", path, digest, ending, str(len(data)), owner], stdin=data
                )
                if result.rc == 0:
                    return
                if result.rc != 4:
                    raise errors.KeysFileNotWritten(path=path, host=link.target, reason=result.output)
        raise errors.KeysFileChanged(path=path, host=link.target, tries=TRIES)

    def _outgoing(self, source: Source, is_open: bool, *, remember: bool) -> None:
        rule = ("-e", "true" if is_open else "false", "-r", "sshClient")
        if remember:
            # Before it is opened: whoever revokes the last link knows that it was closed.
            folder = source.folder.path
            self._source.check(
                ["sh", "-c", 'mkdir -p "$1" && : > "$1/$2"', "sh", folder, facts.MARKER],
            )
        _host(self._source).esxcli("network", "firewall", "ruleset", "set", *rule)

    def _save(self, session: Session) -> None:
        """ESXi keeps /etc in memory: what is not saved is gone after a power cut."""
        with host_lock(session.endpoint):
            result = session.run(["/sbin/auto-backup.sh"], timeout_seconds=120)
        if result.rc != 0:
            raise errors.NotSaved(host=session.endpoint.host, reason=result.output)


def _host(session: Session) -> Host:
    # A link that is as it should be needs none of it.
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host

    return Host(session)


def ssh_command(link: Link, key_file: str, known_hosts: str, *, old_server: bool = False) -> list[str]:
    """How the source uses the link: nobody's configuration, this key and no other, these host keys and no other."""
    settings = {
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "PreferredAuthentications": "publickey",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": str(CONNECT_SECONDS),
        "ControlPath": "none",
    }
    if old_server:
        settings.update(HostKeyAlgorithms="+ssh-rsa", PubkeyAcceptedKeyTypes="+ssh-rsa")
    words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "/dev/null", "-i", key_file, *words, "-p", str(link.port), "-l", link.user, "--", link.address]
