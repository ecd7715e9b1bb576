"""The one way of a call into the queue and back: Invoke and `/fn` differ only in what they make of its outcome.

Nothing here waits for Redis but the caller: a call is written, the future it waits on is settled by its reply
frame, by its deadline, by its client leaving, or by Redis refusing it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine
from typing import Any, Protocol

import hiredis

from forebay_common import frames, limits, logs, record, scripts
from forebay_common.routing import RoutingEntry
from forebay_common.tlv import CLAIM, INLINE, pack_field
from forebay_gateway import admission, counters, lambda_errors, wake
from forebay_gateway.counters import Counters, FunctionCounters
from forebay_gateway.deadlines import Deadlines
from forebay_gateway.identifiers import RandomSource, uuid_text
from forebay_gateway.lambda_errors import ClientLeft, Refusal
from forebay_gateway.redis_link import NotConnected, RedisLink, RedisUnavailable, Sink, ignore, sink_of
from forebay_gateway.replies import Reply, ReplyReader, Waiting
from forebay_gateway.resp import bulk, head, pack
from forebay_gateway.table import Function, FunctionTable, Route

AWAY = "Redis is not reachable, so the call was not accepted"
MAY_RUN = "The connection to Redis was lost before the call was confirmed: it may or may not run"
STOPPED = "The gateway stopped before the call was answered: it may or may not run"

_log = logs.get(__name__)
_HEADER = record.HEADER.pack
_INLINE = bytes((INLINE,))
_TOKEN_HEAD = pack_field(record.TAG_REPLY_TOKEN, bytes(16))[:-16]
_LINE = b"\r\n"
_ASYNC_LENGTHS = 2
"""The queue's and the delayed set's."""


class Connection(Protocol):
    """The client's connection, as far as a waiting call needs it: it calls `left` on the call it finds in `call`."""

    call: "SyncCall | None"
    lost: bool


class SyncCall(Waiting):
    """A sync call from its admission to its answer.

    `entry_id` is its place in the stream once Redis has told it. `over`: nobody waits any more, so the entry is to
    be taken back as soon as its place is known.
    """

    __slots__ = ("body_key", "dispatcher", "entry_id", "function", "invocation_id", "over", "slot", "stream")

    def __init__(self, dispatcher: "Dispatcher", function: Function, token: bytes, invocation_id: bytes) -> None:
        super().__init__(token, function.base, dispatcher.loop.create_future())
        self.dispatcher = dispatcher
        self.function = function
        self.invocation_id = invocation_id
        self.entry_id: bytes | None = None
        self.stream = b""
        self.body_key = b""
        self.over = False
        self.slot = 0

    def fail(self, error: Exception) -> None:
        """Settle the call with an error unless it is settled."""
        if not self.future.done():
            self.future.set_exception(error)

    def appended(self, reply: Any) -> None:
        """Sink of the XADD."""
        if type(reply) is bytes:
            self.entry_id = reply
            if self.over:
                self.dispatcher.take_back(self)
        elif reply is None:
            self.dispatcher.drop_body(self.body_key)
            self.fail(lambda_errors.deleted(self.function.entry.arn))
        elif isinstance(reply, RedisUnavailable):
            self.fail(lambda_errors.unconfirmed(MAY_RUN))
        else:
            self.dispatcher.drop_body(self.body_key)
            self.fail(lambda_errors.unavailable(f"Redis refused the call: {reply}"))

    def due(self) -> None:
        """The caller's wait is over: whether the call has started decides what it is told."""
        if self.entry_id is None:
            self.over = True
            self.fail(lambda_errors.unconfirmed(MAY_RUN))
        else:
            self.dispatcher.cancel(self, self._cancelled)

    def left(self) -> None:
        """The client has closed its connection."""
        self.fail(ClientLeft())

    def taken_back(self, reply: Any) -> None:
        """Sink of the cancellation: count what it came to."""
        totals = self.dispatcher.totals
        if reply == 1:
            totals.cancelled += 1
            return
        totals.not_cancelled += 1
        if isinstance(reply, hiredis.ReplyError):
            fields = {"invocation_id": uuid_text(self.invocation_id), "function": self.function.key}
            _log.warning("a call could not be cancelled: %s", reply, extra=fields)

    def _cancelled(self, reply: Any) -> None:
        self.taken_back(reply)
        self.entry_id = None
        self.fail(lambda_errors.not_started() if reply == 1 else lambda_errors.wait_over())


