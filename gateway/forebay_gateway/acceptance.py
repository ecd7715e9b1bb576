"""Async events on their way into the queue: one script for each, all of one turn in a single write.

An event is accepted when Redis has said so, and not before. Whatever comes instead is a refusal that says whether the
event may run all the same.
"""

import asyncio
import contextlib
import random
import time
from typing import Any

import hiredis

from forebay_common import limits, record, scripts
from forebay_common.tlv import pack_field
from forebay_gateway import admission, counters, lambda_errors, wake
from forebay_gateway.call_options import PLAIN, CallOptions, Once
from forebay_gateway.durability import NotReplicated
from forebay_gateway.lambda_errors import Refusal
from forebay_gateway.queue_commands import LINE, Append, append, large_body_key
from forebay_gateway.redis_faults import AWAY, FULL, MAY_RUN, NOT_REPLICATED, UNKNOWN_SCRIPT, code_of, words_of
from forebay_gateway.redis_link import Commands, NotConnected, RedisUnavailable, ignore, sink_of
from forebay_gateway.resp import bulk, pack
from forebay_gateway.table import Function, Load, Route, script_head
from forebay_gateway.waking import Waker

SCRIPT_WAIT_S = 2.0
"""How long a call waits for the controller to load the scripts into a Redis that was restarted."""
SCRIPT_PAUSE_MIN_S = 0.05
SCRIPT_PAUSE_MAX_S = 0.25

_ACCEPTED = 0
_REPEATED = 1
_WITHOUT_BODY = 3
_PLACES = 4
"""How many keys `Route.accept_keys` has."""
_ID = LINE + b"$16\r\n"
"""Ends the record; the invocation id follows."""
_NOW = LINE + bulk(0) + bulk("")
"""No delay and no group, after the id."""


