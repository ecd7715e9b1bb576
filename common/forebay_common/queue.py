"""The controller's side of the queue: making and removing it, looking at it, and talking to instances.

What happens to the work of a dead instance is in `recovery.py`, the function table in `function_table.py`. The
protocol as a whole is described in docs/queue-protocol.md.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from forebay_common import limits, scripts
from forebay_common.keys import GROUP, FunctionKeys, PlatformKeys
from forebay_common.record import Invocation
from forebay_common.redis_client import checked, command, pipeline, run, run_many
from forebay_common.redis_cluster import holder_of
from forebay_common.tlv import CodecError

CONTROLLER_CONSUMER = "controller"
"""The consumer under which a controller takes sync calls that it answers itself; no instance has this id."""

CONTROL_FIELD = "c"
PROMOTE_BATCH = 100
_CONTROL_MAX_ENTRIES = 100
_SCAN_ROUNDS_MAX = 10_000
_SCAN_COUNT = 1_000
_DEAD_PAGE = 100
_HASH_BYTES = 16
_WAKE_POLL_S = 5.0
_WAKE_PINGS = 2
_RECONNECT_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VersionQueue:
    """The queues of one function version: the function's keys and the version's name."""

    keys: FunctionKeys
    version: str = "$LATEST"

    @property
    def sync(self) -> str:
        """Stream of sync calls."""
        return self.keys.sync(self.version)

    @property
    def async_(self) -> str:
        """Stream of async events."""
        return self.keys.async_(self.version)

    @property
    def delayed(self) -> str:
        """Sorted set of events that wait for a later time."""
        return self.keys.delayed(self.version)

    @property
    def dead(self) -> str:
        """Stream of dead letters."""
        return self.keys.dead(self.version)

    @property
    def live(self) -> str:
        """Hash of where each event is."""
        return self.keys.live(self.version)

    @property
    def ended(self) -> str:
        """Stream of how events ended."""
        return self.keys.ended(self.version)

    @property
    def outbox(self) -> str:
        """Stream of ended events whose destination has not been told."""
        return self.keys.outbox(self.version)

    @property
    def groups(self) -> str:
        """Hash of the groups that have an event which is not ended."""
        return self.keys.groups(self.version)

    def group(self, group_hash: bytes) -> str:
        """List of a group's waiting events; without a group the async stream, which stands in for it in KEYS."""
        return self.keys.group(self.version, group_hash) if group_hash else self.async_

    def ending(self, group_hash: bytes) -> tuple[str, ...]:
        """The keys that a script needs to end a leased event: the first ones of `finish_async`, `reclaim_async`."""
        ends = (self.live, self.ended, self.outbox, self.groups, self.group(group_hash))
        return (self.async_, self.delayed, self.dead, *ends)

    def body(self, claim: str) -> tuple[str, ...]:
        """The key of a claimed payload, as the last of KEYS; none without a claim."""
        return (f"{self.keys.base}:{claim}",) if claim else ()


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream: its length, pending entries by consumer, and the age of the oldest entry nobody was given."""

    length: int
    oldest_age_ms: int | None = None
    pending: Mapping[str, int] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        """Entries that an instance holds."""
        return sum(self.pending.values())

    @property
    def queued(self) -> int:
        """Entries that nobody holds; exact, since acknowledgement and deletion are one step."""
        return max(0, self.length - self.in_flight)


@dataclass(frozen=True, slots=True)
class QueueState:
    """One version's queues at one moment. `delayed_due_in_ms` is None when nothing is delayed.

    `grouped`: events that wait for their group's turn. `ended`: events whose result is kept.
    """

    sync: StreamState
    async_: StreamState
    delayed: int = 0
    delayed_due_in_ms: int | None = None
    dead: int = 0
    outbox: int = 0
    grouped: int = 0
    ended: int = 0

    def held_by(self, consumer: str) -> int:
        """How many entries one instance holds."""
        return self.sync.pending.get(consumer, 0) + self.async_.pending.get(consumer, 0)


@dataclass(frozen=True, slots=True)
class InstanceReport:
    """An instance's heartbeat. `state` is starting, ready, draining or failed; durations in microseconds.

    `busy_us` is how long its calls took in all; `handler_us` what of it was in the handlers' own code, None from an
    instance of a release that does not tell. `init_failure`: why no handler of it comes up, which its callers are
    answered with; "" when one does.

    `async_…` count what became of the async events it ended, by the outcomes of `finish_async`.
    """

    state: str
    reason: str = ""
    init_failure: str = ""
    in_flight: int = 0
    done: int = 0
    busy_us: int = 0
    handler_us: int | None = None
    init_us: int = 0
    pid: int = 0
    revision: int = 0
    started_ms: int = 0
    async_done: int = 0
    async_retry: int = 0
    async_dead: int = 0
    async_expired: int = 0
    async_cancelled: int = 0


@dataclass(frozen=True, slots=True)
class Promotion:
    """What `promote` did: events moved, and when the next is due (0: at once, None: nothing is delayed)."""

    moved: int
    due_in_ms: int | None


async def create_queues(redis: Redis, queue: VersionQueue) -> None:
    """Make a version's streams and their group; what is there already stays as it is.

    Raises redis.exceptions.RedisError.
    """
    create = ("XGROUP", "CREATE")
    streams = (queue.sync, queue.async_)
    for answer in await pipeline(redis, [(*create, stream, GROUP, "0", "MKSTREAM") for stream in streams]):
        if isinstance(answer, ResponseError) and str(answer).startswith("BUSYGROUP"):
            continue
        checked([answer])


async def observe(redis: Redis, queues: Sequence[VersionQueue]) -> list[QueueState | None]:
    """The state of each version's queues, in one round trip; None where the queues do not exist.

    Raises redis.exceptions.RedisError.
    """
    answers = await run_many(
        redis,
        [(scripts.OBSERVE, _observed(queue), ()) for queue in queues],
    )
    return [_queue_state(answer) for answer in answers]


def _observed(queue: VersionQueue) -> tuple[str, ...]:
    return (queue.sync, queue.async_, queue.delayed, queue.dead, queue.outbox, queue.groups, queue.ended)


def _queue_state(answer: Any) -> QueueState | None:
    if answer is None:
        return None
    sync, async_, (delayed, due_in_ms), *counts = answer
    return QueueState(_stream_state(*sync), _stream_state(*async_), delayed, _or_none(due_in_ms), *counts)


def _stream_state(length: int, age_ms: int, consumers: list[bytes]) -> StreamState:
    pending = {consumers[at].decode(): int(consumers[at + 1]) for at in range(0, len(consumers), 2)}
    return StreamState(length, _or_none(age_ms), pending)


def _or_none(number: int) -> int | None:
    """-1 stands for "none" in what the scripts return."""
    return None if number < 0 else number


async def read_instances(
    redis: Redis, instances: Sequence[tuple[FunctionKeys, str]]
) -> dict[str, InstanceReport | None]:
    """The heartbeats of instances, by id, in one round trip; None where there is none (yet, or any more).

    Raises redis.exceptions.RedisError.
    """
    answers = checked(await pipeline(redis, [("HGETALL", keys.instance(ident)) for keys, ident in instances]))
    return {ident: _report(answer) for (_, ident), answer in zip(instances, answers, strict=True)}


_REPORT_WORDS = ("reason", "init_failure")
_REPORT_NUMBERS = [name for name in InstanceReport.__dataclass_fields__ if name not in {"state", *_REPORT_WORDS}]


def _report(answer: dict[bytes, bytes]) -> InstanceReport | None:
    fields = {name.decode(): value.decode(errors="replace") for name, value in answer.items()}
    if "state" not in fields:
        return None
    numbers = {name: int(fields[name]) for name in _REPORT_NUMBERS if fields.get(name, "").isdecimal()}
    reason, init_failure = (fields.get(name, "") for name in _REPORT_WORDS)
    return InstanceReport(fields["state"], reason, init_failure, **numbers)


async def send_control(redis: Redis, keys: FunctionKeys, instance_id: str, message: Mapping[str, Any]) -> bool:
    """Tell an instance something, e.g. {"command": "drain"}; False when it is not (or no longer) there.

    Raises redis.exceptions.RedisError.
    """
    entry_id = await command(
        redis,
        *("XADD", keys.control(instance_id), "NOMKSTREAM", "MAXLEN", "~", _CONTROL_MAX_ENTRIES, "*"),
        *(CONTROL_FIELD, json.dumps(message, separators=(",", ":"))),
    )
    return entry_id is not None


async def promote(redis: Redis, queue: VersionQueue, limit: int = PROMOTE_BATCH) -> Promotion:
    """Move delayed events that are due to the async queue. Raises redis.exceptions.RedisError."""
    moved, due_in_ms = await run(redis, scripts.PROMOTE, (queue.delayed, queue.async_, queue.live), (limit,))
    return Promotion(moved, _or_none(due_in_ms))


async def trim_dead_letters(redis: Redis, queue: VersionQueue, dead: int) -> int:
    """Drop the oldest dead letters above `DEAD_LETTERS_MAX`, with their bodies.

    `dead` is how many an observation found: without too many there is nothing to ask Redis. Gives how many were
    dropped; at most a page of them, so call it again while it gives any. Raises redis.exceptions.RedisError.
    """
    if dead <= limits.DEAD_LETTERS_MAX:
        return 0
    length: int = await command(redis, "XLEN", queue.dead)
    over = min(length - limits.DEAD_LETTERS_MAX, _DEAD_PAGE)
    if over <= 0:
        return 0
    entries: list[tuple[bytes, dict[bytes, bytes]]] = await command(
        redis, "XRANGE", queue.dead, "-", "+", "COUNT", over
    )
    calls = [(scripts.DISCARD, (queue.dead, *_body(queue, fields[b"r"])), (ident,)) for ident, fields in entries]
    return sum(await run_many(redis, calls))


def _body(queue: VersionQueue, record: bytes) -> tuple[str, ...]:
    try:
        return queue.body(Invocation.decode(record).claim)
    except CodecError as error:
        # A newer release's record: its body goes with its own TTL.
        _log.warning("dead letter cannot be read: %s", error)
        return ()


async def delete_function_keys(redis: Redis, keys: FunctionKeys, versions: Sequence[str] = ("$LATEST",)) -> None:
    """Remove everything of a deleted function. Its gateways' entry and its instances are gone before.

    First what has no TTL and is known by name, the spec last: a controller that dies here finds it and goes on.
    Then whatever else stands under the tag (bodies, results, heartbeats: each would also end by its TTL), by SCAN
    with a bound. Raises redis.exceptions.RedisError.
    """
    index: dict[bytes, bytes] = await command(redis, "HGETALL", keys.code_index())
    chunks = [keys.code(sha.decode(), at) for sha, entry in index.items() for at in range(json.loads(entry)["chunks"])]
    for queue in (VersionQueue(keys, version) for version in versions):
        # Without the async stream no event is accepted any more, so no other group's list is made.
        await command(redis, "UNLINK", queue.sync, queue.async_)
        groups: list[bytes] = await command(redis, "HKEYS", queue.groups)
        lists = [queue.group(group) for group in groups if len(group) == _HASH_BYTES]
        for at in range(0, len(lists), _SCAN_COUNT):
            await command(redis, "UNLINK", *lists[at : at + _SCAN_COUNT])
        await command(redis, "UNLINK", queue.delayed, queue.dead, queue.live, queue.ended, queue.outbox, queue.groups)
    if chunks:
        await command(redis, "UNLINK", *chunks)
    await _unlink_tag(redis, keys)
    await command(redis, "UNLINK", keys.code_index(), keys.spec())


async def _unlink_tag(redis: Redis, keys: FunctionKeys) -> None:
    pattern = "".join(f"\\{char}" if char in "*?[]\\^" else char for char in keys.base) + ":*"
    last = {keys.code_index().encode(), keys.spec().encode()}
    cursor: Any = 0
    server = await holder_of(redis, keys.base)
    for _ in range(_SCAN_ROUNDS_MAX):
        cursor, found = await command(server, "SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
        remove = [key for key in found if key not in last]
        if remove:
            await command(redis, "UNLINK", *remove)
        if int(cursor) == 0:
            return
    _log.warning("a deleted function's last keys are left to their TTL", extra={"function": keys.base})


async def wakes(redis: Redis, platform: PlatformKeys) -> AsyncGenerator[str | None]:
    """`NAMESPACE/NAME/UID` of functions that need another look, as they are announced; endless.

    None comes first and after each reconnection: announcements may have been missed, so look at every function.
    A lost connection is taken up again; between attempts nothing is yielded.
    """
    while True:
        async with redis.pubsub() as channel:
            try:
                await channel.subscribe(platform.wake_channel)
                unanswered = 0
                # A server that hangs, or a host that is gone, tells nobody.
                while unanswered < _WAKE_PINGS:
                    message = await channel.get_message(timeout=_WAKE_POLL_S)
                    if message is None:
                        await channel.ping()
                        unanswered += 1
                        continue
                    unanswered = 0
                    if message["type"] == "subscribe":
                        yield None
                    elif message["type"] == "message":
                        yield message["data"].decode()
                _log.warning("lost the wake channel: no answer")
            except (RedisConnectionError, RedisTimeoutError) as error:
                _log.warning("lost the wake channel: %s", error)
        await asyncio.sleep(_RECONNECT_S)
