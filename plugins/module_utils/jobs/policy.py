# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's wishes as one checked, frozen value; per-VM overrides are merged here and nowhere else."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import Rules
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.select import keys_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.window import Window, read_windows
from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import BadPlace
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import FORMATS, TRANSFER_MODES, VERIFY
from ansible_collections.stowage.esxi.plugins.module_utils.programs.stall import DEFAULT_SECONDS

HOWS = ("hot", "warm", "cold")
PROGRAMS = ("vmkfstools", "rsync", "dedup", "borg")
#: What these move is read from the backup server, and goes into one place for many machines.
STORING = ("rsync", "dedup", "borg")
#: What each of several backup points may have of its own.
OF_A_POINT = ("point", "program", "disk_format", "verify", "transfer_mode", "keep", "rotate", "reserve_percent")
# The address of a server may hold two colons.
_AUTHORITY = re.compile(r"^ssh://[^/]*")
_ON_DATASTORE = re.compile(r"/vmfs/volumes/[^/]+/.+")


@dataclass(frozen=True)
class DiskChoice:
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class VmPolicy:
    """What is wanted for one VM."""

    point: str
    how: str = "hot"
    program: str = "vmkfstools"
    disk_format: str = "thin"
    verify: str = "sample"
    transfer_mode: str = "async"
    disks: DiskChoice = field(default_factory=DiskChoice)
    quiesce: bool = False
    memory: bool = False
    force_off: bool = False
    shutdown_timeout: int = 600
    snapshot_timeout: int = 600
    power_on_timeout: int = 300
    consolidation_timeout: int = 7200
    copy_stall_timeout: int = DEFAULT_SECONDS
    keep: Keep = field(default_factory=Keep)
    rotate: bool = True
    reserve_percent: int = 5
    snapshot_reserve_percent: int = 5
    reference: Rules = field(default_factory=Rules)
    priority: int = 0
    only_older_than_hours: int = 0
    windows: tuple[Window, ...] = ()

    @property
    def keeps_reference(self) -> bool:
        """Whether our snapshot stays after a success. A program that reads all in any case gains nothing by it."""
        return self.reference.enabled and self.program == "dedup"

    def as_dict(self) -> dict[str, Any]:
        value = asdict(self)
        value["disks"] = {name: list(keys) for name, keys in value["disks"].items()}
        value["windows"] = [window.as_dict() for window in self.windows]
        return value


