# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vmkfstools: works on the disks itself, in the process that was called, after the host has granted the files.

It prints as the real one: the first lines of a clone leave its buffer with the first progress, so that an error before
it stands above them when both streams go to one file. Killed, it leaves what it has written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from esxilab import disks

from . import vmkfstools_query as query
from .vmkfstools_args import BadArguments, Request, parse, parse_size
from .vmkfstools_texts import DESTINATIONS, help_text

USAGE_STATUS = 255
#: A copy under way sees faults that are set or cleared after this time.
ASK_AGAIN_SECONDS = 0.5


class Lab(Protocol):
    def call(self, request: dict[str, Any]) -> dict[str, Any]: ...


class Failure(Exception):
    """A message for stderr, and status 1."""


class Tool:
    """One run: the host's properties, and the output that is kept back until it is due."""

    def __init__(self, lab: Lab, arguments: Sequence[str] = ()) -> None:
        self.lab = lab
        self.arguments = list(arguments)
        self.host = lab.call({"tool": "vmkfstools", "ask": "host", "argv": self.arguments})
        self._told = False
        self._kept = ""
        self._percent = -1
        self._asked = time.monotonic()

    # --- output ----------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        self._kept += text

    def flush(self) -> None:
        text, self._kept = self._kept, ""
        write(1, text)

    def progress(self, label: str, percent: int) -> None:
        """Rewrites one line per percent."""
        if percent <= self._percent:
            return
        self._percent = percent
        self.say(f"\r{label}: {percent}% done.")
        if not self.host["buffered"]:
            self.flush()

    def rate(self) -> float | None:
        """Bytes a second that the host lets a copy have now; asked again while it runs."""
        if time.monotonic() - self._asked > ASK_AGAIN_SECONDS:
            self.host = self.lab.call({"tool": "vmkfstools", "ask": "host"})
            self._asked = time.monotonic()
        found: float | None = self.host["rate"]
        return found

    def tell(self, percent: int) -> None:
        """Tell the host once that the copy has come to where a fault waits for it."""
        stop_at = self.host.get("stop_at")
        if stop_at is not None and percent >= stop_at and not self._told:
            self._told = True
            self.lab.call({"tool": "vmkfstools", "ask": "reached", "argv": self.arguments})

    # --- the host --------------------------------------------------------------------------------------------

    def grant(self, paths: Sequence[tuple[str, bool]]) -> None:
        """Ask for the extents; the first that is locked ends the run."""
        asked = [[os.path.realpath(path), write_] for path, write_ in paths]
        answer = self.lab.call({"tool": "vmkfstools", "ask": "grant", "paths": asked})
        if not answer["granted"]:
            raise disks.FileLocked(str(answer["path"]))

    def volume_of(self, path: str) -> dict[str, Any] | None:
        """The datastore that a path lies on."""
        full = os.path.realpath(os.path.dirname(path) or ".") + "/"
        for volume in self.host["volumes"]:
            if any(full.startswith(f"/vmfs/volumes/{name}/") for name in (volume["uuid"], volume["name"])):
                found: dict[str, Any] = volume
                return found
        return None

    def on_nfs(self, path: str) -> bool:
        volume = self.volume_of(path)
        return volume is not None and str(volume["type"]).startswith("nfs")

    def needs_hosted(self, descriptors: Sequence[disks.Descriptor]) -> bool:
        return not self.host["multiextent"] and any(
            line.kind == "SPARSE" for descriptor in descriptors for line in descriptor.extents
        )


def write(descriptor: int, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(descriptor, data) :]


def main(arguments: Sequence[str], lab: Lab) -> int:
    """Run one command line; returns the exit status."""
    tool = Tool(lab, arguments)
    status = _run(tool, arguments)
    if tool.host.get("tell_end"):
        lab.call({"tool": "vmkfstools", "ask": "ended", "argv": list(arguments)})
    return status


def _run(tool: Tool, arguments: Sequence[str]) -> int:
    try:
        request = parse(arguments)
    except BadArguments as error:
        write(2, error.text + help_text(tool.host["adapter_deprecated"], tool.host["formats"]))
        return USAGE_STATUS if error.text or not set(arguments) & {"-h", "-H", "--help"} else 0
    try:
        ACTIONS[request.action](tool, request)
    except BadArguments as error:
        write(2, error.text + help_text(tool.host["adapter_deprecated"], tool.host["formats"]))
        return USAGE_STATUS
    except Failure as error:
        if tool._percent >= 0:
            tool.say("\n")
            if not tool.host["buffered"]:
                tool.flush()
        write(2, f"{error}\n")
        tool.flush()
        return 1
    tool.flush()
    return 0


def _extents(chain: Sequence[disks.Descriptor], write_: bool) -> list[tuple[str, bool]]:
    return [(descriptor.beside(line.file), write_) for descriptor in chain for line in descriptor.extents]


