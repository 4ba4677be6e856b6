# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor: its commands, its datastores, the VMs registered on it."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, faults, releases
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import (
    Batch,
    CutAnswer,
    FileEntry,
    Reply,
    read_folders,
    run_patient,
)
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import (
    VOLUMES,
    Datastore,
    datastores_of,
    split_datastore_path,
    split_volume_path,
)
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_esxcli import (
    parse_filesystems,
    parse_table,
)
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_inventory import parse_registered_vmid
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.hostlock import host_lock
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

# A wrapper of long use found these two: five tries, five seconds apart.
TRIES = 5
RETRY_SECONDS = 5.0
# Questions in one script: the lock is given back between scripts, so that nobody waits for a whole fleet's listing.
BATCH_SIZE = 60
# Files read by one script. A manifest of a restore point has a few thousand bytes.
READ_SIZE = 1000
_PORT_GROUPS = ("network", "vswitch", "standard", "portgroup", "list")


class Host:
    """Everything about one hypervisor goes through here. Nothing is asked before the first call.

    `lock` makes the context manager under which vim-cmd runs, one at a time per host; by default the lock file of
    the machine where this runs.
    """

    def __init__(
        self,
        session: Session,
        *,
        clock: Clock | None = None,
        lock: Callable[[], AbstractContextManager[None]] | None = None,
        retry_seconds: float = RETRY_SECONDS,
        tries: int = TRIES,
    ) -> None:
        self.session = session
        self.name = session.endpoint.host
        self.clock: Clock = clock or SystemClock()
        self._lock = lock or (lambda: host_lock(session.endpoint, clock=self.clock))
        self._retry_seconds = retry_seconds
        self._tries = max(1, tries)
        self._version: releases.Version | None = None
        self._datastores: tuple[Datastore, ...] | None = None
        self._unknown: set[str] = set()
        self._networks: tuple[str, ...] | None = None

    # -- commands ------------------------------------------------------------------------------------------------

    def vim(self, *argv: str, timeout_seconds: float = 120.0, repeatable: bool = True) -> str:
        """Run one vim-cmd and return what it printed; refusals are raised as typed errors.

        Texts that say that hostd was never reached are tried again. `repeatable=False` for what must not happen
        twice: then an answer that leaves it open whether the work began is raised as HostBusy at once.
        """
        command = quoting.shorten(quoting.join(["vim-cmd", *argv]))
        reply = self.ask([["vim-cmd", *argv]], timeout_seconds=timeout_seconds, repeatable=repeatable)[0]
        self.check(reply, command)
        return reply.stdout

    def check(self, reply: Reply, command: str = "") -> None:
        """Raise the error that a reply stands for."""
        command = command or quoting.shorten(quoting.join(reply.argv))
        text = reply.text
        if reply.rc != 0 and faults.unsure(text, reply.rc) and faults.fault_of(text) is None:
            raise errors.HostBusy(host=self.name, command=command, tries=self._tries, output=_short(text))
        faults.check(reply.rc, text, host=self.name, command=command)

    def vim_patient(
        self, *argv: str, patience_seconds: int = 20, again: Callable[[], bool] | None = None, guard: str = ""
    ) -> Reply | None:
        """Run one vim-cmd that may take hours; None when it has not ended within the patience.

        It then goes on in the host by itself and the lock is free again: its success is proven by state alone.
        A refusal is left in the reply. Tried again where hostd says that it was never reached; so it does of calls
        whose work goes on over its restart: for what must not happen twice, `again` looks first. `guard` is a shell
        condition, tested right before.
        """
        reply = None
        command = ["sh", "-c", guard + ' && vim-cmd "$@"', "sh", *argv] if guard else ["vim-cmd", *argv]
        for attempt in range(self._tries):
            if attempt:
                self.clock.sleep(self._retry_seconds)
                if again is not None and not again():
                    return reply
            with self._lock():
                reply = run_patient(self.session, command, patience_seconds)
            if reply is None or not self._again(reply, False):
                return reply
        return reply

    def ask_many(self, commands: Sequence[Sequence[str]], *, timeout_seconds: float = 60.0) -> list[Reply]:
        """Like `ask`, in scripts of a bounded size. Refusals are left in the replies for the caller."""
        replies: list[Reply] = []
        for start in range(0, len(commands), BATCH_SIZE):
            part = commands[start : start + BATCH_SIZE]
            replies += self.ask(part, timeout_seconds=timeout_seconds + 10.0 * len(part))
        return replies

    def ask(
        self, commands: Sequence[Sequence[str]], *, timeout_seconds: float = 60.0, repeatable: bool = True
    ) -> list[Reply]:
        """Run whole commands in one script under the host's lock; those that did not reach hostd are asked again."""
        done: list[Reply | None] = [None] * len(commands)
        for attempt in range(self._tries):
            open_ones = [index for index, reply in enumerate(done) if reply is None or self._again(reply, repeatable)]
            if not open_ones:
                break
            if attempt:
                self.clock.sleep(self._retry_seconds)
            batch = Batch()
            for index in open_ones:
                batch.add(commands[index])
            with self._lock():
                replies = self.run_batch(batch, timeout_seconds=timeout_seconds)
            for index, reply in zip(open_ones, replies):
                done[index] = reply
        return [reply for reply in done if reply is not None]

    @staticmethod
    def _again(reply: Reply, repeatable: bool) -> bool:
        text = reply.text
        # A healthy answer may well contain such words, in somebody's annotation: only a failed or bare one counts.
        if reply.rc == 0 and len(text) > 400:
            return False
        bare = reply.rc != 0 or text.strip() == "<unset>" or text.startswith(("Failed to login:", "Connect to local"))
        if not bare or faults.fault_of(text) is not None:
            return False
        return faults.unsure(text, reply.rc) if repeatable else faults.not_started(text)

    def run_batch(self, batch: Batch, *, timeout_seconds: float = 60.0) -> list[Reply]:
        try:
            return batch.run(self.session, timeout_seconds=timeout_seconds)
        except CutAnswer as error:
            raise self._cut(error) from error

    def _cut(self, error: CutAnswer) -> errors.UnreadableOutput:
        return errors.UnreadableOutput(host=self.name, command="(several)", reason=str(error))

    def run(self, *argv: str, timeout_seconds: float = 60.0) -> str:
        """Run any other command and return its output; a status other than 0 is raised."""
        result = self.session.run(argv, timeout_seconds=timeout_seconds)
        if result.rc != 0:
            raise errors.CommandFailed(host=self.name, command=result.command, rc=result.rc, output=result.output)
        return result.stdout

    def esxcli(self, *argv: str, timeout_seconds: float = 60.0) -> str:
        """esxcli, or localcli, which gives the same answers without hostd, while hostd is away."""
        batch = Batch().add(["esxcli", *argv])
        reply = self.run_batch(batch, timeout_seconds=timeout_seconds)[0]
        if reply.rc != 0:
            second = self.run_batch(Batch().add(["localcli", *argv]), timeout_seconds=timeout_seconds)[0]
            if second.rc == 0:
                return second.stdout
        faults.check(reply.rc, reply.text, host=self.name, command="esxcli " + " ".join(argv))
        return reply.stdout

    # -- files ---------------------------------------------------------------------------------------------------

    def read_text(self, path: str) -> str:
        text = self.read_texts([path])[path]
        if isinstance(text, Reply):
            raise errors.FileNotReadable(host=self.name, path=path, reason=_short(text.text) or f"status {text.rc}")
        return text

    def read_texts(self, paths: Iterable[str]) -> dict[str, str | Reply]:
        """Many small files in few commands; a file that cannot be read is its failed reply."""
        found: dict[str, str | Reply] = {}
        wanted = list(dict.fromkeys(paths))
        # An answer has a limit to its length, what an honest host has to tell has none.
        for start in range(0, len(wanted), READ_SIZE):
            part, batch = wanted[start : start + READ_SIZE], Batch()
            for path in part:
                batch.read(path)
            replies = self.run_batch(batch, timeout_seconds=60.0 + len(part))
            found.update((path, reply.stdout if reply.rc == 0 else reply) for path, reply in zip(part, replies))
        return found

    def read_folders(self, folders: Iterable[str]) -> dict[str, FileEntry]:
        """Every .vmdk file of these folders by its path."""
        try:
            return {entry.path: entry for entry in read_folders(self.session, folders)}
        except CutAnswer as error:
            raise self._cut(error) from error

    # -- the host ------------------------------------------------------------------------------------------------

    @property
    def version(self) -> releases.Version:
        if self._version is None:
            text = self.run("vmware", "-v")
            self._version = releases.parse_version(text)
            if self._version is None:
                raise errors.UnreadableOutput(host=self.name, command="vmware -v", reason=_short(text))
        return self._version

    @property
    def hardware_version_max(self) -> int | None:
        """The newest virtual hardware that this release runs; None for a release nobody has met."""
        return releases.hardware_version_max(self.version)

    def datastores(self, *, fresh: bool = True) -> tuple[Datastore, ...]:
        """Mounted datastores with their free room. `fresh=False` may give the list of an earlier call."""
        if fresh or self._datastores is None:
            self._datastores = datastores_of(parse_filesystems(self.esxcli("storage", "filesystem", "list")))
        return self._datastores

    def keep_datastores(self, listing: str) -> None:
        """Take the text of a filesystem listing that came along with something else."""
        self._datastores = datastores_of(parse_filesystems(listing)) or None
        self._unknown.clear()

    def networks(self, *, fresh: bool = True) -> tuple[str, ...]:
        """Names of the port groups of the standard switches."""
        if fresh or self._networks is None:
            self._networks = _port_groups(self.esxcli(*_PORT_GROUPS))
        return self._networks

    def load(self) -> None:
        """Read version, datastores and networks anew in one command; what fails here is asked for alone later."""
        batch = Batch().add(["vmware", "-v"]).add(["esxcli", "storage", "filesystem", "list"])
        version, mounts, groups = self.run_batch(batch.add(["esxcli", *_PORT_GROUPS]))
        self._version = releases.parse_version(version.stdout) if version.rc == 0 else None
        self._datastores = self._networks = None
        if mounts.rc == 0:
            self.keep_datastores(mounts.stdout)
        if groups.rc == 0:
            self._networks = _port_groups(groups.stdout)

    def datastore(self, name_or_path: str) -> Datastore:
        """By name, by UUID, or by any path on it."""
        parts = split_volume_path(name_or_path)
        bracketed = split_datastore_path(name_or_path)
        wanted = bracketed[0] if bracketed else parts[0] if parts else name_or_path
        # Many VMs may lie on a datastore that is gone: the host is asked once.
        for fresh in (False, True) if wanted not in self._unknown else (False,):
            for store in self.datastores(fresh=fresh):
                if wanted in (store.name, store.uuid, posixpath.basename(store.path)):
                    return store
        self._unknown.add(wanted)
        names = ", ".join(sorted(store.name for store in self.datastores(fresh=False))) or "none"
        raise errors.UnknownDatastore(host=self.name, datastore=wanted, candidates=names)

    def resolve(self, text: str) -> str:
        """`[ds] dir/x` or `/vmfs/volumes/ds/dir/x` as the absolute path by UUID, the one form that is compared."""
        bracketed = split_datastore_path(text)
        if bracketed and not text.startswith("/"):
            return self._under(bracketed[0], bracketed[1], text)
        parts = split_volume_path(text)
        if parts is None:
            raise errors.BadPath(host=self.name, path=text, reason=f"it is not below {VOLUMES}")
        return self._under(parts[0], parts[1], text)

    def _under(self, volume: str, rest: str, text: str) -> str:
        store = self.datastore(f"{VOLUMES}/{volume}/x")
        path = posixpath.normpath(posixpath.join(store.path, rest)) if rest else store.path
        if path != store.path and not path.startswith(store.path + "/"):
            raise errors.BadPath(host=self.name, path=text, reason="it leads out of its datastore")
        return path

    # -- virtual machines ----------------------------------------------------------------------------------------

    def vms(self) -> list[VirtualMachine]:
        """All registered VMs, in the order of their ids, in three SSH commands."""
        from ansible_collections.stowage.esxi.plugins.module_utils.esxi import inventory

        return inventory.list_vms(self)

    def find_vm(
        self, ref: str | int | None = None, *, name: str | None = None, uuid: str | None = None, vmid: int | None = None
    ) -> VirtualMachine:
        """The one VM meant: by name, instance or BIOS UUID, or vmid; `ref` may be any of the three.

        Unknown and ambiguous are errors that list the candidates.
        """
        from ansible_collections.stowage.esxi.plugins.module_utils.esxi import inventory

        return inventory.choose(self, self.vms(), ref, name=name, uuid=uuid, vmid=vmid)

    def register(self, vmx_path: str, name: str | None = None) -> int:
        """Register a .vmx and return its vmid, proven by the inventory. Raises AlreadyExistsFault for a known path."""
        path = self.resolve(vmx_path)
        argv = ["solo/registervm", path] + ([name] if name else [])
        before = {vm.vmid for vm in self.vms() if vm.vmx_path == path}
        if before:
            raise errors.AlreadyExistsFault(
                host=self.name, command="solo/registervm", fault="AlreadyExists", output=f"{path} is vmid {min(before)}"
            )
        said = ""
        try:
            said = self.vim(*argv, repeatable=False)
        except errors.HostBusy as error:
            said = error.message
        claimed = parse_registered_vmid(said)
        found = [vm for vm in self.vms() if vm.vmx_path == path]
        if len(found) != 1:
            raise errors.NotRegistered(
                host=self.name,
                path=path,
                output=_short(said) or "the host said nothing, and no VM has this path now",
                advice="Check that the .vmx file is there and complete.",
            )
        if claimed is not None and claimed != found[0].vmid:
            raise errors.NotRegistered(
                host=self.name,
                path=path,
                output=f"the host named id {claimed}, its inventory names {found[0].vmid}",
                advice="Look at the inventory with stowage.esxi.esxi_vm_info.",
            )
        return found[0].vmid

    def unregister(self, vmid: int) -> None:
        """Take a VM out of the inventory; its files stay. Refused by the host while it is powered on."""
        # An earlier try may have been heard: the list decides.
        with contextlib.suppress(errors.NotFoundFault, errors.HostBusy):
            self.vim("vmsvc/unregister", str(vmid))
        if any(vm.vmid == vmid for vm in self.vms()):
            raise errors.CommandFailed(
                host=self.name,
                command=f"vim-cmd vmsvc/unregister {vmid}",
                rc=0,
                output="the VM is still registered",
            )


def _port_groups(text: str) -> tuple[str, ...]:
    return tuple(row["Name"] for row in parse_table(text) if row.get("Name"))


def _short(text: str) -> str:
    return quoting.shorten(text, 600)
