"""The ends of events, posted to URLs: a real controller, a real Valkey, receivers on loopback."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from redis.asyncio import Redis

from forebay_controller.destinations import targets
from forebay_controller.destinations.decisions import AT_ONCE_MAX
from forebay_controller.destinations.signing import secret_text, signing_secret
from forebay_controller.outbound_rules import OutboundRules
from support.controller_rig import SIGNING_KEY, until
from support.destination_rig import DestinationRig
from support.receiver import Post, Receiver, receiving

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[DestinationRig]:
    rig = DestinationRig(redis, prefix)
    await rig.controller.start()
    yield rig
    await rig.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


def is_genuine(post: Post, secret: str) -> bool:
    """As any receiver computes it, by nothing of ours."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{post.headers['webhook-id']}.{post.headers['webhook-timestamp']}.".encode() + post.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return hmac.compare_digest(f"v1,{expected}", post.headers["webhook-signature"])


async def test_a_success_is_posted_as_a_signed_cloud_event(rig: DestinationRig, receiver: Receiver) -> None:
    spec = await rig.function(on_success=receiver.url)
    ended = await rig.end(spec)
    await rig.emptied(spec)
    (post,) = receiver.posts
    request_id = str(UUID(bytes=ended.invocation_id))
    record = json.loads(post.body)
    assert record["requestContext"]["requestId"] == request_id
    assert record["requestContext"]["condition"] == "Success"
    assert (record["requestPayload"], record["responsePayload"]) == ({"n": 1}, {"done": True})
    assert post.path == "/hook"
    headers = post.headers
    assert headers["content-type"] == "application/json"
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-type"] == "dev.forebay.invocation.succeeded"
    assert headers["ce-source"] == f"arn:aws:lambda:us-east-1:000000000000:function:{spec.name}"
    assert headers["ce-time"] == record["timestamp"]
    assert headers["ce-id"] == headers["webhook-id"]
    assert headers["ce-id"].startswith(f"{request_id}_")
    assert is_genuine(post, secret_text(signing_secret(SIGNING_KEY, spec.uid)))
    assert not is_genuine(
        Post(post.path, headers, post.body + b" "), secret_text(signing_secret(SIGNING_KEY, spec.uid))
    )
    assert not is_genuine(post, secret_text(signing_secret(SIGNING_KEY, "another function")))


async def test_a_failure_goes_to_its_own_destination_and_not_to_the_dead_letters(
    rig: DestinationRig, receiver: Receiver
) -> None:
    async with receiving() as successes:
        spec = await rig.function(on_success=successes.url, on_failure=receiver.url)
        await rig.end(spec, "failed", reason="RetriesExhausted")
        await rig.emptied(spec)
        assert receiver.posts[0].headers["ce-type"] == "dev.forebay.invocation.failed"
        assert json.loads(receiver.posts[0].body)["requestContext"]["condition"] == "RetriesExhausted"
        assert successes.posts == []
        assert await rig.dead(spec) == []


async def test_a_receiver_that_was_down_is_told_when_it_is_up(rig: DestinationRig, receiver: Receiver) -> None:
    await receiver.stop()
    spec = await rig.function(on_success=receiver.url)
    await rig.end_many(spec, 3)
    await rig.refused(spec, "url", 3)
    assert len(await rig.outbox(spec)) == 3
    await receiver.start()
    await rig.emptied(spec)
    assert len(receiver.posts) == 3
    await rig.counts(spec, "url", "delivered", 3)
    assert await rig.dead(spec) == []


async def test_a_record_that_comes_again_has_the_same_ids_and_the_same_body(
    rig: DestinationRig, receiver: Receiver
) -> None:
    answers = iter(["500 no", "302 Found\r\nLocation: /elsewhere", "204 No Content"])
    receiver.answer = lambda _: next(answers)
    spec = await rig.function(on_success=receiver.url)
    await rig.end(spec)
    await rig.emptied(spec)
    assert len(receiver.posts) == 3
    assert (
        len({(post.path, post.headers["ce-id"], post.headers["webhook-id"], post.body) for post in receiver.posts}) == 1
    )
    secret = secret_text(signing_secret(SIGNING_KEY, spec.uid))
    assert all(is_genuine(post, secret) for post in receiver.posts)


async def test_a_receiver_that_is_slow_holds_up_no_other(rig: DestinationRig, receiver: Receiver) -> None:
    receiver.may_answer.clear()
    slow = await rig.function(on_success=receiver.url)
    await rig.end_many(slow, AT_ONCE_MAX + 5)
    await until(lambda: receiver.open_now == AT_ONCE_MAX, "it has as many as it may")
    async with receiving() as quick:
        other = await rig.function(on_success=quick.url)
        await rig.end_many(other, 20)
        await rig.emptied(other)
        assert len(quick.posts) == 20
        # Nor does it hold up the other destination of the same function.
        rig.change(slow, on_success=receiver.url, on_failure=quick.url)
        await rig.end(slow, "failed", reason="RetriesExhausted")
        await until(lambda: len(quick.posts) == 21, "its failure is told")
    assert receiver.open_now == receiver.open_most == AT_ONCE_MAX
    receiver.may_answer.set()
    await rig.emptied(slow)
    assert receiver.open_most == AT_ONCE_MAX


