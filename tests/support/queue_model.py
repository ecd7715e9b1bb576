"""The model of the queue protocol, as docs/queue-protocol.md reads: where an entry can be, where each step takes it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.events import CANCELLED, DELAYED, FAILED, QUEUED, RUNNING, SUCCEEDED, find_event
from forebay_common.keys import GROUP, RECORD_FIELD
from forebay_common.queue import VersionQueue
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS, KIND_SYNC, Invocation
from forebay_common.recovery import ATTEMPTS_DEFAULT
from forebay_runtime.finishing import AGE_EXCEEDED, DEAD, DONE, EXPIRED, RELEASED, RETRIES_EXHAUSTED, RETRY
from forebay_runtime.finishing import CANCELLED as STOPPED

GROUPS = (b"a" * 16, b"b" * 16)
ALL_MAX = 1_000
LATER_MS = 3_600_000
LEASED = "leased"
WAITING = "waiting"
"""For its group's turn."""
BURIED = "buried"
OUTBOX = "outbox"
GONE = "gone"
HAS_TURN = frozenset({QUEUED, LEASED, DELAYED})
"""Where the event of a group is that has its turn."""
STATUS = {QUEUED: QUEUED, WAITING: QUEUED, LEASED: RUNNING, DELAYED: DELAYED}
Entries = list[tuple[bytes, dict[bytes, bytes]]]
CANCELLED_REASON = "Cancelled"
DESTINATION_FAILED = "DestinationFailed"
"""Why a dead letter is one whose event may have ended well."""


@dataclass(frozen=True)
class Place:
    """Where an entry is. `consumer` of a lease; `deleted`: only its lease is left, which holds nothing any more.

    `cancelled`: leased, and cancelled meanwhile. `result`: how it ended, "" when it has not or that is forgotten.
    """

    where: str
    consumer: str = ""
    deleted: bool = False
    attempt: int = 0
    reason: str = ""
    cancelled: bool = False
    result: str = ""

    @property
    def has_ended(self) -> bool:
        return self.where in {BURIED, OUTBOX, GONE}


@dataclass(eq=False)
class Item:
    """A sync call or an event as the protocol has it; `told`: error kinds of the frames that its caller was sent.

    `accepted_ms`, and whether that lay in the future. `turn`: its place among those that wait in its group.
    `key`: its idempotency key, b"" without one.
    """

    record: Invocation
    first_id: bytes
    entry_id: bytes
    place: Place = field(default_factory=lambda: Place(QUEUED))
    accepted_ms: int = 0
    for_later: bool = False
    turn: int = 0
    key: bytes = b""
    begun: bool = False
    cancelled: bool = False
    told: list[int] = field(default_factory=list)

    @property
    def is_sync(self) -> bool:
        return self.record.kind == KIND_SYNC

    @property
    def group(self) -> bytes:
        return self.record.group_hash

    def held_by(self, name: str) -> bool:
        return self.place.where == LEASED and self.place.consumer == name


@dataclass
class Seen:
    """Where an entry was found, under which id, with which record."""

    place: Place
    entry_id: bytes
    record: Invocation | None


