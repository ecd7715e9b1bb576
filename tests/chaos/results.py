"""What the platform says of accepted events when all is done: `GET /v1/invocations/ID`, for whoever asks later."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from .load import HEADERS

AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Result:
    """How an event is said to have ended. `status` "": it is not known. `ident`: the one in its result, "" for none."""

    status: str = ""
    attempts: int = 0
    reason: str = ""
    ident: str = ""


async def results(url: str, invocation_ids: Iterable[str]) -> dict[str, Result]:
    """What is said of each. Raises httpx.HTTPError when the platform does not answer."""
    room = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=30, trust_env=False) as client:

        async def one(invocation_id: str) -> tuple[str, Result]:
            async with room:
                return invocation_id, await _result(client, invocation_id)

        return dict(await asyncio.gather(*map(one, invocation_ids)))


async def _result(client: httpx.AsyncClient, invocation_id: str) -> Result:
    answer = await client.get(f"/v1/invocations/{invocation_id}")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return Result()
    document = answer.raise_for_status().json()
    ident = (document["result"] or {}).get("id", "")
    return Result(document["status"], document["attempts"], document["reason"], ident)
