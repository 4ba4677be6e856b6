# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs every check of the project in order and ends with a table: what passed, what failed, what could not run and why.

    check.py [--only STEP[,STEP]] [--list]

Exit code 1 when a step failed, or when a step that the project promises could not run (the `promised` ones). The unit
tests, which wait more than they compute, and the steps that judge the sources run beside each other, and are shown when
they end.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
VENV_219 = ROOT / ".venv-2.19"
CACHE = ROOT / ".cache"


class NotRun(Exception):
    """A step that cannot run on this machine; the text says why."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One check; `promised` ones fail the whole when they cannot run."""

    name: str
    run: Callable[[], None]
    promised: bool = True
    lane: int = 0
    """Those of a lane run one after the other, beside those of other lanes; 0: alone."""


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    verdict: str
    seconds: float
    failed: bool


class _Aside(threading.local):
    """Where the output of this thread's commands goes, where that is not the terminal."""

    file: IO[bytes] | None = None


ASIDE = _Aside()


def call(argv: Iterable[str | Path], *, cwd: Path = ROOT, venv: Path = VENV, **environment: str) -> None:
    """Runs a command of a virtual environment with its output shown; raises CalledProcessError when it fails."""
    env = {
        **os.environ,
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(workspace()),
        **environment,
    }
    # Thousands of short programs are started, of sources that have been compiled before.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    words = [str(word) for word in argv]
    if ASIDE.file is None:
        subprocess.run(words, cwd=cwd, env=env, check=True, stdin=subprocess.DEVNULL)
    else:
        out = ASIDE.file
        subprocess.run(words, cwd=cwd, env=env, check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def tracked_files() -> list[str]:
    """What git knows plus what it would take, so that a new file is checked before it is committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).exists()})


def workspace() -> Path:
    """A folder that holds the collection under ansible_collections/ (a link: right for ansible and pytest)."""
    namespace = CACHE / "workspace" / "ansible_collections" / "stowage"
    link = namespace / "esxi"
    if not link.is_symlink():
        namespace.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)
    return CACHE / "workspace"


def shipped_files() -> list[str]:
    """What the artefact holds: build_ignore leaves out the tests and the lab, which ruff and mypy judge."""
    return [name for name in tracked_files() if not name.startswith("tests/") or name == "tests/config.yml"]


def copied_tree(base: Path) -> Path:
    """A plain copy of it under ansible_collections/: ansible-test refuses links and other paths."""
    tree = base / "ansible_collections" / "stowage" / "esxi"
    for name in shipped_files():
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return tree


def core_version(venv: Path) -> str:
    """The ansible-core of an environment, as "2.21"."""
    python = venv / "bin" / "python"
    if not python.exists():
        raise NotRun(f"{venv.name} does not exist: no fitting Python was found")
    text = subprocess.run(
        [str(python), "-c", "import ansible.release as r; print(r.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return ".".join(text.strip().split(".")[:2])


def python_folders() -> str:
    """The bin folders of pyenv's interpreters: sanity compiles and imports on each pythonX.Y found on PATH.

    The oldest that modules support and the newest; the agent is run on all of them by its own tests."""
    found = []
    for version in ("3.9", "3.13"):
        folders = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin"))
        if folders:
            found.append(str(folders[-1]))
    return ":".join(found)


def sanity(venv: Path, version: str, *without: str) -> None:
    """ansible-test sanity in a copied tree, with pip bootstrapped from the interpreter itself; `without` some tests."""
    have = core_version(venv)
    if have != version:
        raise NotRun(f"ansible-core {version} needs another Python; {venv.name} holds {have}")
    cache = Path.home() / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for name in ("get_pip_25_2.py", "get_pip_24_2.py"):
        if not (cache / name).exists():
            shutil.copy2(ROOT / "tests" / "tools" / "get_pip.py", cache / name)
    with tempfile.TemporaryDirectory(prefix="stowage-sanity-") as base:
        # What pyenv puts before its interpreters answers for each of them, chosen or not.
        plain = [folder for folder in os.environ["PATH"].split(":") if not folder.endswith("/.pyenv/shims")]
        path = ":".join([str(venv / "bin"), *plain, python_folders()])
        call(
            ["ansible-test", "sanity", "--color", "no", *(word for one in without for word in ("--skip-test", one))],
            cwd=copied_tree(Path(base)),
            venv=venv,
            PATH=path,
            ANSIBLE_COLLECTIONS_PATH=base,
        )


def build() -> Path:
    """Builds the artefact and returns its path."""
    dist = CACHE / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="stowage-build-") as base:
        tree = copied_tree(Path(base))
        call(["ansible-galaxy", "collection", "build", "--output-path", dist, "--force"], cwd=tree)
    return next(dist.glob("*.tar.gz"))


def step_format() -> None:
    call(["ruff", "format", "--check", "."])
    call(["ruff", "check", "."])
    call(["yamllint", "-s", "."])
    # A template is a script when it has been filled in; its own test reads that.
    scripts = [name for name in tracked_files() if is_shell(ROOT / name) and not name.endswith(".j2")]
    call(["shellcheck", *scripts])


def is_shell(path: Path) -> bool:
    """Whether a file starts with a shell's shebang line."""
    try:
        first = path.open("rb").readline(80)
    except OSError:
        return False
    return first.startswith(b"#!") and first.rstrip().endswith((b"/sh", b"bash"))


def step_types() -> None:
    package = workspace() / "ansible_collections" / "stowage" / "esxi" / "plugins"
    names = ["module_utils", "plugin_utils"]
    call(
        [
            "mypy",
            "--config-file",
            ROOT / "pyproject.toml",
            *[package / name for name in names if (package / name).exists()],
        ],
        cwd=workspace(),
        MYPYPATH=str(workspace()),
    )


def step_unit() -> None:
    # More workers than cores: many of these tests wait for time limits to pass.
    call(["python", "-m", "pytest", "-q", "-n", "6", "--dist", "loadgroup", "tests/unit"])


def step_unit_219() -> None:
    if core_version(VENV_219) != "2.19":
        raise NotRun("no environment with ansible-core 2.19")
    # What touches ansible-core; the rooms below do not know it, nor does what reads the roles as text.
    parts = ["modules", "action", "plugin_utils"]
    folders = [f"tests/unit/plugins/{part}" for part in parts if (ROOT / "tests/unit/plugins" / part).is_dir()]
    texts = ["--ignore", "tests/unit/roles/test_argument_specs.py"]
    call(["python", "-m", "pytest", "-q", "-n", "2", *folders, "tests/unit/roles", *texts], venv=VENV_219)


def step_system() -> None:
    # More workers than cores: these tests wait more than they compute. Each has labs of its own.
    call(
        [
            "python",
            "-m",
            "pytest",
            "-q",
            "-n",
            "4",
            "--dist",
            "loadfile",
            "--no-loadscope-reorder",
            "--durations",
            "25",
            "tests/system",
        ]
    )


def step_lint() -> None:
    with tempfile.TemporaryDirectory(prefix="stowage-lint-") as base:
        tree = copied_tree(Path(base))
        call(
            ["ansible-lint", "--profile", "production", "--offline", "--strict"],
            cwd=tree,
            ANSIBLE_COLLECTIONS_PATH=base,
            NO_COLOR="1",
        )


def step_docs() -> None:
    with tempfile.TemporaryDirectory(prefix="stowage-docs-") as base:
        tree = copied_tree(Path(base))
        call(
            [
                "antsibull-docs",
                "lint-collection-docs",
                "--plugin-docs",
                "--validate-collection-refs=all",
                "--disallow-unknown-collection-refs",
                ".",
            ],
            cwd=tree,
            ANSIBLE_COLLECTIONS_PATH=base,
        )
        call(["antsibull-changelog", "lint"], cwd=tree, ANSIBLE_COLLECTIONS_PATH=base)


def step_importer() -> None:
    """What Galaxy does with an upload, without its ansible-lint: that only warns, and the step `lint` is strict."""
    artefact = build()
    config = CACHE / "importer.cfg"
    config.write_text(
        "[galaxy-importer]\n"
        "RUN_ANSIBLE_DOC = True\nRUN_ANSIBLE_LINT = False\nRUN_FLAKE8 = False\n"
        "CHECK_CHANGELOG = True\nCHECK_REQUIRED_TAGS = True\nRUN_ANSIBLE_TEST = False\n"
        "ANSIBLE_TEST_LOCAL_IMAGE = False\nLOCAL_IMAGE_DOCKER = False\nINFRA_OSD = False\n",
        encoding="utf-8",
    )
    call(["python", "-m", "galaxy_importer.main", artefact], cwd=CACHE, GALAXY_IMPORTER_CONFIG=str(config))


def step_ee() -> None:
    with tempfile.TemporaryDirectory(prefix="stowage-ee-") as base:
        copied_tree(Path(base))
        call(["ansible-builder", "introspect", base], cwd=Path(base))


STEPS = (
    Step("format", step_format),
    Step("types", step_types),
    Step("unit", step_unit, lane=3),
    Step("unit on ansible-core 2.19", step_unit_219, lane=1),
    Step("lint", step_lint, lane=1),
    Step("docs", step_docs, lane=1),
    Step("sanity on ansible-core 2.21", lambda: sanity(VENV, "2.21"), lane=2),
    # What reads the sources alone (an older pylint) or asks the same interpreters has been answered by the newer one.
    Step("sanity on ansible-core 2.19", lambda: sanity(VENV_219, "2.19", "pylint", "import", "compile"), lane=2),
    Step("build and importer", step_importer, lane=1),
    Step("execution environment", step_ee, lane=1),
    Step("system, on the lab", step_system),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names or starts of names, separated by commas")
    parser.add_argument("--list", action="store_true", help="print the steps and stop")
    arguments = parser.parse_args()
    wanted = [word.strip() for word in arguments.only.split(",") if word.strip()]
    steps = [step for step in STEPS if not wanted or any(step.name.startswith(word) for word in wanted)]
    if arguments.list:
        print("\n".join(step.name for step in steps))
        return 0
    if not steps:
        print(f"check: no step is called {arguments.only!r}; see --list", file=sys.stderr)
        return 2
    workspace()
    rows: list[Row] = []
    left = list(steps)
    while left:
        some = [step for step in left if step.lane] if left[0].lane else left[:1]
        left = [step for step in left if step not in some]
        lanes = [[step for step in some if step.lane == lane] for lane in sorted({step.lane for step in some})]
        if len(some) > 1:
            with ThreadPoolExecutor(len(lanes)) as executor:
                for found in executor.map(_lane, lanes):
                    rows += found
        else:
            print(f"\n=== {some[0].name}", flush=True)
            rows.append(_run(some[0]))
    order = [step.name for step in steps]
    print("\n=== checks")
    for row in sorted(rows, key=lambda row: order.index(row.name)):
        print(f"{row.name:<28} {row.seconds:6.0f} s  {row.verdict}")
    passed = sum(not row.failed for row in rows)
    failed = len(rows) - passed
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _run(step: Step) -> Row:
    begun = time.monotonic()
    verdict, failed = "passed", False
    try:
        step.run()
    except NotRun as reason:
        verdict, failed = f"NOT RUN: {reason}", step.promised
    except subprocess.CalledProcessError as error:
        verdict, failed = f"FAILED (exit {error.returncode})", True
    return Row(step.name, verdict, time.monotonic() - begun, failed)


def _lane(steps: Sequence[Step]) -> list[Row]:
    return [_aside(step) for step in steps]


def _aside(step: Step) -> Row:
    with tempfile.TemporaryFile() as file:
        ASIDE.file = file
        row = _run(step)
        file.seek(0)
        text = file.read().decode("utf-8", "replace")
    print(f"\n=== {step.name}\n{text}", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
