"""The callers: each sends one call once, at its time, and writes down what it was told and how long it took."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from .plan import CallPlan

ANSWER_MAX_S = 40.0
"""A caller that has heard nothing for so long is not answered any more."""


@dataclass(slots=True)
class Call:
    """A call that was sent: to `url` at `sent_s` (monotonic), answered at `answered_s`.

    `status` 0: the connection broke, or there was no answer; `failure` says how. `error`: X-Amz-Function-Error.
    `text`: the answer's beginning. `invocation_id`: 32 hexadecimal digits. `echoed`: it is the call's own, whole.
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

    @property
    def accepted(self) -> bool:
        """Whether it is an event that the platform has promised to run."""
        return not self.plan.sync and self.status == httpx.codes.ACCEPTED

    @property
    def unsent(self) -> bool:
        """Whether nobody can have got it."""
        return self.failure.startswith("ConnectError")


class Load:
    """Sends the calls of a plan to two gateways; `calls` are those that were sent."""

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
                group.create_task(self._send(client, plan))

    async def _send(self, client: httpx.AsyncClient, plan: CallPlan) -> None:
        filler = "x" * plan.filler_bytes
        event = {"id": plan.ident, "work_s": plan.work_s, "filler": filler}
        headers = {"authorization": "test", "content-type": "application/json"}
        if plan.sync:
            headers["x-forebay-wait-ms"] = str(int(plan.wait_s * 1000))
        else:
            headers["x-amz-invocation-type"] = "Event"
        call = Call(plan, self._urls[plan.gateway], 0.0)
        path = f"/2015-03-31/functions/{plan.function.name}/invocations"
        content = json.dumps(event)
        self.calls.append(call)
        call.sent_s = time.monotonic()
        try:
            answer = await client.post(call.url + path, content=content, headers=headers)
        except httpx.TransportError as error:
            call.failure = f"{type(error).__name__}: {error}"
        else:
            call.status = answer.status_code
            call.error = "x-amz-function-error" in answer.headers
            call.invocation_id = answer.headers.get("x-amzn-requestid", "").replace("-", "")
            call.text = answer.text[:400]
            call.echoed = answer.content == json.dumps({"id": plan.ident, "filler": filler}).encode()
        call.answered_s = time.monotonic()
