"""A gateway's commands to a Redis Cluster: each at its key's node, after it where its slot moves, in order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import hiredis
import pytest

from forebay_common.redis_settings import RedisSettings
from forebay_common.redis_slots import slot_of
from forebay_common.redis_topology import Topology
from forebay_gateway.cluster_link import ClusterLink
from forebay_gateway.redis_link import NotConnected, RedisLink, RedisUnavailable
from forebay_gateway.redis_places import SlotPlace
from forebay_gateway.resp import pack
from support.redis_servers import ClusterServers, TcpServer, lines_of, node_id
from support.waiting import wait_until, wait_until_async

KEYS = [f"key-{number}" for number in range(40)]
TAG = "{tag}"
SLOT = slot_of(TAG.encode())


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with closing(ClusterServers(replicas=True)) as servers:
        servers.start()
        yield servers


@pytest.fixture
def topology(cluster: ClusterServers) -> Topology:
    return Topology(RedisSettings.from_json(cluster.settings))


class Asked:
    """A link that is up, and its commands' replies."""

    def __init__(self, link: ClusterLink) -> None:
        self.link = link

    def send(self, *commands: bytes) -> list[asyncio.Future[Any]]:
        """One write; a future for each reply, whatever it is."""
        loop = asyncio.get_running_loop()
        replies: list[asyncio.Future[Any]] = [loop.create_future() for _ in commands]
        self.link.write(commands, *(reply.set_result for reply in replies))
        return replies

    async def ask(self, *arguments: bytes | str | int) -> Any:
        """One command's reply."""
        [reply] = self.send(pack(*arguments))
        async with asyncio.timeout(10):
            return await reply


@pytest.fixture
async def asked(cluster: ClusterServers, topology: Topology) -> AsyncIterator[Asked]:
    link = ClusterLink(RedisSettings.from_json(cluster.settings), topology, "test")
    link.start()

    async def is_up() -> bool:
        return link.connected

    await wait_until_async(is_up, "all primaries are connected to")
    yield Asked(link)
    await link.close()
    for server in cluster.servers:
        if server.runs:
            server.ask("FLUSHALL")


def noting(seen: list[str], name: str, done: asyncio.Future[Any] | None = None) -> Callable[[Any], None]:
    """A sink that says when its reply came."""

    def note(reply: Any) -> None:
        seen.append(name)
        if done is not None:
            done.set_result(reply)

    return note


def other_than(cluster: ClusterServers, source: TcpServer) -> TcpServer:
    return next(server for server in cluster.primaries if server is not source)


async def test_each_command_goes_to_the_node_of_its_key(asked: Asked, cluster: ClusterServers) -> None:
    assert len({cluster.holder(key).port for key in KEYS}) == 3
    assert await asyncio.gather(*(asked.ask("SET", key, number) for number, key in enumerate(KEYS))) == [b"OK"] * 40
    assert await asyncio.gather(*(asked.ask("GET", key) for key in KEYS)) == [b"%d" % n for n in range(40)]
    assert await asked.ask("PUBLISH", "channel", "text") == 0
    assert isinstance(await asked.ask("HGET", "key-1", "f"), hiredis.ReplyError)


async def test_commands_of_one_write_take_their_turn_where_their_nodes_differ(
    asked: Asked, cluster: ClusterServers
) -> None:
    first, second = KEYS[0], next(key for key in KEYS if cluster.holder(key) is not cluster.holder(KEYS[0]))
    ended: list[str] = []
    commands = (pack("SET", first, 1), pack("SET", second, 2), pack("GET", first))
    done = asyncio.get_running_loop().create_future()
    sinks = [noting(ended, name) for name in ("first", "second")]
    asked.link.write((b"".join(commands),), *sinks, noting(ended, "third", done))
    assert await asyncio.wait_for(done, 10) == b"1"
    assert ended == ["first", "second", "third"]