def _format(tool: Tool, request: Request, default: str = "zeroedthick") -> str:
    wanted = request.options.get("d", default)
    if wanted.startswith(("rdm:", "rdmp:")) and request.action == "i":
        return wanted
    if wanted not in tool.host["formats"]:
        raise BadArguments(f"Invalid disk format '{wanted}'.\n")
    return wanted


# --- clone --------------------------------------------------------------------------------------------------------


def _clone(tool: Tool, request: Request) -> None:
    source, target, fmt = request.options["i"], request.path, _format(tool, request)
    try:
        chain = disks.check_chain(source)
    except disks.ParentModified as error:
        raise Failure(f"Failed to open '{source}': {error.vmware_text}") from error
    except disks.DiskError as error:
        raise Failure(f"DiskLib_Check() failed for source disk {error.vmware_text}") from error
    if tool.needs_hosted(chain):
        raise Failure("DiskLib_Check() failed for source disk The system cannot find the file specified (25).")
    try:
        tool.grant(_extents(chain, False))
    except disks.FileLocked as error:
        raise Failure(f"Failed to open '{source}': {error.vmware_text}") from error
    raw = fmt.partition(":")[2]
    described = f"raw disk mapping to '{raw}'" if raw else DESTINATIONS[fmt]
    tool.say(f"Destination disk format: {described}\nCloning disk '{source}'...\n")
    if not tool.host["error_first"]:
        tool.flush()
    if raw:
        # The lab's hosts have no raw devices: /vmfs/devices/disks is empty.
        raise Failure("Failed to clone disk: The system cannot find the file specified (25).")
    if fmt == "2gbsparse" and not tool.host["multiextent"]:
        raise Failure("Failed to clone disk: The system cannot find the file specified (25).")
    if fmt == "eagerzeroedthick" and tool.on_nfs(target):
        raise Failure("Failed to clone disk: Function not implemented (2490377).")
    try:
        disks.clone(
            source,
            target,
            fmt,
            _watched(tool, "Clone"),
            rate=tool.rate,
            preallocate=not tool.on_nfs(target),
            release=tool.host["version"],
            adapter=None if tool.host["adapter_deprecated"] else request.options.get("a"),
        )
    except disks.DiskError as error:
        raise Failure(f"Failed to clone disk: {error.vmware_text}") from error
    short = tool.host.get("short")
    if short:
        _fall_short(target, int(short["bytes"]), bool(short["hole"]))
    tool.say("\n")


def _watched(tool: Tool, label: str) -> Callable[[int], None]:
    """Progress that stops where an injected fault says so."""

    def progress(percent: int) -> None:
        fail = tool.host["fail"]
        if fail is not None and percent >= fail["percent"]:
            tool.progress(label, min(percent, int(fail["percent"])))
            raise Failure(f"Failed to clone disk: {fail['text']} ({fail['code']}).")
        tool.progress(label, percent)
        tool.tell(percent)

    return progress


def _fall_short(target: str, missing: int, hole: bool) -> None:
    """An injected fault: what was written last never arrived, and nobody says so."""
    descriptor = disks.read_descriptor(target)
    extent = descriptor.beside(descriptor.extents[-1].file)
    size = os.path.getsize(extent)
    os.truncate(extent, max(0, size - missing))
    if hole:
        os.truncate(extent, size)


# --- other disk operations ----------------------------------------------------------------------------------------


def _create(tool: Tool, request: Request) -> None:
    fmt = _format(tool, request)
    size = parse_size(request.options["c"])
    adapter = request.options.get("a", "lsilogic") if not tool.host["adapter_deprecated"] else "lsilogic"
    if fmt == "eagerzeroedthick":
        tool.say(f"Creating disk '{request.path}' and zeroing it out...\n")
    if fmt == "2gbsparse" and not tool.host["multiextent"]:
        raise Failure("Failed to create virtual disk: The system cannot find the file specified (25).")
    try:
        disks.create_disk(
            request.path,
            size,
            fmt,
            adapter,
            release=tool.host["version"],
            preallocate=not tool.on_nfs(request.path),
            progress=lambda percent: tool.progress("Create", percent),
        )
    except disks.DiskError as error:
        raise Failure(f"Failed to create virtual disk: {error.vmware_text}") from error
    tool.say("\n")


def _delete(tool: Tool, request: Request) -> None:
    try:
        tool.grant(_extents([disks.read_descriptor(request.path)], True))
        disks.delete(request.path)
    except disks.DiskError as error:
        raise Failure(f"Failed to delete virtual disk: {error.vmware_text}") from error


def _rename(tool: Tool, request: Request) -> None:
    source = request.options["E"]
    try:
        tool.grant(_extents([disks.read_descriptor(source)], True))
        disks.rename(source, request.path)
    except disks.DiskError as error:
        raise Failure(f"Failed to rename '{source}' to '{request.path}': {error.vmware_text}") from error