class Look:
    """One look at all that Redis holds of a function's queues, each part held against what `live` says of it.

    Everything is read in one write: the model looks after each step. `replies`: the frames on the list `reply_list`.
    `times`: TTLs of `bodies` in s. `once`: what stands under `once_keys`.
    """

    def __init__(self, queue: VersionQueue, reply_list: str, bodies: Sequence[str], once_keys: Sequence[str]) -> None:
        self.queue = queue
        self.found: dict[bytes, Seen] = {}
        self.replies: list[bytes] = []
        self.times: list[int] = []
        self.once: list[bytes | None] = []
        self._live: dict[bytes, bytes] = {}
        self._streams = (queue.sync, queue.async_, queue.dead, queue.outbox, queue.ended)
        self._commands: list[Sequence[Any]] = [
            ("TIME",),
            ("LRANGE", reply_list, 0, -1),
            ("HGETALL", queue.live),
            ("HGETALL", queue.groups),
            ("ZRANGE", queue.delayed, 0, -1, "WITHSCORES"),
            *(("XRANGE", stream, "-", "+") for stream in self._streams),
            *(("LRANGE", queue.group(group), 0, -1) for group in GROUPS),
            *(("TTL", body) for body in bodies),
            *(("GET", key) for key in once_keys),
        ]
        self._counts = (len(self._streams), len(GROUPS), len(bodies), len(once_keys), 2)

    async def look(self, redis: Redis, items: Collection[Item]) -> dict[bytes, Seen]:
        """Every entry in Redis by its invocation id; `items` are those that the model knows."""
        async with redis.pipeline(transaction=False) as pipe:
            for parts in self._commands:
                pipe.execute_command(*parts)
            for stream in self._streams[:2]:
                pipe.xpending_range(stream, GROUP, "-", "+", ALL_MAX)
            answers = iter(await pipe.execute())
        now, self.replies, self._live, table, delayed = (next(answers) for _ in range(5))
        entries, lists, self.times, self.once, pending = ([next(answers) for _ in range(n)] for n in self._counts)
        for at in range(2):
            self._stream(self._streams[at], entries[at], pending[at], items)
        self._delayed(delayed, now[0] * 1000 + now[1] / 1000)
        self._groups(table, lists)
        for place, found in ((BURIED, entries[2]), (OUTBOX, entries[3])):
            for _, fields in found:
                record = Invocation.decode(fields[RECORD_FIELD.encode()])
                self._add(Place(place, attempt=record.attempt, reason=fields[b"reason"].decode()), b"", record)
        self._results(entries[4])
        assert not self._live, "live names nothing that is nowhere"
        return self.found

    def _add(self, place: Place, entry_id: bytes, record: Invocation) -> None:
        assert record.invocation_id not in self.found, "an entry is in one place"
        self.found[record.invocation_id] = Seen(place, entry_id, record)

    def _stream(self, stream: str, entries: Entries, pending: list[dict[str, Any]], items: Collection[Item]) -> None:
        holders = {entry["message_id"]: entry["consumer"].decode() for entry in pending}
        for entry_id, fields in entries:
            record = Invocation.decode(fields[RECORD_FIELD.encode()])
            holder = holders.pop(entry_id, "")
            marked = False
            if stream == self.queue.async_:
                said, _, mark = self._live.pop(record.invocation_id).partition(b" ")
                assert said == entry_id, "live knows an event's entry"
                assert mark in {b"", b"c"}
                marked = bool(mark)
            place = Place(LEASED if holder else QUEUED, holder, attempt=record.attempt, cancelled=marked)
            self._add(place, entry_id, record)
        for entry_id, holder in holders.items():
            leased = [item for item in items if item.held_by(holder) and item.entry_id == entry_id]
            [item] = [item for item in leased if item.is_sync == (stream == self.queue.sync)]
            self.found[item.record.invocation_id] = Seen(Place(LEASED, holder, deleted=True), entry_id, None)

    def _delayed(self, delayed: list[bytes], now_ms: float) -> None:
        for ident, score in zip(delayed[::2], delayed[1::2], strict=True):
            record = self._waits(ident, b"d")
            due = "due" if float(score) <= now_ms else "later"
            self._add(Place(DELAYED, attempt=record.attempt, reason=due), b"", record)

    def _waits(self, ident: bytes, kind: bytes) -> Invocation:
        """The record of an event that waits outside the stream."""
        said = self._live.pop(ident)
        record = Invocation.decode(said[1:])
        assert (said[:1], record.invocation_id) == (kind, ident)
        return record

    def _groups(self, table: dict[bytes, bytes], lists: list[list[bytes]]) -> None:
        """The groups' lists, and that of each group one event has the turn exactly while it has any to run."""
        with_turn = [
            seen.record.group_hash for seen in self.found.values() if seen.record and seen.place.where in HAS_TURN
        ]
        for group, idents in zip(GROUPS, lists, strict=True):
            for ident in idents:
                record = self._waits(ident, b"g")
                self._add(Place(WAITING, attempt=record.attempt), b"", record)
            assert with_turn.count(group) <= 1, "one event of a group has its turn"
            assert not idents or with_turn.count(group) == 1, "none waits for nobody"
            assert table.pop(group, b"") == (b"1" if group in with_turn else b"")
        assert int(table.pop(b"n", 0)) == sum(map(len, lists))
        assert not table

    def _results(self, ended: Entries) -> None:
        kept = 0
        for entry_id, fields in ended:
            ident = fields[b"i"]
            assert self._live.pop(ident) == b"e:" + entry_id
            kept += len(fields[b"f"])
            status, attempts, _, reason = fields[b"e"].decode().split(" ", 3)
            attempt = int(attempts)
            before = self.found.get(ident) or Seen(Place(GONE), b"", None)
            place = before.place
            assert place.has_ended, "what has ended runs no more"
            if place.where == GONE:
                place = replace(place, attempt=attempt, reason=reason)
            assert place.attempt == attempt
            assert place.reason in {reason, DESTINATION_FAILED}
            self.found[ident] = Seen(replace(place, result=status), b"", before.record)
        weight = kept + len(ended) * (limits.RESULTS_MAX_BYTES // limits.RESULTS_MAX)
        assert int(self._live.pop(b"kept", 0)) == weight, "what the results weigh is known"


async def check_states(redis: Redis, queue: VersionQueue, items: Collection[Item]) -> None:
    """What is told of each event is what became of it."""
    events = [item for item in items if not item.is_sync]
    states = await find_event(redis, queue, [item.record.invocation_id for item in events])
    for item, state in zip(events, states, strict=True):
        place = item.place
        status = STATUS.get(place.where, place.result)
        assert (state.status if state else "") == status
        if state is None:
            continue
        assert state.attempts == place.attempt + (place.where == LEASED)
        assert state.instance == place.consumer
        assert state.accepted_ms == item.accepted_ms


OUTCOMES = ((RETRY, LATER_MS), (DONE, 0), (RETRY, 0), (EXPIRED, 0), (RELEASED, 0), (STOPPED, 0), (DEAD, 0))


def _ended(item: Item, result: str, attempt: int, reason: str) -> Place:
    """Where an event's end takes it."""
    flag = {SUCCEEDED: FLAG_DESTINATION_SUCCESS, FAILED: FLAG_DESTINATION_FAILURE}.get(result, 0)
    where = OUTBOX if item.record.flags & flag else BURIED if result == FAILED else GONE
    return Place(where, attempt=attempt, reason=reason, result=result)


def after_finish(item: Item, outcome: str, delay_ms: int) -> Place:
    """Where an event goes when its holder finishes it so: the table of `finish_async`."""
    before = item.place.attempt
    started = before + (outcome not in {EXPIRED, RELEASED})
    if outcome == DONE:
        return _ended(item, SUCCEEDED, started, "")
    if outcome == DEAD:
        return _ended(item, FAILED, started, RETRIES_EXHAUSTED)
    if outcome == STOPPED or item.place.cancelled:
        return _ended(item, CANCELLED, started, CANCELLED_REASON)
    if outcome == EXPIRED:
        return _ended(item, FAILED, started, AGE_EXCEEDED)
    if outcome == RELEASED or not delay_ms:
        return Place(QUEUED, attempt=started)
    if delay_ms > item.record.wait_ms + (LATER_MS if item.for_later else 0):
        return _ended(item, FAILED, started, AGE_EXCEEDED)
    return Place(DELAYED, attempt=started, reason="later")


def after_cancel(item: Item) -> Place:
    """Where a cancelled event goes; one that is leased is marked."""
    place = item.place
    if place.where == LEASED:
        return replace(place, cancelled=True)
    if place.has_ended:
        return place
    return _ended(item, CANCELLED, place.attempt, CANCELLED_REASON)


def after_turn(item: Item) -> Place:
    """Where the event goes that has its group's turn from now on."""
    return Place(DELAYED, reason="later") if item.for_later else Place(QUEUED)


def reclaimed(item: Item) -> Place:
    """Where a lease of a dead instance goes: a call is answered, an event has been started once more."""
    if item.is_sync:
        return Place(GONE)
    started = item.place.attempt + 1
    if item.place.cancelled:
        return _ended(item, CANCELLED, started, CANCELLED_REASON)
    if started >= ATTEMPTS_DEFAULT:
        return _ended(item, FAILED, started, RETRIES_EXHAUSTED)
    return Place(QUEUED, attempt=started)


def order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)
