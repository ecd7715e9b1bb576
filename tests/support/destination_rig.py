"""A controller whose functions have destinations, and the ends of events for it to tell of."""

import secrets
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from forebay_common.frames import ReplyFrame
from forebay_common.outbox import OutboxEntry, read_outbox
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS, Invocation
from forebay_common.redis_client import command
from forebay_common.spec import AsyncSpec, FunctionSpec
from forebay_controller.outbound_rules import OutboundRules
from support.controller_rig import Rig, until
from support.queue_side import event, records
from support.waiting import wait_until_async

LOOPBACK = OutboundRules.of(allow_http=True, allowed=["127.0.0.1"])
RESULT = b'{"done": true}'


class DestinationRig(Rig):
    """What a test of destinations does beside starting the controller."""

    def __init__(self, redis: Redis, prefix: str, rules: OutboundRules = LOOPBACK) -> None:
        super().__init__(redis, prefix, outbound_rules=rules)

    async def function(self, **settings: Any) -> FunctionSpec:
        """An active function with such members of AsyncSpec."""
        return self.change(await self.create(), **settings)

    def change(self, spec: FunctionSpec, **settings: Any) -> FunctionSpec:
        """The same function with other ones."""
        changed = replace(spec, state="Active", async_=AsyncSpec(**settings))
        self.source.put(changed)
        return changed

    async def end(
        self,
        spec: FunctionSpec,
        status: str = "succeeded",
        *,
        reason: str = "",
        result: bytes = RESULT,
        body: bytes | None = None,
        entry_id: str = "*",
        wake: bool = True,
        **record: Any,
    ) -> Invocation:
        """An event that has just ended as `finish_async` leaves it; `body`: its payload, under a claim."""
        queue = self.queue(spec)
        flags = FLAG_DESTINATION_SUCCESS | FLAG_DESTINATION_FAILURE
        ended = event(**{"flags": flags, "attempt": 1, **record})
        if body is not None:
            ended.payload, ended.claim = None, f"body:{ended.invocation_id.hex()}"
            await command(self.redis, "SET", queue.keys.body(ended.invocation_id.hex()), body, "EX", 3_600)
        frame = ReplyFrame(token=bytes(16), payload=result).encode()
        fields = ("r", ended.encode(), "s", status, "reason", reason, "f", frame)
        await command(self.redis, "XADD", queue.outbox, entry_id, *fields)
        if wake:
            await self.wake(spec)
        return ended

    async def end_many(self, spec: FunctionSpec, count: int, status: str = "succeeded") -> None:
        """Several ends, of which the controller hears at once."""
        for _ in range(count):
            await self.end(spec, status, wake=False)
        await self.wake(spec)

    async def outbox(self, spec: FunctionSpec) -> list[OutboxEntry]:
        """What waits."""
        return await read_outbox(self.redis, self.queue(spec), limit=1_000)

    async def emptied(self, spec: FunctionSpec, timeout_s: float = 10.0) -> None:
        """Wait until nothing waits any more."""

        async def empty() -> bool:
            return not await read_outbox(self.redis, self.queue(spec), limit=1)

        await wait_until_async(empty, "the outbox is empty", timeout_s)

    async def dead(self, spec: FunctionSpec) -> list[str]:
        """The reasons of the dead letters."""
        entries = await command(self.redis, "XRANGE", self.queue(spec).dead, "-", "+")
        return [fields[b"reason"].decode() for _, fields in entries]

    async def events(self, spec: FunctionSpec) -> list[Invocation]:
        """The events in a function's queue."""
        return await records(self.redis, self.queue(spec).async_)

    def counted(self, spec: FunctionSpec, kind: str, outcome: str) -> float:
        """How often telling a kind of destination came to this."""
        return self._metric("forebay_destination_records_total", spec, kind=kind, outcome=outcome)

    async def counts(self, spec: FunctionSpec, kind: str, outcome: str, times: int) -> None:
        """Wait until it has come to this so often; it is counted just after the outbox has changed."""
        await until(lambda: self.counted(spec, kind, outcome) == times, f"{outcome}: {times}")

    def pending(self, spec: FunctionSpec) -> float:
        """How many ends wait, by the controller's own metrics."""
        return self._metric("forebay_destination_pending", spec)

    async def refused(self, spec: FunctionSpec, kind: str, times: int = 1) -> None:
        """Wait until a destination has not taken a record so often."""
        await until(lambda: self.counted(spec, kind, "failed") >= times, f"it was tried {times} times")

    def _metric(self, name: str, spec: FunctionSpec, **labels: str) -> float:
        labels |= {"namespace": spec.namespace, "function": spec.name}
        return self.controller.metrics.registry.get_sample_value(name, labels) or 0.0

    def new_name(self) -> str:
        """A name that nothing has."""
        return f"n{secrets.token_hex(4)}"
