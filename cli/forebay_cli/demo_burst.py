"""The demo's burst: many calls at once, with queue and instances shown as they go."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from forebay_cli.errors import UserError
from forebay_cli.output import make_table
from forebay_cli.plain_http import get
from forebay_cli.status_view import COLUMNS, NUMBERS, plain, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK_S = 0.1
GONE_MARGIN_S = 20.0
CALL_TIMEOUT_S = 60.0
OK = 200
STATES = ("starting", "idle", "busy", "draining")


@dataclass(slots=True)
class Burst:
    """One burst and what was seen of it."""

    url: str
    name: str
    calls: int
    answered: int = 0
    failed: int = 0
    most_instances: int = 0
    most_queued: int = 0
    latencies_s: list[float] = field(default_factory=list)

    def saw(self, status: dict[str, Any]) -> int:
        """Take a status into account. Returns the number of instances in it."""
        instances: int = sum(status["instances"][state] for state in STATES)
        self.most_instances = max(self.most_instances, instances)
        self.most_queued = max(self.most_queued, status["queued"])
        return instances

    async def fire(self) -> None:
        """All calls at once, each on its own connection."""
        await asyncio.gather(*(self._call() for _ in range(self.calls)))

    async def _call(self) -> None:
        began = time.monotonic()
        try:
            status, _ = await self._get(f"/fn/{self.name}")
        except ConnectionError:
            self.failed += 1
            return
        self.latencies_s.append(time.monotonic() - began)
        if status == OK:
            self.answered += 1
        else:
            self.failed += 1

    async def look(self) -> dict[str, Any]:
        """The function's status now. Raises UserError."""
        try:
            _, body = await self._get(f"/v1/functions/{self.name}/status")
            status: dict[str, Any] = json.loads(body)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"the status of {self.name} cannot be had: {error}") from error
        return status

    async def _get(self, path: str) -> tuple[int, bytes]:
        where = urlsplit(self.url)
        return await get(path, host=where.hostname, port=where.port, timeout_s=CALL_TIMEOUT_S)


async def show_burst(burst: Burst, *, idle_s: float) -> str:
    """Fire, show, and wait until the instances are gone again. Returns the outcome in words.

    Raises UserError when a call failed or instances stay.
    """
    began = time.monotonic()
    answered_s = 0.0
    with display(burst, began) as show:
        firing = asyncio.create_task(burst.fire())
        while True:
            status = await burst.look()
            instances = burst.saw(status)
            show(status)
            if firing.done() and not answered_s:
                firing.result()
                answered_s = time.monotonic() - began
            if answered_s and instances == 0:
                break
            if answered_s and time.monotonic() - began > answered_s + idle_s + GONE_MARGIN_S:
                raise UserError(f"{instances} instances still run {idle_s + GONE_MARGIN_S:.0f} s after the burst")
            await asyncio.sleep(LOOK_S)  # a table that is watched is drawn by the clock
    if burst.answered != burst.calls:
        raise UserError(f"{burst.failed} of {burst.calls} calls failed")
    return (
        f"{burst.answered} of {burst.calls} answered in {answered_s:.2f} s, the slowest after "
        f"{max(burst.latencies_s):.2f} s; up to {burst.most_queued} queued; "
        f"instances 0 -> {burst.most_instances} -> 0 after {time.monotonic() - began:.1f} s"
    )


@contextmanager
def display(burst: Burst, began: float) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows a status: in place on a terminal, else a line whenever it is another one."""
    columns = ("TIME", "ANSWERED", *COLUMNS[1:])

    def cells(status: dict[str, Any]) -> list[str]:
        return [f"{time.monotonic() - began:.1f} s", str(burst.answered), *row(burst.name, status)[1:]]

    if sys.stdout.isatty():
        from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

        with Live() as live:
            yield lambda status: live.update(make_table(columns, [cells(status)], NUMBERS))
        return

    last: list[str] = []

    def line(status: dict[str, Any]) -> None:
        nonlocal last
        new = cells(status)
        if new[1:] != last[1:]:
            last = new
            print("   " + plain(new, columns).rstrip(), flush=True)

    print("   " + plain(columns, columns), flush=True)
    yield line
