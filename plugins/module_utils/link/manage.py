# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a module's parameters to the work: who is reached how, in which order, and what is returned."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.link import authorized, errors, facts, plan, run
from ansible_collections.stowage.esxi.plugins.module_utils.link.facts import Source, Target
from ansible_collections.stowage.esxi.plugins.module_utils.link.restriction import Restriction
from ansible_collections.stowage.esxi.plugins.module_utils.link.wanted import Link, key_name
from ansible_collections.stowage.esxi.plugins.module_utils.link.works import Work
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import AuthenticationFailed, HostUnreachable
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.hostkeys import home
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.local import LocalSession
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session, open_session
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import endpoint_from_params

Opener = Callable[[Endpoint], Session]


def link_from_params(params: Mapping[str, Any]) -> Link:
    """The link that is meant. Names and the address come from the inventory, by the action plugin, or explicitly."""
    limits = params.get("restriction") or {}
    local = bool(params["target_is_local"])
    return Link(
        name=params["name"],
        source=params.get("source_name") or (params.get("source_connection") or {}).get("hostname") or "localhost",
        target=params.get("target_name") or ("localhost" if local else params.get("hostname") or ""),
        user=params.get("user") or (LocalSession().endpoint.user if local else params["username"]),
        address=params.get("address") or ("127.0.0.1" if local else params.get("hostname") or ""),
        port=params.get("address_port") or (22 if local else params["port"]),
        key_type=params["key_type"],
        key_folder=params.get("key_folder"),
        restriction=Restriction(
            kind=limits.get("kind") or "none",
            path=limits.get("path"),
            command=tuple(limits.get("command") or ()),
            programs=tuple(limits.get("programs") or ()),
            from_addresses=tuple(params.get("from_addresses") or ()),
            work=_work(limits.get("work")),
        ),
        firewall=params["firewall"],
        verify=params["verify"],
        rotate=bool(params["rotate"]),
        max_age_days=params["max_age_days"],
    ).check()


def _work(given: Mapping[str, Any] | None) -> Work | None:
    if not given:
        return None
    return Work(**{name: value for name, value in given.items() if value is not None})


class Reach:
    """Opens sessions. A machine that this one has a control link to is reached by that link's key, not by a password.

    The key is offered only where the link's own pinned host keys say that it was made, and once a run.
    """

    def __init__(self, control: str, opener: Opener = open_session, folder: str | None = None) -> None:
        self._control = control
        self._opener = opener
        self._folder = folder or os.path.join(home(), ".ssh")
        self.by_link: list[tuple[str, Session]] = []
        self.refused: list[str] = []

    def endpoint_by_link(self, endpoint: Endpoint, name: str) -> Endpoint | None:
        """The same machine with the key of the control link; ``None`` where there is no such link from here."""
        key_file = os.path.join(self._folder, key_name(self._control, name))
        pins = f"{key_file}.known_hosts"
        if endpoint.private_key or endpoint.private_key_file or not (os.path.exists(key_file) and os.path.exists(pins)):
            return None
        linked = replace(endpoint, password=None, private_key_file=key_file, passphrase=None, use_agent=False)
        if endpoint.host_key_policy != "pinned" and _names_in(pins) & {endpoint.address.known_hosts_name}:
            linked = replace(linked, host_key_policy="strict", known_hosts_file=pins)
        return linked

    def open(self, endpoint: Endpoint, name: str) -> Session:
        """A session that works: its first command has run."""
        linked = self.endpoint_by_link(endpoint, name)
        if linked is not None:
            session = self._opener(linked)
            try:
                _first(session)
                self.by_link.append((name, session))
                return session
            except AuthenticationFailed:
                session.close()
                self.refused.append(name)
        session = self._opener(endpoint)
        _first(session)
        return session


def _first(session: Session) -> None:
    try:
        session.run(["true"])
    except HostUnreachable as error:
        session.close()
        raise errors.SshClosed(**error.data) from error
    except StowageError:
        session.close()
        raise


