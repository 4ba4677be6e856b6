# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a run: one JSON file with an entry for every VM and disk, written as the run goes on.

Each entry is a file of its own, replaced durably at each step, so that a killed run has lost nothing:
`<state_dir>/runs/<run_id>/entries/<host>--<vm>.json`. Merging them makes `record.json`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import state
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import file_label, identity_hash

SCHEMA = 1
STATUSES = ("ok", "failed", "skipped", "excluded", "interrupted", "not-run", "missed")
# What a VM with several backup points counts as: the worst of its copies.
_BY_WEIGHT = ("excluded", "ok", "skipped", "missed", "not-run", "interrupted", "failed")
DEFAULT_STATE_DIR = "/var/lib/stowage"


def run_folder(state_dir: str, run_id: str) -> str:
    return os.path.join(state_dir, "runs", run_id)


def entry_path(
    state_dir: str, run_id: str, host: str, label: str, kind: str = "backup", copy: int = 0, place: str = ""
) -> str:
    """`label` is the VM's identity, or its name where it has none (an unknown name was asked for).

    Of a VM that has several backup points each has an entry of its own: `copy` is its number in a backup, `place` what
    a verify has looked at."""
    mark, tail = "" if kind == "backup" else f"{kind}--", f"--{copy + 1}" if copy else ""
    tail += f"--{identity_hash(place)}" if place else ""
    name = f"{mark}{file_label(host)}--{file_label(label)}{tail}.json"
    return os.path.join(run_folder(state_dir, run_id), "entries", name)


