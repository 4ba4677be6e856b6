# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deciding: from a wish and two machines to what would be done. Check mode and the real run both start here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.link import authorized, errors
from ansible_collections.stowage.esxi.plugins.module_utils.link.authorized import Entry, PublicKey
from ansible_collections.stowage.esxi.plugins.module_utils.link.facts import Machine, Source, Target
from ansible_collections.stowage.esxi.plugins.module_utils.link.wanted import RSA_BITS, Link

# Host keys in the order in which ssh would have them. Only what the target really has is pinned.
_SSH_KEYGEN = {"rsa": "ssh-rsa", "ecdsa": "ecdsa-sha2-nistp256", "ed25519": "ssh-ed25519"}
_NEW_KEY = "(a new key)"


@dataclass(frozen=True)
class Plan:
    """Everything that would be changed. ``verify`` and ``open_for_now`` change nothing that stays."""

    key_type: str = "rsa"
    make_key: bool = False
    keep_old_line: bool = False
    pins: str | None = None
    edit_keys: bool = False
    tighten: tuple[str, ...] = ()
    open_outgoing: bool = False
    open_for_now: bool = False
    close_outgoing: bool = False
    remove_key: bool = False
    verify: bool = False
    drift: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.actions)

    def diff(self) -> dict[str, Any]:
        return {name: "".join(f"{line}\n" for line in getattr(self, name)) for name in ("before", "after")}


def key_type(link: Link, source: Source, target: Target) -> str:
    """RSA for ESXi, whose FIPS mode refuses Ed25519, and whose older releases take it only when told to."""
    strict = target.esxi or target.fips or source.fips
    if link.key_type == "auto":
        return "rsa" if strict else "ed25519"
    if link.key_type == "ed25519" and strict:
        machine = link.target if target.esxi or target.fips else link.source
        raise errors.BadLink(
            name=link.name,
            reason=f"{machine} does not take Ed25519 keys ({'ESXi' if target.esxi else 'FIPS mode'})",
            way_out="Leave key_type at auto, or set it to rsa",
        )
    return link.key_type


def wanted_entry(link: Link, target: Machine, key: PublicKey) -> Entry:
    options = link.restriction.options(new_sshd=target.ssh_version >= (7, 2))
    entry = Entry(options, key, str(link.mark))
    if len(entry.line) > authorized.LONGEST_LINE:
        raise errors.BadLink(
            name=link.name,
            reason=f"its line would have {len(entry.line)} characters, more than sshd reads",
            way_out="Shorten from_addresses, or the command",
        )
    return entry


def wanted_pins(link: Link, target: Target) -> str:
    return "".join(f"{link.known_hosts_name} {key.kind} {key.base64}\n" for key in target.host_keys)