class Dispatcher:
    """Admits calls, writes them into the queue and waits for their replies."""

    def __init__(
        self,
        *,
        commands: RedisLink,
        replies: ReplyReader,
        table: FunctionTable,
        deadlines: Deadlines,
        totals: Counters,
        waiting_max: int,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = RandomSource()
        self._commands = commands
        self._waiting = replies.waiting
        self._table = table
        self._deadlines = deadlines
        self.totals = totals
        self._waiting_max = waiting_max

    def known_function(self, key: str) -> Function | None:
        """A function by `NAMESPACE/NAME`, if it is in the table here."""
        return self._table.get(key)

    async def function(self, key: str) -> Function | None:
        """A function by `NAMESPACE/NAME`, or None, which is counted. Raises Refusal when Redis is needed and away."""
        found = self.known_function(key)
        if found is not None:
            return found
        try:
            found = await self._table.find(key)
        except RedisUnavailable:
            raise lambda_errors.unavailable(AWAY) from None
        if found is None:
            self.totals.unknown_functions += 1
        return found

    def sync(
        self,
        function: Function,
        route: Route,
        payload: bytes,
        *,
        invocation_id: bytes,
        qualified: bool = False,
        log_tail: bool = False,
        extras: bytes = b"",
        asked_wait_ms: int = 0,
        connection: Connection | None = None,
    ) -> Coroutine[Any, Any, Reply]:
        """Run a call and give its reply to await; the function's own failure is a reply too (`error_kind`).

        `qualified`: the caller named the version, so the handler's ARN does as well. `extras` are packed fields of
        the record (`record.TAG_…`). `asked_wait_ms` 0 means the function's own rule. Raises Refusal for every other
        outcome, and ClientLeft when `connection` was lost.
        """
        now_s = self.loop.time()
        entry, load = function.entry, function.load
        refusal = admission.sync_refusal(
            entry,
            len(payload),
            own=load.sync_waiting,
            others=load.sync_sample.others(now_s),
            waiting_total=self.totals.waiting,
            waiting_max=self._waiting_max,
            now_ms=time.time() * 1000,
        )
        if refusal is not None:
            self._sample_sync(function, route, now_s)
            raise counted(function, refusal)
        wait_ms = admission.wait_ms(entry, route.timeout_ms, asked_wait_ms)
        call = SyncCall(self, function, self.random.take(), invocation_id)
        flags = record.FLAG_LOG_TAIL if log_tail else 0
        fixed = _HEADER(
            record.VERSION, record.KIND_SYNC, flags, 0, 0, route.revision, wait_ms, route.timeout_ms, 0, invocation_id
        )
        fields = route.qualified_fields if qualified else route.fields
        call.stream = route.sync_key
        try:
            call.body_key = self._append(
                function, route.sync_head, b"".join((fixed, _TOKEN_HEAD, call.token, fields, extras)), payload,
                invocation_id, limits.CLAIM_TTL_S, call.appended,
            )  # fmt: skip
        except NotConnected:
            raise counted(function, lambda_errors.unavailable(AWAY)) from None
        load.sync_waiting += 1
        self._sample_sync(function, route, now_s)
        if wake.sync_wanted(load.sync_waiting, entry.capacity, entry.max_capacity):
            self._wake(function, now_s, wake.SYNC_SPACING_S)
        self._deadlines.add(call, now_s + wait_ms / 1000)
        return self._answer(call, connection, now_s)

    async def accept_async(
        self,
        function: Function,
        route: Route,
        payload: bytes,
        *,
        invocation_id: bytes,
        qualified: bool = False,
        extras: bytes = b"",
    ) -> None:
        """Put an event into the queue; returns once Redis has it. Raises Refusal when it has not been accepted.

        The event outlives the caller, so its payload's own key outlives the event's maximum age.
        """
        now_s = self.loop.time()
        entry, load = function.entry, function.load
        queued = load.async_sample.others(now_s) + load.async_since
        refusal = admission.async_refusal(entry, len(payload), queued)
        if refusal is not None:
            self._sample_async(function, route, now_s)
            raise counted(function, refusal)
        age_ms = entry.async_age_ms or limits.ASYNC_AGE_MAX_S * 1000
        fixed = _HEADER(
            record.VERSION, record.KIND_ASYNC, 0, 0, 0, route.revision, age_ms, route.timeout_ms, 0, invocation_id
        )
        fields = route.async_qualified_fields if qualified else route.async_fields
        appended: asyncio.Future[Any] = self.loop.create_future()
        settle = sink_of(appended)

        def sink(reply: Any) -> None:
            # Here and not where it is awaited: a sample of the length that follows in the same write counts it too.
            if type(reply) is bytes:
                load.async_since += 1
            settle(reply)

        body_key = b""
        try:
            body_key = self._append(
                function, route.async_head, b"".join((fixed, fields, extras)), payload,
                invocation_id, limits.CLAIM_TTL_S + age_ms // 1000, sink,
            )  # fmt: skip
            self._sample_async(function, route, now_s)
            self._wake(function, now_s, wake.ASYNC_SPACING_S)
            entry_id = await appended
        except NotConnected:
            raise counted(function, lambda_errors.unavailable(AWAY)) from None
        except RedisUnavailable:
            raise counted(function, lambda_errors.unavailable(MAY_RUN)) from None
        except hiredis.ReplyError as error:
            self.drop_body(body_key)
            raise counted(function, lambda_errors.unavailable(f"Redis refused the event: {error}")) from None
        if entry_id is None:
            self.drop_body(body_key)
            raise counted(function, lambda_errors.deleted(entry.arn))
        function.counters.outcomes[counters.ACCEPTED] += 1

    def cancel(self, call: SyncCall, sink: Sink) -> None:
        """Take an entry back unless it has been leased; `sink` gets 1 or 0, or what went wrong."""
        assert call.entry_id is not None
        keys = (call.stream, call.body_key) if call.body_key else (call.stream,)
        command = pack("EVALSHA", scripts.CANCEL.sha, len(keys), *keys, call.entry_id)
        try:
            self._commands.write((command,), sink)
        except NotConnected as error:
            sink(error)

    def take_back(self, call: SyncCall) -> None:
        """Nobody waits for this call any more: it need not run, unless it has been leased."""
        call.over = True
        if call.entry_id is not None:
            self.cancel(call, call.taken_back)

    def drop_body(self, body_key: bytes) -> None:
        """Delete the payload of a call that is not in the queue; its expiry does the same later."""
        if body_key:
            with contextlib.suppress(NotConnected):
                self._commands.write((pack("UNLINK", body_key),), ignore)

    async def _answer(self, call: SyncCall, connection: Connection | None, accepted_s: float) -> Reply:
        """Wait for an appended call to be settled, whatever settles it."""
        function, totals = call.function, self.totals
        self._waiting[call.token] = call
        totals.waiting += 1
        function.counters.waiting += 1
        if connection is not None:
            connection.call = call
            if connection.lost:
                call.left()
        try:
            reply = await call.future
        except ClientLeft:
            function.counters.outcomes[counters.LEFT] += 1
            self.take_back(call)
            raise
        except asyncio.CancelledError:
            # Only a gateway that stops, and whose time for that is up, cancels requests.
            self.take_back(call)
            raise counted(function, lambda_errors.unconfirmed(STOPPED)) from None
        except Refusal as refusal:
            raise counted(function, refusal) from None
        finally:
            if connection is not None:
                connection.call = None
            self._waiting.pop(call.token, None)
            self._deadlines.remove(call)
            totals.waiting -= 1
            function.counters.waiting -= 1
            function.load.sync_waiting -= 1
        observe(function.counters, reply, self.loop.time() - accepted_s)
        not_run = refusal_of(reply, function.entry, time.time() * 1000)
        if not_run is not None:
            raise counted(function, not_run)
        return reply

    def _append(
        self,
        function: Function,
        stream_head: bytes,
        record_head: bytes,
        payload: bytes,
        invocation_id: bytes,
        body_ttl_s: int,
        sink: Sink,
    ) -> bytes:
        """Append a record, its payload inline or, when it is large, under a key of its own, which is returned.

        Raises NotConnected.
        """
        if len(payload) <= limits.CLAIM_CHECK_BYTES:
            length = len(record_head) + len(_INLINE) + len(payload)
            self._commands.write((stream_head, b"%d\r\n" % length, record_head, _INLINE, payload, _LINE), sink)
            return b""
        claim = b"body:" + invocation_id.hex().encode()
        body_key = function.base + b":" + claim
        whole = record_head + pack_field(CLAIM, claim)
        parts = (
            head(5), bulk("SET"), bulk(body_key), b"$%d\r\n" % len(payload), payload, _LINE,
            bulk("EX"), bulk(body_ttl_s),
            stream_head, b"%d\r\n" % len(whole), whole, _LINE,
        )  # fmt: skip
        self._commands.write(parts, ignore, sink)
        return body_key

    def _sample_sync(self, function: Function, route: Route, now_s: float) -> None:
        """Ask for the length of the sync stream, in the same write as the call itself, unless that was just done."""
        load = function.load
        if not load.sync_sample.wanted(now_s):
            return

        def seen(reply: Any) -> None:
            if type(reply) is int:
                load.sync_sample.seen(reply, load.sync_waiting, self.loop.time())

        load.sync_sample.asked_s = now_s
        with contextlib.suppress(NotConnected):
            self._commands.write((route.sync_length,), seen)

    def _sample_async(self, function: Function, route: Route, now_s: float) -> None:
        """The same for the events, also those that wait for a retry; events accepted since are counted on top."""
        load = function.load
        if not load.async_sample.wanted(now_s):
            return
        lengths: list[int] = []

        def seen(reply: Any) -> None:
            if type(reply) is not int:
                return
            lengths.append(reply)
            if len(lengths) == _ASYNC_LENGTHS:
                load.async_sample.seen(sum(lengths), 0, self.loop.time())
                load.async_since = 0

        load.async_sample.asked_s = now_s
        with contextlib.suppress(NotConnected):
            self._commands.write((route.async_length, route.delayed_length), seen, seen)

    def _wake(self, function: Function, now_s: float, spacing_s: float) -> None:
        """Tell the controller to look at a function, now or as the burst's trailing hint."""
        load = function.load
        if now_s - load.wake_s > wake.QUIET_S:
            load.wake_run = 0
        spacing_s = wake.grown_spacing_s(spacing_s, load.wake_run)
        decision = wake.decide(now_s, load.wake_s, spacing_s, trailing=load.trailing_wake)
        if decision == "now":
            self._publish_wake(function)
        elif decision == "later":
            load.trailing_wake = True
            self.loop.call_later(load.wake_s + spacing_s - now_s, self._publish_wake, function)

    def _publish_wake(self, function: Function) -> None:
        function.load.trailing_wake = False
        function.load.wake_s = self.loop.time()
        function.load.wake_run += 1
        with contextlib.suppress(NotConnected):
            self._commands.write((function.wake,), ignore)


def counted(function: Function, refusal: Refusal) -> Refusal:
    """The refusal, counted for its function."""
    function.counters.outcomes[refusal.outcome] += 1
    return refusal


def observe(found: FunctionCounters, reply: Reply, latency_s: float) -> None:
    """Count a reply, and the durations of one that ran."""
    outcome = _RAN.get(reply.error_kind)
    if outcome is None:
        return
    found.outcomes[outcome] += 1
    found.latency.observe(latency_s)
    found.duration.observe(reply.duration_us / 1e6)
    if reply.flags & frames.FLAG_COLD:
        found.cold_start.observe(reply.init_us / 1e6)


_RAN = {
    frames.ERROR_NONE: counters.OK,
    frames.ERROR_FUNCTION: counters.FUNCTION_ERROR,
    frames.ERROR_INSTANCE_LOST: counters.INSTANCE_LOST,
}


def refusal_of(reply: Reply, entry: RoutingEntry, now_ms: float) -> Refusal | None:
    """The refusal that a reply stands for, None for one that is the function's own result or failure. Pure."""
    kind = reply.error_kind
    if kind in _RAN:
        return None
    if kind == frames.ERROR_CANNOT_START:
        reason = reply.payload.decode(errors="replace")
        return lambda_errors.cannot_start(reason, math.ceil((entry.retry_at_ms - now_ms) / 1000))
    if kind == frames.ERROR_EXPIRED:
        return lambda_errors.not_started()
    if kind == frames.ERROR_DELETED:
        return lambda_errors.deleted(entry.arn)
    return lambda_errors.failed(reply.payload.decode(errors="replace"))
