# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""esxcli and localcli: the name space, options, and formatters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .answer import Answer
from .tables import FORMATTERS, Row, fields, machine, table

if TYPE_CHECKING:
    from esxilab.hostd import Hostd


@dataclass
class Result:
    """Rows to print as a table, one block of fields, or nothing; `text` is printed as it is."""

    rows: list[Row] = field(default_factory=list)
    columns: Sequence[str] = ()
    single: bool = False
    text: str | None = None
    headed: str = ""
    #: Several blocks of fields without a heading, a blank line between them.
    blocks: bool = False


class CliError(Exception):
    """The command's own refusal, printed as it stands."""


@dataclass(frozen=True)
class CliCommand:
    """`options` maps every spelling to a name; `required` names must be given. An option without value is a flag."""

    run: Callable[[Hostd, dict[str, str]], Result]
    options: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()


def commands() -> dict[str, CliCommand]:
    from . import esxcli_commands, esxcli_network, esxcli_system

    return {**esxcli_commands.COMMANDS, **esxcli_network.COMMANDS, **esxcli_system.COMMANDS}


def truth(options: dict[str, str], name: str) -> bool:
    """A boolean option as esxcli takes it."""
    value = options[name].lower()
    if value in ("true", "1", "yes", "t", "y"):
        return True
    if value in ("false", "0", "no", "f", "n"):
        return False
    raise CliError(f"Error: Invalid value for parameter {name}: {options[name]}")


def run(host: Hostd, argv: Sequence[str]) -> Answer:
    """esxcli goes through hostd."""
    if host.stopped or host.faults.get("hostd_down"):
        return Answer(stderr="Connect to localhost failed: Connection failure\n", rc=1)
    slow = host.faults.seconds("hostd_slow")
    if slow:
        host.clock.sleep(slow)
    return run_local(host, argv)


def run_local(host: Hostd, argv: Sequence[str]) -> Answer:
    """localcli answers without hostd."""
    words, formatter = _formatter(list(argv))
    if formatter is not None and formatter not in FORMATTERS:
        return Answer(stderr=f"Error: Unknown formatter: {formatter}\n", rc=1)
    path: list[str] = []
    table_ = commands()
    while words and not words[0].startswith("-"):
        path.append(words.pop(0))
        if " ".join(path) in table_:
            break
    name = " ".join(path)
    command = table_.get(name)
    if command is None:
        return _namespace(name, table_)
    try:
        options = _options(command, words)
        result = command.run(host, options)
    except CliError as error:
        return Answer(stderr=f"{error}\n", rc=1)
    return Answer(_render(result, formatter))


def _formatter(words: list[str]) -> tuple[list[str], str | None]:
    """Global options stand before the name space."""
    formatter = None
    while words and words[0].startswith("--"):
        option, equals, value = words.pop(0).partition("=")
        if option == "--formatter":
            formatter = value if equals else (words.pop(0) if words else "")
        elif option in ("--debug", "--help", "--version"):
            continue
        elif option == "--plugin-dir" and not equals and words:
            words.pop(0)
    return words, formatter


def _namespace(name: str, table_: dict[str, CliCommand]) -> Answer:
    """Help for a name space; an unknown one is an error."""
    below = sorted({known[len(name) :].split()[0] for known in table_ if known.startswith(f"{name} ") or not name})
    if not below:
        return Answer(stderr=f"Error: Unknown command or namespace {name}\n", rc=1)
    usage = f"Usage: esxcli {name + ' ' if name else ''}{{cmd}} [cmd options]\n\nAvailable Namespaces and Commands:\n"
    return Answer(usage + "".join(f"  {word}\n" for word in below), rc=1)


def _options(command: CliCommand, words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    while words:
        word, equals, value = words.pop(0).partition("=")
        name = command.options.get(word)
        if name is None:
            raise CliError(f"Error: Invalid option {word}")
        if name in command.flags:
            found[name] = "true"
        elif equals:
            found[name] = value
        elif words:
            found[name] = words.pop(0)
        else:
            raise CliError(f"Error: option {word} requires an argument")
    for name in command.required:
        if name not in found:
            spelled = "|".join(sorted(key for key, value in command.options.items() if value == name))
            raise CliError(f"Error: Missing required parameter {spelled}")
    return found


def _render(result: Result, formatter: str | None) -> str:
    if result.text is not None:
        return result.text
    if formatter not in (None, "table"):
        return machine(result.rows, result.columns, str(formatter), result.single)
    if result.single:
        return fields(result.rows[0]) if result.rows else ""
    if result.blocks:
        return "\n".join(fields({key: row[key] for key in result.columns}) for row in result.rows)
    if result.headed:
        return "\n".join(
            f"{row[result.headed]}\n" + fields({key: row[key] for key in result.columns}) for row in result.rows
        )
    return table(result.rows, result.columns)