async def test_a_record_waits_for_the_payload_before_it(asked: Asked, cluster: ClusterServers) -> None:
    """The slot is halfway: the payload's new key is sent on, the record's key is still where it was."""
    assert await asked.ask("RPUSH", f"{TAG}queue", "first") == 1
    source = cluster.holder(TAG)
    target = other_than(cluster, source)
    target.ask("CLUSTER", "SETSLOT", str(SLOT), "IMPORTING", node_id(source))
    source.ask("CLUSTER", "SETSLOT", str(SLOT), "MIGRATING", node_id(target))
    seen: list[str] = []
    done = asyncio.get_running_loop().create_future()
    asked.link.write((pack("SET", f"{TAG}body", b"x" * 1000),), noting(seen, "body"))
    asked.link.write((pack("RPUSH", f"{TAG}queue", "record"),), noting(seen, "record", done))
    assert await asyncio.wait_for(done, 10) == 2
    assert seen == ["body", "record"]
    cluster.move_slot(SLOT, source, target)
    assert len(await asked.ask("GET", f"{TAG}body")) == 1000


async def test_commands_follow_a_slot_that_moves_while_they_are_written(asked: Asked, cluster: ClusterServers) -> None:
    replies: list[asyncio.Future[Any]] = []
    over = asyncio.Event()

    async def write() -> None:
        while not over.is_set():
            replies.extend(asked.send(pack("INCR", f"{TAG}n")))
            await asyncio.sleep(0.001)

    writing = asyncio.create_task(write())
    for _ in range(3):
        source = cluster.holder(TAG)
        await asyncio.to_thread(cluster.move_slot, SLOT, source, other_than(cluster, source))
    over.set()
    await writing
    found = await asyncio.wait_for(asyncio.gather(*replies), 10)
    # Each was executed once: none is missing, and none counted twice.
    assert sorted(found) == list(range(1, len(found) + 1))


async def test_a_transaction_is_refused_where_its_slot_was_and_taken_where_it_is(
    asked: Asked, cluster: ClusterServers
) -> None:
    source = cluster.holder(TAG)
    # Not in a thread: the link can hear nothing of it before the transaction is written.
    cluster.move_slot(SLOT, source, other_than(cluster, source))
    transaction = (pack("MULTI"), pack("SET", f"{TAG}a", 1), pack("GET", f"{TAG}a"), pack("EXEC"))
    *_, refused = await asyncio.gather(*asked.send(*transaction))
    assert isinstance(refused, hiredis.ReplyError)
    *_, taken = await asyncio.gather(*asked.send(*transaction))
    assert taken == [b"OK", b"1"]


async def test_a_blocked_read_follows_its_key(cluster: ClusterServers, topology: Topology) -> None:
    ups: asyncio.Queue[None] = asyncio.Queue()
    link = RedisLink(
        RedisSettings.from_json(cluster.settings),
        "reading",
        place=SlotPlace(topology, TAG),
        on_up=partial(ups.put_nowait, None),
    )
    link.start()
    async with asyncio.timeout(20):
        await ups.get()
        lost = asyncio.get_running_loop().create_future()
        link.write((pack("BLPOP", f"{TAG}list", 10),), lost.set_result)
        source = cluster.holder(TAG)
        await asyncio.to_thread(cluster.move_slot, SLOT, source, other_than(cluster, source))
        assert str(await lost).startswith("MOVED")
        await ups.get()
        found = asyncio.get_running_loop().create_future()
        link.write((pack("BLPOP", f"{TAG}list", 10),), found.set_result)
        cluster.holder(TAG).ask("RPUSH", f"{TAG}list", "here")
        assert await found == [f"{TAG}list".encode(), b"here"]
    await link.close()


async def test_a_node_that_dies_refuses_its_keys_alone_until_its_replica_has_them(
    asked: Asked, cluster: ClusterServers
) -> None:
    primary = cluster.holder(KEYS[0])
    other = next(key for key in KEYS if cluster.holder(key) is not primary)
    await asked.ask("SET", KEYS[0], "kept")
    wait_until(lambda: replica_has(cluster, KEYS[0]), "the replica has it")
    primary.kill()

    with suppress(NotConnected):  # it may have heard of the loss already
        assert isinstance(await asked.ask("GET", KEYS[0]), RedisUnavailable)
    assert await asked.ask("SET", other, 1) == b"OK"

    async def is_back() -> bool:
        try:
            return bool(await asked.ask("GET", KEYS[0]) == b"kept")
        except NotConnected:
            return False

    await wait_until_async(is_back, "the replica has its keys", 30)
    primary.start()


def replica_has(cluster: ClusterServers, key: str) -> bool:
    replica_port = cluster.servers_of(slot_of(key.encode()))[1]
    replica = next(server for server in cluster.servers if server.port == replica_port)
    return key in lines_of(replica.ask("KEYS", "*"))
