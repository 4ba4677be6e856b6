# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-runner as AWX uses it: transmit here, worker in a folder that is thrown away, process here.

What AWX's credentials become is what they become there: the machine credential a key with a passphrase that ssh-agent
gets, the vault credential an answer to a prompt, survey answers extra variables.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from playing import ROOT, _descendants

VAULT_PROMPT = r"Vault password.*:\s*?$"
# ansible-runner looks at the last hundred characters only, and the path before the colon may be longer than that.
KEY_PROMPT = r"ssh_key_data:\s*?$"


@dataclass
class Job:
    """One job that has ended, as AWX knows it: by its artifacts."""

    folder: Path
    seconds: float

    @property
    def status(self) -> str:
        return self._text("status")

    @property
    def rc(self) -> int:
        return int(self._text("rc"))

    @property
    def stdout(self) -> str:
        return self._text("stdout")

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """In their order."""
        found = [json.loads(path.read_bytes()) for path in (self.folder / "job_events").glob("*.json")]
        return sorted(found, key=lambda event: int(event["counter"]))

    @property
    def stats(self) -> dict[str, Any]:
        """What set_stats has published: AWX's artifacts."""
        for event in reversed(self.events):
            data = event["event_data"].get("artifact_data")
            if data:
                return dict(data)
        return {}

    def hosts(self, what: str) -> set[str]:
        """Hosts with a count of `ok`, `failures`, `dark` … above zero at the end."""
        final = next((event for event in reversed(self.events) if event["event"] == "playbook_on_stats"), None)
        return set(final["event_data"].get(what) or {}) if final else set()

    def must_be(self, status: str) -> Job:
        assert self.status == status, f"{self.status}, not {status}:\n{self.stdout[-4000:]}"
        return self


@dataclass
class Running:
    """A job that is under way."""

    processes: list[subprocess.Popen[bytes]]
    artifacts: Path
    begun: float

    def wait(self, seconds: float = 3600) -> Job:
        end = time.monotonic() + seconds
        for process in self.processes:
            process.wait(max(0.1, end - time.monotonic()))
        return Job(self.artifacts, time.monotonic() - self.begun)

    def cancel(self) -> Job:
        """As AWX's container is taken away: no process in it gets to say goodbye."""
        worker = self.processes[1]
        for pid in (worker.pid, *_descendants(worker.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.wait(60)


@dataclass
class Awx:
    """`inventory`: as YAML; `vault`: variables that are in a vault of ansible-vault; `key`: the machine credential."""

    work: Path
    inventory: Mapping[str, Any]
    vault: Mapping[str, str]
    vault_password: str
    key: Path
    key_passphrase: str
    playbooks: Mapping[str, str]
    forks: int = 5
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, ident: str, playbook: str, *options: str, **survey: Any) -> Running:
        control, worker = self.work / "control" / ident, self.work / "worker" / ident
        self._prepare(control, playbook, options, survey)
        worker.mkdir(parents=True)
        environment = {**os.environ, **self._environment()}
        transmit = ["ansible-runner", "transmit", str(control), "-p", f"{playbook}.yml", "--ident", ident]
        work = ["ansible-runner", "worker", "--private-data-dir", str(worker)]
        process = ["ansible-runner", "process", str(control), "--ident", ident]
        begun = time.monotonic()
        first = subprocess.Popen(transmit, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)
        second = subprocess.Popen(
            work, stdin=first.stdout, stdout=subprocess.PIPE, env=environment, cwd=worker, start_new_session=True
        )
        with open(control / "process.log", "wb") as log:
            third = subprocess.Popen(process, stdin=second.stdout, stdout=log, stderr=log, env=environment)
        for one in (first, second):
            # Who writes learns that its reader is gone.
            assert one.stdout is not None
            one.stdout.close()
        return Running([first, second, third], control / "artifacts" / ident, begun)

    def run(self, ident: str, playbook: str, *options: str, **survey: Any) -> Job:
        running = self.start(ident, playbook, *options, **survey)
        try:
            return running.wait()
        except BaseException:
            running.cancel()
            raise

    def artifacts(self) -> list[Path]:
        """What stays when the jobs are over: the controller's artifacts, and what lay where the workers ran."""
        control = self.work / "control"
        return [
            *control.glob("*/artifacts"),
            *control.glob("*/process.log"),
            *(self.work / "worker").glob("*/artifacts"),
        ]

    def _environment(self) -> dict[str, str]:
        """The execution environment has the collection in its place."""
        namespace = self.work / "collections" / "ansible_collections" / "stowage"
        namespace.mkdir(parents=True, exist_ok=True)
        if not (namespace / "esxi").is_symlink():
            (namespace / "esxi").symlink_to(ROOT, target_is_directory=True)
        return {
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(self.work / "collections"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.work / "cp"),
            "ANSIBLE_LOCAL_TEMP": str(self.work / "tmp"),
            **self.environment,
        }

    def _prepare(self, control: Path, playbook: str, options: Sequence[str], survey: Mapping[str, Any]) -> None:
        project, env, inventory = control / "project", control / "env", control / "inventory"
        (inventory / "group_vars" / "all").mkdir(parents=True)
        for folder in (project, env):
            folder.mkdir()
        (project / f"{playbook}.yml").write_text(self.playbooks[playbook], encoding="utf-8")
        (inventory / "hosts.yml").write_text(yaml.safe_dump(dict(self.inventory)), encoding="utf-8")
        shutil.copy(self._vaulted(), inventory / "group_vars" / "all" / "vault.yml")
        words = ["--forks", str(self.forks), "--vault-id", "default@prompt", *options]
        (env / "cmdline").write_text(shlex.join(words), encoding="utf-8")
        (env / "passwords").write_text(
            json.dumps({VAULT_PROMPT: self.vault_password, KEY_PROMPT: self.key_passphrase}), encoding="utf-8"
        )
        (env / "extravars").write_text(json.dumps(dict(survey)), encoding="utf-8")
        (env / "ssh_key").write_text(self._locked_key(), encoding="utf-8")
        # A terminal that nobody looks at needs no idle time-out; AWX sets none either.
        (env / "settings").write_text(
            json.dumps({"idle_timeout": 0, "suppress_ansible_output": True}), encoding="utf-8"
        )

    def _vaulted(self) -> Path:
        """The vault, by the real ansible-vault; its password goes in by a pipe."""
        path = self.work / "vault.yml"
        if not path.exists():
            read, write = os.pipe()
            os.write(write, self.vault_password.encode())
            os.close(write)
            argv = ["ansible-vault", "encrypt", "--vault-id", f"default@/dev/fd/{read}", "--output", str(path), "-"]
            try:
                subprocess.run(argv, input=yaml.safe_dump(dict(self.vault)).encode(), pass_fds=[read], check=True)
            finally:
                os.close(read)
        return path

    def _locked_key(self) -> str:
        """The machine credential's key, behind its passphrase. By a library: ssh-keygen would take that as a word."""
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_ssh_private_key(self.key.read_bytes(), None)
        locked = serialization.BestAvailableEncryption(self.key_passphrase.encode())
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, locked)
        return text.decode("ascii")
