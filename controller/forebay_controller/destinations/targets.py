"""Takes one record to its destination: another function, a Redis stream, or a URL."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from forebay_common import limits, record, scripts
from forebay_common.keys import PlatformKeys
from forebay_common.names import function_arn, id_prefix
from forebay_common.outbox import OutboxEntry
from forebay_common.queue import VersionQueue
from forebay_common.record import Invocation
from forebay_common.redis_client import checked, command, pipeline, run
from forebay_common.spec import FunctionSpec
from forebay_controller.destination_text import FUNCTION, STREAM, URL, Destination
from forebay_controller.destinations import document
from forebay_controller.destinations.decisions import (
    HOPS_MAX,
    REASON_CHAIN,
    REASON_FAILED,
    REASON_STREAMS,
    TOTAL_MAX,
)
from forebay_controller.destinations.signing import signature_headers, signing_secret
from forebay_controller.destinations.slots import Slots
from forebay_controller.destinations.streams import Streams, StreamsFullError
from forebay_controller.registry_rules import ACTIVE, destination_flags

if TYPE_CHECKING:
    from forebay_controller.outbound import Outbound

ACCEPTED_KEEP_S = 900
"""For so long a function does not take the same record twice: longer than a dead controller needs to be replaced."""
INLINE_MAX_BYTES = 64 * limits.KIB
"""A record with a larger payload is made in a thread: reading it through would hold up everything else."""
GROUPED_FIELD = "n"
"""Of the groups' hash: how many events wait for their turn."""
_HASH_BYTES = 16
_VERSION_4 = 0x40
_VARIANT = 0x80
_ACCEPTED = (0, 1)
"""What ACCEPT_ASYNC answers when the event is in the queue, now or since it was delivered before."""


class DeliveryError(Exception):
    """The destination did not take the record now; the message is for people and holds nothing it answered."""


class UndeliverableError(Exception):
    """The record can never be taken. `reason` is the dead letter's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What records are made and posted with.

    `make_outbound` gives the client that posts, when the first record has to be posted; called in a thread.
    `signing_key`: what functions' signing secrets are derived from.
    """

    region: str
    account: str
    signing_key: bytes
    make_outbound: "Callable[[], Outbound]"


