"""/v1/functions/NAME/dead-letters: events that were given up, for whoever manages the function."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from redis.exceptions import RedisError

from forebay_common import limits, logs
from forebay_common.dead_letters import DeadLetter, dead_payload, get_dead, list_dead, purge, redrive
from forebay_common.queue import VersionQueue
from forebay_common.redis_client import command
from forebay_common.spec import FunctionSpec
from forebay_controller import event_input, event_json
from forebay_controller.management import Queues
from forebay_controller.request_body import RequestBodies
from forebay_controller.v1_access import functions_of, require
from forebay_controller.v1_errors import V1Error
from forebay_controller.v1_event_models import (
    DeadLetterItem,
    DeadLetterList,
    DeadLetterOutput,
    PurgeOutput,
    RedriveInput,
    RedriveOutput,
)
from forebay_controller.v1_models import ErrorOutput

PAGE_MAX = 100
PAGES_MAX = 2 * limits.DEAD_LETTERS_MAX // PAGE_MAX + 1
"""More than there are dead letters of a function, also while nobody trims them."""
REASON_MAX_CHARS = 100

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorOutput, "description": "Refused; nothing changed"},
    404: {"model": ErrorOutput, "description": "No such function, or no such dead letter (any more)"},
}
_REDRIVE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": RedriveInput.model_json_schema()}},
    }
}
_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which dead letters are meant: of a reason ("" any), since and until a time in Unix ms (0: open)."""

    reason: str
    since_ms: int
    until_ms: int

    @classmethod
    def read(cls, reason: str, since: str, until: str) -> "_Filter":
        """From what a client wrote. Raises V1Error."""
        found = cls(reason, event_input.time_ms("since", since), event_input.time_ms("until", until))
        if found.until_ms and found.since_ms > found.until_ms:
            raise V1Error("invalid", "since is after until: no dead letter can be of that time")
        return found