async def test_one_receiver_takes_half_of_all_posts_at_most_and_streams_do_not_wait_for_them(
    redis: Redis, prefix: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = AT_ONCE_MAX + 4
    monkeypatch.setattr(targets, "TOTAL_MAX", 2 * most)
    rig = DestinationRig(redis, prefix)
    await rig.controller.start()
    receiver.may_answer.clear()
    functions = [await rig.function(on_success=receiver.url) for _ in range(2)]
    for spec in functions:
        await rig.end_many(spec, AT_ONCE_MAX)
    await until(lambda: receiver.open_now == most, "as many are under way as may be")
    other = await rig.function(on_success=f"stream:{rig.new_name()}")
    await rig.end_many(other, 20)
    await rig.emptied(other)
    receiver.may_answer.set()
    for spec in functions:
        await rig.emptied(spec)
    assert receiver.open_most == most
    assert len(receiver.posts) == 2 * AT_ONCE_MAX
    await rig.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/hook",
        "http://localhost:{port}/hook",
        "http://[::1]:{port}/hook",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1:{port}/hook",
        "http://192.168.0.1:{port}/hook",
        "http://[::ffff:127.0.0.1]:{port}/hook",
        "http://0.0.0.0:{port}/hook",
    ],
)
async def test_nothing_is_posted_to_addresses_that_are_not_public(
    redis: Redis, prefix: str, receiver: Receiver, url: str
) -> None:
    rig = DestinationRig(redis, prefix, OutboundRules.of(allow_http=True, allowed=[]))
    await rig.controller.start()
    spec = await rig.function(on_success=url.format(port=receiver.port))
    await rig.end(spec)
    await rig.refused(spec, "url")
    assert receiver.posts == []
    assert len(await rig.outbox(spec)) == 1
    await rig.close()


async def test_a_redirect_to_an_address_inside_is_not_followed(rig: DestinationRig, receiver: Receiver) -> None:
    async with receiving() as inside:
        receiver.answer = lambda _: f"307 Temporary Redirect\r\nLocation: http://127.0.0.1:{inside.port}/secret"
        spec = await rig.function(on_success=receiver.url)
        await rig.end(spec)
        await until(lambda: len(receiver.posts) >= 2, "it was tried again")
        assert inside.posts == []
        receiver.answer = lambda _: "200 OK"
        await rig.emptied(spec)


async def test_what_a_receiver_did_not_take_for_a_day_is_a_dead_letter(rig: DestinationRig, receiver: Receiver) -> None:
    await receiver.stop()
    spec = await rig.function(on_success=receiver.url)
    seconds, _ = await rig.redis.time()
    await rig.end(spec, entry_id=f"{(seconds - 86_400) * 1000}-0", body=b'{"large": 1}')
    await rig.emptied(spec)
    assert await rig.dead(spec) == ["DestinationFailed"]
    await rig.counts(spec, "url", "given_up", 1)


async def test_where_no_destination_is_named_any_more_a_failure_is_a_dead_letter_and_a_success_is_forgotten(
    rig: DestinationRig,
) -> None:
    spec = await rig.function()
    await rig.end(spec, "failed", reason="EventAgeExceeded")
    ended = await rig.end(spec, body=b'{"large": 1}')
    await rig.emptied(spec)
    assert await rig.dead(spec) == ["EventAgeExceeded"]
    assert not await rig.redis.exists(rig.queue(spec).keys.body(ended.invocation_id.hex()))
    await rig.counts(spec, "none", "dropped", 2)


async def test_a_destination_that_changes_is_the_one_that_is_told(rig: DestinationRig, receiver: Receiver) -> None:
    spec = await rig.function(on_success="http://127.0.0.1:1/closed")
    await rig.end(spec)
    await rig.refused(spec, "url")
    rig.change(spec, on_success=receiver.url)
    await rig.emptied(spec)
    assert len(receiver.posts) == 1


async def test_a_claimed_payload_is_part_of_the_record_and_goes_when_it_is_told(
    rig: DestinationRig, receiver: Receiver
) -> None:
    spec = await rig.function(on_success=receiver.url)
    large = json.dumps({"text": "x" * 700_000}).encode()
    ended = await rig.end(spec, body=large)
    await rig.emptied(spec)
    assert json.loads(receiver.posts[0].body)["requestPayload"] == json.loads(large)
    assert not await rig.redis.exists(rig.queue(spec).keys.body(ended.invocation_id.hex()))


async def test_how_many_wait_can_be_seen(rig: DestinationRig, receiver: Receiver) -> None:
    receiver.may_answer.clear()
    spec = await rig.function(on_success=receiver.url)
    await rig.end_many(spec, 2)
    await until(lambda: rig.pending(spec) == 2, "both are counted")
    receiver.may_answer.set()
    await until(lambda: rig.pending(spec) == 0, "none is counted")


async def test_another_controller_goes_on_where_one_left(rig: DestinationRig, receiver: Receiver) -> None:
    receiver.may_answer.clear()
    spec = await rig.function(on_success=receiver.url)
    await rig.end_many(spec, 3)
    await until(lambda: receiver.open_now == 3, "all are on their way")
    await rig.controller.leave()
    assert len(await rig.outbox(spec)) == 3
    await until(lambda: receiver.open_now == 0, "the first controller's connections are closed")
    receiver.may_answer.set()
    rig.controller = rig.new_controller()
    await rig.controller.start()
    await rig.emptied(spec)
    ids = [post.headers["ce-id"] for post in receiver.posts]
    assert len(ids) == 6
    assert len(set(ids)) == 3


async def test_a_function_that_is_deleted_takes_what_waits_with_it(rig: DestinationRig, receiver: Receiver) -> None:
    receiver.may_answer.clear()
    spec = await rig.function(on_success=receiver.url)
    await rig.end(spec)
    await until(lambda: receiver.open_now == 1, "it is on its way")
    rig.source.remove(spec.uid)
    await rig.controller.retire(spec.uid)
    await until(lambda: receiver.open_now == 0, "nobody waits for the receiver any more")
