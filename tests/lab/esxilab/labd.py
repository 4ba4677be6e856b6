# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's daemon: starts the machines, answers their simulated commands, and does what the 'lab' command asks."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from esxilab import hostroot, inventory, persistence, rpc, sshd, status, sysimage, topology, volumes
from esxilab.errors import LabError
from esxilab.faults import MACHINE, NETWORK, MachineFaults, Network, typed
from esxilab.hostd import Hostd
from esxilab.hostevents import NodeEvents
from esxilab.hostroot import LabPaths
from esxilab.locks import LockTable
from esxilab.machine import RunningMachine
from esxilab.memcap import MemoryCap
from esxilab.node import Node, ProxyProcess
from esxilab.processes import ProcessId
from esxilab.topology import Machine

# Room for /etc, /scratch and what else a host keeps; only what is used is taken.
SYSTEM_DISK_BYTES = 256 << 20
# What a host's shell may ask that concerns the machine and not its management daemon.
POWER_TOOLS = ("reboot", "poweroff", "halt")


class Daemon:
    """One lab."""

    def __init__(self, paths: LabPaths, options: dict[str, Any]) -> None:
        self.paths = paths
        self.options = options
        self.topology = topology.build(
            options["description"], options["name"], options["base_address"], options["port"]
        )
        self.server_python = hostroot.server_python(options.get("python"))
        self.locks = LockTable()
        self.nodes: dict[str, Node] = {}
        self._main: queue.Queue[Callable[[], None]] = queue.Queue()
        self._guarded: set[str] = set()
        self._stopping = threading.Event()
        self._state_lock = threading.Lock()
        self.proxy = ProxyProcess(paths.folder / "wires.log")
        self.started = time.time()

    # --- start -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything up and answering; the first thing that fails is raised."""
        self.save_state()
        machines = self.topology.machines
        hostroot.check_addresses(machines)
        with ThreadPoolExecutor(4) as executor:
            keys = executor.submit(sshd.make_keys, self.paths.keys, machines)
            wanted = {
                self.paths.image(host): (host.profile, host.switches["command_builtin"]) for host in self.topology.hosts
            }
            images = [executor.submit(sysimage.build, folder, *system) for folder, system in sorted(wanted.items())]
            volumes.mount(self.paths.hosts, SYSTEM_DISK_BYTES * max(1, len(self.topology.hosts)), "lab-hosts")
            for volume in self.topology.volumes:
                volumes.mount(self.paths.volumes / volume.uuid, volume.size, f"lab-{volume.uuid}")
            for job in (keys, *images):
                job.result()
            known = sshd.known_hosts(self.paths.keys, machines)
            self.paths.known_hosts.write_text(known, encoding="ascii")
            prepared = [executor.submit(hostroot.prepare, self.paths, self.topology, machine) for machine in machines]
            for job in prepared:
                job.result()
            for machine in machines:
                persistence.keep_image(self.paths, machine)
        for machine in machines:
            self._add_node(machine)
        for node in self.nodes.values():
            node.running.spawn()
        self.save_state()
        with ThreadPoolExecutor(4) as executor:
            jobs = [executor.submit(self._bring_up, node, True) for node in self.nodes.values()]
            for job in jobs:
                job.result()
        self.paths.inventory.write_text(
            inventory.render(self.paths, self.topology, self.server_python.executable), encoding="utf-8"
        )
        self.paths.inventory.chmod(0o600)
        self._serve(self.paths.run / "control.sock", self._control_connection)

    def _add_node(self, machine: Machine) -> None:
        running = RunningMachine(self.paths, self.topology, machine, self.server_python)
        self.proxy.order(
            listen=machine.name,
            address=machine.address,
            port=machine.port,
            target_port=hostroot.inner_port(machine),
        )
        own = MachineFaults(machine, self.paths.root(machine), running.enter_command)
        node = Node(machine, running, Network(machine, self.proxy), own)
        node.network.apply()
        self.nodes[machine.name] = node
        if machine.is_esxi:
            root = self.paths.root(machine)
            node.hostd = hostd = Hostd(machine.config, self.paths.volumes, self.locks, root=root)
            if machine.switches["ssh_memory_mb"]:
                node.memory_cap = MemoryCap(lambda: hostd.ssh_memory_mb, root / "scratch/log/vmkernel.log")
            node.hostd.machine_events = NodeEvents(self, node)
            self._serve(self.paths.sockets(machine) / "labd.sock", lambda channel: self._host_connection(node, channel))

    def _bring_up(self, node: Node, first: bool) -> None:
        """What follows the start of a machine's processes; 'first' makes the VMs of the description."""
        node.running.wait_ready()
        node.boots += 1
        if node.memory_cap is not None:
            node.memory_cap.start(node.running.pid_inside(), node.running.sshd_pid())
        if node.hostd is not None:
            if node.hostd.switches["exec_installed_only"]:
                self._guard(node)
            if first:
                node.hostd.provision()
        if "refuse" not in node.network.set:
            self.proxy.order(open=node.machine.name)

    def _guard(self, node: Node) -> None:
        """execInstalledOnly: in this host nothing may be executed from a datastore, a ramdisk or the system disk."""
        pid = node.running.pid_inside()
        node.namespace = os.readlink(f"/proc/{pid}/ns/pid")
        self._guarded.add(node.namespace)
        places = [self.paths.volumes / store.volume.uuid for store in node.machine.datastores]
        node.ramdisk = f"/proc/{pid}/root/tmp"
        for place in (*places, self.paths.hosts, node.ramdisk):
            self.locks.exec_guard(str(place), self._is_guarded)

    def _is_guarded(self, pid: int) -> bool:
        """Whether a process belongs to a host with execInstalledOnly; datastores may be shared with hosts without."""
        try:
            return os.readlink(f"/proc/{pid}/ns/pid") in self._guarded
        except OSError:
            return False

    # --- sockets ---------------------------------------------------------------------------------------------

    def _serve(self, path: Path, handler: Callable[[rpc.Channel], None]) -> None:
        server = rpc.listen(str(path))

        def accept() -> None:
            while not self._stopping.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=converse, args=(rpc.Channel(connection),), daemon=True).start()

        def converse(channel: rpc.Channel) -> None:
            try:
                handler(channel)
            except (EOFError, OSError, ValueError):
                pass  # the client is gone, or was killed in the middle of a line
            finally:
                channel.close()

        threading.Thread(target=accept, daemon=True).start()

    def _host_connection(self, node: Node, channel: rpc.Channel) -> None:
        assert node.hostd is not None
        pid = rpc.peer_pid(channel.connection)
        while True:
            request = channel.receive()
            request["pid"] = pid
            tool = request.get("tool")
            if tool == "ps":
                channel.send({"worlds": self._worlds(node)})
                continue
            if tool in POWER_TOOLS:
                channel.send({"rc": 0})
                threading.Thread(target=self.power, args=(node, tool == "reboot"), daemon=True).start()
                continue
            try:
                answer = node.hostd.handle(request)
            except Exception as error:  # a defect of the lab: the command dies, the log has the reason
                traceback.print_exc()
                answer = {"stderr": f"{tool}: defect in the lab: {type(error).__name__}: {error}\n", "rc": 255}
            for frame in [answer] if isinstance(answer, dict) else answer:
                channel.send(frame)

    def _worlds(self, node: Node) -> list[dict[str, Any]]:
        """The running VMs, which are processes on a real host and here work of the daemon's."""
        assert node.hostd is not None
        running = [vm for vm in node.hostd.vms() if vm.power == "poweredOn"]
        return [{"world": vm.world_id, "name": vm.safe_name} for vm in running]

    def _control_connection(self, channel: rpc.Channel) -> None:
        while True:
            request = channel.receive()
            try:
                answer = {"result": self.control(request)}
            except LabError as error:
                answer = {"error": str(error)}
            except (ValueError, KeyError, TypeError) as error:
                answer = {"error": error.args[0] if error.args else str(error)}
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"defect in the lab, see {self.paths.log}: {type(error).__name__}: {error}"}
            channel.send(answer)

    # --- verbs -----------------------------------------------------------------------------------------------

    def control(self, request: dict[str, Any]) -> Any:
        verb = request["verb"]
        if verb == "status":
            return status.describe(self)
        node = self.nodes.get(request["machine"])
        if node is None:
            self.topology.machine(request["machine"])
            raise LabError(f"{request['machine']} is not up yet")
        if verb == "exec":
            return node.running.enter_command(request["command"])
        if verb == "fault":
            return self.fault(node, request["kind"], request.get("arguments", {}))
        if verb in ("reboot", "hostdown", "hostup"):
            if verb != "hostup":
                self.power_cut(node)
            if verb != "hostdown":
                self.power_restored(node)
            return {"up": node.wanted_up, "boots": node.boots}
        raise LabError(f"the daemon does not know the verb {verb!r}")

    def fault(self, node: Node, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Set a fault, or 'clear' all (or the one called 'name')."""
        kind = kind.replace("-", "_")
        arguments = typed(arguments)
        if kind == "clear":
            name = arguments.get("name")
            if name is None or name in NETWORK:
                node.network.clear(name, listening=node.wanted_up)
            if name is None or name in MACHINE:
                node.own.clear(name)
            if node.hostd is not None and name not in NETWORK and name not in MACHINE:
                node.hostd.fault("clear", **arguments)
            return self.faults_of(node)
        if kind in NETWORK:
            return {**node.network.fault(kind, arguments), **self.faults_of(node)}
        if kind in MACHINE and node.machine.is_esxi:
            node.own.fault(kind, arguments)
            return self.faults_of(node)
        if node.hostd is None:
            raise LabError(f"{node.machine.name} is a backup server: it has the faults {', '.join(NETWORK)}")
        try:
            node.hostd.fault(kind, **arguments)
        except ValueError as error:
            raise LabError(f"{error}; and of machine and network: {', '.join([*MACHINE, *NETWORK])}") from error
        return self.faults_of(node)

    def faults_of(self, node: Node) -> dict[str, Any]:
        found: dict[str, Any] = {"network": node.network.set, "machine": node.own.set}
        if node.hostd is not None:
            found["hostd"] = node.hostd.status()["faults"]
        return found

    def power_cut(self, node: Node) -> None:
        """The machine stops as by a power cut: connections go silent, processes and guests die where they are."""
        with node.lock:
            if not node.wanted_up:
                return
            node.wanted_up = False
            self.proxy.order(close=node.machine.name)
            self.proxy.order(cut=node.machine.name, mode="blackhole")
            if node.memory_cap is not None:
                node.memory_cap.stop()
            node.running.kill()
            node.own.rebooted()
            self._guarded.discard(node.namespace)
            # The next ramdisk may get the device number of this one, and is to be guarded anew.
            self.locks.exec_unguard(node.ramdisk)
            if node.hostd is not None:
                node.hostd.shutdown(crash=True)
            self.save_state()

    def power_restored(self, node: Node) -> None:
        """The machine starts with what is on its disks; connections of its former life end in a reset."""
        with node.lock:
            if node.wanted_up and node.running.alive:
                raise LabError(f"{node.machine.name} is up already")
            try:
                persistence.boot(self.paths, node.machine)
                self._on_main(node.running.spawn)
                self.save_state()
                if node.hostd is not None:
                    node.hostd.reboot(crash=True)
                self.proxy.order(cut=node.machine.name, mode="reset")
                self._bring_up(node, False)
            except BaseException:
                # Not half up: what was started would be in the way of the next try.
                node.running.kill()
                raise
            node.wanted_up = True

    def power(self, node: Node, again: bool) -> None:
        """reboot or poweroff, called in the machine's own shell."""
        try:
            self.power_cut(node)
            if again:
                self.power_restored(node)
        except Exception:
            traceback.print_exc()

    # --- life ------------------------------------------------------------------------------------------------

    def save_state(self) -> None:
        """The processes that belong to this lab, for a 'down' that finds no daemon."""
        processes = [self.proxy.identity]
        for node in self.nodes.values():
            processes += [identity for identity in (node.running.init, node.running.outer) if identity is not None]
        state = {
            "daemon": vars(ProcessId.of(os.getpid())),
            "processes": [vars(identity) for identity in processes],
        }
        with self._state_lock:
            path = self.paths.run / "state.json"
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(state), encoding="ascii")
            draft.replace(path)

    def _on_main(self, action: Callable[[], None]) -> None:
        """Run something in the main thread: bubblewrap ends with the thread that started it."""
        future: Future[None] = Future()

        def run() -> None:
            try:
                action()
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)

        self._main.put(run)
        future.result()

    def request_stop(self, *_: Any) -> None:
        self._stopping.set()

    def loop(self) -> None:
        """The main thread's work until a signal ends the lab."""
        while not self._stopping.is_set():
            try:
                self._main.get(timeout=0.2)()
            except queue.Empty:
                continue

    def stop(self) -> None:
        for node in self.nodes.values():
            node.own.rebooted()
            node.running.kill()
        for node in self.nodes.values():
            if node.hostd is not None:
                node.hostd.shutdown(crash=True)
        self.proxy.stop()


def main(arguments: list[str]) -> int:
    """labd FOLDER: run the lab whose options lie in FOLDER/run/options.json."""
    paths = LabPaths(Path(arguments[0]))
    options = json.loads((paths.run / "options.json").read_text(encoding="utf-8"))
    ready = paths.run / "ready.json"
    try:
        daemon = Daemon(paths, options)
        signal.signal(signal.SIGTERM, daemon.request_stop)
        signal.signal(signal.SIGINT, daemon.request_stop)
        daemon.start()
    except Exception as error:
        traceback.print_exc()
        text = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
        _report(ready, {"error": text})
        return 1
    _report(ready, {"pid": os.getpid()})
    daemon.loop()
    daemon.stop()
    return 0


def _report(path: Path, value: dict[str, Any]) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(value), encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    # Threads that wait for a machine's answer must not hold up the end.
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
