# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One job of the kill matrix, in a process of its own: the modules of the roles, in the order of the roles.

    matrix_driver.py '{"how": "warm", "vm": …, "stop": [step, number], "moment": …, "strike": …}'

Every remote command of it is counted and named. At the one that `stop` names, the process gets SIGKILL, or something
strikes the host or its wire: then the job goes on as the role would, through its rescue and always. It prints its steps
and what the operator is told.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "lab")]

from ansible.module_utils.testing import patch_module_args  # noqa: E402  the lab lies outside of any package
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session, open_session  # noqa: E402
from esxilab import rpc  # noqa: E402

# Settings that an operator has, too, as is the lease: shorter than by default, so that waits for them are soon over.
SHUTDOWN_SECONDS = 20
CONNECT_SECONDS = 5
# Long enough for a command to have begun on the host, too short for most of them to have ended.
SENT_SECONDS = 0.12
# The other strikes come while the answer is on its way. One round trip opens the channel, half of one brings the
# command, and what is on its standard input comes one later: sshd has to say first that it takes it. Half of one is
# left for the command to begin, with what a command costs now on this machine.
ROUND_TRIP_SECONDS = 2.0
STRIKES: dict[str, dict[str, Any]] = {
    "reset": {"verb": "fault", "kind": "cut", "arguments": {"mode": "reset"}},
    "hole": {"verb": "fault", "kind": "cut", "arguments": {"mode": "blackhole"}},
    "outage": {"verb": "fault", "kind": "cut", "arguments": {"mode": "blackhole", "new": "true"}},
    "reboot": {"verb": "reboot"},
}
COLLECTION = "ansible_collections.stowage.esxi.plugins"


# -- naming ----------------------------------------------------------------------------------------------------------


def names_of_scripts() -> dict[str, str]:
    """Each shell text of the engine and its name there."""
    found = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(f"{COLLECTION}.module_utils"):
            for name, value in vars(module).items():
                if isinstance(value, str) and name.isupper() and "\n" in value:
                    found[value.strip()] = f"{module_name.rpartition('.')[2]}.{name.strip('_').lower()}"
    return found


def label(argv: Sequence[str], stdin: bytes | None) -> str:
    """What one remote command is, in a few words."""
    if argv[0] != "sh":
        return " ".join([argv[0], *(word.rpartition("/")[2] for word in argv[1:3])])
    if argv[1] == "-c":
        return f"write {argv[-2].rpartition('.')[2]} file"
    text = (stdin or b"").decode("utf-8", "surrogateescape").removeprefix("{\n").removesuffix("\n} </dev/null\n")
    known = names_of_scripts().get(text.strip())
    if "stowage_launch" in text:
        return "watchdog.launch"
    if known == "intent.append":
        return f"note {json.loads(argv[-1])['event']}"
    if known:
        return known
    if text.lstrip().startswith("f=$(mktemp"):
        return " ".join(word for word in argv if "/" in word and " " not in word and not word.startswith("/"))
    commands = [word.strip("'") for word in re.findall(r"'?vmsvc/[\w.]+'?|'?solo/\w+'?|'?vmkfstools'?", text)]
    if commands:
        return " + ".join(dict.fromkeys(commands))
    return "read files"


def without_name(words: str, vm: str) -> str:
    """The step is the same one for each VM, though files and folders are named after it."""
    return re.sub(rf"{re.escape(vm)}[\w-]*", "it", words)


# -- striking --------------------------------------------------------------------------------------------------------


