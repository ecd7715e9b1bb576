"""/v1/invocations: what became of an async event, and calling one off.

Whoever may invoke a function may ask: the answers are for its callers. An id of another namespace's function, or of one
that the credential may not invoke, is as unknown as one that nobody has.
"""

import asyncio
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from forebay_common.events import CANCELLED, CancelResult, EventState, cancel_event, find_event
from forebay_common.names import ID_PREFIX_BYTES
from forebay_common.queue import VersionQueue, send_control
from forebay_common.spec import FunctionSpec
from forebay_controller import event_input, event_json
from forebay_controller.gate import context_of
from forebay_controller.invocation_watch import ENDED, InvocationWatch, TooManyWaitingError
from forebay_controller.management import Queues
from forebay_controller.v1_errors import V1Error
from forebay_controller.v1_event_models import InvocationOutput
from forebay_controller.v1_models import ErrorOutput

WAIT_MAX_S = 30
RETRY_AFTER_S = 1
CANCEL_SEEN_S = 5.0
"""How long an answer waits for the end of an event whose handler process is being ended."""
CANCEL_AGAIN_S = 1.0
"""An instance that was told may have handed the event back, or another one may have it by now: it is told again."""

Id = Annotated[str, "as x-amzn-RequestId and invocationId gave it"]
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorOutput, "description": "No invocation id, or no such wait"},
    404: {"model": ErrorOutput, "description": "No such invocation, or not any more"},
    429: {"model": ErrorOutput, "description": "Too many wait; with Retry-After"},
}
_CANCELS: dict[int | str, dict[str, Any]] = {
    **_ERRORS,
    202: {"model": InvocationOutput, "description": "It is still running; its instance has been told"},
    409: {"model": ErrorOutput, "description": "It has ended already"},
}


class _Found(NamedTuple):
    spec: FunctionSpec
    queue: VersionQueue
    state: EventState


class InvocationsApi:
    """The routes under /v1/invocations and /invocations, which is the same."""

    def __init__(self, queues: Queues) -> None:
        self._redis = queues.redis
        self.watch = InvocationWatch(queues.redis)
        self.router = APIRouter(tags=["events"])
        for prefix in ("/v1", ""):
            path = f"{prefix}/invocations/{{invocation_id}}"
            self.router.add_api_route(
                path, self.get_invocation, methods=["GET"], response_model=InvocationOutput, responses=_ERRORS
            )
            self.router.add_api_route(
                f"{path}/cancel", self.cancel, methods=["POST"], response_model=InvocationOutput, responses=_CANCELS
            )

    async def get_invocation(
        self,
        invocation_id: Id,
        request: Request,
        wait: Annotated[
            float,
            Query(ge=0, le=WAIT_MAX_S, allow_inf_nan=False, description="Seconds to wait for its end before answering"),
        ] = 0,
    ) -> Response:
        """The status of an async event, and its result for an hour (or as the platform is set) after its end."""
        ident = event_input.invocation_id(invocation_id)
        found = await self._find(ident, request)
        if wait and found.state.status not in ENDED:
            found = await self._later(found, ident, wait, request)
        return _answer(found, ident)

    async def cancel(self, invocation_id: Id, request: Request) -> Response:
        """Call an async event off: one that waits never runs, of one that runs the handler's process is ended."""
        ident = event_input.invocation_id(invocation_id)
        found = await self._find(ident, request)
        await self._cancel(found.queue, ident)
        (state,) = await find_event(self._redis, found.queue, [ident])
        if state is None:
            raise _unknown(ident)
        if state.status in ENDED and state.status != CANCELLED:
            text = f"The invocation {event_json.invocation_text(ident)} has ended already: it {state.status}"
            raise V1Error("conflict", text)
        return _answer(found._replace(state=state), ident, 200 if state.status in ENDED else 202)

    async def _cancel(self, queue: VersionQueue, ident: bytes) -> None:
        """Call an event off; returns when its end is seen, or after a while."""
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + CANCEL_SEEN_S
        while (left_s := deadline_s - clock()) > 0:
            cancelled = await cancel_event(self._redis, queue, ident)
            if cancelled.result is not CancelResult.RUNNING:
                return
            message = {"command": "cancel", "invocation_id": ident.hex()}
            await send_control(self._redis, queue.keys, cancelled.instance, message)
            try:
                state = await self.watch.until_ended(queue, ident, min(left_s, CANCEL_AGAIN_S))
            except TooManyWaitingError:
                return
            if state is None or state.status in ENDED:
                return

    async def _later(self, found: _Found, ident: bytes, wait_s: float, request: Request) -> _Found:
        """The same at its end, or after `wait_s`; a client that leaves makes room for another."""
        ended = asyncio.create_task(self.watch.until_ended(found.queue, ident, wait_s))
        left = asyncio.create_task(_left(request))
        try:
            await asyncio.wait((ended, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not ended.done():
                ended.cancel()
            await asyncio.wait((ended, left))
        if ended.cancelled():
            raise ClientDisconnect
        try:
            state = ended.result()
        except TooManyWaitingError:
            text = "Too many wait for invocations already: ask without wait, or again in a moment"
            raise V1Error("too_many", text, retry_after_s=RETRY_AFTER_S) from None
        if state is None:
            raise _unknown(ident)
        return found._replace(state=state)

    async def _find(self, ident: bytes, request: Request) -> _Found:
        """An event among the functions that the request may invoke. Raises V1Error."""
        context = context_of(request.scope)
        for spec in context.functions.by_id_prefix(ident[:ID_PREFIX_BYTES]):
            if context.grant.allows_invoking(spec.name):
                queue = VersionQueue(context.functions.keys(spec))
                (state,) = await find_event(self._redis, queue, [ident])
                if state is not None:
                    return _Found(spec, queue, state)
        raise _unknown(ident)


def _answer(found: _Found, ident: bytes, status: int = 200) -> Response:
    text = event_json.invocation_json(event_json.invocation_text(ident), found.spec.name, found.state)
    # What a function returned stands in it: no page may take it for anything but data.
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(text, status, headers, media_type="application/json")


def _unknown(ident: bytes) -> V1Error:
    return V1Error("not_found", f"There is no invocation {event_json.invocation_text(ident)}, or not any more")


async def _left(request: Request) -> None:
    """Returns when the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