@dataclass(frozen=True)
class Policy:
    """What is wanted for one host: which VMs, and how each of them."""

    select: tuple[Any, ...]
    exclude: tuple[Any, ...]
    common: VmPolicy
    overrides: Mapping[str, Mapping[str, Any]]
    allow_none: bool = False
    unknown_names: str = "error"
    points: tuple[Any, ...] = ()

    def for_vm(self, names: Sequence[str]) -> VmPolicy:
        """The policy of a VM that is known by any of these names (display name, UUIDs), for its first backup point."""
        return self.all_for_vm(names)[0]

    def all_for_vm(self, names: Sequence[str]) -> tuple[VmPolicy, ...]:
        """Its policy for each of its backup points."""
        value, points, where = self.common, self.points, ""
        for name in keys_of(self.overrides, names):
            changes = self.overrides[name]
            points = _points_in(changes, f"vms[{name!r}].", points)
            where = f"vms[{name!r}]." if changes.get("points") else where
            value = _merge(value, _without_points(changes), f"vms[{name!r}].")
        return _for_each(value, points, where)

    def places(self) -> tuple[tuple[str, str], ...]:
        """The backup points of all VMs that have none of their own, each with its program."""
        return tuple((one.point, one.program) for one in _for_each(self.common, self.points, ""))

    def is_own(self, setting: str, names: Sequence[str]) -> bool:
        """Whether a VM with these names has a value of its own for a setting."""
        return any(self.overrides[name].get(setting) is not None for name in keys_of(self.overrides, names))

    def without_vm(self, vms: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """The overrides that mean none of these VMs, each known by its names."""
        meant = {key for names in vms for key in keys_of(self.overrides, names)}
        return tuple(key for key in self.overrides if key not in meant)


_HOST_KEYS = ("select", "exclude", "vms", "allow_none", "unknown_names")


def parse_policy(raw: Mapping[str, Any]) -> Policy:
    """Checks every key; the overrides too, so that a slip for the last VM fails before the first is touched."""
    common_raw = {key: value for key, value in raw.items() if key not in _HOST_KEYS}
    points = _points_in({**common_raw, "point": None}, "", ())
    if points:
        # They stand in the place of the one.
        common_raw = {**_without_points(common_raw), "point": None}
    elif not common_raw.get("point"):
        raise BadPolicy(what="no backup point is given (point, or points)")
    common = _merge(VmPolicy(point=""), _without_points(common_raw), "")
    _for_each(common, points, "")
    overrides = raw.get("vms") or {}
    if not isinstance(overrides, Mapping):
        raise BadPolicy(what=f"vms must map VM names to settings, not be {type(overrides).__name__}")
    for name, changes in overrides.items():
        if not isinstance(changes, Mapping):
            raise BadPolicy(what=f"vms[{name!r}] must be a mapping, not {type(changes).__name__}")
        where = f"vms[{name!r}]."
        _for_each(_merge(common, _without_points(changes), where), _points_in(changes, where, points), where)
    unknown_names = raw.get("unknown_names", "error")
    if unknown_names not in ("error", "ignore"):
        raise BadPolicy(what=f"unknown_names is {unknown_names!r}; it may be error or ignore")
    return Policy(
        select=_items(raw.get("select"), "select"),
        exclude=_items(raw.get("exclude"), "exclude"),
        common=common,
        overrides={str(name): dict(changes) for name, changes in overrides.items()},
        allow_none=_flag(raw.get("allow_none", False), "allow_none"),
        unknown_names=unknown_names,
        points=points,
    )


def _without_points(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key != "points"}


def _points_in(changes: Mapping[str, Any], where: str, wider: tuple[Any, ...]) -> tuple[Any, ...]:
    """The backup points that hold from here on: a list replaces a wider one, a single point takes its place."""
    given = _items(changes.get("points"), f"{where}points")
    if given and changes.get("point"):
        raise BadPolicy(what=f"{where}point and {where}points are both given; name all of them in points")
    return given or (() if changes.get("point") else wider)


def _for_each(base: VmPolicy, points: Sequence[Any], where: str) -> tuple[VmPolicy, ...]:
    """One policy for each backup point. The bracket is one for all, so that what it asks for is, too."""
    found: list[VmPolicy] = []
    for number, item in enumerate(points):
        name = f"{where}points[{number}]"
        changes = {"point": item} if isinstance(item, str) else item
        if not isinstance(changes, Mapping) or not changes.get("point"):
            raise BadPolicy(what=f"{name} must name its point: a text, or a mapping such as {{point: /srv/stowage}}")
        strange = sorted(set(changes) - set(OF_A_POINT))
        if strange:
            raise BadPolicy(
                what=f"{name}.{strange[0]} is not a setting of one point; these are {', '.join(OF_A_POINT)}"
            )
        one = _merge(replace(base, point=""), changes, f"{name}.")
        if any(before.keeps_reference for before in found):
            # A snapshot that stays belongs to one restore point.
            one = replace(one, reference=replace(one.reference, enabled=False))
        if any((before.point, before.program) == (one.point, one.program) for before in found):
            raise BadPolicy(what=f"{name} is {one.point!r}, which is named twice")
        found.append(one)
    for one in found or [base]:
        if one.transfer_mode == "sync" and one.program != "dedup":
            raise BadPolicy(
                what=f"transfer_mode is sync for {one.point!r}, which {one.program} writes; only dedup makes a backup "
                "durable piece by piece. Leave it at async there"
            )
    return tuple(found) or (base,)


def vm_policy_from_dict(raw: Mapping[str, Any]) -> VmPolicy:
    """Back from `VmPolicy.as_dict`, as it travels through a playbook or a job file."""
    if not raw.get("point"):
        raise BadPolicy(what="no backup point is given (point)")
    return _merge(VmPolicy(point=""), raw, "")


def parse_keep(raw: Mapping[str, Any], name: str) -> Keep:
    """The rules of retention alone; `name` is what the operator calls them."""
    if not raw:
        raise BadPolicy(what=f"{name} is empty; give at least one of last, daily, weekly, monthly, within_days")
    return _keep(Keep(), raw, name)


def _items(value: Any, name: str) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, (str, Mapping)):
        return (value,)
    if not isinstance(value, Sequence):
        raise BadPolicy(what=f"{name} must be a list, not {type(value).__name__}")
    return tuple(value)


def _merge(base: VmPolicy, changes: Mapping[str, Any], where: str) -> VmPolicy:
    values: dict[str, Any] = {}
    for key, value in changes.items():
        if value is None:
            continue
        if key not in _READERS:
            known = ", ".join(sorted(_READERS))
            raise BadPolicy(what=f"{where}{key} is not a setting; known are {known}")
        values[key] = _READERS[key](getattr(base, key), value, where + key)
    merged = replace(base, **values)
    if merged.keeps_reference and merged.memory:
        raise BadPolicy(what=f"{where}reference and {where}memory: the guest's memory is not kept between backups")
    return replace(merged, point=_point(merged.point, merged.program, f"{where}point"))


