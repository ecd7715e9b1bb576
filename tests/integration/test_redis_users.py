"""Functions' Redis users on real servers of both kinds: what they may do, on replicas, and after a restart."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from forebay_common import scripts
from forebay_common.keys import GROUP, PlatformKeys
from forebay_common.limits import RESULTS_MAX_BYTES
from forebay_common.queue import VersionQueue, create_queues
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS, ONCE, ONCE_PENDING
from forebay_common.redis_client import RedisSettings, command, connect, run
from forebay_common.scripts import load_all
from forebay_common.spec import FunctionSpec
from forebay_controller.cluster.access import acl_rules, redis_user
from forebay_controller.cluster.redis_users import RedisUsers
from support.queue_side import ADDRESS, accept, append, call, event, finish_async, finish_done, lease, start_instance
from support.redis_servers import KINDS, TcpServer
from support.waiting import wait_until_async

PLATFORM = PlatformKeys("test")
BOTH = FLAG_DESTINATION_SUCCESS | FLAG_DESTINATION_FAILURE
OUTCOMES = ("done", "retry", "dead", "expired", "cancelled", "released")
PASSWORD = "password-of-one-function"
SPEC = FunctionSpec("team-a", "hello", "0" * 32, "python3.13", "app.handler", "0" * 64, 1)
RULES = acl_rules(PLATFORM, SPEC, PASSWORD)
QUEUE = VersionQueue(PLATFORM.function(SPEC.namespace, SPEC.name, SPEC.uid))


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[TcpServer]:
    with closing(TcpServer(request.param)) as server:
        server.start()
        yield server


@pytest.fixture(scope="module")
def replica(server: TcpServer) -> Iterator[TcpServer]:
    with closing(TcpServer(server.kind, server)) as replica:
        replica.start()
        yield replica


@pytest.fixture
async def users(server: TcpServer) -> AsyncIterator[RedisUsers]:
    users = RedisUsers(RedisSettings.from_json(server.settings), PLATFORM.prefix, look_every_s=0.1)
    yield users
    await users.close()


@asynccontextmanager
async def client_of(server: TcpServer, *, function: bool = False) -> AsyncIterator[Redis]:
    login = {"username": redis_user(PLATFORM.prefix, SPEC.uid), "password": PASSWORD} if function else {}
    client = connect(RedisSettings.from_json(server.settings | login))
    try:
        yield client
    finally:
        await client.aclose()


async def may_log_in(server: TcpServer) -> bool:
    async with client_of(server, function=True) as client:
        try:
            await command(client, "TIME")
        except RedisError:
            return False
        return True


async def end_events(redis: Redis, instance: Redis) -> None:
    """All that can become of events, with all that can hang on them: group, body, destination, too many results."""
    body = QUEUE.keys.body("1")
    for number, outcome in enumerate(OUTCOMES * 2):
        group = bytes([number]) * 16
        await append(redis, QUEUE, event(group_hash=group, flags=number % 2 * BOTH))
        # The next of its group: it runs at once, or later, or there is none.
        for _ in range(number % 3):
            await accept(redis, QUEUE, event(group_hash=group), delay_ms=60_000 * (number % 2))
        [entry_id] = await lease(instance, QUEUE.async_, "i1")
        await command(redis, "SET", body, "x", "EX", 60)
        done = finish_async(
            *(instance, QUEUE, entry_id, "i1", outcome),
            delay_ms=60_000,
            reason="RetriesExhausted",
            frame=b"f",
            group=group,
            body=[body],
        )
        assert await done == 1
        while left := await lease(redis, QUEUE.async_, "i2"):
            await finish_async(redis, QUEUE, left[0], "i2", "done", group=group)
    for _ in range(20):
        result = ("i", secrets.token_bytes(16), "e", "succeeded 1 1 ", "f", "f")
        await command(redis, "XADD", QUEUE.ended, "*", *result)
    # They were not weighed: as if they were heavy ones.
    await command(redis, "HSET", QUEUE.live, "kept", RESULTS_MAX_BYTES)
    before = await command(redis, "XLEN", QUEUE.ended)
    await append(redis, QUEUE, event())
    [entry_id] = await lease(instance, QUEUE.async_, "i1")
    assert await finish_async(instance, QUEUE, entry_id, "i1", "done", frame=b"f") == 1
    assert await command(redis, "XLEN", QUEUE.ended) < before
    await command(redis, "HSET", QUEUE.live, "kept", RESULTS_MAX_BYTES)
    some = [event(), event()]
    for record in some:
        await append(redis, QUEUE, record)
    held = await lease(instance, QUEUE.async_, "i1", 2)
    assert await finish_done(instance, QUEUE, list(zip(held, some, strict=True)), "i1", b"f") == [1, 1]


async def test_an_instance_can_do_its_whole_work(server: TcpServer, users: RedisUsers) -> None:
    await users.start({SPEC.uid: RULES})
    async with client_of(server) as redis, client_of(server, function=True) as instance:
        await load_all(redis)
        await create_queues(redis, QUEUE)
        await start_instance(instance, QUEUE, "i1")
        await command(redis, "SET", QUEUE.keys.code("ab" * 32, 0), b"chunk")
        assert await command(instance, "GET", QUEUE.keys.code("ab" * 32, 0)) == b"chunk"
        await end_events(redis, instance)
        for record in (call(), call(), event()):
            await append(redis, QUEUE, record)
        answered, handed_back = await lease(instance, QUEUE.sync, "i1", 2)
        [unread] = await lease(instance, QUEUE.async_, "i1")
        assert await run(instance, scripts.EXTEND, (QUEUE.async_,), ("i1", unread)) == [unread]
        for stream, live, entry_id in ((QUEUE.sync, QUEUE.sync, handed_back), (QUEUE.async_, QUEUE.live, unread)):
            assert await run(instance, scripts.RELEASE, (stream, live), ("i1", entry_id)) == 1
        once = QUEUE.keys.once(b"k" * 16)
        for state in (b"d", b""):
            await command(redis, "SET", once, ONCE.pack(b"p" * 16, b"i" * 16, ONCE_PENDING), "EX", 60)
            settlement = (b"p" * 16, b"i" * 16, state, b"frame", 60)
            assert await run(instance, scripts.SETTLE_ONCE, (once,), settlement) == 1
            await command(redis, "UNLINK", once)
        await command(instance, "RPUSH", f"{PLATFORM.prefix}:{ADDRESS}", b"frame")
        await command(instance, "SET", QUEUE.keys.result("1"), b"large reply", "EX", 60)
        await command(instance, "XACK", QUEUE.sync, GROUP, answered)
        await command(instance, "XDEL", QUEUE.sync, answered)
        await command(instance, "PUBLISH", PLATFORM.wake_channel, "team-a/hello/u1")
        keys = (QUEUE.sync, QUEUE.async_, QUEUE.keys.control("i1"), QUEUE.keys.instance("i1"))
        assert await run(instance, scripts.LEAVE, keys, ("i1", 1_000)) == 0


async def test_an_instance_can_do_nothing_else(server: TcpServer, users: RedisUsers) -> None:
    other = VersionQueue(PLATFORM.function("team-a", "other", "1" * 32))
    reply = f"{PLATFORM.prefix}:{ADDRESS}"
    attempts = (
        ("EVAL", "return 1", 0),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LIST"),
        ("SCAN", 0),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("FLUSHALL",),
        ("INFO",),
        ("CLIENT", "LIST"),
        ("MONITOR",),
        ("SUBSCRIBE", PLATFORM.functions),
        ("SHUTDOWN",),
        ("REPLICAOF", "127.0.0.1", 1),
        ("XADD", other.sync, "*", "r", "x"),
        ("XREADGROUP", "GROUP", GROUP, "i1", "STREAMS", other.sync, ">"),
        ("XGROUP", "DESTROY", QUEUE.sync, GROUP),
        ("GET", other.keys.code("ab" * 32, 0)),
        ("SET", QUEUE.keys.code("ab" * 32, 0), "x"),
        ("GET", QUEUE.keys.spec()),
        ("SET", other.keys.once(b"k" * 16), "x"),
        ("HGET", other.live, "x"),
        ("HGETALL", QUEUE.keys.code_index()),
        ("LRANGE", reply, 0, -1),
        ("BLPOP", reply, 1),
        ("LPOP", reply),
        ("EXPIRE", reply, 1),
        ("UNLINK", reply),
        ("HGETALL", PLATFORM.functions),
        ("HGETALL", PLATFORM.credentials),
        ("PUBLISH", PLATFORM.functions, "1 default/hello"),
    )
    await users.start({SPEC.uid: RULES})
    async with client_of(server, function=True) as instance:
        for attempt in attempts:
            with pytest.raises(NoPermissionError):
                await command(instance, *attempt)
        with pytest.raises(NoPermissionError):
            await run(instance, scripts.PROMOTE, (other.delayed, other.async_, other.live), (1,))


async def test_users_are_set_again_after_a_restart(server: TcpServer, users: RedisUsers) -> None:
    await users.start({SPEC.uid: RULES})
    assert await may_log_in(server)
    server.kill()
    server.start()
    await wait_until_async(lambda: may_log_in(server), "the function's user is there again")


async def test_users_reach_a_replica_that_appears_and_one_that_was_restarted(
    server: TcpServer, replica: TcpServer, users: RedisUsers
) -> None:
    await users.start({SPEC.uid: RULES})
    await wait_until_async(lambda: may_log_in(replica), "the user reaches the replica")
    replica.kill()
    replica.start()
    await wait_until_async(lambda: may_log_in(replica), "the user is on the replica again")
    await users.remove(SPEC.uid)
    assert not await may_log_in(replica)


async def test_a_deleted_functions_user_goes_and_its_connections_end(server: TcpServer, users: RedisUsers) -> None:
    await users.start({})
    await users.put(SPEC.uid, RULES)
    async with client_of(server, function=True) as instance:
        await command(instance, "TIME")
        await users.remove(SPEC.uid)
        with pytest.raises(RedisError):
            await command(instance, "TIME")
    assert not await may_log_in(server)


async def test_users_of_functions_that_were_deleted_meanwhile_go_at_the_start_and_no_others(
    server: TcpServer, users: RedisUsers
) -> None:
    async with client_of(server) as redis:
        await command(redis, "ACL", "SETUSER", redis_user(PLATFORM.prefix, "2" * 32), "on", ">x")
        await command(redis, "ACL", "SETUSER", "test-gateway", "on", ">x")
        await users.start({SPEC.uid: RULES})
        names = {name.decode() for name in await command(redis, "ACL", "USERS")}
        assert names == {"default", "test-gateway", redis_user(PLATFORM.prefix, SPEC.uid)}
        await command(redis, "ACL", "DELUSER", "test-gateway")