class Course:
    """Where a job is, over all of its tasks and their sessions, and what is to happen at one place of it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.armed = False
        self.task = ""
        self.seen: list[str] = []
        self.was_on: bool | None = None

    def due(self, argv: Sequence[str], stdin: bytes | None) -> bool:
        if not self.armed:
            return False
        self.seen.append(f"{self.task}: {without_name(label(argv, stdin), self.spec['vm'])}")
        return self.spec.get("stop") == [self.seen[-1], self.seen.count(self.seen[-1])]

    def meet(self, go: Callable[[], Any], trips: float, idle: Callable[[], Any]) -> Any:
        """The command that was waited for; its answer, where there is somebody left to hear it.

        `trips`: round trips until the host has it; `idle`: a command that does nothing.
        """
        if self.spec["strike"] == "kill":
            if self.spec["moment"] == "sent":
                threading.Thread(target=go, daemon=True).start()
                time.sleep(SENT_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)
        begun = time.monotonic()
        idle()
        cost = time.monotonic() - begun
        self._lab(verb="fault", kind="latency", arguments={"ms": str(ROUND_TRIP_SECONDS * 1000)})
        with ThreadPoolExecutor(2) as executor:
            asked = executor.submit(go)
            time.sleep(trips * ROUND_TRIP_SECONDS + cost)
            # The file is there while a VM runs.
            self.was_on = os.path.exists(f"{self.spec['vmx']}.lck")
            # A host that reboots is away for some time, and the job meets that.
            struck = executor.submit(self._lab, **STRIKES[self.spec["strike"]])
            try:
                return asked.result()
            finally:
                struck.result()
                self._lab(verb="fault", kind="clear", arguments={"name": "latency"})

    def _lab(self, **request: Any) -> Any:
        channel = rpc.connect(self.spec["lab"])
        try:
            answer = channel.call({"machine": self.spec["label"], **request})
        finally:
            channel.close()
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]


class Watched(Session):
    """A session of the product, whose commands are counted on their way."""

    def __init__(self, inner: Session, course: Course) -> None:
        super().__init__(inner.endpoint)
        self.inner = inner
        self.course = course

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Any:
        def go() -> Any:
            return self.inner.run(argv, stdin=stdin, timeout_seconds=timeout_seconds)

        if not self.course.due(argv, stdin):
            return go()
        return self.course.meet(go, 1.5 if stdin is None else 2.5, lambda: self.inner.run(["true"]))

    def close(self) -> None:
        self.inner.close()

    def disconnect(self) -> None:
        getattr(self.inner, "disconnect", lambda: None)()


# -- the job, as the roles tell it -----------------------------------------------------------------------------------


class Failed(Exception):
    """A task that failed; the result is what Ansible calls ansible_failed_result."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result.get("msg"))
        self.result = result

    @property
    def error(self) -> Any:
        return self.result.get("error", self.result.get("msg"))