class DeadLettersApi:
    """The routes under /v1/functions/NAME/dead-letters."""

    def __init__(self, queues: Queues, bodies: RequestBodies) -> None:
        self._redis = queues.redis
        self._wake_channel = queues.platform.wake_channel
        self._bodies = bodies
        self.router = APIRouter(tags=["events"])
        path = "/v1/functions/{name}/dead-letters"
        add = self.router.add_api_route
        add(path, self.list_dead_letters, methods=["GET"], responses=_ERRORS)
        add(path, self.purge_dead_letters, methods=["DELETE"], responses=_ERRORS)
        add(
            f"{path}/redrive",
            self.redrive_dead_letters,
            methods=["POST"],
            responses=_ERRORS,
            openapi_extra=_REDRIVE_BODY,
        )
        one = f"{path}/{{entry}}"
        add(one, self.get_dead_letter, methods=["GET"], response_model=DeadLetterOutput, responses=_ERRORS)
        add(one, self.delete_dead_letter, methods=["DELETE"], status_code=204, responses=_ERRORS)

    async def list_dead_letters(
        self,
        name: str,
        request: Request,
        *,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        after: Annotated[str, Query(description="The id that the page begins after: `next` of the one before")] = "",
        reason: Annotated[str, Query(max_length=REASON_MAX_CHARS)] = "",
        since: Annotated[str, Query(description="When they died: RFC 3339, or seconds since 1970")] = "",
        until: Annotated[str, Query(description="As since")] = "",
    ) -> DeadLetterList:
        """A function's dead letters, oldest first."""
        _, queue = self._queue(request, name)
        wanted = _Filter.read(reason, since, until)
        page = await list_dead(
            self._redis,
            queue,
            after=event_input.entry_id(after) if after else "",
            limit=limit,
            reason=wanted.reason,
            since_ms=wanted.since_ms,
            until_ms=wanted.until_ms,
        )
        # Megabytes of errors to be read would stall every other request.
        items = await asyncio.to_thread(_items, page.entries)
        return DeadLetterList(dead_letters=items, next=page.next or None)

    async def get_dead_letter(self, name: str, entry: str, request: Request) -> Response:
        """One dead letter with its event and its last error."""
        _, queue = self._queue(request, name)
        letter = await self._letter(queue, name, event_input.entry_id(entry))
        payload = await dead_payload(self._redis, queue, letter)
        # A megabyte of JSON would stall every other request.
        text = await asyncio.to_thread(event_json.dead_letter_json, letter, payload)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(text, headers=headers, media_type="application/json")

    async def redrive_dead_letters(self, name: str, request: Request) -> RedriveOutput:
        """Run dead letters again, as if they had just been accepted: one, several, all, or those that fit filters."""
        spec, queue = self._queue(request, name)
        async with self._bodies.read(request) as body:
            wanted = _read_redrive(body)
        filters = _Filter.read(wanted.reason, str(wanted.since), str(wanted.until))
        if wanted.ids is not None:
            ids = list(dict.fromkeys(event_input.entry_id(ident).encode() for ident in wanted.ids))
        else:
            # All of them are found first: one that dies again meanwhile is not run for ever.
            ids = [letter.entry_id async for letter in self._letters(queue, filters)]
        redriven = await self._redrive(spec, queue, ids)
        return RedriveOutput(redriven=redriven, missing=len(ids) - redriven)

    async def purge_dead_letters(self, name: str, request: Request) -> PurgeOutput:
        """Delete all of a function's dead letters for good."""
        spec, queue = self._queue(request, name)
        purged = await purge(self._redis, queue)
        await self._wake(spec)
        return PurgeOutput(purged=purged)

    async def delete_dead_letter(self, name: str, entry: str, request: Request) -> None:
        """Delete one dead letter for good."""
        spec, queue = self._queue(request, name)
        ident = event_input.entry_id(entry)
        if not await purge(self._redis, queue, [ident.encode()]):
            raise _no_letter(name, ident)
        await self._wake(spec)

    def _queue(self, request: Request, name: str) -> tuple[FunctionSpec, VersionQueue]:
        functions = functions_of(request, name)
        spec = require(functions, name)
        return spec, VersionQueue(functions.keys(spec))

    async def _redrive(self, spec: FunctionSpec, queue: VersionQueue, ids: Sequence[bytes]) -> int:
        """Batch by batch; says how far it came when Redis goes away. Raises V1Error."""
        redriven = 0
        try:
            for at in range(0, len(ids), PAGE_MAX):
                redriven += await redrive(self._redis, queue, ids[at : at + PAGE_MAX])
                await self._wake(spec)
        except RedisError as error:
            _log.warning("a redrive broke off: %s", error, extra={"function": spec.key})
            text = (
                f"Redis does not take it: {redriven} of {len(ids)} dead letters are queued again, perhaps some more; "
                "the others are dead letters still"
            )
            raise V1Error("unavailable", text, retry_after_s=1) from None
        return redriven

    async def _letter(self, queue: VersionQueue, name: str, entry: str) -> DeadLetter:
        (letter,) = await get_dead(self._redis, queue, [entry.encode()])
        if letter is None:
            raise _no_letter(name, entry)
        return letter

    async def _letters(self, queue: VersionQueue, filters: _Filter) -> AsyncIterator[DeadLetter]:
        after = ""
        for _ in range(PAGES_MAX):
            page = await list_dead(
                self._redis,
                queue,
                after=after,
                limit=PAGE_MAX,
                reason=filters.reason,
                since_ms=filters.since_ms,
                until_ms=filters.until_ms,
            )
            for letter in page.entries:
                yield letter
            if not page.next:
                return
            after = page.next

    async def _wake(self, spec: FunctionSpec) -> None:
        """The controller looks again: at what is queued, and at how many dead letters are left."""
        await command(self._redis, "PUBLISH", self._wake_channel, f"{spec.key}/{spec.uid}")


def _items(letters: Sequence[DeadLetter]) -> list[DeadLetterItem]:
    return [DeadLetterItem(**event_json.dead_letter_members(letter)) for letter in letters]


def _read_redrive(body: bytes) -> RedriveInput:
    """Raises V1Error."""
    try:
        wanted = RedriveInput.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        problems = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in found[:10]]
        raise V1Error("invalid", "; ".join(problems)) from error
    filtered = wanted.reason or wanted.since != "" or wanted.until != ""
    if (wanted.ids is not None) == wanted.all:
        raise V1Error("invalid", 'Say which: {"ids": [...]} for some, or {"all": true}, if need be with filters')
    if wanted.ids is not None and filtered:
        raise V1Error("invalid", "reason, since and until go with all, not with ids")
    return wanted


def _no_letter(name: str, entry: str) -> V1Error:
    return V1Error("not_found", f"The function {name[:200]} has no dead letter {entry}, or not any more")
