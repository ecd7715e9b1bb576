"""Where a Redis Cluster's slots are, when answers and redirections come in an inconvenient order."""

import asyncio

from forebay_common.redis_settings import Address, RedisSettings
from forebay_common.redis_slots import MOVED, Redirect
from forebay_common.redis_topology import Topology

SLOT = 7


class OneNode:
    """Answers CLUSTER SLOTS when it is let: a real node cannot be made to answer late.

    It has all slots, by its own word.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"SLOTS\r\n")
        self.asked.set()
        await self.may_answer.wait()
        port = writer.get_extra_info("sockname")[1]
        writer.write(b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port)
        await writer.drain()
        writer.close()


async def test_an_answer_older_than_a_redirection_does_not_undo_it() -> None:
    node = OneNode()
    async with await asyncio.start_server(node.serve, "127.0.0.1", 0) as server, asyncio.timeout(10):
        asked = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        other = Address("127.0.0.1", 1)
        topology = Topology(RedisSettings.from_json({"nodes": [str(asked)]}))
        looking = asyncio.create_task(topology.look())
        await node.asked.wait()
        topology.follow(Redirect(MOVED, SLOT, other.host, other.port), asked)
        node.may_answer.set()
        await looking
        assert topology.owner(SLOT) == other
        assert topology.owner(SLOT + 1) == asked
        assert topology.primaries == {asked, other}
        # The next look is the newer word.
        await topology.look()
        assert topology.owner(SLOT) == asked
        assert topology.primaries == {asked}
