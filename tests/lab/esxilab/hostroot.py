# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine's root folder, and the bubblewrap call that makes a machine of it."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esxilab import hostpython, interpreters, seccomp, sshd, sysimage
from esxilab.errors import LabError
from esxilab.hostd.profiles import profile_of
from esxilab.interpreters import Interpreter
from esxilab.tools.bootbanks import system_volumes
from esxilab.topology import DOMAIN, Machine, Topology, parse_size

PACKAGE = Path(__file__).resolve().parent
# sshd sits behind the lab's proxy: same address, this much above the machine's port.
PORT_OFFSET = 20000


@dataclass(frozen=True)
class LabPaths:
    """Where things are in a lab's folder."""

    folder: Path

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.yml"

    @property
    def log(self) -> Path:
        return self.folder / "labd.log"

    def image(self, machine: Machine) -> Path:
        return self.folder / "images" / sysimage.image_name(machine.profile, machine.switches["command_builtin"])

    @property
    def hosts(self) -> Path:
        """The hypervisors' system disks: a file system of its own, so that execution from it can be refused."""
        return self.folder / "hosts"

    def machine(self, machine: Machine) -> Path:
        return (self.hosts if machine.is_esxi else self.folder / "servers") / machine.name

    def root(self, machine: Machine) -> Path:
        return self.machine(machine) / "root"

    def sockets(self, machine: Machine) -> Path:
        return self.machine(machine) / "run"


def inner_port(machine: Machine) -> int:
    port = machine.port + PORT_OFFSET
    return port if port < 65536 else machine.port - PORT_OFFSET


def check_addresses(machines: Sequence[Machine]) -> None:
    """Told before anything is made: a machine that shared its address would be answered for by the other one's sshd."""
    for machine in machines:
        for port in (machine.port, inner_port(machine)):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((machine.address, port))
                except OSError as error:
                    raise LabError(
                        f"{machine.name}: {machine.address}:{port}: {error.strerror}; if another lab runs there, "
                        "choose another --base-address"
                    ) from error


