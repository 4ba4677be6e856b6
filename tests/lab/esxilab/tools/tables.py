# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How esxcli prints what a command returns: a table, a block of fields, and the machine formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Union
from xml.sax.saxutils import escape

Value = Union[str, int, bool]
Row = dict[str, Value]
FORMATTERS = ("csv", "json", "keyvalue", "python", "xml", "html", "table")


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Columns two blanks apart, numbers and booleans to the right, dashes of the exact width, no pad at the end."""
    if not rows:
        return ""
    widths = [max(len(column), *(len(_text(row[column])) for row in rows)) for column in columns]
    right = [all(isinstance(row[column], (bool, int)) for row in rows) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(cells, widths, right)
        ]
        if not right[-1]:
            padded[-1] = cells[-1]
        return "  ".join(padded) + "\n"

    out = line(columns) + "  ".join("-" * width for width in widths) + "\n"
    return out + "".join(line([_text(row[column]) for column in columns]) for row in rows)


def fields(row: Row, indent: int = 3) -> str:
    return "".join(f"{' ' * indent}{key}: {_text(value)}\n" for key, value in row.items())


def _camel(name: str) -> str:
    """`World ID` is `WorldID`."""
    words = name.replace("-", " ").split()
    return "".join(word[0].upper() + word[1:] for word in words)


def machine(rows: Sequence[Row], columns: Sequence[str], formatter: str, single: bool) -> str:
    """The same rows in one of the machine formats."""
    if formatter == "csv":
        ordered = sorted(columns)
        head = "".join(f"{_camel(column)}," for column in ordered) + "\n"
        return head + "".join("".join(f"{_csv(row[column])}," for column in ordered) + "\n" for row in rows)
    if formatter == "json":
        data: Any = [{_camel(key): row[key] for key in columns} for row in rows]
        return json.dumps(data[0] if single else data) + "\n"
    if formatter == "xml":
        return _xml(rows, columns, single)
    if formatter == "html":
        return _html(rows, columns)
    if formatter == "python":
        return repr([{_camel(key): row[key] for key in columns} for row in rows]) + "\n"
    lines = []
    for number, row in enumerate(rows):
        for column in columns:
            kind = _kind(row[column])
            prefix = "" if single else f"[{number}]"
            lines.append(f"Result{prefix}.{_camel(column)}.{kind}={_text(row[column])}\n")
    return "".join(lines)


def _kind(value: Value) -> str:
    return "boolean" if isinstance(value, bool) else "integer" if isinstance(value, int) else "string"


def _xml(rows: Sequence[Row], columns: Sequence[str], single: bool) -> str:
    """One structure per row; a list of them where the command gives a list."""
    structures = []
    for row in rows:
        cells = "".join(
            f'<field name="{_camel(column)}"><{_kind(row[column])}>{escape(_text(row[column]))}'
            f"</{_kind(row[column])}></field>\n"
            for column in columns
        )
        structures.append(f'<structure typeName="Result">\n{cells}</structure>\n')
    body = "".join(structures)
    if not single:
        body = f'<list type="structure">\n{body}</list>\n'
    return f'<?xml version="1.0" encoding="utf-8"?>\n<output>\n<root>\n{body}</root>\n</output>\n'


def _html(rows: Sequence[Row], columns: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_text(row[column]))}</td>" for column in columns) + "</tr>\n" for row in rows
    )
    return f"<table>\n<tr>{head}</tr>\n{body}</table>\n"


def _csv(value: Value) -> str:
    text = _text(value)
    return '"' + text.replace('"', '""') + '"' if any(char in text for char in ',"\n') else text