def new_entry(
    run_id: str, host: str, vm: str, identity: str, kind: str, disks: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """An entry always has every key, whatever became of the VM."""
    return {
        "schema": SCHEMA,
        "run_id": run_id,
        "kind": kind,
        "host": host,
        "vm": vm,
        "identity": identity,
        "copy_number": 0,
        "backup_point": None,
        "program": None,
        "status": "not-run",
        "how": None,
        "effective_how": None,
        "why": None,
        "error": None,
        "bytes": 0,
        "bytes_read": 0,
        "bytes_sent": None,
        "bytes_new": None,
        "seconds": None,
        "downtime_seconds": None,
        "restore_point": None,
        "safety_point": None,
        "needs_key_provider": "",
        "proven": None,
        "started_at": None,
        "ended_at": None,
        "warnings": [],
        "done": [],
        "left": [],
        "rotation": None,
        "hint": None,
        "reference": None,
        "verified": None,
        "disks": [disk_entry(disk) for disk in disks],
    }


def disk_entry(disk: Mapping[str, Any]) -> dict[str, Any]:
    action = disk.get("action", "copy")
    status = {"copy": "not-run", "excluded": "excluded"}.get(action, "failed")
    return {
        "key": disk["key"],
        "label": disk.get("label", ""),
        "source": disk.get("source") or disk.get("src") or "",
        "status": status,
        "reason": disk.get("reason", ""),
        "capacity_bytes": disk.get("capacity_bytes", 0),
        "bytes_planned": disk.get("bytes_to_read", 0),
        "bytes": 0,
        "bytes_read": 0,
        "bytes_sent": None,
        "seconds": None,
        "verified": "",
        "method": "",
        "notes": [],
        "dest": disk.get("dest"),
    }


def set_disk_statuses(entry: dict[str, Any], status: str) -> None:
    """What became of the VM holds for each disk that was to be copied; an excluded one stays excluded."""
    for disk in entry["disks"]:
        if disk["status"] not in ("excluded", "failed") and not (disk["status"] == "ok" and status == "interrupted"):
            disk["status"] = status


def add_copies(entry: dict[str, Any], copies: Iterable[Mapping[str, Any]]) -> None:
    """The measured figures of vmdk_copy's result."""
    by_key = {disk["key"]: disk for disk in entry["disks"]}
    # A restore copies disks by their paths, where the key of a copy is a file's name.
    by_dest = {disk["dest"]: disk for disk in entry["disks"] if disk["dest"]}
    for copy in copies:
        disk = by_key.get(str(copy.get("key"))) or by_dest.get(copy.get("dest"))
        if disk is not None:
            disk["bytes"] = int(copy.get("copied_bytes") or 0)
            disk["bytes_read"] = int(copy.get("read_bytes", copy.get("bytes_to_read")) or 0)
            disk["bytes_sent"] = copy.get("sent_bytes")
            disk["method"] = str(copy.get("method") or "")
            disk["notes"] = [str(note) for note in copy.get("notes") or ()]
            disk["seconds"] = copy.get("seconds")
            disk["verified"] = str(copy.get("verified") or "")
            disk["dest"] = copy.get("dest") or disk["dest"]
    entry["bytes"] = sum(disk["bytes"] for disk in entry["disks"])
    entry["bytes_read"] = sum(disk["bytes_read"] for disk in entry["disks"])


def add_told(entry: dict[str, Any], told: Mapping[str, Any]) -> None:
    """What a store says of a whole restore point: what came to it, what of that was new, and what it took there.

    It comes by the journal, which lies on the hypervisor: what is no number there is none here."""
    for name, word in (("bytes", "stored"), ("bytes_sent", "sent"), ("bytes_new", "new")):
        value = told.get(word) if isinstance(told, Mapping) else None
        entry[name] = value if isinstance(value, int) and 0 <= value < 1 << 62 else 0


def add_hint(entry: dict[str, Any], hint: Mapping[str, Any], words: str) -> None:
    """What came of the reference snapshot of the backup before, and what the operator has to know of that."""
    entry["hint"] = {**hint, "told": words} if hint and hint.get("way") != "off" else None
    if words and words not in entry["warnings"]:
        entry["warnings"].append(words)


def error_of(error: Any) -> dict[str, Any] | None:
    """Whatever a playbook has at hand of a failure, as id, message, hint, data."""
    if not error:
        return None
    if isinstance(error, Mapping):
        inner = error.get("error")
        if isinstance(inner, Mapping) and inner.get("id"):
            return error_of(inner)
        message = str(error.get("message") or error.get("msg") or error)
        return {
            "id": str(error.get("id") or "task-failed"),
            "message": message,
            "hint": str(error.get("hint") or ""),
            "data": dict(error.get("data") or {}),
        }
    return {"id": "task-failed", "message": str(error), "hint": "", "data": {}}


def write_entry(state_dir: str, entry: Mapping[str, Any]) -> str:
    label = entry["identity"] or entry["vm"]
    copy, place = int(entry.get("copy_number") or 0), entry.get("backup_point") if entry["kind"] == "verify" else ""
    path = entry_path(state_dir, entry["run_id"], entry["host"], label, entry["kind"], copy, str(place or ""))
    state.write(path, entry)
    return path


def read_entry(
    state_dir: str, run_id: str, host: str, label: str, kind: str = "backup", copy: int = 0
) -> dict[str, Any] | None:
    path = entry_path(state_dir, run_id, host, label, kind, copy)
    try:
        with state.kept(path):
            value = durable.read_json(path)
    except FileNotFoundError:
        return None
    return value if isinstance(value, dict) and value.get("schema") == SCHEMA else None


def write_plan(state_dir: str, plan: Mapping[str, Any], at: datetime) -> str:
    """The skeleton of one host: its plan, and an entry `not-run` (or failed, with the reason) for every VM."""
    path = os.path.join(run_folder(state_dir, plan["run_id"]), "hosts", file_label(plan["host"]) + ".json")
    state.write(path, {"schema": SCHEMA, "planned_at": iso(at), **plan, "text": None})
    for vm in copies_in(plan):
        known = read_entry(
            state_dir, plan["run_id"], plan["host"], vm["identity"], copy=int(vm.get("copy_number") or 0)
        )
        if known is None or vm["problems"]:
            write_entry(state_dir, entry_of_plan(plan["run_id"], plan["host"], vm))
    for problem in plan["problems"]:
        entry = new_entry(plan["run_id"], plan["host"], problem["vm"], "", "backup", ())
        entry.update(status="failed", error=problem["error"])
        write_entry(state_dir, entry)
    return path


def copies_in(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of a host's plan: of a VM with several backup points one for each."""
    return [one for vm in plan.get("vms") or () for one in (vm, *(vm.get("also") or ()))]


def entry_of_plan(run_id: str, host: str, vm: Mapping[str, Any], kind: str = "backup") -> dict[str, Any]:
    entry = new_entry(run_id, host, vm["vm"], vm["identity"], kind, vm.get("disks") or ())
    policy = vm.get("policy") or {}
    entry.update(
        copy_number=int(vm.get("copy_number") or 0),
        backup_point=policy.get("point"),
        program=policy.get("program"),
        how=vm.get("how"),
        effective_how=vm.get("effective_how"),
        why=vm.get("why"),
        warnings=list(vm.get("warnings") or vm.get("notes") or ()),
        needs_key_provider=vm.get("needs_key_provider") or "",
    )
    aside = vm.get("aside")
    if aside:
        set_aside(entry, aside)
    problems = vm.get("problems") or []
    if problems:
        entry.update(status="failed", error=dict(problems[0]))
        entry["warnings"].extend(problem["message"] for problem in problems[1:])
        set_disk_statuses(entry, "not-run")
    return entry


def set_aside(entry: dict[str, Any], aside: Mapping[str, Any]) -> None:
    """A VM that the run does not begin: skipped, or missed with the error that says why."""
    entry.update(status=aside["status"], why=aside["why"], error=aside["error"])
    set_disk_statuses(entry, "not-run")


def merge(
    state_dir: str,
    run_id: str,
    hosts: Sequence[str] = (),
    host_errors: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record made of all entry files. The same entries always give the same record."""
    folder = run_folder(state_dir, run_id)
    entries = list(_entries(os.path.join(folder, "entries"), run_id))
    planned = {plan["host"]: plan for plan in _plans(os.path.join(folder, "hosts"))}
    errors = dict(host_errors or {})
    names = sorted({*hosts, *planned, *errors, *(entry["host"] for entry in entries)})
    made = {
        (entry["host"], entry["identity"]) for entry in entries if entry["kind"] == "backup" and entry["restore_point"]
    }
    nowhere, twins = _policies_without_vm(names, planned), _twins(planned, made)
    host_entries = []
    for name in names:
        error = error_of(errors.get(name))
        reached = name in planned or any(entry["host"] == name for entry in entries)
        if error is None and not reached:
            error = {
                "id": "host-not-run",
                "message": f"The run planned nothing on {name}",
                "hint": "The host was unreachable, or the run ended before its turn; see the task output.",
                "data": {},
            }
        host_entries.append(
            {
                "host": name,
                "status": "failed" if error else "ok",
                "error": error,
                "planned_at": planned.get(name, {}).get("planned_at"),
                "not_selected": list(planned.get(name, {}).get("not_selected") or ()),
                "excluded": list(planned.get(name, {}).get("excluded") or ()),
                "warnings": [
                    f"backup_vms has an entry for {key!r}, which no host of this run has"
                    for key in planned.get(name, {}).get("policies_without_vm") or ()
                    if key in nowhere
                ]
                + twins.get(name, []),
            }
        )
    entries.sort(
        key=lambda entry: (entry["host"], entry["vm"], entry["identity"], entry["kind"], entry.get("copy_number") or 0)
    )
    return {
        "schema": SCHEMA,
        "run_id": run_id,
        "hosts": host_entries,
        "vms": entries,
        "summary": summary(run_id, host_entries, entries),
    }


def _twins(planned: Mapping[str, Mapping[str, Any]], made: Collection[tuple[str, str]]) -> dict[str, list[str]]:
    """VMs of different hosts that have one UUID: to a backup point they are one VM. By host, in words.

    `made`: hosts and identities of which this run has a restore point."""
    known: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for host, plan in sorted(planned.items()):
        for vm in copies_in(plan):
            known.setdefault((str(vm.get("identity")), str(vm.get("target"))), []).append((host, vm))
    told: dict[str, list[str]] = {}
    for (identity, target), vms in known.items():
        listed = " and ".join(f"{str(vm.get('vm'))!r} of {host}" for host, vm in vms)
        # A VM that is registered on two hosts is backed up by the one that gets its lock.
        twice = len({host for host, _vm in vms if (host, identity) in made}) > 1
        if len({vm.get("vmx_path") for _host, vm in vms}) > 1 or twice:
            apart = all((vm.get("policy") or {}).get("program") == "dedup" for _host, vm in vms)
            how = "kept apart by their hypervisors" if apart else "mixed"
            text = f"{listed} have one UUID ({identity}): their restore points are {how} in {target}"
            told.setdefault(vms[0][0], []).append(f"{text}; give one a new UUID")
    return told


def _policies_without_vm(names: Sequence[str], planned: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Entries of backup_vms that mean a VM on no host of the run.

    Hosts share policies, so that an entry which is of no use on one of them is as it should be. Where a host could not
    be planned, the VM may be there.
    """
    if set(names) - set(planned):
        return set()
    meant = {key for plan in planned.values() for key in plan.get("policies_with_vm") or ()}
    return {key for plan in planned.values() for key in plan.get("policies_without_vm") or ()} - meant


def summary(run_id: str, hosts: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    machines = _by_machine(entries)
    worst = [max((entry["status"] for entry in copies), key=_BY_WEIGHT.index) for copies in machines]
    count = {status: worst.count(status) for status in STATUSES}
    failed_vms = [
        {
            **{name: entry[name] for name in ("host", "vm", "status", "error")},
            # Of a VM with several backup points the others may be as they should be.
            **({"backup_point": entry["backup_point"]} if len(copies) > 1 else {}),
        }
        for copies in machines
        for entry in copies
        if entry["status"] in ("failed", "interrupted", "not-run", "missed")
    ]
    failed_hosts = [{"host": host["host"], "error": host["error"]} for host in hosts if host["status"] == "failed"]
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": run_id,
        "hosts": len(hosts),
        "vms": len(machines),
        "copies": len(entries),
        "ok": count["ok"],
        "failed": count["failed"],
        "skipped": count["skipped"],
        "interrupted": count["interrupted"],
        "not_run": count["not-run"],
        "missed": count["missed"],
        "excluded_disks": sum(1 for one in machines for disk in one[0]["disks"] if disk["status"] == "excluded"),
        "bytes": sum(entry["bytes"] for entry in entries),
        "bytes_read": sum(entry["bytes_read"] for entry in entries),
        "bytes_sent": _sum_of(entries, "bytes_sent"),
        "bytes_new": _sum_of(entries, "bytes_new"),
        "seconds": round(sum(entry["seconds"] or 0 for entry in entries), 3),
        "failed_vms": failed_vms,
        "failed_hosts": failed_hosts,
        "warnings": sorted(
            {warning for host in hosts for warning in host.get("warnings") or ()}
            | {f"{entry['host']}: {told}" for entry in entries if (told := (entry.get("hint") or {}).get("told"))}
        ),
        "green": not failed_vms and not failed_hosts,
    }
    value["text"] = _text(value, entries)
    return value


def _by_machine(entries: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The entries of each VM, of which one with several backup points has several."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        found.setdefault((entry["host"], entry["identity"] or entry["vm"], entry["kind"]), []).append(entry)
    return list(found.values())


def _text(value: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str:
    made = sum(1 for entry in entries if entry["status"] == "ok")
    several = "" if value["copies"] == value["vms"] else f" ({made} of {value['copies']} copies)"
    lines = [
        f"run {value['run_id']}: {value['ok']} of {value['vms']} VMs ok{several} on {value['hosts']} hosts, "
        f"{_amounts(value)}"
    ]
    alone = {id(copies[0]) for copies in _by_machine(entries) if len(copies) == 1}
    for entry in entries:
        seconds = "-" if entry["seconds"] is None else f"{entry['seconds']:.0f} s"
        tail = "  ".join(text for text in (entry["restore_point"], (entry["error"] or {}).get("message")) if text)
        restored = entry["kind"] == "restore"
        if id(entry) not in alone and not entry["restore_point"]:
            tail = f"{entry['backup_point']}: {tail}".rstrip(": ")
        if (entry["kind"] != "backup" or entry["status"] == "skipped") and entry["why"]:
            tail += f"  {entry['why']}"
        if entry.get("needs_key_provider") and not restored:
            tail += f"  not proven: needs its key provider ({entry['needs_key_provider']})"
        lines.append(
            f"  {entry['host']}  {entry['vm']}  {entry['status']}  {entry['effective_how'] or '-'}  "
            f"{_amounts(entry)}  {seconds}  {tail}{_turned(entry.get('rotation'))}".rstrip()
        )
        # What of a restored VM is not as it was backed up. What a backup warns of stands in its plan.
        lines.extend(f"    {warning}" for warning in entry["warnings"] if restored)
        # But what became of a hint is known only when the backup is over.
        lines.extend(f"    hint: {text}" for text in _hint_words(entry))
        lines.extend(f"    left: {left}" for left in entry["left"])
    lines.extend(f"  {host['host']}  failed  {host['error']['message']}" for host in value["failed_hosts"])
    lines.extend(f"  warning: {warning}" for warning in value["warnings"])
    return "\n".join(lines) + "\n"


def _hint_words(entry: Mapping[str, Any]) -> list[str]:
    hint, kept = entry.get("hint") or {}, entry.get("reference")
    told = [hint["way"]] if hint else []
    if kept:
        limits = kept["limits"]
        told.append(
            f"snapshot {kept['snapshot']} stays as the reference of the next backup, for {limits['max_age_hours']} h "
            f"and {limits['max_size_percent']} % of its disks at most"
        )
    return told


def _amounts(value: Mapping[str, Any]) -> str:
    """What came from the source, as plan and progress count it, and what the copy occupies."""
    words = [f"{format_bytes(value['bytes_read'])} read"]
    words += [f"{format_bytes(value['bytes_sent'])} sent"] if value.get("bytes_sent") is not None else []
    words += [f"{format_bytes(value['bytes_new'])} new"] if value.get("bytes_new") is not None else []
    return ", ".join([*words, f"{format_bytes(value['bytes'])} stored"])


def _sum_of(entries: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """None where no entry has it: only what goes into a store or comes out of one is counted so."""
    found = [int(entry[name]) for entry in entries if entry.get(name) is not None]
    return sum(found) if found else None


def _turned(rotation: Mapping[str, Any] | None) -> str:
    if not rotation:
        return ""
    text = f"  restore points: {len(rotation['kept'])} kept, {len(rotation['removed'])} removed"
    return text + (f", {len(rotation['problems'])} problems with older ones" if rotation["problems"] else "")


def write_record(state_dir: str, record: Mapping[str, Any], check: bool = False) -> tuple[str, bool]:
    """Writes the merged record where it differs from what is there. Returns path and whether it was (to be) written."""
    path = os.path.join(run_folder(state_dir, record["run_id"]), "record.json")
    with contextlib.suppress(FileNotFoundError), state.kept(path):
        if durable.read_json(path) == record:
            return path, False
    if not check:
        state.write(path, record)
    return path, True


def start_entry(entry: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """From here on a kill leaves `interrupted`, which is what it then is."""
    entry.update(status="interrupted", started_at=iso(clock.now()), error=None)
    set_disk_statuses(entry, "interrupted")
    return entry


def read_run(state_dir: str, run_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Plans of hosts and entries of one run as they are now, which recover may have completed since the merge."""
    folder = run_folder(state_dir, run_id)
    plans = list(_plans(os.path.join(folder, "hosts")))
    return plans, list(_entries(os.path.join(folder, "entries"), run_id))


def _entries(folder: str, run_id: str) -> Iterable[dict[str, Any]]:
    for value in _values(folder):
        if isinstance(value, dict) and value.get("schema") == SCHEMA and value.get("run_id") == run_id:
            yield value


def _plans(folder: str) -> Iterable[dict[str, Any]]:
    for value in _values(folder):
        if isinstance(value, dict) and value.get("schema") == SCHEMA:
            yield value


def _values(folder: str) -> list[Any]:
    # Names with a leading dot are writes under way.
    try:
        with state.kept(folder):
            names = sorted(name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith("."))
            return [durable.read_json(os.path.join(folder, name)) for name in names]
    except FileNotFoundError:
        return []
