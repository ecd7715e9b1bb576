"""A function's own Redis user that is not there yet, is gone after a restart, or may do too little for a while."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import pytest
from redis.asyncio import Redis

from forebay_common.frames import ERROR_NONE
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.access import acl_rules
from support.pod_rig import PodRig
from support.queue_side import call, event
from support.valkey import ValkeyServer
from support.waiting import wait_until, wait_until_async

SLOW = """
    import time
    def handler(event, context):
        print("started")
        time.sleep(event["s"])
        return event
"""


class UserRig(PodRig):
    """A pod whose runtime logs in as the function's own user, which the test makes and removes."""

    def __init__(self, redis: Redis, settings: dict[str, Any], prefix: str) -> None:
        super().__init__(redis, settings, prefix)
        self.user = f"{prefix}-fn"
        self.password = secrets.token_hex(8)
        self.credentials = settings | {"username": self.user, "password": self.password}

    async def let_in(self, *, without: tuple[str, ...] = ()) -> Self:
        """Make the user, or give it its rights again; `without` some of them."""
        spec = FunctionSpec("default", "fn", self.settings["uid"], "python3.13", "app.handler", "", 0)
        rules = [rule for rule in acl_rules(self.platform_keys, spec, self.password) if rule not in without]
        await command(self.redis, "ACL", "SETUSER", self.user, *rules)
        return self

    async def lock_out(self) -> None:
        """Remove the user; Redis closes its connections."""
        await command(self.redis, "ACL", "DELUSER", self.user)

    async def wait_for_words(self, words: str) -> None:
        """Until the runtime has said it."""
        await asyncio.to_thread(wait_until, lambda: words in self.errors(), f"the runtime says {words!r}")


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[UserRig]:
    async with UserRig(redis, valkey_server, prefix) as rig:
        yield rig
        await rig.lock_out()


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer(append_only=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


async def finished(rig: UserRig) -> None:
    async def empty() -> bool:
        return await rig.queued(rig.queue.async_) == (0, 0)

    await wait_until_async(empty, f"the event is finished; the runtime wrote: {rig.errors()}")


async def started(rig: UserRig) -> None:
    await asyncio.to_thread(wait_until, lambda: "started" in rig.messages(), "the call runs")


async def test_its_own_user_lets_it_do_its_whole_work(rig: UserRig) -> None:
    await rig.let_in()
    await rig.run()

    assert (await rig.invoke(b"1")).payload == b"1"
    await rig.append(event(b"2"))
    await finished(rig)
    large = b'"' + b"x" * 400_000 + b'"'
    assert (await rig.invoke(large)).claim
    assert await rig.drain() == 0
    assert rig.errors().count('"level": "warning"') == rig.errors().count('"level": "error"') == 0


async def test_a_user_that_comes_later_is_waited_for(rig: UserRig) -> None:
    await rig.prepare()
    rig.start()
    rig.start_handlers()
    await rig.wait_for_words("login refused: WRONGPASS")

    await rig.let_in()

    await rig.wait_for_state("ready")
    assert (await rig.invoke(b"1")).payload == b"1"


async def test_a_user_that_may_not_read_the_code_yet_is_waited_for(rig: UserRig) -> None:
    await rig.let_in(without=(f"(+get %R~{rig.keys.base}:code:*)",))
    await rig.prepare()
    rig.start()
    rig.start_handlers()
    await rig.wait_for_state("starting")
    assert rig.runtime.poll() is None

    await rig.let_in()

    await rig.wait_for_state("ready")
    assert (await rig.invoke(b"1")).payload == b"1"


async def test_a_call_that_runs_while_its_user_is_gone_is_answered_once_it_is_back(rig: UserRig) -> None:
    await rig.let_in()
    await rig.run(SLOW)
    record = await rig.append(call(b'{"s": 1}'))
    await started(rig)

    await rig.lock_out()
    await rig.wait_for_words("login refused: WRONGPASS")
    await asyncio.to_thread(
        wait_until, lambda: any(message.startswith("END") for message in rig.messages()), "the call ends meanwhile"
    )
    await rig.let_in()

    assert (await rig.reply_to(record)).payload == b'{"s": 1}'
    assert (await rig.invoke(b'{"s": 0}')).error_kind == ERROR_NONE
    assert await rig.drain() == 0


async def test_an_answer_that_may_not_be_given_yet_is_kept(rig: UserRig) -> None:
    await rig.let_in()
    await rig.run(SLOW)
    record = await rig.append(call(b'{"s": 0.5}'))
    await started(rig)

    await rig.let_in(without=(f"(+rpush ~{rig.platform_keys.prefix}:reply:*)",))
    await rig.wait_for_words("results wait for Redis: NOPERM")
    await rig.let_in()

    assert (await rig.reply_to(record)).payload == b'{"s": 0.5}'
    assert await rig.drain() == 0


async def test_a_restart_without_users_and_scripts_costs_no_call(own_valkey: ValkeyServer, prefix: str) -> None:
    redis = connect(RedisSettings.from_json(own_valkey.settings))
    await load_all(redis)
    async with UserRig(redis, own_valkey.settings, prefix) as rig:
        await rig.let_in()
        await rig.run(SLOW)
        running = await rig.append(call(b'{"s": 1}', wait_ms=60_000))
        await rig.append(event(b'{"s": 0}'))
        await started(rig)

        own_valkey.kill()
        own_valkey.start()
        await rig.wait_for_words("login refused: WRONGPASS")
        await rig.let_in()
        assert (await rig.reply_to(running)).payload == b'{"s": 1}'
        # The event's end is a script's work: it waits until the controller has loaded them.
        await rig.wait_for_words("NOSCRIPT")
        await load_all(redis)

        await finished(rig)
        assert (await rig.invoke(b'{"s": 0}')).error_kind == ERROR_NONE
        assert await rig.drain() == 0
    await redis.aclose()