def _text(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def prepare(paths: LabPaths, topology: Topology, machine: Machine) -> None:
    """Make the machine's root folder, once in the life of a lab."""
    root = paths.root(machine)
    root.mkdir(parents=True)
    root.chmod(0o755)
    paths.sockets(machine).mkdir(mode=0o700)
    etc = root / "etc"
    etc.mkdir()
    names = "".join(f"{other.address} {other.name}.{DOMAIN} {other.name}\n" for other in topology.machines)
    _text(etc / "hosts", "127.0.0.1 localhost.localdomain localhost\n" + names)
    _text(etc / "hostname", machine.name + "\n")
    sshd.write_accounts(etc, machine)
    sshd.write_pam(etc, machine)
    sshd.write_sshd(etc, paths.keys, machine, inner_port(machine))
    if machine.is_esxi:
        _prepare_esxi(root, machine)
    else:
        _prepare_linux(root, paths)
    # sshd refuses to start when this folder can be written to by others.
    # By the one name that leads to it from outside, too: a server's /var/run is a link that begins at the root.
    (root / "run/sshd").chmod(0o755)


def _prepare_esxi(root: Path, machine: Machine) -> None:
    folders = "bin sbin usr/lib/vmware/openssh/bin dev proc tmp vmfs/volumes vmfs/devices/disks var/run/sshd"
    folders += " var/run/faillock var/spool/cron/crontabs var/lock scratch/log scratch/core .lab/run .lab/esxilab"
    for folder in folders.split():
        (root / folder).mkdir(parents=True)
    for library in Path("/usr/lib").glob("*-linux-gnu*"):
        (root / "lib").mkdir(exist_ok=True)
        (root / "lib" / library.name).symlink_to(library)
    (root / "run").symlink_to("var/run")
    (root / "var/log").symlink_to("/scratch/log")
    (root / "var/tmp").symlink_to("/tmp")
    (root / "usr/bin").symlink_to("../bin")
    (root / "usr/sbin").symlink_to("../sbin")
    (root / "vmfs/volumes").chmod(0o755)
    for store in machine.datastores:
        (root / "vmfs/volumes" / store.volume.uuid).mkdir()
        (root / "vmfs/volumes" / store.name).symlink_to(store.volume.uuid)
    for system in system_volumes(machine.name, profile_of(machine.profile)):
        (root / "vmfs/volumes" / system.uuid).mkdir()
        if system.label:
            (root / "vmfs/volumes" / system.label).symlink_to(system.uuid)
        if system.link:
            (root / system.link).symlink_to(f"/vmfs/volumes/{system.uuid}")
    for folder in ("etc/vmware/hostd", "etc/vmware/firewall", "etc/rc.local.d", "etc/init.d"):
        (root / folder).mkdir(parents=True)
    (root / "etc/init.d/hostd").symlink_to("/.lab/client.py")
    _text(root / "etc/vmware/hostd/pools.xml", "<ConfigRoot>\n</ConfigRoot>\n")
    _text(root / "etc/rc.local.d/local.sh", "#!/bin/sh\n\nexit 0\n", 0o755)
    _text(root / "etc/profile", "export PATH=/bin:/sbin\nPS1='[\\u@\\h:\\w] '\n")
    _text(root / "etc/resolv.conf", "")


def _prepare_linux(root: Path, paths: LabPaths) -> None:
    folders = "dev proc tmp run root srv home opt mnt var/lib var/log var/tmp var/cache usr"
    for folder in folders.split():
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "var/run").symlink_to("/run")
    (root / "run/sshd").mkdir()
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
        elif os.path.isdir(f"/{name}"):
            (root / name).mkdir()
    _text(root / "etc/profile", "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
    _text(root / "etc/environment", "")
    _text(root / "etc/ssh/ssh_known_hosts", paths.known_hosts.read_text(encoding="ascii"))
    for name in ("os-release", "debian_version", "services", "protocols", "mke2fs.conf"):
        if os.path.isfile(f"/etc/{name}"):
            _text(root / "etc" / name, Path(f"/etc/{name}").read_text(encoding="utf-8"))


def _bind_python(interpreter: Interpreter, name: str, root: Path) -> list[str]:
    """Bind an interpreter under its own path, and make /.lab/<name> lead to it."""
    arguments = []
    for folder in interpreter.folders:
        arguments += ["--ro-bind", folder, folder]
    link = root / ".lab" / name
    if any(interpreter.executable.startswith(folder + "/") for folder in interpreter.folders):
        link.unlink(missing_ok=True)
        link.symlink_to(interpreter.executable)
    else:
        arguments += ["--ro-bind", interpreter.executable, f"/.lab/{name}"]
    return arguments


def _host_python(paths: LabPaths, machine: Machine) -> list[str]:
    """The interpreter of the host, with what ESXi's would not do taken from it."""
    root, switches = paths.root(machine), machine.switches
    interpreter = interpreters.for_release(machine.profile, switches["python"])
    (root / ".lab/host-python").unlink(missing_ok=True)
    if interpreter is None:
        return []
    arguments = _bind_python(interpreter, "host-python", root)
    refuses_stdin = switches["exec_installed_only"] and not switches["python_from_stdin"]
    if refuses_stdin or not switches["fork"]:
        arguments = _bind_python(interpreter, "real-python", root)
        hostpython.launcher(
            root / ".lab/host-python", "/.lab/real-python", fork=switches["fork"], from_stdin=not refuses_stdin
        )
    overlay = hostpython.hashlib_overlay(
        paths.machine(machine) / "python", interpreter, machine.profile, switches["hashlib_md5"]
    )
    if overlay is not None:
        arguments += ["--ro-bind", str(overlay[0]), overlay[1]]
    if not switches["multiprocessing"]:
        # Semaphores are files in here (whether a host has sem_open is doubtful).
        arguments += ["--tmpfs", "/dev/shm", "--remount-ro", "/dev/shm"]
    return arguments


def _libraries() -> list[str]:
    """This machine's C library and what sshd and PAM load, where they are looked for."""
    arguments: list[str] = []
    for folder in sorted(Path("/usr/lib").glob("*-linux-gnu*")):
        arguments += ["--ro-bind", str(folder), str(folder)]
    if not arguments:
        raise LabError("no /usr/lib/*-linux-gnu here; the lab runs on Debian and Ubuntu")
    if os.path.isdir("/usr/lib64"):
        arguments += ["--ro-bind", "/usr/lib64", "/lib64"]
    if os.path.isdir("/usr/lib/openssh"):
        arguments += ["--ro-bind", "/usr/lib/openssh", "/usr/lib/openssh"]
    return arguments


def _esxi_arguments(paths: LabPaths, machine: Machine) -> list[str]:
    root = paths.root(machine)
    image = paths.image(machine)
    arguments = ["--ro-bind", str(image / "bin"), "/bin", "--ro-bind", str(image / "sbin"), "/sbin", *_libraries()]
    openssh = "/usr/lib/vmware/openssh/bin"
    arguments += ["--ro-bind", "/usr/sbin/sshd", f"{openssh}/sshd"]
    arguments += ["--ro-bind", "/usr/lib/openssh/sftp-server", f"{openssh}/sftp-server"]
    for name in ("ssh", "scp", "ssh-keygen"):
        if os.path.isfile(f"/usr/bin/{name}"):
            arguments += ["--ro-bind", f"/usr/bin/{name}", f"{openssh}/{name}"]
    arguments += ["--perms", "1777", "--size", str(parse_size(machine.switches["tmp_size"])), "--tmpfs", "/tmp"]
    arguments += _bind_python(interpreters.own(), "python", root)
    arguments += _host_python(paths, machine)
    arguments += [
        "--ro-bind",
        str(PACKAGE),
        "/.lab/esxilab",
        "--ro-bind",
        str(PACKAGE / "client.py"),
        "/.lab/client.py",
    ]
    arguments += ["--bind", str(paths.sockets(machine)), "/.lab/run"]
    for store in machine.datastores:
        arguments += ["--bind", str(paths.volumes / store.volume.uuid), f"/vmfs/volumes/{store.volume.uuid}"]
    return arguments


def _linux_arguments(paths: LabPaths, topology: Topology, machine: Machine, python: Interpreter) -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr", "--perms", "1777", "--tmpfs", "/tmp"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}"):
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    for name in ("/etc/alternatives", "/etc/ssl", "/etc/ld.so.cache", "/etc/localtime"):
        if os.path.exists(name):
            arguments += ["--ro-bind", name, name]
    for folder in python.folders:
        if not folder.startswith("/usr/"):
            arguments += ["--ro-bind", folder, folder]
    arguments += ["--ro-bind", str(paths.known_hosts), str(paths.known_hosts)]
    for store in topology.served.get(machine.name, []):
        arguments += ["--bind", str(paths.volumes / store.volume.uuid), f"/srv/{store.name}"]
    return arguments