def plan_present(link: Link, source: Source, target: Target) -> Plan:
    """What makes the link be as it is wanted. Drift is what differs although the link had been made before."""
    _refuse(link, source, target)
    kind = key_type(link, source, target)
    present = authorized.ours(target.keys_text, link.mark)
    existed = bool(present) or source.key_file.exists or bool(source.pins)
    drift: list[str] = []
    actions: list[str] = []
    warnings: list[str] = []
    words = f"{kind.upper()} key" + (f" of {RSA_BITS} bits" if kind == "rsa" else "")

    reason = _why_new_key(link, source, kind)
    make = reason is not None
    rotation = make and source.key is not None and source.key_file.exists
    if make:
        actions.append(f"make a new {words} on {link.source}" + (f": {reason}" if source.key_file.exists else ""))
        if existed and not source.key_file.exists:
            drift.append(f"the key {link.key_name} is gone from {link.source}")
        elif existed and source.key is None:
            drift.append(f"the key {link.key_name} on {link.source} cannot be read as a key")
    tighten: list[str] = []
    if source.key_file.exists and not make and source.key_file.mode & 0o077:
        tighten.append(source.key_file.path)
        drift.append(f"others may read {source.key_file.path} on {link.source} (mode {source.key_file.mode:04o})")
        actions.append(f"close {source.key_file.path} on {link.source} to others")

    pins = wanted_pins(link, target)
    write_pins = pins != source.pins
    if write_pins:
        actions.append(f"pin the host keys of {link.target} on {link.source}")
        if existed:
            drift.append(
                f"{link.source} has not the host keys pinned that {link.target} has now"
                if source.pins
                else f"the host keys of {link.target} are not pinned on {link.source}"
            )

    edit = make
    if not make and source.key is not None:
        wanted = wanted_entry(link, target, source.key)
        edit = present != [wanted]
        if edit and existed:
            drift.append(_line_drift(link, present, wanted))
        strangers = [
            entry for entry in authorized.with_key(target.keys_text, source.key) if entry.comment != str(link.mark)
        ]
        if strangers and link.restriction.kind != "none":
            warnings.append(
                f"The same key also stands in a line of {target.keys_file.path} on {link.target} that is not of this "
                f"link ({strangers[0].comment or 'no comment'}): sshd takes the first one, and the restriction may not "
                "hold"
            )
    if edit:
        verb = "correct" if present else "install"
        actions.append(f"{verb} the line of the key in {target.keys_file.path} on {link.target}")
    loose = [file for file in (target.folder, target.keys_file) if file.exists and file.loose]
    for file in loose:
        drift.append(
            f"others may write {file.path} on {link.target} (mode {file.mode:04o}), so sshd does not believe it"
        )
        actions.append(f"close {file.path} on {link.target} to others")

    closed = source.esxi and not source.outgoing_open
    opens = closed and link.firewall == "open"
    if opens:
        actions.insert(0, f"open the firewall rule set sshClient on {link.source}")
        if existed:
            drift.append(f"the firewall rule set sshClient is closed on {link.source}")
    verify = link.verify == "always" or (link.verify == "changed" and bool(actions))
    if verify and closed and link.firewall == "leave":
        verify = False
        warnings.append(
            f"The firewall rule set sshClient of {link.source} is closed and is left so: the link was not tried, and "
            f"can be used only after esxcli network firewall ruleset set -e true -r sshClient"
        )
    plan = Plan(
        key_type=kind,
        make_key=make,
        # While the new key is tried, the old one goes on working: a failure costs nothing.
        keep_old_line=rotation and bool(present),
        pins=pins if write_pins else None,
        edit_keys=edit,
        tighten=(*tighten, *(file.path for file in loose)),
        open_outgoing=opens,
        # Also where it is open now: another link of that source may be under trial, and closes it when that is over.
        open_for_now=source.esxi and link.firewall == "restore" and verify,
        verify=verify,
        drift=tuple(drift),
        actions=tuple(actions),
        warnings=tuple(warnings),
    )
    after_key = _NEW_KEY if make or source.key is None else str(source.key)
    options = link.restriction.options(new_sshd=target.ssh_version >= (7, 2))
    return replace(
        plan,
        before=_state(link, source, target, present),
        after=(
            *_key_lines(link, after_key),
            *_pin_lines(link, pins),
            *_key_mode_lines(link, source, mended=True),
            *_mode_lines(link, target, mended=True),
            *_rule_lines(link, source, source.outgoing_open or opens),
            _entry_line(link, options, after_key),
        ),
    )


def plan_absent(link: Link, source: Source | None, target: Target) -> Plan:
    """Revocation: first the target forgets the key, then the source. ``None``: the source is not there to forget it."""
    present = authorized.ours(target.keys_text, link.mark)
    actions = []
    if present:
        actions.append(f"remove the line of the key from {target.keys_file.path} on {link.target}")
    remove = source is not None and (source.key_file.exists or bool(source.pins))
    if remove:
        actions.append(f"remove the key {link.key_name} and its pinned host keys from {link.source}")
    closes = (
        source is not None
        and source.esxi
        and source.outgoing_open
        and source.was_closed
        and not source.other_keys
        and link.firewall == "restore"
    )
    if closes:
        actions.append(f"close the firewall rule set sshClient on {link.source} again")
    plan = Plan(edit_keys=bool(present), remove_key=remove, close_outgoing=closes, actions=tuple(actions))
    rules = _rule_lines(link, source, source.outgoing_open and not closes) if source is not None else ()
    modes = _mode_lines(link, target, mended=False)
    return replace(plan, before=_state(link, source, target, present), after=(*modes, *rules))


