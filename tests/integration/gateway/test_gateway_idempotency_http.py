"""Idempotency keys on `/fn`: what makes two requests of a client the same, and two clients' requests others."""

import json
import secrets
from collections.abc import Sequence

import httpx
import pytest

from forebay_common.frames import ReplyFrame
from forebay_common.record import Invocation
from support.gateway_process import Deployed

REPLAYED = "idempotency-replayed"


def for_a(record: Invocation) -> Sequence[ReplyFrame]:
    return [ReplyFrame(token=record.reply_token, payload=b'{"statusCode": 200, "body": "for a"}')]


async def test_a_repeat_is_the_same_request_and_not_the_same_event(
    function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
) -> None:
    path = f"/fn/{function.name}/orders?x=1"

    def made(record: Invocation) -> Sequence[ReplyFrame]:
        answer = {"statusCode": 201, "headers": {"x-made": secrets.token_hex(4)}, "body": "made"}
        return [ReplyFrame(token=record.reply_token, payload=json.dumps(answer).encode())]

    async with function.served(made) as instance:
        first = await http.post(path, content=b"1", headers=key)
        second = await http.post(path, content=b"1", headers=key | {"user-agent": "another"})
        others = [
            await http.put(path, content=b"1", headers=key),
            await http.post(f"/fn/{function.name}/orders?x=2", content=b"1", headers=key),
            await http.post(f"/fn/{function.name}/order?x=1", content=b"1", headers=key),
            await http.post(path, content=b"2", headers=key),
            await http.post(function.path, content=b"1", headers=key),
        ]
    assert (second.status_code, second.text) == (201, "made")
    assert second.headers["x-made"] == first.headers["x-made"]
    assert second.headers["x-amzn-requestid"] == first.headers["x-amzn-requestid"]
    assert (first.headers.get(REPLAYED), second.headers[REPLAYED]) == (None, "true")
    assert [answer.status_code for answer in others] == [422] * 5
    assert len(instance.seen) == 1


@pytest.mark.parametrize("name", ["authorization", "cookie"])
async def test_another_client_is_not_given_what_the_first_was_answered(
    function: Deployed, http: httpx.AsyncClient, key: dict[str, str], name: str
) -> None:
    path = f"/fn/{function.name}"
    async with function.served(for_a) as instance:
        first, second = [await http.post(path, headers=key | {name: "a"}) for _ in range(2)]
        others = [await http.post(path, headers=headers) for headers in (key | {name: "b"}, key)]
    assert (first.text, second.text, second.headers[REPLAYED]) == ("for a", "for a", "true")
    assert [answer.status_code for answer in others] == [422, 422]
    assert len(instance.seen) == 1


async def test_async_repeats_are_accepted_as_the_first_one(
    function: Deployed, http: httpx.AsyncClient, key: dict[str, str]
) -> None:
    headers = key | {"prefer": "respond-async"}
    first, second = [await http.post(f"/fn/{function.name}", content=b"1", headers=headers) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json() == first.json() == {"invocationId": first.headers["x-amzn-requestid"]}
    assert (first.headers.get(REPLAYED), second.headers[REPLAYED]) == (None, "true")
