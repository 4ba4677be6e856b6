# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which VMs a run means: a pure function from the wishes and what the host has to a value that can be compared."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.imports import load
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    AmbiguousVm,
    BadPolicy,
    BadQuery,
    JobError,
    UnknownVm,
    VmUnusable,
)
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import uuid_of

# What only a VM's configuration and state can answer.
_BY_FACTS = ("running", "uuid", "tag", "datastore", "query")
_WORDS = ("name", "uuid", "pattern", "regex", "tag", "datastore", "query")


@dataclass(frozen=True)
class Candidate:
    """One registered VM, as far as choosing needs it. `info` is its esxi_vm_info entry, for queries.

    `unknown` says why the host could not tell its configuration or its state this time. `standby`: a replica that waits
    for its turn; it holds what its machine's own restore points hold.
    """

    name: str
    identity: str
    vmid: int
    power_state: str
    uuids: tuple[str, ...] = ()
    datastores: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    unknown: str = ""
    standby: bool = False


@dataclass(frozen=True)
class Problem:
    """A wish that cannot be met for one VM; the others go on."""

    vm: str
    error: Mapping[str, Any]

    @classmethod
    def of(cls, vm: str, error: JobError) -> Problem:
        return cls(vm, error.as_dict())

    def as_dict(self) -> dict[str, Any]:
        return {"vm": self.vm, "error": dict(self.error)}


@dataclass(frozen=True)
class Selection:
    chosen: tuple[Candidate, ...]
    left_out: tuple[Candidate, ...]
    problems: tuple[Problem, ...]
    excluded: tuple[Candidate, ...] = ()


