"""Which entries to ask Redis for next: a pure decision, told afterwards what came.

XREADGROUP's COUNT holds for each stream, so a read over both queues may lease twice the room. While nothing waits
in the async queue that cannot happen, and one blocking read serves both. Once async events were seen, the sync
queue is read first, alone and without blocking, and async gets the room that is left; under a sync load that fills
every read, async gets each `ASYNC_TURN_EVERY`th one, so that it is never starved.
"""

from __future__ import annotations

from forebay_common.limits import BLOCK_MS

BOTH = "both"
SYNC_ONLY = "sync"
ASYNC_ONLY = "async"
CONTROL_ONLY = "control"
ASYNC_TURN_EVERY = 8


class Read:
    """One read: `queues` (the control stream is always with them), entries for each, and how long to block in ms."""

    __slots__ = ("block_ms", "count", "queues")

    def __init__(self, queues: str, count: int, block_ms: int) -> None:
        self.queues = queues
        self.count = count
        self.block_ms = block_ms


class ReadingOrder:
    """Remembers what the last reads brought."""

    __slots__ = ("_async_turn", "_backlog", "_full_reads")

    def __init__(self) -> None:
        self._backlog = False
        self._async_turn = False
        self._full_reads = 0

    def next(self, room: int, *, control_due: bool) -> Read | None:
        """The next read, or None for none now.

        `room`: entries that handler processes could take at once. `control_due`: the control stream was not looked
        at for a while.
        """
        if room <= 0:
            return Read(CONTROL_ONLY, 1, 0) if control_due else None
        if not self._backlog:
            return Read(BOTH, room, BLOCK_MS)
        return Read(ASYNC_ONLY if self._async_turn else SYNC_ONLY, room, 0)

    def saw(self, read: Read, sync_entries: int, async_entries: int) -> None:
        """What a read brought."""
        if read.queues == BOTH:
            self._backlog = async_entries > 0
            self._async_turn = False
        elif read.queues == SYNC_ONLY:
            full = sync_entries >= read.count
            self._full_reads = self._full_reads + 1 if full else 0
            self._async_turn = not full or self._full_reads >= ASYNC_TURN_EVERY
        elif read.queues == ASYNC_ONLY:
            self._backlog = async_entries > 0
            self._async_turn = False
            self._full_reads = 0
