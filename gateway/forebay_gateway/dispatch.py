"""The one way of a call into the queue and back: Invoke and `/fn` differ only in what they make of its outcome.

Nothing here waits for Redis but the caller: a call is written, the future it waits on is settled by its reply
frame, by its deadline, by its client leaving, or by Redis refusing it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine
from typing import Any

from forebay_common import frames, limits, record, scripts
from forebay_common.routing import RoutingEntry
from forebay_gateway import admission, counters, lambda_errors, wake
from forebay_gateway.acceptance import Acceptance
from forebay_gateway.call_options import PLAIN, CallOptions, Once
from forebay_gateway.counters import Counters, FunctionCounters
from forebay_gateway.deadlines import Deadlines
from forebay_gateway.heartbeat import Heartbeat
from forebay_gateway.identifiers import RandomSource
from forebay_gateway.lambda_errors import ClientLeft, Refusal
from forebay_gateway.once_calls import OnceCall, Pollers
from forebay_gateway.queue_commands import LINE, Append, append
from forebay_gateway.redis_faults import AWAY
from forebay_gateway.redis_link import Commands, NotConnected, RedisUnavailable, Sink, ignore
from forebay_gateway.replies import Reply, ReplyReader, Settlement
from forebay_gateway.resp import pack
from forebay_gateway.sync_call import TOKEN_HEAD, Connection, SyncCall
from forebay_gateway.table import Function, FunctionTable, Route
from forebay_gateway.waking import Waker

STOPPED = "The gateway stopped before the call was answered: it may or may not run"

_HEADER = record.HEADER.pack


class Dispatcher:
    """Admits calls, writes them into the queue and waits for their replies."""

    def __init__(
        self,
        *,
        commands: Commands,
        replies: ReplyReader,
        table: FunctionTable,
        deadlines: Deadlines,
        totals: Counters,
        waker: Waker,
        events: Acceptance,
        heartbeat: Heartbeat,
        waiting_max: int,
        once_retention_s: int,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = RandomSource()
        self.pollers = Pollers(commands, self.loop)
        self._commands = commands
        self.replies = replies
        self._waiting = replies.waiting
        self._table = table
        self._deadlines = deadlines
        self.totals = totals
        self._waker = waker
        self._events = events
        self._heartbeat = heartbeat
        self._waiting_max = waiting_max
        self._once_retention_s = once_retention_s

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
        once: Once | None = None,
        connection: Connection | None = None,
    ) -> Coroutine[Any, Any, Reply]:
        """Run a call and give its reply to await; the function's own failure is a reply too (`error_kind`).

        `qualified`: the caller named the version, so the handler's ARN does as well. `extras` are packed fields of
        the record (`record.TAG_…`). `asked_wait_ms` 0 means the function's own rule. With `once` it runs unless it did
        before, and the reply may be that of a call before (`first_id`). Raises Refusal for every other outcome, and
        ClientLeft when `connection` was lost.
        """
        now_s, wait_ms = self._admitted(function, route, payload, asked_wait_ms)
        fields = (route.qualified_fields if qualified else route.fields) + extras
        flags = record.FLAG_LOG_TAIL if log_tail else 0
        try:
            if once is None:
                call = SyncCall(self, function, self.random.take(), invocation_id, self.loop.create_future())
                self._append(call, route, payload, wait_ms, flags, fields)
            else:
                call = OnceCall(
                    self, function, route, once, invocation_id, payload=payload, fields=fields, flags=flags,
                    due_s=now_s + wait_ms / 1000, retention_s=self._once_retention_s,
                )  # fmt: skip
                call.append()
        except NotConnected:
            raise function.counted(lambda_errors.unavailable(AWAY)) from None
        self._begin(call, route, connection, now_s, wait_ms)
        return self._answer(call)

    def start(
        self,
        function: Function,
        route: Route,
        payload: bytes,
        *,
        invocation_id: bytes,
        qualified: bool,
        connection: Connection,
        settlement: Settlement,
    ) -> SyncCall:
        """Run a plain call as `sync` does; `settlement` is told, who asks `outcome` then. Raises Refusal."""
        now_s, wait_ms = self._admitted(function, route, payload, 0)
        call = SyncCall(self, function, self.random.take(), invocation_id, settlement)
        try:
            self._append(call, route, payload, wait_ms, 0, route.qualified_fields if qualified else route.fields)
        except NotConnected:
            raise function.counted(lambda_errors.unavailable(AWAY)) from None
        self._begin(call, route, connection, now_s, wait_ms)
        return call

    def outcome(self, call: SyncCall, settled: Reply | BaseException) -> Reply:
        """What a call came to that was settled with this, and is over now.

        Raises Refusal, or ClientLeft when its connection was lost.
        """
        function = call.function
        self._end(call)
        if isinstance(settled, Reply):
            return self._counted(call, settled)
        if isinstance(settled, Refusal):
            raise function.counted(settled) from None
        self.take_back(call)
        if isinstance(settled, ClientLeft):
            function.counters.outcomes[counters.LEFT] += 1
            raise settled
        # Only a gateway that stops, and whose time for that is up, cancels requests.
        raise function.counted(lambda_errors.unconfirmed(STOPPED)) from None

    def stop(self) -> None:
        """The time of the calls that no task waits for is up."""
        for waiting in [*self._waiting.values()]:
            if isinstance(waiting, SyncCall):
                waiting.fail(asyncio.CancelledError())

    def accept_async(
        self,
        function: Function,
        route: Route,
        payload: bytes,
        *,
        invocation_id: bytes,
        qualified: bool = False,
        extras: bytes = b"",
        options: CallOptions = PLAIN,
        once: Once | None = None,
    ) -> Coroutine[Any, Any, bytes]:
        """Put an event into the queue, as `Acceptance.accept` does; gives the id it is accepted under to await."""
        return self._events.accept(
            function, route, payload, invocation_id=invocation_id, qualified=qualified, extras=extras, options=options,
            once=once,
        )  # fmt: skip

    def queued(self, function: Function) -> None:
        """A call of this function is in its queue now.

        Not before: the hint and the call go to different nodes of a Redis Cluster, and a large payload goes ahead of
        its call. A controller that looks too early finds nothing and does not come back until its own next tick.
        """
        entry, load = function.entry, function.load
        if wake.sync_wanted(load.sync_waiting, entry.capacity, entry.max_capacity):
            self._waker.wake(function, self.loop.time(), wake.SYNC_SPACING_S)

    def cancel(self, call: SyncCall, sink: Sink) -> None:
        """Take an entry back unless it has been leased; `sink` gets 1 or 0, or what went wrong."""
        assert call.entry_id is not None
        keys = call.keys
        command = pack("EVALSHA", scripts.CANCEL.sha, len(keys), *keys, call.entry_id)
        try:
            self._commands.write((command,), sink)
        except NotConnected as error:
            sink(error)

    def due_again(self, call: SyncCall, in_s: float) -> None:
        """Put a call that is due under a deadline once more."""
        self._deadlines.add(call, self.loop.time() + in_s)

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

    async def _answer(self, call: SyncCall) -> Reply:
        """Wait for a call to be settled, whatever settles it."""
        assert isinstance(call.future, asyncio.Future)
        try:
            settled: Reply | BaseException = await call.future
        except (ClientLeft, Refusal, asyncio.CancelledError) as error:
            settled = error
        return self.outcome(call, settled)

    def _admitted(self, function: Function, route: Route, payload: bytes, asked_wait_ms: int) -> tuple[float, int]:
        """The loop's time, and how long a call may wait that is admitted now, in ms. Raises Refusal."""
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
            raise function.counted(refusal)
        if self._heartbeat.missing:
            raise function.counted(lambda_errors.unavailable(self._heartbeat.missing))
        return now_s, admission.wait_ms(entry, route.timeout_ms, asked_wait_ms)

    def _begin(self, call: SyncCall, route: Route, connection: Connection | None, now_s: float, wait_ms: int) -> None:
        """A call that has been written waits from now on."""
        function, totals = call.function, self.totals
        call.accepted_s = now_s
        function.load.sync_waiting += 1
        self._sample_sync(function, route, now_s)
        self._deadlines.add(call, now_s + wait_ms / 1000)
        self._waiting[call.token] = call
        totals.waiting += 1
        function.counters.waiting += 1
        if connection is not None:
            call.connection = connection
            connection.call = call
            if connection.lost:
                call.left()

    def _end(self, call: SyncCall) -> None:
        """A call waits no more."""
        function, totals = call.function, self.totals
        if call.connection is not None:
            call.connection.call = None
        self._waiting.pop(call.token, None)
        self._deadlines.remove(call)
        totals.waiting -= 1
        function.counters.waiting -= 1
        function.load.sync_waiting -= call.queued
        call.ended()

    def _counted(self, call: SyncCall, reply: Reply) -> Reply:
        """A reply, counted. Raises Refusal when it stands for one."""
        function = call.function
        if reply.first_id:
            function.counters.outcomes[counters.REPLAYED] += 1
            return reply
        observe(function.counters, reply, self.loop.time() - call.accepted_s)
        not_run = refusal_of(reply, function.entry, time.time() * 1000)
        if not_run is not None:
            raise function.counted(not_run)
        return reply

    def write(self, call: SyncCall, made: Append) -> None:
        """Write a call; it is told of the replies. Raises NotConnected."""
        call.body_key = made.body_key
        if made.body:
            self._commands.write((made.body,), call.body_written)
        self._commands.write(made.entry, call.appended)

    def _append(self, call: SyncCall, route: Route, payload: bytes, wait_ms: int, flags: int, fields: bytes) -> None:
        """Write a call that is just appended. Raises NotConnected."""
        call.stream = route.sync_key
        fixed = _HEADER(
            record.VERSION, record.KIND_SYNC, flags, 0, 0, route.revision, wait_ms, route.timeout_ms, 0,
            call.invocation_id,
        )  # fmt: skip
        made = append(
            call.base, route.sync_head, b"".join((fixed, TOKEN_HEAD, call.token, fields)), payload, LINE,
            invocation_id=call.invocation_id, body_ttl_s=limits.CLAIM_TTL_S,
        )  # fmt: skip
        self.write(call, made)

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