class Driver:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.course = Course(spec)
        self.run = {"run_id": spec["run_id"], "inventory_host": spec["label"], "state_dir": spec["state_dir"]}
        for name in ("module_utils.esxi.options", "modules.vmdk_copy"):
            module = importlib.import_module(f"{COLLECTION}.{name}")
            module.open_session = lambda endpoint: Watched(open_session(endpoint), self.course)

    def task(self, title: str, module: str, **arguments: Any) -> dict[str, Any]:
        """One task: the module with these arguments, and with what the action plugin adds."""
        self.course.task = title
        reached = {
            "hostname": self.spec["address"],
            "port": self.spec["port"],
            "private_key_file": self.spec["key"],
            "known_hosts_file": self.spec["known_hosts"],
            "connect_timeout": CONNECT_SECONDS,
        }
        given = arguments if module == "backup_record" else {**reached, **arguments}
        said = io.StringIO()
        try:
            set_ones = {key: value for key, value in given.items() if value is not None}
            with patch_module_args(set_ones), contextlib.redirect_stdout(said):
                importlib.import_module(f"{COLLECTION}.modules.{module}").main()
        except SystemExit:
            result: dict[str, Any] = json.loads(said.getvalue())
        except Exception:
            result = {"failed": True, "msg": f"MODULE FAILURE: {traceback.format_exc()}"}
        if result.get("failed"):
            raise Failed(result)
        return result

    def job(self, state: str, plan: Any, kind: str, **more: Any) -> dict[str, Any]:
        return self.task(state, "backup_job", state=state, plan=plan, kind=kind, **self.run, **more)

    def backup(self) -> dict[str, Any]:
        """roles/backup/tasks/vm.yml; the fault of the host, which is none."""
        policy = {
            "point": self.spec["point"],
            "select": [self.spec["vm"]],
            "how": self.spec["how"],
            "keep": {"last": 1},
            "quiesce": True,
            "shutdown_timeout": SHUTDOWN_SECONDS,
        }
        (plan,) = self.task("plan", "backup_plan", policy=policy, **self.run)["plan"]["vms"]
        self.course.armed = True
        copies, error, committed = [], None, False
        try:
            job = self.job("started", plan, "backup", lease_seconds=self.spec["lease_seconds"])["job"]
            vm = {"vmid": job["vmid"], "journal": job["folder"]}
            policy, snapshot = plan["policy"], None
            if job["stop"]:
                seconds = policy["shutdown_timeout"]
                self.task("power off", "esxi_vm_power", state="shutdown-guest", state_change_timeout=seconds, **vm)
            if job["snapshot"]:
                wanted = {"name": job["snapshot_name"], "quiesce": policy["quiesce"], "memory": policy["memory"]}
                seconds = policy["snapshot_timeout"]
                snapshot = self.task("snapshot", "esxi_snapshot", timeout=seconds, **wanted, **vm)["snapshot"]["id"]
            if job["restart"]:
                seconds = policy["power_on_timeout"]
                self.task("power on", "esxi_vm_power", state="powered-on", state_change_timeout=seconds, **vm)
            if job["freeze"]:
                self.job("frozen", plan, "backup")
            wanted = {"disks": job["disks"], "snapshot_id": snapshot, "dest": job["partial"], "include_config": False}
            copies = self._copy(disk_format=policy["disk_format"], verify=policy["verify"], **wanted, **vm)
            self.job("committed", plan, "backup", copies=copies)
            committed = True
        except Failed as failed:
            error = failed.error
        with contextlib.suppress(Failed):
            outcome = "ok" if committed else "failed"
            self.job("ended", plan, "backup", copies=copies if committed else [], outcome=outcome, error=error)
        return {}

    def restore(self) -> dict[str, Any]:
        """roles/restore/tasks/vm.yml and finish.yml; what they note as the fault of the host."""
        wishes = {
            "point": self.spec["point"],
            "vm": self.spec["vm"],
            "datastore": "datastore1",
            "name": f"{self.spec['vm']} back",
            "uuid": "new",
            "mac": "new",
        }
        plan = self.task("plan", "restore_plan", **wishes, **self.run)["plan"]
        self.course.armed = True
        copies, faults, error, committed = [], [], None, False
        try:
            job = self.job("started", plan, "restore", lease_seconds=self.spec["lease_seconds"])["job"]
            for disk in plan["disks"]:
                copies += self._copy(src=disk["src"], dest=disk["dest"], journal=job["folder"])
            self.job("committed", plan, "restore", copies=copies)
            committed = True
        except Failed as failed:
            error, reason = failed.error, failed.result.get("error", {"message": failed.result.get("msg")})
        try:
            outcome = "ok" if committed else "failed"
            self.job("ended", plan, "restore", copies=copies if committed else [], outcome=outcome, error=error)
        except Failed as failed:
            undo = {"id": "undo-incomplete", "message": failed.result.get("msg"), **failed.result.get("error", {})}
            faults = [*([] if committed else [reason]), undo]
        if not faults:
            return {}
        return {"id": faults[0].get("id"), "message": " | ".join(str(fault.get("message")) for fault in faults)}

    def _copy(self, **arguments: Any) -> list[dict[str, Any]]:
        disks: list[dict[str, Any]] = self.task(
            "copy", "vmdk_copy", state_dir=self.spec["state_dir"], limits_dir="/nonexistent", **arguments
        )["disks"]
        return disks

    def told(self, fault: dict[str, Any]) -> list[str]:
        """roles/record: why this VM, or its host, is not green; nothing where all is."""
        hosts = {"hosts": [self.spec["label"]], "host_errors": {self.spec["label"]: fault} if fault else {}}
        run = {"run_id": self.spec["run_id"], "state_dir": self.spec["state_dir"]}
        summary = self.task("record", "backup_record", **run, **hosts)["summary"]
        found = [vm.get("error") or {"id": vm["status"]} for vm in summary["failed_vms"]] + ([fault] if fault else [])
        if summary["green"] is not (not found):
            raise AssertionError(f"the summary is not what it is made of: {summary}")
        return [f"{error['id']}: {error.get('message')} {error.get('hint')}" for error in found]


def main(spec: dict[str, Any]) -> None:
    driver = Driver(spec)
    fault = driver.restore() if spec["how"] == "restore" else driver.backup()
    course = driver.course
    print(json.dumps({"steps": course.seen, "was_on": course.was_on, "told": driver.told(fault)}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
