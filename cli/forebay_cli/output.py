"""How answers are shown: tables for people, JSON for programs; results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table


class Output(StrEnum):
    """What `--output` takes."""

    TABLE = "table"
    JSON = "json"


def note(line: str) -> None:
    """Progress and remarks, beside the result."""
    print(line, file=sys.stderr, flush=True)


def show_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()) -> Table:
    """A plain table, `numbers` being the columns set to the right."""
    from rich.markup import escape  # noqa: PLC0415 - commands that show no table start without it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> None:
    """A table on stdout, as wide as its content when that is no terminal."""
    from rich.console import Console  # noqa: PLC0415

    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    console.print(make_table(columns, rows, numbers), soft_wrap=not sys.stdout.isatty())