class Targets:
    """Destinations of every kind. `functions()` are all of them by uid; `wake(uid)` has one looked at."""

    def __init__(
        self,
        redis: Redis,
        platform: PlatformKeys,
        functions: Callable[[], Mapping[str, FunctionSpec]],
        outgoing: Outgoing,
        wake: Callable[[str], None],
    ) -> None:
        self._redis = redis
        self._platform = platform
        self._functions = functions
        self._outgoing = outgoing
        self._wake = wake
        self._uids: dict[tuple[str, str], str] = {}
        self._outbound: Outbound | None = None
        self._streams = Streams(redis, platform)
        self._posts = Slots(TOTAL_MAX)
        self.writes = Slots(TOTAL_MAX)
        """For all that is no post."""

    def slots(self, namespace: str, destination: Destination) -> tuple[Slots, str]:
        """Of what a record for a destination must hold one, and for which receiver; all functions share them."""
        if destination.kind != URL:
            return self.writes, f"{namespace}/{destination.text}"
        # One server is one receiver, whatever its paths: never raises, also for what is no URL.
        return self._posts, re.split("[/?#]", destination.value.partition("://")[2], maxsplit=1)[0].lower()

    async def deliver(self, spec: FunctionSpec, entry: OutboxEntry, destination: Destination) -> None:
        """Give the record of a function's ended event to a destination; returns when it is taken.

        The same entry is the same record with the same ids, however often it is delivered. Raises DeliveryError,
        UndeliverableError, redis.exceptions.RedisError.
        """
        if destination.kind == FUNCTION and hops_of(entry.record) >= HOPS_MAX:
            text = f"the event was passed on from function to function {HOPS_MAX} times"
            raise UndeliverableError(REASON_CHAIN, text)
        arn = function_arn(self._outgoing.region, self._outgoing.account, spec.name)
        body = await self._record(spec, entry, arn)
        if destination.kind == FUNCTION:
            await self._to_function(spec, entry, destination.value, body)
        elif destination.kind == STREAM:
            await self._to_stream(spec, entry, destination.value, body)
        else:
            await self._to_url(spec, entry, destination.value, arn, body)

    async def _record(self, spec: FunctionSpec, entry: OutboxEntry, arn: str) -> bytes:
        payload = entry.record.payload
        if payload is None:
            base = self._platform.function(spec.namespace, spec.name, spec.uid).base
            payload = await command(self._redis, "GET", f"{base}:{entry.record.claim}")
        if payload is not None and len(payload) > INLINE_MAX_BYTES:
            return await asyncio.to_thread(document.invocation_record, entry, arn, payload)
        return document.invocation_record(entry, arn, payload)

    async def _to_function(self, source: FunctionSpec, entry: OutboxEntry, name: str, body: bytes) -> None:
        if len(body) > limits.ASYNC_REQUEST_MAX_BYTES:
            most = limits.ASYNC_REQUEST_MAX_BYTES
            raise UndeliverableError(REASON_FAILED, f"the record has {len(body)} bytes, an event may have {most}")
        target = self._find(source.namespace, name)
        if target is None:
            raise DeliveryError(f"there is no function {name}")
        if target.state != ACTIVE:
            raise DeliveryError(f"the function {name} is not active")
        queue = VersionQueue(self._platform.function(target.namespace, target.name, target.uid))
        if await self._waiting(queue) >= limits.ASYNC_QUEUE_MAX:
            raise DeliveryError(f"the queue of the function {name} is full")
        if not await self._accept(target, queue, entry, f"{source.uid}/{entry.entry_id.decode()}", body):
            raise DeliveryError(f"the function {name} was just deleted")
        self._wake(target.uid)

    async def _waiting(self, queue: VersionQueue) -> int:
        """How many events count for a queue's bound, as gateways count them."""
        lengths = [("XLEN", queue.async_), ("ZCARD", queue.delayed), ("XLEN", queue.outbox)]
        *found, grouped = checked(await pipeline(self._redis, [*lengths, ("HGET", queue.groups, GROUPED_FIELD)]))
        waiting: int = sum(found) + int(grouped or 0)
        return waiting

    async def _accept(
        self, target: FunctionSpec, queue: VersionQueue, entry: OutboxEntry, delivery: str, body: bytes
    ) -> bool:
        """Queue the event that `delivery` names, once; False when the function is deleted. Raises DeliveryError."""
        event = passed_on(entry.record, target, delivery, body, self._outgoing)
        claims = queue.body(event.claim)
        if claims:
            await command(self._redis, "SET", claims[0], body, "EX", limits.CLAIM_TTL_S + event.wait_ms // 1000)
        # No user's idempotency key has a NUL, so none stands where this one does.
        once = queue.keys.once(_hash(f"\0destination/{delivery}".encode()))
        accepted = await run(
            self._redis,
            scripts.ACCEPT_ASYNC,
            (queue.async_, queue.live, queue.delayed, queue.groups, queue.group(b""), once, *claims),
            (event.encode(), event.invocation_id, 0, b"", _hash(body), ACCEPTED_KEEP_S),
        )
        if accepted is not None and accepted[0] not in _ACCEPTED:
            raise DeliveryError(f"the queue of the function {target.name} did not take the event ({accepted[0]})")
        return accepted is not None

    async def _to_stream(self, source: FunctionSpec, entry: OutboxEntry, name: str, body: bytes) -> None:
        try:
            await self._streams.add(source.namespace, name, record_id(entry), body)
        except StreamsFullError as error:
            raise UndeliverableError(REASON_STREAMS, str(error)) from error

    async def _to_url(self, source: FunctionSpec, entry: OutboxEntry, url: str, arn: str, body: bytes) -> None:
        if self._outbound is None:
            self._outbound = await asyncio.to_thread(self._outgoing.make_outbound)
        # Only who posts pays for the client's import.
        from forebay_controller.outbound import OutboundError  # noqa: PLC0415
        from forebay_controller.outbound_rules import OutboundRefusedError  # noqa: PLC0415

        secret = signing_secret(self._outgoing.signing_key, source.uid)
        headers = {
            "content-type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": record_id(entry),
            "ce-source": arn,
            "ce-type": f"dev.forebay.invocation.{entry.status}",
            "ce-time": document.time_text(entry.ended_ms),
            **signature_headers(secret, record_id(entry), int(time.time()), body),
        }
        try:
            await self._outbound.post(url, body, headers)
        except (OutboundError, OutboundRefusedError) as error:
            raise DeliveryError(str(error)) from error

    def _find(self, namespace: str, name: str) -> FunctionSpec | None:
        """A function by name; where it was found last is looked at first."""
        functions = self._functions()
        known = functions.get(self._uids.get((namespace, name), ""))
        if known is not None and (known.namespace, known.name) == (namespace, name):
            return known
        for uid, spec in functions.items():
            if (spec.namespace, spec.name) == (namespace, name):
                self._uids[namespace, name] = uid
                return spec
        self._uids.pop((namespace, name), None)
        return None


def record_id(entry: OutboxEntry) -> str:
    """A record's own id: the event's, and which of its ends it was (one that was run again ends again)."""
    return f"{document.request_id(entry)}_{entry.entry_id.decode()}"


def hops_of(event: Invocation) -> int:
    """How often the event was passed on from function to function before it came here."""
    value = event.optional.get(record.TAG_HOPS, b"")
    return value[0] if value else 0


def passed_on(source: Invocation, target: FunctionSpec, delivery: str, body: bytes, outgoing: Outgoing) -> Invocation:
    """The event that tells a function of another one's end; `delivery` makes its id, so that it is always the same."""
    identity = bytearray(id_prefix(target.uid) + _hash(f"{target.uid}/{delivery}".encode()))[:_HASH_BYTES]
    identity[6] = identity[6] & 0x0F | _VERSION_4
    identity[8] = identity[8] & 0x3F | _VARIANT
    invocation_id = bytes(identity)
    inline = len(body) <= limits.CLAIM_CHECK_BYTES
    age_s = limits.ASYNC_AGE_MAX_S if target.async_.max_age_s is None else target.async_.max_age_s
    optional = {record.TAG_HOPS: bytes((hops_of(source) + 1,))}
    if record.TAG_TRACE_ID in source.optional:
        optional[record.TAG_TRACE_ID] = source.optional[record.TAG_TRACE_ID]
    return Invocation(
        kind=record.KIND_ASYNC,
        invocation_id=invocation_id,
        wait_ms=age_s * 1000,
        timeout_ms=target.timeout_s * 1000,
        payload=body if inline else None,
        claim="" if inline else f"body:{invocation_id.hex()}",
        revision=target.revision,
        flags=destination_flags(target.async_),
        arn=function_arn(outgoing.region, outgoing.account, target.name),
        optional=optional,
    )


def _hash(data: bytes) -> bytes:
    return sha256(data).digest()[:_HASH_BYTES]