def _names_in(path: str) -> set[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return {line.split()[0] for line in file if line.strip()}


def manage(
    params: Mapping[str, Any], *, check_mode: bool, warn: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Makes, renews or revokes one link, or says what would be done. The result is what the module returns."""
    link = link_from_params(params)
    reach = Reach(params["control"])
    target_session: Session = LocalSession()
    if not params["target_is_local"]:
        target_session = reach.open(endpoint_from_params(params), link.target)
    source_session: Session | None = None
    try:
        target = facts.look_at_target(target_session, link.user)
        source_session, source = _source(params, link, reach, warn)
        runner = run.Runner(link, source_session or target_session, target_session, warn=warn)
        if params["state"] == "present":
            if source is None:
                raise ValueError("a link is made on its source")
            decided = plan.plan_present(link, source, target)
            key = source.key if not decided.make_key else None
            if not check_mode and (decided.changed or decided.verify):
                key = runner.present(decided, source, target)
        else:
            decided, key = plan.plan_absent(link, source, target), None
            if decided.changed and not check_mode:
                runner.absent(decided, source, target)
                _forget(params, link, reach)
        for sentence in decided.warnings:
            warn(sentence)
        return _result(params, link, decided, source, target, key, reach)
    finally:
        target_session.close()
        if source_session is not None:
            source_session.close()


def _source(
    params: Mapping[str, Any], link: Link, reach: Reach, warn: Callable[[str], None]
) -> tuple[Session | None, Source | None]:
    if params.get("source_gone"):
        if params["state"] == "present":
            raise errors.BadLink(
                name=link.name,
                reason=f"its source {link.source} is said to be gone",
                way_out="Links of a source that is gone can be revoked only (state: absent)",
            )
        return None, None
    session: Session | None = None
    try:
        if params.get("source_connection"):
            session = reach.open(endpoint_from_params(params["source_connection"]), link.source)
        else:
            session = LocalSession()
        return session, facts.look_at_source(session, session.endpoint.user, link.key_folder, link.key_name)
    except StowageError as error:
        if params["state"] == "present":
            raise
        # A machine that is gone, or in wrong hands, must not keep its key alive.
        warn(
            f"{link.source} cannot be reached, so its half of the key stays there ({error.message}). What counts is "
            f"that {link.target} does not accept it any more"
        )
        if session is not None:
            session.close()
        return None, None


def _forget(params: Mapping[str, Any], link: Link, reach: Reach) -> None:
    """A shared connection that was made with the revoked key would go on for a minute."""
    if params["target_is_local"] or params.get("source_gone") or params.get("source_connection"):
        return
    for name, session in reach.by_link:
        disconnect = getattr(session, "disconnect", None)
        if name == link.target and link.name == params["control"] and disconnect is not None:
            disconnect()


def _result(
    params: Mapping[str, Any],
    link: Link,
    decided: plan.Plan,
    source: Source | None,
    target: Target,
    key: authorized.PublicKey | None,
    reach: Reach,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "changed": decided.changed,
        "link": {
            "name": link.name,
            "source": link.source,
            "target": link.target,
            "user": link.user,
            "address": link.address,
            "port": link.port,
            "authorized_keys_file": target.keys_file.path,
        },
        "drift": list(decided.drift)
        + [f"{name} refused the key of its control link; another credential was used" for name in reach.refused],
        "actions": list(decided.actions),
        "links_accepted": [str(mark) for mark in authorized.all_marks(target.keys_text)],
        "diff": decided.diff(),
    }
    if source is not None and params["state"] == "present":
        path = source.key_file.path
        result["key"] = {
            "file": path,
            "type": decided.key_type,
            "fingerprint": key.fingerprint if key is not None else None,
            "age_days": 0.0 if decided.make_key else round(source.key_age_days, 2),
        }
        result["known_hosts_file"] = f"{path}.known_hosts"
        result["host_key_fingerprints"] = [key.fingerprint for key in target.host_keys]
        result["ssh_command"] = run.ssh_command(link, path, f"{path}.known_hosts", old_server=target.old)
        result["not_enforced"] = link.restriction.not_enforced(esxi=target.esxi)
    return result