class Acceptance:
    """Puts events into queues.

    `once_retention_s`: how long an idempotency key stands for its event. `replicated`: `commands` gives replies that a
    replica stands behind.
    """

    def __init__(self, commands: Commands, waker: Waker, *, once_retention_s: int, replicated: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._commands = commands
        self._waker = waker
        self._retention = bulk(once_retention_s)
        self._replicated = replicated

    async def accept(
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
    ) -> bytes:
        """Put an event into the queue; gives its id once Redis has it: an earlier one's when it was there already.

        `extras` are packed fields of the record. Raises Refusal when it has not been accepted.
        """
        now_s = self._loop.time()
        entry, load = function.entry, function.load
        refusal = admission.async_refusal(entry, len(payload), load.async_sample.others(now_s) + load.async_since)
        if refusal is not None:
            self._sample(load, route, now_s)
            raise function.counted(refusal)
        start, end, delay_ms = route.accept_head, _NOW, 0
        body_key = large_body_key(function.base, payload, invocation_id)
        if options is not PLAIN or body_key:
            delay_ms = options.starts_in_ms(time.time() * 1000)
            start, end = self._special(function, route, options, delay_ms, once, body_key)
            if options.group:
                extras += pack_field(record.TAG_GROUP_HASH, options.group)
        fields = route.async_qualified_fields if qualified else route.async_fields
        made = append(
            function.base, start, b"".join((route.event_head, invocation_id, fields, extras)), payload,
            b"".join((_ID, invocation_id, end)), invocation_id=invocation_id,
            # The event outlives its caller, so its payload's own key outlives the event's maximum age.
            body_ttl_s=limits.CLAIM_TTL_S + (route.event_age_ms + delay_ms) // 1000,
        )  # fmt: skip
        answered: asyncio.Future[Any] = self._loop.create_future()
        try:
            self._write(function, made, answered)
            if once is not None and self._replicated:
                self._touch(function, invocation_id)
            self._sample(load, route, now_s)
            reply = await answered
        except (RedisUnavailable, hiredis.ReplyError) as error:
            reply = await self._otherwise(function, made, error)
        if type(reply) is list and reply[0] == _ACCEPTED:
            function.counters.outcomes[counters.ACCEPTED] += 1
            return invocation_id
        self._drop(made)
        if reply is None:
            raise function.counted(lambda_errors.deleted(entry.arn))
        if reply[0] == _WITHOUT_BODY:
            raise function.counted(lambda_errors.unavailable(words_of(made.body_error) if made.body_error else FULL))
        if reply[0] != _REPEATED:
            raise function.counted(lambda_errors.key_reused())
        function.counters.outcomes[counters.REPLAYED] += 1
        first_id: bytes = reply[1]
        return first_id

    def _special(
        self,
        function: Function,
        route: Route,
        options: CallOptions,
        delay_ms: int,
        once: Once | None,
        body_key: bytes,
    ) -> tuple[bytes, bytes]:
        """Start and end of the command for an event that asks for more than to be queued, or is large."""
        group = function.keys.group(route.version, options.group).encode() if options.group else route.async_key
        keys = [group]
        arguments = LINE + bulk(delay_ms) + bulk(options.group)
        if once is not None:
            keys.append(function.keys.once(once.key).encode())
            arguments += bulk(once.request) + self._retention
        if body_key:
            keys.append(body_key)
        head = script_head(scripts.ACCEPT_ASYNC, _PLACES + len(keys), 4 if once is None else 6)
        return head + route.accept_keys + b"".join(map(bulk, keys)) + b"$", arguments

    def _write(self, function: Function, made: Append, answered: asyncio.Future[Any]) -> None:
        """Write an event; `answered` gets the script's reply. Raises NotConnected."""
        load = function.load
        settle = sink_of(answered)

        def sink(reply: Any) -> None:
            # Here and not where it is awaited: a sample of the lengths that follows in the same write counts it too.
            if type(reply) is list and reply[0] == _ACCEPTED:
                load.async_since += 1
                # Not before the event is there, which the controller looks for at once: on a Redis Cluster the hint
                # goes to another node.
                self._waker.wake(function, self._loop.time(), wake.ASYNC_SPACING_S)
            settle(reply)

        def body_sink(reply: Any) -> None:
            made.body_error = reply if isinstance(reply, hiredis.ReplyError) else None

        if made.body:
            self._commands.write((made.body,), body_sink)
        self._commands.write(made.entry, sink)

    def _touch(self, function: Function, invocation_id: bytes) -> None:
        """Write something beside a repeatable event.

        A WAIT covers what its own connection has written. A repeat writes nothing, and yet its caller must hear only
        of an event that a replica has: one that another connection may have written a moment ago.
        """
        key = function.keys.body(invocation_id.hex())
        self._commands.write((pack("SET", f"{key}:0", "", "PX", 1),), ignore)

    async def _otherwise(self, function: Function, made: Append, error: Exception) -> Any:
        """The script's reply after all, for a Redis that did not know it; else raises the Refusal for `error`."""
        give_up_s = self._loop.time() + SCRIPT_WAIT_S
        pause_s = SCRIPT_PAUSE_MIN_S
        while code_of(error) == UNKNOWN_SCRIPT and self._loop.time() < give_up_s:
            # It did nothing, so calling it again accepts the event once.
            await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - jitter, no secret
            pause_s = min(2 * pause_s, SCRIPT_PAUSE_MAX_S)
            answered: asyncio.Future[Any] = self._loop.create_future()
            try:
                self._write(function, made, answered)
                return await answered
            except (RedisUnavailable, hiredis.ReplyError) as later:
                error = later
        raise function.counted(self._refusal(made, error)) from None

    def _refusal(self, made: Append, error: Exception) -> Refusal:
        """What the caller is told. The payload of an event that may run stays."""
        if isinstance(error, NotConnected):
            return lambda_errors.unavailable(AWAY)
        if isinstance(error, NotReplicated):
            return lambda_errors.unavailable(NOT_REPLICATED)
        if isinstance(error, RedisUnavailable):
            return lambda_errors.unavailable(MAY_RUN)
        self._drop(made)
        return lambda_errors.unavailable(words_of(error))

    def _drop(self, made: Append) -> None:
        """Delete the payload of an event that is not in the queue; its expiry does the same later."""
        if made.body_key:
            with contextlib.suppress(NotConnected):
                self._commands.write((pack("UNLINK", made.body_key),), ignore)

    def _sample(self, load: Load, route: Route, now_s: float) -> None:
        """Ask how many events there are, unless that was just done; those accepted since are counted on top."""
        if not load.async_sample.wanted(now_s):
            return
        found: list[int] = []

        def seen(reply: Any) -> None:
            if reply is not None and not isinstance(reply, (int, bytes)):
                return
            found.append(int(reply or 0))
            if len(found) == len(route.lengths):
                load.async_sample.seen(sum(found), 0, self._loop.time())
                load.async_since = 0

        load.async_sample.asked_s = now_s
        with contextlib.suppress(NotConnected):
            self._commands.write(route.lengths, *(seen,) * len(route.lengths))