def server_python(override: str | None) -> Interpreter:
    """The interpreter for backup servers: --python, else the one running here with its virtual environment."""
    interpreter = interpreters.probe(override or sys.executable)
    if interpreter is None:
        raise LabError(f"{override or sys.executable!r} is not a Python 3 that runs here")
    return interpreter


def command(
    paths: LabPaths, topology: Topology, machine: Machine, python: Interpreter, info_fd: int, seccomp_fd: int | None
) -> list[str]:
    """The bwrap call that starts the machine."""
    arguments = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-uts", "--unshare-ipc"]
    arguments += ["--hostname", machine.name, "--info-fd", str(info_fd), "--clearenv"]
    arguments += ["--bind", str(paths.root(machine)), "/", "--proc", "/proc", "--dev", "/dev"]
    arguments += ["--setenv", "PATH", "/bin:/sbin" if machine.is_esxi else "/usr/sbin:/usr/bin:/sbin:/bin"]
    if seccomp_fd is not None:
        arguments += ["--seccomp", str(seccomp_fd)]
    if machine.is_esxi:
        arguments += _esxi_arguments(paths, machine)
        server = "/usr/lib/vmware/openssh/bin/sshd"
    else:
        arguments += _linux_arguments(paths, topology, machine, python)
        server = "/usr/sbin/sshd"
    return [*arguments, "--chdir", "/", server, "-D", "-E", "/var/log/auth.log"]


def seccomp_program(machine: Machine) -> bytes:
    """The system calls that fail on this host; empty where all work."""
    if not machine.is_esxi or not seccomp.available():
        return b""
    switches = machine.switches
    if switches["epoll"] and switches["seek_data"]:
        return b""
    # 6.5 was seen to answer as a system that lacks it, 6.7 as one that refuses it.
    refusal = errno.ENOSYS if machine.profile == "6.0" else errno.EINVAL
    return seccomp.program(0 if switches["epoll"] else refusal, bool(switches["seek_data"]))