def _change(label: str, failed: str, action: Callable[[Tool, Request, Callable[[int], None]], object]) -> Any:
    """An operation in place on one disk: exclusive grant, progress, one line of failure."""

    def run(tool: Tool, request: Request) -> None:
        try:
            descriptor = disks.read_descriptor(request.path)
            if any(line.kind == "SPARSE" for line in descriptor.extents):
                raise Failure(f"{failed}: Object type requires hosted I/O")
            tool.grant(_extents([descriptor], True))
            action(tool, request, lambda percent: tool.progress(label, percent))
        except disks.DiskError as error:
            raise Failure(f"{failed}: {error.vmware_text}") from error
        if tool._percent < 100:
            tool.progress(label, 100)
        tool.say("\n")

    return run


def _grow(tool: Tool, request: Request, progress: Callable[[int], None]) -> None:
    disks.grow(
        request.path,
        parse_size(request.options["X"]),
        fmt=request.options.get("d"),
        preallocate=not tool.on_nfs(request.path),
        progress=progress,
    )


def _write_zeros(tool: Tool, request: Request, progress: Callable[[int], None]) -> None:
    with disks.open_chain(request.path, writable=True) as disk:
        step = 1 << 20
        for start in range(0, disk.capacity, step):
            disk.write(start, bytes(min(step, disk.capacity - start)))
            progress((start + step) * 100 // disk.capacity)


# --- queries ------------------------------------------------------------------------------------------------------


def _chain(tool: Tool, request: Request) -> None:
    try:
        disks.check_chain(request.path)
    except disks.ParentModified as error:
        raise Failure(
            f"Failed to open disk link {request.path}: {disks.ParentModified.short_text} (18)\n"
            f"Disk chain is not consistent : {disks.ParentModified.text} (18)"
        ) from error
    except disks.DiskError as error:
        raise Failure(f"Disk chain is not consistent : {error.vmware_text}") from error
    tool.say("Disk chain is consistent.\n")


def _fix(tool: Tool, request: Request) -> None:
    if request.options["x"] not in ("check", "repair"):
        raise BadArguments(f"Invalid argument '{request.options['x']}'.\n")
    try:
        chain = disks.check_chain(request.path)
        tool.grant(_extents(chain, request.options["x"] == "repair"))
        with disks.open_chain(request.path):
            pass
    except disks.DiskError as error:
        raise Failure(f"Failed to check disk: {error.vmware_text}") from error
    tool.say("Disk is error free\n" if request.options["x"] == "check" else "Disk was successfully repaired.\n")


def _rdm(tool: Tool, request: Request) -> None:
    try:
        descriptor = disks.read_descriptor(request.path)
    except disks.DiskError as error:
        raise Failure(f"Failed to open '{request.path}': {error.vmware_text}") from error
    kinds = {"vmfsRawDeviceMap": "a Non-passthrough", "vmfsPassthroughRawDeviceMap": "a Passthrough"}
    kind = kinds.get(descriptor.create_type)
    if kind is None:
        tool.say(f"Disk {request.path} is not an rdm\n")
        return
    content = descriptor.ddb.get("ddb.longContentID", "0" * 32)
    tool.say(f"Disk {request.path} is {kind} Raw Device Mapping\nMaps to: vml.02000000006000{content[:28]}\n")


def _text(build: Callable[[Tool, Request], str]) -> Any:
    def run(tool: Tool, request: Request) -> None:
        try:
            tool.say(build(tool, request))
        except disks.DiskError as error:
            raise Failure(f"Failed to open '{request.path}': {error.vmware_text}") from error
        except OSError as error:
            raise Failure(f"Could not open '{request.path}': {error.strerror}") from error

    return run


def _raw_device(tool: Tool, request: Request) -> None:
    """-r and -z: a mapping of a device, of which the lab's hosts have none."""
    raise Failure("Failed to create virtual disk: The system cannot find the file specified (25).")


ACTIONS: dict[str, Callable[[Tool, Request], None]] = {
    "i": _clone,
    "c": _create,
    "U": _delete,
    "E": _rename,
    "X": _change("Grow", "Failed to extend the disk", _grow),
    "K": _change(
        "Hole Punching",
        "Failed to punch holes",
        lambda _, request, progress: disks.punch_zero(request.path, progress=progress),
    ),
    "k": _change(
        "Eagerly zeroing",
        "Failed to eagerly zero the disk",
        lambda _, request, progress: disks.inflate(request.path, zero=True, progress=progress),
    ),
    "j": _change(
        "Inflate",
        "Failed to inflate the disk",
        lambda _, request, progress: disks.inflate(request.path, progress=progress),
    ),
    "w": _change("Writing zeros", "Failed to write zeros", _write_zeros),
    "e": _chain,
    "x": _fix,
    "q": _rdm,
    "r": _raw_device,
    "z": _raw_device,
    "P": _text(query.file_system),
    "D": _text(query.lock_dump),
    "t": _text(query.block_map),
}

__all__ = ["main"]
