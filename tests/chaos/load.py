"""The callers: each sends its call at its time, and writes down what it was told and how long it took."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from .plan import CallPlan

ANSWER_MAX_S = 40.0
"""A caller that has heard nothing for so long is not answered any more."""
TRY_FOR_S = 15.0
TRY_AGAIN_S = 0.3
HEADERS = {"authorization": "test", "content-type": "application/json"}


@dataclass(slots=True)
class Cancellation:
    """An event was called off: asked at `sent_s`, answered at `answered_s`, with what stood in the answer."""

    sent_s: float
    answered_s: float = 0.0
    http_status: int = 0
    status: str = ""
    attempts: int = 0

    @property
    def done(self) -> bool:
        """Whether the event was said to have ended by it."""
        return self.http_status == httpx.codes.OK and self.status == "cancelled"


@dataclass(slots=True)
class Call:
    """A call that was sent: to `url` at `sent_s` (monotonic), answered at `answered_s`.

    `status` 0: the connection broke, or there was no answer; `failure` says how. `error`: X-Amz-Function-Error.
    `text`: the answer's beginning. `invocation_id`: as the answer has it. `echoed`: it is the call's own, whole.
    """

    plan: CallPlan
    url: str
    sent_s: float
    answered_s: float = 0.0
    status: int = 0
    failure: str = ""
    error: bool = False
    text: str = ""
    invocation_id: str = ""
    echoed: bool = False
    cancellation: Cancellation | None = None

    @property
    def accepted(self) -> bool:
        """Whether it is an event that the platform has promised to run."""
        return not self.plan.sync and self.status == httpx.codes.ACCEPTED

    @property
    def unsent(self) -> bool:
        """Whether nobody can have got it."""
        return self.failure.startswith("ConnectError")

    @property
    def settled(self) -> bool:
        """Whether its caller knows: anything but a broken connection, and a platform that is away or too busy."""
        return self.status not in {0, httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}


class Load:
    """Sends the calls of a plan to two gateways; `calls` are those that were sent, each try of them."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.calls: list[Call] = []
        self._urls = urls

    async def run(self, plans: Sequence[CallPlan]) -> None:
        """Send each call at its time from now; returns when every caller knows how it went."""
        began_s = time.monotonic()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        async with (
            httpx.AsyncClient(timeout=ANSWER_MAX_S, limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for plan in plans:
                await asyncio.sleep(max(0.0, began_s + plan.at_s - time.monotonic()))
                group.create_task(self._call(client, plan))

    async def _call(self, client: httpx.AsyncClient, plan: CallPlan) -> None:
        """One caller: it tries again, at the gateways in turn, where nobody has got it, and with an idempotency key."""
        gateway, until_s = plan.gateway, time.monotonic() + TRY_FOR_S
        call = await self._send(client, plan, gateway)
        while (call.unsent or (plan.key and not call.settled)) and time.monotonic() < until_s:
            await asyncio.sleep(TRY_AGAIN_S)
            gateway = 1 - gateway
            call = await self._send(client, plan, gateway)
        if call.accepted and plan.cancel_s is not None:
            await asyncio.sleep(plan.cancel_s)
            await self._cancel(client, call)

    async def _send(self, client: httpx.AsyncClient, plan: CallPlan, gateway: int) -> Call:
        filler = "x" * plan.filler_bytes
        event = {
            "id": plan.ident,
            "work_s": plan.work_s,
            "fails": plan.fails,
            "poison": plan.function.poison,
            "filler": filler,
        }
        call = Call(plan, self._urls[gateway], 0.0)
        path = f"/2015-03-31/functions/{plan.function.name}/invocations"
        content = json.dumps(event)
        self.calls.append(call)
        call.sent_s = time.monotonic()
        try:
            answer = await client.post(call.url + path, content=content, headers=HEADERS | _options(plan))
        except httpx.TransportError as error:
            call.failure = f"{type(error).__name__}: {error}"
        else:
            call.status = answer.status_code
            call.error = "x-amz-function-error" in answer.headers
            call.invocation_id = answer.headers.get("x-amzn-requestid", "")
            call.text = answer.text[:400]
            call.echoed = answer.content == json.dumps({"id": plan.ident, "filler": filler}).encode()
        call.answered_s = time.monotonic()
        return call

    async def _cancel(self, client: httpx.AsyncClient, call: Call) -> None:
        """Call an event off; whoever does not hear what came of it does not know."""
        call.cancellation = cancellation = Cancellation(time.monotonic())
        try:
            answer = await client.post(f"{call.url}/v1/invocations/{call.invocation_id}/cancel", headers=HEADERS)
        except httpx.TransportError:
            return
        cancellation.answered_s = time.monotonic()
        cancellation.http_status = answer.status_code
        if answer.status_code in {httpx.codes.OK, httpx.codes.ACCEPTED}:
            document = answer.json()
            cancellation.status, cancellation.attempts = document["status"], document["attempts"]


def _options(plan: CallPlan) -> dict[str, str]:
    """The headers that say what a call asks for."""
    headers = {"x-forebay-wait-ms": str(int(plan.wait_s * 1000))} if plan.sync else {"x-amz-invocation-type": "Event"}
    if plan.key:
        headers["idempotency-key"] = f'"{plan.key}"'
    if plan.group:
        headers["x-forebay-group"] = plan.group
    if plan.delay_s:
        headers["x-forebay-delay"] = str(plan.delay_s)
    return headers