def _choice(allowed: Sequence[str]) -> Callable[[Any, Any, str], str]:
    def read(_base: Any, value: Any, name: str) -> str:
        if value not in allowed:
            raise BadPolicy(what=f"{name} is {value!r}; it may be {', '.join(allowed)}")
        return str(value)

    return read


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).strip().lower() in ("true", "yes", "on", "1"):
        return True
    if str(value).strip().lower() in ("false", "no", "off", "0", ""):
        return False
    raise BadPolicy(what=f"{name} is {value!r}; it must be true or false")


def _number(low: int, high: int) -> Callable[[Any, Any, str], int]:
    def read(_base: Any, value: Any, name: str) -> int:
        # Survey answers and extra variables arrive as text.
        try:
            number = int(str(value).strip()) if not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise BadPolicy(what=f"{name} is {value!r}; it must be a whole number from {low} to {high}")
        return number

    return read


def _text(_base: Any, value: Any, _name: str) -> str:
    return str(value)


def _point(text: str, program: str, name: str) -> str:
    """What a backup point may be goes by the program."""
    if not text:
        return text
    if program == "dedup":
        return _store(text, name)
    if program == "borg":
        return _repository(text, name)
    if program == "rsync":
        return _images(text, name)
    if "://" in text or re.match(r"[^/]*:.*/", text):
        raise BadPolicy(
            what=f"{name} is {text!r}; the program vmkfstools runs on the hypervisor and writes to a datastore that it "
            "mounts. To another server use rsync (a folder on the backup server, or server:port:/path), dedup (a store "
            "there, or s3://bucket/prefix) or borg (a repository there, or ssh://user@server/path)"
        )
    if not text.startswith("/") or any(ord(char) < 32 for char in text) or ".." in text.split("/"):
        raise BadPolicy(what=f"{name} is {text!r}; it must be an absolute folder on the hypervisor without '..'")
    if ":" in text and text.rpartition(":")[2].startswith("/"):
        raise BadPolicy(what=f"{name} is {text!r}; the program vmkfstools writes to a folder that the host mounts")
    return posixpath.normpath(text)


def _images(text: str, name: str) -> str:
    if text.startswith("/vmfs/"):
        raise BadPolicy(
            what=f"{name} is {text!r}, a folder of the hypervisor; the program rsync writes into a folder of the "
            "backup server. To a datastore use the program vmkfstools"
        )
    if text.startswith("s3://"):
        raise BadPolicy(what=f"{name} is {text!r}; rsync knows no buckets. To a bucket use the program dedup")
    return _spot(text, name)


def _spot(text: str, name: str) -> str:
    try:
        return str(spot.parse(text))
    except BadPlace as error:
        raise BadPolicy(what=f"{name}: {error.message}. {error.hint_text}") from error


def _repository(text: str, name: str) -> str:
    if spot.is_remote(text):
        return spot.located(_spot(text, name))
    if any(ord(char) < 32 for char in text) or ".." in text.split("/") or "::" in _AUTHORITY.sub("", text):
        raise BadPolicy(
            what=f"{name} is {text!r}; the place of a repository has no '..', no '::' and no control characters"
        )
    if text.startswith("/vmfs/"):
        raise BadPolicy(
            what=f"{name} is {text!r}, a folder of the hypervisor, where borg does not run; it writes into a "
            "repository on the backup server, by its path there, or ssh://user@server/path. "
            "To a datastore use the program vmkfstools"
        )
    if text.startswith("s3://"):
        raise BadPolicy(what=f"{name} is {text!r}; borg knows no buckets. To a bucket use the program dedup")
    if text.startswith("ssh://"):
        if not re.match(r"ssh://[^/]+/.", text):
            raise BadPolicy(what=f"{name} is {text!r}; a repository on another server is ssh://user@server:port/path")
        return text.rstrip("/")
    if not text.startswith("/"):
        raise BadPolicy(
            what=f"{name} is {text!r}; a repository is an absolute path on the backup server, or ssh://user@server/path"
        )
    return posixpath.normpath(text)


