# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The 'lab' command."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esxilab import faults, interpreters, rpc, sysimage, topologies, topology, volumes
from esxilab.errors import LabError
from esxilab.hostroot import PACKAGE, LabPaths
from esxilab.processes import ProcessId, end_all

MARKER = ".stowage-lab"
UP_SECONDS = 300.0
# program -> the package of Debian and Ubuntu that has it
NEEDED = {
    "bwrap": "bubblewrap",
    "busybox": "busybox-static",
    "ssh-keygen": "openssh-client",
    "/usr/sbin/sshd": "openssh-server",
    "/usr/lib/openssh/sftp-server": "openssh-sftp-server",
    "nsenter": "util-linux",
    "mount": "mount",
    "mkfs.ext4": "e2fsprogs",
    "sfdisk": "fdisk",
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    paths = LabPaths(Path(options.dir or f"/tmp/stowage-lab-{options.name}").resolve())
    try:
        return int(options.action(paths, options) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab", description="Simulated ESXi hosts and Linux backup servers on this machine."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="lab", help="the lab's name (default: lab)")
    common.add_argument("--dir", help="the lab's folder (default: /tmp/stowage-lab-NAME)")
    verbs = parser.add_subparsers(dest="verb", required=True)

    def add(name: str, action: Any, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, parents=[common])
        verb.set_defaults(action=action)
        return verb

    up = add("up", up_verb, "Start a lab and wait until everything in it answers.")
    up.add_argument(
        "--topology", default="demo", help="demo, test, releases, zoo, fleet:N or a JSON file (default: demo)"
    )
    up.add_argument("--base-address", default="127.0.21.0", help="machines get the addresses after this one")
    up.add_argument("--port", type=int, default=2222, help="the SSH port of every machine (default: 2222)")
    up.add_argument("--python", help="the interpreter of the backup servers (default: the one that runs this)")
    add("down", down_verb, "End a lab, and remove everything of it.")
    status = add("status", status_verb, "What runs, and how the lab plays it.")
    status.add_argument("--table", action="store_true", help="for people; without it, JSON")
    add("inventory", inventory_verb, "Print the lab as an Ansible inventory.")
    execute = add("exec", exec_verb, "Run a command in a machine as its shell would.")
    execute.add_argument("machine")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    fault = add(
        "fault",
        fault_verb,
        "Break something (KIND key=value ...), or put all right again (clear). Kinds are in the README.",
    )
    fault.add_argument("machine")
    fault.add_argument("kind")
    fault.add_argument("arguments", nargs="*", metavar="key=value")
    for verb, text in (
        ("reboot", "Restart a host as after a power cut."),
        ("hostdown", "Cut a host's power."),
        ("hostup", "Switch a host on again."),
    ):
        add(verb, power_verb, text).add_argument("machine")
    return parser


# --- up ------------------------------------------------------------------------------------------------------


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it mounts file systems and makes namespaces")
    missing = sorted({package for program, package in NEEDED.items() if not shutil.which(program, path=_search_path())})
    if missing:
        raise LabError(f"missing packages; run: apt-get install {' '.join(missing)}")
    sysimage.busybox_path()
    interpreters.own()


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"


def up_verb(paths: LabPaths, options: argparse.Namespace) -> int:
    _check_machine()
    description = _description(options.topology)
    # Told now, while a person is looking: the daemon builds the same again.
    plan = topology.build(description, options.name, options.base_address, options.port)
    if paths.folder.exists() and any(paths.folder.iterdir()):
        kind = "a lab is there already; 'lab down' ends it" if (paths.folder / MARKER).exists() else "it is not empty"
        raise LabError(f"{paths.folder}: {kind}")
    paths.run.mkdir(parents=True, mode=0o700)
    paths.folder.chmod(0o755)
    (paths.folder / MARKER).touch()
    (paths.run / "options.json").write_text(
        json.dumps(
            {
                "name": options.name,
                "description": description,
                "base_address": options.base_address,
                "port": options.port,
                "python": options.python,
            }
        ),
        encoding="utf-8",
    )
    started = time.monotonic()
    # Ended from outside, it clears up as it does when interrupted at the keyboard.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _start_daemon(paths)
    print(f"Lab {plan.name} is up in {paths.folder} ({time.monotonic() - started:.1f} s)")
    for machine in plan.machines:
        what = f"ESXi {machine.profile}" if machine.is_esxi else "Linux backup server"
        print(
            f"  {machine.name:12} {what:20} ssh -p {machine.port} root@{machine.address}   password {machine.password}"
        )
    print(f"Inventory: {paths.inventory}")
    return 0


def _description(what: str) -> Any:
    if what.startswith("fleet:") or what in topologies.BUILT_IN:
        return topology.describe(what)
    try:
        return json.loads(Path(what).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabError(f"{what!r} is neither a built-in topology (demo, test, zoo, fleet:N) nor a file") from error
    except json.JSONDecodeError as error:
        raise LabError(f"{what}: not JSON: {error}") from error


def _start_daemon(paths: LabPaths) -> None:
    environment = dict(
        os.environ,
        PYTHONPATH=str(PACKAGE.parent),
        PYTHONDONTWRITEBYTECODE="1",
        PATH=_search_path(),
        ESXILAB_CACHE=str(paths.folder / "templates"),
    )
    with open(paths.log, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "esxilab.labd", str(paths.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    ready = paths.run / "ready.json"
    end = time.monotonic() + UP_SECONDS
    try:
        while not ready.exists():
            if process.poll() is not None and not ready.exists():
                raise LabError(f"the daemon ended with {process.returncode}; see {_kept_log(paths)}")
            if time.monotonic() > end:
                raise LabError(f"not up after {UP_SECONDS:.0f} s; see {_kept_log(paths)}")
            time.sleep(0.02)
        answer = json.loads(ready.read_text(encoding="utf-8"))
        if "error" in answer:
            process.wait(timeout=30)
            raise LabError(f"{answer['error']} (log: {_kept_log(paths)})")
    except BaseException:
        # What did not come up whole is not left standing in part.
        end_all([ProcessId.of(process.pid)], grace_seconds=5.0)
        process.wait(timeout=30)
        _remove(paths)
        raise


def _kept_log(paths: LabPaths) -> str:
    """A copy of the log that outlives the folder."""
    kept = f"{paths.folder}.failed.log"
    with contextlib.suppress(OSError):
        shutil.copy(paths.log, kept)
    return kept


# --- down ----------------------------------------------------------------------------------------------------


def down_verb(paths: LabPaths, options: argparse.Namespace) -> int:
    if not paths.folder.exists():
        print(f"No lab in {paths.folder}")
        return 0
    if not (paths.folder / MARKER).exists():
        raise LabError(f"{paths.folder} is not a lab's folder: nothing is removed")
    _remove(paths)
    print(f"Lab in {paths.folder} is down")
    return 0


def _remove(paths: LabPaths) -> None:
    """End the lab's processes, unmount its volumes and remove its folder; with or without a living daemon."""
    try:
        state = json.loads((paths.run / "state.json").read_text(encoding="ascii"))
    except (OSError, ValueError):
        state = {}
    if "daemon" in state:
        end_all([ProcessId(**state["daemon"])], grace_seconds=20.0)
        # Read again: a machine may have been restarted while the daemon was ending.
        with contextlib.suppress(OSError, ValueError):
            state = json.loads((paths.run / "state.json").read_text(encoding="ascii"))
    left = end_all([ProcessId(**entry) for entry in state.get("processes", [])], grace_seconds=0.5)
    if left:
        raise LabError(f"these processes of the lab do not end: {', '.join(str(process.pid) for process in left)}")
    mounted = volumes.unmount_all(paths.folder)
    if mounted:
        raise LabError(f"still mounted, so nothing is removed: {', '.join(mounted)}")
    shutil.rmtree(paths.folder)


# --- asking the daemon ---------------------------------------------------------------------------------------


def ask(paths: LabPaths, **request: Any) -> Any:
    """The daemon's answer to one request."""
    if not (paths.folder / MARKER).exists():
        raise LabError(f"there is no lab in {paths.folder}; 'lab up' starts one")
    try:
        channel = rpc.connect(str(paths.run / "control.sock"))
    except OSError as error:
        raise LabError(
            f"the daemon of the lab in {paths.folder} does not run ({error}); 'lab down' clears up"
        ) from error
    try:
        answer = channel.call(request)
    except EOFError as error:
        raise LabError(f"the lab's daemon ended while it was asked; see {paths.log}") from error
    finally:
        channel.close()
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["result"]


def status_verb(paths: LabPaths, options: argparse.Namespace) -> int:
    answer = ask(paths, verb="status")
    if not options.table:
        print(json.dumps(answer, indent=2))
        return 0
    print(f"Lab {answer['name']} in {answer['dir']}, daemon {answer['pid']}, up {answer['uptime_seconds']} s")
    print(f"Locks: {json.dumps(answer['locks'])}; system calls filtered: {'yes' if answer['seccomp'] else 'no'}")
    rows = [("MACHINE", "KIND", "ADDRESS", "UP", "PYTHON", "VMS", "FAULTS")]
    for machine in answer["machines"]:
        python = machine["python"]
        plays = f" for {python['plays']}" if "plays" in python else ""
        set_now = [*machine["faults"]["network"], *(str(fault) for fault in machine["faults"].get("hostd", []))]
        running = [vm for vm in machine.get("vms", []) if vm["power"] == "poweredOn"]
        rows.append(
            (
                machine["name"],
                f"ESXi {machine['profile']}" if machine["kind"] == "esxi" else "Linux",
                f"{machine['address']}:{machine['port']}",
                "yes" if machine["up"] else "no",
                (python["version"] or "none") + plays,
                f"{len(running)} of {len(machine['vms'])} on" if "vms" in machine else "",
                ", ".join(set_now),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0


def inventory_verb(paths: LabPaths, options: argparse.Namespace) -> int:
    try:
        sys.stdout.write(paths.inventory.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabError(f"there is no running lab in {paths.folder}; 'lab up' starts one") from error
    return 0


def exec_verb(paths: LabPaths, options: argparse.Namespace) -> int:
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not words:
        raise LabError("exec needs a command")
    # Joined by blanks, as ssh does: quoting for the machine's shell is the caller's.
    command = ask(paths, verb="exec", machine=options.machine, command=" ".join(words))
    sys.stdout.flush()
    os.execvp(command[0], command)


def fault_verb(paths: LabPaths, options: argparse.Namespace) -> int:
    arguments = faults.parse_arguments(options.arguments)
    answer = ask(paths, verb="fault", machine=options.machine, kind=options.kind, arguments=arguments)
    print(json.dumps(answer))
    return 0


def power_verb(paths: LabPaths, options: argparse.Namespace) -> int:
    print(json.dumps(ask(paths, verb=options.verb, machine=options.machine)))
    return 0
