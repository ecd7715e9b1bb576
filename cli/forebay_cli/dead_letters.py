"""The work of `forebay dead-letters`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from forebay_cli.errors import UserError
from forebay_cli.output import Output, note, show_json, show_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forebay_cli.client import Client

COLUMNS = ("ID", "INVOCATION", "DIED", "REASON", "ATTEMPTS", "ERROR")
PAGE = 100
"""How many a request lists, or runs again, at most."""
ERROR_MAX_CHARS = 80


class Filters(NamedTuple):
    """Which dead letters are meant; "" for any."""

    reason: str = ""
    since: str = ""
    until: str = ""

    def given(self) -> dict[str, str]:
        """Those that are set, as the platform takes them."""
        return {name: value for name, value in self._asdict().items() if value}


class Wanted(NamedTuple):
    """Dead letters by their ids, or all that fit."""

    ids: tuple[str, ...]
    every: bool
    filters: Filters = Filters()

    def check(self) -> None:
        """Raises UserError when it is not clear which are meant."""
        if bool(self.ids) == self.every:
            raise UserError("which dead letters? Name their ids, or say --all", 2)
        if self.ids and self.filters.given():
            raise UserError("--reason, --since and --until go with --all, not with ids", 2)


def show_list(client: Client, name: str, filters: Filters, limit: int, output: Output) -> None:
    """The oldest dead letters."""
    pages = list(_pages(client, name, filters, limit))
    found = [letter for page, _ in pages for letter in page]
    if output is Output.JSON:
        show_json(found)
        return
    if not found:
        note(f"{name} has no dead letters{' that fit' if filters.given() else ''}")
        return
    show_table(COLUMNS, [_row(letter) for letter in found], ("ATTEMPTS",))
    if pages[-1][1]:
        note(f"these are the oldest {len(found)}: --limit shows more")


def _row(letter: dict[str, Any]) -> list[str]:
    words = [word for word in (letter["error_type"], letter["error_message"]) if word]
    error = ": ".join(words).replace("\n", " ")[:ERROR_MAX_CHARS]
    texts = (letter["id"], letter["invocation_id"], letter["dead_at"], letter["reason"])
    return [*texts, str(letter["attempts"]), error]


def _pages(
    client: Client, name: str, filters: Filters, limit: int | None = None
) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """Dead letters page by page, each with whether there are more."""
    parameters, left = filters.given(), limit
    while left is None or left > 0:
        parameters["limit"] = str(PAGE if left is None else min(left, PAGE))
        page = client.dead_letters(name, parameters)
        yield page["dead_letters"], page["next"] is not None
        if page["next"] is None:
            return
        parameters["after"] = page["next"]
        left = None if left is None else left - len(page["dead_letters"])


def show_one(client: Client, name: str, dead_letter: str) -> None:
    """One dead letter with its event."""
    show_json(client.dead_letter(name, dead_letter))


def redrive(client: Client, name: str, wanted: Wanted) -> None:
    """Run dead letters again, in batches, with progress on stderr."""
    wanted.check()
    ids = list(wanted.ids)
    if wanted.every:
        # All of them are found first: one that dies again meanwhile is not run for ever.
        ids = [letter["id"] for page, _ in _pages(client, name, wanted.filters) for letter in page]
        if not ids:
            note(f"{name} has no dead letters{' that fit' if wanted.filters.given() else ''}")
            return
    redriven = 0
    for at in range(0, len(ids), PAGE):
        redriven += client.redrive(name, ids[at : at + PAGE])["redriven"]
        if len(ids) > PAGE:
            note(f"{min(at + PAGE, len(ids))} of {len(ids)}")
    missing = len(ids) - redriven
    if not redriven:
        raise UserError(f"{name} has no such dead letter, or not any more: see `forebay dead-letters list {name}`")
    note(f"{redriven} queued again{f', {missing} were no dead letters any more' if missing else ''}")


def purge(client: Client, name: str, wanted: Wanted, *, confirmed: bool) -> None:
    """Delete dead letters, after asking on a terminal."""
    wanted.check()
    what = f"all dead letters of {name}" if wanted.every else f"{len(wanted.ids)} dead letters of {name}"
    if not confirmed:
        if not sys.stdin.isatty():
            raise UserError(f"delete {what} for good? Say --yes, since there is nobody to ask")
        if input(f"Delete {what} for good? [y/N] ").strip().lower() not in {"y", "yes"}:
            note("nothing deleted")
            return
    if wanted.every:
        note(f"{client.purge_dead_letters(name)} deleted")
        return
    for dead_letter in wanted.ids:
        client.delete_dead_letter(name, dead_letter)
    note(f"{len(wanted.ids)} deleted")