def _store(text: str, name: str) -> str:
    if spot.is_remote(text):
        return _spot(text, name)
    if any(ord(char) < 32 for char in text) or ".." in text.split("/") or "::" in text:
        raise BadPolicy(what=f"{name} is {text!r}; the place of a store has no '..', no '::' and no control characters")
    if text.startswith("/vmfs/") and not _ON_DATASTORE.fullmatch(posixpath.normpath(text)):
        raise BadPolicy(
            what=f"{name} is {text!r}; a store on a datastore of the hypervisor is a folder there, "
            "/vmfs/volumes/datastore/folder"
        )
    if text.startswith("s3://"):
        return text.rstrip("/")
    if text.startswith("ssh://"):
        raise BadPolicy(
            what=f"{name} is {text!r}; a store on a server that the backup server reaches by SSH is written "
            "[user@]server:port:/path"
        )
    if not text.startswith("/"):
        raise BadPolicy(
            what=f"{name} is {text!r}; a store is an absolute path on the backup server, a folder on a "
            "datastore of the hypervisor, /vmfs/volumes/datastore/folder, [user@]server:port:/path, or s3://bucket/prefix"
        )
    return posixpath.normpath(text)


def _disks(base: DiskChoice, value: Any, name: str) -> DiskChoice:
    if not isinstance(value, Mapping) or set(value) - {"include", "exclude"}:
        raise BadPolicy(what=f"{name} must hold include and/or exclude, each a list of device keys such as scsi0:1")
    lists: dict[str, tuple[str, ...]] = {}
    for part in ("include", "exclude"):
        given = value.get(part)
        if given is None:
            lists[part] = getattr(base, part)
            continue
        keys = _items(given, f"{name}.{part}")
        if not all(isinstance(key, str) and ":" in key for key in keys):
            raise BadPolicy(what=f"{name}.{part} is {list(keys)!r}; device keys look like scsi0:1")
        lists[part] = tuple(key.strip().lower() for key in keys)
    return DiskChoice(include=lists["include"], exclude=lists["exclude"])


def _keep(base: Keep, value: Any, name: str) -> Keep:
    """A rule is taken as a whole: what it does not name keeps nothing, whatever a wider policy says."""
    if not isinstance(value, Mapping):
        raise BadPolicy(what=f"{name} must be a mapping such as {{last: 7, weekly: 4}}")
    if not value:
        return base
    known = asdict(base)
    numbers: dict[str, int] = {}
    for key, count in value.items():
        if key not in known:
            raise BadPolicy(what=f"{name}.{key} is not a rule; known are {', '.join(known)}")
        if count is not None:
            numbers[key] = _number(0 if key != "min" else 1, 100000)(None, count, f"{name}.{key}")
    keep = replace(Keep(last=0), **numbers)
    if not any((keep.last, keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly, keep.within_days)):
        raise BadPolicy(what=f"{name} keeps nothing; give at least one of last, daily, weekly, monthly, within_days")
    return keep


def _reference(base: Rules, value: Any, name: str) -> Rules:
    """What it does not name stays as the wider policy has it."""
    if not isinstance(value, Mapping):
        raise BadPolicy(what=f"{name} must be a mapping such as {{enabled: true, max_age_hours: 72}}")
    read: dict[str, Callable[[Any, Any, str], Any]] = {
        "enabled": lambda _base, given, where: _flag(given, where),
        "max_age_hours": _number(1, 8760),
        "max_size_percent": _number(1, 100),
        "reserve_percent": _number(0, 90),
        "prove_backups": _number(1, 1000),
        "prove_days": _number(1, 366),
    }
    changes: dict[str, Any] = {}
    for key, given in value.items():
        if key not in read:
            raise BadPolicy(what=f"{name}.{key} is not a setting; known are {', '.join(read)}")
        if given is not None:
            changes[key] = read[key](None, given, f"{name}.{key}")
    return replace(base, **changes)


_READERS: dict[str, Callable[[Any, Any, str], Any]] = {
    "point": _text,
    "how": _choice(HOWS),
    "program": _choice(PROGRAMS),
    "disk_format": _choice(FORMATS),
    "verify": _choice(VERIFY),
    "transfer_mode": _choice(TRANSFER_MODES),
    "disks": _disks,
    "quiesce": lambda _base, value, name: _flag(value, name),
    "memory": lambda _base, value, name: _flag(value, name),
    "force_off": lambda _base, value, name: _flag(value, name),
    "shutdown_timeout": _number(1, 86400),
    "snapshot_timeout": _number(1, 86400),
    "power_on_timeout": _number(1, 86400),
    "consolidation_timeout": _number(1, 604800),
    "copy_stall_timeout": _number(1, 604800),
    "keep": _keep,
    "rotate": lambda _base, value, name: _flag(value, name),
    "reserve_percent": _number(0, 90),
    "snapshot_reserve_percent": _number(0, 90),
    "reference": _reference,
    "priority": _number(-1000, 1000),
    "only_older_than_hours": _number(0, 87600),
    "windows": lambda _base, value, name: read_windows(value, name),
}
