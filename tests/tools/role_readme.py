# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write each role's README.md and the end of docs/variables.md from meta/argument_specs.yml, or check them.

python3 tests/tools/role_readme.py           writes
python3 tests/tools/role_readme.py --check   changes nothing, exit code 1 when a README is behind its spec
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ROOT / "docs" / "variables.md"
MARK = "<!-- From here on written by tests/tools/role_readme.py -->\n"
LICENCE = """<!--
Copyright (c) 2026 Stowage contributors
GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
SPDX-License-Identifier: GPL-3.0-or-later
-->
"""


def plain(text: str) -> str:
    """Ansible's semantic markup as Markdown."""
    text = re.sub(r"\b(?:O|V|RV|E|M|C|B|I)\(([^)]*)\)", lambda match: f"`{match.group(1)}`", text)
    text = re.sub(r"\bP\(([^)#]*)#[a-z]+\)", r"`\1`", text)
    return " ".join(text.split())


def paragraphs(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [plain(part) for part in ([value] if isinstance(value, str) else value)]


def shown_default(option: Mapping[str, Any]) -> str:
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return ""
    default = option["default"]
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default != "" else '`""`'


def rows(options: Mapping[str, Mapping[str, Any]], prefix: str = "") -> list[str]:
    lines = []
    for name, option in options.items():
        kind = str(option.get("type", "str"))
        if "elements" in option:
            kind += f" of {option['elements']}"
        text = " ".join(paragraphs(option.get("description")))
        if "choices" in option:
            text += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        lines.append(f"| `{prefix}{name}` | {kind} | {shown_default(option)} | {text.replace('|', chr(92) + '|')} |")
        if "options" in option:
            lines += rows(option["options"], prefix=f"{prefix}{name}" + ("[]." if kind.startswith("list") else "."))
    return lines


def render(role: str, specs: Mapping[str, Mapping[str, Any]], example: str) -> str:
    lines = [LICENCE, f"# Role `stowage.esxi.{role}`", ""]
    for entry, spec in specs.items():
        if entry != "main":
            lines += [f"## Entry point `{entry}`", ""]
        lines += [plain(spec["short_description"]) + ".", ""]
        for paragraph in paragraphs(spec.get("description")):
            lines += [paragraph, ""]
        if spec.get("options"):
            lines += ["| variable | type | default | meaning |", "|---|---|---|---|", *rows(spec["options"]), ""]
    lines += ["## Example", "", "```yaml", example.strip(), "```", ""]
    lines += ["This page is written from `meta/argument_specs.yml` by `tests/tools/role_readme.py`.", ""]
    return "\n".join(lines)


def readme_of(role_dir: Path) -> str:
    specs = yaml.safe_load((role_dir / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    example = (role_dir / "meta" / "example.yml").read_text(encoding="utf-8")
    body = example.split("---\n", 1)[1] if "---\n" in example else example
    return render(role_dir.name, specs, body)


def variables_page() -> str:
    """The page of all variables, with those of the roles as their specs have them now."""
    lines = [""]
    for spec in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        role = spec.parents[1].name
        options = {
            name: option
            for entry in yaml.safe_load(spec.read_text(encoding="utf-8"))["argument_specs"].values()
            for name, option in (entry.get("options") or {}).items()
            if name.startswith(f"{role}_")
        }
        lines += [
            f"### `{role}`",
            "",
            "| variable | type | default | meaning |",
            "|---|---|---|---|",
            *rows(options),
            "",
        ]
    return VARIABLES.read_text(encoding="utf-8").split(MARK)[0] + MARK + "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a README is behind its spec")
    check = parser.parse_args(argv).check
    behind = []
    pages = [
        (spec.parents[1] / "README.md", readme_of(spec.parents[1]))
        for spec in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
    ]
    for readme, wanted in [*pages, (VARIABLES, variables_page())]:
        if readme.is_file() and readme.read_text(encoding="utf-8") == wanted:
            continue
        behind.append(str(readme.relative_to(ROOT)))
        if not check:
            readme.write_text(wanted, encoding="utf-8")
    for path in behind:
        print(f"{path}: {'is behind its argument spec; run tests/tools/role_readme.py' if check else 'written'}")
    return 1 if check and behind else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
