"""`forebay status`: queue and instances of functions, once or live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from forebay_cli.output import Output, make_table, show_json, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forebay_cli.client import Client

COLUMNS = ("FUNCTION", "QUEUED", "IN FLIGHT", "STARTING", "IDLE", "BUSY", "DRAINING", "DEAD", "REASON")
NUMBERS = COLUMNS[1:-1]
REFRESH_S = 0.25
NUMBER_CHARS = 8


def row(name: str, status: dict[str, Any]) -> list[str]:
    """One function's line of the table."""
    instances = status["instances"]
    counts = [status["queued"], status["in_flight"], *(instances[state] for state in _STATES)]
    return [name, *map(str, [*counts, status["dead_letters"]]), status["reason"] or ""]


_STATES = ("starting", "idle", "busy", "draining")


def plain(cells: Sequence[str], columns: Sequence[str]) -> str:
    """A line of a table that grows downwards: numbers under their column's name."""
    return "  ".join(f"{cell:>{max(len(column), NUMBER_CHARS)}}" for cell, column in zip(cells, columns, strict=True))


def statuses(client: Client, name: str | None) -> dict[str, dict[str, Any]]:
    """Status by function name, of one or of all."""
    if name is not None:
        return {name: client.status(name)}
    found: dict[str, dict[str, Any]] = client.statuses()["functions"]
    return found


def show(client: Client, name: str | None, output: Output) -> None:
    """The status now."""
    found = statuses(client, name)
    if output is Output.JSON:
        show_json(found[name] if name is not None else found)
    else:
        show_table(COLUMNS, [row(*item) for item in sorted(found.items())], NUMBERS)


def watch(client: Client, name: str | None) -> None:
    """The status, renewed until interrupted: in place on a terminal, else a line for each change."""
    if sys.stdout.isatty():
        _watch_live(client, name)
    shown: dict[str, list[str]] = {}
    columns = (*NUMBERS, COLUMNS[0], COLUMNS[-1])
    print(plain(columns, columns), flush=True)
    while True:
        for function, status in sorted(statuses(client, name).items()):
            line = row(function, status)
            if shown.get(function) != line:
                shown[function] = line
                print(plain((*line[1:-1], line[0], line[-1]), columns), flush=True)
        time.sleep(REFRESH_S)


def _watch_live(client: Client, name: str | None) -> None:
    from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

    with Live(refresh_per_second=1 / REFRESH_S) as live:
        while True:
            live.update(make_table(COLUMNS, [row(*item) for item in sorted(statuses(client, name).items())], NUMBERS))
            time.sleep(REFRESH_S)