def keys_of(settings: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The keys that mean the VM with these names. A UUID may be written as the vmx, vCenter or esxcli write it."""
    plain = [name for name in names if name in settings]
    return plain + [key for key in settings if key not in plain and uuid_of(key) in names]


def tags_of(host_tags: Mapping[str, Any], name: str, uuids: Sequence[str]) -> tuple[str, ...]:
    """The tags that the host variable gives a VM, by its name or any of its UUIDs, however they are written."""
    found: list[str] = []
    for key in keys_of(host_tags, (name, *uuids)):
        value = host_tags[key] or ()
        found.extend([value] if isinstance(value, str) else [str(tag) for tag in value])
    return tuple(dict.fromkeys(found))


def select(
    wishes: Sequence[Any],
    unwanted: Sequence[Any],
    candidates: Sequence[Candidate],
    host: str,
    unknown_names: str = "error",
) -> Selection:
    """Chooses by `wishes` minus `unwanted`. A name that is unknown or means several VMs is a problem of that name."""
    problems: list[Problem] = []
    wanted: set[int] = set()
    waiting = {candidate.vmid for candidate in candidates if candidate.standby}
    for wish in wishes:
        terms = _terms(wish)
        found = _matches(terms, candidates, host, problems, unknown_names)
        wanted |= found if {"name", "uuid"} & set(terms) else found - waiting
    excluded: set[int] = set()
    for wish in unwanted:
        # Excluding a VM that is not there is already done; excluding by a name of several excludes them all.
        excluded |= _matches(_terms(wish), candidates, host, None, "ignore")
    for candidate in candidates:
        if candidate.vmid not in wanted | excluded and _may_be_meant(candidate, wishes, host):
            # Left out without a word it would be a VM that nobody backs up and nobody misses.
            problems.append(
                Problem.of(candidate.name, VmUnusable(vm=candidate.name, host=host, reason=candidate.unknown))
            )
    taken_out = wanted & excluded
    wanted -= excluded
    chosen = []
    for candidate in candidates:
        if candidate.vmid not in wanted:
            continue
        twins = [other for other in candidates if other.identity == candidate.identity]
        if len(twins) > 1:
            problems.append(Problem.of(candidate.name, _ambiguous(candidate.identity, twins, host)))
            wanted.discard(candidate.vmid)
        else:
            chosen.append(candidate)
    chosen.sort(key=lambda candidate: (candidate.name, candidate.vmid))
    # A VM that could not be chosen because of its name is a problem, not one that was left out on purpose.
    faulty = {problem.vm for problem in problems}
    others = [
        candidate
        for candidate in sorted(candidates, key=lambda candidate: (candidate.name, candidate.vmid))
        if candidate not in chosen and candidate.name not in faulty
    ]
    left_out = tuple(candidate for candidate in others if candidate.vmid not in taken_out)
    removed = tuple(candidate for candidate in others if candidate.vmid in taken_out)
    unique = [problem for number, problem in enumerate(problems) if problem not in problems[:number]]
    return Selection(tuple(chosen), left_out, tuple(unique), removed)


def _may_be_meant(candidate: Candidate, wishes: Sequence[Any], host: str) -> bool:
    """Whether a wish that nobody can decide for this VM now fits it in all that can be decided."""
    if not candidate.unknown:
        return False
    for wish in wishes:
        terms = _terms(wish)
        known = {word: value for word, value in terms.items() if word not in _BY_FACTS}
        if len(known) < len(terms) and _matches(known, [candidate], host, None, "ignore"):
            return True
    return False


def _terms(wish: Any) -> dict[str, Any]:
    """One item of `select` as a dict of terms that must all hold."""
    if isinstance(wish, str):
        word, colon, rest = wish.partition(":")
        if wish in ("all", "running"):
            return {wish: True}
        if colon and word in _WORDS:
            return {word: rest.strip()}
        return {"name": wish}
    if not isinstance(wish, Mapping) or not wish:
        raise BadPolicy(what=f"{wish!r} is not a selection; write a VM name or a mapping such as {{tag: nightly}}")
    unknown = set(wish) - {"all", "running", *_WORDS}
    if unknown:
        raise BadPolicy(what=f"{sorted(unknown)} in {dict(wish)!r} is not known; use all, running, {', '.join(_WORDS)}")
    return dict(wish)


def _matches(
    terms: Mapping[str, Any],
    candidates: Sequence[Candidate],
    host: str,
    problems: list[Problem] | None,
    unknown_names: str,
) -> set[int]:
    remaining = set(candidate.vmid for candidate in candidates)
    for word, value in terms.items():
        if word in ("name", "uuid"):
            found = _named(word, str(value), candidates, host, problems, unknown_names)
        elif word == "query":
            found = _queried(str(value), candidates)
        else:
            test = _TESTS[word](value)
            found = {candidate.vmid for candidate in candidates if test(candidate)}
        remaining &= found
    return remaining


def _named(
    word: str,
    value: str,
    candidates: Sequence[Candidate],
    host: str,
    problems: list[Problem] | None,
    unknown_names: str,
) -> set[int]:
    if word == "uuid":
        wanted = (value.strip().lower(), uuid_of(value))
        found = [candidate for candidate in candidates if any(uuid in candidate.uuids for uuid in wanted)]
    else:
        found = [candidate for candidate in candidates if candidate.name == value]
    if problems is not None:
        if not found and unknown_names == "error":
            near = difflib.get_close_matches(value, [candidate.name for candidate in candidates], n=3)
            error = UnknownVm(vm=value, host=host, near=", ".join(near) or "no similar name")
            problems.append(Problem.of(value, error))
        if len(found) > 1:
            problems.append(Problem.of(value, _ambiguous(value, found, host)))
            return set()
    return {candidate.vmid for candidate in found}


def _ambiguous(wanted: str, found: Sequence[Candidate], host: str) -> AmbiguousVm:
    names = "; ".join(f"{candidate.name!r} (vmid {candidate.vmid}, {candidate.identity})" for candidate in found)
    return AmbiguousVm(vm=wanted, host=host, count=len(found), candidates=names)


def _queried(query: str, candidates: Sequence[Candidate]) -> set[int]:
    """A query may answer with VMs (dicts with vmid), vmids or names."""
    jmespath = load("jmespath", purpose="Selecting VMs by a query")
    try:
        answer = jmespath.search(query, [dict(candidate.info) for candidate in candidates])
    except jmespath.exceptions.JMESPathError as error:
        raise BadQuery(query=query, reason=str(error)) from error
    if answer is None:
        return set()
    if not isinstance(answer, list):
        raise BadQuery(query=query, reason=f"it returned {type(answer).__name__}, not a list of VMs or names")
    found: set[int] = set()
    for item in answer:
        if isinstance(item, dict) and "vmid" in item:
            found.add(int(item["vmid"]))
        elif isinstance(item, int) and not isinstance(item, bool):
            found.add(item)
        elif isinstance(item, str):
            found |= {candidate.vmid for candidate in candidates if candidate.name == item}
        else:
            raise BadQuery(query=query, reason=f"it returned {item!r}, which is neither a VM, a vmid nor a name")
    return found


def _flag_test(probe: Callable[[Candidate], bool]) -> Callable[[Any], Callable[[Candidate], bool]]:
    return lambda value: lambda candidate: probe(candidate) is (str(value).lower() in ("true", "yes", "1", "on"))


def _regex_test(value: Any) -> Callable[[Candidate], bool]:
    try:
        expression = re.compile(str(value))
    except re.error as error:
        raise BadPolicy(what=f"the regular expression {value!r} is not valid: {error}") from error
    return lambda candidate: expression.search(candidate.name) is not None


_TESTS: dict[str, Callable[[Any], Callable[[Candidate], bool]]] = {
    "all": _flag_test(lambda candidate: True),
    "running": _flag_test(lambda candidate: candidate.power_state == "poweredOn"),
    "pattern": lambda value: lambda candidate: fnmatch.fnmatchcase(candidate.name, str(value)),
    "regex": _regex_test,
    "tag": lambda value: lambda candidate: str(value) in candidate.tags,
    "datastore": lambda value: lambda candidate: str(value) in candidate.datastores,
}