def _refuse(link: Link, source: Source, target: Target) -> None:
    for host, file in ((link.target, target.keys_file), (link.source, source.key_file)):
        if file.symlink:
            raise errors.UnfitMachine(
                host=host,
                reason=f"{file.path} is a symbolic link, which would be replaced by a file",
                way_out="Put a file there, or set key_folder or user to another place",
            )
    if target.esxi and link.restriction.kind == "work":
        raise errors.UnfitMachine(
            host=link.target,
            reason="ESXi runs no playbooks",
            way_out="Lead the link to a machine that has Ansible and this collection, a backup server for example",
        )
    if not target.host_keys:
        raise errors.UnfitMachine(
            host=link.target,
            reason="it shows no host key in /etc/ssh/ssh_host_*_key.pub, so that none can be pinned",
            way_out="Make the public halves with ssh-keygen -y -f KEY > KEY.pub there",
        )
    if source.ssh_version == (0, 0):
        raise errors.UnfitMachine(
            host=link.source, reason="it has no OpenSSH client", way_out="Install it: it has to make and use the key"
        )


def _why_new_key(link: Link, source: Source, kind: str) -> str | None:
    """``None`` where the key that is there will do."""
    if not source.key_file.exists:
        return "there is none"
    if source.key is None:
        return "the old one cannot be read as a key"
    if link.rotate:
        return "a rotation was asked for"
    if link.max_age_days and source.key_age_days > link.max_age_days:
        return f"the old one is {int(source.key_age_days)} days old"
    if source.key.kind != _SSH_KEYGEN[kind]:
        return f"the old one is of type {source.key.kind}"
    bits = source.key.bits
    if kind == "rsa" and (bits is None or bits < RSA_BITS):
        return f"the old one has {bits} bits only"
    return None


def _line_drift(link: Link, present: list[Entry], wanted: Entry) -> str:
    if not present:
        return f"{link.target} has no line for the key of {link.source}"
    if len(present) > 1:
        return f"{link.target} has {len(present)} lines of this link"
    if present[0].key != wanted.key:
        return f"{link.target} has another key in the line of this link ({present[0].key})"
    return f"the line of the key on {link.target} has other restrictions"


def _state(link: Link, source: Source | None, target: Target, present: list[Entry]) -> tuple[str, ...]:
    lines: list[str] = []
    if source is not None:
        if source.key_file.exists:
            lines += _key_lines(link, str(source.key) if source.key is not None else "(no key)")
        lines += _pin_lines(link, source.pins)
        lines += _key_mode_lines(link, source, mended=False)
    lines += _mode_lines(link, target, mended=False)
    if source is not None:
        lines += _rule_lines(link, source, source.outgoing_open)
    lines += [_entry_line(link, entry.options, str(entry.key)) for entry in present]
    return tuple(lines)


def _key_lines(link: Link, key: str) -> tuple[str, ...]:
    return (f"{link.source}: {link.key_name}: {key}",)


def _pin_lines(link: Link, pins: str) -> tuple[str, ...]:
    lines = [line.split(" ", 1) for line in pins.split("\n") if " " in line]
    return tuple(
        f"{link.source}: known_hosts: {name} {authorized.parse_public(key) or '(no key)'}" for name, key in lines
    )


def _key_mode_lines(link: Link, source: Source, *, mended: bool) -> tuple[str, ...]:
    file = source.key_file
    if not file.exists or not file.mode & 0o077:
        return ()
    return (f"{link.source}: {file.path}: mode {file.mode & ~0o077 if mended else file.mode:04o}",)


def _mode_lines(link: Link, target: Target, *, mended: bool) -> tuple[str, ...]:
    return tuple(
        f"{link.target}: {file.path}: mode {file.mode & ~0o022 if mended else file.mode:04o}"
        for file in (target.folder, target.keys_file)
        if file.exists and file.loose
    )


def _rule_lines(link: Link, source: Source, is_open: bool) -> tuple[str, ...]:
    return (f"{link.source}: sshClient: {'open' if is_open else 'closed'}",) if source.esxi else ()


def _entry_line(link: Link, options: str, key: str) -> str:
    return " ".join(part for part in (f"{link.target}: authorized_keys:", options, key, str(link.mark)) if part)
